//! The answer to a push of several things.

use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{Response, StatusCode};
use serde::Serialize;

use crate::record::Kind;
use crate::telemetry::{self, Pushed, Webhook};

/// What was taken of a body. Things that were refused would be refused again, so they do not keep the others back.
#[derive(Debug, Default, Serialize)]
pub struct Taken {
    pub stored: usize,
    /// Things that the relay itself has sent to the one who pushes.
    #[serde(skip_serializing_if = "is_zero")]
    pub echoes: usize,
    pub refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
pub struct Refused {
    /// Its place in the body.
    pub index: usize,
    pub reason: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands in a reference
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Taken {
    /// `label` is the `reason` of `mixrelay_records_rejected_total`.
    pub fn refuse(&mut self, index: usize, label: &'static str, reason: &impl std::fmt::Display) {
        telemetry::rejected(Kind::Event, label, 1);
        self.refused.push(Refused { index, reason: reason.to_string() });
    }

    pub fn count(&self, webhook: Webhook) {
        telemetry::pushed(webhook, Pushed::Stored, self.stored as u64);
        telemetry::pushed(webhook, Pushed::Echo, self.echoes as u64);
        telemetry::pushed(webhook, Pushed::Refused, self.refused.len() as u64);
    }

    /// 200, unless nothing of it can be used: 400 shows a sender that is set up wrongly what is wrong.
    pub fn into_response(self) -> Response<Body> {
        let none = self.stored == 0 && self.echoes == 0 && !self.refused.is_empty();
        let status = if none { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        (status, axum::Json(self)).into_response()
    }
}
