// A kernel in the page: answers the cockpit from numbers alone, so that the view can be tested without Python.

const OUTPUTS = ["invoice, 3 pages, total 1,204.00 EUR", "receipt, 1 page", "letter, 2 pages, no total"];

function drawnPage() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 180];
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, 320, 180);
  pen.fillStyle = "#223";
  pen.font = "16px sans-serif";
  ["Invoice 2026-117", "3 pages", "total 1,204.00 EUR"].forEach((line, i) => pen.fillText(line, 24, 44 + 34 * i));
  return canvas.toDataURL("image/png");
}

export class FakeKernel {
  constructor({ rows = 1_000_000, hostile = "", start = Date.UTC(2026, 0, 5, 9, 30), chosen = null, readOnly = false } = {}) {
    Object.assign(this, { total: rows, hostile, start, handlers: {}, sent: [], acted: [], errors: {}, recorded: [], alive: true, paused: false });
    this.state = this.made(chosen, readOnly);
    this.beat = setInterval(() => this.alive && this.emit("msg:custom", { type: "alive" }), 2000);
    setTimeout(() => this.emit("msg:custom", { type: "alive" }), 0);
  }

  text(plain) { return this.hostile ? `${this.hostile} ${plain}` : plain; }
  at(i) { return new Date(this.start + i * 37).toISOString(); }

  made(chosen, readOnly) {
    const t = (text) => this.text(text);
    const wave = (scale, shift) => Array.from({ length: 60 }, (_, i) => Math.round(scale * (40 + 18 * Math.sin((i + shift) / 6) + 7 * Math.sin(i * 1.7))));
    const ecdf = (stage, version, middle) => {
      const share = Array.from({ length: 64 }, (_, i) => (i + 1) / 64);
      return { stage, version, count: 5000, share, ms: share.map((p) => middle * Math.exp(0.55 * Math.log(p / (1.0001 - p)))) };
    };
    const versions = ["1.4.0", "1.5.0"].map(t);
    const stages = [["queue", 3.1], ["model", 41], ["total", 47]];
    const sub = (name, topic, more = {}) => ({
      name: t(name), topic: t(topic), state: "listening", versions: [{ version: versions[0], role: "serving", share: 1 }], waiting: 0, delayed: 0,
      in_flight: 0, oldest_s: null, dead: 0, done: 12000, per_s: 18, emits: [], ...more,
    });
    return {
      at: this.at(this.total), notice: "", outage: "", alive: true, read_only: readOnly,
      bus: { title: t("sqlite file mltrigger.db"), state: "open" }, chosen,
      picture: {
        topics: [["scans", 128_402, 62.5], ["pages", 128_377, 61.9], ["documents", 128_110, 60.2], ["invoices", 41_003, 19.4]].map(([name, events, per_s]) => ({ name: t(name), events, per_s })),
        subscriptions: [
          sub("split", "scans", { emits: [t("pages")], done: 128_399, per_s: 62.4, in_flight: 3 }),
          sub("ocr", "pages", {
            emits: [t("documents")], waiting: 214, in_flight: 16, delayed: 5, dead: 37, oldest_s: 3.4, done: 128_105, per_s: 60.1,
            versions: [{ version: versions[0], role: "serving", share: 0.75 }, { version: versions[1], role: "canary", share: 0.25 }],
          }),
          sub("classify", "documents", { emits: [t("invoices")], done: 128_031, versions: [{ version: "2.0.0", role: "serving", share: 1 }, { version: "2.1.0", role: "shadow", share: 1 }] }),
          sub("archive", "documents", { state: "paused", waiting: 1204, oldest_s: 722, done: 126_906, per_s: 0 }),
          sub("book", "invoices", { done: 41_003, per_s: 19.4 }),
        ],
      },
      counts: { succeeded: 1_128_105, dead: 37, skipped: 12 }, attempts: { failed: 212, abandoned: 3 },
      depth: { waiting: 214, delayed: 5, in_flight: 16, dead: 37, oldest_s: 3.4 },
      throughput: { step_s: 5, start: this.at(0), versions: { [versions[0]]: wave(5, 0), [versions[1]]: wave(1.7, 9) }, failed: wave(0.08, 3) },
      latency: {
        ecdf: stages.flatMap(([stage, ms]) => versions.map((version, i) => ecdf(stage, version, ms * (i ? 0.72 : 1)))),
        table: stages.flatMap(([stage, ms]) => versions.map((version) => ({ stage, version, count: 5000, p50_ms: ms, p95_ms: ms * 4.4, p99_ms: ms * 9, max_ms: ms * 123.4 }))),
        over_time: { start: this.at(0), step_s: 5, versions: Object.fromEntries(versions.map((version, i) => [version, {
          p50_ms: wave(1.1 - 0.3 * i, 2).map((n, j) => (j % 23 === 7 ? null : n)), p95_ms: wave(3.6 - i, 5).map((n, j) => (j % 23 === 7 ? null : n)) }])) },
      },
      log: { rows: this.total, generation: 1 },
      controls: {}, names: { versions, topics: ["scans"], reasons: ["model_error", "timeout"], roles: ["live", "shadow"], outcomes: ["succeeded", "failed", "dead"], bindings: [{ number: 1, label: "binding 1: 1.4.0" }] },
    };
  }

