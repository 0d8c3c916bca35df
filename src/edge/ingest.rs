//! The way of one ingestion call: body, credentials, records, append, answer.
//!
//! Promise P1 is here: a success is answered only after [`Journal::append`] has resolved. A caller that hangs up meanwhile
//! ends this future, not the append; its share of the budget then comes back early, which is harmless because the engine
//! bounds what waits for the disk by itself.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response, request};
use tokio::time::Instant;

use super::accept::{self, Context, Implied, Verdict};
use super::answer::{self, Form, Refusal};
use super::auth::{Claim, Identity, Keys, Reservation, SignatureError};
use super::budget::{Account, Budget};
use super::caller;
use super::decode::{self, DecodeError, Shape};
use super::ids::Minter;
use super::intake::{self, Intake, IntakeError, IntakeLimits};
use super::options::Options;
use crate::alerts::{Bell, Moment};
use crate::clock::{SharedClock, UnixMillis};
use crate::config::Config;
use crate::mixpanel::Api;
use crate::mixpanel::validate::{Problem, Rules, Tokens};
use crate::privacy::{Erased, Tombstones};
use crate::record::{Kind, Project, Record};
use crate::store::{AppendError, Journal, Sent};
use crate::telemetry;

/// From this size on, a request's records are read on the blocking pool: parsing megabytes would hold up the other
/// connections of a worker thread for milliseconds.
const BIG: usize = 256 << 10;

/// What every ingestion call shares.
pub struct Ingest {
    pub config: Arc<Config>,
    pub journal: Arc<dyn Journal>,
    pub clock: SharedClock,
    pub tokens: Tokens,
    pub keys: Arc<Keys>,
    pub budget: Budget,
    pub limits: IntakeLimits,
    pub minter: Minter,
    pub tombstones: Arc<Tombstones>,
    pub bell: Arc<Bell>,
    pub appends: telemetry::Appends,
}

/// The parts of a call that its answer depends on.
struct Call {
    api: Api,
    headers: HeaderMap,
    query: String,
    peer: IpAddr,
}

