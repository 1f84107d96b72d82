// The dialog of one action: its fields, the number of events that it is about, its line of Python, and the confirmation.

const PREPARE_MS = 250;

const COMMAS = /^[-+]?\d{1,3}(,\d{3})+(\.\d*)?$/;

// A comma stands between thousands: one before decimals would make another number.
function asNumber(text) {
  const plain = text.endsWith("%") ? text.slice(0, -1).trim() : text;
  if (plain.includes(",") && !COMMAS.test(plain)) throw new Error(`Write ${plain.replace(",", ".")} with a point: a comma stands between thousands`);
  const value = plain === "" ? NaN : Number(plain.replaceAll(",", ""));
  if (!Number.isFinite(value)) throw new Error(`${text} is no number`);
  return plain === text ? value : value / 100;
}

const shares = (text) => text.split(/[,;\s]+(?!%)/).filter(Boolean).map((one) => asNumber(one.replaceAll(/\s/g, "")));

// measure: better, measure: better
function measures(text) {
  const pairs = text.split(/[,;\n]+/).map((one) => one.split(":").map((part) => part.trim())).filter(([name]) => name);
  const wrong = pairs.find(([, better]) => better !== "higher" && better !== "lower");
  if (wrong) throw new Error(`${wrong[0]}: write ${wrong[0]}: higher, or ${wrong[0]}: lower`);
  return Object.fromEntries(pairs);
}

const textBox = (extra = {}) => () => h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...extra });
const given = (read) => (c) => (c.value.trim() === "" ? undefined : read(c.value.trim()));

