"use strict";
// Fills a chart's plotting area pixel by pixel: cost depends on the screen, not on the trace.

const BLANK = 0xffffffff, BLACK = 0xff000000;

// Call fill(pixels, width, height) and put the pixels where the chart's data lies. Most redraws
// change a line on top and not what is under it: the pixels are kept while `what`, the window and
// the size are the same.
function paintArea(chart, what, fill) {
  const { left, top, width, height } = chart.bbox;
  const w = Math.round(width), h = Math.round(height);
  if (w < 1 || h < 1) return;
  const { min, max } = chart.scales.x;
  const key = [...what, w, h, min, max];
  if (!chart.kept || chart.kept.key.some((part, at) => part !== key[at])) {
    chart.kept = { key, canvas: filled(fill, w, h) };
  }
  chart.ctx.drawImage(chart.kept.canvas, Math.round(left), Math.round(top));
}

function filled(fill, w, h) {
  const canvas = new OffscreenCanvas(w, h);
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  const pixels = new Uint32Array(image.data.buffer);
  pixels.fill(BLANK);
  fill(pixels, w, h);
  context.putImageData(image, 0, 0);
  return canvas;
}

// For each pixel column the range of times it covers.
function columnTimes(chart, width) {
  const { min, max } = chart.scales.x;
  const edges = new Float64Array(width + 1);
  for (let x = 0; x <= width; x++) edges[x] = min + ((max - min) * x) / width;
  return edges;
}

// Imbalance over time x layer; a pixel that covers many cells shows the worst of them.
function paintHeat(chart, levels, contender, scale) {
  paintArea(chart, [contender], (pixels, w, h) => {
    const edges = columnTimes(chart, w);
    const rowOf = Int32Array.from({ length: h }, (_, y) => Math.floor((y * levels.layers) / h));
    const row = new Float64Array(levels.layers);
    const colours = new Uint32Array(levels.layers);
    let seen = "";
    for (let x = 0; x < w; x++) {
      const first = cellOf(levels, edges[x]), last = Math.max(first, cellOf(levels, edges[x + 1] - 1e-9));
      if (`${first},${last}` !== seen) {
        seen = `${first},${last}`;
        row.fill(0);
        for (let at = first; at <= last; at++) {
          for (let layer = 0; layer < levels.layers; layer++) {
            const value = levels.cell("peak", contender, at * levels.width, layer);
            if (value > row[layer]) row[layer] = value;
          }
        }
        row.forEach((value, layer) => { colours[layer] = value ? scale.colour(value / 1000) : BLANK; });
      }
      for (let y = 0; y < h; y++) pixels[y * w + x] = colours[rowOf[y]];
    }
  });
}

function cellOf(levels, time) {
  const at = Math.floor((time + 0.5) / levels.width);
  return Math.max(0, Math.min(levels.cells - 1, at));
}

// Loads of all ranks on top of one another, each as thick as its share and coloured by how far it
// is from the mean. A pixel that covers many records shows their mean.
function paintStack(chart, stack, ranks, scale, chosen) {
  paintArea(chart, [stack, chosen], (pixels, w, h) => {
    const bounds = [];
    const edges = columnTimes(chart, w);
    const loads = new Float64Array(ranks);
    const colours = new Uint32Array(ranks);
    let seen = "", total = 0;
    for (let x = 0; x < w; x++) {
      const [first, last] = recordsOf(stack, edges[x], edges[x + 1]);
      if (first > last) continue;
      if (`${first},${last}` !== seen) {
        seen = `${first},${last}`;
        total = meanLoads(stack.values, first, last, ranks, loads);
        loads.forEach((load, rank) => { colours[rank] = scale.colour((load * ranks) / total); });
      }
      if (!total) continue;
      let rank = 0, below = 0, start = 0;
      for (let y = 0; y < h; y++) {
        const level = ((y + 0.5) / h) * total;
        while (rank < ranks - 1 && below + loads[rank] < level) {
          if (rank === chosen) bounds.push([x, start, y]);
          below += loads[rank++];
          start = y;
        }
        pixels[(h - 1 - y) * w + x] = colours[rank];
      }
      if (rank === chosen) bounds.push([x, start, h]);
    }
    outline(pixels, w, h, bounds);
  });
}

// Draw a line along both edges of the chosen rank's band.
function outline(pixels, w, h, bounds) {
  const thick = Math.max(1, Math.round(devicePixelRatio));
  for (const [x, low, high] of bounds) {
    for (const edge of [low, high]) {
      for (let y = edge; y < Math.min(h, edge + thick); y++) pixels[(h - 1 - y) * w + x] = BLACK;
    }
  }
}

// Records of a pixel column: those inside it, else the one whose stretch of time it lies in.
function recordsOf(stack, from, to) {
  const first = firstFrom(stack.times, from + 0.5 - 1e-9);
  const last = firstFrom(stack.times, to + 0.5 - 1e-9) - 1;
  if (first <= last) return [first, last];
  const before = first - 1;
  const held = before >= 0 && from - stack.times[before] < stack.width - 0.5 + 1e-9;
  return held ? [before, before] : [1, 0];
}

function meanLoads(values, first, last, ranks, loads) {
  loads.fill(0);
  let total = 0;
  for (let at = first; at <= last; at++) {
    for (let rank = 0; rank < ranks; rank++) loads[rank] += values[at * ranks + rank];
  }
  for (let rank = 0; rank < ranks; rank++) total += loads[rank];
  return total;
}
