//! Whose turn it is, and what an answer means for the records behind it.

use std::time::Duration;

use tokio::time::Instant;

use super::compose::{NotPlaced, as_record};
use super::making::Making;
use super::payer::{self, Account, Caller, End, Facts, Paid, Payer};
use super::{Back, Companies};
use crate::brevo::companies::attributes::NewAttribute;
use crate::brevo::outcome::Refusal;
use crate::clock::UnixMillis;
use crate::config::BrevoMode;
use crate::delivery::LegError;
use crate::delivery::brevo_leg::{BrevoLeg, Done};
use crate::delivery::dead_letters::{DeadLetter, RefusedWrite};
use crate::delivery::history::Span;
use crate::people::company::rows;
use crate::people::company::{self, Debt, GroupId, Place};
use crate::record::Kind;
use crate::settlement::{DeadReason, SkipRule};
use crate::store::WriteBatch;

/// How long the account's company attributes are good for, unless one is missing: a look costs one of 100 calls an hour.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(6 * 3600);
/// Companies that were left owed and are loaded at a time.
const LOADED_AT_ONCE: usize = 500;
/// How long companies stay shut after Brevo has refused them as such (402, 403, a key that is gone).
const PAUSE: Duration = Duration::from_secs(900);
/// Values sent right after an attribute was made may be dropped (contract §5).
const SETTLING: Duration = Duration::from_millis(3_500);

impl BrevoLeg {
    pub(super) fn company_caller(&self) -> Option<Caller> {
        let vendor = self.parts.vendor.as_ref()?;
        Some(Caller {
            calls: vendor.calls.clone(),
            stack: vendor.companies.stack.clone(),
            budgets: vendor.budgets.clone(),
            status: self.parts.status.clone(),
        })
    }

    /// What came of a making is written down with the next checkpoint; until then none is begun, whose note that would take
    /// away.
    pub(super) fn making_settled(&mut self) {
        Making::settled(self.parts.books.pending_mut());
        self.companies.settled_page = self.page;
    }

    /// Starts the next piece of work for companies, if it may begin.
    pub(in super::super) fn start_companies(&mut self) {
        self.watch_company_gate();
        let now = Instant::now();
        let companies = &mut self.companies;
        let nothing_owed = companies.line.is_empty() && companies.links_ready() == 0;
        let not_written = companies.settled_page > self.durable_page;
        if companies.busy || nothing_owed || not_written || companies.next_at > now {
            return;
        }
        // Debts from a time before the mode was changed stay owed; a pilot is about people.
        if !self.sends() || self.parts.settings.mode == BrevoMode::Pilot {
            return;
        }
        let Some(caller) = self.company_caller() else { return };
        let companies = &mut self.companies;
        if !std::mem::replace(&mut companies.import_awaited, true) {
            return self.await_company_import(caller);
        }
        let unread = companies.read_at.is_none_or(|at| now - at > READ_AGAIN_AFTER);
        let wanted = std::mem::take(&mut companies.wanted);
        if unread || !wanted.is_empty() {
            return self.read_company_account(caller, wanted);
        }
        companies.links_next = !companies.links_next;
        if (companies.links_next || companies.line.is_empty()) && self.start_links() {
            return;
        }
        let companies = &mut self.companies;
        let first: Vec<_> = companies.line.iter().take(LOADED_AT_ONCE).map(|(_, group)| group.clone()).collect();
        let missing = companies.missing(first.iter());
        if !missing.is_empty() {
            companies.busy = true;
            let state = self.parts.state.clone();
            return self
                .spawn(Box::pin(async move { Ok(Done::Companies(Back::Loaded(rows::load(&state, missing).await?))) }));
        }
        if self.start_company_import(&first, &caller) {
            return;
        }
        if let Some(group) = first.into_iter().next() {
            self.pay_company(group, caller);
        }
    }

