//! Properties of the way from bytes to stored records, for any input.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::edge::decode;

fn context<'c>(tokens: &'c Tokens, minter: &'c Minter, api: Api) -> Context<'c> {
    Context {
        api,
        rules: Rules::Track,
        tokens,
        identity: IdentityMode::Original,
        implied: None,
        ip: IpOption::Requester,
        ip_policy: IpPolicy::Truncate,
        caller: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        now: UnixMillis(1_750_000_000_000),
        minter,
    }
}

fn tokens() -> Tokens {
    Tokens::new(vec!["tok".to_owned()], Vec::new())
}

/// The journal counts what records hold and keeps them in memory: their request must not hang on to them unseen (P10).
#[test]
fn few_records_do_not_keep_a_large_request_alive() {
    let (tokens, minter) = (tokens(), Minter::new().unwrap());
    let good = r#"{"event":"e","properties":{"token":"tok","distinct_id":"u","time":1749999999,"$insert_id":"i"}}"#;
    let judged = |text: String| {
        let data = Bytes::from(text);
        let context = Context { ip: IpOption::Unsaid, ..context(&tokens, &minter, Api::Track) };
        let verdict = records(&data, &context).unwrap();
        assert!(verdict.records.iter().all(|record| record.body == good), "{verdict:?}");
        let within = |record: &Record| data.as_ptr_range().contains(&record.body.as_ptr());
        (verdict.records.iter().filter(|record| within(record)).count(), verdict.records.len(), verdict.untouched)
    };
    assert_eq!(judged(format!("[{good},{good}]")), (2, 2, true), "what is all of it stays where it is");
    assert_eq!(judged(format!("[{good}{},{good}]", " ".repeat(1_000))), (0, 2, false));
    let refused = format!(r#"{{"event":"e","properties":{{"token":"other","x":"{}"}}}}"#, "x".repeat(1_000));
    assert_eq!(judged(format!("[{good},{refused}]")), (0, 1, false));
    assert_eq!(judged(format!("[{refused}]")), (0, 0, false), "nothing to keep");
}

/// Any JSON value, a few levels deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(Value::from("a\"b\\c}{][")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Properties with the edge's own keys strewn in, of any type.
fn properties() -> impl Strategy<Value = Map<String, Value>> {
    let key = prop_oneof![
        3 => "\\PC{0,8}",
        1 => Just("$insert_id".to_owned()),
        1 => Just("time".to_owned()),
        1 => Just("distinct_id".to_owned()),
        1 => Just("ip".to_owned()),
        1 => Just("$ip".to_owned()),
        1 => Just("$ignore".to_owned()),
    ];
    prop::collection::btree_map(key, json(), 0..8).prop_map(|map| map.into_iter().collect())
}

/// Keys that the edge may write.
const STAMPS: [&str; 6] = ["$insert_id", "mixrelay_insert_id", "time", "distinct_id", "ip", "$ip"];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(query in ".{0,40}", body in prop::collection::vec(any::<u8>(), 0..200)) {
        let (tokens, minter) = (tokens(), Minter::new().unwrap());
        for body in [body.clone(), [b"data=", body.as_slice()].concat(), [b"[{", body.as_slice()].concat()] {
            let request = decode::request(&query, body.into());
            for api in [Api::Track, Api::Engage] {
                if let Ok(data) = &request.data {
                    drop(records(data, &context(&tokens, &minter, api)));
                }
            }
        }
    }

    #[test]
    fn stamps_leave_everything_else_alone(
        name in "[a-z$\"\\\\]{1,6}",
        mut properties in properties(),
        beside in prop::collection::btree_map("[a-z\"{:]{1,5}", json(), 0..3),
        pretty: bool,
    ) {
        properties.insert("token".to_owned(), "tok".into());
        let mut event: Map<String, Value> = beside.into_iter().collect();
        event.insert("event".to_owned(), name.into());
        event.insert("properties".to_owned(), Value::Object(properties.clone()));
        let event = Value::Object(event);
        let list = vec![event.clone(), event.clone()];
        let text = if pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) }.unwrap();

        let (tokens, minter) = (tokens(), Minter::new().unwrap());
        let verdict = records(&text.into(), &context(&tokens, &minter, Api::Track)).unwrap();
        prop_assume!(verdict.failed.is_empty());
        prop_assert_eq!(verdict.records.len(), 2);
        for record in &verdict.records {
            let stored: Value = serde_json::from_slice(&record.body).unwrap();
            let without = |value: &Value| {
                let mut value = value.clone();
                for stamp in STAMPS {
                    value["properties"].as_object_mut().unwrap().remove(stamp);
                }
                value
            };
            prop_assert_eq!(without(&stored), without(&event));
            let stored = &stored["properties"];
            prop_assert_eq!(&stored["ip"], "203.0.113.0");
            let id = stored["$insert_id"].as_str().unwrap();
            prop_assert!(!id.is_empty() && id.len() <= 36);
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        }
    }

    #[test]
    fn every_encoding_gives_the_same_text(value in json(), pad: bool) {
        let text = serde_json::to_string(&vec![value]).unwrap();
        let escaped: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD.encode(&text);
        let base64 = if pad { base64.as_str() } else { base64.trim_end_matches('=') };
        let escaped_base64: String = form_urlencoded::byte_serialize(base64.as_bytes()).collect();
        for (query, body) in [
            ("", text.clone()),
            ("", format!("data={escaped}")),
            ("", format!("ip=1&data={base64}&verbose=1")),
            ("", format!("data={escaped_base64}")),
            (escaped.as_str(), String::new()),
        ] {
            let query = if query.is_empty() { String::new() } else { format!("data={query}") };
            let request = decode::request(&query, body.into());
            prop_assert_eq!(request.data.as_deref(), Ok(text.as_bytes()));
        }
    }
}
