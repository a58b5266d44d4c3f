// Slack's mrkdwn and standard Markdown, as DOM nodes.

import { h, link } from "./dom.js";
import { icon, withEmoji } from "./icons.js";
import { channelOf, user } from "./api.js";

export const quickReactions = ["+1", "eyes", "tada", "heart", "white_check_mark", "x"];

const entities = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

export function mention(id) {
  return h("span", { class: "mention" }, "@" + user(id).name);
}

// token renders <@U1>, <#C1|name>, <!here>, <!date^…|text>, <https://x|label>.
function token(inner) {
  const [id, ...rest] = inner.split("|");
  const label = rest.join("|");
  if (id.startsWith("@")) return mention(id.slice(1));
  if (id.startsWith("#")) return h("span", { class: "mention" }, "#" + (label || channelOf(id.slice(1))?.name || id.slice(1)));
  if (id.startsWith("!date")) return document.createTextNode(entities(label));
  if (id.startsWith("!")) return h("span", { class: "mention loud" }, "@" + (label || id.slice(1)));
  return link(entities(id), withEmoji(entities(label || id)));
}

const inlineMrkdwn = [
  [/`([^`\n]+)`/, (m) => h("code", {}, entities(m[1]))],
  [/<([^<>\n]+)>/, (m) => token(m[1])],
  [/(?<![\w*])\*(?=\S)([^*\n]*[^*\s])\*(?![\w*])/, (m) => h("b", {}, inline(m[1], inlineMrkdwn))],
  [/(?<![\w_])_(?=\S)([^_\n]*[^_\s])_(?![\w_])/, (m) => h("i", {}, inline(m[1], inlineMrkdwn))],
  [/(?<![\w~])~(?=\S)([^~\n]*[^~\s])~(?![\w~])/, (m) => h("s", {}, inline(m[1], inlineMrkdwn))],
];

const inlineMarkdown = [
  [/`([^`\n]+)`/, (m) => h("code", {}, m[1])],
  [/<([@#!][^<>\n]+)>/, (m) => token(m[1])],
  [/\[([^\]\n]+)\]\(([^()\s]+)\)/, (m) => link(m[2], inline(m[1], inlineMarkdown))],
  [/\*\*(?=\S)(.+?\S?)\*\*/, (m) => h("b", {}, inline(m[1], inlineMarkdown))],
  [/~~(?=\S)(.+?)~~/, (m) => h("s", {}, inline(m[1], inlineMarkdown))],
  [/(?<![\w*])[*_](?=\S)([^*_\n]*[^*_\s])[*_](?![\w*])/, (m) => h("i", {}, inline(m[1], inlineMarkdown))],
  [/https?:\/\/[^\s<>)]+/, (m) => link(m[0], m[0])],
];

// inline applies the rule that matches first, again and again.
function inline(text, rules) {
  const out = [];
  while (text) {
    let first = null;
    for (const [re, make] of rules) {
      const m = re.exec(text);
      if (m && (!first || m.index < first.m.index)) first = { m, make };
    }
    const head = first ? text.slice(0, first.m.index) : text;
    if (head) out.push(...withEmoji(entities(head)));
    if (!first) break;
    out.push(first.make(first.m));
    text = text.slice(first.m.index + first.m[0].length);
  }
  return out;
}

function lines(list) {
  return list.flatMap((line, i) => (i ? [h("br"), ...line] : line));
}

// mrkdwn renders message text of Slack's own kind.
export function mrkdwn(text) {
  const out = [];
  for (const [i, part] of text.split("```").entries()) {
    if (i % 2) {
      out.push(h("pre", {}, entities(part.replace(/^\n/, "").replace(/\n$/, ""))));
      continue;
    }
    const trimmed = out.length ? part.replace(/^\n/, "") : part;
    if (trimmed.trim()) out.push(...paragraphs(trimmed.replace(/\n$/, "")));
  }
  return h("div", { class: "text" }, out);
}

function paragraphs(text) {
  const out = [];
  let quoted = null;
  let plain = null;
  for (const line of text.split("\n")) {
    const quote = /^(?:&gt;|>) ?(.*)$/.exec(line);
    const target = quote ? (quoted ||= []) : (plain ||= []);
    target.push(inline(quote ? quote[1] : line, inlineMrkdwn));
    if (quote && plain) { out.push(h("p", {}, lines(plain))); plain = null; }
    if (!quote && quoted) { out.push(h("blockquote", {}, lines(quoted))); quoted = null; }
  }
  if (quoted) out.push(h("blockquote", {}, lines(quoted)));
  if (plain) out.push(h("p", {}, lines(plain)));
  return out;
}

// markdown renders standard Markdown: what answers and streams are written in.
export function markdown(text) {
  const rows = text.split("\n");
  const out = [];
  let i = 0;
  while (i < rows.length) {
    const [node, next] = markdownBlock(rows, i);
    if (node) out.push(node);
    i = next;
  }
  return h("div", { class: "text markdown" }, out);
}

function markdownBlock(rows, i) {
  const row = rows[i];
  const fence = /^\s*(```+|~~~+)/.exec(row);
  if (fence) {
    let end = i + 1;
    while (end < rows.length && !rows[end].trim().startsWith(fence[1])) end++;
    return [h("pre", {}, rows.slice(i + 1, end).join("\n")), end + 1];
  }
  if (!row.trim()) return [null, i + 1];
  const head = /^(#{1,6})\s+(.*)$/.exec(row);
  if (head) return [h("h" + Math.min(6, head[1].length + 2), {}, inline(head[2], inlineMarkdown)), i + 1];
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(row)) return [h("hr"), i + 1];
  if (/^\s*\|.*\|\s*$/.test(row) && /^\s*\|[\s:|-]+\|\s*$/.test(rows[i + 1] || "")) return markdownTable(rows, i);
  if (/^\s*>/.test(row)) {
    let end = i;
    while (end < rows.length && /^\s*>/.test(rows[end])) end++;
    const inner = rows.slice(i, end).map((r) => inline(r.replace(/^\s*> ?/, ""), inlineMarkdown));
    return [h("blockquote", {}, lines(inner)), end];
  }
  if (listItem(row)) return markdownList(rows, i, listItem(row).indent);
  let end = i + 1;
  while (end < rows.length && rows[end].trim() && !/^(#|\s*>|\s*```|\s*\|)/.test(rows[end]) && !listItem(rows[end])) end++;
  return [h("p", {}, lines(rows.slice(i, end).map((r) => inline(r, inlineMarkdown)))), end];
}

