// The parts of the page about one run. Each says in a sentence what is to be seen, computed from the figures.

const NOT_EVALUATED = (run) =>
  run.not_evaluated || "This run was not evaluated for the report: it has no diagnostics.json.";

const nameFinder = (diagnostics) => {
  const names = new Map(diagnostics.classes.map((row) => [row.category_id, row.name]));
  return (id) => names.get(id) ?? `class ${id}`;
};

// Classes by how well they are found.
function classesSection(run, jump) {
  if (!run.diagnostics) return absent("classes", "Class by class", NOT_EVALUATED(run));
  const rows = run.diagnostics.classes;
  const known = rows.filter((row) => isNumber(row.ap) && row.ap >= 0).sort((a, b) => a.ap - b.ap);
  let lead = `${plural(rows.length, "class", "classes")}.`;
  if (known.length > 1) {
    const [worst, best] = [known[0], known[known.length - 1]];
    if (figure(best.ap) === figure(worst.ap)) lead = `All classes are found alike (AP ${figure(best.ap)}).`;
    else
      lead = `${brief(best.name)} is found best (AP ${figure(best.ap)}), ${brief(worst.name)} worst (${figure(worst.ap)}).`;
  }
  const without = rows.length - known.length;
  if (without) lead += ` ${plural(without, "class has", "classes have")} no object in the validation set.`;
  const number = (name, key, show, title) => ({
    name,
    title,
    key: (row) => row[key],
    show: (row) => show(row[key]),
  });
  const link = (row) =>
    pushButton(row.name, () => jump(row.category_id), {
      class: "link name",
      title: `${row.name}: its images`,
    });
  const columns = [
    { name: "Class", isText: true, key: (row) => row.name, show: link },
    number("Objects", "num_objects", count, "objects in the validation set"),
    { ...number("AP", "ap", figure, "mean over IoU 0.50 to 0.95"), bar: 1 },
    number("AP50", "ap50", figure, "AP at IoU 0.50"),
    number("AP75", "ap75", figure, "AP at IoU 0.75"),
    number("Precision", "precision", share, "right ones among the detections"),
    number("Recall", "recall", share, "objects that are found"),
    number("F1", "f1", share, "harmonic mean of precision and recall"),
    number("False", "false_positives", count, "detections that are no object"),
    number("Missed", "missed", count, "objects that are not found"),
    number("Best F1", "best_f1", share, "at the class's own best confidence"),
    number("at conf.", "best_conf", share, "confidence of the best F1"),
    number("Small", "ap_small", figure, "AP of objects below 32² pixels"),
    number("Medium", "ap_medium", figure, "AP of objects of 32² to 96² pixels"),
    number("Large", "ap_large", figure, "AP of objects above 96² pixels"),
    number("AR100", "ar100", figure, "recall with 100 detections an image"),
  ];
  const table = sortedTable({
    label: "Figures of each class",
    columns,
    rows,
    sortBy: 2,
    filterOn: (row) => row.name,
    filterLabel: "Find a class",
  });
  const at = `Precision, recall, F1, false and missed are counted at confidence ${share(run.diagnostics.conf_thres)} and IoU ${run.diagnostics.iou_thres}. Small, medium and large are AP by size of the objects. Choose a class to see its images.`;
  return section("classes", "Class by class", lead, table, note(at));
}

