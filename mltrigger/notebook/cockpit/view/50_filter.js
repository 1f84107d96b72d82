// The filter of the invocations: which attempts the table shows, and which events a bulk action is about.

const TYPING_MS = 300;

function field(label, control, attributes = {}) {
  const id = newId("field");
  control.id = id;
  return h("div", { class: "mlt-field", ...attributes }, h("label", { for: id }, label), control);
}

// A list of choices that keeps what is chosen when the choices change.
function choices(attributes, first) {
  const node = h("select", attributes);
  const fill = whenChanged((values) => values, (values) => {
    const { value } = node;
    const all = value && !values.includes(value) ? [value, ...values] : values;
    node.replaceChildren(h("option", { value: "" }, first), ...all.map((one) => h("option", { value: one }, one)));
    node.value = value;
  });
  fill([]);
  return { node, fill };
}

const asIso = (local) => (local && !Number.isNaN(new Date(local).getTime()) ? new Date(local).toISOString() : null);

function filterForm(changed) {
  let timer = null;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(changed, TYPING_MS);
  };
  const input = (type = "text", extra = {}) => h("input", { type, autocomplete: "off", spellcheck: "false", input: later, ...extra });
  const list = () => choices({ change: () => changed() }, "any");
  const text = input("search", { placeholder: "subject, id, output or error contains" });
  const lists = { outcome: list(), subscription: list(), version: list(), role: list(), reason: list() };
  const texts = { text, key: input(), since: input("datetime-local", { step: 1 }), until: input("datetime-local", { step: 1 }) };
  const others = h("p", { class: "mlt-hint" });
  show(others, false);
  const reasons = field("Reason", lists.reason.node);
  reasons.append(others);
  const subscription = field("Subscription", lists.subscription.node);
  const more = h("div", { class: "mlt-fields mlt-more", id: newId("more") },
    subscription, field("Version", lists.version.node), field("Role", lists.role.node), reasons,
    field("Key", texts.key), field("Since", texts.since), field("Until", texts.until));
  const opener = button("More filters", () => {
    show(more, more.hidden);
    mark(opener, "aria-expanded", String(!more.hidden));
  }, { "aria-expanded": "false", "aria-controls": more.id });
  const reset = button("Clear", () => {
    for (const { node: control } of Object.values(lists)) control.value = "";
    for (const control of Object.values(texts)) control.value = "";
    changed();
  });
  show(more, false);
  const node = h("div", { class: "mlt-filter", role: "search", "aria-label": "Filter of the invocations" },
    h("div", { class: "mlt-fields" }, field("Text", text, { class: "mlt-field mlt-wide" }), field("Outcome", lists.outcome.node),
      h("div", { class: "mlt-buttons" }, opener, reset)), more);
  let chosen = null;

  function value() {
    const found = { subscription: chosen };
    for (const [name, { node: control }] of Object.entries(lists)) if (control.value) found[name] = control.value;
    for (const [name, control] of Object.entries(texts)) if (control.value.trim()) found[name] = control.value.trim();
    if (found.since) found.since = asIso(found.since);
    if (found.until) found.until = asIso(found.until);
    return Object.fromEntries(Object.entries(found).filter(([, one]) => one != null));
  }

  return {
    node,
    get value() {
      const hidden = ["subscription", "version", "role", "reason"].filter((name) => lists[name].node.value).length
        + ["key", "since", "until"].filter((name) => texts[name].value).length;
      put(opener, hidden && more.hidden ? `More filters (${hidden})` : "More filters");
      return value();
    },
    set(values) {
      for (const [name, one] of Object.entries(values)) {
        if (lists[name]) { lists[name].fill([one]); lists[name].node.value = one; }
      }
      changed();
    },
    patch(state) {
      const names = state.names ?? {};
      lists.outcome.fill(names.outcomes ?? []);
      lists.version.fill(names.versions ?? []);
      lists.role.fill(names.roles ?? []);
      lists.reason.fill(names.reasons ?? []);
      put(others, names.more_reasons ? `${plural(names.more_reasons, "more reason")}: sub.dead_letters(reason=…)` : "");
      show(others, Boolean(names.more_reasons));
      lists.subscription.fill(state.picture.subscriptions.map(({ name }) => name));
      show(subscription, state.chosen === null);
      if (state.chosen !== null) lists.subscription.node.value = "";
      if (chosen === state.chosen) return;
      chosen = state.chosen;
      changed();
    },
    stop: () => clearTimeout(timer),
  };
}