    /// Reads the account's company attributes, after making `wanted`.
    pub(super) fn read_company_account(&mut self, caller: Caller, wanted: Vec<NewAttribute>) {
        self.companies.busy = true;
        self.spawn(Box::pin(
            async move { Ok(Done::Companies(Back::Account(payer::read_account(caller, wanted).await?))) },
        ));
    }

    fn pay_company(&mut self, group: GroupId, caller: Caller) {
        let Some(account) = self.companies.attributes.clone() else { return self.companies.hold() };
        let held = self.companies.held_ids();
        let Some((company, debt)) = self.companies.begin(&group) else { return };
        let payer = Payer {
            caller,
            state: self.parts.state.clone(),
            account,
            mapping: self.parts.mapping.clone(),
            may_create: self.parts.settings.create_attributes,
            refused: self.companies.refused.clone(),
            held,
            group: group.clone(),
            company,
            debt,
            facts: Facts::default(),
        };
        self.companies.busy = true;
        self.spawn(Box::pin(async move { Ok(Done::Companies(Back::Paid(group, Box::new(payer.pay().await?)))) }));
    }

    /// The gate of the companies has no probe: it is opened after a while, and the next call finds out.
    fn watch_company_gate(&mut self) {
        let Some(vendor) = &self.parts.vendor else { return };
        let (gate, now) = (&vendor.companies.gate, Instant::now());
        match (gate.paused(), self.companies.retry_pause_at) {
            (None, _) => self.companies.retry_pause_at = None,
            (Some(cause), None) => {
                tracing::warn!(advice = cause.advice(), "Brevo takes no companies; contacts and events go on");
                self.companies.retry_pause_at = Some(now + PAUSE);
            }
            (Some(_), Some(at)) if at <= now => {
                gate.resume();
                self.companies.retry_pause_at = None;
            }
            (Some(_), Some(_)) => {}
        }
    }

    pub(in super::super) fn take_back_companies(&mut self, back: Back) -> Result<(), LegError> {
        self.companies.busy = false;
        match back {
            Back::Loaded(loaded) => self.companies.take_in(loaded),
            Back::Account(account) => self.take_company_account(account)?,
            Back::Paid(group, paid) => self.settle_company(&group, *paid)?,
            Back::Links { group, companies, people, loaded } => {
                self.companies.take_in(companies);
                self.take_in(loaded);
                self.tell_links(group, people);
            }
            Back::Imported(imported) => self.settle_company_import(imported),
            Back::LinksPaid(group, paid) => self.settle_links(&group, *paid),
        }
        Ok(())
    }

    fn take_company_account(&mut self, account: Account) -> Result<(), LegError> {
        self.companies.learn_limit(account.window);
        let Some(attributes) = account.attributes else {
            self.companies.hold();
            return Ok(());
        };
        payer::remember(&attributes, self.parts.books.pending_mut())?;
        let now = Instant::now();
        let companies = &mut self.companies;
        companies.attributes = Some(attributes);
        companies.read_at = Some(now);
        companies.refused = account.refused;
        if account.created {
            companies.next_at = companies.next_at.max(now + SETTLING);
        }
        Ok(())
    }

    fn settle_company(&mut self, group: &GroupId, paid: Paid) -> Result<(), LegError> {
        let Paid { end, facts, not_placed, window } = paid;
        self.companies.learn_limit(window);
        self.making_settled();
        self.companies.report(&not_placed);
        if matches!(end, End::Done { .. } | End::NotPlaced | End::Refused(_)) {
            self.companies.alone.remove(group);
        }
        if !matches!(end, End::Misrouted(_)) {
            self.companies.misrouted = 0;
        }
        if let Some(id) = &facts.released {
            rows::release(id, self.parts.books.pending_mut());
        }
        match end {
            End::Done { maybe_twice } => {
                let debt = self.companies.end(group, facts, true);
                self.parts.books.deliver_owed(group, Span::from(&debt), Kind::Group);
                self.parts.books.tally_mut().maybe_twice += if maybe_twice { debt.records } else { 0 };
                self.companies.links_may_go(group);
            }
            End::NotPlaced => {
                let debt = self.companies.end(group, facts, true);
                self.parts.books.skip_owed(group, Span::from(&debt), SkipRule::NotPlaced);
            }
            End::Refused(refusal) => self.bury_company(group, facts, &refusal)?,
            End::Missing(wanted) => {
                self.companies.end(group, facts, false);
                self.companies.wanted = wanted;
            }
            End::Gone => {
                tracing::warn!("a company is not at Brevo any more, and is made anew");
                self.companies.end(group, facts, false);
            }
            End::Misrouted(refusal) => {
                self.companies.end(group, facts, false);
                self.companies.hold();
                tracing::warn!(%refusal, "Brevo does not answer for companies; contacts and events go on");
            }
        }
        Ok(())
    }

