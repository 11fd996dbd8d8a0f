// A receiver of events: checks who sent each one, and prints it once.
// WEBHOOK_SECRET=whsec_… node receiver.mjs 9000
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const key = Buffer.from(process.env.WEBHOOK_SECRET.replace("whsec_", ""), "base64");
const seen = new Set(); // yours: a table with a unique key, written in the transaction of the work

function isGenuine(headers, body) {
  const content = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`;
  const signature = Buffer.from("v1," + createHmac("sha256", key).update(content).update(body).digest("base64"));
  return (headers["webhook-signature"] ?? "") // several while a key changes
    .split(" ")
    .map((given) => Buffer.from(given))
    .some((given) => given.length === signature.length && timingSafeEqual(given, signature));
}

async function receive(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks); // the bytes as they came
  const age = Math.abs(Date.now() / 1000 - Number(request.headers["webhook-timestamp"]));
  const genuine = age < 300 && isGenuine(request.headers, body); // a clock may be wrong
  if (genuine && !seen.has(request.headers["webhook-id"])) {
    const event = JSON.parse(body);
    console.log(event.type, event.referenceNumber ?? "");
    seen.add(request.headers["webhook-id"]);
  }
  response.writeHead(genuine ? 204 : 401).end();
}

createServer((request, response) => {
  receive(request, response).catch(() => request.destroy()); // a sender that broke off
}).listen(Number(process.argv[2]), "127.0.0.1");
