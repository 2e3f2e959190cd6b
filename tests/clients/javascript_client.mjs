// Run by test_javascript_client.py: node javascript_client.mjs CLIENT-FILE URL KEY; prints what happened as one line of JSON.
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [file, url, key] = process.argv.slice(2);
const { Nextoffer } = await import(pathToFileURL(file).href);
const fallback = { offer_page: [{ id: "monthly", payload: { title: "Local" } }, { id: "annual" }] };
const out = {};

function make(base, options = {}) {
  const problems = [];
  const client = new Nextoffer(base, { key, fallback, timeoutMs: 5000, onProblem: (p) => problems.push(p.code), ...options });
  return { client, problems };
}

async function scripted(script) {
  const asked = [];
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (part) => (text += part));
    request.on("end", () => {
      asked.push(JSON.parse(text).id);
      script(response, asked.length);
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { base: `http://127.0.0.1:${server.address().port}`, asked, close: () => (server.closeAllConnections(), server.close()) };
}

{
  const { client, problems } = make(url);
  await client.event("js-visitor", "page_view", "pricing");
  const choice = await client.decide("offer_page", { subject: "js-visitor", features: { visits: 3 }, activated: false });
  out.choice = choice;
  out.activated = await client.activate(choice);
  out.reward = await client.reward(choice, "subscribed");
  out.again = await client.reward(choice.id, "subscribed");
  out.outcome = await client.outcome("js-visitor", "subscribed", 1, { id: "js-invoice" });
  out.same = (await client.decide("offer_page", { subject: "s", id: "js-same" })).offerId ===
    (await client.decide("offer_page", { subject: "s", id: "js-same" })).offerId;
  out.problems = problems;
}
{
  const { client, problems } = make(url);
  const nan = await client.decide("offer_page", { subject: "v", features: { x: NaN } });
  const wrong = await client.decide("offer_page", { subject: "v", features: { x: [1] } });
  out.refused = [nan.source, wrong.source, nan.offerId, ...problems];
}
{
  const { client } = make(url);
  const page = await client.decidePage("offer_page", { subject: "visitor-9", slots: ["hero", "side"] });
  const first = await client.decide("offer_page", { subject: "visitor-9", ttlS: 600 });
  const again = await client.decide("offer_page", { subject: "visitor-9", ttlS: 600, features: { visits: 4 } });
  const machine = await client.decide("offer_page", { subject: "crawler", userAgent: "Googlebot/2.1" });
  const dead = await make("http://127.0.0.1:9").client.decidePage("offer_page", { subject: "v", slots: ["hero", "side"] });
  out.page = {
    offers: new Set(Object.values(page).map((choice) => choice.offerId)).size,
    rewarded: (await client.reward(page.side, "subscribed")).joined,
    kept: first.id === again.id,
    machine: machine.probability,
    person: (await client.identify("visitor-9", "customer-9")).person,
    dead: Object.values(dead).map((choice) => choice.offerId),
  };
}
{
  const { client, problems } = make("http://127.0.0.1:9");
  const first = await client.decide("offer_page", { subject: "v", exclude: ["monthly"] });
  out.dead = [first.source, first.offerId, (await client.reward(first, "subscribed")).status];
  for (let i = 0; i < 5; i += 1) await client.decide("offer_page", { subject: "v" });
  out.circuit = problems.at(-1);
}
{
  const { base, close } = await scripted((response) => setTimeout(() => response.end("{}"), 1000));
  const { client, problems } = make(base, { timeoutMs: 100 });
  const started = performance.now();
  const choice = await client.decide("offer_page", { subject: "v" });
  out.slow = [choice.source, problems[0], performance.now() - started < 600];
  close();
}
{
  const answer = JSON.stringify({ id: "d", offer: { id: "annual", payload: {} }, probability: 1, variant: null, recorded: true });
  out.retries = {};
  for (const status of [502, 503, 504, 500, 429]) {
    const { base, asked, close } = await scripted((response, n) => response.writeHead(n === 1 ? status : 200).end(answer));
    const choice = await make(base).client.decide("offer_page", { subject: "v", id: "d" });
    out.retries[status] = [asked.length, new Set(asked).size, choice.source];
    close();
  }
}
console.log(JSON.stringify(out));
process.exit(0);