// Precision against recall, and what the confidence threshold does.
function curvesSection(run) {
  const diagnostics = run.diagnostics;
  if (!diagnostics?.pr_curves) return absent("precision", "Precision and recall", NOT_EVALUATED(run));
  const { pr_curves: pr, confidence_curves: byConfidence } = diagnostics;
  const nameOf = nameFinder(diagnostics);
  const holder = el("div", { class: "two" });
  const best = byConfidence.all.f1.reduce(
    (a, value, k) => (isNumber(value) && value > (byConfidence.all.f1[a] ?? -1) ? k : a),
    0,
  );
  function draw(chosen) {
    const opacity = pr.per_class.length > 20 ? 0.15 : 0.3;
    const faint = { silent: true, colour: "var(--soft)", opacity, width: 1.2, xs: pr.recall };
    const others = pr.per_class.map((one) => ({ ...faint, ys: one.precision }));
    const one = pr.per_class.find((row) => String(row.category_id) === chosen);
    const main = {
      name: one ? brief(nameOf(one.category_id)) : "all classes",
      colour: "var(--c0)",
      xs: pr.recall,
      ys: one ? one.precision : pr.all,
      width: 2.6,
    };
    const masks = diagnostics.mask_pr_curves;
    const ofMasks = masks && (one ? masks.per_class.find((row) => row.category_id === one.category_id)?.precision : masks.all);
    const maskLine = { name: "masks", colour: "var(--c1)", dash: "6 3", xs: pr.recall, ys: ofMasks, width: 2 };
    const lines = ofMasks ? [{ ...main, name: "boxes" }, maskLine] : [main];
    const unit = { min: 0, max: 1 };
    const prChart = lineChart({
      title: `Precision over recall, IoU ${pr.iou}: ${brief(main.name)}`,
      series: [...others, ...lines],
      x: { label: "recall", ...unit },
      y: { ...unit, value: share },
      height: 300,
    });
    const source =
      byConfidence.per_class.find((row) => String(row.category_id) === chosen) || byConfidence.all;
    const curve = (name, k, dash) => ({
      name,
      dash,
      colour: COLOURS[k],
      xs: byConfidence.confidence,
      ys: source[name.toLowerCase()],
    });
    const marks = [{ at: diagnostics.conf_thres, text: `chosen ${share(diagnostics.conf_thres)}` }];
    const f1Chart = lineChart({
      title: `By confidence threshold: ${brief(main.name)}`,
      series: [curve("Precision", 1, "6 3"), curve("Recall", 2, "2 3"), curve("F1", 0)],
      x: { label: "confidence", ...unit },
      y: { ...unit, value: share },
      marks,
      height: 300,
    });
    holder.replaceChildren(prChart, f1Chart);
  }
  draw("");
  const options = [
    ["", "all classes"],
    ...pr.per_class.map((row) => [String(row.category_id), nameOf(row.category_id)]),
  ];
  const lead = `Over all classes F1 is highest, ${share(byConfidence.all.f1[best])}, at confidence ${byConfidence.confidence[best].toFixed(2)}.`;
  const left = pr.num_left_out
    ? note(
        `Curves of the ${count(pr.per_class.length)} most frequent classes; ${count(pr.num_left_out)} others are left out to keep the file small.`,
      )
    : null;
  return section(
    "precision",
    "Precision and recall",
    lead,
    el("div", { class: "tools" }, choice("Class", options, draw)),
    holder,
    diagnostics.mask_pr_curves
      ? note(
          "The dashed line on the left is of masks. All else about errors, confusions, confidence and images counts boxes.",
        )
      : null,
    left,
  );
}

function confusionSection(run) {
  if (!run.diagnostics?.confusion) return absent("confusion", "What is taken for what", NOT_EVALUATED(run));
  const words = confusionsInWords(run.diagnostics.confusion);
  const lead = words.length ? `Most often: ${words[0]}.` : "Nothing was taken for anything else.";
  const list =
    words.length > 1
      ? el(
          "ol",
          { class: "ranking" },
          words.slice(0, 8).map((text) => el("li", { text })),
        )
      : null;
  const { convention, num_left_out: left } = run.diagnostics.confusion;
  return section(
    "confusion",
    "What is taken for what",
    lead,
    el(
      "div",
      { class: run.diagnostics.confusion.labels.length > 10 ? null : "wide-narrow" },
      confusionMatrix(run.diagnostics.confusion),
      list && el("div", {}, el("h3", { text: "Most frequent" }), list),
    ),
    note(`${convention} Colour is the share of the row: blue on the diagonal, orange beside it.`),
    left
      ? note(`${plural(left, "class", "classes")} with fewer confusions are left out of the matrix.`)
      : null,
  );
}

