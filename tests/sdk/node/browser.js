// Drives `mixpanel-browser` in headless Chromium, on a page of another origin than the relay's.
//
// A conversation in JSON lines. Each line of standard input is {"evaluate": "<JavaScript>"}, run in the page, or
// {"goto": "page" | "away"}, {"call": "<method of Playwright's Page>", "with": [...]}, {"complaints": true} (what the page's
// console said in anger so far) or {"axe": true} (serious faults of accessibility); each is answered by one line, {"value"}
// or {"error"}. The first line out is {"ready": true}. The page has the SDK loaded and not initialised; it ends with standard
// input.

import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const sdk = readFileSync(new URL("./node_modules/mixpanel-browser/dist/mixpanel.umd.js", import.meta.url));
const axe_source = readFileSync(new URL("./node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const page_html = `<!doctype html><meta charset="utf-8"><title>shop</title><script src="/sdk.js"></script>`;

const shop = createServer((request, response) => {
  const script = request.url === "/sdk.js";
  response.setHeader("content-type", script ? "text/javascript" : "text/html");
  response.end(script ? sdk : page_html);
});
await new Promise((resolve) => shop.listen(0, "127.0.0.1", resolve));
const origin = `http://localhost:${shop.address().port}`;

const profile = mkdtempSync(join(tmpdir(), "mixrelay-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.MIXRELAY_TEST_CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // The page is at localhost, by that name or none.
    "--host-resolver-rules=MAP localhost 127.0.0.1, EXCLUDE 127.0.0.1, MAP * ~NOTFOUND",
  ],
});
const page = context.pages()[0] ?? (await context.newPage());

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const complaints = [];
page.on("pageerror", (error) => {
  complaints.push(error.message);
  process.stderr.write(`page: ${error.message}\n`);
});
page.on("console", (message) => {
  if (message.type() === "error") complaints.push(message.text());
  process.stderr.write(`console: ${message.text()}\n`);
});
page.on("dialog", (dialog) => dialog.accept());

async function axe() {
  await page.evaluate(axe_source);
  const found = await page.evaluate("axe.run()");
  const bad = found.violations.filter((fault) => ["serious", "critical"].includes(fault.impact));
  return bad.map((fault) => `${fault.id}: ${fault.nodes.map((node) => node.html).join(" ")}`);
}

async function obey(command) {
  if (command.goto) {
    await page.goto(command.goto === "page" ? origin : "about:blank");
    return origin;
  }
  if (command.call) {
    const value = await page[command.call](...(command.with ?? []));
    return ["string", "boolean", "number"].includes(typeof value) ? value : null;
  }
  if (command.complaints) return complaints;
  if (command.axe) return axe();
  return page.evaluate(`(async () => { ${command.evaluate} })()`);
}

say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say({ value: (await obey(JSON.parse(line))) ?? null });
  } catch (error) {
    say({ error: String(error) });
  }
}
await context.close();
shop.close();
rmSync(profile, { recursive: true, force: true });
process.exit(0);
