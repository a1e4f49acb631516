"use strict";
// The page of two sweeps side by side: strips of changes, and tables one can sort and filter.

class CompareApp {
  constructor(manifest) {
    this.m = manifest;
    this.at = Object.fromEntries(manifest.changes.columns.map((name, at) => [name, at]));
    this.tables = {};
    const select = document.getElementById("metric");
    select.append(...manifest.metrics.map((one) => element("option", { value: one.name }, `${one.name} (${one.better} is better)`)));
    select.onchange = () => this.choose(select.value);
    this.table("winners", manifest.winners);
    this.table("only-first", manifest.only[0]);
    this.table("only-second", manifest.only[1]);
    for (const button of document.querySelectorAll("button.csv")) {
      button.onclick = () => download(button.dataset.figure, this.tables[button.dataset.figure]?.data || { columns: [], rows: [] });
    }
    this.choose(manifest.metrics[0].name);
    let waiting = null;
    new ResizeObserver(() => { clearTimeout(waiting); waiting = setTimeout(() => this.strips(), 100); }).observe(document.getElementById("strips"));
  }

  table(id, data) {
    const place = document.getElementById(id);
    if (data.rows.length) this.tables[id] = new RowTable(place, this.renamed(data), 25);
    else { delete this.tables[id]; place.replaceChildren(element("p", { class: "quiet" }, "None.")); }
  }

  // Heads say the sweeps' names; columns that are empty everywhere (no seeds, no draws) are left out.
  renamed({ columns, rows }) {
    const kept = columns.map((_, at) => at).filter((at) => rows.some((row) => row[at] !== null));
    const [first, second] = this.m.names;
    const name = (text) => ({ first, second, first_winner: `winner of ${first}`, first_margin: `margin in ${first}`,
      second_winner: `winner of ${second}`, second_margin: `margin in ${second}`, better: `${second} is better` }[text] || text);
    return { columns: kept.map((at) => (this.m.axes.includes(columns[at]) ? columns[at] : name(columns[at]))), rows: rows.map((row) => kept.map((at) => row[at])) };
  }

  choose(metric) {
    this.metric = metric;
    this.rows = this.m.changes.rows.filter((row) => row[this.at.metric] === metric);
    this.table("changes", { columns: this.m.changes.columns, rows: this.rows });
    this.strips();
  }

  strips() {
    const { m, at } = this;
    const place = document.getElementById("strips");
    const rows = this.rows.filter((row) => row[at.change_percent] !== null);
    if (!rows.length) return place.replaceChildren(element("p", { class: "quiet" }, `${this.metric} differs in no row.`));
    const lines = m.policies.filter((policy) => rows.some((row) => row[at.policy] === policy.label));
    const left = Math.min(240, 16 + 7 * Math.max(...lines.map((policy) => policy.label.length)));
    const width = Math.max(200, place.clientWidth - left - 24);
    const values = rows.map((row) => row[at.change_percent]);
    const [least, most] = [Math.min(0, ...values), Math.max(0, ...values)];
    const pad = 0.04 * (most - least);
    const [low, high] = [least - pad, most + pad];
    const x = (value) => left + (width * (value - low)) / (high - low);
    const bottom = 30 * lines.length;
    const lower = m.metrics.find((one) => one.name === this.metric).better === "lower";
    const [from, to] = lower ? [x(0), left + width] : [left, x(0)];
    const drawn = svg("svg", { width: left + width + 24, height: bottom + 34, role: "img", "aria-label": "change of every row" },
      svg("rect", { x: from, y: 0, width: Math.max(0, to - from), height: bottom, fill: "#f3f3f3" }));
    for (const tick of ticks(low, high, 6)) {
      drawn.append(svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: bottom, stroke: tick === 0 ? "#222" : "#e2e2e2" }),
        svg("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle", class: "soft" }, `${tick > 0 ? "+" : ""}${digits(tick)} %`));
    }
    lines.forEach((policy, line) => {
      const y = 30 * (line + 0.5);
      drawn.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, policy.label));
      // Staggered, so that equal changes do not hide each other.
      for (const [place, row] of rows.filter((one) => one[at.policy] === policy.label).entries()) {
        drawn.append(svg("circle", { cx: x(row[at.change_percent]), cy: y + 3 * ((place % 5) - 2), r: 4.5, fill: policy.colour, "fill-opacity": 0.55, stroke: "#fff", "stroke-width": 0.5, class: "mark",
          onmouseenter: () => this.say(row), onmouseleave: () => this.say(null) }));
      }
    });
    return place.replaceChildren(drawn);
  }

  say(row) {
    const { m, at } = this;
    const named = [...m.axes, "seed", "draw"].filter((name) => row && row[at[name]] !== null).map((name) => `${name} ${row[at[name]]}`);
    document.getElementById("readout").textContent = row
      ? `${[row[at.policy], ...named].join(", ")}: ${digits(row[at.first], 6)} to ${digits(row[at.second], 6)}, ${row[at.change_percent] > 0 ? "+" : ""}${percent(row[at.change_percent])}` : "";
  }
}

const viewer = begin(CompareApp);
