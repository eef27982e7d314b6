// The panels: map, ranges, tags and KV blocks at the moment, and the allocation that is pinned. Goes after
// page_data.js, in the same script.

// -- at the moment ------------------------------------------------------------------------------------------------

function selectRows() {
  const held = state.moment === "cursor" || state.moment in data.moments ? rowsOf(state.moment, state.cursor) : [];
  const ranges = withHoles(held);
  const key = state.sort === "tag" ? (row) => data.tags[row.tag] ?? "" : (row) => row[state.sort];
  const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.offset - b.offset);
  const rows = ranges.filter(matches).sort(order);
  if (state.isDescending) rows.reverse();
  const step = stepAt(state.cursor);
  shown = { held, ranges, rows, step, tables: tablesAt(step) };
  state.active = clamp(state.active, 0, Math.max(0, rows.length - 1));
  $("layout").dataset.moment = state.moment;
  $(`at-${state.moment}`).checked = true;
  const note = [];
  const asked = data.moments[state.moment]?.asked;
  if (asked) note.push(element("strong", {}, `no room for ${human(asked[0])} of ${asked[1]}`), " · ");
  const { used, free, largest, count } = figures(ranges);
  if (state.moment === "cursor" && !N) note.push("only the KV blocks are known at the cursor");
  else note.push(`${human(used)} in ${exact(count)} allocations, ${human(free)} free, largest hole ${human(largest)}`);
  $("moment-note").replaceChildren(...note, ` · step ${stepName(steps[step])} · ${duration(state.cursor)}`);
  $("moment-note").title = $("moment-note").textContent;
}

/** The whole region as a thin line, and below it the addresses that the timeline shows. */
function paintMap() {
  const { context, width, height } = prepare($("map"));
  const [low, high] = state.view === "address" ? state.address : [0, data.bytes];
  const strip = (top, bottom, from, to) => {
    context.fillStyle = theme.plot;
    context.fillRect(0, top, width, bottom - top);
    for (const row of shown.held) {
      const [left, right] = [row.offset, row.offset + row.bytes].map((at) => ((at - from) / (to - from)) * width);
      if (right < 0 || left > width) continue;
      context.fillStyle = matches(row) ? tagColour(row.tag) : blend(tagColour(row.tag), theme.plot, 0.86);
      context.fillRect(left, top, Math.max(0.7, right - left - (right - left > 4 ? 0.7 : 0)), bottom - top);
      if (bottom - top < 20 || right - left < 34 || !matches(row)) continue;
      const label = data.tags[row.tag].slice(0, 200);
      context.fillStyle = theme.label;
      const x = Math.max(0, left) + 6;
      if (context.measureText(label).width < right - x - 4) context.fillText(label, x, (top + bottom) / 2);
    }
  };
  strip(0, 10, 0, data.bytes);
  const [left, right] = [(low / data.bytes) * width, (high / data.bytes) * width];
  context.fillStyle = theme.grid;
  context.beginPath();
  for (const [x, y] of [[left, 10], [right, 10], [width, 22], [0, 22]]) context.lineTo(x, y);
  context.fill();
  strip(22, 56, low, high);
  context.fillStyle = theme.soft;
  context.textAlign = "left";
  context.fillText(hex(low), 0, 66);
  context.textAlign = "right";
  context.fillText(hex(high), width, 66);
  Object.assign($("map").dataset, { low, high });
}

function rowOnMap(event) {
  const box = $("map").getBoundingClientRect();
  const [low, high] = event.clientY - box.top < 16 || state.view !== "address" ? [0, data.bytes] : state.address;
  const at = low + ((event.clientX - box.left) / box.width) * (high - low);
  return shown.ranges.find((row) => row.offset <= at && at < row.offset + row.bytes) ?? null;
}

// -- tables -------------------------------------------------------------------------------------------------------

const ROW = 24; // pixels, as in the style

