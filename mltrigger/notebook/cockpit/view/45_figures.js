// Counts, depth and the table of latencies of what is chosen.

// Every tile counts events, so that they add up; attempts that ended no event are one line below.
const TILES = [
  // [key, label, its meaning, shown when it is zero]
  ["succeeded", "succeeded", "Events that the model answered", true],
  ["dead", "dead", "Events that were given up: sub.dead_letters()", true],
  ["skipped", "skipped", "Events that were not for the model", false],
  ["waiting", "waiting", "Events that wait for a listener, or for their next attempt", true],
  ["delayed", "delayed", "Events that are due later", false],
  ["in_flight", "in flight", "Events that are leased to a listener now", true],
];
const ATTEMPTS = [
  ["failed", "failed", "tried again, or sent again"],
  ["abandoned", "abandoned", "their worker died"],
  ["interrupted", "interrupted", "stopped on purpose"],
  ["stale", "stale", "ended after their lease was lost"],
];
const ANNOUNCE_MS = 5000;

function tiles() {
  const list = h("dl", { class: "mlt-tiles" });
  const spoken = h("p", { class: "mlt-offscreen", role: "status" });
  const shown = TILES.map(([key, label, title, always]) => {
    const value = h("dd");
    const tile = h("div", { class: "mlt-tile", "data-key": key, title }, h("dt", {}, label), value);
    return { key, label, always, tile, value };
  });
  const oldest = h("dd");
  const age = h("div", { class: "mlt-tile", "data-key": "oldest", title: "How long the oldest open event has waited" }, h("dt", {}, "oldest waits"), oldest);
  list.append(...shown.map(({ tile }) => tile), age);
  const attempts = h("p", { class: "mlt-attempts" });
  let timer = null;
  const say = () => {
    timer = null;
    put(spoken, shown.filter(({ tile }) => !tile.hidden).map(({ label, value }) => `${value.textContent} ${label}`).join(", "));
  };
  const patch = whenChanged((state) => [state.counts, state.depth, state.attempts], (state) => {
    const values = { ...state.depth, ...state.counts };
    for (const { key, always, tile, value } of shown) {
      put(value, whole(values[key]));
      mark(tile, "data-zero", values[key] ? "no" : "yes");
      show(tile, always || Boolean(values[key]));
    }
    const waits = state.depth?.oldest_s;
    put(oldest, waits == null ? "" : duration(1000 * waits));
    show(age, waits != null);
    const other = ATTEMPTS.filter(([key]) => state.attempts?.[key]);
    put(attempts, other.map(([key, label, why]) => `${plural(state.attempts[key], `${label} attempt`)} (${why})`).join(" · "));
    show(attempts, other.length > 0);
    // At ten changes a second nobody could follow.
    timer ??= setTimeout(say, spoken.textContent ? ANNOUNCE_MS : 0);
  });
  return { node: h("div", {}, list, attempts, spoken), patch, stop: () => clearTimeout(timer) };
}

// A group of rows for each stage.
function latencyTable() {
  const node = h("div");
  const heads = ["version", "count", "p50", "p95", "p99", "max"];
  const title = "Latency of the newest attempts";
  const row = (one) => h("tr", {}, h("th", { scope: "row" }, one.version),
    [whole(one.count), ...[one.p50_ms, one.p95_ms, one.p99_ms, one.max_ms].map(duration)].map((text) => h("td", { class: "mlt-number" }, text)));
  const patch = whenChanged(({ latency: l }) => l?.table, ({ latency }) => {
    const found = STAGES.map(([stage, text]) => [text, (latency?.table ?? []).filter((one) => one.stage === stage)]).filter(([, rows]) => rows.length);
    node.replaceChildren(found.length
      ? h("div", { class: "mlt-scroll", tabindex: "0", role: "region", "aria-label": title },
        h("table", { class: "mlt-table mlt-latency" }, h("caption", {}, title),
          h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: i ? "mlt-number" : null }, head)))),
          found.map(([text, rows]) => h("tbody", {}, h("tr", {}, h("th", { scope: "rowgroup", colspan: heads.length, class: "mlt-stage" }, text)), rows.map(row)))))
      : h("p", { class: "mlt-empty" }, "No attempt has ended yet."));
  });
  return { node, patch };
}

// The first tab: the picture of the bus, then the figures of what is chosen.
function overview(cockpit) {
  const series = seriesOf();
  const parts = [
    busPicture((name) => cockpit.choose(cockpit.state.chosen === name ? null : name)),
    tiles(), throughputChart(series), ecdfChart(series), latencyOverTime(series), latencyTable(),
  ];
  const [image, counts, throughput, ecdf, overTime, table] = parts;
  const heading = h("h3", { class: "mlt-heading" });
  const range = h("p", { class: "mlt-attempts" });
  const node = h("div", { class: "mlt-overview" }, image.node, heading, counts.node, range,
    h("div", { class: "mlt-charts" }, throughput.node, ecdf.node, overTime.node, table.node));
  return {
    node,
    patch(state) {
      put(heading, state.chosen ?? "All subscriptions");
      const { is_cut: cut, attempts = 0, versions_left_out: left = 0 } = state.window ?? {};
      const said = [cut ? `Charts and latencies are those of the newest ${plural(attempts, "attempt")}.` : "", left ? `${plural(left, "older version")} of them ${left === 1 ? "has" : "have"} no line.` : ""];
      put(range, said.filter(Boolean).join(" "));
      show(range, Boolean(range.textContent));
      for (const part of parts) part.patch(state);
    },
    stop: () => parts.forEach((part) => part.stop?.()),
  };
}
