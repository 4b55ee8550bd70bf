// Charts: SVG, drawn anew when the width changes, with values under the pointer or the arrow keys.

const lineAt = (x1, y1, x2, y2, keys) => svg("line", { x1, y1, x2, y2, ...keys });
const dotAt = (cx, cy, r, fill) => svg("circle", { cx, cy, r, style: { fill } });
const textAt = (name, x, y, text, anchor) => svg("text", { class: name, x, y, text, "text-anchor": anchor });
const drawing = (width, height, keys, ...children) =>
  svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", ...keys }, ...children);
const figureOf = (title, ...children) =>
  el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("span", { class: "chart-title", text: title })),
    ...children,
  );

const MARGIN = { top: 14, right: 14, bottom: 34, left: 46 };

// Curves over a common axis.
//   series: {name, colour, xs, ys, width, opacity, dash, dots, silent}; silent ones have neither legend nor values.
//   x: {label, min, max, whole}; y: {min, max, value}, a function that shows a value; marks: {at, text, colour},
//   vertical lines.
function lineChart({ title, series, x = {}, y = {}, marks = [], height = 230, empty }) {
  const named = series.filter((one) => !one.silent);
  const node = figureOf(title);
  if (named.length > 1) node.firstChild.append(legend(named));
  const points = series.flatMap((one) => one.ys.filter(isNumber));
  if (!points.length) {
    node.append(el("p", { class: "absent", text: empty || "no values" }));
    return node;
  }
  const xsAll = series.flatMap((one) => one.xs.filter(isNumber));
  const box = {
    x0: x.min ?? Math.min(0, ...xsAll.slice(0, 1)),
    x1: x.max ?? xsAll.reduce((a, b) => Math.max(a, b), 0),
    y0: y.min ?? 0,
    y1: y.max ?? points.reduce((a, b) => Math.max(a, b), 0) * 1.06,
  };
  if (box.x1 <= box.x0) box.x1 = box.x0 + 1;
  if (box.y1 <= box.y0) box.y1 = box.y0 + 1;
  const tip = el("div", { class: "tip", hidden: true });
  const canvas = el("div", { class: "canvas" }, tip);
  const spoken = el("span", { class: "spoken", "aria-live": "polite" });
  node.append(canvas, spoken);
  const state = { title, series, named, x, y, marks, height, box, canvas, tip, spoken, at: null };
  watchWidth(canvas, (width) => drawLines(state, width));
  return node;
}

function legend(named) {
  return el(
    "span",
    { class: "legend" },
    named.map((one) => {
      const stroke = { "stroke-width": 2.5, "stroke-dasharray": one.dash, style: { stroke: one.colour } };
      const sample = svg(
        "svg",
        { width: 20, height: 10, "aria-hidden": "true" },
        lineAt(1, 5, 19, 5, stroke),
      );
      return el("span", { title: one.name }, sample, briefRun(one.name, 32));
    }),
  );
}

function watchWidth(node, draw) {
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(node.clientWidth);
    if (width > 60 && width !== last) {
      last = width;
      draw(width);
    }
  }).observe(node);
}

function axes(state, width) {
  const { box, x, height } = state;
  const inner = {
    left: MARGIN.left,
    right: width - MARGIN.right,
    top: MARGIN.top,
    bottom: height - MARGIN.bottom,
  };
  const toX = (value) => inner.left + ((value - box.x0) / (box.x1 - box.x0)) * (inner.right - inner.left);
  const toY = (value) => inner.bottom - ((value - box.y0) / (box.y1 - box.y0)) * (inner.bottom - inner.top);
  const parts = [];
  for (const value of ticks(box.y0, box.y1, (inner.bottom - inner.top) / 40)) {
    const at = toY(value);
    parts.push(
      lineAt(inner.left, at, inner.right, at, { class: value === 0 ? "axis" : "grid" }),
      textAt("tick", inner.left - 8, at + 4, short(value), "end"),
    );
  }
  for (const value of ticks(box.x0, box.x1, (inner.right - inner.left) / 80, x.whole)) {
    parts.push(textAt("tick", toX(value), inner.bottom + 17, short(value), "middle"));
  }
  parts.push(textAt("axis-name", inner.right, height - 3, x.label || "", "end"));
  return { inner, toX, toY, parts };
}

