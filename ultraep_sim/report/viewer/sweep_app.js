"use strict";
// The page of a sweep: state, controls, and what a change draws anew.

const REST = "all others";

class SweepApp {
  constructor(manifest) {
    this.m = manifest;
    this.state = { metric: manifest.metrics[0].name, x: manifest.main, y: this.firstLines(), place: this.firstPlace() };
    this.family = manifest.families[0];
    this.controls();
    this.rows = new RowTable(document.getElementById("rows"), manifest.rows);
    this.draw();
    let waiting = null;
    new ResizeObserver(() => { clearTimeout(waiting); waiting = setTimeout(() => this.draw(), 100); }).observe(document.getElementById("map"));
  }

  // Lines of the map: all other axes together where that stays readable.
  firstLines() {
    const rest = this.m.axes.map((_, at) => at).filter((at) => at !== this.m.main);
    const lanes = new Set(this.m.places.map((place) => rest.map((at) => place[at]).join()));
    if (lanes.size <= 24 || !rest.length) return -1;
    return rest.reduce((a, b) => (this.m.axes[b].values.length > this.m.axes[a].values.length ? b : a));
  }

  // The point of the advice, or the first that has a winner.
  firstPlace() {
    if (this.m.advised >= 0) return this.m.advised;
    return Math.max(0, this.m.found[this.m.metrics[0].name].winners.findIndex((one) => one.winner >= 0));
  }

  get found() { return this.m.found[this.state.metric]; }
  get metric() { return this.m.metrics.find((one) => one.name === this.state.metric); }

  set(change) {
    Object.assign(this.state, change);
    if (this.state.y === this.state.x) this.state.y = -1;
    this.controls();
    this.draw();
  }

  controls() {
    const { m, state } = this;
    this.fill("metric", m.metrics.map((one) => [one.name, `${one.name} (${one.better} is better)`]), state.metric, (value) => this.set({ metric: value }));
    this.fill("x-axis", m.axes.map((axis, at) => [at, axis.name]), state.x, (value) => this.set({ x: Number(value) }));
    const lines = m.axes.map((axis, at) => [at, axis.name]).filter(([at]) => at !== state.x);
    this.fill("y-axis", [[-1, REST], ...lines], state.y, (value) => this.set({ y: Number(value) }));
    this.fill("family", m.families.map((name) => [name, name]), this.family, (value) => { this.family = value; this.drawRegret(); });
    for (const name of ["x-axis", "y-axis"]) document.getElementById(name).disabled = m.axes.length < 2;
    const here = m.places[state.place];
    document.getElementById("fixed").replaceChildren(...m.axes.flatMap((axis, at) => {
      if (at === state.x || axis.values.length < 2) return [];
      const select = element("select", { "data-axis": at, onchange: () => this.move(at, Number(select.value)) },
        ...axis.values.map((text, value) => element("option", { value }, text)));
      select.value = here[at];
      return [element("label", {}, `${axis.short} `, select)];
    }));
    for (const button of document.querySelectorAll("button.csv")) button.onclick = () => download(button.dataset.figure, this.data(button.dataset.figure));
  }

  fill(id, options, value, change) {
    const select = document.getElementById(id);
    select.replaceChildren(...options.map(([key, text]) => element("option", { value: key }, text)));
    select.value = value;
    select.onchange = () => change(select.value);
  }

  // Go to the point with another value on one axis: the nearest that was run.
  move(axis, value) {
    const here = this.m.places[this.state.place];
    const away = (place) => place.reduce((sum, v, at) => sum + (at === axis ? 0 : v !== here[at]), 0);
    const there = this.m.places.map((place, at) => [at, place]).filter(([, place]) => place[axis] === value);
    if (there.length) this.set({ place: there.reduce((a, b) => (away(b[1]) < away(a[1]) ? b : a))[0] });
  }

  draw() {
    this.drawMap();
    this.drawPoint();
    this.drawCurves();
    this.drawRegret();
    this.drawPareto();
  }

  words(place, but = []) {
    return this.m.axes.map((axis, at) => (but.includes(at) ? null : `${axis.short} ${axis.values[place[at]]}`)).filter(Boolean).join(", ");
  }

  say(text) { document.getElementById("readout").textContent = text || ""; }

  winnerText(one) {
    const { policies } = this.m;
    if (one.winner < 0) return one.not_fitting.length ? "nothing fits in memory" : "no value";
    const name = policies[one.winner].label;
    if (one.runner_up < 0) return `${name}, the only one${one.not_fitting.length ? " that fits" : ""}`;
    const over = `${banded(...one.margin, percent)} better than ${policies[one.runner_up].label}`;
    return `${name}, ${over}${one.tied.length ? `; a tie with ${one.tied.map((at) => policies[at].label).join(", ")}` : ""}`;
  }

