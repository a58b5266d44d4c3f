// A session's page.
import { interest, mint, post, remove, trouble } from './api.js';
import { Live } from './live.js';
import { duration } from './times.js';
import { Transcript, fragment } from './transcript.js';

const byId = (id) => document.getElementById(id);

export function startSession({ session, last }) {
  const transcript = new Transcript(byId('log'), byId('parts'), session, Number(last));
  const pin = new Pin();
  composer(session, pin);
  actions(session);
  clock();
  markRunning();
  anchors(transcript, pin);

  let asked = -1;
  const live = new Live(session, () => transcript.last, {
    state: connectionState,
    frame(f) {
      const pinned = pin.pinned();
      switch (f.type) {
        case 'row':
          if (!transcript.apply(f) && asked !== transcript.last) {
            asked = transcript.last;
            live.ask({ after: transcript.last });
          }
          if (f.kind === 'prompt.ended' || f.kind === 'prompt.started') {
            transcript.dropParts();
          }
          if (f.kind === 'tool') markRunning();
          if (f.html) pin.added(pinned);
          break;
        case 'delta':
          if (!transcript.delta(f)) live.ask({ parts: true });
          pin.follow(pinned);
          break;
        case 'part':
          transcript.whole(f);
          pin.follow(pinned);
          break;
        case 'panel':
          panel(f);
          break;
        case 'people':
          watching(f.people || []);
      }
    },
  });
}

// Pin keeps the newest entry in view while the reader is at the end, and offers
// to go there otherwise.
class Pin {
  constructor() {
    this.jump = byId('jump');
    this.jump.addEventListener('click', () => this.toEnd());
    addEventListener('scroll', () => { if (this.pinned()) this.jump.hidden = true; }, { passive: true });
    if (!location.hash) this.toEnd();
    // The composer's height changes what is at the end.
    new ResizeObserver(() => this.measure()).observe(document.querySelector('.composer-dock'));
  }

  measure() {
    const pinned = this.pinned();
    document.documentElement.style.setProperty('--dock', document.querySelector('.composer-dock').offsetHeight + 'px');
    this.follow(pinned);
  }

  pinned() {
    const s = document.scrollingElement;
    return s.scrollHeight - s.scrollTop - s.clientHeight < 100;
  }

  toEnd() {
    const s = document.scrollingElement;
    s.scrollTop = s.scrollHeight;
    this.jump.hidden = true;
  }

  follow(pinned) { if (pinned) this.toEnd(); }

  added(pinned) {
    if (pinned) this.toEnd();
    else this.jump.hidden = false;
  }
}

function anchors(transcript, pin) {
  const go = () => {
    const seq = /^#e(\d+)$/.exec(location.hash);
    if (seq) transcript.reveal(Number(seq[1]));
  };
  addEventListener('hashchange', go);
  go();
}

function panel(f) {
  const box = byId(f.name);
  if (!box) return;
  const focused = document.activeElement?.dataset?.act && box.contains(document.activeElement)
    ? { ...document.activeElement.dataset } : null;
  const unfolded = box.querySelector('.more')?.open;
  box.replaceChildren(fragment(f.html));
  if (unfolded) box.querySelector('.more').open = true;
  if (focused) {
    box.querySelector(`[data-act="${focused.act}"][data-prompt="${CSS.escape(focused.prompt || '')}"]`)?.focus();
  }
  if (f.name === 'head') {
    document.title = box.querySelector('h1').textContent + ' · Inspect';
    markRunning();
    clock();
  }
}

// markRunning shows which tools are at work: those of the prompt that runs.
function markRunning() {
  const state = document.querySelector('.head-in')?.dataset;
  document.body.dataset.running = state?.running || '';
  document.body.dataset.status = state?.status || '';
  byId('send').textContent = state?.running ? 'Queue' : 'Send';
  for (const row of document.querySelectorAll('.tool-running')) {
    row.classList.toggle('at-work', row.dataset.prompt === state?.running);
  }
}

let ticking = 0;

// clock counts the time worked while a prompt runs.
function clock() {
  clearInterval(ticking);
  const el = document.querySelector('.elapsed[data-since]');
  if (!el) return;
  const show = () => {
    el.textContent = duration(Number(el.dataset.ms) + Math.max(0, Date.now() - new Date(el.dataset.since)));
  };
  show();
  ticking = setInterval(show, 1000);
}

function connectionState(state, why) {
  const el = byId('connection');
  el.dataset.state = state;
  const words = { live: 'Live', connecting: 'Connecting', reconnecting: 'Reconnecting', lost: 'Connection lost' };
  const text = why || words[state];
  if (el.textContent !== text) el.textContent = text;
}

function watching(people) {
  const box = byId('watching');
  box.replaceChildren(...people.map((p) => {
    const face = document.createElement('span');
    face.className = `face small hue-${p.hue}`;
    face.textContent = p.initials;
    face.title = p.name + ' is watching';
    return face;
  }));
  box.setAttribute('aria-label', 'Watching now: ' + people.map((p) => p.name).join(', '));
}

function composer(session, pin) {
  const form = byId('composer');
  const text = byId('text');
  const draft = 'draft:' + session;
  const fit = () => {
    text.style.height = 'auto';
    text.style.height = Math.min(text.scrollHeight, innerHeight * 0.4) + 'px';
  };
  text.value = localStorage.getItem(draft) || '';
  fit();
  // One key per text: the same text sent again after a lost answer is one request.
  let key = mint();
  const writes = interest(text, () => ({ session }));
  text.addEventListener('input', () => {
    writes();
    localStorage.setItem(draft, text.value);
    key = mint();
    fit();
  });
  text.addEventListener('keydown', (e) => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener('submit', async (e) => {
    e.preventDefault();
    const sent = text.value;
    const send = byId('send');
    send.disabled = true;
    trouble(form, '');
    try {
      await post(`/api/sessions/${session}/prompts`, { text: sent }, key);
      if (text.value === sent) {
        text.value = '';
        localStorage.removeItem(draft);
      }
      key = mint();
      fit();
      pin.toEnd();
    } catch (err) {
      trouble(form, err.message);
    } finally {
      send.disabled = false;
      text.focus();
    }
  });
}

// actions are the buttons of panels and rows.
function actions(session) {
  const deeds = {
    stop: (d) => post(`/api/sessions/${session}/stop`, { prompt: d.prompt }),
    retry: (d) => post(`/api/prompts/${d.prompt}/retry`),
    cancel: (d) => remove(`/api/prompts/${d.prompt}`),
    choose: (d) => post(`/api/sessions/${session}/repository`, { repository: d.repository }),
  };
  document.addEventListener('click', async (e) => {
    const button = e.target.closest('[data-act]');
    if (!button) return;
    button.disabled = true;
    const form = byId('composer');
    trouble(form, '');
    try {
      await deeds[button.dataset.act](button.dataset);
    } catch (err) {
      trouble(form, err.message);
    } finally {
      button.disabled = false;
    }
  });
}
