"use strict";
// The figures of a sweep: every one draws what Python found; nothing is estimated here.

const LINE = 30, LABEL = 7;

function mixed(colour, part) {
  const [r, g, b] = rgb(colour).map((v) => Math.round(255 - part * (255 - v)));
  return `rgb(${r},${g},${b})`;
}

function hatching() {
  return svg("defs", {}, svg("pattern", { id: "tie", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, stroke: "#fff", "stroke-width": 2.5, "stroke-opacity": 0.75 })));
}

function widest(texts) {
  return LABEL * Math.max(0, ...texts.map((text) => text.length));
}

// Cells of a grid; `cells` has x, y, colour, lines of text, tie, pressed, label, and what a click does.
function drawMap(place, { columns, lanes, cells, xLabel }) {
  const left = Math.min(420, 14 + widest(lanes));
  const room = Math.max(300, place.clientWidth - left - 4);
  const width = Math.max(66, Math.min(170, room / columns.length));
  const height = 38;
  const drawn = svg("svg", { width: left + width * columns.length + 4, height: height * lanes.length + 40, role: "group", "aria-label": "who wins where" }, hatching());
  lanes.forEach((text, y) => {
    const cut = text.length * LABEL > left ? `…${text.slice(-Math.floor(left / LABEL) + 2)}` : text;
    drawn.append(svg("text", { x: left - 8, y: height * (y + 0.5) + 4, "text-anchor": "end", class: "soft" }, cut));
  });
  columns.forEach((text, x) => drawn.append(svg("text", { x: left + width * (x + 0.5), y: height * lanes.length + 15, "text-anchor": "middle", class: "soft" }, text)));
  drawn.append(svg("text", { x: left + (width * columns.length) / 2, y: height * lanes.length + 33, "text-anchor": "middle" }, xLabel));
  for (const cell of cells) {
    const at = { x: left + width * cell.x + 1, y: height * cell.y + 1, width: width - 2, height: height - 2 };
    const middle = at.x + at.width / 2;
    drawn.append(svg("g", { class: "cell", tabindex: 0, role: "button", "aria-label": cell.label, "aria-pressed": cell.pressed,
      onclick: cell.choose, onmouseenter: cell.hover, onfocus: cell.hover, onmouseleave: cell.leave,
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); cell.choose(); } } },
    svg("rect", { ...at, fill: cell.colour }),
    cell.tie ? svg("rect", { ...at, fill: "url(#tie)" }) : null,
    svg("rect", { ...at, fill: "none", class: "edge" }),
    svg("text", { x: middle, y: at.y + 16, "text-anchor": "middle" }, cell.lines[0]),
    svg("text", { x: middle, y: at.y + 30, "text-anchor": "middle" }, cell.lines[1] || "")));
  }
  place.replaceChildren(drawn);
}

// Bars of loss, a line for each choice.
function drawBars(place, bars, hover) {
  const left = Math.min(330, 12 + widest(bars.map((bar) => bar.name)));
  const right = 130;
  const width = Math.max(120, place.clientWidth - left - right);
  const top = Math.max(1e-9, ...bars.map((bar) => Math.max(bar.worst, bar.high ?? 0)));
  const low = Math.min(0, ...bars.map((bar) => Math.min(bar.mean, bar.low ?? 0)));
  const x = (value) => left + (width * (value - low)) / (top - low);
  const bottom = LINE * bars.length;
  const drawn = svg("svg", { width: left + width + right, height: bottom + 34, role: "img", "aria-label": "loss of each choice" });
  for (const tick of ticks(low, top)) {
    drawn.append(svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: bottom, stroke: "#e6e6e6" }));
    drawn.append(svg("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle", class: "soft" }, digits(tick)));
  }
  drawn.append(svg("text", { x: left + width / 2, y: bottom + 31, "text-anchor": "middle", class: "soft" }, "loss [%]"));
  bars.forEach((bar, at) => {
    const y = LINE * (at + 0.5);
    drawn.append(svg("g", { class: "bar-line", onmouseenter: () => hover(bar), onmouseleave: () => hover(null) },
      svg("rect", { x: 0, y: y - LINE / 2, width: left + width + right, height: LINE, fill: "transparent" }),
      svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, bar.name),
      svg("rect", { x: x(Math.min(0, bar.mean)), y: y - 8, width: Math.abs(x(bar.mean) - x(0)), height: 16, fill: bar.colour }),
      bar.low === null ? null : svg("line", { x1: x(bar.low), x2: x(bar.high), y1: y, y2: y, stroke: "#222", "stroke-width": 1.5 }),
      svg("line", { x1: x(bar.p90), x2: x(bar.p90), y1: y - 7, y2: y + 7, stroke: "#222", "stroke-width": 1.5 }),
      svg("circle", { cx: x(bar.worst), cy: y, r: 3, fill: "#222" }),
      svg("text", { x: left + width + 16, y: y + 4, class: "soft" }, [bar.mean, bar.p90, bar.worst].map((v) => percent(v).replace(" %", "")).join(" · "))));
  });
  place.replaceChildren(drawn);
}

