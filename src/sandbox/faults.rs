//! Faults on request: what goes wrong, for whom, on which paths and how often.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::http::{Call, Reply};
use super::server::Reset;

/// Long enough on loopback for bytes written to be on their way.
const FLUSHED: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    Mixpanel,
    Brevo,
}

/// Whether the vendor has done the work by the time the fault strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Nothing is stored.
    #[default]
    Before,
    /// The request took effect; only its answer is lost or spoilt.
    After,
}

/// One rule of `PUT /faults`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Both vendors when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<Vendor>,
    /// Paths that begin so (`/import`, `/v3/contacts`); all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// For the next N matching requests; until deleted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    #[serde(default)]
    pub when: Moment,
    #[serde(flatten)]
    pub kind: FaultKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// Answers late. Adds up with other faults.
    Latency { ms: u64 },
    /// A fixed status. Without a body, one in the vendor's manner.
    Status {
        status: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: Option<Value>,
    },
    /// Ends the connection with a TCP reset.
    Reset,
    /// Reads the request and never answers.
    BlackHole,
    /// A 200 whose body is not what its type says.
    Garbage,
    /// A 200 with an error inside.
    ErrorInOk {
        #[serde(default)]
        body: Option<Value>,
    },
    /// The answer ends in the middle, after so many bytes of its body, and the connection with it.
    BreakOff { after_bytes: usize },
    /// The answer trickles, `chunk` bytes every `every_ms`.
    Slow { chunk: usize, every_ms: u64 },
}

/// Reads `PUT /faults`: one fault or a list. A key that means nothing is refused: a misspelt `path_prefix` would
/// strike everywhere.
pub(super) fn read_faults(body: &Value) -> Result<Vec<Fault>, serde_json::Error> {
    let items = body.as_array().map_or_else(|| std::slice::from_ref(body), Vec::as_slice);
    items.iter().map(read_fault).collect()
}

fn read_fault(item: &Value) -> Result<Fault, serde_json::Error> {
    let fault = Fault::deserialize(item)?;
    let understood = serde_json::to_value(&fault)?;
    let unknown = item
        .as_object()
        .into_iter()
        .flatten()
        .find(|(key, value)| !value.is_null() && understood.get(key.as_str()).is_none());
    match unknown {
        Some((key, _)) => Err(serde::de::Error::custom(format!("unknown field `{key}`"))),
        None => Ok(fault),
    }
}

/// The faults in force, with how often each has struck.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<(Fault, u64)>,
}

/// What is to happen to one request.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub delay: Duration,
    pub before: Option<FaultKind>,
    pub after: Option<FaultKind>,
}

impl Faults {
    pub fn replace(&mut self, faults: Vec<Fault>) {
        self.rules = faults.into_iter().map(|fault| (fault, 0)).collect();
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    pub fn describe(&self) -> Value {
        self.rules.iter().map(|(fault, hits)| json!({ "fault": fault, "hits": hits })).collect()
    }

    /// Spends one use of every latency that matches, and of the first other fault that does.
    pub fn take(&mut self, vendor: Vendor, call: &Call) -> Plan {
        let mut plan = Plan::default();
        for (fault, hits) in &mut self.rules {
            let matches = fault.vendor.is_none_or(|only| only == vendor)
                && fault.path_prefix.as_ref().is_none_or(|prefix| call.path.starts_with(prefix))
                && fault.method.as_ref().is_none_or(|method| call.method.as_str() == method)
                && fault.times.is_none_or(|times| *hits < times);
            if !matches {
                continue;
            }
            if let FaultKind::Latency { ms } = fault.kind {
                plan.delay += Duration::from_millis(ms);
            } else if plan.before.is_some() || plan.after.is_some() {
                continue;
            } else if fault.when == Moment::Before && !fault.kind.spoils_the_answer() {
                plan.before = Some(fault.kind.clone());
            } else {
                plan.after = Some(fault.kind.clone());
            }
            *hits += 1;
        }
        plan
    }
}

impl FaultKind {
    /// There must be an answer for these to spoil, so the work is always done.
    fn spoils_the_answer(&self) -> bool {
        matches!(self, FaultKind::Slow { .. } | FaultKind::BreakOff { .. })
    }

    /// What the caller sees. `reply` is the true answer, when the request was worked on. `None` cuts the connection.
    pub(super) async fn play(self, vendor: Vendor, reply: Option<Reply>, reset: Reset) -> Option<Response<Body>> {
        match self {
            FaultKind::Latency { .. } => reply.map(Reply::into_response),
            FaultKind::Status { status, headers, body } => Some(fixed(vendor, status, &headers, body).into_response()),
            FaultKind::Reset => {
                reset.request();
                None
            }
            FaultKind::BlackHole => std::future::pending().await,
            FaultKind::Garbage => {
                let garbage: &[u8] = b"<html>\x00\xff\xfe{]]]} not what you asked for";
                Some(Reply::new(StatusCode::OK, "application/json", garbage).into_response())
            }
            FaultKind::ErrorInOk { body } => {
                let body = body.unwrap_or_else(|| match vendor {
                    Vendor::Mixpanel => json!({ "error": "something went wrong", "status": 0 }),
                    Vendor::Brevo => json!({ "code": "invalid_parameter", "message": "something went wrong" }),
                });
                Some(Reply::ok(&body).into_response())
            }
            FaultKind::BreakOff { after_bytes } => reply.map(|reply| break_off(reply, after_bytes)),
            FaultKind::Slow { chunk, every_ms } => reply.map(|reply| trickle(reply, chunk.max(1), every_ms)),
        }
    }
}

/// A fixed status with the body that was asked for, else one in the vendor's manner.
fn fixed(vendor: Vendor, status: u16, headers: &BTreeMap<String, String>, body: Option<Value>) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = status.canonical_reason().unwrap_or("error");
    let body = body.unwrap_or_else(|| match vendor {
        Vendor::Mixpanel => json!({ "code": status.as_u16(), "error": reason, "status": reason }),
        Vendor::Brevo => json!({ "code": reason.to_lowercase().replace(' ', "_"), "message": reason }),
    });
    let mut reply = Reply::json(status, &body);
    if vendor == Vendor::Brevo && status == StatusCode::TOO_MANY_REQUESTS {
        reply = reply.header("x-sib-ratelimit-remaining", "0").header("x-sib-ratelimit-reset", "1");
    }
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            reply.headers.push((name, value));
        }
    }
    reply
}

/// The announced length stays that of the whole, so a caller can tell.
fn break_off(reply: Reply, after_bytes: usize) -> Response<Body> {
    let whole = reply.body.len();
    let kept = reply.body.slice(..after_bytes.min(whole.saturating_sub(1)));
    let mut response = Reply { body: Bytes::new(), ..reply }.into_response();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole));
    let end = async {
        // What was written so far must leave first: a failed body throws unsent bytes away.
        tokio::time::sleep(FLUSHED).await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
    };
    *response.body_mut() = Body::from_stream(stream::once(async { Ok(kept) }).chain(stream::once(end)));
    response
}

fn trickle(reply: Reply, chunk: usize, every_ms: u64) -> Response<Body> {
    let mut response = Reply { body: Bytes::new(), ..reply.clone() }.into_response();
    *response.body_mut() = Body::from_stream(stream::unfold(reply.body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        let next = rest.split_to(chunk.min(rest.len()));
        Some((Ok::<Bytes, Infallible>(next), rest))
    }));
    response
}
