//! What an answer means for the destination as a whole.
//!
//! A vendor's room judges its answers with a [`Judge`]; the stack acts on the [`Verdict`]. Only [`Verdict::Definite`]
//! answers leave the stack: what they mean for the records inside is the leg's affair.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{TransportError, VendorAnswer};

/// What to do with a call, given its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The vendor has spoken about this request: success, or a refusal that trying again unchanged would repeat.
    Definite,
    /// The destination is in trouble (5xx, timeouts, resets): back off, then send the same again.
    Retry,
    /// Over a limit; `after` is the vendor's own hint, already capped.
    RateLimited { after: Option<Duration> },
    /// Nothing will be accepted until somebody acts: hold everything, probe without spending a record (CORE 16).
    Pause(PauseCause),
}

/// Why a destination takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    /// 401: the key or the service account is wrong, expired or revoked.
    Credentials,
    /// 401 at Brevo whose text speaks of an unrecognised IP address (Brevo contract §1.2).
    UnknownIp,
    /// 402: the account has no credits or its plan no API.
    Payment,
    /// 403: the account may not do this.
    Permission,
    /// The dead letters of this destination are full (CORE 15).
    DeadLettersFull,
    /// Somebody paused it.
    ByHand,
    /// The store is a restored backup (CORE 1).
    Restored,
}

impl PauseCause {
    /// What the operator is told to do.
    pub fn advice(self) -> &'static str {
        match self {
            PauseCause::Credentials => {
                "the vendor refuses the credentials: put a valid key or service account into the configuration and restart"
            }
            PauseCause::UnknownIp => {
                "Brevo does not know this machine's address: allow it at app.brevo.com/security/authorised_ips"
            }
            PauseCause::Payment => "the vendor asks for payment: check the plan and the credits of the account",
            PauseCause::Permission => "the vendor forbids this: check the role of the key or service account",
            PauseCause::DeadLettersFull => {
                "dead letters have reached retention.dead_letter_bytes: replay or purge them"
            }
            PauseCause::ByHand => "paused by hand: resume it when ready",
            PauseCause::Restored => {
                "a backup was restored: what was delivered after it was taken will be sent again; resume when that is right"
            }
        }
    }

    /// Whether nothing but a person ends it.
    pub fn asks_for_somebody(self) -> bool {
        matches!(self, PauseCause::ByHand | PauseCause::Restored)
    }

    /// Whether a probe can find out that the cause is gone.
    pub fn probed(self) -> bool {
        !self.asks_for_somebody() && self != PauseCause::DeadLettersFull
    }
}

/// How one vendor's answers are judged.
pub type Judge = fn(&VendorAnswer) -> Verdict;

/// Judges an attempt, answered or not.
pub fn judge(judge: Judge, result: &Result<VendorAnswer, TransportError>) -> Verdict {
    match result {
        Ok(answer) => judge(answer),
        Err(_) => Verdict::Retry,
    }
}
