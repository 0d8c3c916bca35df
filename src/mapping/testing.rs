//! `mapping_tests`: examples in the configuration, run by the same functions that map records.

use serde_json::{Value, json};

use super::compiled::CompiledMapping;
use super::preview::preview;
use crate::clock::UnixMillis;
use crate::config::{Expectation, MappingTest};

/// One thing that came out otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// A key of `expect`.
    pub what: &'static str,
    pub expected: Value,
    pub actual: Value,
}

/// What of `test` does not hold; `now` stands in for a missing time, and judges the age of one that is there.
pub fn run_test(test: &MappingTest, mapping: &CompiledMapping, now: UnixMillis) -> Vec<Mismatch> {
    let shown = preview(&test.given.to_string(), mapping, None, now);
    let mut mismatches = Vec::new();
    for (what, expected) in wanted(&test.expect) {
        let actual = actual(what, &shown);
        if actual != expected {
            mismatches.push(Mismatch { what, expected, actual });
        }
    }
    // An expected event that was skipped is best told by the rule that did it.
    if test.expect.skipped.is_none() && !mismatches.is_empty() && shown["decision"] != "send" {
        let actual = actual("skipped", &shown);
        mismatches.insert(0, Mismatch { what: "skipped", expected: Value::Null, actual });
    }
    mismatches
}

fn wanted(expect: &Expectation) -> Vec<(&'static str, Value)> {
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let all = [
        ("skipped", text(&expect.skipped)),
        ("event", text(&expect.event)),
        ("properties", expect.properties.clone()),
        ("email", text(&expect.email)),
        ("attributes", expect.attributes.clone()),
        ("add_to_lists", expect.add_to_lists.clone().map(Value::from)),
        ("remove_from_lists", expect.remove_from_lists.clone().map(Value::from)),
    ];
    all.into_iter().filter_map(|(what, value)| Some((what, value?))).collect()
}

fn actual(what: &str, shown: &Value) -> Value {
    let body = &shown["calls"][0]["body"];
    let or_nothing = |value: &Value| if value.is_null() { json!({}) } else { value.clone() };
    match what {
        "skipped" if shown["rule"].is_null() && shown["decision"] != "send" => shown["decision"].clone(),
        "skipped" => shown["rule"].clone(),
        "event" => body["event_name"].clone(),
        "properties" => or_nothing(&body["event_properties"]),
        "email" => body["email"].clone(),
        "attributes" => or_nothing(&body["attributes"]),
        "add_to_lists" => lists(shown, "/contacts/add"),
        "remove_from_lists" => lists(shown, "/contacts/remove"),
        _ => Value::Null,
    }
}

/// The lists of the calls whose path ends so, in the order of their ids.
fn lists(shown: &Value, ending: &str) -> Value {
    let paths = shown["calls"].as_array().into_iter().flatten().filter_map(|call| call["path"].as_str());
    let ids = paths.filter_map(|path| path.strip_prefix("/contacts/lists/")?.strip_suffix(ending)?.parse::<u64>().ok());
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    /// What of every test in `text` does not hold.
    fn run(text: &str) -> Vec<Vec<(&'static str, Value, Value)>> {
        let config = parse(text, "x", &|_| Some("t".to_owned())).unwrap_or_else(|errors| panic!("{errors}")).config;
        let mapping = CompiledMapping::compile(&config.mapping, config.mixpanel.sync).unwrap();
        let told = |test| run_test(test, &mapping, NOW).into_iter().map(|m| (m.what, m.expected, m.actual)).collect();
        config.mapping.tests.iter().map(told).collect()
    }

    const MAPPING: &str = r#"
event_mapping:
  Purchase: order_completed
  "Plan Changed":
    name: plan_changed
    when: { plan: [pro, team], seats: { at_least: 5, below: 100 }, trial: { is_not: true } }
    pick: [plan, $city, source]
    rename: { seats: team_size }
    constants: { source: app, "v": 2 }
    stale_after: 1h
    add_to_lists: [engaged, 30]
    remove_from_lists: at_risk
lists: { all_users: 15, engaged: 16, at_risk: 17 }
property_mapping:
  $email: email
  birthday: { attribute: BIRTHDAY, type: date, format: DD/MM/YYYY }
  balance: { attribute: BALANCE, format: "1.234,56" }
  level: { attribute: LEVEL, type: text }
"#;

    #[test]
    fn what_the_rules_say_is_what_happens() {
        let tests = r#"
mapping_tests:
  - name: all of it
    given:
      event: Plan Changed
      properties: { plan: team, seats: 5, $city: Paris, $os: iOS, other: 1, source: theirs, team_size: 9 }
    expect:
      event: plan_changed
      properties: { plan: team, team_size: 5, $city: Paris, source: app, v: 2 }
      add_to_lists: [30, engaged]
      remove_from_lists: [at_risk]
  - name: too few
    given: { event: Plan Changed, properties: { plan: pro, seats: 4 } }
    expect: { skipped: condition_not_met }
  - name: too many
    given: { event: Plan Changed, properties: { plan: pro, seats: "100" } }
    expect: { skipped: condition_not_met }
  - name: a trial
    given: { event: Plan Changed, properties: { plan: pro, seats: 7, trial: true } }
    expect: { skipped: condition_not_met }
  - name: by its own age
    given: { event: Plan Changed, properties: { plan: pro, seats: 7, time: 1699990000 } }
    expect: { skipped: stale }
  - name: by the age for all
    given: { event: Purchase, properties: { time: 1699990000 } }
    expect: { event: order_completed, properties: {}, add_to_lists: [] }
  - name: a contact
    given: { $set: { $email: Ada@Example.com, birthday: 02/03/1990, balance: "1.234,5", level: 7 } }
    expect: { email: Ada@example.com, attributes: { BIRTHDAY: "1990-03-02", BALANCE: 1234.5, LEVEL: "7" } }
"#;
        // A dollar is no character that Brevo takes in a key.
        let text = format!("{MAPPING}{}", tests.replace("team_size: 5, $city: Paris", "team_size: 5, city: Paris"));
        let none: Vec<Vec<(&str, Value, Value)>> = vec![Vec::new(); 7];
        assert_eq!(run(&text), none);
    }

    #[test]
    fn what_comes_out_otherwise_is_told_with_both() {
        let tests = r#"
mapping_tests:
  - name: another value
    given: { event: Purchase, properties: { amount: "9" } }
    expect: { event: order_completed, properties: { amount: 9 } }
  - name: skipped unexpectedly
    given: { event: Other }
    expect: { event: other }
  - name: sent unexpectedly
    given: { event: Purchase }
    expect: { skipped: unmapped_event }
"#;
        let told = run(&format!("{MAPPING}{tests}"));
        assert_eq!(told[0], [("properties", json!({"amount": 9}), json!({"amount": "9"}))]);
        assert_eq!(
            told[1],
            [("skipped", Value::Null, json!("unmapped_event")), ("event", json!("other"), Value::Null)]
        );
        assert_eq!(told[2], [("skipped", json!("unmapped_event"), Value::Null)]);
    }
}
