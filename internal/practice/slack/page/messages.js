// One message, a list of them, and the composer below.

import { closePopover, day, h, link, notice, popover, safeURL, time } from "./dom.js";
import { icon } from "./icons.js";
import { mrkdwn, quickReactions } from "./mrkdwn.js";
import { Surface, renderBlocks } from "./blocks.js";
import { channelOf, escapeText, method, plainText, practice, state, user } from "./api.js";

export function avatar(id, size = "") {
  const who = user(id);
  if (who.bot) return h("span", { class: "avatar bot " + size, "aria-hidden": "true" }, "◆");
  if (who.color) return h("img", { class: "avatar " + size, src: `/page/avatar/${id}.svg`, alt: "" });
  return h("span", { class: "avatar other " + size, "aria-hidden": "true" }, "•");
}

const surfaces = new Map(); // what one chose in a message survives its edits

function surfaceOf(m) {
  if (!surfaces.has(m.ts)) surfaces.set(m.ts, new Surface({ channel: m.channel, ts: m.ts }));
  return surfaces.get(m.ts);
}

// part is an element that sync goes through instead of replacing it.
function part(name, ...args) {
  const el = h(...args);
  el.part = name;
  return el;
}

// body is what a message says: blocks if it has any, else its text.
function body(m) {
  const typed = m.client_msg_id !== undefined; // a person's rich text says what the text says
  const shown = m.blocks?.length && !typed
    ? renderBlocks(m.blocks, surfaceOf(m))
    : [m.text && mrkdwn(m.text)];
  return part("body", "div", { class: "body" }, shown, m.edited && h("span", { class: "edited" }, "(edited)"), (m.attachments || []).map(attachment), (m.files || []).map(fileCard));
}

function attachment(a) {
  return h("div", { class: "attachment" }, a.title && h("b", {}, a.title_link ? link(a.title_link, a.title) : a.title), a.text && mrkdwn(a.text),
    a.blocks && renderBlocks(a.blocks, new Surface({})));
}

function fileCard(f) {
  const src = safeURL(f.url_private || "");
  if (!src) return h("div", { class: "file" }, "File is no longer there");
  if ((f.mimetype || "").startsWith("image/")) return h("a", { class: "file-image", href: src, target: "_blank" }, h("img", { src, alt: f.alt_txt || f.title }));
  return h("a", { class: "file", href: src, target: "_blank" }, h("span", { class: "file-icon" }, icon("page_facing_up")), h("span", {}, h("b", {}, f.title), h("small", {}, `${f.pretty_type} · ${f.size} bytes`)));
}

function reactions(m) {
  if (!m.reactions?.length) return null;
  return h("div", { class: "reactions" }, m.reactions.map((r) => {
    const mine = r.users.includes(state.as.id);
    return h("button", { class: "reaction" + (mine ? " mine" : ""), data: { reaction: r.name }, title: r.users.map((u) => user(u).real_name).join(", "),
      onclick: () => method(mine ? "reactions.remove" : "reactions.add", { channel: m.channel, timestamp: m.ts, name: r.name }) },
    icon(r.name), h("span", {}, String(r.count)));
  }));
}

function replyLine(m, openThread) {
  if (!m.reply_count) return null;
  const last = `Last reply ${day(m.latest_reply) === "Today" ? "today" : day(m.latest_reply)} at ${time(m.latest_reply)}`;
  return h("button", { class: "replies", testid: "open-thread", onclick: () => openThread(m.ts) },
    m.reply_users.slice(0, 4).map((u) => avatar(u, "small")), h("b", {}, m.reply_count === 1 ? "1 reply" : `${m.reply_count} replies`), h("span", {}, last));
}

function tools(m, openThread, inThread) {
  const own = m.user === state.as.id && !m.subtype;
  const shortcuts = state.boot.shortcuts.filter((s) => s.type === "message");
  const more = (ev) => popover(ev.currentTarget, ...moreOptions(ev.currentTarget.closest("[data-ts]")));
  const moreOptions = (row) => [
    shortcuts.map((s) => option(s.name, "shortcut-" + s.callback_id, () => act("shortcut", { callback_id: s.callback_id, channel: m.channel, ts: m.ts }))),
    option("Copy link", "copy", () => navigator.clipboard?.writeText(`${location.origin}/?channel=${m.channel}&thread=${m.root}`)),
    own && option("Edit message", "edit", () => edit(m, row)),
    own && option("Delete message", "delete", () => method("chat.delete", { channel: m.channel, ts: m.ts }))];
  const react = (ev) => popover(ev.currentTarget, h("div", { class: "emoji-row" }, quickReactions.map((name) =>
    h("button", { class: "icon-button", data: { reaction: name }, onclick: () => { closePopover(); method("reactions.add", { channel: m.channel, timestamp: m.ts, name }); } }, icon(name)))));
  return h("div", { class: "tools" },
    h("button", { title: "Add a reaction", testid: "react", onclick: react }, "☺"),
    !inThread && h("button", { title: "Reply in thread", testid: "reply", onclick: () => openThread(m.ts) }, "↩"),
    h("button", { title: "More", testid: "more", onclick: more }, "⋯"));
}

