//! What the SDKs would send, in the very forms in which they send it (contract §4 and §13).

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::clock::UnixMillis;
use crate::sandbox::MixpanelAccount;

/// One SDK's user: a profile update, a mapped event and an event without a mapping.
pub(super) struct Person {
    pub sdk: &'static str,
    pub distinct_id: &'static str,
    /// The mapped event, before it was encoded.
    pub purchase: Value,
    pub shots: Vec<Shot>,
}

/// One request and what it carries.
pub(super) struct Shot {
    pub get: bool,
    pub path_and_query: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub records: u64,
}

/// Everybody, at the time `now`.
pub(super) fn everybody(account: &MixpanelAccount, now: UnixMillis) -> Vec<Person> {
    let of = |sdk, distinct_id| Who { token: &account.project_token, sdk, distinct_id, now };
    vec![
        browser(&of("mixpanel-browser", "ana")),
        node(&of("Node", "ben")),
        python(&of("Python", "cho")),
        android(&of("Android", "dev")),
        swift(&of("Swift", "eva")),
        server(&of("/import", "fay"), account),
    ]
}

/// Who sends, and when.
struct Who<'a> {
    token: &'a str,
    sdk: &'static str,
    distinct_id: &'static str,
    now: UnixMillis,
}

impl Who<'_> {
    fn person(&self, purchase: Value, shots: Vec<Shot>) -> Person {
        Person { sdk: self.sdk, distinct_id: self.distinct_id, purchase, shots }
    }

    /// `time` in the SDK's own unit; `more` are the properties that only this SDK adds.
    fn event(&self, name: &str, time: Value, more: Value) -> Value {
        let mut event = json!({"event": name, "properties": {
            "token": self.token, "distinct_id": self.distinct_id, "time": time, "plan": "pro", "amount": 49.9,
        }});
        merge(&mut event["properties"], more);
        event
    }

    fn profile(&self) -> Value {
        json!({"$token": self.token, "$distinct_id": self.distinct_id, "$set": {
            "$email": format!("{}@Example.com", self.distinct_id), "$first_name": self.distinct_id, "plan": "pro",
        }})
    }

    fn seconds(&self) -> f64 {
        self.now.0 as f64 / 1000.0
    }
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn base64(value: &Value) -> String {
    STANDARD.encode(value.to_string())
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

const FORM: &str = "application/x-www-form-urlencoded";

fn form(path_and_query: impl Into<String>, body: String, records: u64) -> Shot {
    let headers = vec![("content-type", FORM.to_owned())];
    Shot { get: false, path_and_query: path_and_query.into(), headers, body: body.into_bytes(), records }
}

fn get(path_and_query: String) -> Shot {
    Shot { get: true, path_and_query, headers: Vec::new(), body: Vec::new(), records: 1 }
}

/// Encoding 2: base64 arrays, since the host is not Mixpanel's; 16 characters of `$insert_id`; seconds with a fraction.
fn browser(who: &Who<'_>) -> Person {
    let event = |name, id| {
        who.event(name, json!(who.seconds()), json!({"$insert_id": id, "$browser": "Firefox", "mp_lib": "web"}))
    };
    let query = format!("?verbose=1&ip=1&_={}", who.now.0);
    let post = |path: &str, batch: Value, records| {
        form(format!("{path}{query}"), format!("data={}", encoded(&base64(&batch))), records)
    };
    let purchase = event("Purchase", "demo0browser0001");
    let batch = json!([purchase, event("Page View", "demo0browser0002")]);
    who.person(purchase, vec![post("/engage/", json!([who.profile()]), 1), post("/track/", batch, 2)])
}

/// Encoding 5: a GET for every record, no time, no `$insert_id`.
fn node(who: &Who<'_>) -> Person {
    let event = |name| {
        let mut event = who.event(name, Value::Null, json!({"mp_lib": "node"}));
        if let Some(properties) = event["properties"].as_object_mut() {
            properties.remove("time");
        }
        event
    };
    let shot = |path: &str, record: &Value| get(format!("{path}?ip=0&verbose=0&data={}", encoded(&base64(record))));
    let purchase = event("Purchase");
    let shots = vec![shot("/engage", &who.profile()), shot("/track", &purchase), shot("/track", &event("Page View"))];
    who.person(purchase, shots)
}

/// Encoding 8: the options are in the form beside the JSON.
fn python(who: &Who<'_>) -> Person {
    let event = |name, id| who.event(name, json!(who.seconds()), json!({"$insert_id": id, "mp_lib": "python"}));
    let shot = |path, record: &Value| form(path, format!("data={}&verbose=1&ip=0", encoded(&record.to_string())), 1);
    let purchase = event("Purchase", "5f0c6f6d5e0b4f0c9a3f1d2e3c4b5a69");
    let shots = vec![
        shot("/engage", &who.profile()),
        shot("/track", &purchase),
        shot("/track", &event("Page View", "6a1d7a7e6f1c5a1dab4a2e3f4d5c6b70")),
    ];
    who.person(purchase, shots)
}

/// Encoding 7: milliseconds, and `$mp_metadata` in place of an `$insert_id`.
fn android(who: &Who<'_>) -> Person {
    let event = |name, id| {
        let mut event = who.event(name, json!(who.now.0), json!({"mp_lib": "android", "$os": "Android"}));
        merge(
            &mut event,
            json!({"$mp_metadata": {"$mp_event_id": id, "$mp_session_id": "s1", "$mp_session_seq_id": 0}}),
        );
        event
    };
    let post = |path, batch: Value, records| form(path, format!("data={}", encoded(&base64(&batch))), records);
    let purchase = event("Purchase", "a1");
    let batch = json!([purchase, event("Page View", "a2")]);
    who.person(purchase, vec![post("/engage/?ip=1", json!([who.profile()]), 1), post("/track/?ip=1", batch, 2)])
}

/// Encoding 9: a JSON array, gzipped for `/track`.
fn swift(who: &Who<'_>) -> Person {
    let event = |name, id| {
        let mut event = who.event(name, json!(who.now.0), json!({"mp_lib": "swift", "$os": "iOS"}));
        merge(
            &mut event,
            json!({"$mp_metadata": {"$mp_event_id": id, "$mp_session_id": "s2", "$mp_session_seq_id": 0}}),
        );
        event
    };
    let purchase = event("Purchase", "s1");
    let json = ("content-type", "application/json".to_owned());
    let profile = Shot {
        get: false,
        path_and_query: "/engage/?ip=1".to_owned(),
        headers: vec![json.clone()],
        body: json!([who.profile()]).to_string().into_bytes(),
        records: 1,
    };
    let events = Shot {
        get: false,
        path_and_query: "/track/?ip=1".to_owned(),
        headers: vec![json, ("content-encoding", "gzip".to_owned())],
        body: gzip(&json!([purchase, event("Page View", "s2")])),
        records: 2,
    };
    who.person(purchase, vec![profile, events])
}

/// A server with a service account: strict `/import`.
fn server(who: &Who<'_>, account: &MixpanelAccount) -> Person {
    let event = |name, id| who.event(name, json!(who.now.0), json!({"$insert_id": id}));
    let purchase = event("Purchase", "demo-import-1");
    let login = STANDARD.encode(format!("{}:{}", account.service_account, account.service_secret));
    let import = Shot {
        get: false,
        path_and_query: format!("/import?strict=1&project_id={}", account.project_id),
        headers: vec![
            ("content-type", "application/json".to_owned()),
            ("content-encoding", "gzip".to_owned()),
            ("authorization", format!("Basic {login}")),
        ],
        body: gzip(&json!([purchase, event("Page View", "demo-import-2")])),
        records: 2,
    };
    let profile = form("/engage", format!("data={}&verbose=1", encoded(&json!([who.profile()]).to_string())), 1);
    who.person(purchase, vec![profile, import])
}

fn gzip(value: &Value) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // A vector takes everything.
    drop(encoder.write_all(value.to_string().as_bytes()));
    encoder.finish().unwrap_or_default()
}
