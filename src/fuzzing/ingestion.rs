//! From a call's query and body to stored records: whatever is taken is JSON, one record for each element of what was
//! sent, the same values but for the stamps, and fit for everyone who reads it later.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::json::members;
use super::{first_line, one_of};
use crate::clock::UnixMillis;
use crate::config::{IdentityMode, IpPolicy};
use crate::edge::accept::{self, Context, Implied, Verdict};
use crate::edge::decode::{self, DecodeError, Shape};
use crate::edge::ids::Minter;
use crate::edge::options::Options;
use crate::mapping::{CompiledMapping, preview};
use crate::mixpanel::validate::{MAX_DEPTH, Rules, Tokens};
use crate::mixpanel::{Api, MAX_RECORDS, heads, keys};
use crate::record::{Kind, Project, Record};

const NOW: UnixMillis = UnixMillis(1_750_000_000_000);
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
/// What the edge may write into an event's properties, or beside a profile update's operators.
const STAMPS: [&str; 8] = ["$insert_id", "mixrelay_insert_id", "time", "distinct_id", "token", "ip", "$ip", "$token"];

/// First line: the route and its strictness, the privacy rule for addresses and the project's kind, a digit each; then the
/// query. The rest is the body, inflated.
pub fn ingestion(data: &[u8]) {
    let (line, body) = first_line(data);
    let routes = [
        (Api::Track, Rules::Track),
        (Api::Import, Rules::ImportStrict),
        (Api::Import, Rules::ImportLenient),
        (Api::Engage, Rules::Track),
        (Api::Groups, Rules::Track),
    ];
    let (api, rules) = one_of(routes, line.first());
    let ip_policy = one_of([IpPolicy::Keep, IpPolicy::Truncate, IpPolicy::Drop], line.get(1));
    let identity = one_of([IdentityMode::Simplified, IdentityMode::Original], line.get(2));
    let Ok(query) = std::str::from_utf8(line.get(3..).unwrap_or_default()) else { return };
    let body = Bytes::copy_from_slice(body);
    let request = decode::request(query, body.clone());
    check_options(&request.options);
    let Ok(data) = request.data else { return };
    assert!(matches!(data.first(), Some(b'[' | b'{')), "{data:?}");
    if request.shape == Shape::Json {
        assert!(body.ends_with(&data), "JSON is not copied, nor decoded");
    }
    let (tokens, minter) = (Tokens::new(vec!["tok".to_owned()], vec!["other".to_owned()]), Minter::new());
    let implied = (api == Api::Import).then(|| Implied { project: Project::Ours, token: "tok".to_owned() });
    let context = Context {
        api,
        rules,
        tokens: &tokens,
        identity,
        implied,
        ip: request.options.ip,
        ip_policy,
        caller: CALLER,
        now: NOW,
        minter: &minter.expect("the system has randomness"),
    };
    let verdict = accept::records(&data, &context);
    let text = String::from_utf8_lossy(&data);
    match verdict {
        Ok(verdict) => check(&text, &data, &verdict, &context),
        Err(DecodeError::TooManyRecords) => assert!(text.len() > MAX_RECORDS),
        Err(DecodeError::NoData) => assert!(serde_json::from_str::<Vec<Value>>(&text).is_ok_and(|all| all.is_empty())),
        Err(DecodeError::NotBase64) => panic!("decoded already"),
        Err(DecodeError::NotJson) => refused_rightly(&text),
    }
}

fn check_options(options: &Options) {
    assert!(options.verbose <= 2);
    if let Some(callback) = &options.callback {
        assert!(!callback.contains(['(', ')', '<', '>', ';', '`', '\n', '\u{2028}']), "{callback}");
    }
}

/// Text that was refused whole is no JSON to serde_json either. It may be to a reader that passes over keys unread:
/// names that are no text are refused by the walker.
fn refused_rightly(text: &str) {
    let readable = if text.starts_with('[') {
        serde_json::from_str::<Vec<Value>>(text).is_ok()
    } else {
        serde_json::from_str::<Value>(text).is_ok()
    };
    assert!(!readable, "{text}");
}

/// The elements of the data, as serde_json tells them apart.
fn elements(text: &str) -> Vec<&str> {
    if text.starts_with('[') {
        let all: Vec<&RawValue> = serde_json::from_str(text).expect("what was taken is JSON");
        return all.into_iter().map(RawValue::get).collect();
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(only) => vec![only.get()],
        Err(_) => text.lines().map(str::trim).filter(|line| !line.is_empty()).collect(),
    }
}

fn check(text: &str, data: &Bytes, verdict: &Verdict, context: &Context<'_>) {
    let elements = elements(text);
    assert_eq!(verdict.records.len() + verdict.failed.len(), elements.len(), "each element is stored or named");
    assert!(verdict.failed.is_sorted_by(|a, b| a.index < b.index));
    let failed = |index: usize| verdict.failed.iter().any(|failed| failed.index == index);
    let sent = elements.iter().enumerate().filter(|(index, _)| !failed(*index)).map(|(_, element)| *element);
    for (sent, record) in sent.zip(&verdict.records) {
        let stored = std::str::from_utf8(&record.body).expect("stored text is UTF-8");
        assert_eq!(stored, stored.trim());
        if verdict.untouched {
            assert_eq!(sent, stored);
            assert!(data.windows(stored.len()).any(|window| window == stored.as_bytes()));
        }
        match record.kind {
            Kind::Event | Kind::Identity => same_event(sent, stored, context),
            Kind::Profile | Kind::Group => same_update(sent, stored, context),
        }
        readable_later(record, stored);
    }
}

