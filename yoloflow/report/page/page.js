// The page as a whole: head, training curves of all runs, the parts of one run at a time.

function themeButton() {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const tell = () => {
    button.textContent = current() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show the page ${current() === "dark" ? "light" : "dark"}`);
  };
  const turn = () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    tell();
  };
  const button = pushButton("", turn, { class: "theme" });
  dark.addEventListener("change", tell);
  tell();
  return button;
}

function head() {
  const top = el(
    "p",
    { class: "kicker" },
    el("span", { text: isSeveral ? "yoloflow · runs compared" : "yoloflow · training report" }),
    themeButton(),
  );
  const title = el("h1", { text: isSeveral ? titleOfAll() : runs[0].name });
  return el(
    "header",
    {},
    top,
    title,
    el("p", { class: "standfirst", text: isSeveral ? standfirstOfAll() : standfirst(runs[0]) }),
    isSeveral ? null : headFigures(runs[0]),
  );
}

// The names, where they are few enough for a heading.
function titleOfAll() {
  const names = runs.map((run) => run.name);
  const whole = names.join(" · ");
  return names.length > 3 || whole.length > 80 ? `${count(names.length)} runs` : whole;
}

function standfirst(run) {
  const used = run.data?.train_set?.images.used;
  const done = run.curves.evaluations.epoch
    .concat(run.curves.steps.epoch)
    .reduce((a, b) => Math.max(a, b), 0);
  const parts = [run.recipe || "A network"];
  parts.push(
    run.finished
      ? `trained for ${plural(run.epochs, "epoch")}`
      : `${short(done)} of ${plural(run.epochs ?? 0, "epoch")} trained (in progress, or stopped)`,
  );
  if (isNumber(used)) parts.push(`on ${plural(used, "image")}`);
  if (run.num_classes) parts.push(`of ${plural(run.num_classes, "class", "classes")}`);
  const when = run.finished ? `finished ${day(run.ended)}` : `last heard of ${day(run.ended)}`;
  return `${parts[0]}, ${parts.slice(1).join(" ")}; ${when}.`;
}

function standfirstOfAll() {
  const ranked = runs.filter((run) => isNumber(run.best.map)).sort((a, b) => b.best.map - a.best.map);
  if (ranked.length < 2) return "Too few of these runs were evaluated to say which is best.";
  const [first, second] = ranked;
  // What is printed is compared, so that no figure contradicts the sentence.
  const printed = (run) => Number(figure(run.best.map));
  const sharing = ranked.filter((run) => printed(run) === printed(first)).map((run) => run.name);
  if (sharing.length > 1) return `${namesInWords(sharing)} share the best AP, ${figure(first.best.map)}.`;
  const ahead = printed(first) - printed(second);
  const inside = (value, interval) => interval && value >= interval[0] && value <= interval[1];
  const isClose =
    inside(second.best.map, first.best.intervals?.AP) || inside(first.best.map, second.best.intervals?.AP);
  const closeness = isClose ? ", a lead within the confidence interval" : "";
  return `${brief(first.name)} has the best AP, ${figure(first.best.map)}: ${figure(ahead)} ahead of ${brief(second.name)}${closeness}.`;
}

function headFigures(run) {
  const { best } = run;
  const range = (key) => {
    if (best.why) return best.why;
    const found = best.intervals?.[key];
    return found
      ? `${percent(best.intervals.level)} interval ${figure(found[0])} to ${figure(found[1])}`
      : "no confidence interval";
  };
  const big = (value, name, under) =>
    el(
      "div",
      {},
      el("dt", { text: name }),
      el("dd", {}, el("strong", { text: value }), el("small", { text: under })),
    );
  return el(
    "dl",
    { class: "figures" },
    big(best.why ? "n/a" : figure(best.map), "AP", range("AP")),
    big(best.why ? "n/a" : figure(best.map50), "AP50", range("AP50")),
    run.diagnostics?.mask_stats && big(figure(run.diagnostics.mask_stats[0]), "AP of masks", ""),
    big(String(best.epoch ?? "–"), "Best epoch", run.epochs ? `of ${run.epochs}` : ""),
    big(duration(run.summary?.wall_seconds), "Time", run.finished ? "in all" : "not finished"),
    big(short(run.summary?.images_per_second), "Images a second", "in training"),
  );
}

const stagesOf = (run) =>
  run.curves.stages.map(({ number, epoch }) => ({ at: epoch, text: `stage ${number}` }));

const NO_STEPS = "no steps logged yet";

function stageMarks() {
  const seen = new Map();
  runs.forEach((run, k) =>
    stagesOf(run).forEach((mark) => {
      const key = `${mark.at} ${mark.text}`;
      if (!seen.has(key)) seen.set(key, isSeveral ? { ...mark, colour: runColour(k) } : mark);
      else seen.get(key).colour = null;
    }),
  );
  return [...seen.values()];
}

// Curves of all runs over their epochs.
const epochChart = (title, series, marks, empty, more = {}) =>
  lineChart({ title, series, marks, empty, ...more, x: { label: "epoch", whole: true, ...more.x } });

function lossChart(name, marks) {
  const series = runs.flatMap((run, k) => {
    const ys = run.curves.steps.losses[name] || [];
    const line = { name: run.name, colour: runColour(k), dash: runDash(k), xs: run.curves.steps.epoch, ys };
    const shown =
      ys.length <= 40
        ? [line]
        : [
            { ...line, width: 1, opacity: 0.28, silent: true },
            { ...line, ys: smooth(ys) },
          ];
    const validation = run.curves.evaluations.losses[name];
    if (!validation) return shown;
    const of = isSeveral ? `${run.name}, validation` : "validation";
    return [
      ...shown,
      { name: of, colour: runColour(k), dash: "2 3", dots: true, xs: run.curves.evaluations.epoch, ys: validation },
    ];
  });
  return epochChart(name === "loss" ? "Loss, all parts" : `Loss: ${name}`, series, marks, NO_STEPS);
}

function rateChart(marks) {
  const series = runs.flatMap((run, k) =>
    Object.entries(run.curves.steps.rates).map(([groups, ys], n, all) => ({
      name: isSeveral ? (all.length > 1 ? `${run.name}, ${groups}` : run.name) : groups,
      colour: runColour(isSeveral ? k : n),
      dash: isSeveral && n ? `${5 - n} 3` : null,
      xs: run.curves.steps.epoch,
      ys,
    })),
  );
  return epochChart("Learning rate", series, marks, NO_STEPS);
}

function figureChart(title, keys, marks, height) {
  const series = runs.flatMap((run, k) =>
    keys.map(([key, name], n) => ({
      name: isSeveral ? run.name : name,
      colour: runColour(isSeveral ? k : n),
      dash: isSeveral ? runDash(k) : null,
      dots: true,
      width: 2.4,
      xs: run.curves.evaluations.epoch,
      ys: run.curves.evaluations[key],
    })),
  );
  const empty = runs.map((run) => run.best.why).find(Boolean) || "not evaluated yet";
  return epochChart(title, series, marks, empty, { x: { min: 0 }, y: { value: share }, height });
}

function trainingSection() {
  const marks = stageMarks();
  const hasMasks = runs.some((run) => run.curves.evaluations.mask_map.some(isNumber));
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.curves.steps.losses)))];
  const first = isSeveral
    ? el(
        "div",
        { class: "two" },
        figureChart("Validation AP", [["map"]], marks, 260),
        figureChart("Validation AP50", [["map50"]], marks, 260),
        hasMasks && figureChart("Validation AP of masks", [["mask_map"]], marks, 260),
        hasMasks && figureChart("Validation AP50 of masks", [["mask_map50"]], marks, 260),
      )
    : figureChart(
        "Validation AP",
        [
          ["map", "AP"],
          ["map50", "AP50"],
          ...(hasMasks ? [["mask_map", "mask AP"], ["mask_map50", "mask AP50"]] : []),
        ],
        marks,
        300,
      );
  const rest = el(
    "div",
    { class: "many" },
    names.map((name) => lossChart(name, marks)),
    rateChart(marks),
  );
  const means = Math.max(...runs.map((run) => run.curves.steps.mean_of));
  const said =
    means > 1
      ? note(`Each point of a loss is the mean of ${means} logged steps at most; lines are smoothed.`)
      : note("Bold lines are smoothed; faint ones are what was logged.");
  return section(
    "training",
    "How training went",
    isSeveral ? "All runs over their epochs." : trainingLead(runs[0]),
    first,
    rest,
    said,
  );
}

function trainingLead(run) {
  const known = run.curves.evaluations.map.filter(isNumber);
  if (!known.length) return run.best.why ? `There is no AP: ${run.best.why}.` : "No evaluation yet.";
  const last = known[known.length - 1];
  const stages = stagesOf(run).map((mark) => `${mark.text} began after epoch ${short(mark.at)}`);
  const highest = Math.max(...known);
  let end =
    last === highest
      ? `AP was highest at the end, ${figure(highest)}: it may not have finished rising`
      : `AP was highest, ${figure(highest)}, at epoch ${run.best.epoch ?? "–"} and ended at ${figure(last)}`;
  if (figure(highest) === figure(0)) end = "Nothing was found that is right: AP stayed at 0.000";
  return `${[end, ...stages].join("; ")}.`;
}

// All parts about one run.
function partsOf(run) {
  const images = gallerySection(run);
  const jump = (id) => {
    if (images.showClass?.(id)) images.scrollIntoView();
  };
  return [
    run.stale_reason && run.diagnostics ? staleNote(run) : null,
    classesSection(run, jump),
    curvesSection(run),
    confusionSection(run),
    errorsSection(run),
    calibrationSection(run),
    images,
    labelsSection(run),
    speedSection(run),
    dataSection(run),
    settingsSection(run),
  ].filter(Boolean);
}

// Said above all that is made of diagnostics which may be of other weights.
const staleNote = (run) =>
  el("p", {
    class: "absent stale",
    role: "note",
    text: `The parts below may not be of the best weights: ${run.stale_reason}. AP and best epoch at the top are those of the training.${run.not_evaluated ? ` ${run.not_evaluated}` : ""}`,
  });

function tabs(panel) {
  const buttons = runs.map((run, k) => {
    const keys = { type: "button", role: "tab", id: `tab-${k}`, "aria-controls": "run" };
    return el("button", { ...keys, onclick: () => choose(k) }, swatch(runColour(k)), nameCell(run.name));
  });
  function choose(k) {
    buttons.forEach((button, n) => {
      button.setAttribute("aria-selected", String(n === k));
      button.tabIndex = n === k ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${k}`);
    panel.replaceChildren(...partsOf(runs[k]));
  }
  const list = el("div", { class: "tabs", role: "tablist", "aria-label": "Runs" }, buttons);
  list.addEventListener("keydown", (event) => {
    const by = arrowStep(event);
    if (!by) return;
    const next = (buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length;
    choose(next);
    buttons[next].focus();
  });
  choose(0);
  return list;
}

