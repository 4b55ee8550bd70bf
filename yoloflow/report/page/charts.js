// Charts: SVG, drawn anew when the width changes, with values under the pointer or the arrow keys.

const MARGIN = { top: 14, right: 14, bottom: 34, left: 46 };

// Curves over a common axis.
//   series: {name, colour, xs, ys, width, opacity, dash, dots, silent}; silent ones have neither legend nor values.
//   x, y: {label, min, max, whole, format}; marks: {at, text, colour}, vertical lines.
function lineChart({ title, series, x = {}, y = {}, marks = [], height = 230, empty }) {
  const named = series.filter((one) => !one.silent);
  const figureNode = el("figure", { class: "chart" });
  const caption = el("figcaption", {}, el("span", { class: "chart-title", text: title }));
  if (named.length > 1) caption.append(legend(named));
  figureNode.append(caption);
  const points = series.flatMap((one) => one.ys.filter(isNumber));
  if (!points.length) {
    figureNode.append(el("p", { class: "absent", text: empty || "no values" }));
    return figureNode;
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
  const canvas = el("div", { class: "canvas" });
  const tip = el("div", { class: "tip", hidden: true });
  const spoken = el("span", { class: "spoken", "aria-live": "polite" });
  canvas.append(tip);
  figureNode.append(canvas, spoken);
  const state = { title, series, named, x, y, marks, height, box, canvas, tip, spoken, at: null };
  watchWidth(canvas, (width) => drawLines(state, width));
  return figureNode;
}

function legend(named) {
  return el(
    "span",
    { class: "legend" },
    named.map((one) => {
      const line = svg("line", {
        x1: 1,
        x2: 19,
        y1: 5,
        y2: 5,
        "stroke-width": 2.5,
        "stroke-dasharray": one.dash,
      });
      line.style.stroke = one.colour;
      const sample = svg("svg", { width: 20, height: 10, "aria-hidden": "true" }, line);
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
  const { box, x, y, height } = state;
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
      svg("line", { class: value === 0 ? "axis" : "grid", x1: inner.left, x2: inner.right, y1: at, y2: at }),
      svg("text", {
        class: "tick",
        x: inner.left - 8,
        y: at + 4,
        "text-anchor": "end",
        text: (y.format || short)(value),
      }),
    );
  }
  for (const value of ticks(box.x0, box.x1, (inner.right - inner.left) / 80, x.whole)) {
    parts.push(
      svg("text", {
        class: "tick",
        x: toX(value),
        y: inner.bottom + 17,
        "text-anchor": "middle",
        text: short(value),
      }),
    );
  }
  parts.push(
    svg("text", {
      class: "axis-name",
      x: inner.right,
      y: height - 3,
      "text-anchor": "end",
      text: x.label || "",
    }),
  );
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
  for (const mark of marks) {
    const line = svg("line", {
      class: "mark",
      x1: toX(mark.at),
      x2: toX(mark.at),
      y1: inner.top - 6,
      y2: inner.bottom,
    });
    if (mark.colour) line.style.stroke = mark.colour;
    const flip = toX(mark.at) > inner.right - 70;
    const label = {
      class: "mark-name",
      x: toX(mark.at) + (flip ? -5 : 5),
      y: inner.top + 2,
      text: mark.text,
    };
    parts.push(line, svg("text", { ...label, "text-anchor": flip ? "end" : "start" }));
  }
  for (const one of series) {
    const shown = {
      class: "curve",
      d: pathOf(one, toX, toY),
      "stroke-width": one.width || 2,
      "stroke-dasharray": one.dash,
    };
    const line = svg("path", { ...shown, opacity: one.opacity });
    line.style.stroke = one.colour;
    parts.push(line);
    const isSparse = one.dots && one.ys.length <= 40;
    one.ys.forEach((value, k) => {
      if (!isNumber(value) || !(isSparse || one.ys.filter(isNumber).length === 1)) return;
      const dot = svg("circle", { cx: toX(one.xs[k]), cy: toY(value), r: 2.6 });
      dot.style.fill = one.colour;
      parts.push(dot);
    });
  }
  const cursor = svg("g", { class: "cursor" });
  const picture = svg(
    "svg",
    {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      tabindex: 0,
      "aria-label": `${title}. ${reading(state)} Arrow keys read the values.`,
    },
    parts,
    cursor,
  );
  canvas.querySelector("svg")?.remove();
  canvas.prepend(picture);
  const show = (at) => showValues(state, { inner, toX, toY, cursor, width }, at);
  picture.addEventListener("pointermove", (event) => {
    const left = event.clientX - picture.getBoundingClientRect().left;
    show(box.x0 + ((left - inner.left) / (inner.right - inner.left)) * (box.x1 - box.x0));
  });
  const hide = () => {
    state.at = null;
    cursor.replaceChildren();
    state.tip.hidden = true;
  };
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
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
    return `${one.name} ends at ${(y.value || y.format || short)(known[known.length - 1])}`;
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
    return [
      [
        one,
        known[
          nearest(
            known.map(([a]) => a),
            at,
          )
        ],
      ],
    ];
  });
  if (!found.length) return;
  const closest = found.reduce((a, b) => (Math.abs(b[1][0] - at) < Math.abs(a[1][0] - at) ? b : a))[1][0];
  state.at = closest;
  cursor.replaceChildren(
    svg("line", { x1: toX(closest), x2: toX(closest), y1: inner.top, y2: inner.bottom }),
  );
  tip.replaceChildren(el("b", { text: `${x.label || ""} ${short(closest)}` }));
  for (const [one, [xValue, yValue]] of found) {
    if (!reaches(one, closest)) continue;
    const dot = svg("circle", { cx: toX(xValue), cy: toY(yValue), r: 4 });
    dot.style.fill = one.colour;
    cursor.append(dot);
    const swatch = el("i");
    swatch.style.background = one.colour;
    tip.append(
      el(
        "span",
        {},
        swatch,
        `${briefRun(one.name, 32)} `,
        el("b", { text: (y.value || y.format || short)(yValue) }),
      ),
    );
  }
  tip.hidden = false;
  const left = toX(closest);
  const room = tip.offsetWidth + 14;
  tip.style.left = `${Math.max(0, left + room > width ? left - room : left + 14)}px`;
  tip.style.top = `${inner.top}px`;
}