// How each kind of field is drawn, and read. A value of undefined is left out.
const KINDS = {
  text: { make: textBox(), read: given(String) },
  number: { make: textBox({ inputmode: "decimal" }), read: given(asNumber) },
  // An empty rule does not hold.
  rule: { make: textBox({ inputmode: "decimal" }), read: (c) => given(asNumber)(c) ?? null },
  measures: { make: textBox(), read: given(measures) },
  share: { make: textBox(), read: given((text) => shares(text)[0]) },
  shares: { make: textBox(), read: given(shares) },
  time: { make: () => h("input", { type: "datetime-local", step: 1 }), read: (c) => asIso(c.value) ?? undefined },
  check: { make: () => h("input", { type: "checkbox" }), read: (c) => c.checked },
  json: { make: () => h("textarea", { rows: 8, spellcheck: "false", class: "mlt-mono" }), read: (c, spec) => readPayload(c.value, spec) },
  choice: { make: () => h("select"), read: (c) => c.value },
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

// The newest version that does not answer already.
function newVersion({ chosen, names, picture: { subscriptions } }) {
  const now = subscriptions.find(({ name }) => name === chosen)?.versions.find(({ role }) => role === "serving")?.version;
  return (names?.versions ?? []).findLast((one) => one !== now);
}

function fieldOf(spec, changed, { state, start, mediaType }) {
  const kind = KINDS[spec.kind ?? "text"];
  const control = kind.make();
  const options = { version: () => (state.names?.versions ?? []).map((one) => [one, one]), binding: () => (state.names?.bindings ?? []).map((one) => [one.number ?? one, one.label ?? String(one)]), choice: () => spec.choices }[spec.kind];
  if (options) control.replaceChildren(...(spec.optional ? [h("option", { value: "" }, spec.optional)] : []), ...options().map(([value, text]) => h("option", { value }, text)));
  const value = start?.[spec.name] ?? (spec.kind === "version" ? newVersion(state) : spec.value);
  if (spec.kind === "check") control.checked = Boolean(value);
  else if (value !== undefined) control.value = value;
  control.addEventListener("input", changed);
  const hint = spec.hint ? h("p", { class: "mlt-hint", id: newId("hint") }, spec.hint) : null;
  const problem = h("p", { class: "mlt-problem mlt-hint", id: newId("problem"), role: "alert" });
  const node = field(spec.label, control, { class: `mlt-field mlt-kind-${spec.kind ?? "text"}` });
  if (hint) node.append(hint);
  node.append(problem);
  const fail = (text) => {
    put(problem, text);
    show(problem, Boolean(text));
    mark(control, "aria-invalid", text ? "true" : null);
    mark(control, "aria-describedby", [text ? problem.id : "", hint?.id].filter(Boolean).join(" ") || null);
    if (text) node.closest("details")?.setAttribute("open", "");
  };
  fail("");
  let before = control.value;
  return {
    node,
    control,
    fail,
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
  let asked = {};
  let running = false;
  let edited = false;
  let listener = () => {};
  const later = () => {
    clearTimeout(timer);
    if (running) return void (edited = true); // prepared again when it has ended
    ready = null;
    listener();
    timer = setTimeout(prepare, PREPARE_MS);
  };
  const fields = (spec.fields ?? []).map((one) => [one, fieldOf(one, later, { state: cockpit.state, start: spec.start, mediaType: spec.mediaType })]);
  const group = (more) => fields.filter(([one]) => Boolean(one.more) === more).map(([, { node: one }]) => one);
  const box = (inside) => (inside.length ? h("div", { class: "mlt-fields" }, inside) : null);
  const folded = box(group(true)) && h("details", { class: "mlt-settings" }, h("summary", {}, "More settings"), box(group(true)));
  const trial = h("div", { class: "mlt-trial", "aria-live": "polite" });
  const node = h("div", { class: "mlt-form" }, box(group(false)), folded, number, says, trial, problem, code.node);
  for (const one of [number, says, problem]) show(one, false);
  code.set("");

  function read() {
    const found = { ...givenOf(args) };
    for (const [{ name, kind }, one] of fields) {
      let value;
      try {
        value = one.read();
      } catch (error) {
        throw Object.assign(error, { field: name });
      }
      if (value === undefined) continue;
      const [outer, inner] = name.split(".");
      if (inner) found[outer] = { ...found[outer], [inner]: value };
      else Object.assign(found, kind === "json" ? value : { [name]: value });
    }
    return found;
  }

  function tell(value) {
    trial.replaceChildren(...(value.trial ? [trialBlock(value.trial)] : []));
    const text = value.says ?? "";
    // The outputs stand beside each other below it, and a verdict above it.
    put(says, value.trial || spec.extra ? text.split("\n")[0] : text);
    show(says, Boolean(value.says));
    put(number, value.number == null ? "" : numberOf(value));
    show(number, value.number != null);
    if (value.code) code.set(value.code);
  }

  // An error about one field stands beside it.
  function fail(error) {
    const about = fields.find(([{ name }]) => error && name === error.field);
    // What was prepared before is no line for this form.
    if (error && !ready) {
      code.set("");
      for (const one of [number, says]) show(one, false);
    }
    for (const one of fields) one[1].fail(one === about ? error.message : "");
    put(problem, about ? "" : (error?.message ?? ""));
    show(problem, Boolean(error) && !about);
  }

  async function prepare(failed = null) {
    const mine = (turn += 1);
    clearTimeout(timer);
    ready = null;
    fail(failed);
    try {
      const current = read();
      const value = await cockpit.talk.act(action, current);
      if (mine !== turn) return;
      [ready, asked] = [value, current];
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
    const begun = ready;
    const reached = (done) => {
      put(number, begun?.number == null ? plural(done, "event") + " done" : `${whole(done)} of ${numberOf(begun)} done`);
      show(number, true);
    };
    const sent = { ...read(), ...begun?.bound };
    [running, edited] = [true, false];
    try {
      const value = await cockpit.talk.act(action, sent, true, reached);
      tell(value);
      return value;
    } finally {
      running = false;
      if (edited) later();
    }
  }

  return { node, prepare, go, fail, first: fields[0]?.[1].control, get ready() { return ready; }, get asked() { return asked; }, onchange: (called) => { listener = called; }, stop: () => { turn += 1; clearTimeout(timer); } };
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
  let ran = false;

  const patch = () => {
    const { ready } = form;
    mark(confirm, "aria-busy", busy ? "true" : null);
    confirm.disabled = busy || !ready || !cockpit.may(action, givenOf(args)) || (ready.number === 0 && ready.number_is !== "at least");
    const n = ready?.number;
    const word = spec.word?.(form.asked) ?? spec.go;
    put(confirm, n == null || (n === 1 && ready.number_is !== "at least") ? word : `${word} ${numberOf(ready)}`);
    show(confirm, !done);
    // What has begun goes on.
    put(cancel, busy || done || ran ? "Close" : "Cancel");
  };

  async function doIt() {
    busy = true;
    patch();
    try {
      const value = await form.go();
      form.fail(null);
      cockpit.did(action, value);
      ran = true;
      done = !spec.again?.(form.asked);
      if (!spec.stays) return node.close();
      cancel.focus();
    } catch (error) {
      if (!node.open) return cockpit.notice(error.message, true);
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
