"use strict";
// Tables of class "sortable": a click on a heading sorts, a box above leaves the rows that have its
// words. In a "grouped" table an entry is a <tbody>: a row, and what belongs to it.
const FEW = 5; // so many rows need no box

const leading = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?/i;
const numberOf = (text) => {
  const found = leading.exec(text.replaceAll(",", "").replaceAll("−", "-"));
  return found ? Number(found[0]) : NaN;
};

for (const table of document.querySelectorAll("table.sortable")) {
  const grouped = table.classList.contains("grouped");
  const holder = grouped ? table : table.tBodies[0];
  const entries = () => [...(grouped ? table.tBodies : holder.rows)];
  const cell = (entry, column) =>
    (grouped ? entry.rows[0] : entry).cells[column].textContent.trim();
  const headings = [...table.tHead.rows[0].cells];

  const sort = (column) => {
    const up = headings[column].ariaSort !== "ascending";
    const found = entries().map((entry) => [entry, cell(entry, column)]);
    const filled = found.filter(([, text]) => text !== "");
    const numeric = filled.every(([, text]) => leading.test(text.replaceAll("−", "-")));
    const order = numeric
      ? ([, a], [, b]) => numberOf(a) - numberOf(b)
      : ([, a], [, b]) => a.localeCompare(b, undefined, { numeric: true });
    filled.sort(up ? order : (a, b) => order(b, a));
    const empty = found.filter(([, text]) => text === "");
    holder.append(...[...filled, ...empty].map(([entry]) => entry));
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    headings[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  };

  headings.forEach((heading, column) => {
    heading.scope = "col";
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(column));
    heading.append(button);
    if (entries().some((entry) => (grouped ? entry.rows[0] : entry).cells[column].className === "n"))
      heading.classList.add("n");
  });

  const all = entries().length;
  if (all <= FEW) continue;
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = "filter";
  box.ariaLabel = "Rows that contain";
  const count = document.createElement("output");
  count.className = "soft";
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const entry of entries()) {
      const text = entry.textContent.toLowerCase();
      entry.hidden = !words.every((word) => text.includes(word));
      shown += entry.hidden ? 0 : 1;
    }
    count.value = words.length ? `${shown} of ${all}` : "";
  };
  box.addEventListener("input", filter);
  const line = document.createElement("div");
  line.className = "filter";
  line.append(box, count);
  (table.closest(".wide") ?? table).before(line);
}
