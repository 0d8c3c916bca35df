//! The example and the documentation say all that the loader knows.

use super::super::*;
use super::{COMPLETE, PUBLISHED};

const EXAMPLE: &str = include_str!("../../../mixrelay.example.yaml");
const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// Every variable is set, so that the example can name any.
fn every_variable(name: &str) -> Option<String> {
    match name {
        "MIXRELAY_WEBHOOK_SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        _ => Some("value".to_owned()),
    }
}

/// The example with every `#key` line in use.
fn all_of_the_example() -> String {
    let in_use = |line: &str| {
        let bare = line.trim_start();
        match bare.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => {
                format!("{}{setting}", &line[..line.len() - bare.len()])
            }
            _ => line.to_owned(),
        }
    };
    // A list's items begin with a dash, which is a setting too.
    EXAMPLE.lines().map(in_use).collect::<Vec<_>>().join("\n")
}

/// The patterns of the keys that were asked for while `text` was read.
fn known_keys(text: &str) -> Vec<String> {
    let report = reader::Report::new(&every_variable);
    let mut tree = yaml::read(text).unwrap();
    interpolate::resolve(&mut tree, &report);
    read::config(&tree, &report);
    report.known_keys()
}

/// The patterns of the keys that stand in `node`, as [`known_keys`] writes them.
fn written_keys(node: &yaml::Node, path: &str, known: &[String], out: &mut Vec<String>) {
    match &node.value {
        yaml::Value::Map(entries) => {
            for (key, value) in entries {
                let named = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
                let pattern = if known.contains(&named) { named } else { format!("{path}.*") };
                written_keys(value, &pattern, known, out);
                out.push(pattern);
            }
        }
        yaml::Value::List(items) => {
            for item in items {
                written_keys(item, &format!("{path}[]"), known, out);
            }
        }
        yaml::Value::Null | yaml::Value::Scalar(_) => {}
    }
}

#[test]
fn the_example_loads_as_it_stands() {
    let loaded = parse(EXAMPLE, "mixrelay.example.yaml", &every_variable).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.brevo.unwrap().mode, BrevoMode::Observe);
}

#[test]
fn the_example_shows_every_key_and_loads_with_all_of_them() {
    let all = all_of_the_example();
    parse(&all, "mixrelay.example.yaml", &every_variable).unwrap_or_else(|errors| panic!("{errors}\n{all}"));
    let known = known_keys(&all);
    let mut written = Vec::new();
    written_keys(&yaml::read(&all).unwrap(), "", &known, &mut written);
    let shown_elsewhere = ["connectors.mixpanel.lists", "other_tokens.forward", "sync"];
    let hidden: Vec<&String> = known
        .iter()
        .filter(|key| !written.contains(key) && !shown_elsewhere.contains(&key.as_str()) && !key.starts_with("sync."))
        .collect();
    assert!(hidden.is_empty(), "the example does not show {hidden:?}");
}

#[test]
fn every_known_key_is_documented() {
    let mut known = known_keys(&all_of_the_example());
    known.extend(known_keys(COMPLETE));
    known.extend(known_keys(PUBLISHED));
    known.extend(known_keys("other_tokens: { forward: [a] }"));
    let missing: Vec<&String> = known
        .iter()
        // Blocks that hold nothing but other keys have a heading, or their keys speak for them.
        .filter(|key| !matches!(key.as_str(), "connectors" | "connectors.mixpanel" | "connectors.brevo"))
        .filter(|key| !matches!(key.as_str(), "server" | "auth" | "privacy" | "retention" | "webhooks"))
        .filter(|key| !DOCUMENT.contains(&format!("`{key}`")))
        .collect();
    assert!(missing.is_empty(), "docs/configuration.md does not name {missing:?}");
}

#[test]
fn documented_defaults_are_the_defaults() {
    let Loaded { config, .. } = parse("", "x", &|name| (name == "MIXPANEL_TOKEN").then(|| "t".to_owned())).unwrap();
    let default = |key: &str| {
        let row = DOCUMENT.lines().find(|line| line.starts_with(&format!("| `{key}`"))).unwrap();
        row.split('|').nth(2).unwrap().trim().trim_matches('`').to_owned()
    };
    let text = |key: &str| yaml::Scalar { text: default(key), quoted: false, from_env: false };
    for (key, actual) in [
        ("stale_after", config.mapping.stale_after),
        ("dedup_window", config.dedup_window),
        ("parking.max_age", config.parking.max_age),
        ("retention.history", config.retention.history),
        ("retention.dead_letters", config.retention.dead_letters),
        ("retention.runs", config.retention.runs),
        ("retention.unseen_people", config.retention.unseen_people),
        ("retention.tombstones", config.retention.tombstones),
    ] {
        assert_eq!(values::duration(&text(key)).unwrap(), actual, "{key}");
    }
    for (key, actual) in [
        ("parking.max_bytes", config.parking.max_bytes),
        ("parking.max_records", config.parking.max_records),
        ("retention.history_bytes", config.retention.history_bytes),
        ("retention.dead_letter_bytes", config.retention.dead_letter_bytes),
    ] {
        assert_eq!(values::bytes(&text(key)).unwrap(), actual, "{key}");
    }
    assert_eq!(values::listen(&text("server.listen")).unwrap(), config.server.listen);
    assert_eq!(values::store_engine(&text("store")).unwrap(), config.store.engine);
    assert_eq!(values::share(&text("max_removal_share")).unwrap(), config.cohorts.max_removal_share);
}
