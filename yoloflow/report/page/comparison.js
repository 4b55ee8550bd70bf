// Several runs side by side: figures, settings that differ, AP of each class.

function comparisonSection() {
  const rows = [
    ["AP", (run) => figure(run.best.map)],
    ["AP50", (run) => figure(run.best.map50)],
    ["Best epoch", (run) => run.best.epoch ?? "–"],
    ["Epochs", (run) => run.epochs ?? "–"],
    ["State", (run) => (run.finished ? "finished" : "in progress, or stopped")],
    ["Time", (run) => duration(run.summary?.wall_seconds)],
    ["Images a second", (run) => short(run.summary?.images_per_second)],
    ["Ended", (run) => day(run.ended)],
  ].map(([name, show]) => [name, ...runs.map((run) => String(show(run)))]);
  const names = runs.map((run) => run.name);
  const stale = runs.filter((run) => run.stale_reason && run.diagnostics);
  const dots = intervalChart(
    "AP with its confidence interval",
    runs.map((run, k) => ({
      name: run.name,
      value: run.best.map,
      interval: run.best.intervals?.AP,
      colour: runColour(k),
    })),
  );
  const settings = data.settings.length
    ? plainTable(
        "Settings that differ",
        ["Setting", ...names],
        data.settings.map((row) => [row.key, ...row.values.map((value) => value ?? "–")]),
      )
    : el("p", { class: "absent", text: "All settings are the same." });
  const number = data.settings.length;
  const lead = number ? `${plural(number, "setting differs", "settings differ")}.` : null;
  return section(
    "comparison",
    "Side by side",
    lead,
    dots,
    plainTable("Figures of each run", ["", ...names], rows),
    stale.length
      ? note(
          `AP of each class below may be of other weights than the best: ${stale.map((run) => `${brief(run.name)} (${run.stale_reason})`).join("; ")}.`,
        )
      : null,
    el("h3", { text: "Settings that differ" }),
    settings,
    classComparison(names),
  );
}

// AP of each class in each run, where at least two runs were evaluated.
function classComparison(names) {
  const tables = runs.map(
    (run) => new Map((run.diagnostics?.classes || []).map((row) => [row.name, row.ap])),
  );
  if (tables.filter((table) => table.size).length < 2) return null;
  const classes = [...new Set(tables.flatMap((table) => [...table.keys()]))];
  const spread = (name) => {
    const known = tables.map((table) => table.get(name)).filter((value) => isNumber(value) && value >= 0);
    return known.length > 1 ? Math.max(...known) - Math.min(...known) : null;
  };
  const columns = [
    { name: "Class", isText: true, key: (name) => name, show: nameCell },
    ...names.map((run, k) => ({
      name: briefRun(run),
      title: run,
      key: (name) => tables[k].get(name),
      show: (name) => figure(tables[k].get(name)),
      bar: 1,
      colour: runColour(k),
    })),
    { name: "Spread", title: "best minus worst", key: spread, show: (name) => figure(spread(name)) },
  ];
  return el(
    "div",
    {},
    el("h3", { text: "AP of each class" }),
    sortedTable({
      label: "AP of each class in each run",
      columns,
      rows: classes,
      sortBy: columns.length - 1,
      filterOn: (name) => name,
      filterLabel: "Find a class",
    }),
  );
}
