"use strict";
// What the page knows of the snapshot, and the words and colours for it. A string of the snapshot becomes a text node
// or is drawn on a canvas, never markup.

// -- the data -----------------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const START = BigInt(data.start);
const FREE = -1; // the trace and the tag of a hole
const spans = {
  offset: Float64Array.from(data.spans.offset),
  bytes: Float64Array.from(data.spans.bytes),
  trace: Int32Array.from(data.spans.trace),
  begin: Float64Array.from(data.spans.begin), // ascending
  end: Float64Array.from(data.spans.end, (time) => time ?? Infinity),
};
const N = spans.begin.length;
const tagOf = Int32Array.from(data.traces, ([tag]) => tag);
const steps = data.steps.map(([number, phase, begin, blocks], i) => (
  { number, phase, begin, end: data.steps[i + 1]?.[2] ?? Infinity, blocks }
));
const stepOfNumber = new Map(steps.map((step, i) => [step.number, i]));
const stepOfSpan = Int32Array.from(spans.begin, (time) => stepAt(time));
const HOME = homeOfTime(); // all there is, in nanoseconds

function homeOfTime() {
  const known = [...Object.values(data.moments).map((moment) => moment.time), ...steps.map((step) => step.begin)];
  const events = [...spans.begin, ...spans.end].filter(isFinite);
  const first = N ? spans.begin[0] : Math.min(known.reduce((a, b) => Math.min(a, b), Infinity), 1e300);
  const last = known.concat(events).reduce((a, b) => Math.max(a, b), -Infinity);
  return isFinite(last) ? [first, Math.max(last, first + 1)] : [0, 1];
}

