// The timeline: a picture of all spans, by address or stacked by tag. Goes after page_data.js, in the same script.

const MAX_LABELS = 400;
const STACKED_TAGS = 60; // the rest of them is one layer
const NO_PICK = -1;

let picks = null; // what each pixel of the plot shows, a span or a tag

/** What stays lies at the bottom, and of the rest the largest. */
const layers = (() => {
  const order = tags.map((_, i) => i).sort((a, b) => tags[b].stays - tags[a].stays || tags[b].peak - tags[a].peak);
  const layerOf = [];
  order.forEach((tag, i) => (layerOf[tag] = Math.min(i, STACKED_TAGS)));
  return { order, layerOf, count: Math.min(order.length, STACKED_TAGS + 1) };
})();

/** Where the plot is, in CSS pixels, and what it shows. */
function plotOf(canvas) {
  const [x, y] = [92, 56];
  const [t0, t1] = state.time;
  const [low, high] = state[state.view];
  const [w, h] = [Math.max(1, canvas.clientWidth - x - 12), Math.max(1, canvas.clientHeight - y - 24)];
  return { x, y, w, h, t0, t1, low, high };
}

function paintTimeline() {
  const started = performance.now();
  const canvas = $("timeline");
  const { context, ratio } = prepare(canvas);
  const plot = plotOf(canvas);
  const [left, top] = [Math.round(plot.x * ratio), Math.round(plot.y * ratio)];
  const [w, h] = [Math.max(1, Math.round(plot.w * ratio)), Math.max(1, Math.round(plot.h * ratio))];
  const image = context.createImageData(w, h);
  const pixels = new Uint32Array(image.data.buffer).fill(pixel(theme.plot));
  const at = new Int32Array(w * h).fill(NO_PICK);
  const labels = (state.view === "address" ? rasterAddresses : rasterStack)(plot, pixels, at, w, h);
  context.putImageData(image, left, top);
  picks = { at, w, h, left, top, ratio };
  paintLabels(context, labels, left, top, ratio);
  paintAxes(context, plot);
  paintPhases(context, plot);
  Object.assign(canvas.dataset, { view: state.view, t0: plot.t0, t1: plot.t1, low: plot.low, high: plot.high, spans: N,
    plot: [plot.x, plot.y, plot.w, plot.h].join(" "), drawMs: (performance.now() - started).toFixed(1) });
  canvas.ariaLabel = `${state.view === "address" ? "Addresses" : "Bytes per tag"} over time: ${exact(N)} allocations, `
    + `${duration(plot.t0)} to ${duration(plot.t1)}, ${human(plot.low)} to ${human(plot.high)}${data.dropped ? "; earlier events were dropped" : ""}`;
}

const byLength = (() => {
  const length = Float64Array.from(spans.begin, (begin, i) => spans.end[i] - begin);
  return Int32Array.from(length, (_, i) => i).sort((a, b) => (length[a] === length[b] ? a - b : length[b] - length[a]));
})();

/** Longest first, and nobody paints over another: what shares a pixel with something longer is not seen. */
function rasterAddresses({ t0, t1, low, high }, pixels, at, w, h) {
  const [sx, sy] = [w / (t1 - t0), h / (high - low)];
  const { offset, bytes, begin, end, trace } = spans;
  const seen = new Float64Array(1 << 14); // narrow rectangles; in one column the same range comes again and again
  const labels = [];
  for (const i of byLength) {
    if (end[i] <= t0 || begin[i] >= t1 || offset[i] + bytes[i] <= low || offset[i] >= high) continue;
    const x0 = clamp(Math.floor((begin[i] - t0) * sx), 0, w - 1);
    const x1 = clamp(Math.floor((end[i] - t0) * sx), x0 + 1, w);
    const y1 = clamp(h - Math.floor((offset[i] - low) * sy), 1, h);
    const y0 = clamp(h - Math.floor((offset[i] + bytes[i] - low) * sy), 0, y1 - 1);
    if (x1 - x0 === 1) {
      const key = (x0 * h + y0) * h + y1 + 1;
      if (seen[key % 16381] === key) continue;
      seen[key % 16381] = key;
    }
    const colours = ink[tagOf[trace[i]]];
    const isMatch = matchesOf(trace[i], stepOfSpan[i]);
    const fill = isMatch ? colours.full : colours.dim;
    const isFramed = isMatch && y1 - y0 > 4 && x1 - x0 > 2;
    for (let y = y0; y < y1; y++) {
      const colour = isFramed && y === y0 ? colours.edge : fill;
      for (let p = y * w + x0, stop = y * w + x1; p < stop; p++) {
        if (at[p] !== NO_PICK) continue;
        at[p] = i;
        pixels[p] = colour;
      }
      if (isFramed && x1 < w && at[y * w + x1 - 1] === i) pixels[y * w + x1 - 1] = colours.edge;
    }
    if (isMatch && labels.length < MAX_LABELS && x1 - x0 > 30 && y1 - y0 > 12) {
      labels.push([data.tags[tagOf[trace[i]]], x0, y0, x1, y1]);
    }
  }
  return labels;
}

