"use strict";
// Charts on uPlot: axes, cursor and dragging are its own; what fills them is ours.

const FONT = "12px system-ui, sans-serif";
const WHOLE = [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5, 6].map((p) => n * 10 ** p)).sort((a, b) => a - b);

function axis(palette, extra) {
  return {
    font: FONT, labelFont: FONT, stroke: palette.muted, labelSize: 18, labelGap: 0, gap: 4,
    grid: { stroke: "#ECECEC", width: 1 }, ticks: { show: false }, ...extra,
  };
}

// A chart that follows the width of its place.
function fitted(options, data, place) {
  const chart = new uPlot({ width: place.clientWidth || 600, ...options }, data, place);
  new ResizeObserver(() => {
    if (place.clientWidth) chart.setSize({ width: place.clientWidth, height: options.height });
  }).observe(place);
  return chart;
}

function verticalLine(chart, time, colour) {
  const { min, max } = chart.scales.x;
  if (time < min || time > max) return;
  const x = Math.round(chart.valToPos(time, "x", true));
  chart.ctx.save();
  chart.ctx.fillStyle = colour;
  chart.ctx.fillRect(x, chart.bbox.top, Math.max(1, devicePixelRatio), chart.bbox.height);
  chart.ctx.restore();
}

// A dashed line where steps were left out of the trace, with what is missing written beside it.
function drawGaps(chart, levels, palette, painted) {
  const { min, max } = chart.scales.x;
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.strokeStyle = ctx.fillStyle = palette.muted;
  ctx.lineWidth = devicePixelRatio;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  for (const at of levels.gaps) {
    if (at < min || at > max) continue;
    const x = Math.round(chart.valToPos(at, "x", true));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    if (painted) continue; // words would hide what is painted
    const { step } = levels.overview;
    const text = `steps ${step[at - 0.5] + 1} to ${step[at + 0.5] - 1} not recorded`;
    ctx.fillText(text, x + 5 * devicePixelRatio, bbox.top + 11 * devicePixelRatio);
  }
  ctx.restore();
}

// Columns over time with a hole at every gap, so that no line crosses one.
function broken(levels, [x, ...columns]) {
  const places = levels.gaps.filter((gap) => x.length && gap > x[0] && gap < x[x.length - 1]);
  if (!places.length) return [x, ...columns];
  const order = [...x.map((_, at) => at), ...places.map((_, at) => x.length + at)];
  const all = [...x, ...places];
  order.sort((a, b) => all[a] - all[b]);
  return [order.map((at) => all[at]), ...columns.map((column) => order.map((at) => (at < x.length ? column[at] : null)))];
}

// A chart over time. All of them share window, cursor and chosen micro-batch through the app,
// which has: window, time, levels, setWindow, pick(time, value, chart), hover(...), key(event).
function timeChart(app, place, { height, y, yAxis, series, data, draw, painted, label }) {
  const { palette } = app.levels.manifest;
  let pressed = null;
  const chart = fitted({
    height,
    legend: { show: false },
    padding: [8, 12, 0, 0],
    scales: { x: { time: false, range: () => app.window }, y },
    series: [{}, ...(series || [{ scale: "y", paths: () => null, points: { show: false } }])],
    axes: [
      axis(palette, {
        size: 26, incrs: WHOLE, space: 70, ...(painted && { grid: { show: false } }),
        values: (_, splits) => splits.map((at) => app.tick(at)),
      }),
      axis(palette, { size: 52, ...yAxis }),
    ],
    cursor: {
      y: false,
      sync: { key: "time", scales: ["x", null] },
      drag: { x: true, y: false, setScale: false },
      points: series ? { size: 6 } : { show: false },
      bind: { dblclick: () => () => { app.resetWindow(); return null; } },
    },
    hooks: {
      drawClear: draw ? [draw] : [],
      draw: [(u) => drawGaps(u, app.levels, palette, painted), (u) => verticalLine(u, app.time, palette.ink)],
      setSelect: [(u) => {
        const { left, width } = u.select;
        if (width < 4) return;
        app.setWindow(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      }],
    },
  }, data || [[0, app.levels.times - 1], [null, null]], place);
  const over = chart.over;
  over.addEventListener("mousedown", (event) => { pressed = event.clientX; });
  over.addEventListener("click", (event) => {
    if (pressed === null || Math.abs(event.clientX - pressed) > 3) return;
    app.pick(...pointed(chart, event), place.id);
  });
  over.addEventListener("mousemove", (event) => app.hover(...pointed(chart, event), place.id));
  over.addEventListener("mouseleave", () => app.hover(null));
  place.addEventListener("wheel", (event) => {
    if (!event.shiftKey) return; // without it the page scrolls
    event.preventDefault();
    const by = event.deltaY || event.deltaX;
    app.zoom(by > 0 ? 1.25 : 0.8, pointed(chart, event)[0]);
  }, { passive: false });
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", label);
  place.addEventListener("keydown", (event) => app.key(event));
  return chart;
}

function pointed(chart, event) {
  const box = chart.over.getBoundingClientRect();
  return [
    chart.posToVal(event.clientX - box.left, "x"),
    chart.posToVal(event.clientY - box.top, "y"),
  ];
}

// Share of records at or below an imbalance, every contender on the same axes.
function distributionChart(app, place) {
  const { palette, colours, dashes } = app.levels.manifest;
  const chart = fitted({
    height: 250,
    legend: { show: false },
    padding: [8, 16, 0, 0],
    scales: {
      x: { time: false, range: () => [1, app.distributionTop] },
      y: { range: () => [0, 1] },
    },
    series: [{}, ...app.levels.contenders.map((label, at) => ({
      label, stroke: colours[at], width: at ? 2 : 2.5, dash: dashes[at], points: { show: false },
    }))],
    axes: [
      axis(palette, { size: 26, label: "rank imbalance: load of the fullest rank / mean load" }),
      axis(palette, {
        size: 52, values: (_, splits) => splits.map((v) => `${Math.round(100 * v)} %`),
      }),
    ],
    cursor: { drag: { x: false, y: false }, y: false, points: { size: 6 } },
    hooks: { setCursor: [(u) => app.hoverDistribution(u)] },
  }, [[1], ...app.levels.contenders.map(() => [null])], place);
  return chart;
}

// Distributions of unequal supports on common places of the x axis.
function onCommonAxis(distributions, top) {
  const places = new Set([1, top]);
  for (let i = 0; i <= 400; i++) places.add(1 + ((top - 1) * i) / 400);
  for (const { values } of distributions) {
    const every = Math.max(1, Math.floor(values.length / 256));
    for (let i = 0; i < values.length; i += every) if (values[i] <= top) places.add(values[i]);
  }
  const x = [...places].sort((a, b) => a - b);
  return [x, ...distributions.map(({ values, quantiles }) => x.map((at) => share(values, at, quantiles)))];
}

function share(values, at, quantiles) {
  if (!values.length) return null;
  const above = firstFrom(values, at + 1e-9); // how many lie at or below
  if (!quantiles) return above / values.length;
  if (above === 0) return 0;
  if (above === values.length) return 1;
  const part = (at - values[above - 1]) / (values[above] - values[above - 1]);
  return (above - 1 + part) / (values.length - 1);
}
