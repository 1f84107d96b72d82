// The picture of the bus: topics, their subscriptions, and the topics that these hand on to, with live counts.

const NODE_WIDTH = 240;
const NODE_LEAST = 168;
const NODE_GAP = 44;
const ROW_GAP = 10;
const INDENT = 20;
// From so many subscriptions on, cards are small, and topics without arrows stand side by side.
const MANY = 24;

// Each topic with its subscriptions below it, in columns from left to right along what they hand on.
// A circle of topics ends at the topic that it began with.
function columnsOf({ topics, subscriptions }) {
  const readers = new Map();
  for (const one of subscriptions) readers.set(one.topic, [...(readers.get(one.topic) ?? []), one]);
  const emitted = new Set(subscriptions.flatMap(({ emits }) => emits));
  const all = [...new Set([...topics.map(({ name }) => name), ...readers.keys(), ...emitted])];
  const depths = new Map();
  const walk = (topic, depth, path) => {
    if (path.includes(topic) || (depths.get(topic) ?? -1) >= depth) return;
    depths.set(topic, depth);
    for (const { emits } of readers.get(topic) ?? []) for (const next of emits) walk(next, depth + 1, [...path, topic]);
  };
  for (const topic of all) if (!emitted.has(topic)) walk(topic, 0, []);
  for (const topic of all) if (!depths.has(topic)) walk(topic, 0, []);
  const columns = Array.from({ length: Math.max(-1, ...depths.values()) + 1 }, () => []);
  for (const topic of all) columns[depths.get(topic)].push([`t:${topic}`, ...(readers.get(topic) ?? []).map(({ name }) => `s:${name}`)]);
  const edges = subscriptions.flatMap(({ name, emits }) => emits.map((next) => [`s:${name}`, `t:${next}`]));
  for (const [i, column] of columns.entries()) if (i > 0) untangle(column, columns[i - 1], edges);
  return { columns, edges, many: subscriptions.length >= MANY };
}

// Neighbours stand beside each other: a column is sorted by where its arrows come from.
function untangle(column, before, edges) {
  const at = new Map(before.flat().map((key, i) => [key, i]));
  const middle = ([topic]) => {
    const from = edges.filter(([, to]) => to === topic).map(([one]) => at.get(one)).filter((n) => n !== undefined);
    return from.length ? from.reduce((a, b) => a + b, 0) / from.length : Infinity;
  };
  const middles = new Map(column.map((group) => [group, middle(group)]));
  column.sort((a, b) => middles.get(a) - middles.get(b) || 0);
}

const ROLE_WORD = { serving: "", canary: "canary", shadow: "shadow", replay: "replay", correction: "correction" };

function versionText({ version, role, share }) {
  const part = share == null || (role === "serving" && share >= 1) ? "" : ` ${percent(share)}`;
  return bound(`${version}${ROLE_WORD[role] === "" ? "" : ` ${ROLE_WORD[role] ?? role}`}${part}`);
}

function topicCard() {
  const parts = { name: h("span", { class: "mlt-node-name" }), facts: h("span", { class: "mlt-node-facts" }) };
  const node = h("div", { class: "mlt-node mlt-topic" }, h("span", { class: "mlt-node-kind" }, "topic"), parts.name, parts.facts);
  return {
    node,
    patch(item) {
      put(parts.name, item.name);
      put(parts.facts, item.events == null ? "" : `${plural(item.events, "event")} · ${rate(item.per_s)}`);
    },
  };
}

function subscriptionCard(choose) {
  const name = h("span", { class: "mlt-node-name" });
  const state = h("span", { class: "mlt-node-state" });
  const versions = h("span", { class: "mlt-node-versions" });
  const facts = h("span", { class: "mlt-node-facts" });
  const dead = h("span", { class: "mlt-node-facts mlt-node-dead" });
  let item = null;
  const node = h("button", { type: "button", class: "mlt-node mlt-subscription", click: () => choose(item.name) },
    h("span", { class: "mlt-node-head" }, name, state), versions, facts, dead);
  return {
    node,
    patch(now, chosen) {
      item = now;
      put(name, now.name);
      put(state, now.state);
      mark(state, "data-live", liveness(now.state));
      put(versions, now.versions.map(versionText).join(" · "));
      const counts = [["waiting", now.waiting], ["delayed", now.delayed], ["in flight", now.in_flight], ["done", now.done]];
      put(facts, [...counts.filter(([word, n]) => n || word === "done").map(([word, n]) => bound(`${whole(n)} ${word}`)), rate(now.per_s)].join(" · "));
      put(dead, now.dead ? bound(`${whole(now.dead)} dead`) : "");
      show(dead, Boolean(now.dead));
      mark(node, "aria-pressed", String(chosen === now.name));
    },
  };
}

function liveness(state) {
  if (/^(listening|open|live)/.test(state)) return "yes";
  return /closed|stopped|gone|unsubscribed/.test(state) ? "off" : "no";
}