/** Only the rows in sight exist. */
function paintTable() {
  const box = $("table-scroll");
  const { rows } = shown;
  const first = clamp(Math.floor(box.scrollTop / ROW) - 4, 0, rows.length);
  const last = Math.min(rows.length, first + Math.ceil(box.clientHeight / ROW) + 8);
  const body = $("table").tBodies[0];
  const hadFocus = body.contains(document.activeElement);
  const gap = (count) => {
    const row = element("tr", { className: "gap", ariaHidden: "true" }, element("td", { colSpan: 5 }));
    row.firstChild.style.height = `${count * ROW}px`;
    return row;
  };
  const inSight = rows.slice(first, last).map((row, i) => tableRow(row, first + i));
  body.replaceChildren(gap(first), ...inSight, gap(rows.length - last));
  if (hadFocus) body.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  $("table").dataset.rows = rows.length;
  $("table").setAttribute("aria-rowcount", rows.length + 1);
  for (const button of $("table").querySelectorAll("[data-sort]")) {
    const isSorted = button.dataset.sort === state.sort;
    button.closest("th").ariaSort = isSorted ? (state.isDescending ? "descending" : "ascending") : "none";
  }
}

function tableRow(row, index) {
  const isFree = row.trace === FREE;
  const tag = isFree ? [""] : [swatch(tagColour(row.tag)), data.tags[row.tag]];
  const size = `${row.bytes} (${row.bytes.toString(16)})`;
  const cells = [[hex(row.offset)], [size], [isFree ? "FREE" : "USED"], [isFree ? "" : row.trace], tag];
  const isPinned = state.pinned && state.pinned.offset === row.offset && state.pinned.trace === row.trace;
  return element("tr", {
    className: `${isFree ? "free" : ""}${isPinned ? " pinned" : ""}`, tabindex: index === state.active ? 0 : -1,
    "data-index": index, "aria-rowindex": index + 2,
  }, ...cells.map((cell) => element("td", {}, ...cell)));
}

function moveInTable(event) {
  const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Enter" || event.key === " ") pin(shown.rows[state.active]);
  else if (move === undefined) return;
  event.preventDefault();
  state.active = clamp(state.active + (move ?? 0), 0, shown.rows.length - 1);
  const box = $("table-scroll");
  box.scrollTop = clamp(box.scrollTop, (state.active + 2) * ROW - box.clientHeight, state.active * ROW);
  paintTable();
}

function paintTags() {
  const held = tags.map(() => [0, 0]);
  for (const row of shown.held) {
    held[row.tag][0] += row.bytes;
    held[row.tag][1] += 1;
  }
  const order = tags.map((_, i) => i).filter((tag) => tags[tag].peak > 0);
  order.sort((a, b) => held[b][0] - held[a][0] || tags[b].peak - tags[a].peak);
  $("tags").tBodies[0].replaceChildren(...some(order, 500).map((tag) => {
    if (typeof tag === "string") return element("tr", {}, element("td", { colSpan: 4 }, tag));
    const [bytes, count] = held[tag];
    const isAlone = $("search").value === `tag:${tags[tag].name}`;
    const name = element("button", {
      type: "button", className: "name", ariaPressed: String(isAlone), "data-tag": tag,
      title: `${tags[tag].name}: ${exact(tags[tag].made)} allocations recorded`,
    }, swatch(tagColour(tag)), tags[tag].name);
    const cells = [name, human(bytes), human(tags[tag].peak), exact(count)].map((cell) => element("td", {}, cell));
    const isSought = match.any || match.tags.has(tag);
    return element("tr", { className: `${count ? "" : "none"}${isSought ? "" : " dim"}` }, ...cells);
  }));
}

function paintDetail() {
  $("unpin").hidden = !state.pinned;
  $("detail").dataset.pinned = state.pinned ? "yes" : "no";
  $("detail-body").replaceChildren(...(state.pinned ? describe(state.pinned, true)
    : [element("p", { className: "empty" }, "Click an allocation to keep it here, with its whole stack.")]));
}

