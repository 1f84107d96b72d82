// fauxqs on loopback only, with a log of the requests that it served: every client is counted in the same place.
// node fauxqs.mjs <path of fauxqs' app.js> <region>; prints its address, and ends when its standard input does.
import { pathToFileURL } from "node:url";

const { buildApp } = await import(pathToFileURL(process.argv[2]).href);
const app = buildApp({ logger: false, defaultRegion: process.argv[3] });

let log;
let waiting = [];

function forget() {
  // sent and deleted count messages, received counts requests
  log = { requests: {}, refused: 0, sent: 0, received: 0, deleted: 0, first_receive_ms: null, last_delete_ms: null };
}

function notify() {
  const reached = waiting.filter((one) => log[one.what] >= one.count);
  waiting = waiting.filter((one) => !reached.includes(one));
  for (const one of reached) one.answer({ ...log });
}

function action(request) {
  const target = request.headers["x-amz-target"];
  if (target) return target.split(".").pop();
  return typeof request.body?.Action === "string" ? request.body.Action : `S3.${request.method}`;
}

function entries(body, name) {
  if (Array.isArray(body?.Entries)) return body.Entries.length; // SQS, JSON
  if (!name.endsWith("Batch")) return 1;
  return Object.keys(body ?? {}).filter((key) => /^PublishBatchRequestEntries\.member\.\d+\.Id$/.test(key)).length; // SNS, form
}

forget();

app.addHook("preHandler", (request, _reply, done) => {
  if (!request.url.startsWith("/_")) {
    request.action = action(request);
    log.requests[request.action] = (log.requests[request.action] ?? 0) + 1;
    if (request.action === "ReceiveMessage") {
      log.received += 1;
      log.first_receive_ms ??= performance.now();
      notify();
    }
  }
  done();
});

app.addHook("onResponse", (request, reply, done) => {
  const name = request.action ?? "";
  if (name && reply.statusCode >= 400) log.refused += 1;
  else if (/^(Publish|SendMessage)/.test(name)) log.sent += entries(request.body, name);
  else if (/^DeleteMessage/.test(name)) {
    log.deleted += entries(request.body, name);
    log.last_delete_ms = performance.now();
    notify();
  }
  done();
});

app.get("/_bench/log", async () => log);
app.post("/_bench/forget", async () => {
  forget();
  return {};
});
// Answers once it has counted so many, or after some time: nobody has to ask again and again while it is measured.
app.get("/_bench/until/:what/:count/within/:ms", (request) => {
  return new Promise((answer) => {
    const one = { what: request.params.what, count: Number(request.params.count), answer };
    waiting.push(one);
    setTimeout(() => {
      waiting = waiting.filter((other) => other !== one);
      answer({ ...log });
    }, Number(request.params.ms)).unref();
    notify();
  });
});

console.log(await app.listen({ port: 0, host: "127.0.0.1" }));
process.stdin.resume().on("end", () => process.exit(0)); // whoever started it has gone
