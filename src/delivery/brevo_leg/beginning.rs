//! Since when this relay delivers events to Brevo: what happened before is a backfill's to bring, and nothing else (CORE 11).
//!
//! The mark is that of the first event of an app's that was read with `mode: live`; it is written with the checkpoint that
//! knows of the record, and never moves.

use std::sync::Arc;

use super::BrevoLeg;
use crate::clock::UnixMillis;
use crate::config::BrevoMode;
use crate::record::{Kind, Origin, Record};
use crate::store::{State, StoreError, Table};

/// Its place among the singletons: the milliseconds, in digits.
const KEY: &[u8] = b"brevo/delivers_since";

/// When the first event was accepted that this relay has taken to Brevo; `None` before there was one.
pub async fn delivers_since(state: &Arc<dyn State>) -> Result<Option<UnixMillis>, StoreError> {
    let Some(stored) = state.get(Table::Meta, vec![KEY.to_vec()]).await?.into_iter().next().flatten() else {
        return Ok(None);
    };
    let millis = std::str::from_utf8(&stored).ok().and_then(|digits| digits.parse().ok());
    let millis = millis.ok_or_else(|| StoreError::Corrupt("since when Brevo is delivered to".to_owned()))?;
    Ok(Some(UnixMillis(millis)))
}

impl BrevoLeg {
    /// Notes the first event that is this relay's own to deliver.
    pub(super) fn note_beginning(&mut self, record: &Record) {
        let own = matches!(record.origin, Origin::App | Origin::MixpanelStream) && record.kind == Kind::Event;
        if self.delivers_since.is_none() && own && self.parts.settings.mode == BrevoMode::Live {
            self.delivers_since = Some(record.received_at);
            let digits = record.received_at.0.to_string().into_bytes();
            self.parts.books.pending_mut().put(Table::Meta, KEY, digits);
        }
    }
}
