// The page: the views of the data, and what the reader does with them. Goes last into the script.

const state = {
  view: "address",
  time: [...HOME], address: [0, data.bytes], stacked: [0, PEAK.bytes * 1.08 || 1], // what is visible
  moment: ["now", "peak", "oom"].find((name) => name in data.moments) ?? "cursor",
  cursor: HOME[1],
  sort: "offset", isDescending: false,
  hover: null, pinned: null, active: 0, // rows; the number of the table's row that has or had the focus
};
let shown = { held: [], ranges: [], rows: [], tables: new Map(), step: -1 }; // at the moment
let match = { any: true }; // what the search asks for, per trace, step, request and tag

const matches = (row) => match.any || (row.trace !== FREE && matchesOf(row.trace, row.step));
const matchesOf = (trace, step) => match.any || match.traces[trace] || (step >= 0 && match.steps[step]) ? 1 : 0;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

// -- what needs painting ------------------------------------------------------------------------------------------

const needed = new Set();
const PAINTERS = { rows: selectRows, timeline: paintTimeline, overlay: paintOverlay, map: paintMap, table: paintTable,
  tags: paintTags, kv: paintKV, detail: paintDetail };

function need(...parts) {
  if (!needed.size) requestAnimationFrame(paint);
  for (const part of parts) needed.add(part);
}

function paint() {
  const now = Object.keys(PAINTERS).filter((part) => needed.has(part));
  needed.clear();
  for (const part of now) PAINTERS[part]();
  document.body.dataset.ready = "yes";
}

/** A canvas as large as it is on the screen, drawn in CSS pixels. */
function prepare(canvas) {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = '11px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.setLineDash([]);
  return { context, width, height, ratio };
}

// -- search -------------------------------------------------------------------------------------------------------

/** A part of a tag, function, file or request, or the number of a trace; `tag:` and `trace:` take the whole of one. */
function search() {
  const query = $("search").value.trim();
  const part = query.toLowerCase();
  const has = (text) => text.toLowerCase().includes(part);
  const frames = data.frames.map(([file, , name]) => has(file) || has(name));
  const isTrace = (number) => part === String(number) || part === `trace:${number}`;
  const whole = query.startsWith("tag:") ? query.slice(4).trim() : null;
  const hasTag = (tag) => (whole === null ? has(data.tags[tag]) : data.tags[tag].trim() === whole);
  const requests = data.requests.map(has);
  match = {
    any: !query,
    traces: data.traces.map(([tag, stack], number) => (
      hasTag(tag) || isTrace(number) || stack.some((frame) => frames[frame])
    )),
    steps: steps.map((step) => step.blocks.some(([request]) => requests[request])),
    requests, tags: new Set(),
  };
  let found = 0;
  for (let i = 0; i < N; i++) {
    if (!matchesOf(spans.trace[i], stepOfSpan[i])) continue;
    found++;
    match.tags.add(tagOf[spans.trace[i]]);
  }
  selectRows();
  shown.held.filter(matches).forEach((row) => match.tags.add(row.tag));
  const [of, all] = N ? [found, N] : [shown.held.filter(matches).length, shown.held.length];
  $("count").value = query ? `${exact(of)} of ${exact(all)} allocations` : `${exact(all)} allocations`;
  Object.assign($("count").dataset, { matches: of, all });
  $("table-scroll").scrollTop = 0;
  need(...Object.keys(PAINTERS));
}

// -- moving about -------------------------------------------------------------------------------------------------

const AXIS = { // what each may show: [low, high, least extent]
  time: () => [...HOME, 10],
  address: () => [0, data.bytes, 256],
  stacked: () => [0, Math.max(1, PEAK.bytes * 1.08), 256],
};

function show(axis, low, high) {
  const [least, most, extent] = AXIS[axis]();
  const size = clamp(high - low, Math.min(extent, most - least), most - least);
  const from = clamp((low + high - size) / 2, least, most - size);
  state[axis] = [from, from + size];
  need("timeline", "overlay", "map");
}

function zoom(axis, factor, at = 0.5) {
  const [low, high] = state[axis];
  const centre = low + (high - low) * at;
  show(axis, centre - (centre - low) * factor, centre + (high - centre) * factor);
}

function reset() {
  for (const axis of Object.keys(AXIS)) show(axis, ...AXIS[axis]());
}

function setCursor(time) {
  state.cursor = clamp(time, ...HOME);
  chooseMoment(N || !(state.moment in data.moments) ? "cursor" : state.moment, state.cursor);
}

function chooseMoment(moment, time = data.moments[moment]?.time ?? state.cursor) {
  Object.assign(state, { moment, cursor: time });
  need("rows", "overlay", "map", "table", "tags", "kv");
}

function pin(row) {
  state.pinned = row ?? null;
  need("detail", "overlay", "table");
}

