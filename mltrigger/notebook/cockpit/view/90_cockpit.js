// The cockpit: header, tabs, notices, the line of Python, and the life of the view.

const TABS = [["overview", "Overview", overview], ["invocations", "Invocations", invocations], ["compare", "Compare", compareTab], ["versions", "Versions", versionsTab]];
const NOTICE_MS = 8000;
const DONE_MS = 3000;

function tabs(changed) {
  const id = newId("tab");
  const list = h("div", { class: "mlt-tabs", role: "tablist", "aria-label": "Views" });
  const all = TABS.map(([name, text]) => {
    const tab = h("button", { type: "button", role: "tab", id: `${id}-${name}`, "aria-controls": `${id}-${name}-panel`, click: () => choose(name) }, text);
    const panel = h("div", { role: "tabpanel", id: `${id}-${name}-panel`, "aria-labelledby": tab.id, class: "mlt-panel", "data-tab": name });
    list.append(tab);
    return { name, tab, panel };
  });
  let chosen = null;
  function choose(name) {
    if (chosen === name) return;
    chosen = name;
    for (const { name: one, tab, panel } of all) {
      mark(tab, "aria-selected", String(one === name));
      mark(tab, "tabindex", one === name ? "0" : "-1");
      show(panel, one === name);
    }
    changed();
  }
  list.addEventListener("keydown", (event) => {
    const i = all.findIndex(({ name }) => name === chosen);
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const { name, tab } = all[(to + all.length) % all.length];
    choose(name);
    tab.focus();
  });
  return { list, panels: all, choose, get chosen() { return chosen; } };
}

// What the cockpit says: a live region that is there before its text, and goes silent by itself.
function notices() {
  const polite = h("div", { class: "mlt-notice", role: "status" });
  const urgent = h("div", { class: "mlt-notice mlt-urgent", role: "alert" });
  const lasting = h("div", { class: "mlt-notice mlt-urgent", role: "alert" });
  let timer = null;
  for (const one of [polite, urgent, lasting]) show(one, false);
  const say = (text, bad = false) => {
    clearTimeout(timer);
    put(polite, bad ? "" : text);
    put(urgent, bad ? text : "");
    show(polite, !bad && Boolean(text));
    show(urgent, bad && Boolean(text));
    timer = setTimeout(() => say(""), bad ? 3 * NOTICE_MS : NOTICE_MS);
    if (!text) clearTimeout(timer);
  };
  return {
    node: h("div", { class: "mlt-notices" }, lasting, urgent, polite),
    say,
    patch(state) {
      const text = [state.outage, state.notice].filter(Boolean).join(" · ");
      put(lasting, text);
      show(lasting, Boolean(text));
    },
    stop: () => clearTimeout(timer),
  };
}

// Puts a cell below the one of the cockpit, if JupyterLab or Notebook 7 lets us.
function newCell(node, source) {
  const app = window.jupyterapp;
  try {
    for (const panel of app?.shell?.widgets("main") ?? []) {
      if (!panel.node?.contains(node) || !panel.content?.widgets) continue;
      const at = panel.content.widgets.findIndex((cell) => cell.node.contains(node));
      panel.content.model.sharedModel.insertCell(at + 1, { cell_type: "code", source, metadata: {} });
      return true;
    }
  } catch {
    // another version of it: the text is shown to copy
  }
  return false;
}

function recorder(cockpit) {
  let on = false;
  let count = 0;
  const toggle = button("Record clicks", async () => {
    try {
      await cockpit.talk.ask("record", { on: !on });
      on = !on;
      if (on) count = 0;
      patch();
      if (!on) await write();
    } catch (error) {
      cockpit.notice(error.message, true);
    }
  }, { "aria-pressed": "false", title: "Writes the actions that follow as Python, into a new cell" });
  const written = codeLine("The recorded actions in Python");
  written.set("");

  async function write() {
    const { code } = await cockpit.talk.ask("recorded");
    if (!code) return cockpit.notice("No action was recorded");
    const done = newCell(cockpit.root, code);
    written.set(done ? "" : code);
    cockpit.notice(done ? "The recorded actions are in the cell below" : "Copy the recorded actions into a cell");
  }

  function patch() {
    put(toggle, on ? `Stop recording and write the cell (${plural(count, "action")})` : "Record clicks");
    mark(toggle, "aria-pressed", String(on));
    toggle.disabled = !cockpit.talk.live || Boolean(cockpit.state.read_only);
  }

  return { toggle, node: written.node, patch, did() { if (on) { count += 1; patch(); } } };
}