// How often detections of a confidence are right: bars, beside the line where confidence keeps its word.
function reliabilityChart(bins) {
  const canvas = el("div", { class: "canvas" });
  const most = Math.max(...bins.map((bin) => bin.count), 1);
  watchWidth(canvas, (width) => {
    const state = { box: { x0: 0, x1: 1, y0: 0, y1: 1 }, x: { label: "confidence" }, y: {}, height: 280 };
    const { inner, toX, toY, parts } = axes(state, width);
    parts.push(svg("line", { class: "mark", x1: toX(0), y1: toY(0), x2: toX(1), y2: toY(1) }));
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
    const label = "Share of right detections for each confidence; the dashed line is perfect calibration.";
    const picture = svg(
      "svg",
      { width, height: 280, viewBox: `0 0 ${width} 280`, role: "img", "aria-label": label },
      parts,
    );
    canvas.replaceChildren(picture);
  });
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("span", { class: "chart-title", text: "Share that is right, by confidence" })),
    canvas,
  );
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
      svg("line", { class: "grid", x1: toX(value), x2: toX(value), y1: 4, y2: height - 24 }),
      svg("text", {
        class: "tick",
        x: toX(value),
        y: height - 8,
        "text-anchor": "middle",
        text: short(value),
      }),
    ]);
    known.forEach((row, k) => {
      const at = 22 + k * 34;
      const [from, to] = row.interval || [row.value, row.value];
      const line = svg("line", {
        x1: toX(from),
        x2: toX(to),
        y1: at,
        y2: at,
        "stroke-width": 4,
        "stroke-linecap": "round",
        opacity: 0.35,
      });
      const dot = svg("circle", { cx: toX(row.value), cy: at, r: 5.5 });
      line.style.stroke = dot.style.fill = row.colour;
      parts.push(line, dot);
      parts.push(
        svg("text", {
          class: "row-name",
          x: 0,
          y: at + 4,
          text: briefRun(row.name, Math.floor(left / 8)),
        }),
      );
      parts.push(
        svg("text", {
          class: "row-value",
          x: width,
          y: at + 4,
          "text-anchor": "end",
          text: figure(row.value),
        }),
      );
    });
    const said = known.map((row) => `${row.name} ${figure(row.value)}`).join(", ");
    canvas.replaceChildren(
      svg(
        "svg",
        { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${said}` },
        parts,
      ),
    );
  });
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("span", { class: "chart-title", text: title })),
    canvas,
  );
}
