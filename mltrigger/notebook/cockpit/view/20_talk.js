// Talk with the kernel: questions with numbers, answers, and whether anybody is there.

const ASK_MS = 30_000;
const ACT_MS = 600_000;
// The kernel says every two seconds that it is there.
const SILENT_MS = 6000;
const FIRST_MS = 4000;
const OVER = ["closed", "stopped by the store"];
const GONE = { kernel: "The kernel does not answer: run the cell again", server: "The server does not answer: start it again" };

class Talk {
  constructor(model, changed) {
    this.model = model;
    // A page of a server says so. In a notebook it is a kernel.
    this.host = model.get("host") === "server" ? "server" : "kernel";
    this.changed = changed;
    // Saved state looks like a live one, and a restart keeps the page: only what the kernel says by itself proves it.
    this.word = `waiting for the ${this.host}`;
    this.heardAt = null;
    this.waiting = new Map();
    // Another view of the same widget hears these answers, too.
    this.next = Math.floor(Math.random() * 1e9);
    this.handlers = {
      "msg:custom": (content) => this.hear(content),
      "change:state": () => this.alive(),
      comm_live_update: () => this.lose(),
      "comm:close": () => this.lose(),
    };
    for (const [name, handler] of Object.entries(this.handlers)) model.on(name, handler);
    this.wait(FIRST_MS);
  }

  get state() {
    return this.model.get("state");
  }

  get over() {
    return OVER.includes(this.state?.bus?.state);
  }

  // Whether something can be done: a kernel that is there, and a bus that is open.
  get live() {
    return this.word === "" && !this.over;
  }

  // A long action says how far it is. Then it may take longer.
  ask(what, args = {}, limit = ASK_MS, reached = null) {
    if (this.word === `${this.host} gone`) return Promise.reject(new Error(GONE[this.host]));
    const id = (this.next += 1);
    return new Promise((resolve, reject) => {
      const late = () => setTimeout(() => this.end(id, null, `The ${this.host} took too long to answer`), limit);
      this.waiting.set(id, { resolve, reject, late, reached, timer: late() });
      this.model.send({ type: "ask", id, what, args });
    });
  }

  act(action, args = {}, go = false, reached = null) {
    return this.ask("act", { action, args, go }, go ? ACT_MS : ASK_MS, reached);
  }

  hear(content) {
    if (content?.type === "answer") this.end(content.id, content.value, content.error, content.field);
    if (content?.type === "progress") this.reach(content.id, content.done);
    if (["answer", "progress", "alive"].includes(content?.type)) this.alive();
  }

  reach(id, done) {
    const asked = this.waiting.get(id);
    if (!asked) return;
    clearTimeout(asked.timer);
    asked.timer = asked.late();
    asked.reached?.(done);
  }

  end(id, value, error, about = null) {
    const asked = this.waiting.get(id);
    if (!asked) return;
    this.waiting.delete(id);
    clearTimeout(asked.timer);
    if (error) asked.reject(Object.assign(new Error(error), { field: about }));
    else asked.resolve(value ?? {});
  }

  alive() {
    this.heardAt = new Date();
    this.become("");
    if (this.over) clearTimeout(this.timer); // it says no more, and all is said
    else this.wait(SILENT_MS);
  }

  lose() {
    clearTimeout(this.timer);
    this.become(`${this.host} gone`);
  }

  wait(limit) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.lose(), limit);
  }

  become(word) {
    if (this.word === word) return;
    this.word = word;
    if (word === `${this.host} gone`) for (const id of [...this.waiting.keys()]) this.end(id, null, GONE[this.host]);
    this.changed();
  }

  stop() {
    clearTimeout(this.timer);
    for (const [name, handler] of Object.entries(this.handlers)) this.model.off(name, handler);
    for (const { timer } of this.waiting.values()) clearTimeout(timer);
    this.waiting.clear();
  }
}

// -- when to draw -----------------------------------------------------------------------------------------------------

const GAP_MS = 100;

// At most ten times a second, and with the frames of the screen.
function paced(draw) {
  let timer = null;
  let frame = null;
  let last = -Infinity;
  const run = () => {
    frame = null;
    last = performance.now();
    draw();
  };
  const soon = () => {
    if (timer !== null || frame !== null) return;
    timer = setTimeout(() => {
      timer = null;
      frame = requestAnimationFrame(run);
    }, Math.max(0, GAP_MS - (performance.now() - last)));
  };
  soon.stop = () => {
    clearTimeout(timer);
    cancelAnimationFrame(frame);
  };
  return soon;
}

// Whether anybody can see the node: on the screen, in a page that is shown.
function watched(node, changed) {
  let inside = true;
  const observer = new IntersectionObserver((entries) => {
    inside = entries.at(-1).isIntersecting;
    changed();
  });
  observer.observe(node);
  document.addEventListener("visibilitychange", changed);
  return {
    get seen() {
      return inside && !document.hidden;
    },
    stop() {
      observer.disconnect();
      document.removeEventListener("visibilitychange", changed);
    },
  };
}
