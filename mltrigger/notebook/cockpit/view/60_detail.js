// One attempt, opened: its texts, its attempts, the way of its event through the pipeline, and its actions.

const ROW_ACTIONS = ["redrive", "dry_run", "fire", "discard", "export_case"];

function textBlock(title, text, { error = false, folded = false } = {}) {
  if (!text) return null;
  const pre = h("pre", { class: "mlt-text", tabindex: "0", "aria-label": title, "data-error": error ? "yes" : null }, text);
  if (folded) return h("details", { class: "mlt-block" }, h("summary", {}, title), pre);
  return h("section", { class: "mlt-block" }, h("h4", {}, title), pre);
}

function payloadBlock(found, outcome) {
  const image = picture(found.image, "The image of this event");
  const text = found.payload ? spread(found.payload) : "";
  const { edited } = found;
  const got = edited && { true: "", false: ", which this attempt got", null: ". This attempt got it, or an edited one" }[edited.used];
  return h("section", { class: "mlt-block" },
    h("h4", {}, "Payload", found.media_type ? h("span", { class: "mlt-muted" }, ` ${found.media_type}`) : null),
    edited ? h("p", { class: "mlt-note" }, edited.used ? `${outcome === "succeeded" ? "Answered" : "Called"} with the payload edited` : edited.used === null ? "Edited, and sent again several times, the last time" : "Edited later, and sent again", ` at ${moment(edited.at)}.`) : null,
    found.image_note ? h("p", { class: "mlt-muted" }, found.image_note) : null,
    image, text ? h("pre", { class: "mlt-text", tabindex: "0", "aria-label": "Payload" }, text) : image ? null : h("p", { class: "mlt-muted" }, found.hidden || "No payload."),
    edited ? h("details", { class: "mlt-block", open: !edited.used }, h("summary", {}, "The payload as published", got),
      h("pre", { class: "mlt-text", tabindex: "0", "aria-label": "Payload as published" }, spread(edited.original))) : null);
}

function attemptsBlock(attempts, all) {
  if (!attempts?.length) return null;
  const heads = ["attempt", "version", "outcome", "started", "queue", "model", "total", "worker"];
  const rows = attempts.map((one) => [one.attempt, one.role && one.role !== "live" ? `${one.version} ${one.role}` : one.version, h("span", {}, chip(one.outcome), one.reason ? h("span", { class: "mlt-muted" }, ` ${one.reason}`) : null),
    moment(one.started), duration(one.queue_ms), duration(one.model_ms), duration(one.total_ms), one.worker ?? ""]);
  return h("section", { class: "mlt-block" }, dataTable(`Attempts${cutOf("newest", attempts.length, all)}`, heads, rows, [4, 5, 6]));
}

// The event and those that it led to, as bars on one scale of time: the queue hatched, the model solid.
function timelineBlock(trace, all) {
  if (!trace?.length) return null;
  const ends = trace.map(({ start_ms: start, queue_ms: queue, model_ms: model }) => (start ?? 0) + (queue ?? 0) + (model ?? 0));
  const most = Math.max(...ends, 0.001);
  const part = (ms) => `${Math.min(100, (100 * (ms ?? 0)) / most).toFixed(3)}%`;
  const rows = trace.map((one) => {
    const bar = h("span", { class: "mlt-track", "aria-hidden": "true" }, h("span", { class: "mlt-queue" }), h("span", { class: "mlt-model", "data-key": one.outcome }));
    bar.children[0].style.cssText = `left:${part(one.start_ms)};width:${part(one.queue_ms)}`;
    bar.children[1].style.cssText = `left:${part((one.start_ms ?? 0) + (one.queue_ms ?? 0))};width:${part(one.model_ms)}`;
    const label = h("span", { class: "mlt-lane-name" }, `${one.subscription || one.topic}`, h("span", { class: "mlt-muted" }, ` ${one.version ?? ""}`));
    label.style.setProperty("--depth", Math.min(one.depth ?? 0, 8));
    const said = [one.outcome?.replaceAll("_", " "), one.queue_ms == null ? "" : `queue ${duration(one.queue_ms)}`, one.model_ms == null ? "" : `model ${duration(one.model_ms)}`];
    return h("li", { class: "mlt-lane" }, label, bar, h("span", { class: "mlt-lane-said" }, said.filter(Boolean).join(" · ")));
  });
  return h("section", { class: "mlt-block" },
    h("h4", {}, "Way through the pipeline", h("span", { class: "mlt-muted" }, ` ${duration(most)} in all${cutOf("first", trace.length, all)}`)),
    h("ul", { class: "mlt-lanes" }, rows));
}

function explainBlock(steps, all) {
  if (!steps?.length) return null;
  return h("section", { class: "mlt-block" }, h("h4", {}, `Why${cutOf("first", steps.length, all)}`),
    h("dl", { class: "mlt-facts" }, steps.map(({ step, answer }) => [h("dt", {}, step), h("dd", {}, String(answer))])));
}

