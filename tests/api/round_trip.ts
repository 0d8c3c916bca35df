// A round trip with the client that openapi-typescript makes from openapi.yaml: what goes in by /track is found by every
// route that tells of it. Names, parameters and answers are the document's; where one is not, this does not compile.
//
// The arguments are the relay's address, a token of its admin and an API key; standard output is what was found, as JSON.

import createClient from "openapi-fetch";
import type { components, paths } from "./generated/openapi.js";

declare const process: { argv: string[]; stdout: { write(text: string): void } };

const [baseUrl, adminToken, apiKey, projectToken] = process.argv.slice(2) as [string, string, string, string];
const app = createClient<paths>({ baseUrl });
const admin = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${adminToken}` } });
const reader = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${apiKey}` } });

/** The answer's body, when it is a success. */
function given<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (!answer.response.ok || answer.data === undefined) {
    throw new Error(`${answer.response.url}: ${answer.response.status} ${JSON.stringify(answer.error)}`);
  }
  return answer.data;
}

const event: components["schemas"]["Event"] = {
  event: "Purchase",
  properties: { token: projectToken, distinct_id: "typed", $insert_id: "typed-1", time: Date.now(), amount: 12.5 },
};
const stored = given(
  await app.POST("/track", { params: { query: { ip: 0, verbose: 1 } }, body: [event] }),
);
const imported = given(
  await reader.POST("/import", { params: { query: { strict: 1 } }, body: [event] }),
);

const status = given(await admin.GET("/v1/status"));
const trace = given(await admin.GET("/v1/trace", { params: { query: { insert_id: "typed-1", limit: 10 } } }));
const letters = given(await admin.GET("/v1/dead-letters", { params: { query: { destination: "brevo" } } }));
const preview = given(
  await admin.POST("/v1/mapping/preview", {
    body: { recent: 1, mapping: { event_mapping: { Purchase: "bought" } } },
  }),
);
const person = given(await admin.GET("/v1/people/{id}", { params: { path: { id: "typed" } } }));
const cohorts = given(
  await reader.GET("/events/names", { params: { query: { type: "general", limit: 5 } } }),
);
const unknown = await admin.GET("/v1/backfills/{id}", { params: { path: { id: "none" } } });
const refused = await app.GET("/v1/status");

// The document's types have teeth.
// @ts-expect-error: there is no such parameter.
void (() => admin.GET("/v1/trace", { params: { query: { insertId: "typed-1" } } }));
// @ts-expect-error: a range is needed.
void (() => reader.GET("/segmentation", { params: { query: { event: "Purchase" } } }));
// @ts-expect-error: there is no such action.
void (() => admin.POST("/v1/dead-letters/bury", {}));

process.stdout.write(
  JSON.stringify({
    stored,
    imported,
    accepted: status.accepted,
    destinations: status.destinations?.map((destination) => destination.destination),
    traced: trace.items.map((item) => item.record),
    ids: trace.distinct_ids,
    letters: letters.items.length,
    differing: preview.differing,
    person: person.ids,
    names: cohorts,
    unknown: unknown.response.status,
    refused: refused.error?.error.code,
  }),
);
