// Tables that sort and filter, and the confusion matrix.

// columns: {name, title, key(row), show(row) -> text or node, isText, bar (value of a whole bar), colour}
function sortedTable({ label, columns, rows, sortBy = 0, descending = true, filterOn, filterLabel }) {
  const body = el("tbody");
  const lines = rows.map((row) => ({
    row,
    node: el(
      "tr",
      {},
      columns.map((column, k) => cell(column, row, k === 0)),
    ),
  }));
  const heads = columns.map((column, k) =>
    el(
      "th",
      { scope: "col", class: column.isText ? "words" : null },
      pushButton(column.name, () => sort(k), { title: column.title || column.name }),
    ),
  );
  const state = { by: null, down: descending };

  function sort(k, down) {
    state.down = down ?? (state.by === k ? !state.down : !columns[k].isText);
    state.by = k;
    heads.forEach((head, n) => {
      if (n === k) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const key = columns[k].key;
    lines.sort((a, b) => {
      const [first, second] = [key(a.row), key(b.row)];
      // What is not known stays at the end, whichever way.
      const known = (value) => (typeof value === "string" ? value !== "" : isNumber(value) && value >= -0.5);
      if (!known(first) || !known(second)) return Number(known(second)) - Number(known(first));
      const order =
        typeof first === "string" ? first.localeCompare(second, "en", { numeric: true }) : first - second;
      return state.down ? -order : order;
    });
    body.append(...lines.map((line) => line.node));
  }

  sort(sortBy, descending);
  return el(
    "div",
    { class: "sorted" },
    filterOn && rows.length > 1 ? filterField(lines, filterOn, filterLabel) : null,
    scrollTable(label, null, el("tr", {}, heads), body),
  );
}

function cell(column, row, isFirst) {
  const shown = column.show(row);
  const node = isFirst ? el("th", { scope: "row" }) : el("td", { class: column.isText ? "words" : null });
  node.append(shown ?? "–");
  if (column.bar && isNumber(column.key(row)) && column.key(row) >= 0) {
    const style = {
      width: `${100 * Math.min(column.key(row) / column.bar, 1)}%`,
      background: column.colour ?? "",
    };
    node.append(el("span", { class: "cell-bar", "aria-hidden": "true" }, el("i", { style })));
  }
  return node;
}

function filterField(lines, filterOn, filterLabel) {
  const told = el("span", { class: "told", "aria-live": "polite", text: `${count(lines.length)} shown` });
  const input = el("input", {
    type: "search",
    placeholder: "part of a name",
    oninput: () => {
      const wanted = input.value.trim().toLocaleLowerCase();
      let shown = 0;
      for (const line of lines) {
        line.node.hidden = !filterOn(line.row).toLocaleLowerCase().includes(wanted);
        shown += line.node.hidden ? 0 : 1;
      }
      told.textContent = `${count(shown)} of ${count(lines.length)} shown`;
    },
  });
  return el(
    "div",
    { class: "tools" },
    el("label", { class: "choice" }, el("span", { text: filterLabel }), input),
    told,
  );
}

// A short value, as any figure is, stays on one line; a longer one breaks wherever it must.
const plainCell = (value, column) =>
  column
    ? el("td", { class: value.length <= 16 ? "figure" : null, text: value })
    : el("th", { scope: "row" }, nameCell(value));

const plainTable = (label, head, rows) =>
  scrollTable(
    label,
    "plain",
    el(
      "tr",
      {},
      head.map((text) => el("th", { scope: "col" }, nameCell(text, briefRun(text)))),
    ),
    el(
      "tbody",
      {},
      rows.map((row) =>
        el(
          "tr",
          {},
          row.map((value, k) => plainCell(value ?? "–", k)),
        ),
      ),
    ),
  );

// confusion: {labels, cells: [[truth, found, count]], convention, num_left_out}
function confusionMatrix(confusion) {
  const { labels, cells } = confusion;
  const counts = labels.map(() => labels.map(() => 0));
  for (const [row, column, n] of cells) counts[row][column] = n;
  const sums = counts.map((row) => row.reduce((a, b) => a + b, 0));
  const nodes = [];
  const lines = labels.map((name, row) => {
    const fields = labels.map((_, column) => {
      const n = counts[row][column];
      const part = sums[row] ? n / sums[row] : 0;
      const said = `${plural(n, "time")}: ${row === labels.length - 1 ? "nothing there" : name}, found as ${column === labels.length - 1 ? "nothing" : labels[column]} (${percent(part)} of the row)`;
      const node = el("td", { title: said });
      const hue = row === column ? "var(--right)" : "var(--wrong)";
      if (n)
        node.style.background = `color-mix(in oklab, ${hue} ${Math.round(8 + 62 * Math.sqrt(part))}%, var(--paper))`;
      nodes.push({ node, n, part });
      return node;
    });
    return el("tr", {}, el("th", { scope: "row", text: name, title: name }), fields);
  });
  const write = (mode) => {
    for (const { node, n, part } of nodes)
      node.textContent = n ? (mode === "share" ? Math.round(100 * part) : count(n)) : "";
  };
  write("count");
  const head = el(
    "tr",
    {},
    el("th", { class: "corner", scope: "col", text: "truth ↓  found →" }),
    labels.map((name) => el("th", { scope: "col", title: name }, el("span", { text: name }))),
  );
  const name = `confusion${labels.length > 7 ? " turned" : ""}${labels.length > 16 ? " large" : ""}`;
  const modes = [
    ["count", "Counts"],
    ["share", "% of the row"],
  ];
  return el(
    "div",
    {},
    el("div", { class: "tools" }, segmented("Numbers in the cells", modes, write)),
    scrollTable("Confusion matrix", name, head, el("tbody", {}, lines), confusion.convention),
  );
}

// The largest cells beside the diagonal, as sentences.
function confusionsInWords({ labels, cells }) {
  const last = labels.length - 1;
  return cells
    .filter(([row, column]) => row !== column)
    .sort((a, b) => b[2] - a[2])
    .map(([row, column, n]) => {
      if (column === last) return `${plural(n, "object")} of class ${brief(labels[row])} missed`;
      if (row === last) return `${count(n)} × ${brief(labels[column])} found where nothing is`;
      return `${count(n)} × ${brief(labels[row])} found as ${brief(labels[column])}`;
    });
}
