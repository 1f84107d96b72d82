// The host of the cockpit: what a notebook's widget is to its view, over HTTP. Texts stay texts.
import cockpit from "./view.js";

const AGAIN_MS = 1000;
const AWAY = "The server does not answer. Start it again, then load this page.";
const place = document.querySelector("#cockpit");
const said = document.querySelector("#said");

class Model {
  constructor() {
    this.values = { state: null, host: "server" };
    this.handlers = new Map();
    this.seat = "";
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
    try {
      const response = await fetch("/v1/cockpit/asks", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ seat: this.seat, id, what, args }),
      });
      answer = await response.json();
      if (!response.ok) answer = { error: answer.detail ?? response.statusText };
    } catch {
      answer = { error: AWAY };
    }
    this.emit("msg:custom", { ...answer, type: "answer", id });
  }
}

const model = new Model();
let drawn = false;

function hear(name, value) {
  if (name === "seat") model.seat = value;
  if (name === "alive") model.emit("msg:custom", { type: "alive" });
  if (name !== "state") return;
  model.set("state", value);
  if (drawn) return model.emit("change:state");
  drawn = true;
  cockpit.render({ model, el: place });
  model.emit("msg:custom", { type: "alive" });
}

// Server-sent events by hand: an EventSource tells no status, and here it says what to do.
async function follow() {
  const response = await fetch(`/v1/cockpit/events?seat=${encodeURIComponent(model.seat)}`);
  if (response.status === 401) return location.reload(); // the page to sign in
  if (!response.ok) throw new Error((await response.json()).detail);
  said.textContent = "";
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

// The ticket is used up: it need not stay in the history.
history.replaceState(null, "", "/v1/cockpit");
for (;;) {
  try {
    await follow();
  } catch (error) {
    said.textContent = error instanceof TypeError ? AWAY : error.message;
  }
  await new Promise((done) => setTimeout(done, AGAIN_MS));
}
