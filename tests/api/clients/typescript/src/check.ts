// Uses the generated client as a program does. The compiler checks the types of a model version.
import { client } from "./client/client.gen.js";
import { invokePagesV1X0X0, outcomes, publish, ticket } from "./client/sdk.gen.js";

const [url, token] = process.argv.slice(2);
client.setConfig({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });

const published = await publish({
  path: { topic: "books" },
  body: { page: 2 },
  headers: { Prefer: "wait=10", "Idempotency-Key": "ts-1" },
});
if (published.error) throw new Error(JSON.stringify(published.error));

const answer = await invokePagesV1X0X0({ body: { page: 3 } });
const pages: string[] = answer.data!.output;

const refused = await invokePagesV1X0X0({ body: { page: 0 } });

const page = await outcomes({ path: { name: "reader" }, query: { limit: 10 } });

const opened = await ticket({ body: { path: "/v1/subscriptions/shelf/outcomes" } });
const stream = await fetch(url + opened.data!.url, { headers: { Accept: "text/event-stream" } });
console.log("open");
const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader();
let text = "";
while (!text.includes('"output": ["')) text += (await reader.read()).value ?? "";
await reader.cancel();

console.log(
  JSON.stringify({
    pages,
    refused: (refused.error as { reason?: string }).reason,
    outcomes: page.data!.outcomes.map((each) => each.output),
    streamed: /"output": (\[[^\]]*\])/.exec(text)![1],
  }),
);
