//! Personal data, less what names anybody: what viewers get, and whoever asks for it with `masked=true`.
//!
//! Masked is every text of a record but its event's name and the few that name an app or a machine, and every number that is
//! long enough to be somebody's; keys, short numbers and shapes stay, since they are what a mistake is found by. What the
//! relay says in its own words stays too, less what it quotes.

use serde_json::Value;

/// Properties of a record whose values name nobody.
const PLAIN: &[&str] = &["$insert_id", "mp_lib", "$lib_version", "$os", "$browser", "time"];
/// A number with as many digits may be somebody's telephone number.
const LONG: usize = 7;
/// A text shorter than this stands in too many other words to be looked for in them.
const SOUGHT: usize = 3;

/// What of a text is shown: its first two characters, or of an address the first one and the domain.
pub fn text(text: &str) -> String {
    let first: String = text.chars().take(2).collect();
    match text.rsplit_once('@') {
        Some((_, domain)) if domain.contains('.') => format!("{}…@{domain}", text.chars().next().unwrap_or_default()),
        _ if text.chars().count() <= 2 => "…".to_owned(),
        _ => format!("{first}…"),
    }
}

/// Everything inside a value.
pub fn value(value: &mut Value) {
    match value {
        Value::String(inner) => *inner = text(inner),
        Value::Number(number) => {
            let written = number.to_string();
            let digits: String = written.chars().filter(char::is_ascii_digit).collect();
            if number.as_f64().is_some_and(|number| number.abs() >= 10_f64.powi(LONG as i32 - 1)) {
                *value = format!("{}…", &digits[..2]).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(self::value),
        Value::Object(fields) => fields.values_mut().for_each(self::value),
        Value::Null | Value::Bool(_) => {}
    }
}

/// A record as an app has sent it.
pub fn record(record: &mut Value) {
    let Value::Object(fields) = record else { return value(record) };
    for (key, inner) in fields {
        match (key.as_str(), inner) {
            ("event", Value::String(_)) => {}
            ("properties", Value::Object(properties)) => properties.iter_mut().for_each(|(key, inner)| match inner {
                Value::String(said) if PLAIN.contains(&key.as_str()) => *said = words(said),
                Value::Number(_) if PLAIN.contains(&key.as_str()) => {}
                inner => value(inner),
            }),
            (_, inner) => value(inner),
        }
    }
}

/// Somebody's words about a record: what they quote of it is masked, and whatever else looks like an address or a number.
pub fn answer(said: &str, about: &Value) -> String {
    let mut quoted = Vec::new();
    texts(about, &mut quoted);
    quoted.retain(|text| text.chars().count() >= SOUGHT);
    quoted.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let said = quoted.into_iter().fold(said.to_owned(), |said, quoted| said.replace(quoted, &text(quoted)));
    words(&said)
}

fn words(said: &str) -> String {
    let word = |word: &str| {
        let digits = word.chars().filter(char::is_ascii_digit).count();
        if word.contains('@') || digits >= LONG { text(word) } else { word.to_owned() }
    };
    said.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => {
            let named = fields.iter().filter(|(key, _)| *key != "event" && !PLAIN.contains(&key.as_str()));
            named.for_each(|(_, inner)| texts(inner, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a mapping makes of a record.
pub fn verdict(said: &mut Value) {
    let Value::Object(fields) = said else { return };
    for (key, inner) in fields {
        match (key.as_str(), inner) {
            ("kind" | "decision" | "rule" | "dropped" | "creates", _) => {}
            ("explanation", Value::String(said)) => *said = words(said),
            ("calls", Value::Array(calls)) => calls.iter_mut().filter_map(|call| call.get_mut("body")).for_each(body),
            ("not_placed", Value::Array(names)) => names.iter_mut().for_each(|unplaced| {
                // Behind the attribute's name stand the options that it does not have.
                let name =
                    unplaced["name"].as_str().and_then(|name| name.split_once(": ")).map(|(name, _)| name.to_owned());
                name.into_iter().for_each(|name| unplaced["name"] = name.into());
            }),
            ("company", Value::Array(changes)) => {
                changes.iter_mut().filter_map(|change| change.get_mut("value")).for_each(value);
            }
            (_, inner) => value(inner),
        }
    }
}

/// A call's body: the names of events are the mapping's own words.
fn body(body: &mut Value) {
    let Value::Object(fields) = body else { return value(body) };
    for (key, inner) in fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "event_name" | "event_date")) {
        match key.as_str() {
            "listIds" | "updateEnabled" => {}
            _ => value(inner),
        }
    }
}

/// A dead letter; of a dry run with what would be sent now.
pub fn letter(letter: &mut Value) {
    let said = letter["answer"].as_str().map(|said| answer(said, &letter["record"]));
    said.into_iter().for_each(|said| letter["answer"] = said.into());
    letter.get_mut("record").into_iter().for_each(record);
    letter.get_mut("now").into_iter().for_each(verdict);
}

/// An answer whose `items` are letters.
pub fn letters(page: &mut Value) {
    each(page, "items", letter);
}

/// What is held of a person.
pub fn person(about: &mut Value) {
    about.get_mut("ids").into_iter().for_each(value);
    each(about, "held", value);
    each(about, "shelf", |parked| parked.get_mut("record").into_iter().for_each(record));
    each(about, "dead_letters", letter);
}

/// What became of records.
pub fn traced(page: &mut Value) {
    page.get_mut("distinct_ids").into_iter().for_each(value);
    each(page, "items", |item| {
        let about = item["record"].clone();
        item.get_mut("record").into_iter().for_each(record);
        for standing in item["destinations"].as_object_mut().into_iter().flat_map(|legs| legs.values_mut()) {
            let said = standing["answer"].as_str().map(|said| answer(said, &about));
            said.into_iter().for_each(|said| standing["answer"] = said.into());
            standing.get_mut("distinct_id").into_iter().for_each(value);
            standing.get_mut("mapping").into_iter().for_each(verdict);
        }
    });
}

/// What mappings make of records: those of the journal. Those that the caller has sent are the caller's own.
pub fn previewed(preview: &mut Value) {
    each(preview, "items", |item| {
        if item.get("position").is_some() {
            item.get_mut("record").into_iter().for_each(record);
            item.get_mut("now").into_iter().for_each(verdict);
            item.get_mut("then").into_iter().for_each(verdict);
        }
    });
}

/// A run of a cohort or a data set, with the people who could not be matched.
pub fn run(run: &mut Value) {
    for people in ["people", "unmatched_people"] {
        each(run, people, |unmatched| unmatched.get_mut("distinct_id").into_iter().for_each(value));
    }
}

fn each(answer: &mut Value, key: &str, mask: impl FnMut(&mut Value)) {
    answer.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().for_each(mask);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(mask: fn(&mut Value), mut shown: Value) -> Value {
        mask(&mut shown);
        shown
    }

    #[test]
    fn nobody_is_named_and_shapes_stay() {
        let ada = json!({
            "event": "Purchase",
            "properties": {
                "distinct_id": "ada-1", "$email": "ada@example.com", "total": 9.5, "tags": ["vip", "x"], "paid": true,
                "time": 1_800_000_000, "$insert_id": "i-1", "phone": 4_915_112_345_678_u64, "event": "Ada's birthday",
                "mp_lib": "web", "$os": { "of": "Ada" },
            },
        });
        let shown = json!({
            "event": "Purchase",
            "properties": {
                "distinct_id": "ad…", "$email": "a…@example.com", "total": 9.5, "tags": ["vi…", "…"], "paid": true,
                "time": 1_800_000_000, "$insert_id": "i-1", "phone": "49…", "event": "Ad…", "mp_lib": "web",
                "$os": { "of": "Ad…" },
            },
        });
        assert_eq!(masked(record, ada), shown);
        assert_eq!(masked(record, json!("Ada")), json!("Ad…"));
        assert_eq!(masked(record, json!({ "$set": { "reason": "ill" } })), json!({ "$set": { "reason": "il…" } }));
        let id = json!({ "properties": { "$insert_id": "signup-ada@example.com" } });
        assert_eq!(masked(record, id)["properties"]["$insert_id"], "s…@example.com");
    }

    #[test]
    fn a_vendor_that_quotes_names_nobody() {
        let record =
            json!({ "properties": { "distinct_id": "ada-1", "name": "Ada Lovelace", "$email": "ada@example.com" } });
        let said = r#"Invalid: "Ada Lovelace" (ada-1), also bob@example.org and +4915112345678 of 12345"#;
        let masked = answer(said, &record);
        assert_eq!(masked, r#"Invalid: "Ad…" (ad…), also b…@example.org and +4… of 12345"#);
    }

    #[test]
    fn a_verdict_says_why_and_names_nobody() {
        let said = json!({
            "kind": "event", "distinct_id": "ada-1", "decision": "send", "explanation": "as it is",
            "calls": [{ "method": "POST", "path": "/events", "body": {
                "event_name": "bought", "identifiers": { "ext_id": "ada-1" }, "event_properties": { "event_name": "Ada" },
            } }],
            "not_placed": [{ "name": "PLAN: Ada, Bob", "reason": "unknown_option" }],
        });
        let shown = json!({
            "kind": "event", "distinct_id": "ad…", "decision": "send", "explanation": "as it is",
            "calls": [{ "method": "POST", "path": "/events", "body": {
                "event_name": "bought", "identifiers": { "ext_id": "ad…" }, "event_properties": { "event_name": "Ad…" },
            } }],
            "not_placed": [{ "name": "PLAN", "reason": "unknown_option" }],
        });
        assert_eq!(masked(verdict, said), shown);
    }

    #[test]
    fn a_callers_own_records_are_not_masked_and_those_of_the_journal_are() {
        let ada = json!({ "record": { "a": "Ada" }, "now": { "distinct_id": "Ada" } });
        let mut held = ada.clone();
        held["position"] = "1.2.0".into();
        let shown = masked(previewed, json!({ "items": [ada.clone(), held] }));
        assert_eq!(shown["items"][0], ada);
        assert_eq!(
            shown["items"][1],
            json!({ "record": { "a": "Ad…" }, "now": { "distinct_id": "Ad…" }, "position": "1.2.0" })
        );
    }

    #[test]
    fn whoever_was_not_matched_is_not_named() {
        let row = json!({ "distinct_id": "ada-1", "why": "no_address" });
        let shown = json!({ "distinct_id": "ad…", "why": "no_address" });
        assert_eq!(masked(run, json!({ "people": [row] })), json!({ "people": [shown] }));
        let of_a_dataset = json!({ "people": 3, "unmatched_people": [row] });
        assert_eq!(masked(run, of_a_dataset), json!({ "people": 3, "unmatched_people": [shown] }));
    }

    #[test]
    fn short_and_foreign_texts_are_masked_whole() {
        assert_eq!(text("Bo"), "…");
        assert_eq!(text(""), "…");
        assert_eq!(text("Ωμέγα"), "Ωμ…");
        assert_eq!(text("a@b"), "a@…");
    }
}