const option = (text, id, run) => h("button", { class: "option", data: { testid: "option", value: id }, onclick: () => { closePopover(); run(); } }, text);

export async function act(name, params) {
  const res = await practice(name, params);
  if (!res.ok) notice(res.error === "no_response" ? `${state.boot.bot.app} did not respond. Try again.` : res.error);
}

function edit(m, row) {
  const was = row.querySelector(".body");
  const text = h("textarea", { class: "field", rows: 3, testid: "edit-text", value: plainText(m.text) });
  const editor = h("div", { class: "body" }, text, h("div", { class: "actions" },
    h("button", { class: "button primary", testid: "edit-save", onclick: () => {
      editor.replaceWith(was); // the change comes back as an event
      method("chat.update", { channel: m.channel, ts: m.ts, text: escapeText(text.value) });
    } }, "Save"),
    h("button", { class: "button", onclick: () => editor.replaceWith(was) }, "Cancel")));
  was.replaceWith(editor);
  text.focus();
}

// message renders one message. Consecutive ones of one author share a head.
export function message(m, { openThread, inThread, follows }) {
  const author = user(m.user || "");
  const name = m.username || (m.user ? author.real_name : "App");
  const isApp = m.bot_id !== undefined;
  if (m.subtype === "tombstone") return h("article", { class: "message gone", data: { ts: m.ts } }, h("span", { class: "avatar other" }), h("i", {}, m.text), replyLine(m, openThread));
  return part("message", "article", { class: "message" + (follows ? " follows" : "") + (m.only_for ? " ephemeral" : ""), data: { ts: m.ts, user: m.user || "", ...(m.only_for ? { ephemeral: m.only_for } : {}) } },
    follows ? h("time", { class: "gutter" }, time(m.ts)) : avatar(m.user || ""),
    part("content", "div", { class: "content" },
      m.only_for && h("p", { class: "only" }, "Only visible to you"),
      m.subtype === "thread_broadcast" && !inThread && h("p", { class: "only" }, "replied to a thread"),
      !follows && h("div", { class: "head" }, h("b", {}, name), isApp && h("span", { class: "badge" }, "APP"), h("time", { title: new Date(parseFloat(m.ts) * 1000).toLocaleString() }, time(m.ts)),
        m.streaming_state === "in_progress" && h("span", { class: "writing" }, "writing…")),
      body(m), reactions(m), !inThread && replyLine(m, openThread)),
    !m.only_for && tools(m, openThread, inThread));
}

// list says what to show for messages, a line for each day included: entries
// with a key, a sign that changes with the content, and how to make the node.
export function list(messages, options) {
  const out = [];
  let before = null;
  for (const m of messages) {
    if (!options.inThread && (!before || day(before.ts) !== day(m.ts))) {
      out.push({ key: "day" + day(m.ts), sign: "", make: () => h("div", { class: "day" }, h("span", {}, day(m.ts))) });
    }
    const follows = Boolean(before && sameBreath(before, m));
    out.push({ key: m.ts, sign: follows + JSON.stringify(m), make: () => message(m, { ...options, follows }) });
    before = m;
  }
  return out;
}

function sameBreath(before, m) {
  return before.user === m.user && before.username === m.username && !before.subtype && !m.subtype &&
    !before.only_for === !m.only_for && parseFloat(m.ts) - parseFloat(before.ts) < 300 && !before.reply_count;
}

// statusRow is the agent's "is working…" with its Stop button.
export function statusRow(session) {
  if (!session || session.status === "active" || session.status === "closed") return null;
  const words = session.status === "suspended" ? "is waiting for you" : session.text || "is working…";
  return h("div", { class: "status-row " + session.status, testid: "session-status" }, h("span", { class: "pulse" }), h("span", {}, h("b", {}, state.boot.bot.app), " " + words),
    session.status === "processing" && h("button", { class: "button small", testid: "session-stop", onclick: () => act("stop", { channel: session.channel, thread_ts: session.thread_ts }) }, "Stop"));
}