impl Ingest {
    /// Answers one call to `api`.
    pub async fn handle(self: Arc<Self>, api: Api, head: request::Parts, body: Body, peer: IpAddr) -> Response<Body> {
        let claim = head.extensions.get::<Claim>().cloned().unwrap_or(Claim::Nobody);
        let query = head.uri.query().unwrap_or_default().to_owned();
        let call = Call { api, headers: head.headers, query, peer };
        let mut verifier = None;
        let identity = match claim {
            Claim::Nobody => Ok(None),
            Claim::Proven(identity) => Ok(Some(identity)),
            Claim::Wrong => Err(Refusal::Unauthorized("Invalid credentials")),
            Claim::Signed(signed) => {
                verifier = Some(self.keys.verifier(signed));
                Ok(None)
            }
        };
        let mut observe = |piece: &[u8]| {
            if let Some(verifier) = &mut verifier {
                verifier.update(piece);
            }
        };
        let intake = intake::read(&call.headers, body, &self.limits, &self.budget, &mut observe).await;
        let now = self.clock.now();
        let (body, gzip, mut account) = match intake {
            Ok(Intake { body, gzip, account }) => (body, gzip, account),
            Err(error) => return self.refuse_unread(&call, &error.into()),
        };
        if account.add(body.len()).await.is_err() {
            return self.refuse_unread(&call, &IntakeError::NoRoom(super::budget::NoRoom).into());
        }
        let sent = gzip.map(|gzip| Sent { gzip, text: body.clone() });
        let request = decode::request(&call.query, body);
        let form = Form::of(api, &request.options, request.shape, &call.headers);
        let mut reservation = None;
        let implied = if api == Api::Import {
            let identity = match verifier {
                None => identity,
                Some(verifier) => match verifier.finish(now) {
                    Ok(reserved) => {
                        reservation = Some(reserved);
                        Ok(Some(Identity::Signed))
                    }
                    Err(error) => Err(error.into()),
                },
            };
            match identity.and_then(|identity| self.authorize(identity, &request.options)) {
                Ok(implied) => Some(implied),
                Err(refusal) => return self.refuse(&call, &form, &refusal),
            }
        } else {
            None
        };
        let data = match request.data {
            Ok(data) => data,
            Err(error) => return self.refuse(&call, &form, &Refusal::Unreadable(error)),
        };
        // Held until the records are stored: an erasure waits for those that were judged before it.
        let erased = self.tombstones.now();
        let verdict = self.judge(&call, data, request.options, implied, now, erased.clone()).await;
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(DecodeError::TooManyRecords) => return self.refuse(&call, &form, &Refusal::TooManyRecords),
            Err(error) => return self.refuse(&call, &form, &Refusal::Unreadable(error)),
        };
        let response = self.store(&call, &form, verdict, sent, account, reservation).await;
        drop(erased);
        response
    }

    /// What records without a token belong to, or why the caller may not import.
    fn authorize(&self, identity: Option<Identity>, options: &Options) -> Result<Implied, Refusal> {
        let identity = match (identity, &options.api_key) {
            (Some(identity), _) => Some(identity),
            // Mixpanel answers 1 to a bare `api_key` and stores nothing (contract §2); here it counts when it is one.
            (None, Some(key)) => self.keys.api_key(key),
            (None, None) => None,
        };
        let own = || Implied {
            project: Project::Ours,
            token: self.config.mixpanel.project_tokens.first().cloned().unwrap_or_default(),
        };
        match identity {
            None => Err(Refusal::Unauthorized("Invalid credentials")),
            Some(Identity::ProjectToken { project, token }) => Ok(Implied { project, token }),
            Some(Identity::ServiceAccount) => match (&options.project_id, &self.config.mixpanel.project_id) {
                (Some(asked), Some(own)) if asked != own => {
                    Err(Refusal::Unauthorized("project_id is not the project of this relay"))
                }
                _ => Ok(own()),
            },
            Some(Identity::ApiKey | Identity::Signed) => Ok(own()),
        }
    }

    async fn judge(
        self: &Arc<Self>,
        call: &Call,
        data: Bytes,
        options: Options,
        implied: Option<Implied>,
        now: UnixMillis,
        erased: Arc<Erased>,
    ) -> Result<Verdict, DecodeError> {
        let rules = match call.api {
            Api::Import if options.strict => Rules::ImportStrict,
            Api::Import => Rules::ImportLenient,
            _ => Rules::Track,
        };
        let caller = caller::address(&call.headers, call.peer, &self.config.server.trusted_proxies);
        let (shared, api, ip) = (self.clone(), call.api, options.ip);
        let big = data.len() >= BIG;
        let read = move || {
            let context = Context {
                api,
                rules,
                tokens: &shared.tokens,
                identity: shared.config.mixpanel.identity,
                implied,
                ip,
                ip_policy: shared.config.privacy.ip,
                caller,
                now,
                minter: &shared.minter,
            };
            let mut verdict = accept::records(&data, &context)?;
            // An erased person's record is taken, since its sender must not try again, and only its place is kept.
            for record in &mut verdict.records {
                if erased.covers(record.kind, &record.body) {
                    record.body = Bytes::new();
                    verdict.untouched = false;
                }
            }
            Ok(verdict)
        };
        if !big {
            return read();
        }
        match tokio::task::spawn_blocking(read).await {
            Ok(verdict) => verdict,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is shutting down cancels; the caller is about to lose its connection.
                Err(_cancelled) => Err(DecodeError::NoData),
            },
        }
    }

    async fn store(
        &self,
        call: &Call,
        form: &Form,
        verdict: Verdict,
        sent: Option<Sent>,
        account: Account,
        reservation: Option<Reservation>,
    ) -> Response<Body> {
        for failed in &verdict.failed {
            telemetry::rejected(kind_of(call.api), failed.problem.label(), 1);
            if matches!(failed.problem, Problem::TokenUnknown | Problem::ProfileTokenUnknown) {
                self.bell.ring(Moment::UnknownToken);
            }
        }
        let stored = verdict.records.len();
        if stored > 0 {
            let sent = sent.filter(|_| verdict.untouched);
            if let Err(error) = self.append(verdict.records, sent, account).await {
                return self.refuse(call, form, &error.into());
            }
            if let Some(reservation) = reservation {
                reservation.keep();
            }
        }
        answer::judged(form, call.api, stored, &verdict.failed)
    }

    /// The account is closed when the records are synced, not before.
    async fn append(&self, records: Vec<Record>, sent: Option<Sent>, account: Account) -> Result<(), AppendError> {
        let started = Instant::now();
        let result = match sent {
            Some(sent) => self.journal.append_sent(records, sent).await,
            None => self.journal.append(records).await,
        };
        drop(account);
        self.appends.append(started.elapsed());
        result.map(|_position| ())
    }

    /// Refuses before the body could be read: its options are unknown, except for those of the query.
    fn refuse_unread(&self, call: &Call, refusal: &Refusal) -> Response<Body> {
        let request = decode::request(&call.query, Bytes::new());
        let form_type = call
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_none_or(|value| !value.contains("json"));
        let shape = if form_type { Shape::Form } else { Shape::Json };
        let form = Form::of(call.api, &request.options, shape, &call.headers);
        self.refuse(call, &form, refusal)
    }

    fn refuse(&self, call: &Call, form: &Form, refusal: &Refusal) -> Response<Body> {
        if !matches!(refusal, Refusal::Unavailable { .. } | Refusal::TooSlow) {
            telemetry::rejected(kind_of(call.api), refusal.label(), 1);
        }
        answer::refused(form, call.api, answer::is_browser(&call.headers), refusal)
    }
}

fn kind_of(api: Api) -> Kind {
    match api {
        Api::Track | Api::Import => Kind::Event,
        Api::Engage => Kind::Profile,
        Api::Groups => Kind::Group,
    }
}

impl From<IntakeError> for Refusal {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::TooLarge => Refusal::TooLarge,
            IntakeError::TooSlow => Refusal::TooSlow,
            IntakeError::Broken | IntakeError::NotInflatable | IntakeError::UnknownEncoding => Refusal::BadBody,
            IntakeError::NoRoom(_) => Refusal::Unavailable { why: "the relay is busy", retry_after: 1 },
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Refusal::Unavailable { why: "the store is busy", retry_after: 1 },
            AppendError::DiskFull { .. } => Refusal::Unavailable { why: "the disk is nearly full", retry_after: 30 },
            // The stamps made it larger than the store's largest entry: no smaller than the vendor's own limit.
            AppendError::TooLarge { .. } => Refusal::TooLarge,
            AppendError::Poisoned(_) => Refusal::Unavailable { why: "the store has failed", retry_after: 10 },
            AppendError::Full(_) => Refusal::Unavailable { why: "the store is full", retry_after: 30 },
            AppendError::Unavailable(_) => Refusal::Unavailable { why: "the store cannot be reached", retry_after: 5 },
        }
    }
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Malformed => Refusal::Unauthorized("malformed webhook signature headers"),
            SignatureError::Expired => Refusal::Unauthorized("the signature's timestamp is too old or too new"),
            SignatureError::Mismatch => Refusal::Unauthorized("the signature does not match"),
            SignatureError::Replayed => Refusal::Unauthorized("this webhook-id was used before"),
            SignatureError::TooMany => Refusal::Unavailable { why: "too many signed requests", retry_after: 30 },
        }
    }
}