function stepAt(time) {
  let low = 0;
  let high = data.steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (data.steps[middle][2] <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function spanRow(i) {
  const trace = spans.trace[i];
  return {
    offset: spans.offset[i], bytes: spans.bytes[i], trace, tag: tagOf[trace], step: stepOfSpan[i],
    lifetime: data.spans.lifetime[i], begin: spans.begin[i], end: spans.end[i],
  };
}

function spansAt(time) {
  const found = [];
  for (let i = 0; i < N && spans.begin[i] <= time; i++) if (spans.end[i] > time) found.push(i);
  return found;
}

/** What was held at a moment, by address; its times come from the events, where there are any. */
function rowsOf(moment, time) {
  if (moment === "cursor") return spansAt(time).map(spanRow).sort((a, b) => a.offset - b.offset);
  const { held, time: then } = data.moments[moment];
  const known = new Map();
  for (let i = 0; i < N && spans.begin[i] <= then; i++) if (spans.end[i] >= then) known.set(spans.offset[i], i);
  return held.map(([offset, bytes, trace, number, lifetime]) => {
    const i = known.get(offset);
    const isKnown = i !== undefined && spans.trace[i] === trace && spans.bytes[i] === bytes;
    const [begin, end] = isKnown ? [spans.begin[i], spans.end[i]] : [null, null];
    return { offset, bytes, trace, tag: tagOf[trace], step: stepOfNumber.get(number) ?? -1, lifetime, begin, end };
  });
}

function withHoles(held) {
  const ranges = [];
  const hole = (offset, bytes) => {
    if (bytes > 0) ranges.push({ offset, bytes, trace: FREE, tag: FREE, step: -1, begin: null, end: null });
  };
  let at = 0;
  for (const row of held) {
    hole(at, row.offset - at);
    ranges.push(row);
    at = row.offset + row.bytes;
  }
  hole(at, data.bytes - at);
  return ranges;
}

/** RTP-LLM's figures: its fragments are all the holes but the last. */
function figures(ranges) {
  const holes = ranges.filter((row) => row.trace === FREE).map((row) => row.bytes);
  const free = holes.reduce((a, b) => a + b, 0);
  const largest = holes.reduce((a, b) => Math.max(a, b), 0);
  const fragmented = free - (holes.at(-1) ?? 0);
  return { used: data.bytes - free, free, largest, fragmented, count: ranges.length - holes.length };
}

/** Beginnings and ends in time order, an end first where both come at once: 2 * span, and 1 more for a beginning. */
const edges = (() => {
  const codes = new Int32Array(2 * N);
  let n = 0;
  for (let i = 0; i < N; i++) {
    codes[n++] = 2 * i + 1;
    if (isFinite(spans.end[i])) codes[n++] = 2 * i;
  }
  const time = (code) => (code & 1 ? spans.begin : spans.end)[code >> 1];
  return codes.subarray(0, n).sort((a, b) => time(a) - time(b) || (a & 1) - (b & 1));
})();

/** What is held per group while its sum is largest, in each of `count` equal parts of [from, to). */
function highest([from, to], count, groups, groupOf, emit) {
  const levels = new Float64Array(groups);
  const best = new Float64Array(groups);
  let [part, sum, bestSum, bestTime] = [-1, 0, -1, from];
  const advance = (next) => {
    for (; part < next; part++) {
      if (part >= 0) emit(part, best, bestSum, bestTime);
      best.set(levels);
      bestSum = sum;
      bestTime = from + ((to - from) * (part + 1)) / count;
    }
  };
  for (const code of edges) {
    const i = code >> 1;
    const time = code & 1 ? spans.begin[i] : spans.end[i];
    const next = time < from ? -1 : Math.floor(((time - from) / (to - from)) * count);
    if (next >= count) break;
    if (next > part) advance(next);
    const change = code & 1 ? spans.bytes[i] : -spans.bytes[i];
    levels[groupOf(i)] += change;
    sum += change;
    if (part >= 0 && sum > bestSum) {
      best.set(levels);
      bestSum = sum;
      bestTime = time;
    }
  }
  advance(count);
}

const PEAK = { bytes: 0, time: HOME[0] }; // of the events
highest([HOME[0], HOME[1] + 1], 1, 1, () => 0, (_part, _levels, bytes, time) => Object.assign(PEAK, { bytes, time }));

/** Per tag: the most bytes held at once, allocations in all, and whether any of them is there for good. */
const tags = (() => {
  const found = data.tags.map((name) => ({ name, peak: 0, made: 0, stays: false, held: 0 }));
  for (const code of edges) {
    const tag = found[tagOf[spans.trace[code >> 1]]];
    tag.held += code & 1 ? spans.bytes[code >> 1] : -spans.bytes[code >> 1];
    tag.peak = Math.max(tag.peak, tag.held);
    tag.made += code & 1;
    tag.stays ||= isForGood(data.spans.lifetime[code >> 1]);
  }
  for (const moment of Object.values(data.moments)) {
    const sums = new Map();
    for (const [, bytes, trace, , lifetime] of moment.held) {
      sums.set(tagOf[trace], (sums.get(tagOf[trace]) ?? 0) + bytes);
      found[tagOf[trace]].stays ||= isForGood(lifetime);
    }
    for (const [tag, bytes] of sums) found[tag].peak = Math.max(found[tag].peak, bytes);
  }
  return found;
})();

function isForGood(lifetime) {
  return lifetime !== null && data.lifetimes[lifetime] !== "public";
}

/** The addresses, and the bytes on top of what stays, that steps work in. */
function workSpace() {
  let [low, high, from, to, stays] = [Infinity, -Infinity, Infinity, -Infinity, 0];
  for (let i = 0; i < N; i++) {
    if (isForGood(data.spans.lifetime[i])) {
      stays += isFinite(spans.end[i]) ? 0 : spans.bytes[i];
      continue;
    }
    low = Math.min(low, spans.offset[i]);
    high = Math.max(high, spans.offset[i] + spans.bytes[i]);
    from = Math.min(from, spans.begin[i]);
    to = Math.max(to, spans.end[i]);
  }
  if (low >= high) return null;
  const margin = (high - low) * 0.02;
  const address = [Math.max(0, low - margin), Math.min(data.bytes, high + margin)];
  const stacked = [stays, PEAK.bytes + (PEAK.bytes - stays) * 0.06 + 1];
  return { address, time: [from, Math.min(to, HOME[1])], stacked };
}

// -- block tables -------------------------------------------------------------------------------------------------

const replay = { step: -1, tables: new Map() };

/** The block table of each request of a step: the first blocks that it had, and then what the step says is new. */
function tablesAt(step) {
  if (step < replay.step) Object.assign(replay, { step: -1, tables: new Map() });
  while (replay.step < step) {
    for (const [request, kept, ids] of steps[++replay.step].blocks) {
      const before = replay.tables.get(request) ?? [];
      if (kept !== before.length || ids.length) replay.tables.set(request, before.slice(0, kept).concat(ids));
    }
  }
  return new Map((steps[step]?.blocks ?? []).map(([request]) => [request, replay.tables.get(request) ?? []]));
}

/** [request, position in its table] of everyone who holds a block. */
function ownersOf(block, tables) {
  const owners = [];
  for (const [request, table] of tables) {
    const position = table.indexOf(block);
    if (position >= 0) owners.push([request, position]);
  }
  return owners;
}

// -- words --------------------------------------------------------------------------------------------------------

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const exact = (n) => n.toLocaleString("en-US");
const hex = (offset) => `0x${(START + BigInt(Math.round(offset))).toString(16)}`;
const place = (file) => file.split(/[\\/]/).slice(-2).join("/");
const stepName = (step) => (step ? `${step.number} ${step.phase}` : "unknown");

function human(bytes) {
  const power = Math.min(6, Math.max(0, Math.floor(Math.log2(Math.abs(bytes) || 1) / 10)));
  const value = bytes / 1024 ** power;
  return `${power && Math.abs(value) < 100 ? +value.toFixed(Math.abs(value) < 10 ? 2 : 1) : Math.round(value)} ${
    UNITS[power]}`;
}

function timeUnit(ns) {
  return [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]].find(([size]) => ns >= size) ?? [1, "ns"];
}

function duration(ns, precision = null) {
  const [size, unit] = timeUnit(Math.abs(ns));
  const digits = precision === null ? (ns / size < 100 && size > 1 ? 2 : 0) : Math.ceil(Math.log10(size / precision));
  return `${(ns / size).toFixed(Math.min(9, Math.max(0, digits)))} ${unit}`;
}

const MAX_FRAMES = 12; // in a tooltip

function some(list, limit) {
  return list.length > limit ? [...list.slice(0, limit), `… ${exact(list.length - limit)} more`] : list;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function swatch(colour) {
  const made = element("span", { className: "swatch", ariaHidden: "true" });
  made.style.background = colour;
  return made;
}

function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== "");
  return element("dl", { className: "facts" }, ...rows.flatMap(([key, value]) => [
    element("dt", {}, key), element("dd", {}, value)]));
}