function moveByKey(event) {
  const [t0, t1] = state.time;
  const next = (by) => steps[stepAt(state.cursor) + by]?.begin ?? state.cursor;
  const by = (sign) => setCursor(event.shiftKey ? next(sign) : state.cursor + sign * (t1 - t0) * 0.01);
  const acts = {
    ArrowLeft: () => by(-1), ArrowRight: () => by(1), Home: () => setCursor(HOME[0]), End: () => setCursor(HOME[1]),
    ArrowUp: () => pan(0, 0.1), ArrowDown: () => pan(0, -0.1), "0": reset,
    "+": () => zoom("time", 0.7), "=": () => zoom("time", 0.7), "-": () => zoom("time", 1 / 0.7),
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in acts)) return;
  event.preventDefault();
  acts[event.key]();
  const at = (state.cursor - state.time[0]) / (state.time[1] - state.time[0]);
  if (event.key.startsWith("Arrow") && (at < 0 || at > 1)) pan(at < 0 ? at - 0.1 : at - 0.9, 0);
}

/** By parts of what is visible. */
function pan(x, y) {
  for (const [axis, part] of [["time", x], [state.view, y]]) {
    const [low, high] = state[axis];
    show(axis, low + (high - low) * part, high + (high - low) * part);
  }
}

// -- the mouse on the timeline ------------------------------------------------------------------------------------

function pointAt(event) {
  const canvas = $("timeline");
  const box = canvas.getBoundingClientRect();
  const plot = plotOf(canvas);
  const [x, y] = [(event.clientX - box.left - plot.x) / plot.w, (event.clientY - box.top - plot.y) / plot.h];
  const isInside = x >= 0 && x < 1 && y >= 0 && y < 1;
  const isOnBand = x >= 0 && x < 1 && event.clientY - box.top < 40;
  const column = isInside && picks ? Math.floor(x * picks.w) : 0;
  const pick = isInside && picks ? picks.at[Math.floor(y * picks.h) * picks.w + column] : NO_PICK;
  return { x, y, isInside, isOnBand, pick, column, time: plot.t0 + x * (plot.t1 - plot.t0) };
}

function describePoint(point) {
  if (point.isOnBand) {
    const step = steps[stepAt(point.time)];
    if (!step) return null;
    const names = step.blocks.map(([request]) => data.requests[request]);
    return [element("div", { className: "tag" }, `step ${stepName(step)}`), facts([
      ["begins at", duration(step.begin)],
      ["lasts", isFinite(step.end) ? duration(step.end - step.begin) : null],
      ["requests", some(names, 6).join(", ")],
    ])];
  }
  if (point.pick === NO_PICK) return null;
  if (state.view === "address") return describe(spanRow(point.pick), false);
  return describeLayer(point);
}

function describeLayer({ pick, column }) {
  const [t0, t1] = state.time;
  const part = (t1 - t0) / picks.w;
  let lines = [];
  const tagOfSpan = (i) => tagOf[spans.trace[i]];
  const range = [t0 + column * part, t0 + (column + 1) * part];
  highest(range, 1, tags.length, tagOfSpan, (_, levels, sum, time) => {
    lines = [
      ["bytes", `${human(levels[pick])} (${exact(levels[pick])})`], ["all tags", `${human(sum)} (${exact(sum)})`],
      ["peak", human(tags[pick].peak)], ["step", stepName(steps[stepAt(time)])], ["time", duration(time)],
    ];
  });
  return [element("div", { className: "tag" }, swatch(tagColour(pick)), data.tags[pick]), facts(lines)];
}

function showTooltip(event, content) {
  const tip = $("tooltip");
  tip.hidden = !content;
  if (!content) return;
  tip.replaceChildren(...content);
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const x = event.clientX + 16 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 16;
  const y = clamp(event.clientY + 14, 4, Math.max(4, innerHeight - height - 4));
  tip.style.transform = `translate(${Math.max(4, x)}px, ${y}px)`;
}

function hover(event, row, content) {
  state.hover = row;
  need("overlay");
  showTooltip(event, content);
}