// What each kind of error costs.
function errorsSection(run) {
  const errors = run.diagnostics?.errors;
  if (!errors) return absent("errors", "What errors cost", NOT_EVALUATED(run));
  const kinds = [...errors.kinds].sort((a, b) => (b.ap_cost ?? 0) - (a.ap_cost ?? 0));
  const most = Math.max(...kinds.map((one) => one.ap_cost ?? 0), 1e-9);
  const first = kinds[0];
  const lead =
    first && first.ap_cost > 0
      ? `Without ${first.kind === "missed" ? "missed objects" : `errors of kind “${first.kind}”`} AP50 would be ${figure(errors.base_ap50 + first.ap_cost)} instead of ${figure(errors.base_ap50)}.`
      : "No kind of error costs AP50.";
  const rows = kinds.map((one) => {
    const width = `${(100 * Math.max(one.ap_cost ?? 0, 0)) / most}%`;
    const bar = el("i", { style: { width, background: kindColour(one.kind) } });
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, el("b", { text: one.kind }), el("small", { text: KINDS[one.kind] || "" })),
      el("td", { class: "bar-cell" }, el("span", { class: "cost-bar", "aria-hidden": "true" }, bar)),
      el("td", { text: share(one.ap_cost) }),
      el("td", { text: count(one.count) }),
    );
  });
  const head = el(
    "tr",
    {},
    ["Kind", "", "AP50 it costs", "Count"].map((text) => el("th", { scope: "col", text: text || null })),
  );
  const said = `The cost is how much AP50 would rise if all errors of this kind, at any confidence, and no others were mended. Counts are at confidence ${share(run.diagnostics.conf_thres)}.`;
  return section(
    "errors",
    "What errors cost",
    lead,
    scrollTable("Errors by kind", "errors", head, el("tbody", {}, rows)),
    note(said),
  );
}

function calibrationSection(run) {
  const calibration = run.diagnostics?.calibration;
  if (!calibration) return absent("calibration", "Does confidence keep its word?", NOT_EVALUATED(run));
  const used = calibration.bins.filter((bin) => bin.count && isNumber(bin.accuracy));
  // Thousands of detections near confidence 0 are right about themselves and hide the bars that are looked at.
  const from = run.diagnostics.conf_thres;
  const chosen = used.filter((bin) => bin.confidence >= from);
  const judged = chosen.length ? chosen : used;
  const gap = (bin) => bin.confidence - bin.accuracy;
  const total = judged.reduce((sum, bin) => sum + bin.count, 0);
  const mean = judged.reduce((sum, bin) => sum + bin.count * Math.abs(gap(bin)), 0) / total;
  const side = judged.reduce((sum, bin) => sum + bin.count * gap(bin), 0) > 0 ? "too sure" : "too modest";
  const worst = judged.reduce((a, bin) => (Math.abs(gap(bin)) > Math.abs(gap(a)) ? bin : a), judged[0]);
  const points = (value) => (100 * Math.abs(value)).toFixed(1);
  const which = chosen.length ? `Of detections of confidence ${share(from)} or more` : "On average";
  const lead = used.length
    ? `${which}, confidence is off by ${points(mean)} percentage points, mostly ${side}; by ${points(gap(worst))} where it is about ${share(worst.confidence)}.`
    : "There are no detections to judge.";
  const said = `Expected calibration error ${share(calibration.ece)} over all detections, most of which have a confidence near 0; largest ${share(calibration.mce)}. Darker bars hold more detections; a dot is a bin's mean confidence. Bars below the dashed line are too sure.`;
  return section(
    "calibration",
    "Does confidence keep its word?",
    lead,
    el("div", { class: "half" }, reliabilityChart(calibration.bins)),
    note(said),
  );
}

function gallerySection(run) {
  if (!run.diagnostics) return absent("gallery", "The worst images", NOT_EVALUATED(run));
  if (!run.gallery.images.length)
    return absent("gallery", "The worst images", "No image has an error at the chosen confidence.");
  const worst = run.gallery.images[0];
  const lead = `Lowest F1 first: ${fileName(worst.file)} has ${plural(worst.false_positives, "false positive")} and ${plural(worst.missed, "missed object")}.`;
  const node = gallery(run, nameFinder(run.diagnostics));
  const part = section("gallery", "The worst images", lead, node);
  part.showClass = node.showClass;
  return part;
}