  // -- the model of anywidget
  get(name) { return name === "state" ? this.state : undefined; }
  on(name, handler) { (this.handlers[name] ??= new Set()).add(handler); }
  off(name, handler) { this.handlers[name]?.delete(handler); }
  emit(name, value) { for (const handler of [...(this.handlers[name] ?? [])]) handler(value); }
  change(patch) {
    this.state = { ...this.state, ...patch };
    this.emit("change:state");
  }

  grow(n) {
    this.total += n;
    this.change({ log: { rows: this.total, generation: this.state.log.generation + 1 } });
  }

  send({ id, what, args }) {
    this.sent.push({ what, args });
    this.lastId = id;
    if (!this.alive) return;
    // A long action says how far it is, and ends when the test lets it.
    if (this.slow && args.go) return void this.emit("msg:custom", { type: "progress", id, done: this.slow });
    setTimeout(() => {
      try {
        this.emit("msg:custom", { type: "answer", id, value: this.answer(what, args) });
      } catch (error) {
        this.emit("msg:custom", { type: "answer", id, error: error.message, field: error.field });
      }
    }, 5);
  }

  answer(what, args) {
    if (this.errors[what]) throw new Error(this.errors[what]);
    if (what === "choose") this.change({ chosen: args.subscription });
    if (what === "rows") return this.rows(args);
    if (what === "row") return this.row(args);
    if (what === "compare") return this.compare(args);
    if (what === "act") return this.act(args);
    if (what === "recorded") return { code: this.recorded.join("\n") };
    return {};
  }

  one(i) {
    const dead = i % 29 === 3;
    const failed = i % 17 === 5;
    return {
      row: i, seq: i, attempt: dead ? 5 : failed ? 1 : i % 13 === 0 ? 2 : 1, subscription: this.text("ocr"), event: this.text(`{"page": ${i}, "key": "scans/2026/${i}.png"}`),
      event_id: `e-${i}`, version: this.state.names.versions[i % 4 === 0 ? 1 : 0], role: i % 31 === 0 ? "shadow" : "live", outcome: dead ? "dead" : failed ? "failed" : "succeeded",
      reason: dead ? "model_error" : null, key: null, started: this.at(i), queue_ms: 2.2 + (i % 90), model_ms: i % 101 === 0 ? 12_345.6 : 41 + (i % 57), total_ms: i % 101 === 0 ? 3_912_345 : 47 + (i % 130),
      output: dead || failed ? null : this.text(OUTPUTS[i % 3]), error: dead ? this.text("ValueError: no text on this page") : failed ? this.text("ConnectionError: refused") : null,
    };
  }

  rows({ filter, before, after, limit }) {
    const fits = (row) => !filter.outcome || row.outcome === filter.outcome;
    const rows = [];
    if (after != null) {
      let j = after === 0 ? 0 : after + 1;
      for (; rows.length < limit && j < this.total; j += 1) if (fits(this.one(j))) rows.unshift(this.one(j));
      return { rows, next: j < this.total ? j - 1 : null, count: null, count_is: "at least", code: "" };
    }
    let i = before ?? this.total;
    while (rows.length < limit && i > 0) {
      i -= 1;
      const row = this.one(i);
      if (fits(row)) rows.push(row);
    }
    const counted = filter.outcome === "dead" ? Math.floor(this.total / 29) : this.total;
    return { rows, next: i > 0 ? i : null, count: counted, count_is: filter.text ? "at least" : "exact", code: `sub.invocations(${Object.entries(filter).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ")})` };
  }

