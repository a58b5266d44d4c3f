// The transcript: rows that carry their sequence number. A row that is open is
// superseded by the next row of its key; what was shown already is ignored.
import { localTimes } from './times.js';

// Fragments come from our own server, which escapes everything that a log says.
const policy = window.trustedTypes
  ? trustedTypes.createPolicy('openinspect', { createHTML: (html) => html })
  : { createHTML: (html) => html };

export function fragment(html) {
  const t = document.createElement('template');
  t.innerHTML = policy.createHTML(html);
  localTimes(t.content);
  return t.content;
}

// notThere takes the place of a picture that was not loaded; its link tells why.
function notThere(img) {
  img.closest('.picture')?.replaceChildren('This picture cannot be shown.');
}

export class Transcript {
  constructor(log, partsBox, session, last) {
    this.log = log;
    this.box = partsBox;
    this.session = session;
    this.last = last;
    this.parts = new Map(); // id -> {el, bytes}
    this.finished = new Set();
    for (const el of partsBox.querySelectorAll('[data-part]')) {
      this.parts.set(el.dataset.part, { el: el.querySelector('.stream'), row: el, bytes: encode(el.textContent) });
    }
    log.addEventListener('error', (e) => notThere(e.target), true);
    for (const img of log.querySelectorAll('.picture img')) {
      if (img.complete && !img.naturalWidth) notThere(img); // before we listened
    }
    this.watchStubs();
  }

  // apply shows a row frame and says whether it was the expected one: false
  // means that rows before it are missing.
  apply(f) {
    if (f.seq <= this.last) return true;
    if (f.seq !== this.last + 1) return false;
    this.last = f.seq;
    if (f.part) this.finishPart(f.part);
    if (!f.html) return true;
    const added = fragment(f.html);
    const row = added.firstElementChild;
    const old = f.key && this.open(f.key);
    if (old) this.keepFold(old, row);
    if (old && f.in_place) {
      old.replaceWith(added);
    } else {
      old?.remove();
      this.section(f.seq).append(added);
    }
    return true;
  }

  open(key) {
    const all = this.log.querySelectorAll(`[data-key="${CSS.escape(key)}"][data-open]`);
    return all[all.length - 1];
  }

  // keepFold leaves unfolded what the reader unfolded.
  keepFold(old, row) {
    if (old.querySelector('details')?.open) row.querySelector('details')?.setAttribute('open', '');
  }

  section(seq) {
    const size = 100;
    const from = Math.floor((seq - 1) / size) * size + 1;
    let sec = this.log.querySelector(`.sec[data-from="${from}"]`);
    if (!sec) {
      sec = document.createElement('section');
      sec.className = 'sec';
      sec.dataset.from = from;
      sec.dataset.to = from + size - 1;
      this.log.append(sec);
    }
    return sec;
  }

  // whole shows a running part as it is so far.
  whole(f) {
    if (this.finished.has(f.part)) return;
    const p = this.part(f);
    if (!p) return;
    p.bytes = encode(f.text || '');
    keepAtEnd(p.el, () => { p.el.textContent = f.text || ''; });
  }

  // delta adds text at an offset in bytes; false means that text is missing.
  delta(f) {
    if (this.finished.has(f.part)) return true;
    const p = this.part(f);
    if (!p) return true;
    const text = f.text || '';
    if (f.offset > p.bytes.length) return false;
    const added = encode(text);
    if (f.offset === p.bytes.length) {
      keepAtEnd(p.el, () => p.el.append(text));
      p.bytes = join(p.bytes, added);
    } else {
      p.bytes = join(p.bytes.slice(0, f.offset), added);
      p.el.textContent = new TextDecoder().decode(p.bytes);
    }
    return true;
  }

  // part finds or makes where a running part is shown: a tool's output in the
  // tool's own row, everything else below the transcript.
  part(f) {
    let p = this.parts.get(f.part);
    if (p && p.el.isConnected) return p;
    if (f.kind === 'tool') {
      const out = this.log.querySelector(`[data-output="${CSS.escape(f.part)}"]`);
      if (!out) return null;
      out.hidden = false;
      p = { el: out, row: null, bytes: new Uint8Array() };
    } else {
      const row = document.createElement('article');
      row.className = 'row part part-' + f.kind;
      row.dataset.part = f.part;
      const el = document.createElement('div');
      el.className = 'stream';
      row.append(el);
      this.box.append(row);
      p = { el, row, bytes: new Uint8Array() };
    }
    this.parts.set(f.part, p);
    return p;
  }

  finishPart(id) {
    this.finished.add(id);
    this.parts.get(id)?.row?.remove();
    this.parts.delete(id);
  }

  // dropParts removes what a prompt left unfinished.
  dropParts() {
    for (const [id, p] of this.parts) {
      p.row?.remove();
      this.parts.delete(id);
    }
  }

  // Stubs are filled when they come near, and one after the other when the
  // browser is idle, so that searching in the page finds everything.
  watchStubs() {
    const stubs = this.log.querySelectorAll('.sec.stub');
    if (!stubs.length) return;
    this.near = new IntersectionObserver((seen) => {
      for (const s of seen) if (s.isIntersecting) this.fill(s.target);
    }, { rootMargin: '1500px 0px' });
    for (const s of stubs) this.near.observe(s);
    const idle = window.requestIdleCallback || ((f) => setTimeout(f, 200));
    const next = async () => {
      const left = this.log.querySelectorAll('.sec.stub:not([data-filling])');
      if (!left.length) return;
      if (await this.fill(left[left.length - 1])) idle(next, { timeout: 5000 });
    };
    setTimeout(() => idle(next), 1500);
  }

  async fill(sec) {
    if (!sec.classList.contains('stub') || sec.dataset.filling) return true;
    sec.dataset.filling = 'yes';
    this.near?.unobserve(sec);
    try {
      const answer = await fetch(`/sessions/${this.session}/section?from=${sec.dataset.from}`);
      if (!answer.ok) throw new Error(String(answer.status));
      const rows = fragment(await answer.text());
      const scroller = document.scrollingElement;
      const above = sec.getBoundingClientRect().bottom < 0;
      const before = scroller.scrollHeight;
      sec.replaceChildren(rows);
      sec.classList.remove('stub');
      if (above) scroller.scrollTop += scroller.scrollHeight - before;
      return true;
    } catch {
      delete sec.dataset.filling;
      return false;
    }
  }

  // reveal scrolls to an entry, filling its section first.
  async reveal(seq) {
    const sec = this.log.querySelector(`.sec[data-from="${Math.floor((seq - 1) / 100) * 100 + 1}"]`);
    if (sec) await this.fill(sec);
    const rows = [...this.log.querySelectorAll('[data-seq]')];
    const row = rows.find((r) => Number(r.dataset.seq) >= seq);
    if (!row) return;
    row.scrollIntoView({ block: 'center' });
    row.classList.add('target');
    setTimeout(() => row.classList.remove('target'), 2500);
  }
}

// keepAtEnd keeps the end of a box that scrolls in view while it grows, unless
// the reader scrolled back.
function keepAtEnd(box, grow) {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
  grow();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

const encode = (s) => new TextEncoder().encode(s);

function join(a, b) {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
