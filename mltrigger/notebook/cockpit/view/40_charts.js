// Charts as SVG, drawn for the width that there is. Versions differ by colour and by the pattern of their line.

const TALL = 210;
const EDGE = { left: 58, right: 14, top: 12, bottom: 40 };
const SERIES = 6;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400];

// A version keeps its colour in all charts.
function seriesOf() {
  const known = new Map();
  return (version) => {
    if (version === FAILED) return "failed";
    if (!known.has(version)) known.set(version, known.size % SERIES);
    return String(known.get(version));
  };
}
const FAILED = "failed attempts";

function niceTicks(most, count = 4) {
  if (!(most > 0)) return [0, 1];
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
}

function powers(least, most) {
  const from = Math.floor(Math.log10(Math.max(least, 0.001)));
  const to = Math.max(Math.ceil(Math.log10(Math.max(most, 0.001))), from + 1);
  return Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
}

function timeTicks(start, end, width) {
  const span = (end - start) / 1000;
  const step = STEPS_S.find((n) => span / n <= Math.max(2, Math.floor(width / 90))) ?? 86_400;
  const first = Math.ceil(start / 1000 / step) * step;
  const ticks = [];
  for (let t = first; t <= end / 1000; t += step) ticks.push(t * 1000);
  return { ticks, label: (t) => (step >= 86_400 ? day(new Date(t)).slice(5) : step < 60 ? clock(new Date(t)) : clock(new Date(t)).slice(0, 5)) };
}

const plain = (n) => (n >= 1000 ? grouped.format(n) : String(Number(n.toPrecision(6))));

// One chart: title, unit, legend, drawing, and a line that says the values under the pointer.
function chart({ title, extra = null }) {
  const legend = h("ul", { class: "mlt-legend", "aria-hidden": "true" });
  const svg = s("svg", { role: "img", height: TALL, "aria-label": title });
  const readout = h("p", { class: "mlt-readout", "aria-hidden": "true" });
  const plot = h("div", { class: "mlt-plot" }, svg);
  const node = h("figure", { class: "mlt-figure" }, h("figcaption", {}, h("span", {}, title), extra), legend, plot, readout);
  let paint = null;
  let hover = null;
  const draw = () => {
    const width = plot.clientWidth;
    if (!paint || !width) return;
    mark(svg, "width", width);
    hover = paint({ svg, width, legend });
  };
  const sizes = new ResizeObserver(draw);
  sizes.observe(plot);
  const leave = () => {
    put(readout, " ");
    svg.querySelector(".mlt-cursor")?.remove();
  };
  leave();
  plot.addEventListener("pointermove", ({ clientX }) => {
    const found = hover?.(clientX - svg.getBoundingClientRect().left);
    if (!found) return leave();
    put(readout, found.text);
    const line = svg.querySelector(".mlt-cursor") ?? svg.appendChild(s("path", { class: "mlt-cursor" }));
    mark(line, "d", `M${found.x} ${EDGE.top}V${TALL - EDGE.bottom}`);
  });
  plot.addEventListener("pointerleave", leave);
  return { node, set: (painter) => { paint = painter; draw(); }, stop: () => sizes.disconnect() };
}

function legendOf(node, names, series, kinds = [""]) {
  const items = names.flatMap((name) => kinds.map((kind) => [name, kind]));
  node.replaceChildren(...items.map(([name, kind]) =>
    h("li", {}, s("svg", { width: 26, height: 8 }, s("path", { class: "mlt-line", "data-series": series(name), "data-kind": kind, d: "M1 4H25" })), ` ${name}${kind && ` ${kind}`}`)));
}

