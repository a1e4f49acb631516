"use strict";
// The levels of the data: an overview that is always read, single loads layer by layer on demand.

const LAYERS_IN_MEMORY = 16;

class Levels {
  static async open() {
    const manifest = JSON.parse(document.getElementById("manifest").textContent);
    return new Levels(manifest, await readPack("overview", manifest.overview));
  }

  constructor(manifest, overview) {
    Object.assign(this, { manifest, overview });
    this.times = manifest.times;
    this.layers = manifest.layers;
    this.ranks = manifest.ranks;
    this.experts = manifest.experts;
    this.contenders = manifest.contenders;
    this.width = manifest.cell_width;
    this.cells = Math.ceil(this.times / this.width);
    this.read = { ranks: new Map(), experts: new Map() };
    // A step of one micro-batch needs no second number.
    this.gaps = gapsOf(overview.step);
    this.oneBatch = overview.micro_batch.every((value) => value === 0);
  }

  // "step 12, micro-batch 3" of a time, or short for an axis.
  moment(time, short = false) {
    const step = this.overview.step[time];
    const batch = this.overview.micro_batch[time];
    if (short) return this.oneBatch ? `${step}` : `${step}/${batch}`;
    return this.oneBatch ? `step ${step}` : `step ${step}, micro-batch ${batch}`;
  }

  layerName(layer) {
    return layer < 0 ? "all layers" : `layer ${this.overview.layers[layer]}`;
  }

  // One imbalance of a cell, in thousandths; 0 where nothing was recorded.
  cell(kind, contender, time, layer) {
    const name = this.width > 1 ? kind : "sample";
    return this.overview[name + contender][Math.floor(time / this.width) * this.layers + layer];
  }

  // Mean and largest imbalance at every cell of time, over one layer or all of them.
  line(contender, layer) {
    const mean = new Array(this.cells);
    const peak = new Array(this.cells);
    for (let at = 0; at < this.cells; at++) {
      let total = 0, count = 0, top = 0;
      const [first, last] = layer < 0 ? [0, this.layers - 1] : [layer, layer];
      for (let row = first; row <= last; row++) {
        const value = this.cell("mean", contender, at * this.width, row);
        if (!value) continue;
        total += value;
        count += 1;
        top = Math.max(top, this.cell("peak", contender, at * this.width, row));
      }
      mean[at] = count ? total / count / 1000 : null;
      peak[at] = count ? top / 1000 : null;
    }
    return { mean, peak };
  }

  // Share of records at or below an imbalance: exact quantiles over all of time, or counted from
  // the overview's micro-batches inside a window.
  distribution(contender, layer, window) {
    if (window[0] <= -0.5 && window[1] >= this.times - 0.5) {
      const table = this.overview["quantile" + contender];
      const size = table.length / (this.layers + 1);
      const values = Array.from(table.subarray((layer + 1) * size, (layer + 2) * size));
      return { values: values.map((v) => v / 10000), exact: true };
    }
    const values = [];
    const sample = this.overview["sample" + contender];
    const [first, last] = layer < 0 ? [0, this.layers - 1] : [layer, layer];
    for (let at = 0; at < this.cells; at++) {
      const time = at * this.width;
      if (time < window[0] || time > window[1]) continue;
      for (let row = first; row <= last; row++) {
        const cell = at * this.layers + row;
        if (sample[cell] && this.overview.counted[cell]) values.push(sample[cell] / 1000);
      }
    }
    return { values: values.sort((a, b) => a - b), exact: this.width === 1 };
  }

  // The layer that is worst before balancing at a time.
  worstLayer(time) {
    let best = 0, top = -1;
    for (let layer = 0; layer < this.layers; layer++) {
      const value = this.cell("peak", 0, time, layer);
      if (value > top) [best, top] = [layer, value];
    }
    return best;
  }

  // Rank loads of a contender as columns: times, and values [column, rank] in any unit.
  async stack(contender, layer) {
    if (!this.manifest.known[contender]) return null;
    if (layer < 0) {
      const values = this.overview["share" + contender];
      const width = this.manifest.share_width;
      const times = Int32Array.from({ length: values.length / this.ranks }, (_, i) => i * width);
      return { times, values, width };
    }
    const pack = await this.pack("ranks", layer);
    if (!pack) return null;
    const width = this.manifest.rank_level.every;
    return { times: pack.time, values: pack["pairs" + contender], width };
  }

  // Single loads of a layer: level "ranks" or "experts"; null where the file holds none.
  async pack(level, layer) {
    const known = this.read[level];
    if (!known.has(layer)) {
      const index = this.manifest[level === "ranks" ? "rank_level" : "expert_level"].layers[layer];
      if (!index) return null;
      known.set(layer, readPack(level + layer, index));
      if (known.size > LAYERS_IN_MEMORY) known.delete(known.keys().next().value);
    }
    const pack = await known.get(layer);
    return pack.time.length ? pack : null;
  }
}

// Places between times where steps are missing: jumps of more than twice the usual stride. Many
// of them are the way a trace was sampled, and marking each would hide the data.
function gapsOf(step) {
  const jumps = [];
  for (let at = 1; at < step.length; at++) if (step[at] > step[at - 1]) jumps.push(step[at] - step[at - 1]);
  const usual = jumps.sort((a, b) => a - b)[Math.floor(jumps.length / 2)];
  const gaps = [];
  for (let at = 1; at < step.length; at++) if (step[at] - step[at - 1] > 2 * usual) gaps.push(at - 0.5);
  return gaps.length <= 20 ? gaps : [];
}

// Index of the value nearest to a time in ascending times.
function nearest(times, time) {
  let low = 0, high = times.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - times[low - 1] <= times[low] - time ? low - 1 : low;
}

// Index of the first value at or above a time.
function firstFrom(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}