function listItem(row) {
  const m = /^(\s*)([-*+•]|\d+[.)])\s+(.*)$/.exec(row || "");
  return m && { indent: m[1].length, ordered: /\d/.test(m[2]), start: parseInt(m[2], 10), text: m[3] };
}

function markdownList(rows, i, indent) {
  const first = listItem(rows[i]);
  const list = h(first.ordered ? "ol" : "ul", { start: first.ordered && first.start !== 1 ? first.start : undefined });
  while (i < rows.length) {
    const item = listItem(rows[i]);
    if (!item || item.indent < indent) break;
    if (item.indent > indent && list.lastChild) {
      const [inner, next] = markdownList(rows, i, item.indent);
      list.lastChild.append(inner);
      i = next;
      continue;
    }
    const task = /^\[([ xX])\]\s+(.*)$/.exec(item.text);
    list.append(h("li", {}, task ? (task[1] === " " ? "☐ " : "☑ ") : null, inline(task ? task[2] : item.text, inlineMarkdown)));
    i++;
  }
  return [list, i];
}

function markdownTable(rows, i) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split("|").map((c) => inline(c.trim(), inlineMarkdown));
  const table = h("table", {}, h("tr", {}, cells(rows[i]).map((c) => h("th", {}, c))));
  i += 2;
  while (i < rows.length && /^\s*\|.*\|\s*$/.test(rows[i])) table.append(h("tr", {}, cells(rows[i++]).map((c) => h("td", {}, c))));
  return [h("div", { class: "table" }, table), i];
}

// textObject renders {type: "mrkdwn"|"plain_text", text}; null without one.
export function textObject(o) {
  if (!o) return null;
  return o.type === "mrkdwn" ? mrkdwn(o.text) : withEmoji(o.text);
}

// richText renders a rich_text block.
export function richText(block) {
  return h("div", { class: "text" }, (block?.elements || []).map(richPart));
}

function richPart(e) {
  const inner = () => (e.elements || []).map(richInline);
  switch (e.type) {
    case "rich_text_preformatted": return h("pre", {}, inner());
    case "rich_text_quote": return h("blockquote", {}, inner());
    case "rich_text_list":
      return richList(e);
    default: return h("div", { class: "rich" }, inner());
  }
}

// richList renders a list, whose depth is its indent and whose numbers go on
// from its offset.
function richList(e) {
  const ordered = e.style === "ordered";
  return h(ordered ? "ol" : "ul", { class: "indent-" + Math.min(e.indent || 0, 6), start: ordered && (e.offset || 0) + 1 },
    e.elements.map((i) => h("li", {}, (i.elements || []).map(richInline))));
}

function richInline(e) {
  const styled = (node) => {
    for (const [name, tag] of [["code", "code"], ["bold", "b"], ["italic", "i"], ["strike", "s"]]) if (e.style?.[name]) node = h(tag, {}, node);
    return node;
  };
  switch (e.type) {
    case "user": return mention(e.user_id);
    case "channel": return token("#" + e.channel_id);
    case "broadcast": return token("!" + e.range);
    case "emoji": return icon(e.name);
    case "link": return styled(link(e.url, e.text || e.url));
    default: return styled(h("span", { class: "pre" }, withEmoji(e.text || "")));
  }
}
