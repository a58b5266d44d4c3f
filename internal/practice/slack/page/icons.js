// Emoji. The ones that apps say most are drawn here, so that they look the
// same on machines without an emoji font; the others are left to the font.

const NS = "http://www.w3.org/2000/svg";
const green = "#1f9d63", red = "#d93a43", amber = "#e8a317", blue = "#3b76e8", grey = "#9a97a8", skin = "#f5b93d";

const disc = (color) => [{ d: "M10 1.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z", fill: color }];
const thumb = "M3 9h3v8H3zM7 9l3.2-6.2c1.6 0 2.4 1 2.1 2.6L11.8 8h4.4c1.2 0 1.9 1 1.6 2.1l-1.5 5.6c-.3.9-.9 1.3-1.8 1.3H7z";
const hourglass = [
  { d: "M4 2h12M4 18h12", stroke: "#7a5a2a", width: 2 },
  { d: "M5.5 3v2.6L9 10l-3.5 4.4V17h9v-2.6L11 10l3.5-4.4V3z", fill: "#eaf1fb", stroke: "#9db4d6", width: 1 },
  { d: "M7 15.8h6L10 11.5zM7.5 5.5h5L10 8.8z", fill: amber },
];
const octagon = [{ d: "M6.5 1.5h7l5 5v7l-5 5h-7l-5-5v-7z", fill: red }, { d: "M6.5 6.5h7v7h-7z", fill: "#fff" }];

const shapes = {
  white_check_mark: [{ d: "M4.5 1.5h11a3 3 0 0 1 3 3v11a3 3 0 0 1-3 3h-11a3 3 0 0 1-3-3v-11a3 3 0 0 1 3-3z", fill: green }, { d: "M5.5 10.3l3.2 3.2 6-7", stroke: "#fff", width: 2.4 }],
  heavy_check_mark: [{ d: "M3 11l4.5 4.5L17 5", stroke: green, width: 3 }],
  x: [{ d: "M4 4l12 12M16 4L4 16", stroke: red, width: 3.4 }],
  warning: [{ d: "M10 2l8.5 15.5h-17z", fill: amber, stroke: amber, width: 1.6 }, { d: "M10 7.5v5M10 15v.2", stroke: "#3b2a00", width: 2 }],
  hourglass, hourglass_flowing_sand: hourglass, octagonal_sign: octagon, stop_sign: octagon, black_square_for_stop: octagon,
  no_entry: [...disc(red), { d: "M5.5 10h9", stroke: "#fff", width: 3 }],
  large_green_circle: disc(green), large_yellow_circle: disc(amber), red_circle: disc(red), large_blue_circle: disc(blue), white_circle: disc("#d9d6e4"),
  "+1": [{ d: thumb, fill: skin, stroke: "#c98a1b", width: 0.8 }],
  "-1": [{ d: thumb, fill: skin, stroke: "#c98a1b", width: 0.8, flip: true }],
  heart: [{ d: "M10 17.5C3 12.5 1.5 9.5 1.5 7a4.3 4.3 0 0 1 8.5-1.3A4.3 4.3 0 0 1 18.5 7c0 2.5-1.5 5.5-8.5 10.5z", fill: red }],
  eyes: [{ d: "M5.5 4.5c2.2 0 4 2.5 4 5.5s-1.8 5.5-4 5.5-4-2.5-4-5.5 1.8-5.5 4-5.5zM14.5 4.5c2.2 0 4 2.5 4 5.5s-1.8 5.5-4 5.5-4-2.5-4-5.5 1.8-5.5 4-5.5z", fill: "#fff", stroke: grey, width: 1 }, { d: "M4 10h.1M13 10h.1", stroke: "#222", width: 4.4 }],
  tada: [{ d: "M2 18L7.5 6.5l6 6z", fill: amber }, { d: "M11 6l2-4M13 8.5l4-1M10 4V2M16 12l2 1M15 4l.1.1", stroke: blue, width: 1.8 }],
  link: [{ d: "M8.5 11.5l3-3M9 6.5l2-2a3.2 3.2 0 0 1 4.5 4.5l-2 2M11 13.5l-2 2A3.2 3.2 0 0 1 4.5 11l2-2", stroke: "#6b7a90", width: 2 }],
  speech_balloon: [{ d: "M3 3h14a1.5 1.5 0 0 1 1.5 1.5v8A1.5 1.5 0 0 1 17 14h-7l-4 4v-4H3a1.5 1.5 0 0 1-1.5-1.5v-8A1.5 1.5 0 0 1 3 3z", fill: "#dfe6f3", stroke: grey, width: 1 }],
  inbox_tray: [{ d: "M2 11h4l1.5 3h5L14 11h4v6H2z", fill: "#b9c6dd" }, { d: "M10 2v7M6.8 6.2L10 9.4l3.2-3.2", stroke: blue, width: 2 }],
  memo: [{ d: "M3 2h11v16H3z", fill: "#fff", stroke: grey, width: 1 }, { d: "M5.5 6h6M5.5 9h6M5.5 12h3", stroke: grey, width: 1.2 }, { d: "M10 14l7-7", stroke: amber, width: 2.6 }],
  rocket: [{ d: "M16.5 3.5c-5 0-8.5 4-10 8l2 2c4-1.5 8-5 8-10z", fill: "#c9d3e6" }, { d: "M5 12l-2 5 5-2M7 8H4l-2 3M12 13v3l-3 2", stroke: red, width: 1.6 }, { d: "M12.5 7.5h.1", stroke: blue, width: 3 }],
  robot_face: [{ d: "M3 6h14v11H3z", fill: "#c3cede" }, { d: "M10 6V2.5M7 10h.1M13 10h.1", stroke: "#35425c", width: 2.4 }, { d: "M7 14h6", stroke: "#35425c", width: 1.5 }],
  wastebasket: [{ d: "M4 6h12M8 6V3.5h4V6M5.5 6l1 11.5h7l1-11.5", stroke: grey, width: 1.6 }],
  page_facing_up: [{ d: "M4 2h8l4 4v12H4z", fill: "#fff", stroke: grey, width: 1.2 }, { d: "M6.5 9h7M6.5 12h7M6.5 15h4", stroke: grey, width: 1.2 }],
};
shapes.thumbsup = shapes["+1"];
shapes.thumbsdown = shapes["-1"];

