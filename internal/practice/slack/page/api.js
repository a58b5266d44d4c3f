// Talking to the stand-in: Slack's Web API as the person one is, and the
// practice endpoints for what Slack has no method for.

export const state = {
  boot: null, // who and what there is
  as: null, // the person one is
  place: null, // {kind: "channel"|"app", id}
  thread: null, // ts of the open thread
  tab: "messages", // of the app
  messages: new Map(), // of the shown channel, by ts
  sessions: new Map(), // of the shown channel, by thread
  modals: [],
  home: null,
};

async function send(path, body) {
  const res = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer " + state.as.token },
    body: JSON.stringify(body),
  });
  return res.json();
}

export const method = (name, body) => send("/api/" + name, body);
export const practice = (name, body) => send("/practice/" + name, body);

export async function look(name, params = {}) {
  const query = new URLSearchParams(params);
  const res = await fetch("/practice/" + name + "?" + query, { headers: { Authorization: "Bearer " + state.as.token } });
  return res.json();
}

export function user(id) {
  const { people, bot } = state.boot;
  if (id === bot.id) return { id, name: bot.name, real_name: bot.app, bot: true };
  return people.find((p) => p.id === id) || { id, name: id, real_name: id === "USLACKBOT" ? "Slackbot" : id };
}

export const channelOf = (id) => state.boot.channels.find((c) => c.id === id);

// escapeText is what Slack's composer does to what one types: entities, and
// names become mentions.
export function escapeText(text) {
  const { people, bot, channels } = state.boot;
  const known = new Map([[bot.name, bot.id], ...people.map((p) => [p.name, p.id])]);
  return text
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replace(/(^|[\s(])@([a-z0-9_-]+)/g, (all, before, name) => (known.has(name) ? `${before}<@${known.get(name)}>` : all))
    .replace(/(^|\s)#([a-z0-9_-]+)/g, (all, before, name) => {
      const c = channels.find((one) => one.name === name);
      return c ? `${before}<#${c.id}|${name}>` : all;
    })
    .replace(/(^|\s)(https?:\/\/[^\s<>|]+)/g, "$1<$2>");
}

// plainText is the reverse, for editing.
export function plainText(text) {
  return text
    .replace(/<@([A-Z0-9]+)(\|[^>]*)?>/g, (all, id) => "@" + user(id).name)
    .replace(/<#[A-Z0-9]+\|([^>]*)>/g, "#$1")
    .replace(/<(https?:[^|>]+)(\|[^>]*)?>/g, "$1")
    .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}