fn object(text: &str) -> Vec<(String, &str)> {
    members(text).unwrap_or_else(|error| panic!("{error}: {text}")).unwrap_or_else(|| panic!("no object: {text}"))
}

fn last<'t>(members: &[(String, &'t str)], name: &str) -> Option<&'t str> {
    members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
}

fn without_stamps<'m>(members: &'m [(String, &str)]) -> Vec<(&'m str, &'m str)> {
    let kept = members.iter().filter(|(key, _)| !STAMPS.contains(&key.as_str()));
    kept.map(|(key, value)| (key.as_str(), *value)).collect()
}

fn same_event(sent: &str, stored: &str, context: &Context<'_>) {
    let (before, after) = (object(sent), object(stored));
    let beside = |members: &[(String, &str)]| -> Vec<(String, String)> {
        let beside = members.iter().filter(|(key, _)| key != "properties");
        beside.map(|(key, value)| (key.clone(), (*value).to_owned())).collect()
    };
    assert_eq!(beside(&before), beside(&after), "{stored}");
    let name = last(&after, "event").and_then(|name| serde_json::from_str::<String>(name).ok());
    assert!(name.is_some_and(|name| !name.trim().is_empty()), "{stored}");
    let [before, after] = [&before, &after].map(|members| object(last(members, "properties").expect("it has some")));
    assert_eq!(without_stamps(&before), without_stamps(&after), "{stored}");
    let text = |name: &str| last(&after, name).and_then(|value| serde_json::from_str::<String>(value).ok());
    assert!(matches!(text("token").as_deref(), Some("tok" | "other")), "{stored}");
    let id = text("$insert_id").unwrap_or_else(|| last(&after, "$insert_id").unwrap_or_default().to_owned());
    assert!((1..=36).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{stored}");
    assert!(last(&after, "time").is_some(), "{stored}");
    let addresses = after.iter().filter(|(key, _)| key == "ip" || key == "$ip");
    addresses.for_each(|(_, value)| allowed(value, context.ip_policy));
}

fn same_update(sent: &str, stored: &str, context: &Context<'_>) {
    let (before, after) = (object(sent), object(stored));
    let (kept_before, kept_after) = (without_stamps(&before), without_stamps(&after));
    assert_eq!(kept_before.len(), kept_after.len(), "{stored}");
    for ((key, before), (same_key, after)) in kept_before.into_iter().zip(kept_after) {
        assert_eq!(key, same_key);
        if !matches!(key, "$set" | "$set_once") || context.ip_policy == IpPolicy::Keep {
            assert_eq!(before, after, "{stored}");
            continue;
        }
        let (before, after) = (object(before), object(after));
        assert_eq!(without_stamps(&before), without_stamps(&after), "{stored}");
        let addresses = after.iter().filter(|(key, _)| key == "ip" || key == "$ip");
        addresses.for_each(|(_, value)| allowed(value, context.ip_policy));
    }
    let addresses = after.iter().filter(|(key, _)| key == "$ip");
    addresses.for_each(|(_, value)| allowed(value, context.ip_policy));
}

/// What may be stored of an address: the caller's own comes under the same rule.
fn allowed(value: &str, policy: IpPolicy) {
    let address = serde_json::from_str::<String>(value).ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
    match (policy, address) {
        (IpPolicy::Keep, _) | (_, None) => {}
        (IpPolicy::Truncate, Some(IpAddr::V4(address))) => assert_eq!(address.octets()[3], 0, "{address}"),
        (IpPolicy::Truncate, Some(IpAddr::V6(address))) => assert_eq!(address.segments()[3..], [0; 5], "{address}"),
        (IpPolicy::Drop, Some(address)) => panic!("{address} is stored"),
    }
}

/// Everyone down the way can read what was stored, or says that it cannot.
fn readable_later(record: &Record, stored: &str) {
    let deep = serde_json::from_str::<Value>(stored).err();
    // Numbers beyond a double and halves of surrogate pairs are JSON, but no value of serde_json's.
    let out_of_range = |error: &serde_json::Error| {
        let text = error.to_string();
        text.contains("number out of range") || text.contains("surrogate") || text.contains("hex escape")
    };
    assert!(deep.as_ref().is_none_or(out_of_range), "{deep:?}: {stored}");
    assert!(stored.matches(['{', '[']).count() > 0 && MAX_DEPTH < 128);
    drop(heads::of_event(&record.body));
    // An identity event may name nobody.
    assert!(record.kind == Kind::Identity || !keys::ordered_keys(record).is_empty(), "{stored}");
    drop(keys::people(record.kind, &record.body));
    let shown = preview(stored, mapping(), None, NOW);
    assert!(shown["decision"].is_string(), "{shown}");
}

/// A mapping that takes whatever comes.
fn mapping() -> &'static CompiledMapping {
    static MAPPING: std::sync::OnceLock<CompiledMapping> = std::sync::OnceLock::new();
    MAPPING.get_or_init(|| {
        let text = "connectors: { mixpanel: { project_token: tok }, brevo: { api_key: k } }\n\
                    unmapped_events: forward\n\
                    property_mapping: { $email: email, $phone: SMS, a: A, plan: PLAN, total_revenue: LTV }\n\
                    group_mapping: { company_id: { name: $name, properties: { industry: industry } } }\n\
                    sync: { events: true, profiles: true, groups: true }\n";
        let config = crate::config::parse(text, "fuzz", &|_| None).unwrap_or_else(|errors| panic!("{errors}")).config;
        CompiledMapping::compile(&config.mapping, config.mixpanel.sync).unwrap_or_else(|errors| panic!("{errors:?}"))
    })
}
