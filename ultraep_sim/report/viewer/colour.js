"use strict";
// Colour scales from the palette of the plots; lightness alone tells them apart in grey.

const STEPS = 256;

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// Interpolated colours between stops at 0..1, for a canvas (0xAABBGGRR) and for CSS.
function ramp(stops) {
  const table = new Uint32Array(STEPS);
  for (let i = 0; i < STEPS; i++) {
    const at = i / (STEPS - 1);
    let upper = 1;
    while (stops[upper][0] < at) upper++;
    const [a, from] = stops[upper - 1];
    const [b, to] = stops[upper];
    const part = (at - a) / (b - a);
    const [r, g, bl] = rgb(from).map((v, k) => Math.round(v + part * (rgb(to)[k] - v)));
    table[i] = (255 << 24) | (bl << 16) | (g << 8) | r;
  }
  const css = stops.map(([at, colour]) => `${colour} ${100 * at}%`).join(", ");
  return { table, css: `linear-gradient(to right, ${css})` };
}

// Load over the mean of all ranks: white at the mean, on a scale of doublings.
class LoadScale {
  constructor(palette, span) {
    this.span = span; // doublings on either side
    this.ramp = ramp([
      [0, "#05324F"], [0.25, palette.cool], [0.5, "#F7F7F7"], [0.75, palette.warm], [1, "#4A1500"],
    ]);
  }

  colour(ratio) {
    const at = ratio > 0 ? 0.5 + Math.log2(ratio) / (2 * this.span) : 0;
    return this.ramp.table[Math.max(0, Math.min(STEPS - 1, Math.round(at * (STEPS - 1))))];
  }

  ticks() {
    const found = [];
    for (let power = -Math.floor(this.span); power <= this.span; power++) {
      found.push([0.5 + power / (2 * this.span), `${2 ** power}×`]);
    }
    return found;
  }
}

// Imbalance: paper at 1, darker the worse; on a scale of doublings too.
class ImbalanceScale {
  constructor(palette, top) {
    this.top = Math.max(top, 1.1);
    this.ramp = ramp([
      [0, "#FFFDF7"], [0.35, palette.mild], [0.7, palette.warm], [1, "#4A1500"],
    ]);
  }

  colour(value) {
    const at = Math.log(value) / Math.log(this.top);
    return this.ramp.table[Math.max(0, Math.min(STEPS - 1, Math.round(at * (STEPS - 1))))];
  }

  ticks() {
    return [0, 0.25, 0.5, 0.75, 1].map((at) => [at, (this.top ** at).toFixed(2)]);
  }
}

function drawLegend(element, scale, caption) {
  element.replaceChildren();
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.style.background = scale.ramp.css;
  for (const [at, text] of scale.ticks()) {
    const tick = document.createElement("span");
    tick.textContent = text;
    tick.style.left = `${100 * at}%`;
    bar.append(tick);
  }
  element.append(caption, bar);
}
