// The dialog of one action: its fields, the number of events that it is about, its line of Python, and the confirmation.

const PREPARE_MS = 250;

const numbers = (text) => text.split(/[,;\s]+/).filter(Boolean).map((one) => (one.endsWith("%") ? parseFloat(one) / 100 : Number(one)));

// How each kind of field is drawn, and read. A value of undefined is left out.
const KINDS = {
  text: { make: () => h("input", { type: "text", autocomplete: "off", spellcheck: "false" }), read: (c) => c.value.trim() || undefined },
  number: { make: () => h("input", { type: "text", inputmode: "decimal", autocomplete: "off" }), read: (c) => (c.value.trim() === "" ? undefined : Number(c.value)) },
  share: { make: () => h("input", { type: "text", autocomplete: "off" }), read: (c) => numbers(c.value)[0] },
  shares: { make: () => h("input", { type: "text", autocomplete: "off" }), read: (c) => (c.value.trim() ? numbers(c.value) : undefined) },
  time: { make: () => h("input", { type: "datetime-local", step: 1 }), read: (c) => asIso(c.value) ?? undefined },
  check: { make: () => h("input", { type: "checkbox" }), read: (c) => c.checked },
  json: { make: () => h("textarea", { rows: 8, spellcheck: "false", class: "mlt-mono" }), read: (c, spec) => readPayload(c.value, spec) },
  version: { make: () => h("select"), read: (c) => c.value || undefined },
  binding: { make: () => h("select"), read: (c) => (c.value === "" ? undefined : Number(c.value)) },
};

// JSON goes as text: the numbers of JavaScript would change large ones.
function readPayload(text, { keep, mediaType }) {
  if (!keep && !text.trim()) return undefined;
  if (!isJson(mediaType)) return { data: text };
  try {
    JSON.parse(text);
    return { json: text };
  } catch (error) {
    throw new Error(`This is no JSON: ${error.message}`);
  }
}

function fieldOf(spec, changed, { state, start, mediaType }) {
  const kind = KINDS[spec.kind ?? "text"];
  const control = kind.make();
  const options = { version: () => (state.names?.versions ?? []).map((one) => [one, one]), binding: () => (state.names?.bindings ?? []).map((one) => [one.number ?? one, one.label ?? String(one)]) }[spec.kind];
  if (options) control.replaceChildren(...(spec.optional ? [h("option", { value: "" }, "choose")] : []), ...options().map(([value, text]) => h("option", { value }, text)));
  const value = start?.[spec.name] ?? spec.value;
  if (spec.kind === "check") control.checked = Boolean(value);
  else if (value !== undefined) control.value = value;
  control.addEventListener("input", changed);
  const hint = spec.hint ? h("p", { class: "mlt-hint", id: newId("hint") }, spec.hint) : null;
  if (hint) control.setAttribute("aria-describedby", hint.id);
  const node = field(spec.label, control, { class: `mlt-field mlt-kind-${spec.kind ?? "text"}` });
  if (hint) node.append(hint);
  let before = control.value;
  return {
    node,
    control,
    read() {
      // An unchanged payload is not sent: the event goes as it is stored.
      if (spec.keep && control.value === before) return undefined;
      return kind.read(control, { ...spec, mediaType });
    },
  };
}

const numberOf = ({ number, number_is: is }) => `${is === "at least" ? "at least " : ""}${plural(number, "event")}`;