const PLACES = [
  ["comparison", "Side by side"],
  ["training", "Training"],
  ["classes", "Classes"],
  ["precision", "Precision"],
  ["confusion", "Confusions"],
  ["errors", "Errors"],
  ["calibration", "Confidence"],
  ["gallery", "Images"],
  ["labels", "Labels"],
  ["speed", "Speed"],
  ["data", "Data"],
  ["settings", "Settings"],
];

function build() {
  const panel = el("div", { id: "run", role: isSeveral ? "tabpanel" : null });
  const main = el("main", { id: "main" });
  if (isSeveral) main.append(comparisonSection());
  main.append(trainingSection());
  if (isSeveral) main.append(tabs(panel));
  else panel.append(...partsOf(runs[0]));
  main.append(panel);
  const places = PLACES.filter(([id]) => isSeveral || id !== "comparison");
  const nav = el(
    "nav",
    { "aria-label": "Parts of the page" },
    places.map(([id, text]) => el("a", { href: `#${id}`, text })),
  );
  const foot = el(
    "footer",
    {},
    el("p", { text: `Written ${day(data.made)} by yoloflow. This file needs no network.` }),
  );
  document
    .getElementById("page")
    .replaceChildren(
      el("a", { class: "skip", href: "#main", text: "Skip to the content" }),
      head(),
      nav,
      main,
      foot,
    );
}

build();
document.documentElement.dataset.ready = "true";
