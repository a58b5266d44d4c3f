// The page: who one is, where one is, and what happens there, live.

import { arrange, h, notice, sync } from "./dom.js";
import { channelOf, look, method, practice, state } from "./api.js";
import { act, avatar, composer, list, statusRow } from "./messages.js";
import { renderHome, renderModals } from "./modal.js";

const $ = (id) => document.getElementById(id);
let source = null;
let visit = 0; // counts places gone to: an answer for an earlier one is dropped

async function start() {
  state.boot = await (await fetch("/practice/boot")).json();
  const q = new URLSearchParams(location.search);
  const wanted = q.get("as") || state.boot.signed_in;
  state.as = state.boot.people.find((p) => p.id === wanted || p.name === wanted) || state.boot.people[0];
  const where = q.get("channel");
  await become(state.as, place(where) || { kind: "channel", id: state.boot.channels[0].id }, q.get("thread"));
}

function place(id) {
  if (!id) return null;
  if (id === "home" || state.boot.people.some((p) => p.dm === id)) return { kind: "app", id: state.as.dm };
  const c = state.boot.channels.find((one) => one.id === id || one.name === id);
  return c ? { kind: "channel", id: c.id } : null;
}

// become switches to a person, in this tab and for signing in elsewhere.
async function become(person, where = state.place, thread = null) {
  state.as = person;
  document.body.dataset.ready = "false";
  document.body.dataset.as = person.id;
  await practice("signin", {});
  connect();
  await loadViews();
  await go(where.kind === "app" ? { kind: "app", id: person.dm } : where, thread);
}

async function go(where, thread = null) {
  const mine = ++visit;
  document.body.dataset.ready = "false";
  if (where.kind === "app" && (state.place?.kind !== "app" || state.place.id !== where.id)) act("home", { tab: state.tab });
  const got = await look("messages", { channel: where.id });
  if (mine !== visit) return;
  if (!got.ok) return notice("This channel cannot be shown: " + got.error);
  state.place = where;
  take(got);
  state.thread = thread && state.messages.has(thread) ? thread : null;
  remember();
  renderAll();
  document.body.dataset.ready = "true";
}

function take(got) {
  state.messages = new Map(got.messages.map((m) => [m.ts, m]));
  state.sessions = new Map(got.sessions.map((s) => [s.thread_ts, s]));
}

// refresh reads the place one is in anew, after events may have been missed.
async function refresh() {
  const mine = visit;
  loadViews();
  const got = await look("messages", { channel: state.place.id });
  if (mine !== visit || !got.ok) return;
  take(got);
  renderSoon();
}

function remember() {
  const q = new URLSearchParams({ channel: state.place.id, as: state.as.id });
  if (state.thread) q.set("thread", state.thread);
  history.replaceState(null, "", "/?" + q);
}

function connect() {
  source?.close();
  const own = new EventSource("/practice/stream?token=" + encodeURIComponent(state.as.token));
  source = own;
  let broken = false;
  own.onerror = () => (broken = true);
  own.onopen = () => { if (broken && state.place) { broken = false; refresh(); } };
  own.onmessage = (e) => receive(JSON.parse(e.data));
}

async function receive(ev) {
  if (ev.kind === "views") return loadViews();
  if (ev.kind === "channels") {
    state.boot = await (await fetch("/practice/boot")).json();
    return renderSidebar();
  }
  if (ev.channel !== state.place?.id) return markUnread(ev);
  if (ev.kind === "message") state.messages.set(ev.message.ts, ev.message);
  if (ev.kind === "deleted") state.messages.delete(ev.ts);
  if (ev.kind === "session") state.sessions.set(ev.session.thread_ts, ev.session);
  renderSoon();
}

async function loadViews() {
  const got = await look("views");
  if (!got.ok) return;
  state.modals = got.modals;
  state.home = got.home;
  renderModals();
  if (state.place?.kind === "app" && state.tab === "home") renderMain();
}

const unread = new Set();

function markUnread(ev) {
  if (ev.kind === "message" && ev.message.user !== state.as.id && !unread.has(ev.channel)) {
    unread.add(ev.channel);
    renderSidebar();
  }
}

function renderAll() {
  unread.delete(state.place.id);
  renderSidebar();
  renderMain();
  renderThread();
}

function renderSidebar() {
  const here = (id) => (state.place?.id === id ? "here" : unread.has(id) ? "unread" : "");
  const { bot, channels, people } = state.boot;
  $("channels").replaceChildren(
    h("h2", {}, "Channels", h("button", { class: "icon-button", title: "Create a channel", testid: "create-channel", onclick: createChannel }, "+")),
    ...channels.map((c) => h("button", { class: here(c.id), testid: "channel-" + c.id, onclick: () => go({ kind: "channel", id: c.id }) }, h("span", { class: "hash" }, "#"), c.name)),
    h("h2", {}, "Apps"),
    h("button", { class: here(state.as.dm), testid: "home", onclick: () => go({ kind: "app", id: state.as.dm }) }, avatar(bot.id, "small"), bot.app));
  $("people").replaceChildren(h("h2", {}, "You are"), ...people.map((p) =>
    h("button", { class: p.id === state.as.id ? "me" : "", testid: "person-" + p.id, title: p.title, onclick: () => become(p, state.place, state.thread) },
      avatar(p.id, "small"), h("span", {}, h("b", {}, p.real_name), h("small", {}, p.title)))));
}

async function createChannel() {
  const name = prompt("Name of the new channel (small letters, digits, dashes)");
  if (!name) return;
  const res = await method("conversations.create", { name });
  if (!res.ok) return notice("The channel was not created: " + res.error);
  state.boot = await (await fetch("/practice/boot")).json();
  go({ kind: "channel", id: res.channel.id });
}

