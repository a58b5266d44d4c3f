// Block Kit: every kind of block that the stand-in accepts, and the elements
// in them. A surface says where they are: it sends clicks, and collects what
// elements hold.

import { icon } from "./icons.js";
import { closePopover, h, link, notice, popover, safeURL } from "./dom.js";
import { mrkdwn, markdown, richText, textObject } from "./mrkdwn.js";
import { practice, state, user } from "./api.js";

// Surface is a message, a modal or App Home. where names it to the stand-in.
export class Surface {
  constructor(where) {
    this.where = where;
    this.choices = new Map(); // what elements hold, by block and action
  }
  set(block, element, choice) {
    this.choices.set(block.block_id + "/" + element.action_id, { block_id: block.block_id, action_id: element.action_id, ...choice });
  }
  get(block, element) {
    return this.choices.get(block.block_id + "/" + element.action_id);
  }
  // click tells the app of a choice, after asking if the element says so.
  async click(block, element, choice, node) {
    if (element.confirm && !(await ask(element.confirm))) return;
    node?.classList.add("busy");
    const res = await practice("click", {
      ...this.where, block_id: block.block_id, action_id: element.action_id, ...choice, state: [...this.choices.values()],
    });
    node?.classList.remove("busy");
    if (!res.ok) notice(res.error === "no_response" ? `${state.boot.bot.app} did not respond. Try again.` : "That did not work: " + res.error);
  }
}

export function renderBlocks(blocks, surface) {
  return blocks.map((b) => {
    const make = kinds[b.type];
    const node = make ? make(b, surface) : h("div", { class: "unknown" }, "[" + b.type + "]");
    if (node) node.sign = JSON.stringify(b); // the same block keeps its node, see sync
    return node;
  });
}

const kinds = {
  section: (b, s) => h("div", { class: "block section" },
    h("div", { class: "grow" }, b.text && textObject(b.text),
      b.fields && h("div", { class: "fields" }, b.fields.map((f) => h("div", {}, textObject(f))))),
    b.accessory && h("div", { class: "accessory" }, renderElement(b.accessory, b, s))),
  header: (b) => h("h3", { class: "block header level-" + (b.level || 1) }, textObject(b.text)),
  context: (b) => h("div", { class: "block context" }, b.elements.map((e) => (e.type === "image" ? picture(e, "tiny") : h("span", {}, textObject(e))))),
  divider: () => h("hr", { class: "block" }),
  actions: (b, s) => h("div", { class: "block actions" }, b.elements.map((e) => renderElement(e, b, s))),
  context_actions: (b, s) => h("div", { class: "block actions quiet" }, b.elements.map((e) => renderElement(e, b, s))),
  markdown: (b) => h("div", { class: "block" }, markdown(b.text)),
  rich_text: (b) => h("div", { class: "block" }, richText(b)),
  image: (b) => h("figure", { class: "block" }, b.title && h("figcaption", {}, textObject(b.title)), picture(b, "large")),
  task_card: (b) => h("div", { class: "block" }, taskCard(b)),
  plan: (b) => h("div", { class: "block plan" }, h("div", { class: "plan-title" }, b.title), (b.tasks || []).map(taskCard)),
  table: (b) => h("div", { class: "block table" }, table(b)),
  data_table: (b) => h("div", { class: "block table" }, table(b)),
  container: (b, s) => container(b, s),
  alert: (b) => h("div", { class: "block alert " + (b.level || "info") }, textObject(b.text)),
  card: (b, s) => h("div", { class: "block card" }, card(b, s)),
  carousel: (b, s) => h("div", { class: "block carousel" }, b.elements.map((c) => h("div", { class: "card" }, card(c, s)))),
  input: (b, s) => h("div", { class: "block input", data: { blockId: b.block_id } },
    h("label", {}, textObject(b.label), b.optional && h("span", { class: "optional" }, " (optional)")),
    renderElement(b.element, b, s), b.hint && h("p", { class: "hint" }, textObject(b.hint))),
  video: (b) => h("div", { class: "block" }, link(b.video_url || "", textObject(b.title))),
  file: () => null,
};