// -- KV blocks ----------------------------------------------------------------------------------------------------

const MAX_GRID = 12_000; // pixels of height
let grid = { columns: 1, cell: 1, count: 0 };

function paintKV() {
  $("blocks").dataset.step = steps[shown.step]?.number ?? "";
  if (!data.kv) {
    $("kv").hidden = true;
    $("blocks-note").textContent = "no KV cache was known to the tracer";
    return;
  }
  const room = $("kv-scroll");
  const width = Math.max(40, room.clientWidth - 2);
  let cell = 24;
  while (cell > 4 && Math.ceil(data.kv.blocks / Math.floor(width / cell)) * cell > room.clientHeight) cell--;
  const columns = Math.floor(width / cell);
  const count = Math.min(data.kv.blocks, columns * Math.floor(MAX_GRID / cell));
  grid = { columns, cell, count };
  $("kv").style.width = `${columns * cell}px`;
  $("kv").style.height = `${Math.ceil(count / columns) * cell}px`;
  const owners = new Int32Array(data.kv.blocks).fill(FREE);
  const holders = new Uint32Array(data.kv.blocks);
  for (const [request, table] of shown.tables) {
    for (const block of new Set(table)) if (holders[block]++ === 0) owners[block] = request;
  }
  const { context } = prepare($("kv"));
  const [gap, isSought] = [cell > 6 ? 1.5 : 0.5, (request) => match.any || match.requests[request]];
  for (let block = 0; block < count; block++) {
    const [x, y] = [(block % columns) * cell, Math.floor(block / columns) * cell];
    const colour = owners[block] === FREE ? theme.grid : requestColour(owners[block]);
    const isDim = owners[block] !== FREE && !isSought(owners[block]);
    context.fillStyle = isDim ? blend(colour, theme.plot, 0.8) : colour;
    context.fillRect(x, y, cell - gap, cell - gap);
    if (holders[block] < 2) continue;
    context.fillStyle = theme.card; // shared: a hole in the middle
    context.fillRect(x + (cell - gap) * 0.3, y + (cell - gap) * 0.3, (cell - gap) * 0.4, (cell - gap) * 0.4);
  }
  const held = holders.reduce((sum, n) => sum + (n > 0), 0);
  const shared = holders.reduce((sum, n) => sum + (n > 1), 0);
  $("blocks-note").textContent = [
    `${exact(held)} of ${exact(data.kv.blocks)} held${shared ? `, ${exact(shared)} shared` : ""}`,
    `${data.kv.tokens} tokens, ${human(data.kv.bytes)} a block`,
    ...(count < data.kv.blocks ? [`first ${exact(count)} shown`] : []),
  ].join(" · ");
  $("kv").ariaLabel = $("blocks-note").textContent;
  Object.assign($("kv").dataset, { blocks: data.kv.blocks, columns, cell, held, shared });
  $("owners").replaceChildren(...some([...shown.tables], 40).map((owner) => (typeof owner === "string"
    ? element("li", {}, owner)
    : element("li", { className: isSought(owner[0]) ? "" : "dim" }, swatch(requestColour(owner[0])),
      `${data.requests[owner[0]]} · ${exact(owner[1].length)}`))));
}

function describeBlock(event) {
  const box = $("kv").getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((at) => Math.floor(at / grid.cell));
  const block = y * grid.columns + x;
  if (x < 0 || x >= grid.columns || y < 0 || block >= grid.count) return null;
  const owners = ownersOf(block, shown.tables);
  return [
    element("div", { className: "tag" }, `block ${block}`),
    facts([
      ["address", hex(data.kv.offset + block * data.kv.bytes)],
      ...(owners.length ? some(owners, 6) : ["free"]).map((owner) => (typeof owner === "string" ? ["", owner]
        : [owners.length > 1 ? "shared by" : "request", `${data.requests[owner[0]]}, its block ${owner[1]}`])),
    ]),
  ];
}