// Fields of an action, prepared by the kernel with each change: validation, number and code.
function preparedForm(cockpit, action, args, spec) {
  const code = codeLine();
  const number = h("p", { class: "mlt-number-line" });
  const says = h("pre", { class: "mlt-says" });
  const problem = h("p", { class: "mlt-problem", role: "alert" });
  let timer = null;
  let turn = 0;
  let ready = null;
  let listener = () => {};
  const later = () => {
    clearTimeout(timer);
    ready = null;
    listener();
    timer = setTimeout(prepare, PREPARE_MS);
  };
  const fields = (spec.fields ?? []).map((one) => [one, fieldOf(one, later, { state: cockpit.state, start: spec.start, mediaType: spec.mediaType })]);
  const node = h("div", { class: "mlt-form" }, fields.length ? h("div", { class: "mlt-fields" }, fields.map(([, { node: one }]) => one)) : null, number, says, problem, code.node);
  for (const one of [number, says, problem]) show(one, false);
  code.set("");

  function read() {
    const found = { ...givenOf(args) };
    for (const [{ name, kind }, one] of fields) {
      const value = one.read();
      if (value !== undefined) Object.assign(found, kind === "json" ? value : { [name]: value });
    }
    return found;
  }

  function tell(value) {
    put(says, value.says ?? "");
    show(says, Boolean(value.says));
    put(number, value.number == null ? "" : numberOf(value));
    show(number, value.number != null);
    if (value.code) code.set(value.code);
  }

  function fail(error) {
    put(problem, error?.message ?? "");
    show(problem, Boolean(error));
  }

  async function prepare(failed = null) {
    const mine = (turn += 1);
    clearTimeout(timer);
    ready = null;
    fail(failed);
    try {
      const value = await cockpit.talk.act(action, read());
      if (mine !== turn) return;
      ready = value;
      fail(failed);
      tell(value);
    } catch (error) {
      if (mine !== turn) return;
      ready = null;
      fail(error);
    }
    listener();
  }

  // The bound keeps the action to the events that were counted, and shown.
  async function go() {
    const total = ready?.number;
    const reached = (done) => {
      put(number, total == null ? plural(done, "event") + " done" : `${whole(done)} of ${numberOf(ready)} done`);
      show(number, true);
    };
    const value = await cockpit.talk.act(action, { ...read(), ...ready?.bound }, true, reached);
    tell(value);
    return value;
  }

  return { node, prepare, go, fail, first: fields[0]?.[1].control, get ready() { return ready; }, onchange: (called) => { listener = called; }, stop: () => { turn += 1; clearTimeout(timer); } };
}

// A modal dialog: the browser keeps the focus inside of it, and gives it back at the end.
function openDialog(cockpit, action, args, spec) {
  const title = h("h3", { id: newId("title") }, spec.title);
  const form = preparedForm(cockpit, action, args, spec);
  const confirm = button(spec.go, () => doIt(), { class: "mlt-button mlt-primary", "data-danger": spec.danger ? "yes" : null });
  const cancel = button("Cancel", () => node.close());
  const node = h("dialog", { class: "mlt-dialog", "aria-labelledby": title.id, "data-action": action },
    title, spec.about ? h("p", { class: "mlt-muted" }, spec.about) : null, spec.extra ?? null, form.node, h("div", { class: "mlt-buttons mlt-end" }, cancel, confirm));
  let busy = false;
  let done = false;

  const patch = () => {
    const { ready } = form;
    mark(confirm, "aria-busy", busy ? "true" : null);
    confirm.disabled = busy || !ready || !cockpit.may(action, givenOf(args)) || (ready.number === 0 && ready.number_is !== "at least");
    const n = ready?.number;
    put(confirm, n == null || (n === 1 && ready.number_is !== "at least") ? spec.go : `${spec.go} ${numberOf(ready)}`);
    show(confirm, !done);
    put(cancel, done ? "Close" : "Cancel");
  };

  async function doIt() {
    busy = true;
    patch();
    try {
      const value = await form.go();
      form.fail(null);
      cockpit.did(action, value);
      done = true;
      if (!spec.stays) return node.close();
      cancel.focus();
    } catch (error) {
      form.prepare(error);
    } finally {
      busy = false;
      patch();
    }
  }

  form.onchange(patch);
  node.addEventListener("keydown", (event) => event.stopPropagation());
  node.addEventListener("close", () => {
    form.stop();
    node.remove();
  });
  patch();
  cockpit.root.append(node);
  node.showModal();
  (form.first ?? cancel).focus();
  form.prepare();
  return node;
}