function picture(b, size) {
  const src = safeURL(b.image_url || b.slack_file?.url || "");
  return src ? h("img", { class: "picture " + size, src, alt: b.alt_text || "" }) : null;
}

const taskIcons = { pending: "", in_progress: "", complete: "✓", error: "!" };

function taskCard(t) {
  const status = t.status || "pending";
  const more = [t.details, t.output].filter(Boolean);
  const title = [h("span", { class: "task-icon " + status, title: status }, taskIcons[status]), !t.hide_title && h("span", {}, t.title)];
  const sources = (t.sources || []).map((x) => link(x.url, x.text || x.url));
  if (!more.length) return h("div", { class: "task", data: { status } }, h("div", { class: "task-title" }, title), sources.length > 0 && h("div", { class: "sources" }, sources));
  return h("details", { class: "task", data: { status }, open: status === "in_progress" || status === "error" },
    h("summary", { class: "task-title" }, title), h("div", { class: "task-more" }, more.map(richText), sources));
}

function cell(c) {
  if (c.type === "rich_text") return richText(c);
  return c.text ?? String(c.value ?? "");
}

function table(b) {
  const align = (i) => "align-" + (b.column_settings?.[i]?.align || "left");
  return h("table", {}, b.rows.map((row, r) => h("tr", {}, row.map((c, i) => h(r ? "td" : "th", { class: align(i) }, cell(c))))));
}

function container(b, s) {
  const title = [b.icon && picture(b.icon, "tiny"), h("span", { class: "container-title" }, b.rich_text_title ? richText(b.rich_text_title) : textObject(b.title)),
    b.subtitle && h("span", { class: "container-subtitle" }, textObject(b.subtitle))];
  const inner = h("div", { class: "container-body" }, renderBlocks(b.child_blocks, s));
  if (!b.is_collapsible) return h("div", { class: "block container" }, h("div", { class: "container-head" }, title), inner);
  return h("details", { class: "block container", open: !b.default_collapsed }, h("summary", { class: "container-head" }, title), inner);
}

function card(b, s) {
  return [b.hero_image && picture(b.hero_image, "large"), h("b", {}, textObject(b.title)), b.subtitle && h("div", { class: "hint" }, textObject(b.subtitle)),
    textObject(b.body), b.subtext && h("div", { class: "hint" }, textObject(b.subtext)),
    b.actions && h("div", { class: "actions" }, b.actions.map((e) => renderElement(e, b, s)))];
}

function renderElement(e, b, s) {
  const make = elements[e.type];
  return make ? make(e, b, s) : h("span", { class: "unknown" }, "[" + e.type + "]");
}

const data = (e, more = {}) => ({ actionId: e.action_id, ...more });

function button(e, b, s) {
  const hidden = e.visible_to_user_ids && !e.visible_to_user_ids.includes(state.as.id);
  if (hidden) return null;
  const node = h("button", { class: "button " + (e.style || ""), data: data(e, { value: e.value || "" }), "aria-label": e.accessibility_label,
    onclick: () => {
      if (e.url && safeURL(e.url)) window.open(safeURL(e.url), "_blank", "noopener");
      s.click(b, e, { value: e.value || "" }, node);
    } }, textObject(e.text));
  return node;
}