/** Each column shows the time in it at which most is held, so that no peak is too short to be seen. */
function rasterStack({ t0, t1, low, high }, pixels, at, w, h) {
  const sy = h / (high - low);
  const row = (bytes) => clamp(h - Math.round((bytes - low) * sy), 0, h);
  const groupOf = (i) => 2 * layers.layerOf[tagOf[spans.trace[i]]] + 1 - matchesOf(spans.trace[i], stepOfSpan[i]);
  highest([t0, t1], w, 2 * layers.count, groupOf, (x, levels) => {
    let [sum, bottom] = [0, row(0)];
    levels.forEach((bytes, group) => {
      const tag = layers.order[group >> 1];
      const top = row((sum += bytes));
      for (let y = top; y < bottom; y++) {
        pixels[y * w + x] = group & 1 ? ink[tag].dim : y === top && bottom - top > 4 ? ink[tag].edge : ink[tag].full;
        at[y * w + x] = tag;
      }
      bottom = top;
    });
  });
  return [];
}

function paintLabels(context, labels, left, top, ratio) {
  context.fillStyle = theme.label;
  context.textAlign = "left";
  for (const [text, x0, y0, x1, y1] of labels) {
    const room = (x1 - x0) / ratio - 10;
    if (room < context.measureText(text.slice(0, 200)).width || (y1 - y0) / ratio < 13) continue;
    context.fillText(text, (left + x0) / ratio + 5, Math.min((top + (y0 + y1) / 2) / ratio, (top + y1) / ratio - 7));
  }
}

function paintAxes(context, { x, y, w, h, t0, t1, low, high }) {
  context.fillStyle = theme.soft;
  context.textAlign = "right";
  const step = 2 ** Math.ceil(Math.log2(((high - low) * 34) / h));
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
    const at = Math.round(y + h - ((tick - low) / (high - low)) * h) + 0.5;
    context.fillRect(x - 5, at - 0.5, 4, 1);
    context.fillText(`${state.view === "address" ? "+" : ""}${bytesLabel(tick, step)}`, x - 9, at);
  }
  if (data.dropped) context.fillText("← dropped", x - 9, y + h + 13);
  context.textAlign = "center";
  const rough = ((t1 - t0) * 110) / w;
  const power = 10 ** Math.floor(Math.log10(rough));
  const pace = power * [1, 2, 5, 10].find((n) => n * power >= rough);
  for (let tick = Math.ceil(t0 / pace) * pace; tick <= t1; tick += pace) {
    const at = x + ((tick - t0) / (t1 - t0)) * w;
    context.fillRect(Math.round(at), y + h + 1, 1, 4);
    context.fillText(timeLabel(tick, pace, t1), clamp(at, x + 20, x + w - 18), y + h + 13);
  }
}

/** Exact: in the largest unit of which a step is at least an eighth. */
function bytesLabel(bytes, step) {
  const power = clamp(Math.floor((Math.log2(step) + 3) / 10), 0, UNITS.length - 1);
  return `${exact(bytes / 1024 ** power)} ${UNITS[power]}`;
}

function timeLabel(time, pace, last) {
  const [size, unit] = timeUnit(last);
  return `${(time / size).toFixed(clamp(Math.ceil(Math.log10(size / pace) - 1e-9), 0, 9))} ${unit}`;
}

