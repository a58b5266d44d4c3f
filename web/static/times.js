// Times are written in UTC and shown in the reader's own zone.

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

export function localTimes(root) {
  for (const el of root.querySelectorAll('time[datetime]')) {
    const at = new Date(el.dateTime);
    if (isNaN(at)) continue;
    el.title = whole.format(at);
    if (el.closest('.when')) el.textContent = clock.format(at);
  }
}

// duration shows milliseconds as the server does.
export function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (ms < 10000) return (ms / 1000).toFixed(1) + ' s';
  if (s < 60) return s + ' s';
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}
