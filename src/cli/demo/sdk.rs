//! How each SDK puts its records on the wire (contract §4 and §13). Pure.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// One HTTP request, host aside.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// With its query.
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The encoding in a few words, for people.
    pub wire: &'static str,
    /// The records as the app's SDK serialised them, before they were encoded.
    pub records: String,
}

/// The page that the browser SDK runs on: another origin than the relay.
const ORIGIN: &str = "https://shop.example.com";
const FORM: &str = "application/x-www-form-urlencoded";

fn percent(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn post(path: String, content_type: &str, body: Vec<u8>, wire: &'static str, records: String) -> Request {
    let headers = vec![("content-type", content_type.to_owned())];
    Request { method: Method::POST, path, headers, body, wire, records }
}

/// mixpanel-js towards any host that is not Mixpanel's own: base64 in a form, options in the query, cross-origin.
pub fn browser(endpoint: &str, records: &Value, now_ms: u64) -> Request {
    let json = records.to_string();
    let body = format!("data={}", percent(&base64(&json)));
    let path = format!("{endpoint}/?verbose=1&ip=1&_={now_ms}");
    let mut request = post(path, FORM, body.into_bytes(), "form, base64", json);
    request.headers.push(("origin", ORIGIN.to_owned()));
    request
}

/// What mixpanel-js leaves behind on page hide: the same text as a beacon, which a browser calls `text/plain`.
pub fn beacon(endpoint: &str, records: &Value, now_ms: u64) -> Request {
    let mut request = browser(endpoint, records, now_ms);
    request.headers[0].1 = "text/plain;charset=UTF-8".to_owned();
    request.wire = "beacon, text/plain";
    request
}

/// mixpanel-node, one record: a GET.
pub fn node(endpoint: &str, record: &Value) -> Request {
    let json = record.to_string();
    let path = format!("{endpoint}?ip=0&verbose=0&data={}", percent(&base64(&json)));
    Request { method: Method::GET, path, headers: Vec::new(), body: Vec::new(), wire: "query, base64", records: json }
}

/// mixpanel-node, a batch: base64 in a form whose `+`, `/` and `=` nobody has escaped.
pub fn node_batch(endpoint: &str, records: &Value) -> Request {
    let json = records.to_string();
    let body = format!("data={}", base64(&json));
    post(format!("{endpoint}?ip=0&verbose=0"), FORM, body.into_bytes(), "form, raw base64", json)
}

/// The Python SDK: JSON in a form, its options beside it in the body.
pub fn python(endpoint: &str, record: &Value) -> Request {
    let json = record.to_string();
    let body = format!("data={}&verbose=1&ip=0", percent(&json));
    post(endpoint.to_owned(), FORM, body.into_bytes(), "form, JSON", json)
}

/// The Python SDK's import: the same form with a service account.
pub fn python_import(project_id: &str, account: &str, secret: &str, record: &Value) -> Request {
    let mut request = python(&format!("/import?project_id={project_id}"), record);
    request.headers.push(("authorization", format!("Basic {}", base64(&format!("{account}:{secret}")))));
    request.wire = "form, JSON, Basic";
    request
}

/// The Swift SDK: a JSON array, gzipped on `/track` alone.
pub fn swift(endpoint: &str, records: &Value) -> Request {
    let json = records.to_string();
    let path = format!("{endpoint}/?ip=1");
    if endpoint != "/track" {
        return post(path, "application/json", json.clone().into_bytes(), "JSON", json);
    }
    let mut request = post(path, "application/json", gzip(json.as_bytes()), "JSON, gzip", json);
    request.headers.push(("content-encoding", "gzip".to_owned()));
    request
}

/// The Android SDK: percent-encoded base64 in a form.
pub fn android(endpoint: &str, records: &Value) -> Request {
    let json = records.to_string();
    let body = format!("data={}", percent(&base64(&json)));
    post(format!("{endpoint}/?ip=1"), FORM, body.into_bytes(), "form, base64", json)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector cannot fail; were it to, the relay would refuse what is half a stream.
    drop(encoder.write_all(bytes));
    encoder.finish().unwrap_or_default()
}
