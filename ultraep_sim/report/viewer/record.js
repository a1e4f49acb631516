"use strict";
// The drill-down: one record, its ranks; one rank, its experts; one expert, its instances.

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const count = new Intl.NumberFormat("en").format;

// All instances of a contender in record number `at` of an expert pack, heaviest first.
function instancesOf(levels, pack, at, contender) {
  const { experts, overview } = levels;
  const loads = pack.loads.subarray(at * experts, (at + 1) * experts);
  const left = Int32Array.from(loads);
  const found = [];
  if (contender) {
    const moved = pack["moved" + contender];
    if (!moved) return null;
    let start = 0;
    for (let i = 0; i < at; i++) start += moved[i];
    for (let i = start; i < start + moved[at]; i++) {
      const expert = pack["expert" + contender][i];
      const pairs = pack["quota" + contender][i];
      left[expert] -= pairs;
      found.push({ expert, rank: pack["rank" + contender][i], pairs, home: false });
    }
  }
  for (let expert = 0; expert < experts; expert++) {
    if (left[expert]) found.push({ expert, rank: overview.home[expert], pairs: left[expert], home: true });
  }
  return found.sort((a, b) => b.pairs - a.pairs || a.expert - b.expert);
}

class RecordPanel {
  constructor(app) {
    this.app = app;
    this.at = (id) => document.getElementById(id);
    this.bars = [0, 1].map((side) => this.barChart(side));
    this.shown = [null, null]; // { pairs, instances } of each side
    this.top = 1;
    this.turn = 0;
  }