function pathOf(one, toX, toY) {
  let path = "";
  let isOpen = false;
  one.ys.forEach((value, k) => {
    if (!isNumber(value) || !isNumber(one.xs[k])) {
      isOpen = false;
      return;
    }
    path += `${isOpen ? "L" : "M"}${toX(one.xs[k]).toFixed(1)} ${toY(value).toFixed(1)}`;
    isOpen = true;
  });
  return path;
}

function drawLines(state, width) {
  const { series, marks, height, box, canvas, title } = state;
  const { inner, toX, toY, parts } = axes(state, width);
  for (const { at, text, colour } of marks) {
    const left = toX(at);
    const flip = left > inner.right - 70;
    parts.push(
      lineAt(left, inner.top - 6, left, inner.bottom, { class: "mark", style: { stroke: colour ?? "" } }),
      textAt("mark-name", left + (flip ? -5 : 5), inner.top + 2, text, flip ? "end" : "start"),
    );
  }
  for (const one of series) {
    parts.push(
      svg("path", {
        class: "curve",
        d: pathOf(one, toX, toY),
        "stroke-width": one.width || 2,
        "stroke-dasharray": one.dash,
        opacity: one.opacity,
        style: { stroke: one.colour },
      }),
    );
    const isDotted = (one.dots && one.ys.length <= 40) || one.ys.filter(isNumber).length === 1;
    one.ys.forEach((value, k) => {
      if (isDotted && isNumber(value)) parts.push(dotAt(toX(one.xs[k]), toY(value), 2.6, one.colour));
    });
  }
  const cursor = svg("g", { class: "cursor" });
  const spoken = `${title}. ${reading(state)} Arrow keys read the values.`;
  const chart = drawing(width, height, { tabindex: 0, "aria-label": spoken }, parts, cursor);
  canvas.querySelector("svg")?.remove();
  canvas.prepend(chart);
  const show = (at) => showValues(state, { inner, toX, toY, cursor, width }, at);
  chart.addEventListener("pointermove", (event) => {
    const left = event.clientX - chart.getBoundingClientRect().left;
    show(box.x0 + ((left - inner.left) / (inner.right - inner.left)) * (box.x1 - box.x0));
  });
  const hide = () => {
    state.at = null;
    cursor.replaceChildren();
    state.tip.hidden = true;
  };
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const step = arrowStep(event);
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const stops = [...new Set(state.named.flatMap((one) => one.xs.filter(isNumber)))].sort((a, b) => a - b);
    if (!stops.length) return;
    const here = state.at === null ? -1 : nearest(stops, state.at);
    show(stops[Math.min(Math.max(here + step, 0), stops.length - 1)]);
    state.spoken.textContent = state.tip.innerText;
  });
}

// The last value of each curve, for those who do not see them.
function reading({ named, y }) {
  const parts = named.slice(0, 6).map((one) => {
    const known = one.ys.filter(isNumber);
    return `${one.name} ends at ${(y.value || short)(known[known.length - 1])}`;
  });
  return `${parts.join(", ")}.`;
}

function nearest(sorted, value) {
  let best = 0;
  sorted.forEach((one, k) => {
    if (Math.abs(one - value) < Math.abs(sorted[best] - value)) best = k;
  });
  return best;
}

// Whether a curve has a value at or about a place: it ends half a step beyond its ends.
function reaches(one, at) {
  const known = one.xs.filter((value, k) => isNumber(value) && isNumber(one.ys[k]));
  const [first, last] = [known[0], known[known.length - 1]];
  const half = known.length > 1 ? (last - first) / (known.length - 1) / 2 : 0;
  return at >= first - half - 1e-9 && at <= last + half + 1e-9;
}