function busPicture(choose) {
  const lines = s("svg", { class: "mlt-edges", "aria-hidden": "true" });
  const canvas = h("div", { class: "mlt-canvas", role: "group", "aria-label": "Topics and subscriptions" }, lines);
  const empty = h("p", { class: "mlt-empty" }, "Nothing is subscribed yet: mt.subscribe(\"topic\", model) draws the first arrow.");
  const frame = h("div", { class: "mlt-picture" }, canvas, empty);
  const cards = new Map();
  let layout = null;

  function arrange() {
    if (!layout || !frame.clientWidth) return;
    const { columns, edges, many } = layout;
    mark(frame, "data-many", many ? "yes" : "no");
    const width = Math.min(NODE_WIDTH, (frame.clientWidth - 4 - (columns.length - 1) * NODE_GAP) / Math.max(columns.length, 1));
    const flat = width < NODE_LEAST;
    mark(canvas, "data-flat", flat ? "yes" : "no");
    if (flat) {
      canvas.style.height = "";
      for (const [i, column] of columns.entries()) for (const key of column.flat()) place(key, { "--depth": Math.min(2 * i, 6) + (key.startsWith("s:") ? 1 : 0), width: "" });
      return;
    }
    for (const key of columns.flat(2)) place(key, { width: `${width - (key.startsWith("s:") ? INDENT : 0)}px` });
    const heights = new Map([...cards].map(([key, { node }]) => [key, node.offsetHeight]));
    const boxes = new Map();
    // Places a topic and its subscriptions below one another. Returns where the next may begin.
    const stack = (group, left, top) => {
      for (const key of group) {
        const indent = key.startsWith("s:") ? INDENT : 0;
        const box = { left: left + indent, top, width: width - indent, height: heights.get(key) };
        boxes.set(key, box);
        place(key, { left: `${box.left}px`, top: `${top}px` });
        top += box.height + ROW_GAP;
      }
      return top + ROW_GAP;
    };
    const drawn = new Set(edges.flat());
    const loose = many ? columns[0].filter((group) => !group.some((key) => drawn.has(key))) : [];
    let most = 2;
    columns.forEach((column, i) => {
      let top = 2;
      for (const group of column) if (!loose.includes(group)) top = stack(group, 2 + i * (width + NODE_GAP), top);
      most = Math.max(most, top);
    });
    // They begin at the top where no arrow can pass, in columns of their own or in those of the arrows.
    const arrows = drawn.size ? columns.length : 0;
    const step = width + (arrows ? NODE_GAP : INDENT);
    const fit = Math.max(1, Math.floor((frame.clientWidth - 4 - width) / step) + 1);
    const tops = Array.from({ length: fit }, (_, i) => (i < arrows ? most : 2));
    for (const group of loose) {
      const i = tops.indexOf(Math.min(...tops));
      tops[i] = stack(group, 2 + i * step, tops[i]);
    }
    most = Math.max(most, ...tops) - 2 * ROW_GAP;
    canvas.style.height = `${most + 4}px`;
    lines.replaceChildren(
      ...columns.flat().flatMap(([topic, ...readers]) => readers.map((key) => branch(boxes.get(topic), boxes.get(key)))),
      ...edges.map(([from, to]) => edge(boxes.get(from), boxes.get(to))));
  }

  const place = (key, styles) => {
    const { style } = cards.get(key).node;
    for (const [name, value] of Object.entries(styles)) style.setProperty(name, value);
  };

  const structure = whenChanged(
    ({ picture: p }) => [p.topics.map(({ name }) => name), p.subscriptions.map(({ name, topic, emits }) => [name, topic, emits])],
    ({ picture: p }) => {
      layout = columnsOf(p);
      const wanted = new Set(layout.columns.flat(2));
      for (const [key, { node }] of cards) if (!wanted.has(key)) { node.remove(); cards.delete(key); }
      for (const key of layout.columns.flat(2)) {
        if (!cards.has(key)) cards.set(key, key.startsWith("t:") ? topicCard() : subscriptionCard(choose));
        canvas.append(cards.get(key).node);
      }
    });

  const draw = whenChanged(({ picture: p, chosen }) => [p, chosen], (state) => {
    structure(state);
    const topics = new Map(state.picture.topics.map((topic) => [topic.name, topic]));
    const subscriptions = new Map(state.picture.subscriptions.map((one) => [one.name, one]));
    for (const [key, card] of cards) {
      const name = key.slice(2);
      if (key.startsWith("t:")) card.patch(topics.get(name) ?? { name, events: null });
      else card.patch(subscriptions.get(name), state.chosen);
    }
    show(empty, cards.size === 0);
    arrange();
  });

  const sizes = new ResizeObserver(arrange);
  sizes.observe(frame);
  return { node: frame, patch: draw, stop: () => sizes.disconnect() };
}

// From a topic down to one of its subscriptions.
function branch(from, to) {
  const [x, y] = [from.left + INDENT / 2, to.top + to.height / 2];
  return s("g", {}, s("path", { class: "mlt-edge", d: `M${x} ${from.top + from.height}V${y - 6}q0 6 6 6H${to.left}` }));
}

function edge(from, to) {
  const [x1, y1] = [from.left + from.width, from.top + from.height / 2];
  const [x2, y2] = [to.left, to.top + to.height / 2];
  const bend = Math.max(24, (x2 - x1) / 2);
  const path = s("path", { class: "mlt-edge", d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2 - 5} ${y2}` });
  const tip = s("path", { class: "mlt-tip", d: `M${x2 - 7} ${y2 - 4}L${x2} ${y2}L${x2 - 7} ${y2 + 4}Z` });
  return s("g", {}, path, tip);
}
