// One row of the invocations: its key, its cells, and the heads of their columns.

const NUMBER = /^-?[\d.,]+(e[-+]?\d+)?$/i;
// Each lane counts attempts of its own.
const LANES = ["shadow", "replay"];
const keyOf = ({ subscription, seq, attempt, role, version }) => `${subscription} ${seq} ${attempt} ${role} ${LANES.includes(role) ? version : ""}`;

function rowView(open) {
  const cells = {};
  const cell = (name, ...children) => (cells[name] = h("span", { role: "gridcell", class: `mlt-cell mlt-cell-${name}` }, ...children));
  const word = h("span");
  const dot = h("span", { class: "mlt-chip" }, word);
  const again = h("span", { class: "mlt-again" });
  const node = h("div", { role: "row", class: "mlt-row", tabindex: "-1", click: () => open(node.mltKey) },
    cell("started"), cell("event"), cell("subscription"), cell("outcome", dot, again), cell("version"), cell("output"), cell("queue"), cell("model"), cell("total"));
  return {
    node,
    patch(row, key) {
      node.mltKey = key;
      put(cells.started, moment(row.started));
      put(cells.event, row.event || `event ${row.seq}`);
      put(cells.subscription, row.subscription);
      mark(dot, "data-key", row.outcome);
      put(word, row.outcome.replaceAll("_", " "));
      put(again, row.attempt > 1 ? `attempt ${row.attempt}` : "");
      put(cells.version, row.role && row.role !== "live" ? `${row.version} ${row.role}` : row.version);
      put(cells.output, row.error || row.output || (row.reason ?? ""));
      // A number that is cut is another number: it takes two lines.
      for (const name of ["event", "output"]) mark(cells[name], "data-number", NUMBER.test(cells[name].textContent) ? "yes" : null);
      mark(cells.output, "data-error", row.error ? "yes" : "no");
      for (const stage of ["queue", "model", "total"]) put(cells[stage], duration(row[`${stage}_ms`]));
    },
  };
}

const HEADS = [["started", "started"], ["event", "event"], ["subscription", "subscription"], ["outcome", "outcome"], ["version", "version"],
  ["output", "output or error"], ["queue", "queue"], ["model", "model"], ["total", "total"]];