    /// A refused write is one dead letter that says what Brevo did not take. The other records that were folded into it
    /// are counted as superseded.
    fn bury_company(&mut self, group: &GroupId, facts: Facts, refusal: &Refusal) -> Result<(), LegError> {
        let debt = self.companies.end(group, facts, true);
        let resident = self.companies.residents.get(group);
        let company = resident.map(|resident| resident.company.clone()).unwrap_or_default();
        let (record, now) = (as_record(group, &company, &debt), self.parts.clock.now());
        let letter = DeadLetter::new(&record, DeadReason::Rejected, &refusal.to_string(), now);
        let (attributes, deletion) = (debt.attributes.clone(), debt.delete.is_some());
        let write = RefusedWrite { attributes, deletion, ..RefusedWrite::default() };
        self.parts.books.hold(debt.since, &letter.of_write(write))?;
        self.parts.books.skip_owed(group, Span::from(&debt).but_one(), SkipRule::Superseded);
        self.check_dead_letters();
        Ok(())
    }
}

impl Companies {
    /// Moves what is owed under the call that is about to go out.
    pub(super) fn begin(&mut self, group: &GroupId) -> Option<(company::Company, Debt)> {
        let resident = self.residents.get_mut(group)?;
        let debt = company::join(resident.paying.take(), resident.company.debt.take())?;
        resident.paying = Some(debt.clone());
        Some((resident.company.clone(), debt))
    }

    /// Takes note of what a call that has come back has shown, and returns what it covered: settled, or owed again.
    pub(super) fn end(&mut self, group: &GroupId, facts: Facts, settled: bool) -> Debt {
        self.edit(group, |resident| {
            let paying = resident.paying.take();
            if let Some(base) = &facts.base {
                resident.company.take_base(base);
            }
            if let Some(place) = facts.place {
                resident.company.place = place;
            }
            if let (false, Some(mut again)) = (settled, paying.clone()) {
                // It is gone, and must not go again with what has been made since.
                if facts.released.is_some() || resident.company.place == Place::Absent {
                    again.delete = None;
                }
                resident.company.debt = company::join(Some(again), resident.company.debt.take());
            }
            paying.unwrap_or_default()
        })
    }

    /// Somebody has deleted a company at Brevo: it is owed as a whole.
    pub(super) fn lost(&mut self, group: &GroupId, now: UnixMillis, batch: &mut WriteBatch) {
        self.edit(group, |resident| {
            if let Place::At { id, .. } = &resident.company.place {
                rows::release(id, batch);
            }
            resident.company.place = Place::Absent;
            let whole = Debt { oldest: now, attributes: resident.company.filled(), ..Debt::default() };
            resident.company.debt = company::join(Some(whole), resident.company.debt.take());
        });
    }

    pub(super) fn report(&mut self, not_placed: &[NotPlaced]) {
        for NotPlaced { attribute, reason } in not_placed {
            if self.reported.insert((attribute.clone(), reason.label())) {
                tracing::warn!(
                    attribute,
                    reason = reason.label(),
                    "values of this company attribute cannot be placed: {reason}"
                );
            }
        }
    }
}
