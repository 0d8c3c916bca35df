//! Whether a caller sees personal data as it is.
//!
//! A viewer does not, ever. Others do unless they ask for `masked=true`; that they have looked is noted, once an hour for
//! each kind of answer. The console asks masked until somebody wants to see more.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::Uri;
use serde::Serialize;
use serde_json::{Value, json};

use super::answers::AdminError;
use super::audit::{self, Action};
use super::auth::Caller;
use crate::clock::UnixMillis;
use crate::config::Role;
use crate::store::{State, StoreError, WriteBatch};

const PARAMETER: &str = "masked";
/// Another look within this long is not noted again.
const AGAIN: Duration = Duration::from_hours(1);

/// What stands among a request's extensions once it is known who asks.
#[derive(Clone)]
pub struct Sight {
    caller: Caller,
    masked: bool,
}

impl Sight {
    pub fn of(caller: &Caller, uri: &Uri) -> Result<Self, AdminError> {
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let asked = query.filter(|(name, _)| name == PARAMETER).map(|(_, value)| value).last();
        let viewer = caller.role < Role::Operator;
        let masked = match asked.as_deref() {
            None => viewer,
            Some("true") => true,
            Some("false") if viewer => return Err(AdminError::forbidden()),
            Some("false") => false,
            Some(_) => {
                return Err(AdminError::invalid("masked: neither true nor false".to_owned(), "write true or false"));
            }
        };
        Ok(Self { caller: caller.clone(), masked })
    }

    pub fn is_masked(&self) -> bool {
        self.masked
    }

    /// Whether the caller has only to ask.
    pub fn may_unmask(&self) -> bool {
        self.caller.role >= Role::Operator
    }

    /// Notes that somebody looks at `what` as it is. Comes before the answer.
    pub async fn noted(&self, state: &Arc<dyn State>, now: UnixMillis, what: &'static str) -> Result<(), StoreError> {
        let detail = json!({ "of": what });
        let who = &*self.caller.name;
        if self.masked || audit::has_of_late(state, now - AGAIN, who, Action::Unmask, &detail).await? {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        audit::put(&self.caller, now, Action::Unmask, detail, &mut batch)?;
        state.write(batch).await
    }

    /// An answer in which `mask` hides what names anybody.
    pub fn answer(&self, answer: &impl Serialize, mask: fn(&mut Value)) -> Result<Response, StoreError> {
        if !self.masked {
            return Ok(Json(answer).into_response());
        }
        let mut shown = serde_json::to_value(answer).map_err(|error| StoreError::Failed(error.to_string()))?;
        mask(&mut shown);
        Ok(Json(shown).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_sees_nothing_as_it_is_and_others_unless_they_ask_for_less() {
        let sees = |role, uri: &str| {
            let caller = Caller { name: "n".into(), role };
            Sight::of(&caller, &uri.parse().unwrap()).map(|sight| sight.is_masked()).ok()
        };
        for (role, uri, masked) in [
            (Role::Viewer, "/", Some(true)),
            (Role::Viewer, "/?masked=true", Some(true)),
            (Role::Viewer, "/?masked=false", None),
            (Role::Viewer, "/?masked=true&masked=false", None),
            (Role::Operator, "/", Some(false)),
            (Role::Operator, "/?a=b&masked=true", Some(true)),
            (Role::Operator, "/?%6dasked=true", Some(true)),
            (Role::Admin, "/?masked=false", Some(false)),
            (Role::Admin, "/?masked=", None),
        ] {
            assert_eq!(sees(role, uri), masked, "{role:?} {uri}");
        }
    }
}