function stackOf(frames, isWhole) {
  const items = some(frames, isWhole ? Infinity : MAX_FRAMES).map((frame) => {
    if (typeof frame === "string") return element("li", {}, frame);
    const [file, line, name] = frame;
    return element("li", {}, name, element("span", { title: file }, ` ${isWhole ? file : place(file)}:${line}`));
  });
  return element("ol", { className: "stack", ariaLabel: "Stack, innermost first" }, ...items);
}

/** All that is known of a range; long lists are cut in the tooltip, and whole in the panel. */
function describe(row, isWhole) {
  const size = ["bytes", `${human(row.bytes)} (${exact(row.bytes)})`];
  const where = ["address", `${hex(row.offset)} – ${hex(row.offset + row.bytes)}`];
  if (row.trace === FREE) return [element("div", { className: "tag" }, "free"), facts([size, where])];
  const step = steps[row.step];
  const names = step ? step.blocks.map(([request]) => data.requests[request]) : [];
  const held = row.begin === null ? null : isFinite(row.end) ? duration(row.end - row.begin)
    : `${duration(HOME[1] - row.begin)}, to the end`;
  const frames = data.traces[row.trace][1].map((frame) => data.frames[frame]);
  return [
    element("div", { className: "tag" }, swatch(tagColour(row.tag)), data.tags[row.tag]),
    facts([
      size, where, ["trace", String(row.trace)],
      ["lifetime", row.lifetime === null ? null : data.lifetimes[row.lifetime]],
      ["step", stepName(step)],
      ["began at", row.begin === null ? null : duration(row.begin)],
      ["held for", held],
      ["requests", some(names, isWhole ? 100 : 4).join(", ")],
    ]),
    frames.length ? stackOf(frames, isWhole)
      : element("p", { className: "empty" }, isWhole ? "Stacks were not kept." : ""),
  ];
}