const elements = {
  button,
  workflow_button: button,
  image: (e) => picture(e, "thumb"),
  icon_button: (e, b, s) => h("button", { class: "icon-button", title: e.text?.text, data: data(e), onclick: () => s.click(b, e, { value: e.value || "" }) }, icon("wastebasket")),
  feedback_buttons: (e, b, s) => h("span", { class: "feedback" }, [["positive_button", "+1"], ["negative_button", "-1"]].map(([side, name]) =>
    h("button", { class: "icon-button", title: e[side].text.text, data: data(e, { value: e[side].value }), onclick: (ev) => {
      ev.currentTarget.parentNode.querySelectorAll("button").forEach((x) => x.classList.toggle("chosen", x === ev.currentTarget));
      s.click(b, e, { value: e[side].value });
    } }, icon(name)))),
  overflow: (e, b, s) => h("button", { class: "icon-button overflow", "aria-label": "More", data: data(e), onclick: (ev) => {
    menu(ev.currentTarget, e.options, (o) => {
      if (o.url && safeURL(o.url)) window.open(safeURL(o.url), "_blank", "noopener");
      s.click(b, e, { value: o.value });
    });
  } }, "⋯"),
  static_select: (e, b, s) => select(e, b, s, () => groupsOf(e)),
  external_select: (e, b, s) => select(e, b, s, null),
  multi_external_select: (e, b, s) => multi(e, b, s, []),
  users_select: (e, b, s) => select(e, b, s, () => [{ options: peopleOptions() }]),
  conversations_select: (e, b, s) => select(e, b, s, () => [{ options: channelOptions() }]),
  channels_select: (e, b, s) => select(e, b, s, () => [{ options: channelOptions() }]),
  multi_static_select: (e, b, s) => multi(e, b, s, groupsOf(e).flatMap((g) => g.options)),
  multi_users_select: (e, b, s) => multi(e, b, s, peopleOptions()),
  multi_conversations_select: (e, b, s) => multi(e, b, s, channelOptions()),
  multi_channels_select: (e, b, s) => multi(e, b, s, channelOptions()),
  checkboxes: (e, b, s) => multi(e, b, s, e.options),
  radio_buttons: (e, b, s) => radios(e, b, s),
  plain_text_input: (e, b, s) => field(e, b, s, e.multiline ? "textarea" : "input", "text"),
  rich_text_input: (e, b, s) => field(e, b, s, "textarea", "text"),
  email_text_input: (e, b, s) => field(e, b, s, "input", "email"),
  url_text_input: (e, b, s) => field(e, b, s, "input", "url"),
  number_input: (e, b, s) => field(e, b, s, "input", "number"),
  datepicker: (e, b, s) => field(e, b, s, "input", "date", e.initial_date),
  timepicker: (e, b, s) => field(e, b, s, "input", "time", e.initial_time),
  datetimepicker: (e, b, s) => field(e, b, s, "input", "datetime-local"),
  file_input: () => h("input", { type: "file" }),
};

const option = (text, value) => ({ text: { type: "plain_text", text }, value });
const peopleOptions = () => [...state.boot.people.map((p) => p.id), state.boot.bot.id].map((id) => option(user(id).real_name, id));
const channelOptions = () => state.boot.channels.map((c) => option("#" + c.name, c.id));
const groupsOf = (e) => (e.option_groups ? e.option_groups : [{ options: e.options || [] }]);

function menu(anchor, options, pick) {
  popover(anchor, options.map((o) => h("button", { class: "option", role: "menuitem", testid: "option", data: { testid: "option", value: o.value },
    onclick: () => { closePopover(); pick(o); } }, textObject(o.text), o.description && h("small", {}, textObject(o.description)))));
}

// select is a menu of one choice. Without groups the app is asked as one types.
function select(e, b, s, groups) {
  const initial = e.initial_option?.text.text || e.initial_user || e.initial_channel || e.initial_conversation;
  const shown = h("span", { class: initial ? "" : "placeholder" }, initial || e.placeholder?.text || "Choose");
  const pick = (o) => {
    shown.textContent = o.text.text;
    shown.className = "";
    const choice = { value: o.value, label: o.text.text };
    s.set(b, e, choice);
    if (b.type !== "input" || b.dispatch_action) s.click(b, e, choice);
  };
  return h("button", { class: "select", type: "button", data: data(e), onclick: (ev) => openSelect(ev.currentTarget, e, b, s, groups, pick) }, shown, h("span", { class: "caret" }, "▾"));
}

