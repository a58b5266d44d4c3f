// Calls of the JSON API. Errors carry the server's own sentence.

export function mint() {
  return crypto.randomUUID ? crypto.randomUUID() : Array.from(crypto.getRandomValues(new Uint32Array(4))).join('-');
}

async function call(method, url, body, key) {
  let answer;
  try {
    answer = await fetch(url, {
      method,
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key || mint() },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(20000),
    });
  } catch {
    throw new Error('The server could not be reached. What you wrote is kept; try again.');
  }
  if (answer.status === 204) return null;
  let data = null;
  try {
    data = await answer.json();
  } catch { /* an answer that is not ours, say of a proxy */ }
  if (answer.ok && data) return data;
  if (answer.status === 401) {
    throw new Error('Your sign-in has ended. Open the page in another tab, sign in, and send again.');
  }
  throw new Error(data?.error?.text || `The server answered ${answer.status}. What you wrote is kept; try again.`);
}

export const post = (url, body, key) => call('POST', url, body, key);
export const put = (url, body) => call('PUT', url, body);
export const remove = (url) => call('DELETE', url);

// interest returns a function to call at each key: it tells the server that somebody
// writes something, so that what the request will need is made ready. It says so a
// moment after the first key, when there are words, and every five seconds at most.
// Nobody has to hear of a failure.
export function interest(text, what) {
  let timer = 0;
  let last = -Infinity;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      if (text.value.trim().length < 3) return;
      last = performance.now();
      post('/api/interest', what()).catch(() => {});
    }, Math.max(700, last + 5000 - performance.now()));
  };
}

// trouble shows a sentence in a form, or hides it.
export function trouble(form, text) {
  const p = form.querySelector('.form-error');
  p.textContent = text;
  p.hidden = !text;
}