function drawer(cockpit, closed) {
  const title = h("h3", { class: "mlt-drawer-title", tabindex: "-1" });
  const facts = h("p", { class: "mlt-drawer-facts" });
  const actions = h("div", { class: "mlt-buttons", role: "group", "aria-label": "Actions on this event" });
  const content = h("div", { class: "mlt-drawer-body" });
  const close = button("Close", () => shut(), { class: "mlt-button mlt-small", title: "Escape does the same" });
  const node = h("section", { class: "mlt-drawer", "aria-label": "One attempt" },
    h("div", { class: "mlt-drawer-head" }, title, close), facts, actions, content);
  let wanted = null;
  show(node, false);

  function shut() {
    if (node.hidden) return;
    wanted = null;
    show(node, false);
    closed();
  }

  function fill(row, found) {
    const args = { seq: row.seq, subscription: row.subscription };
    const apply = new Set(found.actions ?? ROW_ACTIONS);
    const start = { data: spread(found.payload ?? ""), version: row.version };
    const recorded = { attempt: row.attempt, role: row.role, version: row.version };
    const given = { dry_run: { ...args, recorded } };
    const words = { fire: { title: "Fire again", label: "Fire again", about: "Publishes the payload once more, as a new event for all subscriptions of the topic. Edit it as you like.", fields: ACTIONS.redrive.fields } };
    // Data that are no text, or were cut, are delivered as they are.
    const fields = (name) => (words[name] ?? ACTIONS[name]).fields.filter((one) => !one.keep || found.editable !== false);
    actions.replaceChildren(...ROW_ACTIONS.filter((name) => apply.has(name)).map((name) =>
      cockpit.control(name, given[name] ?? args, { ...ACTIONS[name], ...words[name], fields: fields(name), start, mediaType: found.media_type })));
    show(actions, actions.children.length > 0);
    cockpit.code(found.code);
    content.replaceChildren(...[
      textBlock("Error", found.error, { error: true }),
      textBlock("Traceback", found.traceback, { folded: true }),
      payloadBlock(found, row.outcome),
      textBlock("Output", found.output && spread(found.output)),
      textBlock("Printed", found.printed, { folded: true }),
      timelineBlock(found.trace, found.in_all?.trace),
      attemptsBlock(found.attempts, found.in_all?.attempts),
      explainBlock(found.explain, found.in_all?.explain),
    ].filter(Boolean));
  }

  async function open(row) {
    wanted = row;
    put(title, row.event || `event ${row.seq}`);
    facts.replaceChildren(chip(row.outcome), ` · ${[row.reason, `attempt ${row.attempt}`, row.subscription, row.version, moment(row.started), row.key ? `key ${row.key}` : ""].filter(Boolean).join(" · ")}`);
    actions.replaceChildren();
    // At once what is known here; the kernel answers when it can.
    content.replaceChildren(...[textBlock("Error", row.error, { error: true }), textBlock("Output", row.output)].filter(Boolean));
    show(node, true);
    title.focus({ preventScroll: true });
    try {
      const found = await cockpit.talk.ask("row", { seq: row.seq, attempt: row.attempt, subscription: row.subscription, role: row.role, version: row.version });
      if (wanted === row) fill(row, found);
    } catch (error) {
      if (wanted === row) content.append(h("p", { class: "mlt-problem", role: "alert" }, error.message));
    }
  }

  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    shut();
  });
  return { node, open, shut, get row() { return wanted; } };
}

// The second tab: filter, bulk actions, table, and the attempt that is open.
function invocations(cockpit) {
  let table = null;
  const filter = filterForm(() => table?.reload());
  const side = drawer(cockpit, () => {
    mark(split, "data-open", "no");
    table.release();
    table.focusRow();
  });
  table = invocationTable(cockpit, filter, (row) => {
    mark(split, "data-open", "yes");
    side.open(row);
    table.reveal();
  });
  const bulk = h("div", { class: "mlt-buttons mlt-bulk", role: "group", "aria-label": "Actions on all attempts that match the filter" },
    h("span", { class: "mlt-muted" }, "All that match:"),
    ["bulk_redrive", "bulk_discard", "replay"].map((name) => cockpit.control(name, () => ({ filter: filter.value }), ACTIONS[name])));
  const split = h("div", { class: "mlt-split", "data-open": "no" }, h("div", { class: "mlt-split-main" }, table.node), side.node);
  return {
    node: h("div", {}, filter.node, bulk, split),
    filter: (values) => filter.set(values),
    patch(state) {
      filter.patch(state);
      table.patch(state);
    },
    done() {
      side.shut();
      table.reload();
    },
    stop() {
      filter.stop();
      table.stop();
    },
  };
}
