// The images with the worst results: boxes are drawn over them, so that they filter and stay sharp.

const KINDS = {
  missed: "an object that nothing was found for",
  background: "found where no object is",
  classification: "right place, wrong class",
  localisation: "right class, box too far off",
  both: "wrong class and box too far off",
  duplicate: "an object found once more",
  correct: "found as it is",
};
const kindColour = (kind) => `var(--kind-${kind})`;
// [x1, y1, x2, y2, category, kind, score, iou, other category, rings of its mask] of a box.
const [CATEGORY, KIND, SCORE, IOU, OTHER, RINGS] = [4, 5, 6, 7, 8, 9];
const FIRST_SHOWN = 12;
const MORE_SHOWN = 24;

function gallery(run, nameOf) {
  const { images, note: said } = run.gallery;
  const state = { category: "", kind: "", order: "worst", correct: false, most: FIRST_SHOWN };
  const grid = el("ul", { class: "gallery" });
  const told = el("p", { class: "told", "aria-live": "polite" });
  const showMore = () => {
    state.most += MORE_SHOWN;
    draw();
  };
  const more = pushButton("", showMore, { class: "more" });

  const fits = (box) => {
    const kind = box[KIND];
    if (state.kind ? kind !== state.kind : kind === "correct" && !state.correct) return false;
    return !state.category || [box[CATEGORY], box[OTHER]].map(String).includes(state.category);
  };
  // An image is shown for its errors; one without an error that fits is not.
  const isWanted = (image) =>
    image.boxes.some((box) => fits(box) && (box[KIND] !== "correct" || state.kind === "correct"));
  const orders = {
    worst: () => 0,
    missed: (a, b) => b.missed - a.missed,
    false: (a, b) => b.false_positives - a.false_positives,
  };

  function draw() {
    const wanted = images.filter(isWanted).sort(orders[state.order]);
    const shown = wanted.slice(0, state.most);
    grid.replaceChildren(
      ...shown.map((image) => card(image, fits, () => openViewer(wanted, image, fits, nameOf))),
    );
    const what = [state.kind, state.category && brief(nameOf(Number(state.category)))]
      .filter(Boolean)
      .join(", ");
    told.textContent = `${count(shown.length)} of ${plural(wanted.length, "image")}${what ? ` with ${what}` : " with errors"}.`;
    more.hidden = shown.length === wanted.length;
    more.textContent = `Show ${Math.min(MORE_SHOWN, wanted.length - shown.length)} more`;
  }
  const set = (key) => (value) => {
    state[key] = value;
    state.most = FIRST_SHOWN;
    draw();
  };

  const boxes = images.flatMap((image) => image.boxes);
  const categories = [...new Set(boxes.map((box) => box[CATEGORY]))].sort((a, b) => a - b);
  const kinds = Object.keys(KINDS).filter((kind) => kind !== "correct");
  const counted = (kind) => boxes.filter((box) => box[KIND] === kind).length;
  const classChoice = choice(
    "Class",
    [["", "all classes"], ...categories.map((id) => [String(id), nameOf(id)])],
    set("category"),
  );
  const kindChoice = choice(
    "Error",
    [["", "all kinds"], ...[...kinds, "correct"].map((kind) => [kind, `${kind} (${count(counted(kind))})`])],
    set("kind"),
  );
  const orderChoice = choice(
    "Order",
    [
      ["worst", "lowest F1 first"],
      ["missed", "most missed first"],
      ["false", "most false positives first"],
    ],
    set("order"),
  );
  const correct = el("input", {
    type: "checkbox",
    onchange: (event) => set("correct")(event.target.checked),
  });
  const tools = el(
    "div",
    { class: "tools" },
    classChoice,
    kindChoice,
    orderChoice,
    el("label", { class: "check" }, correct, "draw correct ones too"),
  );
  const key = el(
    "p",
    { class: "key" },
    Object.entries(KINDS).map(([kind, text]) => el("span", { title: text }, kindSwatch(kind), ` ${kind}`)),
  );
  draw();
  const node = el("div", {}, said ? note(said) : null, tools, key, told, grid, more);
  // Elsewhere on the page a class may be chosen.
  node.showClass = (id) => {
    const select = classChoice.querySelector("select");
    if (![...select.options].some((option) => option.value === String(id))) return false;
    select.value = String(id);
    set("category")(String(id));
    return true;
  };
  return node;
}

function kindSwatch(kind) {
  const square = svg("rect", {
    x: 2,
    y: 2,
    width: 12,
    height: 12,
    rx: 1.5,
    fill: "none",
    "stroke-width": 2.5,
    "stroke-dasharray": kind === "missed" ? "3 2" : null,
    style: { stroke: kindColour(kind) },
  });
  return svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, square);
}

