// Shared by all parts: the data, elements, figures as text.

const data = JSON.parse(document.getElementById("data").textContent);
const { runs } = data;
const isSeveral = runs.length > 1;
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];
// There are fewer colours than there may be runs: from then on lines are dashed.
const runDash = (k) => [null, "7 3", "2 3", "9 3 2 3"][Math.floor(k / COLOURS.length) % 4];
const runColour = (k) => COLOURS[k % COLOURS.length];

// An element; keys are attributes, but `text`, `style` (an object), and `on...` for listeners. Text is never
// read as HTML.
function fill(node, keys, children) {
  for (const [key, value] of Object.entries(keys || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key === "style") Object.assign(node.style, value);
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (tag, keys, ...children) => fill(document.createElement(tag), keys, children);
const svg = (tag, keys, ...children) => fill(document.createElementNS(SVG, tag), keys, children);
const pushButton = (text, onclick, keys) => el("button", { type: "button", text, onclick, ...keys });
const swatch = (colour) => el("i", { class: "swatch", style: { background: colour } });
// The step that an arrow key asks for.
const arrowStep = (event) => ({ ArrowRight: 1, ArrowLeft: -1 })[event.key];
// A table in a box that scrolls.
const scrollTable = (label, name, head, rows, caption = label) =>
  el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el(
      "table",
      { class: name },
      el("caption", { class: "spoken", text: caption }),
      el("thead", {}, head),
      rows,
    ),
  );

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (digits) => (value) => (isNumber(value) ? value.toFixed(digits) : "–");
const share = fixed(3);
// COCO says -1 where there is no object of a size.
const figure = (value) => (isNumber(value) && value >= 0 ? value.toFixed(3) : "–");
const count = (value) => (isNumber(value) ? value.toLocaleString("en-GB") : "–");
const percent = (value) =>
  isNumber(value) ? `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %` : "–";
const plural = (n, word, more) => `${count(n)} ${n === 1 ? word : more || word + "s"}`;
// A name within a sentence, however long it is.
const brief = (name, most = 40) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
// A run's name where there is little room: names of runs often differ in their ends only.
function briefRun(name, most = 20) {
  if (name.length <= most) return name;
  const end = Math.floor((most - 1) / 2);
  return `${name.slice(0, most - 1 - end)}…${name.slice(-end)}`;
}
// A name in a cell of its own: what has no room is shown by pointing at it.
const nameCell = (name, shown = name) => el("span", { class: "name", title: name, text: shown });
// "a", "a and b", "a and 9 others".
function namesInWords(names) {
  if (names.length > 2) return `${brief(names[0])} and ${count(names.length - 1)} others`;
  return names.map((name) => brief(name)).join(" and ");
}
const fileName = (path) => String(path).split(/[\\/]/).pop();

// A number of any size in few letters: 0.0021, 3.4, 120.
function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  if (size >= 1000) return count(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function day(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return "–";
  const shown = {
    day: "numeric",
    month: "long",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    timeZone: "UTC",
  };
  return `${time.toLocaleString("en-GB", shown)} UTC`;
}

// Round values from `low` to `high`, about `wanted` of them.
function ticks(low, high, wanted, whole) {
  const rough = (high - low) / Math.max(wanted, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

// Mean over a window of a twentieth of the curve; gaps stay gaps.
function smooth(values) {
  const half = Math.max(1, Math.floor(values.length / 40));
  return values.map((value, k) => {
    if (!isNumber(value)) return null;
    const near = values.slice(Math.max(0, k - half), k + half + 1).filter(isNumber);
    return near.reduce((sum, one) => sum + one, 0) / near.length;
  });
}

// A part of the page: heading, a sentence that says what is to be seen, content; or why there is none.
function section(id, title, lead, ...content) {
  const head = [
    el("h2", { id: `${id}-title`, text: title }),
    lead ? el("p", { class: "lead", text: lead }) : null,
  ];
  return el("section", { id, "aria-labelledby": `${id}-title` }, ...head, ...content);
}
const absent = (id, title, why) => section(id, title, null, el("p", { class: "absent", text: why }));
const note = (text) => el("p", { class: "note", text });

function choice(label, options, onchange) {
  const select = el(
    "select",
    { onchange: () => onchange(select.value) },
    options.map(([value, text]) => el("option", { value, text })),
  );
  return el("label", { class: "choice" }, el("span", { text: label }), select);
}

// Buttons of which one is pressed.
function segmented(label, options, onchange) {
  const press = (pressed, value) => {
    buttons.forEach((one, k) => one.setAttribute("aria-pressed", String(k === pressed)));
    onchange(value);
  };
  const buttons = options.map(([value, text], k) =>
    pushButton(text, () => press(k, value), { "aria-pressed": String(k === 0) }),
  );
  return el("div", { class: "segmented", role: "group", "aria-label": label }, buttons);
}
