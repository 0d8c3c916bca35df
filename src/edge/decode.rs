//! From a request's query and (inflated) body to options and records: the twelve encodings of contract §4 with one rule.
//!
//! A body that begins with `[` or `{` is JSON, whatever its `Content-Type`; any other body is a form. `data` comes from
//! the form, else from the query; when it does not begin with a bracket it is base64, in which spaces were plus signs.
//!
//! Pure. JSON bodies are not copied: their records are slices of the body.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::options::{self, Options};
use crate::mixpanel::wire::{Element, FromObject, NotJson, Scanner};

/// Standard alphabet; padding is optional, because taking unpadded input is harmless.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why no records could be read out of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("data, missing or empty")]
    NoData,
    #[error("data, neither JSON nor base64")]
    NotBase64,
    #[error("data, not valid JSON")]
    NotJson,
    #[error("data, too many records")]
    TooManyRecords,
}

impl DecodeError {
    /// The `reason` label of `mixrelay_records_rejected_total`.
    pub fn label(self) -> &'static str {
        match self {
            DecodeError::NoData => "no_data",
            DecodeError::NotBase64 => "not_base64",
            DecodeError::NotJson => "not_json",
            DecodeError::TooManyRecords => "too_many_records",
        }
    }
}

impl From<NotJson> for DecodeError {
    fn from(_: NotJson) -> Self {
        DecodeError::NotJson
    }
}

/// How the records arrived; answers depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON or NDJSON body.
    Json,
    /// A `data` parameter in a form or a query.
    Form,
}

/// What a request holds, before its records are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub options: Options,
    pub shape: Shape,
    /// JSON text, or why there is none.
    pub data: Result<Bytes, DecodeError>,
}

/// Reads options and JSON text out of a request. `query` is the URL's, still encoded; `body` is inflated.
pub fn request(query: &str, body: Bytes) -> Request {
    let mut options = Options::default();
    let mut data = None;
    read_pairs(query.as_bytes(), &mut options, &mut data);
    let start = json_start(&body);
    if let Some(b'[' | b'{') = body.get(start) {
        return Request { options, shape: Shape::Json, data: Ok(body.slice(start..)) };
    }
    let mut form_data = None;
    read_pairs(&body, &mut options, &mut form_data);
    let data = form_data.or(data).ok_or(DecodeError::NoData).and_then(payload);
    Request { options, shape: Shape::Form, data }
}

/// Where the first byte that is neither a byte order mark nor white space stands.
fn json_start(body: &[u8]) -> usize {
    let marked = if body.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    marked + body[marked..].iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

fn read_pairs<'b>(encoded: &'b [u8], options: &mut Options, data: &mut Option<&'b [u8]>) {
    for (key, value) in options::pairs(encoded) {
        match key {
            b"data" => *data = data.or(Some(value)),
            _ => options.set(&options::text(key), &options::text(value)),
        }
    }
}

/// The JSON text in an encoded `data` value.
fn payload(encoded: &[u8]) -> Result<Bytes, DecodeError> {
    let bytes: Cow<'_, [u8]> = percent_encoding::percent_decode(encoded).into();
    let blank = |byte: &&u8| byte.is_ascii_whitespace() || **byte == b'+';
    let start = bytes.iter().take_while(blank).count();
    match bytes.get(start) {
        None => Err(DecodeError::NoData),
        // JSON in a form: a plus sign that was not escaped is a space, one that was escaped is itself.
        Some(b'[' | b'{') if encoded.contains(&b'+') => {
            let text = plus_as_space(encoded);
            let start = text.iter().take_while(blank).count();
            Ok(Bytes::from(text).slice(start..))
        }
        Some(b'[' | b'{') => Ok(Bytes::from(bytes.into_owned()).slice(start..)),
        Some(_) => from_base64(bytes.into_owned()),
    }
}

fn plus_as_space(encoded: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_encoding::percent_decode(&spaced).collect()
}

fn from_base64(mut text: Vec<u8>) -> Result<Bytes, DecodeError> {
    text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    for byte in &mut text {
        match *byte {
            b' ' | b'-' => *byte = b'+',
            b'_' => *byte = b'/',
            _ => {}
        }
    }
    let json = BASE64.decode(text).map_err(|_| DecodeError::NotBase64)?;
    let start = json_start(&json);
    match json.get(start) {
        Some(b'[' | b'{') => Ok(Bytes::from(json).slice(start..)),
        Some(_) => Err(DecodeError::NotJson),
        None => Err(DecodeError::NoData),
    }
}

/// Hands every record in `text` to `visit`, with its index: the elements of an array, one object, or one object a line;
/// at most `limit` of them. After an error, what was visited counts for nothing.
///
/// A line of NDJSON that is not JSON is one bad record ([`Element::Other`]); an array that is not JSON has no elements
/// to tell apart.
pub fn visit<'t, T: FromObject<'t>>(
    text: &'t str,
    limit: usize,
    mut visit: impl FnMut(usize, Element<T>),
) -> Result<(), DecodeError> {
    if text.starts_with('[') { array(text, limit, &mut visit) } else { objects(text, limit, &mut visit) }
}

fn array<'t, T: FromObject<'t>>(
    text: &'t str,
    limit: usize,
    visit: &mut impl FnMut(usize, Element<T>),
) -> Result<(), DecodeError> {
    let mut count = 0;
    let mut scanner = Scanner::new(text);
    scanner.elements(|element| {
        if count == limit {
            return Err(DecodeError::TooManyRecords);
        }
        visit(count, element);
        count += 1;
        Ok(())
    })?;
    scanner.end()?;
    if count == 0 { Err(DecodeError::NoData) } else { Ok(()) }
}

fn objects<'t, T: FromObject<'t>>(
    text: &'t str,
    limit: usize,
    visit: &mut impl FnMut(usize, Element<T>),
) -> Result<(), DecodeError> {
    if let Ok(only) = Scanner::whole(text) {
        visit(0, only);
        return Ok(());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut is_ndjson = false;
    for (index, line) in lines.enumerate() {
        if index == limit {
            return Err(DecodeError::TooManyRecords);
        }
        let element = Scanner::whole(line).unwrap_or(Element::Other);
        is_ndjson |= matches!(element, Element::Object(_));
        visit(index, element);
    }
    // Not a single good line: it was not NDJSON but something broken.
    if is_ndjson { Ok(()) } else { Err(DecodeError::NotJson) }
}
