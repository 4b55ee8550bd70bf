// The parts of the page that list: suspicious labels, speed, data, settings.

function labelsSection(run) {
  const found = run.diagnostics?.label_errors;
  if (!found) return absent("labels", "Labels to look at", NOT_EVALUATED(run));
  if (!found.length)
    return absent(
      "labels",
      "Labels to look at",
      "Nothing suspicious: no confident detection contradicts a label.",
    );
  const nameOf = nameFinder(run.diagnostics);
  const text = (id) => (id === null || id === undefined ? "nothing" : nameOf(id));
  const words = (name, key, show = (row) => nameCell(key(row))) => ({ name, isText: true, key, show });
  const columns = [
    words(
      "File",
      (row) => fileName(row.file),
      (row) => suspectLink(run, row, nameOf),
    ),
    words(
      "Suspicion",
      (row) => row.kind,
      (row) => row.kind.replaceAll("_", " "),
    ),
    words("Labelled", (row) => text(row.true_category_id)),
    words("Found", (row) => text(row.category_id)),
    { name: "Score", key: (row) => row.score, show: (row) => share(row.score) },
    { name: "IoU", key: (row) => row.iou, show: (row) => fixed(2)(row.iou) },
    words(
      "Box x1 y1 x2 y2",
      (row) => row.box_xyxy[0],
      (row) => row.box_xyxy.map((value) => Math.round(value)).join(" "),
    ),
  ];
  const of = run.diagnostics.num_label_errors;
  const lead = `${plural(of, "place")} where a detection contradicts the labels, surest first${of > found.length ? `; the first ${count(found.length)} are listed` : ""}.`;
  const table = sortedTable({
    label: "Suspicious labels",
    columns,
    rows: found,
    sortBy: 4,
    filterOn: (row) => `${row.file} ${text(row.category_id)} ${text(row.true_category_id)} ${row.kind}`,
    filterLabel: "Filter",
  });
  const said =
    "wrong label: an object is taken for another class; wrong box: its box fits badly; missing label: nothing is labelled there. Files of the images above open.";
  return section("labels", "Labels to look at", lead, table, note(said));
}

// A file's name; it opens the image where the gallery has it.
function suspectLink(run, row, nameOf) {
  const image = run.gallery.images.find((one) => one.file === row.file && one.thumbnail !== null);
  if (!image) return el("span", { class: "name", title: row.file, text: fileName(row.file) });
  const box = [...row.box_xyxy, row.category_id, "suspect", row.score, row.iou, row.true_category_id];
  const shown = { ...image, boxes: [...image.boxes, box] };
  const open = () => openViewer([shown], shown, (one) => one[KIND] === "suspect", nameOf);
  return pushButton(fileName(row.file), open, { class: "link name", title: row.file });
}

const SET_NAMES = { train_set: "Training set", val_set: "Validation set" };
const total = (counts) => Object.values(counts || {}).reduce((a, b) => a + b, 0);

function dataSection(run) {
  if (!run.data) return absent("data", "The data", "The run folder has no data_problems.json.");
  const parts = Object.entries(run.data).map(([key, account]) => {
    const { images, boxes } = account;
    const rows = [
      ["Images listed", count(images.listed)],
      ["Images used", count(images.used)],
      ["… without a box", count(images.background)],
      ["Images dropped", count(total(images.dropped))],
      ["Boxes listed", count(boxes.listed)],
      ["Boxes used", count(boxes.used)],
      ["… crowd regions", count(boxes.crowd)],
      ["Boxes clipped", count(total(boxes.clipped))],
      ["Boxes dropped", count(total(boxes.dropped))],
    ];
    const kinds = account.kinds.length
      ? plainTable(
          "Problems by kind",
          ["Problem", "Done", "Count"],
          account.kinds.map((one) => [one.kind, one.action, count(one.count)]),
        )
      : note("None found.");
    const more =
      account.num_problems > account.problems.length
        ? ` (the first ${count(account.problems.length)} of ${count(account.num_problems)})`
        : "";
    const list = account.problems.length
      ? el(
          "details",
          {},
          el("summary", { text: `Problems one by one${more}` }),
          el(
            "ul",
            { class: "problems" },
            account.problems.map((one) =>
              el(
                "li",
                {},
                el("code", { text: one.line === null ? one.file : `${one.file}:${one.line}` }),
                ` ${one.detail} (${one.kind}, ${one.action})`,
              ),
            ),
          ),
        )
      : null;
    return el("div", {}, el("h3", { text: SET_NAMES[key] || key }), facts(rows), kinds, list);
  });
  const found = Object.values(run.data).reduce((sum, account) => sum + account.num_problems, 0);
  const sizes = Object.entries(run.data).map(
    ([key, account]) =>
      `${count(account.images.used)} images in the ${(SET_NAMES[key] || key).toLowerCase()}`,
  );
  return section(
    "data",
    "The data",
    `${sizes.join(", ")}; ${found ? `${plural(found, "remark")} on them` : "no remarks on them"}.`,
    el("div", { class: "two" }, parts),
    run.labels_plot
      ? el("img", {
          class: "plot",
          src: run.labels_plot,
          alt: "Labels of the training set: objects by class, centres and sizes of the boxes",
        })
      : null,
    note(
      "A training reads labels and the headers of images. Damaged images, equal ones, and training images " +
        "with the pixels of a validation image are found by `yoloflow data check`, which decodes all of them.",
    ),
  );
}

const facts = (rows) =>
  el(
    "dl",
    { class: "facts" },
    rows.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value ?? "–" }))),
  );

function speedSection(run) {
  const speed = run.diagnostics?.speed;
  if (!speed)
    return absent(
      "speed",
      "Speed",
      run.diagnostics ? "The speed of the evaluation was not measured." : NOT_EVALUATED(run),
    );
  const parts = Object.entries(speed.milliseconds_per_image).filter(([, value]) => isNumber(value));
  const sum = parts.reduce((a, [, value]) => a + value, 0) || 1;
  const bar = el("div", {
    class: "stack",
    role: "img",
    "aria-label": parts.map(([name, value]) => `${name} ${short(value)} ms`).join(", "),
  });
  const key = el("p", { class: "key" });
  parts.forEach(([name, value], k) => {
    bar.append(el("i", { style: { width: `${(100 * value) / sum}%`, background: COLOURS[k] } }));
    key.append(el("span", {}, swatch(COLOURS[k]), `${name} ${short(value)} ms`));
  });
  const memory = isNumber(speed.peak_memory_mb)
    ? ` Memory at most ${count(Math.round(speed.peak_memory_mb))} MB.`
    : "";
  return section(
    "speed",
    "Speed",
    `Evaluation took ${short(sum)} ms an image, ${short(speed.images_per_second)} images a second.${memory}`,
    bar,
    key,
  );
}

function settingsSection(run) {
  const environment = Object.entries(run.environment).map(([name, value]) => [name, String(value)]);
  const config = el(
    "details",
    {},
    el("summary", { text: `config.yaml (${count(run.config.split("\n").length)} lines)` }),
    el("pre", { tabindex: 0, text: run.config }),
  );
  const missing = run.finished ? null : note("What the training ran on is written when it has finished.");
  return section(
    "settings",
    "Settings and environment",
    null,
    el("h3", { text: "Environment" }),
    facts(environment),
    missing,
    el("h3", { text: "Resolved settings" }),
    config,
  );
}