function header(cockpit) {
  const title = h("h2", { class: "mlt-title" });
  const pill = h("span", { class: "mlt-pill", role: "status" });
  const updated = h("span", { class: "mlt-updated" });
  const only = h("span", { class: "mlt-only mlt-muted" });
  const scope = choices({ change: () => cockpit.choose(scope.node.value || null) }, "all subscriptions");
  const once = (action) => cockpit.control(action, {}, ACTIONS[action]);
  const fire = cockpit.control("fire", {}, { ...ACTIONS.fire, label: "Fire a sample" }, { class: "mlt-button mlt-primary" });
  const [pause, resume] = [once("pause"), once("resume")];
  const steer = h("div", { class: "mlt-buttons" }, fire, pause, resume, cockpit.recorder.toggle);
  const node = h("header", { class: "mlt-head" },
    h("div", { class: "mlt-names" }, title, h("div", { class: "mlt-status" }, pill, only, updated)),
    field("Subscription", scope.node, { class: "mlt-field mlt-scope" }), steer);
  return {
    node,
    patch(state) {
      const { talk } = cockpit;
      const one = state.picture.subscriptions.find(({ name }) => name === state.chosen);
      const word = talk.word || (talk.over || !one ? `bus ${state.bus.state}` : one.state);
      put(title, state.bus.title);
      put(pill, `${word}${state.read_only ? ", read-only" : ""}`);
      put(only, state.read_only_why ?? "");
      show(only, Boolean(state.read_only_why));
      mark(pill, "data-live", talk.live ? liveness(one?.state ?? "open") : "off");
      const at = talk.word ? talk.heardAt ?? (state.at ? new Date(state.at) : null) : state.at ? new Date(state.at) : null;
      if (!talk.live) put(updated, at ? `last updated ${day(at)} ${clock(at)}` : "");
      show(updated, !talk.live && Boolean(at));
      scope.fill(state.picture.subscriptions.map(({ name }) => name));
      if (document.activeElement !== scope.node) scope.node.value = state.chosen ?? "";
      scope.node.disabled = !talk.live;
      const paused = one?.state === "paused";
      const held = [pause, resume].includes(document.activeElement);
      show(pause, one !== undefined && !paused && !state.read_only);
      show(resume, paused && !state.read_only);
      // The focus goes to the button that took the place of the pressed one.
      if (held) [pause, resume].find(({ hidden }) => !hidden)?.focus();
      show(fire, one !== undefined && !state.read_only);
      show(cockpit.recorder.toggle, !state.read_only);
    },
  };
}

function cockpitOf(model, el) {
  const root = h("section", { class: "mltrigger-cockpit", "aria-label": "mltrigger cockpit" });
  const code = codeLine();
  const said = notices();
  const soon = paced(() => draw());
  let doneUntil = 0;
  let drawnWord = null;
  const cockpit = {
    root,
    talk: new Talk(model, soon),
    get state() { return model.get("state"); },
    get seen() { return eyes.seen; },
    may(action, given = {}) {
      if (!cockpit.talk.live || cockpit.state.read_only) return false;
      // Arguments that name their subscription need none that is chosen.
      const named = given.subscription ?? given.filter?.subscription;
      return (cockpit.state.chosen === null && named !== undefined) || cockpit.state.controls?.[action]?.enabled !== false;
    },
    notice: (text, bad) => said.say(text, bad),
    // The line of what was done stays for a while, also when the pointer happens to be over another button.
    code: (text) => text && performance.now() > doneUntil && code.set(text),
    choose: (subscription) => cockpit.talk.ask("choose", { subscription }).catch((error) => said.say(error.message, true)),
    control: (...given) => buttons.control(...given),
    did(action, value) {
      said.say(value.says?.split("\n")[0] || "Done");
      code.set(value.code);
      doneUntil = performance.now() + DONE_MS;
      cockpit.recorder.did();
      if (["discard", "redrive", "bulk_redrive", "bulk_discard"].includes(action)) parts.get("invocations")?.done();
    },
  };
  const buttons = controls(cockpit);
  cockpit.recorder = recorder(cockpit);
  const head = header(cockpit);
  const bar = tabs(() => draw());
  const parts = new Map();
  const foot = h("footer", { class: "mlt-foot" }, h("span", { class: "mlt-muted" }, "The same in Python"), code.node);
  root.append(head.node, said.node, bar.list, ...bar.panels.map(({ panel }) => panel), cockpit.recorder.node, foot);
  el.append(root);
  const eyes = watched(root, soon);
  code.set("");

  function part(name) {
    if (!parts.has(name)) {
      parts.set(name, TABS.find(([one]) => one === name)[2](cockpit));
      bar.panels.find((one) => one.name === name).panel.append(parts.get(name).node);
    }
    return parts.get(name);
  }

  function draw() {
    const { state } = cockpit;
    // Unseen, only the end of the kernel is drawn: nothing may look alive that is not.
    if (!state?.picture || (!eyes.seen && cockpit.talk.word === drawnWord)) return;
    drawnWord = cockpit.talk.word;
    mark(root, "data-gone", cockpit.talk.live || cockpit.talk.word === `waiting for the ${cockpit.talk.host}` ? "no" : "yes");
    head.patch(state);
    buttons.patch();
    cockpit.recorder.patch();
    mark(root, "aria-label", `mltrigger cockpit, ${state.chosen ? `subscription ${state.chosen}` : state.bus.title}`);
    said.patch(state);
    part(bar.chosen).patch(state);
    show(foot, !code.node.hidden);
  }

  // Keys without a modifier are ours here: JupyterLab would cut cells and run them.
  const isOurs = (event) => !event.ctrlKey && !event.metaKey && !event.altKey;
  root.addEventListener("keydown", (event) => isOurs(event) && event.stopPropagation());
  // Notebook 7 hears keys at the document, before the root does.
  const claim = (event) => root.contains(event.target) && event.target.toggleAttribute("data-lm-suppress-shortcuts", isOurs(event));
  window.addEventListener("keydown", claim, true);
  model.on("change:state", soon);
  bar.choose("overview");
  return () => {
    model.off("change:state", soon);
    window.removeEventListener("keydown", claim, true);
    soon.stop();
    eyes.stop();
    cockpit.talk.stop();
    buttons.stop();
    said.stop();
    for (const one of parts.values()) one.stop?.();
    for (const dialog of root.querySelectorAll("dialog")) dialog.close();
  };
}

function render({ model, el }) {
  return cockpitOf(model, el);
}

export default { render };