function openSelect(anchor, e, b, s, groups, pick) {
  const list = h("div", { class: "options" });
  const fill = (all, query) => list.replaceChildren(...all.flatMap((g) => {
    const hits = g.options.filter((o) => o.text.text.toLowerCase().includes(query.toLowerCase()));
    return [g.label && hits.length ? h("div", { class: "group" }, textObject(g.label)) : "", ...hits.map((o) =>
      h("button", { class: "option", role: "menuitem", data: { testid: "option", value: o.value }, onclick: () => { closePopover(); pick(o); } },
        textObject(o.text), o.description && h("small", {}, textObject(o.description))))];
  }));
  const suggest = async (query) => {
    const res = await practice("suggest", { ...s.where, block_id: b.block_id, action_id: e.action_id, value: query });
    const answer = res.answer || {};
    fill(answer.option_groups || [{ options: answer.options || [] }], "");
  };
  const search = h("input", { class: "search", placeholder: "Type to find", testid: "option-search", oninput: () => (groups ? fill(groups(), search.value) : suggest(search.value)) });
  popover(anchor, search, list);
  if (groups) fill(groups(), "");
  else if (!e.min_query_length) suggest("");
  search.focus();
}

function radios(e, b, s) {
  const name = b.block_id + e.action_id;
  return h("div", { class: "choices", data: data(e) }, e.options.map((o) => h("label", {},
    h("input", { type: "radio", name, checked: e.initial_option?.value === o.value, onchange: () => {
      s.set(b, e, { value: o.value });
      if (b.type !== "input") s.click(b, e, { value: o.value });
    } }), h("span", {}, textObject(o.text), o.description && h("small", {}, textObject(o.description))))));
}

function multi(e, b, s, options) {
  const chosen = new Set((e.initial_options || []).map((o) => o.value));
  return h("div", { class: "choices", data: data(e) }, options.map((o) => h("label", {},
    h("input", { type: "checkbox", checked: chosen.has(o.value), data: { value: o.value }, onchange: (ev) => {
      if (ev.target.checked) chosen.add(o.value);
      else chosen.delete(o.value);
      s.set(b, e, { values: [...chosen] });
      if (b.type !== "input") s.click(b, e, { values: [...chosen] });
    } }), h("span", {}, textObject(o.text), o.description && h("small", {}, textObject(o.description))))));
}

function field(e, b, s, tag, type, initial) {
  const held = s.get(b, e)?.value ?? e.initial_value ?? initial ?? "";
  const node = h(tag, { class: "field", type: tag === "input" ? type : undefined, rows: tag === "textarea" ? 5 : undefined, placeholder: e.placeholder?.text,
    data: data(e), value: held, oninput: () => s.set(b, e, { value: node.value }), onchange: () => {
      if (b.type !== "input" || b.dispatch_action) s.click(b, e, { value: node.value });
    } });
  if (held) s.set(b, e, { value: held });
  return node;
}

// ask shows a confirmation dialog and resolves to what one answered.
function ask(c) {
  return new Promise((resolve) => {
    const done = (yes) => { box.remove(); resolve(yes); };
    const box = h("div", { class: "veil" }, h("div", { class: "dialog", role: "alertdialog" }, h("h2", {}, textObject(c.title)),
      h("div", { class: "dialog-body" }, c.text?.type === "mrkdwn" ? mrkdwn(c.text.text) : textObject(c.text)),
      h("footer", {}, h("button", { class: "button", testid: "deny", onclick: () => done(false) }, textObject(c.deny) || "Cancel"),
        h("button", { class: "button " + (c.style || "primary"), testid: "confirm", onclick: () => done(true) }, textObject(c.confirm) || "Yes"))));
    document.getElementById("layer").append(box);
    box.querySelector("[data-testid=confirm]").focus();
  });
}
