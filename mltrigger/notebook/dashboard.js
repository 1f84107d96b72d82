// The front end of Dashboard: builds its elements once, then patches text and attributes in place.
// Data becomes text nodes and numbers only, never markup; nothing is loaded from anywhere.

// Every tile counts events, so that they add up; attempts that ended no event are one line below.
const TILES = [
  // [key, label, what it means, always shown]
  ["succeeded", "succeeded", "The model answered, and the answer is recorded", true],
  ["dead", "dead", "Events that were given up: sub.dead_letters()", true],
  ["skipped", "skipped", "Events that were not for the model", false],
  ["waiting", "waiting", "Events that wait for a listener, or for their next attempt", true],
  ["in_flight", "in flight", "Events that are leased to a listener now", true],
];
const LATENCY = ["stage", "version", "count", "p50", "p95", "p99", "max"];
const NEWEST = ["event", "version", "outcome", "output or error", "model ms", "total ms"];
const SVG = { width: 440, height: 162, left: 2, right: 438, top: 38, bottom: 142 };
const ATTEMPTS = [
  ["failed", "failed", "tried again, or sent again"],
  ["abandoned", "abandoned", "their worker died"],
  ["interrupted", "interrupted", "stopped on purpose"],
  ["stale", "stale", "ended after their lease was lost"],
];
const ANNOUNCE_MS = 2000;
// The kernel says every two seconds that it is there.
const SILENT_MS = 10000;
const FIRST_MS = 3000;
const OVER = ["bus closed", "stopped by the store"];

