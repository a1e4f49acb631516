"use strict";
// State and controls. One window over time, one chosen micro-batch, layer, rank and expert; every
// panel shows the same ones.

class App {
  constructor(levels) {
    Object.assign(this, {
      levels, after: levels.manifest.best, layer: -1, rank: null, expert: null,
      window: [-0.5, levels.times - 0.5], stacks: [null, null], expertData: null, turn: 0,
    });
    this.time = levels.overview.worst_time[0];
    this.loadScale = new LoadScale(levels.manifest.palette, 2);
    const before = levels.manifest.summary[0];
    this.imbalanceScale = new ImbalanceScale(levels.manifest.palette, before.p99);
    this.distributionTop = 1 + 1.15 * Math.max(0.05, ...levels.manifest.summary.map((row) => row.p99 - 1));
    this.at = (id) => document.getElementById(id);
    this.buildControls();
    this.buildCharts();
  }

  get afterName() { return this.levels.contenders[this.after]; }

  get recordLayer() { return this.layer >= 0 ? this.layer : this.levels.worstLayer(this.time); }

  // ---- changing the state ---------------------------------------------------------------------

  set(change) {
    const old = { after: this.after, layer: this.layer };
    Object.assign(this, change);
    this.time = clamp(Math.round(this.time), 0, this.levels.times - 1);
    this.layer = clamp(this.layer, -1, this.levels.layers - 1);
    if (old.after !== this.after || old.layer !== this.layer) this.renderLevels();
    else this.redraw();
    this.sync();
    return this.record.render();
  }

  setWindow(from, to) {
    const { times } = this.levels;
    let width = clamp(to - from, Math.min(4, times), times);
    const start = clamp(from, -0.5, times - 0.5 - width);
    this.window = [start, start + width];
    for (const chart of this.overTime) chart.setScale("x", { min: start, max: start + width });
    this.renderDistribution();
    this.sync();
  }

  resetWindow() { this.setWindow(-0.5, this.levels.times - 0.5); }

  zoom(factor, about) {
    const [from, to] = this.window;
    const middle = about === undefined ? clamp(this.time, from, to) : about;
    this.setWindow(middle - (middle - from) * factor, middle - (middle - from) * factor + (to - from) * factor);
  }

  pan(part) {
    const [from, to] = this.window;
    this.setWindow(from + part * (to - from), to + part * (to - from));
  }

  // ---- what a pointer or a key means ----------------------------------------------------------

  pick(time, value, place) {
    const change = { time, expert: null, rank: null };
    if (place.startsWith("heat")) change.layer = this.layerAt(value);
    if (place.startsWith("stack")) {
      const rank = this.rankAt(place === "stack-after" ? 1 : 0, time, value);
      if (rank !== null) change.rank = rank;
    }
    this.set(change);
  }