const SHAPES = [
  (x, y) => svg("circle", { cx: x, cy: y, r: 5 }),
  (x, y) => svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 }),
  (x, y) => svg("path", { d: `M${x},${y - 6}L${x + 6},${y}L${x},${y + 6}L${x - 6},${y}Z` }),
  (x, y) => svg("path", { d: `M${x},${y - 6}L${x + 6},${y + 5}L${x - 6},${y + 5}Z` }),
  (x, y) => svg("path", { d: `M${x},${y + 6}L${x + 6},${y - 5}L${x - 6},${y - 5}Z` }),
];

// Points of memory and throughput, the front as steps.
function drawPareto(place, points, memory, hover) {
  const [left, bottom, height] = [52, 300, 344];
  const width = Math.max(240, place.clientWidth - left - 14);
  const range = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = (high - low || Math.abs(high) || 1) * 0.07;
    return [low - pad, high + pad];
  };
  const [x0, x1] = range(points.map((p) => p.memory));
  const [y0, y1] = range(points.map((p) => p.speed));
  const x = (v) => left + (width * (v - x0)) / (x1 - x0);
  const y = (v) => bottom - ((bottom - 8) * (v - y0)) / (y1 - y0);
  const drawn = svg("svg", { width: left + width + 14, height, role: "img", "aria-label": "throughput against memory" });
  for (const tick of ticks(x0, x1)) {
    drawn.append(svg("line", { x1: x(tick), x2: x(tick), y1: 8, y2: bottom, stroke: "#ececec" }),
      svg("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle", class: "soft" }, digits(tick)));
  }
  for (const tick of ticks(y0, y1)) {
    drawn.append(svg("line", { x1: left, x2: left + width, y1: y(tick), y2: y(tick), stroke: "#ececec" }),
      svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end", class: "soft" }, `${digits(tick)} %`));
  }
  drawn.append(svg("text", { x: left + width / 2, y: bottom + 34, "text-anchor": "middle", class: "soft" }, memory));
  const front = points.filter((p) => p.front);
  const path = front.map((p, at) => (at ? `H${x(p.memory)}V${y(p.speed)}` : `M${x(p.memory)},${y(p.speed)}`)).join("");
  drawn.append(svg("path", { d: path ? `${path}H${left + width}` : "", fill: "none", stroke: "#222" }));
  for (const point of points) {
    const mark = SHAPES[point.shape % SHAPES.length](x(point.memory), y(point.speed));
    mark.setAttribute("fill", point.fits ? point.colour : "#fff");
    mark.setAttribute("stroke", point.fits ? "#fff" : point.colour);
    mark.setAttribute("stroke-width", point.fits ? 0.7 : 1.6);
    mark.setAttribute("class", "mark");
    mark.addEventListener("mouseenter", () => hover(point));
    mark.addEventListener("mouseleave", () => hover(null));
    drawn.append(mark);
  }
  place.replaceChildren(drawn);
}

// Lines with bands on uPlot. A series: label, colour, dash, center, low, high (columns along x).
function drawCurves(place, { x, labels, series, yLabel, palette }, hover) {
  const data = [x];
  const lines = [{}];
  const bands = [];
  for (const one of series) {
    lines.push({ label: one.label, stroke: one.colour, dash: one.dash, width: 2, points: { show: true, size: 6 }, spanGaps: false });
    data.push(one.center);
    const edge = lines.length;
    for (const side of [one.high, one.low]) {
      lines.push({ label: `${one.label} band`, stroke: "transparent", width: 0, points: { show: false } });
      data.push(side);
    }
    bands.push({ series: [edge, edge + 1], fill: `${one.colour}2A` });
  }
  place.replaceChildren();
  const pad = x.length > 1 ? 0.04 * (x[x.length - 1] - x[0]) : 0.5;
  const every = Math.ceil(x.length / 14);
  return fitted({
    height: 300,
    legend: { show: false },
    padding: [8, 12, 0, 0],
    scales: { x: { time: false, range: () => [x[0] - pad, x[x.length - 1] + pad] }, y: { range: (_, low, high) => [Math.min(0, low), high * 1.05 || 1] } },
    series: lines,
    bands,
    axes: [
      axis(palette, { size: 24, labelSize: 18, label: labels.name, splits: () => x.filter((_, at) => at % every === 0), values: (_, splits) => splits.map((at) => labels.values[x.indexOf(at)]) }),
      axis(palette, { size: 58, label: yLabel }),
    ],
    cursor: { drag: { x: false, y: false }, y: false, points: { size: 7 } },
    hooks: { setCursor: [(u) => hover(u.cursor.idx)] },
  }, data, place);
}
