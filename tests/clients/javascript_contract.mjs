// Which requests the client makes and which fields of the answers it reads; called with its file and two answers.
const [file, decision, page] = process.argv.slice(2);
const { Nextoffer } = await import(file);
const calls = [];
let read = [];

function recorder(content, path) {
  return new Proxy(content, {
    get(target, name) {
      const value = target[name];
      if (typeof name === "symbol" || typeof value === "function") return value;
      const inner = Array.isArray(target) ? "*" : name;
      if (name !== "length" && name !== "then") read.push([...path, inner]);
      return value !== null && typeof value === "object" ? recorder(value, [...path, inner]) : value;
    },
  });
}

const parse = JSON.parse;
globalThis.fetch = async (url, { method, body }) => {
  read = [];
  calls.push({ method, path: new URL(url).pathname, body: body === undefined ? null : parse(body), read });
  const answer = body !== undefined && "slots" in parse(body) ? page : decision;
  JSON.parse = (text) => recorder(parse(text), []);
  return { status: 200, text: async () => answer };
};
const client = new Nextoffer("http://127.0.0.1:9", { key: "k" });
const choice = await client.decide("p", { subject: "u", features: { x: 1, t: "a", b: true, n: null }, exclude: ["a"] });
await client.decide("p", { subject: "u", ttlS: 60, userAgent: "Firefox" });
await client.decidePage("p", { subject: "u", slots: ["hero", "side"] });
await client.reward(choice, "subscribed", 1, { id: "r1" });
await client.outcome("u", "subscribed", 2, { at: "2026-01-31T00:00:00Z" });
await client.event("u", "page_view", "pricing");
await client.activate(choice);
await client.identify("u", "customer-7");
console.log(JSON.stringify(calls));
