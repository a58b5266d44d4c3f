// The live connection: asks for a ticket, says which entry it has, and connects
// again after a growing pause when it is lost.
import { post } from './api.js';

export class Live {
  constructor(session, after, handlers) {
    this.session = session;
    this.after = after; // function: the last sequence number that is shown
    this.on = handlers;
    this.failures = 0;
    this.connect();
    addEventListener('online', () => this.now());
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.now(); });
  }

  async connect() {
    this.timer = 0;
    this.on.state(this.failures ? 'reconnecting' : 'connecting');
    let ticket;
    try {
      ticket = (await post(`/api/sessions/${this.session}/ticket`)).ticket;
    } catch (err) {
      this.again(err.message);
      return;
    }
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const ws = new WebSocket(`${scheme}://${location.host}/sessions/${this.session}/live`);
    this.ws = ws;
    this.quiet();
    ws.onopen = () => ws.send(JSON.stringify({ ticket, after: this.after() }));
    ws.onmessage = (m) => {
      this.quiet();
      this.frame(JSON.parse(m.data));
    };
    ws.onclose = () => {
      if (this.ws !== ws) return;
      this.again('');
    };
  }

  frame(f) {
    if (f.type === 'live') {
      this.failures = 0;
      this.on.state('live');
    }
    if (f.type === 'reload') {
      location.reload();
      return;
    }
    this.on.frame(f);
  }

  // quiet gives up on a connection that says nothing: a live one says at least
  // every 15 seconds that nothing happened.
  quiet() {
    clearTimeout(this.silence);
    const ws = this.ws;
    this.silence = setTimeout(() => {
      if (this.ws !== ws) return;
      ws.onclose = null; // a dead connection may take minutes to close
      ws.close();
      this.again('');
    }, 45000);
  }

  ask(what) {
    if (this.ws?.readyState === WebSocket.OPEN) this.ws.send(JSON.stringify(what));
  }

  again(why) {
    clearTimeout(this.silence);
    this.ws = null;
    this.failures++;
    this.on.state('lost', why);
    if (this.timer) return;
    const pause = Math.min(15000, 250 * 2 ** Math.min(this.failures, 6)) * (0.7 + Math.random() * 0.6);
    this.timer = setTimeout(() => this.connect(), pause);
  }

  now() {
    if (!this.timer) return;
    clearTimeout(this.timer);
    this.connect();
  }
}