const NUMBER = /^-?[\d.,]+(e[-+]?\d+)?$/i;
const grouped = new Intl.NumberFormat("en-US");
const timed = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = (n) => (n == null ? "0" : grouped.format(n));
const two = (n) => String(n).padStart(2, "0");
const clock = (at) =>
  `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
const ms = (n) => (n == null ? "–" : timed.format(n));

function add(parent, tag, attributes = {}, text = "") {
  const svg = tag === "svg" || parent?.namespaceURI === "http://www.w3.org/2000/svg";
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  parent?.append(node);
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

// -- the parts: each returns a function that patches it ------------------------------------------------------------------

function header(root, fire) {
  const head = add(root, "div", { class: "mtd-head" });
  const names = add(head, "div", { class: "mtd-names" });
  const title = add(names, "div", { class: "mtd-title" });
  const route = add(names, "div", { class: "mtd-route" });
  const pill = add(head, "span", { class: "mtd-pill", role: "status" });
  const button = add(head, "button", { type: "button", class: "mtd-button" }, "Fire sample event");
  button.addEventListener("click", fire);
  const updated = add(root, "div", { class: "mtd-updated" });
  const notice = add(root, "div", { class: "mtd-notice", role: "alert" });
  return (state, link) => {
    const live = link.word === "";
    put(title, state.title);
    put(route, `${state.topic} → ${state.selector}`);
    put(pill, link.word || state.state);
    mark(pill, "data-live", !live || OVER.includes(state.state) ? "off" : state.state.startsWith("listening") ? "yes" : "no");
    mark(button, "title", live ? state.button.title : "Nobody would hear it: run the cell again");
    const enabled = live && state.button.enabled;
    if (button.disabled === enabled) button.disabled = !enabled;
    const at = link.heardAt ?? (state.at ? new Date(state.at) : null);
    put(updated, at ? `last updated ${clock(at)}` : "");
    show(updated, Boolean(at) && (!live || OVER.includes(state.state)));
    put(notice, state.notice);
    show(notice, Boolean(state.notice));
  };
}

// Whether the kernel is there. Saved state looks like a live one, a restart keeps the page: only what the kernel says by itself proves it.
function watched(model, changed) {
  const link = { word: "waiting for the kernel", heardAt: null };
  let timer = null;
  const become = (word) => {
    if (link.word === word) return;
    link.word = word;
    changed();
  };
  const wait = (limit) => {
    clearTimeout(timer);
    timer = setTimeout(() => become("kernel gone"), limit);
  };
  const hear = () => {
    link.heardAt = new Date();
    wait(SILENT_MS);
    become("");
  };
  const listen = (content) => content?.type === "alive" && hear();
  const lose = () => {
    clearTimeout(timer);
    become("kernel gone");
  };
  const over = () => OVER.includes(model.get("state").state);
  const seen = () => {
    hear();
    if (over()) clearTimeout(timer); // it says no more, and all is said
  };
  model.on("msg:custom", listen);
  model.on("change:state", seen);
  model.on("comm_live_update", lose);
  model.on("comm:close", lose);
  wait(FIRST_MS);
  link.stop = () => {
    clearTimeout(timer);
    model.off("msg:custom", listen);
    model.off("change:state", seen);
    model.off("comm_live_update", lose);
    model.off("comm:close", lose);
  };
  return link;
}

function tiles(root) {
  const list = add(root, "dl", { class: "mtd-tiles" });
  // Read out at most every two seconds: at five changes a second nobody could follow.
  const spoken = add(root, "p", { class: "mtd-spoken", role: "status", "aria-live": "polite" });
  const shown = TILES.map(([key, label, title, always]) => {
    const tile = add(list, "div", { class: "mtd-tile", "data-key": key, title });
    add(tile, "dt", {}, label);
    return { key, label, always, tile, value: add(tile, "dd") };
  });
  const attempts = add(root, "p", { class: "mtd-attempts" });
  let timer = null;
  const patch = (state) => {
    const other = ATTEMPTS.filter(([key]) => state.attempts[key]);
    put(attempts, other.map(([key, label, why]) => {
      const n = state.attempts[key];
      return `${whole(n)} ${label} attempt${n === 1 ? "" : "s"} (${why})`;
    }).join(" · "));
    show(attempts, other.length > 0);
    const values = { ...state.counts, waiting: state.depth.waiting, in_flight: state.depth.in_flight };
    for (const { key, always, tile, value } of shown) {
      put(value, whole(values[key]));
      mark(tile, "data-zero", values[key] ? "no" : "yes");
      show(tile, always || Boolean(values[key]));
    }
    if (timer === null) {
      timer = setTimeout(() => {
        timer = null;
        const said = shown.filter(({ tile }) => !tile.hidden).map(({ label, value }) => `${value.textContent} ${label}`);
        put(spoken, said.join(", "));
      }, spoken.textContent ? ANNOUNCE_MS : 0);
    }
  };
  patch.stop = () => clearTimeout(timer);
  return patch;
}

function histogram(root) {
  const figure = add(root, "figure", { class: "mtd-figure" });
  const caption = add(figure, "figcaption");
  const name = add(caption, "span");
  const unit = add(caption, "span", { class: "mtd-unit" });
  const svg = add(figure, "svg", { role: "img", viewBox: `0 0 ${SVG.width} ${SVG.height}` });
  const bars = add(svg, "g", { class: "mtd-bars" });
  const axis = add(svg, "g", { class: "mtd-axis" });
  const marks = add(svg, "g", { class: "mtd-marks" });
  add(axis, "path", { d: `M${SVG.left} ${SVG.bottom + 0.5}H${SVG.right}` });
  const empty = add(svg, "text", { x: SVG.width / 2, y: SVG.height / 2, "text-anchor": "middle", class: "mtd-none" }, "no values yet");
  const x = (place) => SVG.left + place * (SVG.right - SVG.left);
  const pool = (parent, make) => {
    const nodes = [];
    return (items, patch) => {
      while (nodes.length < items.length) nodes.push(make(parent));
      nodes.forEach((node, i) => {
        mark(node.root, "display", i < items.length ? "inline" : "none");
        if (i < items.length) patch(node, items[i], i);
      });
    };
  };
  const drawBars = pool(bars, (parent) => ({ root: add(parent, "rect", { y: -SVG.bottom, rx: 1 }) }));
  const drawTicks = pool(axis, (parent) => ({ root: add(parent, "text", { y: SVG.bottom + 16 }) }));
  const drawMarks = pool(marks, (parent) => {
    const group = add(parent, "g");
    return { root: group, line: add(group, "path"), text: add(group, "text") };
  });
  return ({ histogram: found, latency }) => {
    // Figures of the table, so that both say the same.
    const figures = latency.find((row) => row.stage === "model" && row.version === found.version);
    const values = [figures?.p50_ms, figures?.p99_ms];
    put(name, found.version ? `Model time of ${found.version} ` : "Model time ");
    mark(svg, "aria-label", found.label);
    const most = Math.max(1, ...found.counts);
    const width = (SVG.right - SVG.left) / found.counts.length;
    drawBars(found.counts, ({ root: bar }, count, i) => {
      mark(bar, "x", (SVG.left + i * width + 0.75).toFixed(2));
      mark(bar, "width", (width - 1.5).toFixed(2));
      mark(bar, "height", SVG.bottom - SVG.top);
      const part = count ? Math.max(count / most, 0.02) : 0;
      const style = `transform: translateY(${SVG.bottom}px) scaleY(${part.toFixed(4)}) translateY(${SVG.top}px)`;
      mark(bar, "style", style);
    });
    drawTicks(found.ticks, ({ root: text }, [place, label]) => {
      mark(text, "x", x(place).toFixed(1));
      mark(text, "text-anchor", place < 0.02 ? "start" : place > 0.98 ? "end" : "middle");
      put(text, label);
    });
    drawMarks(found.marks, ({ line, text }, [place], i) => {
      const [side, level] = found.sides[i];
      const y = 11 + 14 * level;
      mark(line, "d", `M${x(place).toFixed(1)} ${y - 8}V${SVG.bottom}`);
      mark(text, "x", (x(place) + (side === "right" ? 5 : -5)).toFixed(1));
      mark(text, "y", y);
      mark(text, "text-anchor", side === "right" ? "start" : "end");
      put(text, `${["p50", "p99"][i]} ${ms(values[i])} ms`);
    });
    put(unit, found.logarithmic ? "in milliseconds, logarithmic axis" : "in milliseconds");
    mark(empty, "display", found.marks.length ? "none" : "inline");
  };
}

function table(root, kind, caption, heads, note, rowHead, patchRow) {
  const frame = add(root, "div", { class: `mtd-table mtd-${kind}` });
  const grid = add(frame, "table");
  add(grid, "caption", {}, caption);
  const row = add(add(grid, "thead"), "tr");
  for (const head of heads) add(row, "th", { scope: "col", "data-head": head }, head);
  const body = add(grid, "tbody");
  const empty = add(frame, "div", { class: "mtd-empty" }, note);
  const rows = [];
  return (items) => {
    while (rows.length < items.length) {
      const line = add(body, "tr");
      const cells = heads.map((head, i) =>
        add(line, i === rowHead ? "th" : "td", { ...(i === rowHead ? { scope: "row" } : {}), "data-head": head }));
      rows.push({ line, cells });
    }
    rows.forEach(({ line, cells }, i) => {
      show(line, i < items.length);
      if (i < items.length) patchRow(cells, items[i], items[i - 1], line);
    });
    show(empty, !items.length);
  };
}

function latencyRow(cells, item, before, line) {
  const first = item.stage !== before?.stage;
  mark(line, "data-first", first ? "yes" : "no");
  const texts = [item.stage, item.version, whole(item.count), ...[item.p50_ms, item.p95_ms, item.p99_ms, item.max_ms].map(ms)];
  texts.forEach((text, i) => put(cells[i], text));
}

function newestRow(ask) {
  return (cells, item) => {
    const [event, version, outcome, output, model, total] = cells;
    const word = outcome.firstChild ?? add(outcome, "span", { class: "mtd-outcome" });
    const again = outcome.children[1] ?? add(outcome, "span", { class: "mtd-again" });
    let opener = event.firstChild;
    if (!opener) {
      opener = add(event, "button", { type: "button", class: "mtd-opener" });
      opener.addEventListener("click", () => ask(opener.item));
    }
    opener.item = item;
    put(opener, item.event || `event ${item.seq}`);
    mark(event, "data-number", NUMBER.test(item.event) ? "yes" : "no");
    mark(output, "data-number", NUMBER.test(item.error || item.output) ? "yes" : "no");
    put(version, item.version);
    put(word, item.outcome);
    mark(word, "data-key", item.outcome);
    put(again, item.attempt > 1 ? `attempt ${item.attempt}` : "");
    put(output, item.error || item.output);
    mark(output, "data-error", item.error ? "yes" : "no");
    put(model, ms(item.model_ms));
    put(total, ms(item.total_ms));
    mark(opener, "title", `${item.event}: show it whole`);
    mark(output, "title", item.error || item.output);
  };
}

// The texts of one attempt, whole: what a row shows shortened.
function details(root, model) {
  const panel = add(root, "section", { class: "mtd-whole", "aria-live": "polite" });
  const head = add(panel, "div", { class: "mtd-whole-head" });
  const title = add(head, "strong");
  const close = add(head, "button", { type: "button", class: "mtd-opener" }, "close");
  const body = add(panel, "div");
  let wanted = null;
  show(panel, false);
  close.addEventListener("click", () => {
    wanted = null;
    show(panel, false);
  });
  const fill = (texts) => {
    body.replaceChildren();
    for (const [name, text] of Object.entries(texts)) {
      add(body, "div", { class: "mtd-unit" }, name);
      add(body, "pre", {}, text);
    }
  };
  const answer = (content) => {
    if (content?.type === "whole" && wanted && content.seq === wanted.seq && content.attempt === wanted.attempt) fill(content.texts);
  };
  model.on("msg:custom", answer);
  const ask = (item) => {
    wanted = item;
    put(title, `${item.event || `event ${item.seq}`}, attempt ${item.attempt}`);
    // At once what is known here; the kernel answers when it is not busy.
    fill(Object.fromEntries([["data", item.event], ["output", item.output], ["error", item.error]].filter(([, text]) => text)));
    show(panel, true);
    model.send({ type: "whole", seq: item.seq, attempt: item.attempt });
  };
  ask.stop = () => model.off("msg:custom", answer);
  return ask;
}

function render({ model, el }) {
  const root = add(null, "section", { class: "mltrigger-dashboard", "aria-label": "mltrigger dashboard" });
  const patchHeader = header(root, () => model.send({ type: "fire" }));
  const patchTiles = tiles(root);
  const middle = add(root, "div", { class: "mtd-middle" });
  const patchHistogram = histogram(middle);
  const patchLatency = table(
    middle, "latency", "Latency in milliseconds, newest 500 attempts", LATENCY, "No attempt has ended yet.", 0, latencyRow);
  const ask = (item) => askWhole(item);
  const patchNewest = table(root, "newest", "Newest attempts", NEWEST, "Nothing was delivered yet.", 0, newestRow(ask));
  const askWhole = details(root, model);
  let link = null;
  const patchLink = () => {
    mark(root, "data-gone", link.word ? "yes" : "no");
    patchHeader(model.get("state"), link);
  };
  link = watched(model, () => patchLink());
  const patch = () => {
    const state = model.get("state");
    mark(root, "aria-label", `Dashboard of subscription ${state.title}`);
    patchLink();
    patchTiles(state);
    patchHistogram(state);
    patchLatency(state.latency);
    patchNewest(state.newest);
  };
  patch();
  el.append(root);
  model.on("change:state", patch);
  return () => {
    model.off("change:state", patch);
    patchTiles.stop();
    askWhole.stop();
    link.stop();
  };
}

export default { render };