function showValues(state, { inner, toX, toY, cursor, width }, at) {
  const { named, tip, x, y } = state;
  const found = named.flatMap((one) => {
    const known = one.xs.map((value, k) => [value, one.ys[k]]).filter(([a, b]) => isNumber(a) && isNumber(b));
    if (!known.length) return [];
    const xs = known.map(([value]) => value);
    return [[one, known[nearest(xs, at)]]];
  });
  if (!found.length) return;
  const closest = found.reduce((a, b) => (Math.abs(b[1][0] - at) < Math.abs(a[1][0] - at) ? b : a))[1][0];
  state.at = closest;
  const left = toX(closest);
  cursor.replaceChildren(lineAt(left, inner.top, left, inner.bottom));
  tip.replaceChildren(el("b", { text: `${x.label || ""} ${short(closest)}` }));
  for (const [one, [xValue, yValue]] of found) {
    if (!reaches(one, closest)) continue;
    cursor.append(dotAt(toX(xValue), toY(yValue), 4, one.colour));
    const value = el("b", { text: (y.value || short)(yValue) });
    tip.append(el("span", {}, swatch(one.colour), `${briefRun(one.name, 32)} `, value));
  }
  tip.hidden = false;
  const room = tip.offsetWidth + 14;
  tip.style.left = `${Math.max(0, left + room > width ? left - room : left + 14)}px`;
  tip.style.top = `${inner.top}px`;
}

// How often detections of a confidence are right: bars, beside the line where confidence keeps its word.
function reliabilityChart(bins) {
  const canvas = el("div", { class: "canvas" });
  const most = Math.max(...bins.map((bin) => bin.count), 1);
  watchWidth(canvas, (width) => {
    const state = { box: { x0: 0, x1: 1, y0: 0, y1: 1 }, x: { label: "confidence" }, height: 280 };
    const { inner, toX, toY, parts } = axes(state, width);
    parts.push(lineAt(toX(0), toY(0), toX(1), toY(1), { class: "mark" }));
    for (const bin of bins.filter((one) => one.count && isNumber(one.accuracy))) {
      const [left, right] = [toX(bin.lower) + 1, toX(bin.upper) - 1];
      const shape = {
        x: left,
        width: Math.max(right - left, 1),
        y: toY(bin.accuracy),
        height: inner.bottom - toY(bin.accuracy),
      };
      const said = `${plural(bin.count, "detection")} of confidence ${bin.lower.toFixed(2)} to ${bin.upper.toFixed(2)}: ${percent(bin.accuracy)} right, mean confidence ${percent(bin.confidence)}`;
      const bar = svg(
        "rect",
        { ...shape, class: "bar", opacity: (0.3 + 0.6 * Math.sqrt(bin.count / most)).toFixed(2) },
        svg("title", { text: said }),
      );
      parts.push(
        bar,
        svg("circle", { class: "bin-mean", cx: toX(bin.confidence), cy: toY(bin.accuracy), r: 3 }),
      );
    }
    const said = "Share of right detections for each confidence; the dashed line is perfect calibration.";
    canvas.replaceChildren(drawing(width, 280, { "aria-label": said }, parts));
  });
  return figureOf("Share that is right, by confidence", canvas);
}

// Values with their intervals on one axis, a row for each.
function intervalChart(title, rows) {
  const known = rows.filter((row) => isNumber(row.value));
  if (!known.length) return null;
  const ends = known.flatMap((row) => [row.value, ...(row.interval || [])]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const space = Math.max((high - low) * 0.15, 0.01);
  const canvas = el("div", { class: "canvas" });
  const height = 40 + known.length * 34;
  watchWidth(canvas, (width) => {
    const left = Math.min(180, width * 0.35);
    const toX = (value) => left + ((value - low + space) / (high - low + 2 * space)) * (width - left - 60);
    const parts = ticks(low - space, high + space, width / 140).flatMap((value) => [
      lineAt(toX(value), 4, toX(value), height - 24, { class: "grid" }),
      textAt("tick", toX(value), height - 8, short(value), "middle"),
    ]);
    known.forEach((row, k) => {
      const at = 22 + k * 34;
      const [from, to] = row.interval || [row.value, row.value];
      const stroke = {
        "stroke-width": 4,
        "stroke-linecap": "round",
        opacity: 0.35,
        style: { stroke: row.colour },
      };
      parts.push(
        lineAt(toX(from), at, toX(to), at, stroke),
        dotAt(toX(row.value), at, 5.5, row.colour),
        textAt("row-name", 0, at + 4, briefRun(row.name, Math.floor(left / 8))),
        textAt("row-value", width, at + 4, figure(row.value), "end"),
      );
    });
    const said = known.map((row) => `${row.name} ${figure(row.value)}`).join(", ");
    canvas.replaceChildren(drawing(width, height, { "aria-label": `${title}: ${said}` }, parts));
  });
  return figureOf(title, canvas);
}