const summaryOf = (image) =>
  `${fileName(image.file)}: F1 ${fixed(2)(image.f1)}, ${count(image.true_positives)} right, ${count(image.false_positives)} false, ${count(image.missed)} missed`;

function card(image, fits, open) {
  const keys = { type: "button", onclick: open, "aria-label": `${summaryOf(image)}. Enlarge` };
  const counts = `${count(image.false_positives)} false · ${count(image.missed)} missed`;
  return el(
    "li",
    {},
    el("button", keys, imageWithBoxes(image, fits)),
    el("p", {}, el("b", { text: `F1 ${fixed(2)(image.f1)}` }), ` ${counts}`),
    el("p", { class: "file", text: fileName(image.file), title: image.file }),
  );
}

// The image and, in its own pixels, the boxes; `names` writes the classes beside them.
function imageWithBoxes(image, fits, names) {
  const { width, height } = image;
  const size = Math.max(width, height) / (names ? 55 : 26);
  const isCorrect = (box) => box[KIND] === "correct";
  const shapes = image.boxes
    .filter(fits)
    .sort((a, b) => (isCorrect(a) ? -1 : 1) - (isCorrect(b) ? -1 : 1))
    .flatMap((box) => {
      const [x1, y1, x2, y2] = box;
      const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
      const style = { stroke: kindColour(box[KIND]) };
      const halo = svg("rect", { ...place, class: "halo" });
      const edge = svg("rect", { ...place, class: `box${box[KIND] === "missed" ? " dashed" : ""}`, style });
      const d = (box[RINGS] || []).map((ring) => `M${ring.join(" ")}Z`).join("");
      const mask = d ? [svg("path", { d, class: "mask", style: { ...style, fill: kindColour(box[KIND]) } })] : [];
      if (!names) return [...mask, halo, edge];
      const text = names(box[CATEGORY]) + (isNumber(box[SCORE]) ? ` ${box[SCORE].toFixed(2)}` : "");
      const y = y1 > size * 1.3 ? y1 - size * 0.3 : y1 + size;
      return [...mask, halo, edge, svg("text", { class: "box-name", x: x1, y, "font-size": size, text })];
    });
  const frame = { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", preserveAspectRatio: "none" };
  return el(
    "span",
    { class: "image", style: { aspectRatio: `${width} / ${height}` } },
    image.thumbnail === null
      ? el("span", { class: "no-image", text: image.why || "no image" })
      : el("img", { src: data.thumbnails[image.thumbnail], alt: "", decoding: "async" }),
    svg("svg", frame, shapes),
  );
}

// One image, large, with its boxes named and listed; the arrow keys go on.
function openViewer(images, first, fits, nameOf) {
  let at = images.indexOf(first);
  const holder = el("div", { class: "stage" });
  const words = el("div", { class: "words" });
  const all = el("input", { type: "checkbox", onchange: () => draw() });
  const step = (by) => {
    at = (at + by + images.length) % images.length;
    draw();
  };
  const bar = el(
    "div",
    { class: "tools" },
    images.length > 1 && pushButton("← previous", () => step(-1)),
    images.length > 1 && pushButton("next →", () => step(1)),
    el("label", { class: "check" }, all, "all boxes"),
    pushButton("close", () => dialog.close(), { class: "close" }),
  );
  const dialog = el(
    "dialog",
    { class: "viewer", "aria-label": "Image with its boxes" },
    bar,
    holder,
    words,
  );
  function draw() {
    const image = images[at];
    const chosen = all.checked ? () => true : fits;
    const node = imageWithBoxes(image, chosen, nameOf);
    node.style.maxWidth = `min(100%, ${((window.innerHeight * 0.7) / image.height) * image.width}px)`;
    holder.replaceChildren(node);
    const lines = image.boxes
      .filter(chosen)
      .map((box) => el("li", {}, kindSwatch(box[KIND]), ` ${box[KIND]}: ${inWords(box, nameOf)}`));
    words.replaceChildren(
      el(
        "p",
        { "aria-live": "polite" },
        el("b", { text: `${at + 1} of ${images.length}` }),
        ` ${summaryOf(image)}`,
      ),
      el("p", { class: "file", text: image.file }),
      el("ul", { class: "boxes" }, lines),
    );
  }
  dialog.addEventListener("keydown", (event) => {
    const by = arrowStep(event);
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  draw();
  document.body.append(dialog);
  dialog.showModal();
}

function inWords(box, nameOf) {
  const parts = [nameOf(box[CATEGORY])];
  if (isNumber(box[SCORE])) parts.push(`score ${box[SCORE].toFixed(2)}`);
  if (isNumber(box[IOU]))
    parts.push(`IoU ${box[IOU].toFixed(2)}${box[OTHER] !== null ? ` with ${nameOf(box[OTHER])}` : ""}`);
  return parts.join(", ");
}