function wireTimeline() {
  const canvas = $("timeline");
  let drag = null; // where it began
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = pointAt(event);
    const turn = (event.deltaY || event.deltaX) * (event.deltaMode ? 30 : 1);
    if (!event.shiftKey && Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX / canvas.clientWidth, 0);
    else if (event.shiftKey) zoom(state.view, 1.0018 ** turn, clamp(1 - y, 0, 1));
    else zoom("time", 1.0018 ** turn, clamp(x, 0, 1));
    showTooltip(event, null);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, isMove: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = pointAt(event);
    if (!drag) {
      const isSpan = point.pick !== NO_PICK && state.view === "address";
      hover(event, isSpan ? spanRow(point.pick) : null, describePoint(point));
      return;
    }
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.isMove && Math.abs(dx) + Math.abs(dy) < 5) return;
    const plot = plotOf(canvas);
    drag = { x: event.clientX, y: event.clientY, isMove: true };
    canvas.classList.add("drags");
    hover(event, null, null);
    pan(-dx / plot.w, dy / plot.h);
  });
  canvas.addEventListener("pointerup", (event) => {
    const point = pointAt(event);
    if (drag && !drag.isMove) clickAt(point);
    drag = null;
    canvas.classList.remove("drags");
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", (event) => hover(event, null, null));
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("keydown", moveByKey);
}

function clickAt(point) {
  if (point.isOnBand) {
    const run = runs.find(([first, last]) => steps[first].begin <= point.time && point.time < steps[last].end);
    if (run) show("time", steps[run[0]].begin, Math.min(steps[run[1]].end, HOME[1]));
  } else if (point.isInside) {
    setCursor(point.time);
    if (state.view === "address" && point.pick !== NO_PICK) pin(spanRow(point.pick));
  }
}

// -- the rest of the page -----------------------------------------------------------------------------------------

function wirePanels() {
  $("map").addEventListener("pointermove", (event) => {
    const row = rowOnMap(event);
    hover(event, row, row && describe(row, false));
  });
  $("map").addEventListener("pointerleave", (event) => hover(event, null, null));
  $("map").addEventListener("click", (event) => pin(rowOnMap(event)));
  $("kv").addEventListener("pointermove", (event) => showTooltip(event, describeBlock(event)));
  $("kv").addEventListener("pointerleave", (event) => showTooltip(event, null));
  const body = $("table").tBodies[0];
  const rowOf = (event) => shown.rows[event.target.closest("tr")?.dataset.index];
  body.addEventListener("pointermove", (event) => {
    state.hover = rowOf(event) ?? null;
    need("overlay");
  });
  body.addEventListener("pointerleave", (event) => hover(event, null, null));
  body.addEventListener("click", (event) => {
    state.active = Number(event.target.closest("tr").dataset.index ?? state.active);
    pin(rowOf(event));
  });
  body.addEventListener("keydown", moveInTable);
  $("table-scroll").addEventListener("scroll", () => need("table"));
  for (const button of $("table").querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      state.isDescending = state.sort === button.dataset.sort ? !state.isDescending : button.dataset.sort === "bytes";
      state.sort = button.dataset.sort;
      need("rows", "table");
    });
  }
  $("tags").addEventListener("click", (event) => {
    const tag = event.target.closest("[data-tag]")?.dataset.tag;
    if (tag === undefined) return;
    const query = `tag:${tags[tag].name}`;
    $("search").value = $("search").value === query ? "" : query;
    search();
  });
}

function wireControls() {
  const work = workSpace();
  $("fit-work").disabled = !work;
  $("fit-work").addEventListener("click", () => Object.keys(work).forEach((axis) => show(axis, ...work[axis])));
  $("reset").addEventListener("click", reset);
  $("zoom-in").addEventListener("click", () => zoom("time", 0.6));
  $("zoom-out").addEventListener("click", () => zoom("time", 1 / 0.6));
  $("unpin").addEventListener("click", () => pin(null));
  $("search").addEventListener("input", search);
  for (const input of document.getElementsByName("view")) {
    input.addEventListener("change", () => {
      state.view = input.value;
      hover(null, null, null);
      need("timeline", "map");
    });
  }
  for (const input of document.getElementsByName("moment")) {
    input.disabled = input.value !== "cursor" && !(input.value in data.moments);
    input.addEventListener("change", () => chooseMoment(input.value));
  }
  $("at-cursor").disabled = !N;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      pin(null);
      hover(event, null, null);
    } else if (event.key === "/" && document.activeElement !== $("search")) {
      event.preventDefault();
      $("search").select();
    }
  });
}

function writeHeader() {
  $("title").replaceChildren(element("bdi", {}, data.device), element("small", {}, element("bdi", {}, data.model)));
  const now = "now" in data.moments ? figures(withHoles(rowsOf("now", 0))) : null;
  const peak = "peak" in data.moments ? data.moments.peak.held.reduce((sum, [, bytes]) => sum + bytes, 0) : null;
  const size = (bytes) => (bytes === undefined || bytes === null ? "–" : human(bytes));
  const share = (bytes) => (bytes ? ` ${((100 * bytes) / data.bytes).toFixed(0)} %` : "");
  for (const [id, name, value, more] of [
    ["region", "region", size(data.bytes), ""],
    ["used", "used", size(now?.used), share(now?.used)],
    ["peak", "peak", size(peak), share(peak)],
    ["free", "free", size(now?.free), share(now?.free)],
    ["largest", "largest hole", size(now?.largest), ""],
    ["fragmented", "fragmented", size(now?.fragmented), ""],
    ["allocations", "allocations", now ? exact(now.count) : "–", ""],
    ...data.beside.map(([holder, bytes], i) => [`beside-${i}`, `${holder}, beside it`, size(bytes), ""]),
  ]) {
    const figure = element("dd", { id: `stat-${id}` }, value, element("small", {}, more));
    $("stats").append(element("div", {}, element("dt", {}, name), figure));
  }
  $("notice").hidden = N > 0;
  $("notice").textContent = N ? "" : data.level === "off"
    ? "Events were not recorded (level off): what is known are the moments below, and the blocks of each step."
    : "No events were recorded: what is known are the moments below, and the blocks of each step.";
}

writeHeader();
readTheme();
wireTimeline();
wirePanels();
wireControls();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readTheme();
  need(...Object.keys(PAINTERS));
});
new ResizeObserver(() => need("timeline", "overlay", "map", "table", "kv")).observe(document.querySelector("main"));
search();
