//! A question's way: path, door, parameters, kept answers, single flight, budget, vendor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode, request};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::access::Credentials;
use super::answers::{self, Freshness, Refusal};
use super::cache::{Cache, Key, Whole};
use super::flights::{Flight, Flights, Landing, Turn};
use super::params::Params;
use super::paths::{self, Endpoint};
use super::upstream::{self, Host, Outgoing};
use super::wishes::Wishes;
use super::{ReadSide, intake_limits};
use crate::edge::intake;
use crate::mixpanel::quota;
use crate::store::StoreError;
use crate::vendor::budget::{ClaimError, Slot};
use crate::vendor::{Cost, Priority};

/// Longest answer that is held in memory, for others who asked the same and for later. A longer one is streamed.
const MAX_SHARED: usize = 4 << 20;
/// The longest that an answer may take to arrive while others wait for it.
const WHOLE_ANSWER: Duration = Duration::from_secs(600);
/// How often the vendor may refuse one question before its caller is told: each refusal may count.
const MAX_REFUSALS: u32 = 2;

/// What is asked, ready to go out.
struct Question {
    endpoint: Endpoint,
    outgoing: Outgoing,
    credentials: Credentials,
    /// Whether the caller wants something else than JSON.
    csv: bool,
    key: Key,
    wishes: Wishes,
}

/// What the read side remembers of answers.
#[derive(Default)]
pub struct Memory {
    cache: Mutex<Cache>,
    flights: Flights,
}

impl Memory {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Whole between statements; a panic elsewhere at worst miscounts its bytes.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets every kept answer; those that are on their way are not kept either.
    pub fn forget(&self) {
        self.cache().forget();
    }

    /// Keeps an answer that was asked for in `era`.
    fn keep(&self, era: u64, question: &Question, answer: Arc<Whole>) {
        let mut cache = self.cache();
        if cache.era() == era {
            cache.put(question.key, answer, question.endpoint.keep, Instant::now());
        }
    }
}

/// What a leader gets.
enum Led {
    Answer(Arc<Whole>),
    Stream(Response<Body>),
    /// The budget has no place within the caller's patience.
    NoPlace,
    /// The vendor has refused.
    Refused,
}

impl ReadSide {
    /// Answers one query.
    pub async fn query(self: Arc<Self>, head: request::Parts, body: Body) -> Response<Body> {
        let path = head.uri.path().to_owned();
        match self.question(head, body).await {
            Ok(question) => self.answer(question).await.unwrap_or_else(|refusal| refusal.answer(&path)),
            Err(refusal) => refusal.answer(&path),
        }
    }

    async fn question(&self, head: request::Parts, body: Body) -> Result<Question, Refusal> {
        let asked = paths::asked(head.uri.path(), head.method == Method::GET)?;
        let (params, credentials) = self.admit(&head, body).await?;
        let (body, is_form) = params.body();
        let content_type = match is_form {
            _ if body.is_empty() => None,
            true => Some(HeaderValue::from_static("application/x-www-form-urlencoded")),
            false => head.headers.get(CONTENT_TYPE).cloned(),
        };
        let mut hash = Sha256::new();
        // Neither a method nor a path can hold a nought, and a scope has its length.
        for part in [head.method.as_str().as_bytes(), asked.path.as_bytes(), &credentials.scope[..]] {
            hash.update(part);
            hash.update([0]);
        }
        params.hash(&mut hash);
        let outgoing = Outgoing {
            method: head.method,
            host: Host::Query,
            query: params.query(self.project_id.as_deref()),
            path: asked.path,
            content_type,
            body,
            label: asked.endpoint.label,
        };
        let csv = params.get("format").is_some_and(|format| format != "json");
        let wishes = Wishes::of(&head.headers);
        Ok(Question { endpoint: asked.endpoint, outgoing, credentials, csv, key: Key(hash.finalize().into()), wishes })
    }

