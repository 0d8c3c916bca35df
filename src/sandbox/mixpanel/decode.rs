//! From a request to records: every encoding of `/track`, `/engage`, `/groups` and `/import` (contract §3, §4).

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::super::http::{Call, Inflate};

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);

/// Records with the options that came along in the query or the form.
#[derive(Debug, Default)]
pub struct Submission {
    pub records: Vec<Value>,
    /// The body was a form, or there was none and `data` was in the query.
    pub form: bool,
    options: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum DecodeError {
    TooLarge,
    BrokenGzip,
    /// No `data`, or none that is base64 or JSON.
    NoData,
}

impl Submission {
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn verbose(&self) -> bool {
        self.option("verbose").is_some_and(|level| matches!(level, "1" | "2" | "true"))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.option(name) == Some("1")
    }
}

/// The error comes with what is known of the options, which decide the shape of the refusal.
pub fn decode(call: &Call, limit: usize) -> (Submission, Result<(), DecodeError>) {
    let mut submission = Submission { options: call.query.clone(), ..Submission::default() };
    let outcome = read(call, limit, &mut submission);
    (submission, outcome)
}

fn read(call: &Call, limit: usize, into: &mut Submission) -> Result<(), DecodeError> {
    let body = call.inflated(limit).map_err(|refused| match refused {
        Inflate::TooLarge => DecodeError::TooLarge,
        Inflate::Broken => DecodeError::BrokenGzip,
    })?;
    let start = body.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(body.len());
    if matches!(body.get(start), Some(b'[' | b'{')) {
        into.records = documents(&body[start..])?;
        return Ok(());
    }
    into.form = true;
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let data = form.iter().chain(&call.query).find(|(key, _)| key == "data").map(|(_, value)| value.clone());
    into.options.extend(form.into_iter().filter(|(key, _)| key != "data"));
    let data = data.ok_or(DecodeError::NoData)?;
    into.records = documents(&plain(&data)?)?;
    Ok(())
}

/// JSON as it is; base64 decoded, where a raw `+` has become a space on its way through the form.
fn plain(data: &str) -> Result<Cow<'_, [u8]>, DecodeError> {
    let trimmed = data.trim();
    if trimmed.starts_with(['[', '{']) {
        return Ok(Cow::Borrowed(trimmed.as_bytes()));
    }
    let encoded = trimmed.replace(' ', "+");
    STANDARD.decode(&encoded).or_else(|_| URL_SAFE.decode(&encoded)).map(Cow::Owned).map_err(|_| DecodeError::NoData)
}

/// One document or many (NDJSON); arrays are opened.
fn documents(bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let mut records = Vec::new();
    for document in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
        match document.map_err(|_| DecodeError::NoData)? {
            Value::Array(items) if records.is_empty() => records = items,
            Value::Array(items) => records.extend(items),
            single => records.push(single),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::call;

    fn records(call: &Call) -> Vec<Value> {
        let (submission, outcome) = decode(call, 1 << 20);
        outcome.expect("decodes");
        submission.records
    }

    #[test]
    fn every_sdk_encoding_yields_the_same_records() {
        let json = r#"[{"event":"a b+c","properties":{"x":"ÿ>>>???"}}]"#;
        let base64 = base64::engine::general_purpose::STANDARD.encode(json);
        let escaped = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let form = "application/x-www-form-urlencoded";
        let expected: Vec<Value> = serde_json::from_str(json).expect("valid");
        let gzip = {
            use std::io::Write;
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(format!("data={}", escaped(&base64)).as_bytes()).expect("in memory");
            out.finish().expect("in memory")
        };
        let cases = [
            (
                "form json",
                call("POST", "/track?verbose=1", &[("content-type", form)], format!("data={}", escaped(json))),
            ),
            ("form base64", call("POST", "/track", &[("content-type", form)], format!("data={}", escaped(&base64)))),
            ("raw base64", call("POST", "/track", &[("content-type", form)], format!("data={base64}"))),
            ("beacon", call("POST", "/track/", &[("content-type", "text/plain")], format!("data={}", escaped(json)))),
            ("get", call("GET", &format!("/track?ip=0&data={}", escaped(&base64)), &[], "")),
            ("json", call("POST", "/track", &[("content-type", "application/json")], json)),
            ("ndjson", call("POST", "/import", &[], json.trim_matches(['[', ']']))),
            ("gzip form", call("POST", "/track", &[("content-encoding", "gzip")], gzip)),
        ];
        for (name, call) in &cases {
            assert_eq!(records(call), expected, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives_every_encoding(texts in proptest::collection::vec(".{0,40}", 1..5)) {
            let sent: Vec<Value> = texts.iter().map(|text| serde_json::json!({ "event": text })).collect();
            let json = Value::from(sent.clone()).to_string();
            let base64 = base64::engine::general_purpose::STANDARD.encode(&json);
            let escaped = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let lines: Vec<String> = sent.iter().map(Value::to_string).collect();
            for body in [json.clone(), format!("data={}", escaped(&json)), format!("data={}", escaped(&base64)),
                format!("ip=1&data={base64}"), lines.join("\n")] {
                proptest::prop_assert_eq!(&records(&call("POST", "/track", &[], body)), &sent);
            }
        }

        #[test]
        fn no_body_upsets_the_decoder(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            for headers in [&[][..], &[("content-encoding", "gzip")][..]] {
                let (submission, outcome) = decode(&call("POST", "/track", headers, body.clone()), 100);
                proptest::prop_assert!(outcome.is_ok() || submission.records.is_empty());
            }
        }
    }

    #[test]
    fn options_come_from_query_and_form() {
        let (submission, outcome) = decode(&call("POST", "/track?ip=0", &[], "data=%5B%5D&verbose=1"), 1 << 20);
        outcome.expect("decodes");
        assert!(submission.verbose() && submission.option("ip") == Some("0"));
    }

    #[test]
    fn a_bomb_and_nonsense_are_told_apart() {
        assert_eq!(decode(&call("POST", "/track", &[], "data=%%%"), 99).1, Err(DecodeError::NoData));
        assert_eq!(decode(&call("POST", "/track", &[], vec![b'['; 100]), 99).1, Err(DecodeError::TooLarge));
        let broken = call("POST", "/track", &[("content-encoding", "gzip")], "not gzip");
        assert_eq!(decode(&broken, 99).1, Err(DecodeError::BrokenGzip));
    }
}
