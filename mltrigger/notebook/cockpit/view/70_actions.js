// The actions: their words and fields, their buttons, and the tab that changes versions.

const NOTE = { name: "why", label: "Note for the history", more: true };
const PER_S = { name: "max_rate_per_s", kind: "number", label: "Events per second", hint: "Empty: as fast as possible." };
const LANE = [
  { name: "concurrency", kind: "number", label: "Calls at the same time", value: "1", more: true },
  { name: "effects", kind: "choice", label: "Effects (mt.once)", choices: [["recorded", "answered from the record"], ["live", "called again"]], more: true },
  NOTE,
];

const ACTIONS = {
  pause: { title: "Pause", go: "Pause", at: "once" },
  resume: { title: "Resume", go: "Resume", at: "once" },
  fire: {
    title: "Fire a sample", go: "Fire", about: "Publishes one event on the topic of this subscription.",
    fields: [{ name: "data", kind: "json", label: "Data, as JSON", hint: "Empty: the newest event is published once more." }],
  },
  redrive: {
    title: "Redrive", go: "Redrive", about: "Delivers this event again. Edit the payload to deliver a mended one.",
    fields: [{ name: "data", kind: "json", label: "Payload", keep: true, hint: "It is checked against the schema of the model. Unchanged: the event goes as it is stored." }],
  },
  dry_run: {
    title: "Dry run", go: "Run", stays: true, again: () => true, about: "Calls a version with this event here, and shows its answer beside the recorded one. Nothing is recorded.",
    fields: [{ name: "version", kind: "version", label: "Version" }, { name: "data", kind: "json", label: "Payload", keep: true, hint: "Unchanged: the event goes as it is stored." }],
  },
  discard: {
    title: "Discard", go: "Discard", danger: true, about: "Gives this event up. Its record and the reason stay.",
    fields: [{ name: "reason", label: "Reason", hint: "Kept in the record." }],
  },
  export_case: {
    title: "Export as test case", go: "Export", stays: true, about: "Writes the event and the expected output to a file that pytest runs.",
    fields: [{ name: "path", label: "File name", hint: "Empty: named after the event. It ends in .case.json." }],
  },
  bulk_redrive: {
    title: "Redrive all", go: "Redrive", about: "Delivers all dead events that match the filter again.",
    fields: [{ name: "rate_per_s", kind: "number", label: "Events per second", hint: "Empty: as fast as possible." }],
  },
  bulk_discard: {
    title: "Discard all", go: "Discard", danger: true, about: "Gives up all dead events that match the filter. Their records stay.",
    fields: [{ name: "reason", label: "Reason", hint: "Kept in the record." }],
  },
  replay: {
    title: "Replay to a version", go: "Replay", about: "Sends recorded events to another version. Its answers are recorded beside the old ones.",
    fields: [{ name: "version", kind: "version", label: "Version" }, PER_S, ...LANE],
  },
  shadow: {
    title: "Shadow", go: "Start shadow", about: "A version gets the same events and answers nobody, so that its answers can be compared.",
    fields: [{ name: "version", kind: "version", label: "Version" }, { name: "share", kind: "share", label: "Share of the events", value: "100 %" }, { ...PER_S, more: true }, ...LANE],
  },
  canary: {
    title: "Canary", go: "Start canary", about: "A version answers a growing share of the events. It rolls back by itself when it is worse.",
    fields: [
      { name: "version", kind: "version", label: "Version" },
      { name: "steps", kind: "shares", label: "Steps", value: "1 %, 5 %, 20 %, 50 %", hint: "Shares of the events, one after the other." },
      { name: "guard.errors", kind: "rule", label: "Errors, times those of now", value: "1.5", hint: "More: roll back. Empty: no such rule." },
      { name: "guard.p95", kind: "rule", label: "95th percentile, times that of now", value: "1.3", hint: "Slower: roll back. Empty: no such rule." },
      { name: "guard.measures", kind: "measures", label: "Figures of mt.report", hint: "For example confidence: higher, cost: lower.", more: true },
      { name: "guard.alpha", kind: "number", label: "Chance of a false alarm", value: "0.05", more: true },
      { name: "min_events", kind: "number", label: "Answers a step, at least", value: "200", more: true },
      { name: "min_s", kind: "number", label: "Seconds a step, at least", value: "60", more: true },
      { name: "then", kind: "choice", label: "After the last step", choices: [["wait", "wait for the promotion"], ["promote", "promote"]], more: true },
      NOTE,
    ],
  },
  promote: {
    title: "Promote", go: "Promote", about: "From the next event on, this version answers.",
    fields: [
      { name: "version", kind: "version", label: "Version" },
      { name: "force", label: "Against the verdict, because", hint: "Only needed where the verdict is not SHIP." },
      { name: "backlog", kind: "choice", label: "Events that wait already", choices: [["new", "go to the new version"], ["old", "go to the old version"]], more: true },
      NOTE,
      { name: "move_alias", kind: "check", label: "Move the alias in MLflow, too", more: true },
    ],
  },
  rollback: {
    title: "Roll back", go: "Roll back", danger: true, about: "The version before answers again, from the next event on.",
    fields: [{ name: "to", kind: "binding", label: "Back to", optional: "the version before" }, { ...NOTE, more: false }],
  },
  correct: {
    title: "Correct", go: "Correct", word: ({ dry }) => (dry ? "Try" : "Correct"), stays: true, again: ({ dry }) => dry, about: "Events that a bad version answered are answered once more, and linked to the wrong ones.",
    fields: [
      { name: "binding", kind: "binding", label: "Binding of the bad version" },
      { name: "dry", kind: "check", label: "Dry run: count and compare only", value: true },
      { name: "limit", kind: "number", label: "Events, at most", hint: "Empty: all, and 100 in a dry run." },
      { ...PER_S, hint: "Empty: as the subscription. A dry run has no limit.", more: true },
      NOTE,
    ],
  },
  report: { title: "Report", go: "Make the report", stays: true, about: "Writes the comparison as one page." },
};