    /// Reads the body and opens the door: what is asked, and with whose credentials.
    pub(super) async fn admit(&self, head: &request::Parts, body: Body) -> Result<(Params, Credentials), Refusal> {
        let mut caller = self.access.caller(&head.headers)?;
        let mut observe = |piece: &[u8]| {
            if let super::access::Caller::Signed(verifier) = &mut caller {
                verifier.update(piece);
            }
        };
        let intake = intake::read(&head.headers, body, &intake_limits(), &self.bodies, &mut observe).await?;
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let params = Params::read(head.uri.query().unwrap_or_default(), content_type, intake.body);
        let credentials = self.access.admit(caller, params.get("project_id"), &self.upstream, self.clock.now()).await?;
        Ok((params, credentials))
    }

    async fn answer(self: Arc<Self>, question: Question) -> Result<Response<Body>, Refusal> {
        let deadline = Instant::now() + question.wishes.wait;
        let question = Arc::new(question);
        let mut refusals = 0;
        loop {
            let kept = self.memory.cache().get(question.key, question.wishes.max_age, Instant::now());
            if let Some((answer, age, keep)) = kept {
                return Ok(self.told(&question, answers::whole(&answer, Freshness { age, keep })).await);
            }
            let led = if question.endpoint.shared {
                match self.memory.flights.join(question.key) {
                    Turn::Lead(flight) => self.clone().lead(question.clone(), Some(flight), deadline).await?,
                    Turn::Follow(follower) => match follower.landed(deadline).await {
                        Some(Landing::Answer(answer)) => Led::Answer(answer),
                        Some(Landing::Refused) if Instant::now() >= deadline => Led::NoPlace,
                        // Somebody else's patience was shorter, or its call came to nothing: it is our turn to ask.
                        Some(Landing::Refused | Landing::TooLong) | None => continue,
                    },
                }
            } else {
                self.clone().lead(question.clone(), None, deadline).await?
            };
            match led {
                Led::Answer(answer) => {
                    let keep = if keepable(&answer, &question) { question.endpoint.keep } else { Duration::ZERO };
                    let freshness = Freshness { age: Duration::ZERO, keep };
                    return Ok(self.told(&question, answers::whole(&answer, freshness)).await);
                }
                Led::Stream(response) => return Ok(self.told(&question, response).await),
                Led::NoPlace => return Ok(self.no_place(&question).await),
                Led::Refused => {
                    refusals += 1;
                    if refusals >= MAX_REFUSALS || Instant::now() >= deadline {
                        return Ok(self.no_place(&question).await);
                    }
                }
            }
        }
    }

    /// Adds where the budget stands to an answer.
    async fn told(&self, question: &Question, response: Response<Body>) -> Response<Body> {
        let standing = self.budgets.standing(question.endpoint.family, Priority::Callers, 1).await;
        answers::with_standing(response, question.endpoint.family, standing, &question.wishes)
    }

    async fn no_place(&self, question: &Question) -> Response<Body> {
        let family = question.endpoint.family;
        let standing = self.budgets.standing(family, Priority::Callers, 1).await;
        let request = request_line(&question.outgoing);
        let response = answers::no_place(family, &request, self.project_id.as_deref().unwrap_or_default(), standing);
        answers::with_standing(response, family, standing, &question.wishes)
    }

