//! Everybody's profiles, page by page, over limits, outages and sessions that Mixpanel has forgotten.
//!
//! The vendor keeps a query's result for a while as a session, and gives its pages by number. How long is nobody's promise,
//! and an hour's queries are forty-five pages: a session that is gone is opened anew, and read on at the same page when its
//! first page names the same people as before. When it does not, everything is read again, a few times; after that the
//! cursor goes on, and says that somebody may have been passed over.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;
use xxhash_rust::xxh3::Xxh3;

use super::PullError;
use super::wanted::Wanted;
use crate::mixpanel::calls::Calls;
use crate::mixpanel::profiles::{self, NotRead, PageQuestion, ProfilePage};
use crate::mixpanel::quota;
use crate::vendor::budget::Budgets;
use crate::vendor::stack::Stack;
use crate::vendor::{Family, TransportError};

/// How often all of it is read again because its order has changed.
const MAX_RESTARTS: u32 = 2;
/// How often a forgotten session is opened anew for one page.
const MAX_REOPENED: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Where to read on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageCursor {
    /// The page that is read next.
    pub page: u64,
    session: Option<String>,
    /// Hash of the first page's people.
    first: Option<u64>,
    restarts: u32,
    /// Pages may not have followed each other: somebody may have been passed over.
    pub uncertain: bool,
}

/// Who is asked.
pub struct ProfileSource {
    pub calls: Calls,
    /// One attempt a call.
    pub stack: Stack,
    pub budgets: std::sync::Arc<Budgets>,
    pub wanted: Wanted,
}

impl ProfileSource {
    /// The page at `cursor`, which is put right where that is not the page that was asked for. The caller moves it on.
    pub async fn page(&self, filter: &str, cursor: &mut PageCursor) -> Result<ProfilePage, PullError> {
        let mut reopened = 0;
        loop {
            if cursor.page > 0 && cursor.session.is_none() {
                let first = self.ask(filter, 0, None).await?.map_err(PullError::Refused)?;
                let people = people_of(&first);
                let same = cursor.first == Some(people);
                cursor.first = Some(people);
                cursor.session.clone_from(&first.session);
                if !same && cursor.restarts < MAX_RESTARTS {
                    cursor.restarts += 1;
                    cursor.page = 0;
                    return Ok(first);
                }
                cursor.uncertain |= !same;
                if first.last {
                    return Ok(ProfilePage { rows: Vec::new(), ..first });
                }
            }
            let session = cursor.session.as_deref().filter(|_| cursor.page > 0);
            match self.ask(filter, cursor.page, session).await? {
                Ok(page) => {
                    if cursor.page == 0 {
                        cursor.first = Some(people_of(&page));
                        cursor.session.clone_from(&page.session);
                    }
                    return Ok(page);
                }
                // The vendor says `request for page in uncached query for params`, in whichever words by now.
                Err(_) if cursor.page > 0 && reopened < MAX_REOPENED => {
                    reopened += 1;
                    cursor.session = None;
                }
                Err(words) => return Err(PullError::Refused(words)),
            }
        }
    }

    /// `Ok(Err)`: the vendor's refusal. Everything that passes is waited out.
    async fn ask(
        &self,
        filter: &str,
        page: u64,
        session: Option<&str>,
    ) -> Result<Result<ProfilePage, String>, PullError> {
        let question = PageQuestion { filter, properties: self.wanted.asked(), page, session };
        let mut wait = FIRST_BACKOFF;
        loop {
            let request = self.calls.profile_page(question).ok_or(PullError::NoServiceAccount)?;
            let trouble = match self.stack.clone().oneshot(request).await {
                Ok(answer) => match profiles::read_page(&answer) {
                    Ok(page) => return Ok(Ok(page)),
                    Err(NotRead::Limited) => {
                        let overrun = quota::overrun(&answer.headers, &answer.body);
                        self.budgets.overrun(Family::MixpanelQuery, overrun).await?;
                        continue;
                    }
                    Err(error @ NotRead::Refused { status: 500.., .. }) => error.to_string(),
                    Err(error) => return Ok(Err(error.to_string())),
                },
                Err(TransportError::Store(error)) => return Err(error.into()),
                Err(error @ TransportError::TooLong(_)) => return Ok(Err(error.to_string())),
                Err(error) => error.to_string(),
            };
            tracing::warn!(trouble, page, retry_s = wait.as_secs(), "a page of profiles cannot be read");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_BACKOFF);
        }
    }
}

fn people_of(page: &ProfilePage) -> u64 {
    let mut hash = Xxh3::new();
    for (id, _) in &page.rows {
        hash.update(&(id.len() as u64).to_le_bytes());
        hash.update(id.as_bytes());
    }
    hash.digest()
}