  // Points of the map: those that agree with the chosen one on the axes the map does not show.
  visible() {
    const { m, state } = this;
    const here = m.places[state.place] || [];
    const held = state.y < 0 ? [] : m.axes.map((_, at) => at).filter((at) => at !== state.x && at !== state.y);
    return m.places.map((place, at) => at).filter((at) => held.every((axis) => m.places[at][axis] === here[axis]));
  }

  drawMap() {
    const { m, state, found } = this;
    const rest = m.axes.map((_, at) => at).filter((at) => at !== state.x);
    const shown = state.y < 0 ? rest : [state.y];
    const but = m.axes.map((_, at) => at).filter((at) => !shown.includes(at));
    const visible = this.visible();
    const lanes = [...new Set(visible.map((at) => this.words(m.places[at], but)))];
    const columns = state.x < 0 ? [""] : m.axes[state.x].values;
    const top = Math.max(1e-12, ...visible.map((at) => found.winners[at].margin[0] ?? 0));
    const cells = visible.map((at) => {
      const [one, place] = [found.winners[at], m.places[at]];
      const margin = one.margin[0];
      const label = `${this.words(place)}: ${this.winnerText(one)}`;
      return {
        x: state.x < 0 ? 0 : place[state.x], y: lanes.indexOf(this.words(place, but)), label, tie: one.tied.length > 0,
        pressed: at === state.place, choose: () => { this.set({ place: at }); this.say(label); }, hover: () => this.say(label), leave: () => this.say(""),
        colour: one.winner < 0 ? "#e4e4e4" : mixed(m.policies[one.winner].colour, 0.16 + 0.5 * Math.min(1, Math.max(0, margin ?? 0) / top)),
        lines: one.winner < 0 ? [one.not_fitting.length ? "nothing fits" : "no value"] : [m.policies[one.winner].label, margin === null ? "alone" : percent(margin)],
      };
    });
    drawMap(document.getElementById("map"), { columns, lanes, cells, xLabel: state.x < 0 ? "" : m.axes[state.x].name });
  }

  // All policies at the chosen point, the best first.
  pointRows() {
    const { m, state, found } = this;
    const sign = this.metric.better === "lower" ? 1 : -1;
    const rows = m.policies.flatMap((policy, at) => {
      const value = found.cells[at][state.place];
      return value === null ? [] : [{ policy, value, fits: m.fits[at][state.place] !== 0, memory: m.memory[at][state.place] }];
    });
    return rows.sort((a, b) => sign * (a.value[0] - b.value[0]));
  }

  drawPoint() {
    const { m, state, found } = this;
    document.getElementById("point-title").textContent = `${m.places.length > 1 ? `At ${this.words(m.places[state.place])}: ` : ""}${this.winnerText(found.winners[state.place])}`;
    const rows = this.pointRows().map(({ policy, value, fits, memory }) => element("tr", { class: fits && !policy.bound ? "" : "out" },
      element("th", { scope: "row" }, this.swatch(policy), ` ${policy.label}`, policy.bound ? " (a bound)" : "", fits ? "" : " (does not fit)"),
      element("td", {}, banded(...value)), element("td", {}, digits(memory))));
    const head = ["", this.state.metric, m.memory_name].map((text) => element("th", { scope: "col" }, text));
    document.getElementById("point").replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
  }

  swatch(policy) {
    const made = element("span", { class: "swatch square" });
    made.style.background = policy.colour;
    return made;
  }

  // The points along the axis that agree with the chosen one on all others, in order.
  along() {
    const { m, state } = this;
    const here = m.places[state.place] || [];
    const found = m.places.map((place, at) => at).filter((at) => m.places[at].every((value, axis) => axis === state.x || value === here[axis]));
    return found.sort((a, b) => m.places[a][state.x] - m.places[b][state.x]);
  }

