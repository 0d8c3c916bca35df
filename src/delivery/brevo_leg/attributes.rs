//! The leg's side of the account: attributes that are missing are created, values without a place are counted and told.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::account::{self, SETTLING};
use super::compose::{Composed, NotPlaced};
use super::importing::IMPORT_FROM;
use super::{BrevoLeg, Done};
use crate::brevo::account::AttributeToCreate;
use crate::brevo::coerce::Unplaced;
use crate::delivery::LegError;

impl BrevoLeg {
    pub(super) fn report(&mut self, not_placed: &[NotPlaced]) {
        for NotPlaced { attribute, reason, sample } in not_placed {
            self.report_unplaced(attribute.as_str(), *reason, sample);
        }
    }

    /// Counts a value that has no place, and tells it once for each property or attribute, with what it looks like.
    pub(super) fn report_unplaced(&mut self, name: &str, reason: Unplaced, sample: &str) {
        *self.parts.books.tally_mut().not_placed.entry(reason).or_default() += 1;
        if self.reported.insert((name.to_owned(), reason)) {
            tracing::warn!(name, reason = reason.label(), sample, "values like this one cannot be placed: {reason}");
        }
    }

    pub(super) fn create_missing(&mut self, mut missing: Vec<AttributeToCreate>) {
        let in_line = self.to_pay.first.iter().chain(&self.to_pay.behind).take(IMPORT_FROM);
        let in_line: Vec<_> = in_line.cloned().collect();
        for id in in_line {
            if let Some(Composed::Missing(more)) = self.compose_for(&id) {
                missing.extend(more);
            }
        }
        let mut seen = BTreeSet::new();
        missing.retain(|attribute| seen.insert(attribute.name.clone()));
        self.read_account(missing);
    }

    pub(super) fn read_account(&mut self, wanted: Vec<AttributeToCreate>) {
        let Some(vendor) = &self.parts.vendor else { return };
        let (stack, calls) = (vendor.stack.clone(), vendor.calls.clone());
        self.account_under_way = true;
        self.spawn(Box::pin(async move { Ok(Done::Account(account::read(stack, calls, wanted).await?)) }));
    }

    /// Asks for the account as it is now, unless that is under way. What could not be created before may be possible by
    /// now.
    pub(super) fn refresh_account(&mut self) {
        if self.sends() && !self.account_under_way {
            self.refused_attributes.clear();
            self.read_account(Vec::new());
        }
    }

    pub(super) fn take_account(
        &mut self,
        account::Read { account, refused, created }: account::Read,
    ) -> Result<(), LegError> {
        self.account_under_way = false;
        self.refused_attributes.extend(refused);
        if created {
            // From now, not from when it was asked for: the calls may have waited for the gate or the budget.
            self.account_ready_at = Instant::now() + SETTLING;
        }
        // What was known goes on counting while Brevo's answer cannot be read.
        let Some(account) = account else { return Ok(()) };
        account::remember_account(&account, self.parts.books.pending_mut())?;
        self.account = Some(account);
        Ok(())
    }
}
