//! What the apps send: five people at a small shop, each through another SDK, and what should come of it. Pure.

use serde_json::{Value, json};

use super::sdk::{self, Request};
use crate::clock::UnixMillis;
use crate::sandbox::SandboxConfig;

/// One request and the answer that its SDK takes for success, or for the reason of a refusal.
pub struct Step {
    pub sdk: &'static str,
    pub what: &'static str,
    pub request: Request,
    pub answer: Answer,
    pub accepted: Accepted,
}

/// What the SDK looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Exactly `1` (Node) or a 200 (mobile).
    One,
    /// `{"error":null,"status":1}`.
    Verbose,
    /// `{"error":<reason>,"status":0}`.
    Refused(&'static str),
}

/// Records of a step that the relay takes, by published kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub event: u64,
    pub profile: u64,
    pub group: u64,
}

const EVENT: Accepted = Accepted { event: 1, profile: 0, group: 0 };
const PROFILE: Accepted = Accepted { event: 0, profile: 1, group: 0 };
const GROUP: Accepted = Accepted { event: 0, profile: 0, group: 1 };

const fn events(count: u64) -> Accepted {
    Accepted { event: count, profile: 0, group: 0 }
}

/// Who should be a contact at Brevo in the end, with their events there in order.
pub const EXPECTED_CONTACTS: [(&str, &[&str]); 5] = [
    ("ada@example.com", &["customer_created", "order_completed"]),
    ("grace@example.com", &["customer_created", "order_completed", "order_completed"]),
    ("katherine@example.com", &["customer_created", "order_completed"]),
    ("radia@example.com", &["customer_created", "order_completed"]),
    ("alan@example.com", &["customer_created"]),
];

/// What should wait for Brevo in the end: the guest's order, and the `$add`.
pub const EXPECTED_PARKED: u64 = 2;
/// What Mixpanel should have refused: the order of `undefined`.
pub const EXPECTED_DEAD_LETTERS: u64 = 1;

/// The event that is followed through: the Swift SDK's, which comes without an `$insert_id`.
pub const FOLLOWED_EVENT: &str = "Purchase";
pub const FOLLOWED_EVENT_ID: &str = "9d1f7c52e8b04a36";
pub const FOLLOWED_EMAIL: &str = "radia@example.com";
pub const FOLLOWED_AT_BREVO: &str = "order_completed";

const ADA_DEVICE: &str = "19aa6f0c2d1e4b-0f3a5c7d9e1b2d4f";
const GUEST_DEVICE: &str = "c3f6a9d2-5b1e-4f70-8a3c-2e9d4b7f6a10";

pub fn story(accounts: &SandboxConfig, now: UnixMillis) -> Vec<Step> {
    let teller = Teller { token: &accounts.mixpanel.project_token, now };
    let mut steps = teller.browser();
    steps.extend(teller.node());
    steps.extend(teller.python(accounts));
    steps.extend(teller.swift());
    steps.extend(teller.android());
    steps
}

struct Teller<'a> {
    token: &'a str,
    now: UnixMillis,
}

fn step(sdk: &'static str, what: &'static str, request: Request, answer: Answer, accepted: Accepted) -> Step {
    Step { sdk, what, request, answer, accepted }
}