    /// Waits for a place, then asks. The call goes on without its caller, for those who follow and for later.
    async fn lead(
        self: Arc<Self>,
        question: Arc<Question>,
        flight: Option<Flight>,
        deadline: Instant,
    ) -> Result<Led, Refusal> {
        let claimed = self.budgets.claim_by(question.endpoint.family, Priority::Callers, Cost::CALL, deadline).await;
        let slot = match claimed {
            Ok(slot) => {
                if let Some(flight) = &flight {
                    flight.takes_off();
                }
                slot
            }
            Err(ClaimError::Later) => {
                if let Some(flight) = flight {
                    flight.land(Landing::Refused);
                }
                return Ok(Led::NoPlace);
            }
            Err(ClaimError::Store(error)) => return Err(store_failed(&error)),
        };
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let led = self.ask(&question, flight, slot).await;
            // A caller that has hung up loses nothing: what can be kept is kept.
            drop(sender.send(led));
        });
        // The task drops its sender only by a panic, which the process reports.
        receiver.await.unwrap_or(Err(Refusal::Store))
    }

    async fn ask(&self, question: &Question, flight: Option<Flight>, slot: Slot) -> Result<Led, Refusal> {
        let era = self.memory.cache().era();
        let sent = self.upstream.send(&question.outgoing, &question.credentials).await;
        let mut response = match sent {
            Ok(response) => response,
            Err(failure) => return Ok(land(flight, failed(&question.outgoing, failure))),
        };
        let (status, (content_type, content_disposition)) =
            (response.status(), answers::own_headers(response.headers()));
        let reading = tokio::time::timeout(WHOLE_ANSWER, upstream::read(&mut response, MAX_SHARED)).await;
        let body = match reading.unwrap_or(Err(upstream::Failure::NoAnswer)) {
            Ok(upstream::Body::Whole(body)) => body,
            Ok(upstream::Body::Begun(begun)) => {
                if let Some(flight) = flight {
                    flight.land(Landing::TooLong);
                }
                let head = Whole { status, content_type, content_disposition, body: Bytes::new() };
                return Ok(Led::Stream(streamed(&head, begun, response, slot)));
            }
            Err(failure) => return Ok(land(flight, failed(&question.outgoing, failure))),
        };
        drop(slot);
        if status == StatusCode::TOO_MANY_REQUESTS {
            let overrun = quota::overrun(response.headers(), &body);
            self.budgets.overrun(question.endpoint.family, overrun).await.map_err(|error| store_failed(&error))?;
            if let Some(flight) = flight {
                flight.land(Landing::Refused);
            }
            return Ok(Led::Refused);
        }
        let answer = Arc::new(Whole { status, content_type, content_disposition, body });
        if keepable(&answer, question) {
            // Before the landing, so that whoever comes next finds either the flight or what it brought.
            self.memory.keep(era, question, answer.clone());
        }
        Ok(land(flight, answer))
    }
}

fn land(flight: Option<Flight>, answer: Arc<Whole>) -> Led {
    if let Some(flight) = flight {
        flight.land(Landing::Answer(answer.clone()));
    }
    Led::Answer(answer)
}

pub(super) fn store_failed(error: &StoreError) -> Refusal {
    tracing::error!(%error, "a query's budget could not be written down");
    Refusal::Store
}

fn keepable(answer: &Whole, question: &Question) -> bool {
    question.wishes.store
        && answer.status == StatusCode::OK
        && !question.endpoint.keep.is_zero()
        && quota::is_answer(&answer.body, question.csv)
}

/// The path and query as the vendor gets them, which is how it names a request in its errors.
pub(super) fn request_line(outgoing: &Outgoing) -> String {
    if outgoing.query.is_empty() { outgoing.path.clone() } else { format!("{}?{}", outgoing.path, outgoing.query) }
}

/// The 502 for a vendor that did not answer, as an answer that followers can share.
fn failed(outgoing: &Outgoing, failure: upstream::Failure) -> Arc<Whole> {
    let body = serde_json::json!({ "request": request_line(outgoing), "error": failure.to_string() }).to_string();
    Arc::new(Whole {
        status: StatusCode::BAD_GATEWAY,
        content_type: Some(HeaderValue::from_static("application/json")),
        content_disposition: None,
        body: body.into(),
    })
}

/// A long answer as it comes; the place among the running is held until it ends. One that the vendor breaks off is broken
/// off here too, never ended as if whole.
fn streamed(head: &Whole, begun: Bytes, response: reqwest::Response, slot: Slot) -> Response<Body> {
    let rest = stream::unfold(Some((response, slot)), |state| async move {
        let (mut response, slot) = state?;
        match response.chunk().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some((response, slot)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let first = stream::once(async { Ok(begun) });
    let mut answer = answers::whole(head, Freshness::NEW);
    *answer.body_mut() = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    answer
}
