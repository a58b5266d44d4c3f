// Modals and App Home.

import { h, notice } from "./dom.js";
import { textObject } from "./mrkdwn.js";
import { Surface, renderBlocks } from "./blocks.js";
import { practice, state } from "./api.js";

const surfaces = new Map(); // what is filled in survives an update of the view

function surfaceOf(view) {
  if (!surfaces.has(view.id)) surfaces.set(view.id, new Surface({ view_id: view.id }));
  return surfaces.get(view.id);
}

// renderModals shows the topmost modal of the person one is.
export function renderModals() {
  document.querySelector("#layer > .modal-veil")?.remove();
  const view = state.modals.at(-1);
  for (const id of surfaces.keys()) if (id !== state.home?.id && !state.modals.some((v) => v.id === id)) surfaces.delete(id);
  if (!view) return;
  const close = (all) => practice("close", { view_id: view.id, all });
  const submit = async (e) => {
    e.preventDefault();
    const button = box.querySelector("[data-testid=modal-submit]");
    button.classList.add("busy");
    const res = await practice("submit", { view_id: view.id, state: [...surfaceOf(view).choices.values()] });
    button.classList.remove("busy");
    showErrors(box, res.errors || {});
    if (!res.ok) notice(res.error === "no_response" ? `${state.boot.bot.app} did not respond. Try again.` : res.error);
  };
  const box = h("div", { class: "veil modal-veil" }, h("form", { class: "dialog modal", role: "dialog", "aria-modal": "true", testid: "modal", novalidate: true, data: { viewId: view.id, callbackId: view.callback_id }, onsubmit: submit },
    h("header", {}, h("h2", {}, textObject(view.title)), h("button", { class: "icon-button", type: "button", "aria-label": "Close", testid: "modal-close", onclick: () => close(true) }, "✕")),
    h("div", { class: "dialog-body" }, renderBlocks(view.blocks || [], surfaceOf(view))),
    h("footer", {}, h("button", { class: "button", type: "button", onclick: () => close(false) }, view.previous_view_id ? "Back" : textObject(view.close) || "Cancel"),
      view.submit && h("button", { class: "button primary", testid: "modal-submit" }, textObject(view.submit)))));
  document.getElementById("layer").append(box);
  box.querySelector(".field")?.focus();
}

function showErrors(box, errors) {
  box.querySelectorAll("[data-testid=field-error]").forEach((e) => e.remove());
  for (const [block, text] of Object.entries(errors)) {
    const at = [...box.querySelectorAll("[data-block-id]")].find((e) => e.dataset.blockId === block) || box.querySelector(".dialog-body");
    at.append(h("p", { class: "error", testid: "field-error" }, text));
  }
}

export function renderHome() {
  if (!state.home) return h("div", { class: "empty" }, h("h2", {}, `${state.boot.bot.app} has no home yet`), h("p", {}, "It fills in as soon as the app has something to show you."));
  return h("div", { class: "home", testid: "home-view" }, renderBlocks(state.home.blocks || [], surfaceOf(state.home)));
}