// -- colours ------------------------------------------------------------------------------------------------------

const PALETTE = [ // equally light and strong in OKLCH, in two circles
  "#c86e6f", "#c37648", "#b1832c", "#919235", "#659d58", "#2aa281",
  "#00a0a8", "#2a98c4", "#628cd2", "#8b7fcd", "#ab74b7", "#c06d96",
  "#eda28e", "#e2ab75", "#cab76f", "#a9c27f", "#85ca9d", "#69cbbf",
  "#68c7dd", "#83bef0", "#a5b3f4", "#c5a8e9", "#dea0d0", "#ec9eaf",
];
const PHASES = {
  __proto__: null, open: "#8f99a8", load: "#7d93b2", "warm-up": "#c9993f",
  prefill: "#8b7fcd", decode: "#2aa281", mixed: "#2a98c4",
};
const NO_PHASE = "#8f99a8";

/** By its name, so that a tag looks the same in every snapshot; another where it would be like that of a larger one. */
const colourOfTag = (() => {
  const colours = [];
  let taken = [];
  const hue = (slot) => (slot % 12) * 2 + (slot >= 12 ? 1 : 0); // in 24ths of the circle
  const apart = (a, b) => Math.min((a - b + 24) % 24, (b - a + 24) % 24);
  const order = tags.map((_, i) => i);
  order.sort((a, b) => tags[b].peak - tags[a].peak || (tags[a].name < tags[b].name ? -1 : 1));
  for (const tag of order) {
    let hash = 0x811c9dc5;
    for (const c of tags[tag].name) hash = Math.imul(hash ^ c.codePointAt(0), 0x01000193) >>> 0;
    if (taken.length === PALETTE.length) taken = [];
    const free = PALETTE.map((_, i) => (hash + 5 * i) % PALETTE.length).filter((slot) => !taken.includes(slot));
    const slot = free.find((one) => taken.every((other) => apart(hue(one), hue(other)) > 1)) ?? free[0];
    taken.push(slot);
    colours[tag] = PALETTE[slot];
  }
  return colours;
})();
const tagColour = (tag) => (tag === FREE ? theme.plot : colourOfTag[tag]);
const requestColour = (request) => PALETTE[(request * 7) % PALETTE.length];

let theme = {};
let ink = []; // per tag, as pixels: { full, edge, dim }

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["card", "plot", "line", "grid", "ink", "soft", "faint", "accent", "alarm", "label", "mist"];
  theme = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  ink = colourOfTag.map((colour) => (
    { full: pixel(colour), edge: pixel(blend(colour, theme.plot, 0.45)), dim: pixel(blend(colour, theme.plot, 0.86)) }
  ));
}

function blend(a, b, share) {
  const channel = (i) => {
    const [x, y] = [a, b].map((colour) => parseInt(colour.slice(i, i + 2), 16));
    return Math.round(x + (y - x) * share).toString(16).padStart(2, "0");
  };
  return `#${channel(1)}${channel(3)}${channel(5)}`;
}

function pixel(colour) { // as ImageData holds it on little-endian machines, which all of today's browsers run on
  const n = parseInt(colour.slice(1), 16);
  return (0xff000000 | ((n & 0xff) << 16) | (n & 0xff00) | (n >> 16)) >>> 0;
}