  barChart(side) {
    const { app } = this;
    const { palette } = app.levels.manifest;
    const place = this.at(side ? "bars-after" : "bars-before");
    const chart = fitted({
      height: 210,
      legend: { show: false },
      padding: [8, 12, 0, 0],
      scales: {
        x: { time: false, range: () => [-0.6, app.levels.ranks - 0.4] },
        y: { range: () => [0, 1.05 * this.top] },
      },
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [
        axis(palette, { size: 26, incrs: WHOLE, grid: { show: false } }),
        axis(palette, { size: 52, values: (_, splits) => splits.map((v) => shortCount(v)) }),
      ],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, sync: { key: "rank", scales: ["x", null] } },
      hooks: { draw: [(u) => this.drawBars(u, side)] },
    }, [[0, app.levels.ranks - 1], [null, null]], place);
    const rankAt = (event) => Math.round(pointed(chart, event)[0]);
    chart.over.addEventListener("click", (event) => app.set({ rank: rankAt(event), expert: null }));
    chart.over.addEventListener("mousemove", (event) => this.hover(rankAt(event)));
    chart.over.addEventListener("mouseleave", () => app.hover(null));
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "Load of every rank; left and right choose a rank");
    place.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      app.set({ rank: (app.rank + by + app.levels.ranks) % app.levels.ranks, expert: null });
    });
    return chart;
  }

  hover(rank) {
    if (rank < 0 || rank >= this.app.levels.ranks) return;
    const say = this.shown.map((side) => (side ? count(side.pairs[rank]) : "not known"));
    this.app.say(`rank ${rank}: ${say[0]} pairs before, ${say[1]} after ${this.app.afterName}`);
  }

  drawBars(chart, side) {
    const shown = this.shown[side];
    if (!shown) return;
    const { app } = this;
    const { palette } = app.levels.manifest;
    const { ctx } = chart;
    const wide = chart.valToPos(1, "x", true) - chart.valToPos(0, "x", true);
    const bar = Math.max(1, wide > 3 ? wide * 0.84 : wide);
    const place = (value) => chart.valToPos(value, "y", true);
    let total = 0;
    for (const pairs of shown.pairs) total += pairs;
    const mean = total / app.levels.ranks;
    ctx.save();
    shown.pairs.forEach((pairs, rank) => {
      const x = chart.valToPos(rank, "x", true) - bar / 2;
      ctx.fillStyle = css(app.loadScale.colour(pairs / mean));
      ctx.fillRect(x, place(pairs), bar, place(0) - place(pairs));
      ctx.strokeStyle = rank === app.rank ? palette.ink : palette.muted;
      ctx.lineWidth = (rank === app.rank ? 2 : 0.5) * devicePixelRatio;
      if (wide > 3 || rank === app.rank) ctx.strokeRect(x, place(pairs), bar, place(0) - place(pairs));
    });
    // The chosen expert, wherever it runs.
    const height = new Float64Array(app.levels.ranks);
    for (const one of shown.instances || []) {
      if (one.expert !== app.expert) continue;
      const x = chart.valToPos(one.rank, "x", true) - bar / 2;
      ctx.fillStyle = palette.ink;
      const low = height[one.rank];
      height[one.rank] += one.pairs;
      ctx.fillRect(x, place(low + one.pairs), bar, Math.max(1, place(low) - place(low + one.pairs)));
    }
    ctx.strokeStyle = palette.ink;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([5 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(chart.bbox.left, place(mean));
    ctx.lineTo(chart.bbox.left + chart.bbox.width, place(mean));
    ctx.stroke();
    ctx.restore();
  }

  // Show the record of the app's time and layer; later calls overtake earlier ones.
  async render() {
    const turn = ++this.turn;
    const { app } = this;
    const { levels } = app;
    const layer = app.recordLayer;
    const ranks = await levels.pack("ranks", layer);
    const experts = levels.experts ? await levels.pack("experts", layer) : null;
    if (turn !== this.turn) return;
    if (!ranks) {
      this.at("record-title").textContent = `${capital(levels.layerName(layer))}: no single loads`;
      this.at("record-note").textContent = "The bound of this file leaves no room for the loads of single ranks; write it again with a larger --max-mb.";
      this.shown = [null, null];
      this.bars.forEach((chart) => chart.redraw());
      this.renderExperts(null);
      return;
    }
    const at = nearest(ranks.time, app.time);
    const time = ranks.time[at];
    const ofExperts = experts ? experts.time.indexOf(time) : -1;
    this.shown = [0, app.after].map((contender) => this.side(ranks, at, experts, ofExperts, contender));
    if (app.rank === null || app.rank >= levels.ranks) app.rank = this.hottest();
    this.top = Math.max(1, ...this.shown.flatMap((side) => (side ? [maxOf(side.pairs)] : [])));
    this.chooseExpert();
    this.title(layer, time);
    this.bars.forEach((chart) => chart.setData(chart.data));
    this.renderExperts(experts, ofExperts, time);
  }

  side(ranks, at, experts, ofExperts, contender) {
    const { levels } = this.app;
    if (contender === undefined || !ranks["pairs" + contender]) return null;
    const pairs = ranks["pairs" + contender].subarray(at * levels.ranks, (at + 1) * levels.ranks);
    const instances = ofExperts < 0 ? null : instancesOf(levels, experts, ofExperts, contender);
    return { pairs, instances };
  }

  hottest() {
    const { pairs } = this.shown[0] || this.shown[1];
    return pairs.indexOf(maxOf(pairs));
  }

  chooseExpert() {
    const { app } = this;
    if (app.expert !== null) return;
    for (const side of this.shown) {
      const first = side && side.instances && side.instances.find((one) => one.rank === app.rank);
      if (first) { app.expert = first.expert; return; }
    }
  }

  title(layer, time) {
    const { app } = this;
    const { levels } = app;
    const values = this.shown.map((side) => (side ? imbalance(side.pairs).toFixed(3) : "not known"));
    const after = app.after ? `, ${values[1]} after ${app.afterName}` : "";
    this.at("record-title").textContent =
      `${capital(levels.layerName(layer))}, ${levels.moment(time)}: imbalance ${values[0]} before${after}`;
    const thinned = time === app.time ? "" :
      `The loads of ${levels.moment(app.time)} were thinned out of this file; this is the nearest record it holds. `;
    const missing = this.shown[0] ? "" : "Rank loads before balancing are not known: the run did not list the policy none. ";
    this.at("record-note").textContent = `${thinned}${missing}Dashed: mean load. Black: the chosen expert. Choose a rank with a click or the arrow keys.`;
    app.sync();
  }

  renderExperts(experts, at, time) {
    const { app } = this;
    const { levels } = app;
    const note = this.at("experts-note");
    const lists = ["experts-before", "experts-after"].map(this.at);
    lists.forEach((list) => list.replaceChildren());
    this.at("instances").replaceChildren();
    note.replaceChildren();
    app.expertSeries(experts);
    if (!levels.experts) {
      note.textContent = "Expert loads are not in this file: a run directory holds loads of ranks, and its trace was not at hand.";
      return;
    }
    if (!experts) {
      note.textContent = "The bound of this file leaves no room for single experts; write it again with a larger --max-mb.";
      return;
    }
    if (at < 0) {
      const other = experts.time[nearest(experts.time, time)];
      note.append(`The experts of ${levels.moment(time)} were thinned out of this file. `);
      const go = element("button", `Go to ${levels.moment(other)}, the nearest that it holds`);
      go.id = "nearest-experts";
      go.addEventListener("click", () => app.set({ time: other }));
      note.append(go);
      return;
    }
    note.textContent = `What rank ${app.rank} computes: choose an expert to see where it runs.`;
    this.shown.forEach((side, which) => this.list(lists[which], side, which));
    this.instances();
  }

  // The experts of the chosen rank as buttons with bars; both lists share one scale.
  list(place, side, which) {
    const { app } = this;
    place.append(element("h4", which ? `After ${app.afterName}` : "Before"));
    if (!side || !side.instances) {
      const why = !app.after ? "There is no policy in this file." :
        "Plans are not in this file: a run does not record them, and a forced balance has none.";
      place.append(element("p", why, "quiet"));
      return;
    }
    const mine = side.instances.filter((one) => one.rank === app.rank);
    if (!mine.length) place.append(element("p", "No expert has load here.", "quiet"));
    for (const one of mine.slice(0, 24)) {
      const button = element("button", undefined, "expert");
      button.setAttribute("aria-pressed", String(one.expert === app.expert));
      const bar = element("span", undefined, "fill");
      bar.style.width = `${(100 * one.pairs) / this.top}%`;
      button.append(bar, element("span", `expert ${one.expert}${one.home ? "" : ", moved here"}`),
        element("span", count(one.pairs), "number"));
      button.addEventListener("click", () => app.set({ expert: one.expert }));
      place.append(button);
    }
    if (mine.length > 24) place.append(element("p", `and ${mine.length - 24} more`, "quiet"));
  }

  instances() {
    const { app } = this;
    const place = this.at("instances");
    if (app.expert === null) return;
    const [before, after] = this.shown.map((side) =>
      side && side.instances ? side.instances.filter((one) => one.expert === app.expert) : null);
    const say = (found) => found.map((one) => `rank ${one.rank} (${count(one.pairs)})`).join(", ") || "no load";
    place.append(element("h4", `Expert ${app.expert}`));
    if (before) place.append(element("p", `Before: ${say(before)} pairs, at home.`));
    if (after) place.append(element("p", `After ${app.afterName}: ${say(after)} pairs; ${after.length} instances at work.`));
  }
}

function imbalance(pairs) {
  let total = 0, top = 0;
  for (const value of pairs) { total += value; top = Math.max(top, value); }
  return total ? (top * pairs.length) / total : 1;
}

function maxOf(values) {
  let top = 0;
  for (const value of values) top = Math.max(top, value);
  return top;
}

function shortCount(value) {
  if (value >= 1e6) return `${+(value / 1e6).toFixed(2)} M`;
  return value >= 1e4 ? `${+(value / 1e3).toFixed(1)} k` : count(value);
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function css(pixel) {
  return `rgb(${pixel & 255}, ${(pixel >> 8) & 255}, ${(pixel >> 16) & 255})`;
}