  drawCurves() {
    const { m, state, found } = this;
    const [places, axis] = [this.along(), m.axes[state.x]];
    const place = m.places[state.place];
    const held = this.words(place, [state.x]);
    document.getElementById("curves-title").textContent = `${state.metric}${axis ? ` along ${axis.short}` : ""}${held ? `, ${held}` : ""}`;
    const x = axis ? places.map((at) => (axis.numbers ? axis.numbers[m.places[at][state.x]] : m.places[at][state.x])) : [0];
    const column = (policy, part) => places.map((at) => found.cells[policy][at]?.[part] ?? null);
    const series = m.policies.map((policy, at) => ({ ...policy, center: column(at, 0), low: column(at, 1), high: column(at, 2) }));
    document.getElementById("curves-key").replaceChildren(...m.policies.map((policy) => element("span", { class: "key" }, this.swatch(policy), ` ${policy.label}`)));
    this.chart?.destroy();
    const values = axis ? places.map((at) => axis.values[m.places[at][state.x]]) : [""];
    this.chart = drawCurves(document.getElementById("curves"), { x, series, yLabel: state.metric, palette: m.palette, labels: { name: axis ? axis.name : "", values } }, (at) => {
      if (at === null || at === undefined) return this.say("");
      const told = series.filter((one) => one.center[at] !== null).map((one) => `${one.label} ${banded(one.center[at], one.low[at], one.high[at])}`);
      return this.say(`${axis ? `${axis.short} ${values[at]}: ` : ""}${told.join(" · ")}`);
    });
  }

  drawRegret() {
    const bars = this.found.regret.filter((row) => row.chosen === this.family).slice(0, 24).map((row) => ({
      name: row.choice + (row.points < row.of_points ? ` (${row.points} of ${row.of_points})` : ""), row,
      mean: row.mean_loss_percent, low: row.mean_loss_percent_p5, high: row.mean_loss_percent_p95, p90: row.p90_loss_percent, worst: row.worst_loss_percent,
      colour: (this.m.policies.find((policy) => policy.label === row.policy) || { colour: "#6E6E6E" }).colour,
    }));
    drawBars(document.getElementById("regret"), bars, (bar) => this.say(bar && `${bar.name}: loses ${banded(bar.mean, bar.low, bar.high, percent)} on average, `
      + `${percent(bar.p90)} at the 90th percentile, ${percent(bar.worst)} at worst${bar.row.worst_at ? ` (${bar.row.worst_at})` : ""}`));
  }

  drawPareto() {
    const { m } = this;
    const place = document.getElementById("pareto");
    const rows = this.found.pareto.filter((row) => row.throughput_percent_of_best !== null);
    if (!rows.length) return place.replaceChildren(element("p", { class: "quiet" }, `No choice has a value under all conditions and a known ${m.memory_name}.`));
    const points = rows.map((row) => {
      const at = m.policies.findIndex((policy) => policy.label === row.policy);
      return { row, memory: row[m.memory_name], speed: row.throughput_percent_of_best, fits: row.fits, front: row.on_front, colour: m.policies[at].colour, shape: at };
    });
    return drawPareto(place, points, m.memory_name, (point) => this.say(point && `${point.row.choice}: ${digits(point.speed)} % of the best choice with ${digits(point.memory)} ${m.memory_name}`
      + `${point.front ? ", on the front" : ""}${point.fits ? "" : ", does not fit"}`));
  }

  // The numbers behind a figure, as it stands.
  data(figure) {
    const { m, state, found } = this;
    const axes = m.axes.map((axis) => axis.name);
    const at = (place) => m.axes.map((axis, i) => axis.values[m.places[place][i]]);
    const flat = (rows) => ({ columns: Object.keys(rows[0] || {}), rows: rows.map((row) => Object.values(row)) });
    const value = ["metric", "value", "p5", "p95"];
    const name = (policy) => (policy < 0 ? "" : m.policies[policy].label);
    const names = (list) => list.map(name).join("; ");
    if (figure === "rows") return this.rows.data;
    if (figure === "map") {
      return { columns: [...axes, "metric", "winner", "runner_up", "margin_percent", "p5", "p95", "tied_with", "not_fitting"],
        rows: this.visible().map((place) => {
          const one = found.winners[place];
          return [...at(place), state.metric, name(one.winner), name(one.runner_up), ...one.margin, names(one.tied), names(one.not_fitting)];
        }) };
    }
    if (figure === "point") {
      return { columns: ["policy", ...value, "fits", m.memory_name],
        rows: this.pointRows().map((row) => [row.policy.label, state.metric, ...row.value, row.fits, row.memory]) };
    }
    if (figure === "curves") {
      return { columns: [...axes, "policy", ...value], rows: this.along().flatMap((place) =>
        m.policies.flatMap((policy, i) => (found.cells[i][place] ? [[...at(place), policy.label, state.metric, ...found.cells[i][place]]] : []))) };
    }
    return flat(figure === "regret" ? found.regret.filter((row) => row.chosen === this.family) : found.pareto);
  }
}

const viewer = begin(SweepApp);