const top = () => [...state.messages.values()].filter((m) => !m.reply || m.subtype === "thread_broadcast").sort(byTime);
const threadOf = (ts) => [...state.messages.values()].filter((m) => m.root === ts).sort(byTime);
const byTime = (a, b) => (a.ts < b.ts ? -1 : 1);

function renderMain() {
  const { bot } = state.boot;
  const app = state.place.kind === "app";
  const c = channelOf(state.place.id);
  const title = app ? bot.app : "# " + c.name;
  const tabs = app && h("div", { class: "tabs" }, ["home", "messages"].map((t) => h("button", { class: state.tab === t ? "here" : "", testid: "tab-" + t, onclick: () => {
    state.tab = t;
    act("home", { tab: t });
    renderMain();
  } }, t === "home" ? "Home" : "Messages")));
  const head = h("header", { class: "bar" }, h("h2", {}, title), tabs,
    !app && h("span", { class: "members" }, c.members.slice(0, 4).map((m) => avatar(m, "small")), h("span", {}, `${c.members.length} members`)));
  if (app && state.tab === "home") return $("main").replaceChildren(head, h("div", { class: "scroll" }, renderHome()));
  $("main").replaceChildren(head, h("div", { class: "scroll", id: "messages", data: { testid: "messages" } }),
    composer(state.place.id, null, app ? `Message ${bot.app}` : `Message #${c.name}`));
  fillMain();
}

// shownAtOnce bounds how much of a channel is in the page.
const shownAtOnce = 300;

function fillMain() {
  const all = top();
  const first = { key: "intro", sign: String(all.length > shownAtOnce), make: () => intro(all.length > shownAtOnce) };
  fill($("messages"), [first, ...list(all.slice(-shownAtOnce), { openThread })]);
}

function intro(cut) {
  const { bot } = state.boot;
  const c = channelOf(state.place.id);
  if (cut) return h("div", { class: "intro" }, h("p", {}, `The newest ${shownAtOnce} messages are shown.`));
  if (!c) return h("div", { class: "intro" }, avatar(bot.id), h("h3", {}, bot.app), h("p", {}, `Direct messages between you and ${bot.app}.`));
  return h("div", { class: "intro" }, h("h3", {}, "# " + c.name), h("p", {}, `The beginning of #${c.name}. Mention @${bot.name} to give it work.`));
}

// fill shows entries in a box and stays at its end if one was there. What did
// not change keeps its node, so that nothing moves under one's hands.
function fill(box, entries) {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60 || !box.childElementCount;
  const old = new Map([...box.children].map((node) => [node.dataset.key, node]));
  const nodes = entries.map(({ key, sign, make }) => {
    const was = old.get(key);
    if (was && was.sign === sign) return was;
    let node = make();
    node.dataset.key = key;
    if (was) {
      keepFolds(was, node);
      node = sync(was, node);
    }
    node.sign = sign;
    return node;
  });
  arrange(box, nodes);
  if (atEnd) box.scrollTop = box.scrollHeight;
  for (const img of box.querySelectorAll("img.picture, .file-image img")) {
    if (atEnd && !img.complete) img.addEventListener("load", () => (box.scrollTop = box.scrollHeight), { once: true });
  }
}

// keepFolds leaves folded parts of a changed message as one left them.
function keepFolds(was, node) {
  const title = (d) => d.querySelector("summary")?.textContent;
  const left = new Map([...was.querySelectorAll("details")].map((d) => [title(d), d.open]));
  for (const d of node.querySelectorAll("details")) if (left.has(title(d))) d.open = left.get(title(d));
}

// A change that arrives while a button is pressed waits until it is released:
// the button must still be the same one.
let pressed = false;
let waiting = null;
addEventListener("pointerdown", () => (pressed = true), true);
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => setTimeout(() => { pressed = false; if (waiting) renderSoon(); }), true);

// renderSoon shows changes that come in quick succession at once.
function renderSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (!pressed) { waiting = null; renderMessages(); } }, 25);
}

function renderMessages() {
  if (!state.place) return;
  if ($("messages")) fillMain();
  if (state.thread) fillThread();
}

function openThread(ts) {
  state.thread = ts;
  remember();
  renderThread();
}

function renderThread() {
  const box = $("thread");
  box.hidden = !state.thread;
  document.body.classList.toggle("with-thread", Boolean(state.thread));
  if (!state.thread) return box.replaceChildren();
  const where = state.place.kind === "app" ? state.boot.bot.app : "#" + channelOf(state.place.id).name;
  const title = state.sessions.get(state.thread)?.title;
  box.replaceChildren(
    h("header", { class: "bar" }, h("div", {}, h("h2", { testid: "thread-title" }, title || "Thread"), h("small", {}, where)),
      h("button", { class: "icon-button", "aria-label": "Close", testid: "close-thread", onclick: () => { state.thread = null; remember(); renderThread(); } }, "✕")),
    h("div", { class: "scroll", id: "replies", data: { testid: "thread", thread: state.thread } }),
    composer(state.place.id, state.thread, "Reply…"));
  fillThread();
}

function fillThread() {
  const all = threadOf(state.thread);
  if (!all.length) { state.thread = null; return renderThread(); }
  const session = state.sessions.get(state.thread);
  const title = $("thread").querySelector("[data-testid=thread-title]");
  if (title) title.textContent = session?.title || "Thread";
  const status = { key: "status", sign: JSON.stringify(session), make: () => statusRow(session) };
  fill($("replies"), [...list(all, { openThread, inThread: true }), ...(statusRow(session) ? [status] : [])]);
}

document.addEventListener("keydown", (e) => {
  if (e.key === "Escape" && state.modals.length) practice("close", { view_id: state.modals.at(-1).id });
});

start().catch((e) => notice("The workspace cannot be reached: " + e.message));
