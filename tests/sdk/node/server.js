// Drives npm's `mixpanel` (the SDK for servers) by a plan.
//
// Standard input is {"host": "host:port", "key", "token", "calls": [{"method": "people.set", "args": [...]}]}: each call is
// a method of the client, made when the one before it has been answered. Standard output is {"errors": [...]}, with one
// entry for each call that was answered with an error.

import { readFileSync } from "node:fs";
import Mixpanel from "mixpanel";

const plan = JSON.parse(readFileSync(0, "utf8"));
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };
const client = Mixpanel.init(plan.token, {
  host: plan.host,
  protocol: "http",
  // A service account wants https, which a relay on this machine does not speak.
  key: plan.key,
  verbose: plan.verbose ?? false,
  logger: quiet,
});

function call({ method, args }) {
  const path = method.split(".");
  const name = path.pop();
  const owner = path.reduce((object, part) => object[part], client);
  return new Promise((resolve) => owner[name](...args, resolve));
}

const errors = [];
for (const each of plan.calls) {
  const answered = await call(each);
  for (const error of [answered].flat()) {
    if (error) errors.push(`${each.method}: ${error.message ?? error}`);
  }
}
process.stdout.write(JSON.stringify({ errors }));
process.exit(0);
