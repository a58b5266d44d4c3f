// Building blocks of the page. Text always becomes text nodes: nothing that a
// message says is ever parsed as HTML.

export function h(tag, props = {}, ...children) {
  const el = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key === "class") el.className = value;
    else if (key === "data") Object.assign(el.dataset, value);
    else if (key === "testid") el.dataset.testid = value;
    else if (key === "value") el.value = value;
    else el.setAttribute(key, value === true ? "" : value);
  }
  el.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false));
  return el;
}

// arrange makes nodes the children of a box, touching only what differs.
export function arrange(box, nodes) {
  const kept = new Set(nodes);
  for (const node of [...box.childNodes]) if (!kept.has(node)) node.remove();
  let next = box.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else box.insertBefore(node, next);
  }
}

// sync turns one rendering into the next and returns the node to show: what has
// the same sign stays the node it was, a part of the same name is gone through.
export function sync(was, now) {
  if (was.sign !== undefined && was.sign === now.sign) return was;
  if (!was.part || was.part !== now.part) return now;
  for (const { name, value } of now.attributes) if (was.getAttribute(name) !== value) was.setAttribute(name, value);
  const olds = [...was.childNodes];
  arrange(was, [...now.childNodes].map((node) => {
    const at = olds.findIndex((old) => (old.sign !== undefined && old.sign === node.sign) || (old.part && old.part === node.part));
    return at < 0 ? node : sync(olds.splice(at, 1)[0], node);
  }));
  return was;
}

// safeURL lets through what a link may lead to, else nothing.
export function safeURL(text) {
  try {
    const url = new URL(text, location.href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

export function link(url, ...children) {
  const href = safeURL(url);
  return href ? h("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children) : h("span", {}, ...children);
}

let noticeTimer;

// notice shows one sentence for a moment.
export function notice(text) {
  const el = document.getElementById("notice");
  el.textContent = text;
  el.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (el.hidden = true), 5000);
}

// popover opens a box under an element; a click elsewhere or Escape closes it.
export function popover(anchor, ...children) {
  closePopover();
  const box = h("div", { class: "popover", role: "menu" }, children);
  document.getElementById("layer").append(box);
  const at = anchor.getBoundingClientRect();
  const size = box.getBoundingClientRect();
  const below = at.bottom + 4 + size.height < innerHeight;
  box.style.setProperty("left", Math.max(8, Math.min(at.left, innerWidth - size.width - 8)) + "px");
  box.style.setProperty("top", Math.max(8, below ? at.bottom + 4 : at.top - size.height - 4) + "px");
  return box;
}

export function closePopover() {
  document.querySelectorAll("#layer > .popover").forEach((p) => p.remove());
}

document.addEventListener("pointerdown", (e) => {
  if (!e.target.closest(".popover")) closePopover();
}, true);

export function time(ts) {
  return new Date(parseFloat(ts) * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export function day(ts) {
  const d = new Date(parseFloat(ts) * 1000);
  const today = new Date();
  if (d.toDateString() === today.toDateString()) return "Today";
  today.setDate(today.getDate() - 1);
  if (d.toDateString() === today.toDateString()) return "Yesterday";
  return d.toLocaleDateString([], { weekday: "long", month: "long", day: "numeric" });
}
