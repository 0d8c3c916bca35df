//! What the control API shows of Mixpanel, and what it puts in.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::http::Call;
use super::arrivals::Kind;
use super::{Mixpanel, Properties};

const DEFAULT_LIMIT: usize = 1_000;

/// What `POST /mixpanel/seed` takes; all parts are optional and add to what is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    profiles: Vec<SeedProfile>,
    groups: Vec<SeedGroup>,
    cohorts: Vec<SeedCohort>,
    /// Answers of query endpoints, by their path after `/api/query/` (`jql`, `insights`, ...).
    answers: serde_json::Map<String, Value>,
    flags: Option<Value>,
    flag_definitions: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedProfile {
    distinct_id: String,
    properties: Properties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedGroup {
    group_key: String,
    group_id: String,
    properties: Properties,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedCohort {
    id: i64,
    name: String,
    #[serde(default)]
    members: Vec<String>,
}

fn limit(call: &Call) -> usize {
    call.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_LIMIT)
}

impl Mixpanel {
    pub fn seed(&self, seed: Seed) {
        let mut state = self.state();
        for profile in seed.profiles {
            state.people.put(profile.distinct_id, profile.properties);
        }
        for group in seed.groups {
            state.groups.put(format!("{}:{}", group.group_key, group.group_id), group.properties);
        }
        for cohort in seed.cohorts {
            let entry = json!({
                "id": cohort.id, "name": cohort.name, "count": cohort.members.len(), "description": "",
                "created": "2026-01-01 00:00:00", "is_visible": 1, "project_id": self.account.project_id.parse::<u64>().ok(),
            });
            state.cohorts.retain(|held| held["entry"]["id"] != entry["id"]);
            state.cohorts.push(json!({ "entry": entry, "members": cohort.members }));
        }
        state.answers.extend(seed.answers);
        if let Some(flags) = seed.flags {
            state.flags = flags;
        }
        if let Some(definitions) = seed.flag_definitions {
            state.flag_definitions = definitions;
        }
    }

    /// Events: the deduplicated view, or with `raw=1` the arrival log. Oldest first, the newest `limit`.
    pub fn show_events(&self, call: &Call) -> Value {
        let state = self.state();
        let name = call.query("event");
        let id = call.query("distinct_id");
        let limit = limit(call);
        if call.query("raw") == Some("1") {
            let events = state.arrivals.raw(
                |arrival| {
                    arrival.kind == Kind::Event
                        && name.is_none_or(|name| *name == *arrival.name)
                        && id.is_none_or(|id| *id == *arrival.distinct_id)
                },
                limit,
            );
            return json!({ "events": events, "forgotten": state.arrivals.forgotten() });
        }
        let person = id.map(|id| state.identity.canonical(id));
        let mut view = state.arrivals.deduplicated();
        view.retain(|arrival| {
            name.is_none_or(|name| *name == *arrival.name)
                && person.is_none_or(|person| state.identity.canonical(&arrival.distinct_id) == person)
        });
        let total = view.len();
        let shown = &view[total.saturating_sub(limit)..];
        let events: Vec<Value> = shown.iter().map(|arrival| arrival.as_stored(&state.identity)).collect();
        json!({ "events": events, "total": total, "forgotten": state.arrivals.forgotten() })
    }

    /// The log of profile and group updates.
    pub fn show_updates(&self, call: &Call) -> Value {
        let state = self.state();
        let id = call.query("distinct_id");
        let operator = call.query("operator");
        let updates = state.arrivals.raw(
            |arrival| {
                arrival.kind != Kind::Event
                    && id.is_none_or(|id| *id == *arrival.distinct_id)
                    && operator.is_none_or(|operator| *operator == *arrival.name)
            },
            limit(call),
        );
        json!({ "updates": updates, "forgotten": state.arrivals.forgotten() })
    }

    pub fn show_profiles(&self, groups: bool, call: &Call) -> Value {
        let state = self.state();
        let profiles = if groups { &state.groups } else { &state.people };
        let shown: Vec<Value> = profiles
            .iter()
            .take(limit(call))
            .map(|(id, properties)| json!({ "$distinct_id": id, "$properties": properties }))
            .collect();
        json!({ "profiles": shown, "total": profiles.len() })
    }

    /// One profile by any id of its person, or one group by `group_key:group_id`.
    pub fn show_profile(&self, groups: bool, id: &str) -> Option<Value> {
        let state = self.state();
        let (profiles, key) = if groups { (&state.groups, id) } else { (&state.people, state.identity.canonical(id)) };
        let found = profiles.get(key).map(|properties| (key, properties));
        let found = found.or_else(|| profiles.get(id).map(|properties| (id, properties)));
        found.map(|(key, properties)| {
            let members = if groups { Vec::new() } else { state.identity.members(key) };
            json!({ "$distinct_id": key, "$properties": properties, "ids": members })
        })
    }

    pub fn show_requests(&self, call: &Call) -> Value {
        self.state().requests.list(call.query("path"), limit(call))
    }

    pub fn show_counts(&self) -> Value {
        let state = self.state();
        json!({
            "records": state.arrivals.counters.to_json(),
            "events_by_name": state.arrivals.names.to_json(),
            "duplicates_are_exact": state.arrivals.duplicates_are_exact(),
            "requests": state.requests.counts(),
            "profiles": state.people.len(),
            "groups": state.groups.len(),
            "identity_links": state.identity.links(),
        })
    }

    pub fn show_lookup_table(&self, id: &str) -> Option<Value> {
        self.state().tables.get(id).map(|csv| json!({ "id": id, "csv": csv }))
    }
}