  row({ seq }) {
    const row = this.one(seq);
    return {
      payload: this.text(`{"page": ${seq}, "key": "scans/2026/${seq}.png", "lines": ["first", "second"]}`), media_type: this.hostile ? "text/plain" : "application/json",
      image: drawnPage(),
      output: row.output, error: row.error, traceback: row.error && `Traceback (most recent call last):\n  File "ocr.py", line 12, in read\n${row.error}`, printed: this.text("read 3 lines\n"),
      attempts: Array.from({ length: row.attempt }, (_, i) => ({ attempt: i + 1, version: row.version, outcome: i + 1 === row.attempt ? row.outcome : "failed", reason: null, started: this.at(seq + i), queue_ms: 3, model_ms: 41.5, total_ms: 1047.2, worker: this.text("host/4711") })),
      trace: [["scans", "split", 0, 2, 30, 0, "succeeded"], ["pages", "ocr", 34, 3, 120, 1, row.outcome], ["documents", "classify", 160, 8, 44, 2, "succeeded"], ["documents", "archive", 160, 90, 10, 2, "succeeded"]].map(([topic, subscription, start_ms, queue_ms, model_ms, depth, outcome]) =>
        ({ topic: this.text(topic), event_id: "e", subscription: this.text(subscription), version: "1.4.0", outcome, start_ms, queue_ms, model_ms, depth })),
      explain: [{ step: "filter", answer: this.text("kind = \"page\" matches") }, { step: "version", answer: "1.4.0 serves this event" }],
      dead: row.outcome === "dead", in_all: { attempts: 1234, trace: 4, explain: 2 }, image_note: "", edited: this.edited ?? null, hidden: "",
      actions: row.outcome === "dead" ? ["redrive", "dry_run", "fire", "discard", "export_case"] : ["dry_run", "fire", "export_case"],
    };
  }

  compare({ old, new: fresh }) {
    return {
      verdict: this.text("SHIP: 1.5.0 agrees, and is faster"), arithmetic: [this.text("agreement: 4,482 of 4,975, at least 89.2 % (95 %)"), "errors: 0.7 % against 0.8 %, p = 0.62", "model time, p95: 132 ms against 181 ms"],
      counts: { pairs: 5000, same: 4482, flip: 493, not_comparable: 0, new_failed: 20, old_failed: 5, both_failed: 0, unfinished: 0, missing_new: 12, missing_old: 0 }, flips_in_all: 518, slices_in_all: 7,
      flips: Array.from({ length: 130 }, (_, i) => ({ seq: i, event: this.text(`scans/2026/${i}.png`), old_output: this.text(`{"kind": "invoice", "total": "1,204.0${i % 10}", "language": "de"}`), new_output: this.text(`{"kind": "receipt", "total": "1,204.00", "language": "de"}`), worse: 1 - i / 130, slice: this.text(["de", "fr", "en"][i % 3]) })),
      slices: ["de", "fr", "en"].map((slice, i) => ({ slice: this.text(slice), n: 3000 - 1200 * i, agree: 0.981 - 0.02 * i, interval: [0.96 - 0.02 * i, 0.99 - 0.01 * i] })),
      code: `sub.compare(${JSON.stringify(old)}, ${JSON.stringify(fresh)})`,
    };
  }

  act({ action, args, go }) {
    if (this.errors[action]) throw new Error(this.errors[action]);
    const filter = args.filter ?? {};
    const number = action.startsWith("bulk") ? this.rows({ filter, before: null, limit: 0 }).count : action === "replay" ? 5000 : null;
    const given = Object.entries(args).filter(([name]) => !["filter", "seq", "subscription"].includes(name)).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ");
    const code = `sub.${action}(${given})`;
    if (args.guard?.errors != null && args.guard.errors < 1) throw Object.assign(new Error("write a number from 1 on, or None"), { field: "guard.errors" });
    if (action === "discard" && !args.reason) throw new Error("write a reason: it is kept in the record");
    if (go) {
      this.acted.push({ action, args });
      this.recorded.push(code);
      if (action === "pause" || action === "resume") {
        this.change({ picture: { ...this.state.picture, subscriptions: this.state.picture.subscriptions.map((one) => (one.name === this.state.chosen ? { ...one, state: action === "pause" ? "paused" : "listening" } : one)) } });
      }
    }
    const bound = action.startsWith("bulk") || (action === "replay" && args.filter) ? { up_to: this.total } : {};
    const trial = go && action === "dry_run" ? { version: `ocr:${args.version}`, output: this.text('{"kind": "receipt", "n": 1}'), error: "", recorded: this.text('{"kind": "invoice", "n": 1}'), recorded_error: "", is_recorded: true } : null;
    return { trial, code, bound, number_is: this.numberIs ?? "exact", says: this.text(go ? `${action} is done` : `${action} will be done${action === "promote" ? "\nSHIP: all rules are shown" : ""}`), number, needs_confirmation: true, done: go };
  }
}
