//! One request as read, one answer as built: the two shapes that every simulated endpoint works with.

use std::borrow::Cow;
use std::io::Read;
use std::net::SocketAddr;

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

/// The largest body that any simulated endpoint takes: a lookup table of 100 MB, and some air.
const MAX_BODY: usize = 110 * 1024 * 1024;

/// A request, wholly read.
pub(super) struct Call {
    pub method: Method,
    /// As sent, without the query.
    pub path: String,
    pub raw_query: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    /// As sent: not inflated.
    pub body: Bytes,
    pub peer: SocketAddr,
}

impl Call {
    /// The refusal is a 413 for an oversized body and a 400 for one that broke off.
    pub async fn read<B>(request: Request<B>, peer: SocketAddr) -> Result<Self, Reply>
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
    {
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(whole) => whole.to_bytes(),
            Err(refused) if refused.is::<http_body_util::LengthLimitError>() => {
                return Err(Reply::json(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "request too large" })));
            }
            Err(_) => return Err(Reply::json(StatusCode::BAD_REQUEST, &json!({ "error": "request body broke off" }))),
        };
        let raw_query = head.uri.query().unwrap_or_default().to_owned();
        let query = form_urlencoded::parse(raw_query.as_bytes()).into_owned().collect();
        let path = head.uri.path().to_owned();
        Ok(Self { method: head.method, path, raw_query, query, headers: head.headers, body, peer })
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter that may repeat, with or without `[]`, or hold a comma-separated list.
    pub fn query_list(&self, name: &str) -> Vec<&str> {
        let matches = |key: &str| key == name || key.strip_suffix("[]") == Some(name);
        self.query.iter().filter(|(key, _)| matches(key)).flat_map(|(_, value)| value.split(',')).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Path segments, percent-decoded; a trailing slash changes nothing.
    pub fn segments(&self) -> Vec<Cow<'_, str>> {
        self.path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| percent_encoding::percent_decode_str(part).decode_utf8_lossy())
            .collect()
    }

    /// The body after `Content-Encoding: gzip`, up to `limit` bytes.
    pub fn inflated(&self, limit: usize) -> Result<Cow<'_, [u8]>, Inflate> {
        if !self.header("content-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("gzip")) {
            return if self.body.len() > limit { Err(Inflate::TooLarge) } else { Ok(Cow::Borrowed(&self.body)) };
        }
        let mut whole = Vec::with_capacity(self.body.len().saturating_mul(4).min(limit));
        let mut bounded = MultiGzDecoder::new(&self.body[..]).take(limit as u64 + 1);
        bounded.read_to_end(&mut whole).map_err(|_| Inflate::Broken)?;
        if whole.len() > limit { Err(Inflate::TooLarge) } else { Ok(Cow::Owned(whole)) }
    }

    /// The headers as a JSON object, for the inspection API. Repeated headers are joined by a comma.
    pub fn headers_json(&self) -> Value {
        let mut object = serde_json::Map::new();
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            match object.get_mut(name.as_str()) {
                Some(Value::String(earlier)) => earlier.extend([", ", &value]),
                _ => drop(object.insert(name.as_str().to_owned(), value.into_owned().into())),
            }
        }
        Value::Object(object)
    }
}

/// Why a body could not be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inflate {
    TooLarge,
    Broken,
}

/// An answer that is whole in memory.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub status: StatusCode,
    /// A list and not a map: a reply is also an error type, which should be small.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Reply {
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static(content_type))];
        Self { status, headers, body: body.into() }
    }

    pub fn json(status: StatusCode, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn ok(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header; a value that cannot be one is left out.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