function axes(svg, width, { x, y, xTicks, yTicks, xLabel, yLabel, xText, yText }) {
  const bottom = TALL - EDGE.bottom;
  const parts = [];
  for (const tick of yTicks) {
    parts.push(s("path", { class: "mlt-grid", d: `M${EDGE.left} ${y(tick)}H${width - EDGE.right}` }));
    parts.push(s("text", { x: EDGE.left - 8, y: y(tick) + 4, "text-anchor": "end" }, yText(tick)));
  }
  // A label that has no room beside the one before is left out.
  let free = -Infinity;
  for (const tick of xTicks) {
    const text = xText(tick);
    const half = text.length * 3.4;
    parts.push(s("path", { class: "mlt-axis", d: `M${x(tick)} ${bottom}v4` }));
    if (x(tick) - half < free || x(tick) + half > width) continue;
    free = x(tick) + half + 10;
    parts.push(s("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, text));
  }
  parts.push(s("path", { class: "mlt-axis", d: `M${EDGE.left} ${bottom}H${width - EDGE.right}` }));
  parts.push(s("text", { class: "mlt-unit", x: (EDGE.left + width - EDGE.right) / 2, y: TALL - 4, "text-anchor": "middle" }, xLabel));
  parts.push(s("text", { class: "mlt-unit", transform: `translate(11 ${(EDGE.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
  svg.replaceChildren(...parts);
}

// A value without a neighbour is a dot: a line of one point cannot be seen.
function line(svg, points, series, kind = "") {
  let d = "";
  const dots = [];
  points.forEach((point, i) => {
    if (!point) return;
    const [x, y] = [point[0].toFixed(1), point[1].toFixed(1)];
    d += `${points[i - 1] ? "L" : "M"}${x} ${y}`;
    if (!points[i - 1] && !points[i + 1]) dots.push(s("circle", { class: "mlt-dot", "data-series": series, cx: x, cy: y, r: kind === "p95" ? 2 : 3 }));
  });
  if (d) svg.append(s("path", { class: "mlt-line", "data-series": series, "data-kind": kind, d }), ...dots);
}

function nothing({ svg, width, legend }) {
  legend.replaceChildren();
  svg.replaceChildren(s("text", { class: "mlt-none", x: width / 2, y: TALL / 2, "text-anchor": "middle" }, "no values yet"));
  return null;
}

const upright = (most) => (n) => TALL - EDGE.bottom - (n / most) * (TALL - EDGE.top - EDGE.bottom);

function timeScale(start, step, count, width) {
  const begin = new Date(start).getTime();
  const end = begin + count * step * 1000;
  const x = (t) => EDGE.left + ((t - begin) / (end - begin)) * (width - EDGE.left - EDGE.right);
  const at = (i) => x(begin + (i + 0.5) * step * 1000);
  const nearest = (px) => Math.min(count - 1, Math.max(0, Math.floor(((px - EDGE.left) / (width - EDGE.left - EDGE.right)) * count)));
  return { begin, end, x, at, nearest, moment: (i) => moment(begin + i * step * 1000) };
}

// -- the three charts -------------------------------------------------------------------------------------------------

function throughputChart(series) {
  const made = chart({ title: "Throughput" });
  const patch = whenChanged(({ throughput: t }) => t, ({ throughput: t }) => {
    const lines = Object.entries(t?.versions ?? {});
    if (t?.failed?.some(Boolean)) lines.push([FAILED, t.failed]);
    const count = Math.max(0, ...lines.map(([, values]) => values.length));
    if (!count || !t.start) return made.set(nothing);
    const step = t.step_s || 1;
    made.set(({ svg, width, legend }) => {
      const ticks = niceTicks(Math.max(...lines.flatMap(([, values]) => values)) / step);
      const time = timeScale(t.start, step, count, width);
      const y = upright(ticks.at(-1));
      const { ticks: xTicks, label } = timeTicks(time.begin, time.end, width);
      axes(svg, width, { x: time.x, y, xTicks, yTicks: ticks, xText: label, yText: plain, xLabel: "local time", yLabel: "outcomes per second" });
      for (const [name, values] of lines) line(svg, values.map((n, i) => [time.at(i), y(n / step)]), series(name));
      legendOf(legend, lines.map(([name]) => name), series);
      const total = lines.filter(([name]) => name !== FAILED).map(([name, values]) => `${name}: ${plural(values.reduce((a, b) => a + b, 0), "outcome")}`);
      mark(svg, "aria-label", `Throughput. ${total.join(", ")} in ${duration(count * step * 1000)}`);
      return (px) => {
        const i = time.nearest(px);
        return { x: time.at(i), text: `${time.moment(i)}  ${lines.map(([name, values]) => `${name} ${digits((values[i] ?? 0) / step, 0, 2)}/s`).join("  ·  ")}` };
      };
    });
  });
  return { node: made.node, patch, stop: made.stop };
}

const STAGES = [["total", "Total"], ["queue", "Queue"], ["model", "Model"]];

function ecdfChart(series) {
  let stage = "total";
  let last = null;
  const name = newId("stage");
  const choice = h("span", { class: "mlt-choice", role: "radiogroup", "aria-label": "Stage" }, STAGES.map(([value, text]) =>
    h("label", {}, h("input", { type: "radio", name, value, checked: value === stage, change: () => { stage = value; draw(last); } }), h("span", {}, text))));
  const made = chart({ title: "Latency by version", extra: choice });
  const draw = (latency) => {
    last = latency;
    const lines = (latency?.ecdf ?? []).filter((one) => one.stage === stage && one.ms.length);
    if (!lines.length) return made.set(nothing);
    made.set(({ svg, width, legend }) => {
      const values = lines.flatMap(({ ms }) => ms).map((n) => Math.max(n, 0.001));
      const ticks = powers(Math.min(...values), Math.max(...values));
      const [low, high] = [Math.log10(ticks[0]), Math.log10(ticks.at(-1))];
      const x = (n) => EDGE.left + ((Math.log10(Math.max(n, 0.001)) - low) / (high - low)) * (width - EDGE.left - EDGE.right);
      const y = upright(1);
      axes(svg, width, { x, y, xTicks: ticks, yTicks: [0, 0.25, 0.5, 0.75, 1], xText: plain, yText: (n) => `${100 * n} %`, xLabel: "milliseconds, logarithmic axis", yLabel: "share at most" });
      for (const { version, ms, share } of lines) line(svg, ms.map((n, i) => [x(n), y(share[i])]), series(version));
      legendOf(legend, lines.map(({ version }) => version), series);
      mark(svg, "aria-label", `Latency, stage ${stage}. ${lines.map(({ version, ms, share }) => `${version}: half at most ${duration(atShare(ms, share, 0.5))}, 95 % at most ${duration(atShare(ms, share, 0.95))}`).join(". ")}`);
      return (px) => {
        if (px < EDGE.left || px > width - EDGE.right) return null;
        const n = 10 ** (low + ((px - EDGE.left) / (width - EDGE.left - EDGE.right)) * (high - low));
        return { x: px, text: `at most ${duration(n)}:  ${lines.map(({ version, ms, share }) => `${version} ${percent(shareBelow(ms, share, n))}`).join("  ·  ")}` };
      };
    });
  };
  return { node: made.node, patch: whenChanged(({ latency: l }) => l?.ecdf, ({ latency }) => draw(latency)), stop: made.stop };
}

const atShare = (ms, share, part) => ms[Math.max(0, share.findIndex((n) => n >= part))];

function shareBelow(ms, share, n) {
  let found = 0;
  for (let i = 0; i < ms.length && ms[i] <= n; i += 1) found = share[i];
  return found;
}

function latencyOverTime(series) {
  const made = chart({ title: "Total latency over time" });
  const patch = whenChanged(({ latency: l }) => l?.over_time, ({ latency }) => {
    const found = latency?.over_time;
    const lines = Object.entries(found?.versions ?? {});
    const all = lines.flatMap(([, { p50_ms: a, p95_ms: b }]) => [...a, ...b]).filter((n) => n != null);
    const count = Math.max(0, ...lines.map(([, { p50_ms: a }]) => a.length));
    if (!all.length || !found.start) return made.set(nothing);
    made.set(({ svg, width, legend }) => {
      const ticks = niceTicks(Math.max(...all));
      const time = timeScale(found.start, found.step_s || 1, count, width);
      const y = upright(ticks.at(-1));
      const { ticks: xTicks, label } = timeTicks(time.begin, time.end, width);
      axes(svg, width, { x: time.x, y, xTicks, yTicks: ticks, xText: label, yText: plain, xLabel: "local time", yLabel: "milliseconds" });
      for (const [version, kinds] of lines) {
        for (const kind of ["p50", "p95"]) line(svg, kinds[`${kind}_ms`].map((n, i) => (n == null ? null : [time.at(i), y(n)])), series(version), kind);
      }
      legendOf(legend, lines.map(([version]) => version), series, ["p50", "p95"]);
      mark(svg, "aria-label", `Total latency over time, from 0 to ${duration(ticks.at(-1))}, for ${lines.map(([version]) => version).join(", ")}`);
      return (px) => {
        const i = time.nearest(px);
        return { x: time.at(i), text: `${time.moment(i)}  ${lines.map(([v, k]) => `${v} p50 ${duration(k.p50_ms[i])}, p95 ${duration(k.p95_ms[i])}`).join("  ·  ")}` };
      };
    });
  });
  return { node: made.node, patch, stop: made.stop };
}