  key(event) {
    const step = event.shiftKey ? Math.ceil((this.window[1] - this.window[0]) / 10) : 1;
    const action = {
      ArrowLeft: () => this.move(-step),
      ArrowRight: () => this.move(step),
      ArrowUp: () => this.set({ layer: this.layer - 1, rank: null, expert: null }),
      ArrowDown: () => this.set({ layer: this.layer + 1, rank: null, expert: null }),
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2),
      0: () => this.resetWindow(),
      Enter: () => this.at("record").scrollIntoView({ block: "start" }),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  move(by) {
    this.set({ time: this.time + by, rank: null, expert: null });
    const [from, to] = this.window;
    if (this.time < from) this.pan((this.time - from) / (to - from) - 0.1);
    if (this.time > to) this.pan((this.time - to) / (to - from) + 0.1);
  }

  layerAt(value) { return clamp(Math.floor(value + 0.5), 0, this.levels.layers - 1); }

  rankAt(side, time, value) {
    const stack = this.stacks[side];
    if (!stack) return null;
    const [first, last] = recordsOf(stack, time, time + 1e-6);
    if (first > last) return null;
    const loads = new Float64Array(this.levels.ranks);
    const total = meanLoads(stack.values, first, last, this.levels.ranks, loads);
    let below = 0;
    for (let rank = 0; rank < loads.length; rank++) {
      below += loads[rank] / total;
      if (value <= below) return rank;
    }
    return loads.length - 1;
  }

  ratioAt(side, time, rank) {
    const stack = this.stacks[side];
    if (!stack) return "?";
    const [first, last] = recordsOf(stack, time, time + 1e-6);
    if (first > last) return "?";
    const loads = new Float64Array(this.levels.ranks);
    const total = meanLoads(stack.values, first, last, this.levels.ranks, loads);
    return `${((loads[rank] * loads.length) / total).toFixed(2)}×`;
  }

  hover(at, value, place) {
    if (at === null) { this.say(""); return; }
    const { levels } = this;
    const time = clamp(Math.round(at), 0, levels.times - 1);
    const after = (text) => (this.after ? `, ${text} after ${this.afterName}` : "");
    const parts = [levels.moment(time)];
    const two = (show) => parts.push(`${show(0)} before${after(show(this.after))}`);
    if (place.startsWith("heat")) {
      const layer = this.layerAt(value);
      parts.push(levels.layerName(layer));
      two((contender) => format(levels.cell("peak", contender, time, layer)));
    } else if (place.startsWith("stack")) {
      const rank = this.rankAt(place === "stack-after" ? 1 : 0, at, value);
      if (rank === null) return;
      parts.push(levels.layerName(this.layer), `rank ${rank} of the mean load`);
      two((contender) => this.ratioAt(contender ? 1 : 0, at, rank));
    } else {
      const cell = Math.floor(time / levels.width);
      parts.push(levels.layerName(this.layer), "mean imbalance");
      two((contender) => format(1000 * (this.lines[contender ? 1 : 0].mean[cell] || 0)));
    }
    this.say(parts.join(", "));
  }

  hoverDistribution(chart) {
    const { left } = chart.cursor;
    if (left === undefined || left < 0) { this.say(""); return; }
    const at = chart.posToVal(left, "x");
    const shares = this.distributions.map(({ values, quantiles }, contender) => {
      const part = share(values, at, quantiles);
      return part === null ? "" : `${(100 * part).toFixed(1)} % ${contender ? this.levels.contenders[contender] : "before"}`;
    });
    this.say(`imbalance at most ${at.toFixed(3)}: ${shares.filter(Boolean).join(", ")} of the records`);
  }

  say(text) { this.at("readout").textContent = text || "Point at a chart to read its values."; }

  // ---- drawing --------------------------------------------------------------------------------

  buildCharts() {
    const { levels } = this;
    const { colours, dashes, palette } = levels.manifest;
    this.distribution = distributionChart(this, this.at("distribution"));
    const last = Math.max(1, this.after);
    const line = (at, extra) => ({ stroke: colours[at] || palette.ink, points: { show: false }, ...extra });
    this.lineChart = timeChart(this, this.at("lines"), {
      height: 180,
      label: "Imbalance over micro-batches, before and after",
      y: { range: (_, low, high) => [1, Math.max(1.05, high === null ? 2 : 1 + 1.05 * (high - 1))] },
      yAxis: { values: (_, splits) => splits.map((v) => +v.toFixed(3)) },
      series: [
        line(0, { width: 2 }), line(0, { width: 0.75, alpha: 0.75 }),
        line(last, { width: 2 }), line(last, { width: 0.75, alpha: 0.75 }),
      ],
      data: [[0], [null], [null], [null], [null]],
    });
    const layers = {
      y: { range: () => [-0.5, levels.layers - 0.5], dir: -1 },
      yAxis: {
        incrs: WHOLE, grid: { show: false },
        values: (_, splits) => splits.map((v) => (v in levels.overview.layers ? levels.overview.layers[v] : "")),
      },
      height: Math.round(clamp(60 + 5 * levels.layers, 130, 300)),
    };
    this.heats = ["before", "after"].map((side, at) => timeChart(this, this.at(`heat-${side}`), {
      ...layers,
      label: `Imbalance over micro-batches and layers, ${side}; up and down choose a layer`,
      painted: true,
      draw: (u) => {
        if (at && !this.after) return;
        paintHeat(u, levels, at ? this.after : 0, this.imbalanceScale);
        this.markLayer(u);
      },
    }));
    this.stackCharts = ["before", "after"].map((side, at) => timeChart(this, this.at(`stack-${side}`), {
      height: 230,
      label: `Load of all ranks, stacked, over micro-batches, ${side}`,
      y: { range: () => [0, 1] },
      yAxis: { grid: { show: false }, values: (_, splits) => splits.map((v) => `${Math.round(100 * v)} %`) },
      painted: true,
      draw: (u) => {
        if (this.stacks[at]) paintStack(u, this.stacks[at], levels.ranks, this.loadScale, this.rank);
      },
    }));
    this.expertChart = timeChart(this, this.at("expert-line"), {
      height: 150,
      label: "Load of the chosen expert over micro-batches",
      y: { range: (_, low, high) => [0, Math.max(1, 1.05 * (high || 1))] },
      yAxis: { values: (_, splits) => splits.map((v) => shortCount(v)) },
      series: [
        { stroke: palette.ink, width: 1.5, points: { show: false } },
        { stroke: palette.muted, width: 1, dash: [5, 3], points: { show: false } },
      ],
      data: [[0], [null], [null]],
    });
    this.overTime = [this.lineChart, ...this.heats, ...this.stackCharts, this.expertChart];
    this.record = new RecordPanel(this);
    drawLegend(this.at("heat-legend"), this.imbalanceScale, "imbalance");
    drawLegend(this.at("stack-legend"), this.loadScale, "load / mean load");
  }

  markLayer(chart) {
    if (this.layer < 0) return;
    const { left, width } = chart.bbox;
    const top = chart.valToPos(this.layer - 0.5, "y", true);
    const bottom = chart.valToPos(this.layer + 0.5, "y", true);
    chart.ctx.save();
    // Black inside white: seen on dark cells and on pale ones.
    for (const [colour, grow] of [["#fff", 2], ["#000", 1]]) {
      const out = grow * devicePixelRatio;
      chart.ctx.strokeStyle = colour;
      chart.ctx.lineWidth = devicePixelRatio;
      chart.ctx.strokeRect(left, top - out, width, bottom - top + 2 * out);
    }
    chart.ctx.restore();
  }

  // All that depends on the layer or the policy.
  async renderLevels() {
    const turn = ++this.turn;
    const { levels } = this;
    const { colours, palette } = levels.manifest;
    this.lines = [0, this.after].map((contender) => levels.line(contender, this.layer));
    const x = Array.from({ length: levels.cells }, (_, at) => at * levels.width + (levels.width - 1) / 2);
    const [before, after] = this.lines;
    for (const at of [3, 4]) {
      this.lineChart.series[at].stroke = () => colours[this.after] || palette.ink;
      this.lineChart.series[at].show = this.after > 0;
    }
    this.lineChart.setData(broken(levels, [x, before.mean, before.peak, after.mean, after.peak]), false);
    this.renderDistribution();
    this.names();
    const stacks = await Promise.all([0, this.after].map((contender, side) =>
      side && !this.after ? null : levels.stack(contender, this.layer)));
    if (turn !== this.turn) return;
    this.stacks = stacks;
    this.redraw();
  }

  renderDistribution() {
    const { levels } = this;
    const whole = this.window[0] <= -0.5 && this.window[1] >= levels.times - 0.5;
    this.distributions = levels.contenders.map((_, contender) => ({
      ...levels.distribution(contender, this.layer, this.window), quantiles: whole,
    }));
    this.distribution.setData(onCommonAxis(this.distributions, this.distributionTop));
    const exact = this.distributions.every((one) => one.exact);
    this.at("distribution-note").textContent =
      `${capital(levels.layerName(this.layer))}, ${whole ? "all micro-batches" : "the micro-batches of the window"}` +
      (exact ? "." : `; counted from one micro-batch in ${levels.width}.`);
  }

  names() {
    for (const name of document.querySelectorAll(".after-name")) {
      name.textContent = this.after ? `after ${this.afterName}` : "after (no policy in this file)";
    }
    for (const name of document.querySelectorAll(".layer-name")) {
      name.textContent = this.levels.layerName(this.layer);
    }
    this.at("lines-key").replaceChildren(
      this.swatch(0, "before"), ...(this.after ? [this.swatch(this.after, `after ${this.afterName}`)] : []));
  }

  swatch(contender, text) {
    const made = element("span", undefined, "key");
    const mark = element("span", undefined, "swatch");
    mark.style.background = this.levels.manifest.colours[contender];
    made.append(mark, text);
    return made;
  }

  expertSeries(pack) {
    const { levels } = this;
    const place = this.at("expert-title");
    this.at("expert-line").hidden = !pack || this.expert === null;
    if (!pack || this.expert === null) {
      place.textContent = "";
      this.expertChart.setData([[0], [null], [null]], false);
    } else {
      const size = levels.experts;
      const loads = Array.from(pack.time, (_, at) => pack.loads[at * size + this.expert]);
      const mean = Array.from(pack.time, (_, at) => {
        let total = 0;
        for (let i = at * size; i < (at + 1) * size; i++) total += pack.loads[i];
        return total / size;
      });
      place.textContent = `Expert ${this.expert} of ${levels.layerName(this.recordLayer)} over micro-batches [pairs]; dashed: mean of all experts`;
      this.expertChart.setData(broken(levels, [Array.from(pack.time), loads, mean]), false);
    }
    this.expertChart.setScale("x", { min: this.window[0], max: this.window[1] });
  }

  redraw() {
    for (const chart of this.overTime) chart.setScale("x", { min: this.window[0], max: this.window[1] });
    for (const chart of this.overTime) chart.redraw(false, false);
  }

  tick(at) {
    if (!Number.isInteger(at) || at < 0 || at >= this.levels.times) return "";
    return this.levels.moment(at, true);
  }

  // ---- controls -------------------------------------------------------------------------------

  buildControls() {
    const { levels } = this;
    const policy = this.at("policy"), layer = this.at("layer");
    levels.contenders.slice(1).forEach((label, at) => policy.append(new Option(label, at + 1)));
    policy.disabled = levels.contenders.length < 2;
    for (let at = -1; at < levels.layers; at++) layer.append(new Option(levels.layerName(at), at));
    const on = (id, change) => this.at(id).addEventListener("change", (event) => this.set(change(event.target.value)));
    on("policy", (value) => ({ after: Number(value) }));
    on("layer", (value) => ({ layer: Number(value), rank: null, expert: null }));
    on("moment", (value) => ({ time: Number(value) || 0, rank: null, expert: null }));
    on("rank", (value) => ({ rank: clamp(Number(value) || 0, 0, levels.ranks - 1), expert: null }));
    on("expert", (value) => ({ expert: clamp(Number(value) || 0, 0, levels.experts - 1) }));
    for (const [id, most] of [["moment", levels.times], ["rank", levels.ranks], ["expert", levels.experts]]) {
      this.at(id).max = most - 1;
      this.at(id).disabled = most < 1;
    }
    const press = (id, action) => this.at(id).addEventListener("click", action);
    press("zoom-in", () => this.zoom(0.5));
    press("zoom-out", () => this.zoom(2));
    press("earlier", () => this.pan(-0.5));
    press("later", () => this.pan(0.5));
    press("whole", () => this.resetWindow());
    this.buildWorst();
  }

  buildWorst() {
    const { levels } = this;
    const times = levels.overview.worst_time, layers = levels.overview.worst_layer;
    for (let at = 0; at < Math.min(8, times.length); at++) {
      const value = format(levels.cell("peak", 0, times[at], layers[at]));
      const button = element("button", `${levels.layerName(layers[at])}, ${levels.moment(times[at])}: ${value}`);
      button.addEventListener("click", () => {
        this.set({ time: times[at], layer: layers[at], rank: null, expert: null });
        this.at("record").scrollIntoView({ block: "start" });
      });
      this.at("worst").append(button);
    }
  }

  // Write the state into the controls.
  sync() {
    const { levels } = this;
    this.at("policy").value = this.after;
    this.at("layer").value = this.layer;
    this.at("moment").value = this.time;
    this.at("moment-name").textContent = levels.moment(this.time);
    this.at("rank").value = this.rank === null ? "" : this.rank;
    this.at("expert").value = this.expert === null ? "" : this.expert;
    const [from, to] = this.window.map((edge, at) => clamp(Math.round(at ? edge - 0.5 : edge + 0.5), 0, levels.times - 1));
    this.at("window-name").textContent =
      `${levels.moment(from)} to ${levels.moment(to)}: ${to - from + 1} of ${levels.times} micro-batches`;
  }
}

function clamp(value, low, high) { return Math.min(Math.max(value, low), high); }

function format(milli) { return milli ? (milli / 1000).toFixed(2) : "nothing recorded"; }

async function start() {
  try {
    const app = new App(await Levels.open());
    await app.renderLevels();
    await app.set({});
    app.say("");
    window.viewer = app;
    document.body.dataset.ready = "true";
  } catch (error) {
    const place = document.getElementById("failure");
    place.hidden = false;
    place.textContent = `This page could not be drawn: ${error.message}. It needs a browser of 2023 or newer.`;
    throw error;
  }
}

start();