const glyphs = {
  bug: "🐛", gear: "⚙️", thinking_face: "🤔", wave: "👋", fire: "🔥", sparkles: "✨", hammer_and_wrench: "🛠️", package: "📦", lock: "🔒", key: "🔑",
  mag: "🔍", bulb: "💡", clock1: "🕐", stopwatch: "⏱️", arrows_counterclockwise: "🔄", repeat: "🔁", computer: "💻", seedling: "🌱", point_right: "👉",
  zap: "⚡", moneybag: "💰", question: "❓", exclamation: "❗", information_source: "ℹ️", twisted_rightwards_arrows: "🔀", construction: "🚧", smile: "😄",
  joy: "😂", pray: "🙏", clap: "👏", 100: "💯", pushpin: "📌", raised_hands: "🙌", camera: "📷", globe_with_meridians: "🌐", checkered_flag: "🏁",
};

// characters that are drawn although they were typed as such
const drawn = {
  "✅": "white_check_mark", "❌": "x", "⚠️": "warning", "⚠": "warning", "⏳": "hourglass", "⌛": "hourglass", "🛑": "octagonal_sign", "⛔": "no_entry",
  "🟢": "large_green_circle", "🟡": "large_yellow_circle", "🔴": "red_circle", "🔵": "large_blue_circle", "👍": "+1", "👎": "-1", "👀": "eyes", "🎉": "tada",
  "🔗": "link", "💬": "speech_balloon", "📝": "memo", "🚀": "rocket", "🤖": "robot_face", "📥": "inbox_tray", "❤️": "heart", "📄": "page_facing_up",
};
const anyEmoji = new RegExp(":[a-z0-9_+-]+:|" + Object.keys(drawn).join("|"), "gu");

// icon is one emoji by name.
export function icon(name) {
  const shape = shapes[name.split("::")[0]];
  if (!shape) return document.createTextNode(glyphs[name] || `:${name}:`);
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "emoji");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", name.replaceAll("_", " "));
  for (const part of shape) {
    const path = document.createElementNS(NS, "path");
    path.setAttribute("d", part.d);
    path.setAttribute("fill", part.fill || "none");
    if (part.flip) path.setAttribute("transform", "rotate(180 10 10)");
    if (part.stroke) {
      path.setAttribute("stroke", part.stroke);
      path.setAttribute("stroke-width", part.width);
      path.setAttribute("stroke-linecap", "round");
      path.setAttribute("stroke-linejoin", "round");
    }
    svg.append(path);
  }
  return svg;
}

// withEmoji splits text into text and icons.
export function withEmoji(text) {
  const out = [];
  let at = 0;
  for (const m of text.matchAll(anyEmoji)) {
    const name = drawn[m[0]] || m[0].slice(1, -1);
    if (!shapes[name] && !glyphs[name]) continue;
    if (m.index > at) out.push(text.slice(at, m.index));
    out.push(icon(name));
    at = m.index + m[0].length;
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}