async function sendMessage(channel, thread, text) {
  const command = /^(\/\S+)\s*([\s\S]*)$/.exec(text);
  if (command) {
    if (thread) return "Slash commands do not work in threads.";
    if (!state.boot.commands.some((c) => c.name === command[1])) return `${command[1]} is not a command of this workspace.`;
    const res = await practice("command", { channel, command: command[1], text: command[2] });
    return res.ok ? null : `${command[1]} failed: ${res.error}`;
  }
  const invite = channelOf(channel) && !channelOf(channel).members.includes(state.boot.bot.id) && text.includes("@" + state.boot.bot.name);
  if (invite) await method("conversations.invite", { channel, users: state.boot.bot.id });
  const res = await method("chat.postMessage", { channel, thread_ts: thread || undefined, text: escapeText(text) });
  return res.ok ? null : "The message was not sent: " + res.error;
}

async function upload(channel, thread, file) {
  const start = await method("files.getUploadURLExternal", { filename: file.name, length: file.size });
  if (!start.ok) return notice("The file was not sent: " + start.error);
  await fetch(new URL(start.upload_url).pathname, { method: "POST", body: file });
  const end = await method("files.completeUploadExternal", { files: [{ id: start.file_id, title: file.name }], channel_id: channel, thread_ts: thread || undefined });
  if (!end.ok) notice("The file was not sent: " + end.error);
}

// composer is the text field with its buttons. Typing @ offers names.
export function composer(channel, thread, placeholder) {
  const prefix = thread ? "thread-" : "";
  const text = h("textarea", { rows: 1, placeholder, testid: prefix + "composer", "aria-label": placeholder });
  const send = async () => {
    const said = text.value.trim();
    if (!said) return;
    text.value = "";
    grow();
    const problem = await sendMessage(channel, thread, said);
    if (problem) { notice(problem); text.value = text.value || said; grow(); }
  };
  const grow = () => { text.style.setProperty("height", "auto"); text.style.setProperty("height", Math.min(text.scrollHeight, 240) + "px"); };
  text.addEventListener("input", () => { grow(); offerNames(text); });
  let sending = false; // programs that type send the line break after all
  text.addEventListener("beforeinput", (e) => { if (sending && e.inputType === "insertLineBreak") e.preventDefault(); });
  text.addEventListener("keyup", () => (sending = false));
  text.addEventListener("keydown", (e) => {
    sending = e.key === "Enter" && !e.shiftKey && !e.isComposing;
    if (sending) { e.preventDefault(); closePopover(); send(); }
    if (e.key === "Tab" && document.querySelector("#layer .popover .option")) { e.preventDefault(); document.querySelector("#layer .popover .option").click(); }
    if (e.key === "Escape") closePopover();
  });
  const file = h("input", { type: "file", hidden: true, testid: prefix + "file", onchange: () => { for (const f of file.files) upload(channel, thread, f); file.value = ""; } });
  return h("div", { class: "composer" }, text, file, h("div", { class: "composer-row" },
    h("button", { class: "icon-button", title: "Attach a file", onclick: () => file.click() }, "+"),
    h("button", { class: "icon-button", title: "Mention", onclick: () => { text.setRangeText("@", text.selectionStart, text.selectionEnd, "end"); text.focus(); offerNames(text); } }, "@"),
    globalShortcuts(), h("span", { class: "grow" }), h("button", { class: "send", title: "Send", testid: prefix + "send", onclick: send }, "➤")));
}

function globalShortcuts() {
  const all = state.boot.shortcuts.filter((s) => s.type === "global");
  return all.length > 0 && h("button", { class: "icon-button", title: "Shortcuts", testid: "shortcuts", onclick: (ev) =>
    popover(ev.currentTarget, all.map((s) => option(s.name, "shortcut-" + s.callback_id, () => act("shortcut", { callback_id: s.callback_id })))) }, "⚡");
}

function offerNames(text) {
  closePopover();
  const typed = /(^|\s)([@/])([a-z0-9_-]*)$/.exec(text.value.slice(0, text.selectionStart));
  if (!typed) return;
  const all = typed[2] === "@"
    ? [state.boot.bot, ...state.boot.people].map((p) => ({ name: p.name, about: p.real_name || p.app }))
    : typed[1] || text.value.startsWith("/") && typed.index === 0 ? state.boot.commands.map((c) => ({ name: c.name.slice(1), about: c.description })) : [];
  const hits = all.filter((x) => x.name.startsWith(typed[3]) && x.name !== typed[3]);
  if (!hits.length) return;
  popover(text, hits.map((x) => option([h("b", {}, typed[2] + x.name), h("small", {}, x.about)], "name-" + x.name, () => {
    const end = text.selectionStart;
    text.setRangeText(typed[2] + x.name + " ", end - typed[3].length - 1, end, "end");
    text.focus();
  })));
}