/** Steps of one phase in a row, as [first, last]. */
function runsOfPhases() {
  const runs = [];
  steps.forEach((step, i) => {
    if (runs.length && steps[runs.at(-1)[0]].phase === step.phase) runs.at(-1)[1] = i;
    else runs.push([i, i]);
  });
  return runs;
}
const runs = runsOfPhases();

/** Phases, and below them their steps. */
function paintPhases(context, { x, w, t0, t1 }) {
  const to = (time) => x + clamp((time - t0) / (t1 - t0), 0, 1) * w;
  const bar = (colour, from, until, top, height, text) => {
    if (until - from <= 0) return;
    context.fillStyle = colour;
    context.fillRect(from, top, Math.max(0.6, until - from - (until - from > 3 ? 1 : 0)), height);
    context.fillStyle = theme.label;
    if (until - from > 14 && until - from > context.measureText(text.slice(0, 200)).width + 6) {
      context.fillText(text, (from + until) / 2, top + height / 2 + 0.5);
    }
  };
  context.textAlign = "center";
  for (const [first, last] of runs) {
    const colour = PHASES[steps[first].phase] ?? NO_PHASE;
    bar(colour, to(steps[first].begin), to(steps[last].end), 8, 15, steps[first].phase);
    for (let i = first; i <= last; i++) {
      if (steps[i].end > t0 && steps[i].begin < t1) {
        bar(blend(colour, theme.mist, 0.45), to(steps[i].begin), to(steps[i].end), 24, 13, String(steps[i].number));
      }
    }
  }
}

/** What lies on top and changes with every move of the mouse: moments, cursor, peak, outlines. */
function paintOverlay() {
  const { context } = prepare($("overlay"));
  const plot = plotOf($("overlay"));
  const toX = (time) => plot.x + ((time - plot.t0) / (plot.t1 - plot.t0)) * plot.w;
  const toY = (value) => plot.y + plot.h - ((value - plot.low) / (plot.high - plot.low)) * plot.h;
  context.save();
  context.beginPath();
  context.rect(plot.x, plot.y - 20, plot.w, plot.h + 20);
  context.clip();
  for (const [row, colour] of [[state.hover, theme.ink], [state.pinned, theme.accent]]) {
    if (!row || state.view !== "address") continue;
    const from = Math.max(plot.x - 9, toX(row.begin ?? plot.t0));
    const to = Math.min(plot.x + plot.w + 9, toX(row.end ?? plot.t1));
    const top = Math.max(plot.y - 3, toY(row.offset + row.bytes));
    const bottom = Math.min(plot.y + plot.h + 3, toY(row.offset));
    if (top > bottom || from > to) continue;
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.setLineDash(row.begin === null ? [3, 3] : []);
    context.strokeRect(from, top, Math.max(1, to - from), Math.max(1, bottom - top));
  }
  const line = (time, colour, dash, text) => {
    const x = Math.round(toX(time)) + 0.5;
    if (x < plot.x - 1 || x > plot.x + plot.w + 1) return;
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = 1;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(x, plot.y - 16);
    context.lineTo(x, plot.y + plot.h);
    context.stroke();
    context.textAlign = x > plot.x + plot.w - 60 ? "right" : "left";
    context.fillText(text, x + (x > plot.x + plot.w - 60 ? -4 : 4), plot.y - 9);
  };
  if ("peak" in data.moments) line(data.moments.peak.time, theme.soft, [4, 4], "peak");
  if ("oom" in data.moments) line(data.moments.oom.time, theme.alarm, [4, 4], "out of memory");
  if (state.view === "stacked" && N) markPeak(context, toX(PEAK.time), toY(PEAK.bytes), plot);
  line(state.cursor, theme.accent, [], "");
  context.restore();
}

function markPeak(context, x, y, plot) {
  context.setLineDash([2, 3]);
  context.strokeStyle = context.fillStyle = theme.ink;
  context.beginPath();
  context.moveTo(plot.x, Math.round(y) + 0.5);
  context.lineTo(plot.x + plot.w, Math.round(y) + 0.5);
  context.stroke();
  context.beginPath();
  context.arc(x, y, 3.5, 0, 7);
  context.fill();
  context.textAlign = x > plot.x + plot.w / 2 ? "right" : "left";
  context.fillText(`${human(PEAK.bytes)} at ${duration(PEAK.time)}`, x + (x > plot.x + plot.w / 2 ? -9 : 9), y - 9);
}
