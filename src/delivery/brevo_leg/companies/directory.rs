//! All companies of the account, read page by page: cheaper than a look for each of many groups.

use std::collections::{BTreeSet, HashSet};

use super::payer::Caller;
use crate::brevo::companies::{self as brevo, Company};
use crate::delivery::LegError;

/// Companies asked for at a time; the largest limit is unconfirmed (contract §6).
const LIMITS: [u64; 2] = [1_000, 50];
/// Pages read at most. An account with more is looked through name by name.
const MOST_PAGES: usize = 30;
/// A page with fewer is the last, whatever limit Brevo has made of ours.
const FULL: usize = 50;

/// Every company that bears one of `names`, oldest first. `None`: there are too many companies, or Brevo does not say.
///
/// Whether `page` counts pages from 1 or companies from 0 is unconfirmed. Companies that come twice tell the latter, and
/// the very first company is asked for at the end.
pub async fn read(caller: &Caller, names: &BTreeSet<String>) -> Result<Option<Vec<Company>>, LegError> {
    let mut found = Found { seen: HashSet::new(), named: Vec::new(), names };
    let mut limits = LIMITS.into_iter();
    let Some(mut limit) = limits.next() else { return Ok(None) };
    let (mut page, mut counts_companies) = (1, false);
    for _ in 0..MOST_PAGES {
        let answer = caller.call(caller.calls.companies(page, limit)).await?;
        let companies = match (brevo::page(&answer), limits.next()) {
            (Ok(companies), _) => companies,
            (Err(_), Some(smaller)) if found.seen.is_empty() => {
                limit = smaller;
                continue;
            }
            (Err(error), _) => {
                tracing::warn!(%error, "Brevo's companies cannot be read");
                return Ok(None);
            }
        };
        let count = companies.len();
        let new = found.take(companies);
        if count < FULL || new == 0 {
            let answer = caller.call(caller.calls.companies(0, 1)).await?;
            found.take(brevo::page(&answer).unwrap_or_default());
            return Ok(Some(found.named));
        }
        counts_companies |= new < count;
        page = if counts_companies { found.seen.len() as u64 } else { page + 1 };
    }
    tracing::info!(companies = found.seen.len(), "the account has more companies than are read at once");
    Ok(None)
}

struct Found<'a> {
    seen: HashSet<brevo::CompanyId>,
    named: Vec<Company>,
    names: &'a BTreeSet<String>,
}

impl Found<'_> {
    /// How many of `companies` are new.
    fn take(&mut self, companies: Vec<Company>) -> usize {
        let before = self.seen.len();
        for company in companies {
            let named = company.name().is_some_and(|name| self.names.contains(name));
            if self.seen.insert(company.id.clone()) && named {
                self.named.push(company);
            }
        }
        self.seen.len() - before
    }
}
