// The host of the cockpit: what a notebook's widget is to its view, over HTTP. Texts stay texts.
import cockpit from "./view.js";

const AGAIN_MS = 1000;
const MOST_AGAIN_MS = 10_000;
// A page that nobody sees costs nothing, and leaves its connection to others: a browser has six for one server.
const UNSEEN_MS = 10_000;
const AWAY = "The server does not answer. This page tries again by itself. After mltrigger dashboard was started again, open its new address.";
const place = document.querySelector("#cockpit");
const said = document.querySelector("#said");

class Model {
  constructor() {
    this.values = { state: null, host: "server" };
    this.handlers = new Map();
    this.seat = "";
    this.pending = 0;
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.values[name] = value;
  }

  save_changes() {}

  on(name, handler) {
    this.handlers.set(name, [...(this.handlers.get(name) ?? []), handler]);
  }

  off(name, handler) {
    this.handlers.set(name, (this.handlers.get(name) ?? []).filter((one) => one !== handler));
  }

  emit(name, content) {
    for (const handler of this.handlers.get(name) ?? []) handler(content);
  }

  async send(message) {
    const { id, what, args } = message;
    let answer;
    this.pending += 1;
    try {
      const response = await fetch("/v1/cockpit/asks", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ seat: this.seat, id, what, args }),
      });
      answer = await response.json();
      if (!response.ok) answer = { error: answer.detail ?? response.statusText };
    } catch {
      // Who does not answer is not there: each question ends so.
      this.pending -= 1;
      return this.emit("comm:close");
    }
    this.pending -= 1;
    this.emit("msg:custom", { ...answer, type: "answer", id });
  }
}

const model = new Model();
let drawn = false;
let waits = AGAIN_MS;
let following = new AbortController();

function sit(seat) {
  const chosen = model.seat && model.seat !== seat ? model.get("state")?.chosen : null;
  model.seat = seat;
  if (chosen) model.send({ id: -1, what: "choose", args: { subscription: chosen } });
}

function hear(name, value) {
  if (name === "seat") sit(value);
  if (name === "alive" || name === "progress") model.emit("msg:custom", { ...value, type: name });
  if (name !== "state") return;
  model.set("state", value);
  if (drawn) return model.emit("change:state");
  drawn = true;
  cockpit.render({ model, el: place });
  model.emit("msg:custom", { type: "alive" });
}

// Server-sent events by hand: an EventSource tells no status, and here it says what to do.
async function follow(signal) {
  const response = await fetch(`/v1/cockpit/events?seat=${encodeURIComponent(model.seat)}`, { signal });
  if (response.status === 401) return location.reload(); // the page to sign in
  if (!response.ok) throw new Error((await response.json()).detail);
  said.textContent = "";
  waits = AGAIN_MS;
  let rest = "";
  for await (const part of read(response.body.getReader())) {
    const events = (rest + part).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
      hear(fields.event, JSON.parse(fields.data));
    }
  }
  throw new Error(AWAY);
}

async function* read(reader) {
  const decoder = new TextDecoder();
  for (let one = await reader.read(); !one.done; one = await reader.read()) yield decoder.decode(one.value, { stream: true });
}

function seen() {
  return document.hidden ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })) : null;
}

let unseen;
function leave() {
  // what was asked is waited for
  if (document.hidden && model.pending === 0) following.abort();
  else if (document.hidden) unseen = setTimeout(leave, UNSEEN_MS);
}
document.addEventListener("visibilitychange", () => {
  clearTimeout(unseen);
  if (document.hidden) unseen = setTimeout(leave, UNSEEN_MS);
});

// The ticket is used up: it need not stay in the history.
history.replaceState(null, "", "/v1/cockpit");
for (;;) {
  following = new AbortController();
  try {
    await follow(following.signal);
  } catch (error) {
    if (following.signal.aborted) {
      await seen();
      continue;
    }
    said.textContent = error instanceof TypeError ? AWAY : error.message;
  }
  await new Promise((done) => setTimeout(done, waits));
  waits = Math.min(2 * waits, MOST_AGAIN_MS);
}