impl Teller<'_> {
    fn seconds(&self) -> f64 {
        self.now.0 as f64 / 1000.0
    }

    /// An event with the properties that its SDK adds.
    fn event(&self, name: &str, own: Value, sdk: Value) -> Value {
        let mut properties = json!({ "token": self.token });
        for part in [own, sdk] {
            if let (Some(all), Value::Object(part)) = (properties.as_object_mut(), part) {
                all.extend(part);
            }
        }
        json!({ "event": name, "properties": properties })
    }

    fn profile(&self, distinct_id: &str, operator: &str, operand: Value) -> Value {
        json!({ "$token": self.token, "$distinct_id": distinct_id, operator: operand })
    }

    /// mixpanel-js: seconds with a fraction, an `$insert_id` of its own, the device beside the user.
    fn browser(&self) -> Vec<Step> {
        const SDK: &str = "Browser";
        let js = |insert_id: &str| {
            json!({ "mp_lib": "web", "$lib_version": "2.82.1", "$browser": "Chrome", "$device_id": ADA_DEVICE,
                "$insert_id": insert_id, "time": self.seconds() })
        };
        let anonymous = format!("$device:{ADA_DEVICE}");
        let page = |url: &str, id: &str, insert_id: &str| {
            self.event("Page View", json!({ "distinct_id": id, "$current_url": url }), js(insert_id))
        };
        let known = json!({ "distinct_id": "ada", "$user_id": "ada" });
        let with = |own: Value| {
            let mut all = known.clone();
            if let (Some(all), Value::Object(own)) = (all.as_object_mut(), own) {
                all.extend(own);
            }
            all
        };
        let bought = self.event("Purchase", with(json!({ "amount": 49.9, "currency": "EUR" })), js("k3v9q0z1xw7t2m4b"));
        let send = |records: Value| sdk::browser("/track", &records, self.now.0);
        let left = self.event("Page View", with(json!({ "$current_url": "/thanks" })), js("a8d2f6h0j4l8n2p6"));
        vec![
            step(
                SDK,
                "Ada looks around; nobody knows her yet",
                send(json!([page("/", &anonymous, "f1g2h3j4k5l6m7n8"), page("/tea", &anonymous, "f2g3h4j5k6l7m8n9"),])),
                Answer::Verbose,
                events(2),
            ),
            step(
                SDK,
                "Ada signs up: $identify and Sign Up",
                send(json!([
                    self.event("$identify", with(json!({ "$anon_distinct_id": anonymous })), js("q1w2e3r4t5y6u7i8")),
                    self.event("Sign Up", with(json!({ "plan": "pro" })), js("q2w3e4r5t6y7u8i9")),
                ])),
                Answer::Verbose,
                events(2),
            ),
            step(
                SDK,
                "her profile",
                sdk::browser(
                    "/engage",
                    &json!([self.profile(
                        "ada",
                        "$set",
                        json!({ "$email": "ada@example.com", "$first_name": "Ada", "plan": "pro" })
                    )]),
                    self.now.0,
                ),
                Answer::Verbose,
                PROFILE,
            ),
            step(SDK, "Ada buys", send(json!([bought])), Answer::Verbose, EVENT),
            step(SDK, "the same batch again: the answer was lost", send(json!([bought])), Answer::Verbose, EVENT),
            step(
                SDK,
                "she leaves: a beacon on page hide",
                sdk::beacon("/track", &json!([left]), self.now.0),
                Answer::Verbose,
                EVENT,
            ),
        ]
    }

    /// mixpanel-node: neither a time nor an `$insert_id`.
    fn node(&self) -> Vec<Step> {
        const SDK: &str = "Node";
        let node = |name: &str, id: &str, own: Value| {
            self.event(name, own, json!({ "mp_lib": "node", "$lib_version": "0.21.0", "distinct_id": id }))
        };
        let company = json!({ "$token": self.token, "$group_key": "company_id", "$group_id": "acme",
            "$set": { "$name": "Acme", "industry": "tea" } });
        vec![
            step(
                SDK,
                "the backend signs Grace up",
                sdk::node("/track", &node("Sign Up", "grace", json!({ "plan": "free" }))),
                Answer::One,
                EVENT,
            ),
            step(
                SDK,
                "her profile",
                sdk::node(
                    "/engage",
                    &self.profile(
                        "grace",
                        "$set",
                        json!({ "$email": "Grace@Example.com", "$first_name": "Grace", "plan": "free",
                            "signup_date": "2026-11-02" }),
                    ),
                ),
                Answer::One,
                PROFILE,
            ),
            step(
                SDK,
                "two orders, and one of identify(undefined)",
                sdk::node_batch(
                    "/track",
                    &json!([
                        node("Purchase", "grace", json!({ "amount": 12, "currency": "EUR" })),
                        node("Purchase", "undefined", json!({ "amount": 5, "currency": "EUR" })),
                        node("Purchase", "grace", json!({ "amount": 30, "currency": "EUR" })),
                    ]),
                ),
                Answer::One,
                events(3),
            ),
            step(SDK, "a group: her company", sdk::node("/groups", &company), Answer::One, GROUP),
        ]
    }

    /// The Python SDK: seconds with a fraction and a UUID as `$insert_id`.
    fn python(&self, accounts: &SandboxConfig) -> Vec<Step> {
        const SDK: &str = "Python";
        let python = |insert_id: &str, time: f64| {
            json!({ "mp_lib": "python", "$lib_version": "5.3.0", "distinct_id": "katherine", "time": time,
                "$insert_id": insert_id })
        };
        let now = self.seconds();
        let account = &accounts.mixpanel;
        let yesterday = self.event(
            "Purchase",
            json!({ "amount": 120, "currency": "EUR" }),
            python("5a0d2f6c8b1e4d7390c5a8e2f4b6d801", now - 86_400.0),
        );
        let nameless = json!({ "event": "Purchase", "properties": { "distinct_id": "katherine", "amount": 1 } });
        vec![
            step(
                SDK,
                "a job signs Katherine up",
                sdk::python(
                    "/track",
                    &self.event("Sign Up", json!({ "plan": "pro" }), python("0b7e4c1d9f3a48e5b6d2c8f0a1e3d5b7", now)),
                ),
                Answer::Verbose,
                EVENT,
            ),
            step(
                SDK,
                "her profile",
                sdk::python(
                    "/engage",
                    &self.profile(
                        "katherine",
                        "$set",
                        json!({ "$email": "katherine@example.com", "$first_name": "Katherine", "plan": "pro" }),
                    ),
                ),
                Answer::Verbose,
                PROFILE,
            ),
            step(
                SDK,
                "yesterday's order, imported",
                sdk::python_import(&account.project_id, &account.service_account, &account.service_secret, &yesterday),
                Answer::Verbose,
                EVENT,
            ),
            step(
                SDK,
                "$add to what she has spent",
                sdk::python("/engage", &self.profile("katherine", "$add", json!({ "total_revenue": 120 }))),
                Answer::Verbose,
                PROFILE,
            ),
            step(
                SDK,
                "a record without a token",
                sdk::python("/track", &nameless),
                Answer::Refused("token, missing or empty"),
                Accepted::default(),
            ),
        ]
    }

    /// Mobile SDKs: milliseconds, no `$insert_id`, `$mp_metadata` beside the properties.
    fn mobile(&self, name: &str, event_id: &str, own: Value) -> Value {
        let mut event = self.event(name, own, json!({ "time": self.now.0 }));
        event["$mp_metadata"] = json!({ "$mp_event_id": event_id, "$mp_session_id": "5c1e0b9a7d3f2486",
            "$mp_session_seq_id": 1, "$mp_session_start_sec": self.now.as_secs() });
        event
    }

    fn swift(&self) -> Vec<Step> {
        const SDK: &str = "Swift";
        let swift = |name: &str, event_id: &str, own: Value| {
            let mut event = self.mobile(name, event_id, own);
            event["properties"]["mp_lib"] = "swift".into();
            event["properties"]["distinct_id"] = "radia".into();
            event["properties"]["$user_id"] = "radia".into();
            event
        };
        vec![
            step(
                SDK,
                "Radia signs up on her phone and buys",
                sdk::swift(
                    "/track",
                    &json!([
                        swift("Sign Up", "4e8a1c3b5d7f9021", json!({ "plan": "pro" })),
                        swift(FOLLOWED_EVENT, FOLLOWED_EVENT_ID, json!({ "amount": 59.5, "currency": "EUR" })),
                    ]),
                ),
                Answer::One,
                events(2),
            ),
            step(
                SDK,
                "her profile",
                sdk::swift(
                    "/engage",
                    &json!([self.profile(
                        "radia",
                        "$set",
                        json!({ "$email": FOLLOWED_EMAIL, "$first_name": "Radia", "plan": "pro" })
                    )]),
                ),
                Answer::One,
                PROFILE,
            ),
        ]
    }

    fn android(&self) -> Vec<Step> {
        const SDK: &str = "Android";
        let android = |name: &str, event_id: &str, own: Value| {
            let mut event = self.mobile(name, event_id, own);
            event["properties"]["mp_lib"] = "android".into();
            event
        };
        let guest = json!({ "distinct_id": format!("$device:{GUEST_DEVICE}"), "$device_id": GUEST_DEVICE,
            "amount": 9, "currency": "EUR" });
        vec![
            step(
                SDK,
                "Alan signs up; a guest buys",
                sdk::android(
                    "/track",
                    &json!([
                        android("Sign Up", "71c9e5a3b8d0f264", json!({ "distinct_id": "alan", "$user_id": "alan" })),
                        android("Purchase", "82daf6b4c9e10375", guest),
                    ]),
                ),
                Answer::One,
                events(2),
            ),
            step(
                SDK,
                "his profile",
                sdk::android(
                    "/engage",
                    &json!([self.profile(
                        "alan",
                        "$set",
                        json!({ "$email": "alan@example.com", "$first_name": "Alan", "$phone": "+33612345678" })
                    )]),
                ),
                Answer::One,
                PROFILE,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sdk_tells_of_events_and_of_a_profile() {
        let steps = story(&SandboxConfig::default(), UnixMillis(1_800_000_000_000));
        for sdk in ["Browser", "Node", "Python", "Swift", "Android"] {
            let of = |wanted: fn(&Accepted) -> u64| {
                steps.iter().filter(|step| step.sdk == sdk).map(|step| wanted(&step.accepted)).sum::<u64>()
            };
            assert!(of(|accepted| accepted.event) > 0 && of(|accepted| accepted.profile) > 0, "{sdk}");
        }
    }

    #[test]
    fn a_step_accepts_as_many_records_as_it_sends() {
        for step in story(&SandboxConfig::default(), UnixMillis(1_800_000_000_000)) {
            let Accepted { event, profile, group } = step.accepted;
            let sent: Value = serde_json::from_str(&step.request.records).unwrap();
            let sent = sent.as_array().map_or(1, Vec::len) as u64;
            let refused = u64::from(matches!(step.answer, Answer::Refused(_)));
            assert_eq!(event + profile + group + refused, sent, "{}", step.what);
        }
    }
}