const VERSION_ACTIONS = ["shadow", "canary", "promote", "rollback", "correct", "replay"];

const givenOf = (args) => (typeof args === "function" ? args() : args);

// Another view, or a click a moment ago, may choose another subscription: an action is about the one that is shown.
function namedOf(cockpit, args) {
  const given = givenOf(args);
  const { chosen } = cockpit.state;
  return chosen === null || given.subscription !== undefined || given.filter ? given : { ...given, subscription: chosen };
}

// A button of an action. A click acts at once, or opens the dialog; the line of Python shows on focus and under the pointer.
function controls(cockpit) {
  const all = new Set();
  const codes = new Map();
  let timer = null;

  async function preview(action, args) {
    const given = namedOf(cockpit, args);
    const key = JSON.stringify([action, given]);
    if (!cockpit.may(action, given)) return;
    try {
      if (!codes.has(key)) {
        if (codes.size > 200) codes.clear();
        codes.set(key, (await cockpit.talk.act(action, given)).code);
      }
      cockpit.code(codes.get(key));
    } catch {
      codes.delete(key); // it needs its fields first: the dialog shows its line
    }
  }

  async function atOnce(node, action, args) {
    node.setAttribute("aria-busy", "true");
    try {
      cockpit.did(action, await cockpit.talk.act(action, namedOf(cockpit, args), true));
    } catch (error) {
      cockpit.notice(error.message, true);
    } finally {
      node.removeAttribute("aria-busy");
    }
  }

  function control(action, args, spec, attributes = {}) {
    const click = () => (spec.at === "once" ? atOnce(node, action, args) : openDialog(cockpit, action, namedOf(cockpit, args), spec));
    const node = button(spec.label ?? spec.title, click, { "data-action": action, "aria-haspopup": spec.at === "once" ? null : "dialog", ...attributes });
    const look = () => {
      clearTimeout(timer);
      timer = setTimeout(() => preview(action, args), 150);
    };
    if (!spec.fields) {
      node.addEventListener("pointerenter", look);
      node.addEventListener("focus", look);
    }
    node.mltArgs = args;
    all.add(new WeakRef(node));
    enable(node);
    return node;
  }

  function enable(node) {
    const action = node.dataset.action;
    const off = !cockpit.may(action, givenOf(node.mltArgs));
    if (node.disabled !== off) node.disabled = off;
    const said = cockpit.state.controls?.[action];
    if (!cockpit.talk.live) mark(node, "title", "Nobody would hear it: run the cell again");
    else mark(node, "title", said?.enabled === !off ? said.title : null);
  }

  return {
    control,
    patch() {
      for (const reference of all) {
        const node = reference.deref();
        if (node) enable(node);
        else all.delete(reference);
      }
    },
    stop: () => clearTimeout(timer),
  };
}

// The tab of versions: who answers which share, and the actions that change it, each with its line of Python.
function versionsTab(cockpit) {
  const now = h("div");
  const choose = h("p", { class: "mlt-empty" }, "Choose a subscription first.");
  const list = h("div", { class: "mlt-cards" });
  const forms = new Map();

  for (const action of VERSION_ACTIONS) {
    const spec = ACTIONS[action];
    const card = h("section", { class: "mlt-card", "aria-label": spec.title }, h("h3", {}, spec.title), h("p", { class: "mlt-muted" }, spec.about),
      h("div", { class: "mlt-buttons" }, cockpit.control(action, {}, versionSpec(action), { "aria-label": `${spec.title} …` })));
    forms.set(action, card);
    list.append(card);
  }

  function versionSpec(action) {
    if (action !== "replay") return { ...ACTIONS[action], label: `${ACTIONS[action].go} …` };
    const [version, ...others] = ACTIONS.replay.fields;
    const limit = { name: "limit", kind: "number", label: "Only the newest", hint: "Empty: all events." };
    return { ...ACTIONS.replay, label: "Replay …", fields: [version, { name: "since", kind: "time", label: "Since" }, { name: "until", kind: "time", label: "Until" }, limit, ...others] };
  }

  const patch = whenChanged(({ picture: p, chosen }) => [p.subscriptions, chosen], ({ picture: p, chosen }) => {
    const shown = p.subscriptions.filter(({ name }) => chosen === null || name === chosen);
    const rows = shown.flatMap((one) => one.versions.map((version) => [one.name, version.version, version.role, version.share == null ? "–" : percent(version.share)]));
    now.replaceChildren(rows.length ? dataTable("Versions that get events now", ["subscription", "version", "role", "share"], rows, [3]) : "");
    show(choose, chosen === null);
    show(list, chosen !== null);
  });
  return { node: h("div", { class: "mlt-versions" }, now, choose, list), patch };
}
