//! Paying many by one import: composed, sent and settled in steps, so that nobody's event waits long for it and none of
//! its people need be in memory.
//!
//! ```text
//! line ─► composing: row into the body, person marked ─► marks durable ─► request, looks ─► settling: debt paid, mark gone
//! ```
//!
//! Invariants:
//! * an import is sent when every mark of its people is durable: a process that finds marks pays none of them before the
//!   import that may run has ended;
//! * who is marked is paid by nothing else, and joined to nobody; what becomes of them meanwhile is owed beyond the import
//!   (CORE 11), and their events wait on their shelves (CORE 7);
//! * one import at a time, its settling included.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::compose::Composed;
use super::imports::{self, Imported, Importer, Samples};
use super::lines::{Line, stack_for};
use super::receiving::MAX_PEOPLE;
use super::{BrevoLeg, Done};
use crate::brevo::import_body::ImportBody;
use crate::people::person::Contact;
use crate::people::roster::{self, PersonId, Resident};

/// Debtors from which one import is better than as many single writes: ten seconds' worth of an ordinary account's.
pub(super) const IMPORT_FROM: usize = 100;

/// People in one import, at most; the body is bounded apart.
const IMPORT_UP_TO: usize = 50_000;

/// An import that fails says of nobody in it why. One of more people than this is made in smaller ones; the people of
/// one of fewer are written one by one.
const SINGLY_FROM: usize = 1_000;

/// People composed or settled in one go: what a live event may have to wait for.
const STEP: usize = 200;

/// Shelves to be released from which on no more people are settled.
const RELEASES: usize = 2_000;

/// Between two tries to make an import.
const PAUSE: Duration = Duration::from_secs(1);

/// How far the import is.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Composing(Composing),
    UnderWay(Vec<PersonId>),
    /// One that an earlier process may have left running, with the people who are marked.
    Earlier(Vec<PersonId>),
    Settling(Settling),
}

#[derive(Debug)]
struct Composing {
    line: Line,
    body: ImportBody,
    members: Vec<PersonId>,
    samples: Samples,
    /// Hashes: an import merges whoever shares an address.
    addresses: HashSet<u64>,
    /// Whose address is in it already: they are for the next.
    passed: VecDeque<PersonId>,
    /// The page with the last mark.
    page: u64,
    /// Nobody joins it any more.
    closed: bool,
}

#[derive(Debug)]
struct Settling {
    members: VecDeque<PersonId>,
    loading: Vec<PersonId>,
    imported: Imported,
    /// Those of an import that failed are written by themselves.
    singly: bool,
}

/// Imports of the leg.
#[derive(Debug)]
pub(super) struct Importing {
    stage: Stage,
    /// People in the next one, at most.
    most: usize,
    /// When to look again for people whom an import could carry.
    next_at: Instant,
    /// The last step ended because it was long enough.
    goes_on: bool,
}

impl Importing {
    pub fn new() -> Self {
        Self { stage: Stage::Idle, most: IMPORT_UP_TO, next_at: Instant::now(), goes_on: false }
    }

    pub fn idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether one may be running at Brevo.
    pub fn runs(&self) -> bool {
        matches!(self.stage, Stage::UnderWay(_) | Stage::Earlier(_))
    }

    /// Whether the next step waits for nothing.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether people are on their way from the store.
    pub fn loading(&self) -> bool {
        matches!(&self.stage, Stage::Settling(settling) if !settling.loading.is_empty())
    }
}

impl BrevoLeg {
    /// Goes a step on with the import; begins one when a line is long. Those behind have theirs while the first line is
    /// short.
    pub(super) fn go_on_with_import(&mut self) {
        self.importing.goes_on = false;
        if self.importing.idle() && self.may_compose() {
            self.begin_import();
        }
        match std::mem::take(&mut self.importing.stage) {
            Stage::Composing(composing) => self.go_on_composing(composing),
            Stage::Settling(settling) => self.go_on_settling(settling),
            other => self.importing.stage = other,
        }
    }

    /// Whether the account is known, and takes calls.
    fn may_compose(&self) -> bool {
        self.may_pay() && self.parts.status.gate().lets_pass()
    }

    fn begin_import(&mut self) {
        let Some(list) = self.all_users() else { return };
        if self.importing.next_at > Instant::now() {
            return;
        }
        let line = match (self.to_pay.first.len(), self.to_pay.behind.len()) {
            (IMPORT_FROM.., _) => Line::First,
            (_, IMPORT_FROM..) => Line::Behind,
            _ => return,
        };
        if self.has_enough_singly(line) {
            return;
        }
        self.importing.stage = Stage::Composing(Composing {
            line,
            body: ImportBody::new(&[list]),
            members: Vec::new(),
            samples: Samples::default(),
            addresses: HashSet::new(),
            passed: VecDeque::new(),
            page: self.page,
            closed: false,
        });
    }

    fn go_on_composing(&mut self, mut composing: Composing) {
        if !composing.closed && self.may_compose() && !self.page_is_full() {
            self.compose_some(&mut composing);
        }
        if !composing.closed {
            self.importing.stage = Stage::Composing(composing);
        } else if composing.members.len() < IMPORT_FROM {
            self.disband(composing);
        } else if composing.page <= self.durable_page {
            self.send_import(composing);
        } else {
            self.importing.stage = Stage::Composing(composing);
        }
    }

    /// Takes those out of the line whom the import can carry; whom none can carry goes by themselves.
    fn compose_some(&mut self, composing: &mut Composing) {
        let line = composing.line;
        for _ in 0..STEP {
            if composing.members.len() >= self.importing.most || self.has_enough_singly(line) {
                return self.close(composing);
            }
            let Some(id) = self.next_for_import(line) else {
                // The search goes on by itself where the line is short.
                if !self.search.may_find(line) || self.queues.len() >= MAX_PEOPLE {
                    self.close(composing);
                }
                return;
            };
            match self.compose_for(&id) {
                Some(Composed::Write(write, not_placed)) if write.importable() => {
                    let address = write.person.email.as_ref().map_or(0, |email| xxh3_64(email.as_str().as_bytes()));
                    if !composing.addresses.insert(address) {
                        composing.passed.push_back(id);
                        continue;
                    }
                    if !composing.body.push(&write.import()) {
                        self.to_pay.of(line).push_front(id);
                        return self.close(composing);
                    }
                    self.report(&not_placed);
                    composing.samples.see(&write);
                    composing.page = self.page;
                    self.mark(&id, write.confirmed(write.person.email.clone(), true));
                    composing.members.push(id);
                }
                Some(Composed::Missing(missing)) => {
                    self.to_pay.of(line).push_front(id);
                    return self.create_missing(missing);
                }
                _ => self.to_pay_singly.of(line).push_back(id),
            }
        }
        self.importing.goes_on = true;
    }

    /// As many as one import leaves are enough to wait in memory for calls of their own.
    fn has_enough_singly(&mut self, line: Line) -> bool {
        self.to_pay_singly.of(line).len() >= SINGLY_FROM
    }

    fn next_for_import(&mut self, line: Line) -> Option<PersonId> {
        loop {
            let id = self.to_pay.of(line).pop_front()?;
            if line == Line::First || self.stands_behind(&id) {
                return Some(id);
            }
        }
    }

    fn close(&mut self, composing: &mut Composing) {
        composing.closed = true;
        while let Some(id) = composing.passed.pop_back() {
            self.to_pay.of(composing.line).push_front(id);
        }
    }

    fn mark(&mut self, id: &PersonId, contact: Contact) {
        self.roster.edit(id).join_import(contact);
        self.queue(id).leave_line();
        self.hold_back(id);
        self.forget_idle(id);
    }

    /// They are too few.
    fn disband(&mut self, composing: Composing) {
        self.importing.next_at = Instant::now() + PAUSE;
        for id in composing.members {
            self.give_back(&id);
            self.advance(&id);
        }
    }

    fn send_import(&mut self, composing: Composing) {
        let Some(vendor) = &self.parts.vendor else { return };
        let Composing { line, body, samples, members, .. } = composing;
        let importer = Importer::new(vendor, stack_for(&vendor.stack, line), &self.parts.state);
        let budgets = vendor.budgets.clone();
        self.importing.stage = Stage::UnderWay(members);
        self.spawn(Box::pin(async move {
            let imported = importer.run(body, samples).await?;
            Ok(Done::Imported { imported, rest: imports::rest(&budgets).await })
        }));
    }

    pub(super) fn import_ended(&mut self, imported: Imported, rest: Duration) {
        let Stage::UnderWay(members) = std::mem::take(&mut self.importing.stage) else { return };
        self.importing.next_at = Instant::now() + rest.max(PAUSE);
        let singly = members.len() <= SINGLY_FROM;
        self.importing.most = match imported {
            Imported::Done { .. } => (2 * self.importing.most).min(IMPORT_UP_TO),
            Imported::NotDone | Imported::Over => (members.len() / 4).max(SINGLY_FROM),
        };
        self.settle(members, imported, singly);
    }

    /// What of an import an earlier process has left: `members` are marked, and it may be `running`.
    pub(super) fn go_on_after_earlier(&mut self, members: Vec<PersonId>, running: bool) {
        if running {
            self.importing.stage = Stage::Earlier(members);
        } else if !members.is_empty() {
            self.settle(members, Imported::Over, false);
        }
    }

    /// Waits for it, where it may be running.
    pub(super) fn await_earlier_import(&mut self) {
        let (Some(vendor), Stage::Earlier(_), true) = (&self.parts.vendor, &self.importing.stage, self.sends()) else {
            return;
        };
        let importer = Importer::new(vendor, vendor.stack.clone(), &self.parts.state);
        self.spawn(Box::pin(async move {
            importer.await_earlier().await?;
            Ok(Done::EarlierImport)
        }));
    }

    pub(super) fn earlier_import_ended(&mut self) {
        let Stage::Earlier(members) = std::mem::take(&mut self.importing.stage) else { return };
        if !std::mem::take(&mut self.held).is_empty() {
            self.search.begin_anew();
        }
        self.settle(members, Imported::Over, false);
    }

    fn settle(&mut self, members: Vec<PersonId>, imported: Imported, singly: bool) {
        self.importing.stage =
            Stage::Settling(Settling { members: members.into(), loading: Vec::new(), imported, singly });
    }

    fn go_on_settling(&mut self, mut settling: Settling) {
        if !settling.loading.is_empty() || self.releases.len() >= RELEASES || self.page_is_full() {
            self.importing.stage = Stage::Settling(settling);
            return;
        }
        let count = settling.members.len().min(STEP);
        let some: Vec<_> = settling.members.drain(..count).collect();
        if some.is_empty() {
            return;
        }
        let missing = self.roster.missing(some.iter());
        if missing.is_empty() {
            some.iter().for_each(|id| self.settle_member(id, &settling));
            self.importing.goes_on = true;
        } else if self.may_load() {
            settling.loading = some;
            let state = self.parts.state.clone();
            self.spawn(Box::pin(async move { Ok(Done::Members(roster::load(&state, missing).await?)) }));
        } else {
            some.into_iter().rev().for_each(|id| settling.members.push_front(id));
        }
        self.importing.stage = Stage::Settling(settling);
    }

    pub(super) fn take_members(&mut self, people: Vec<(PersonId, Resident)>) {
        self.take_in(people);
        if let Stage::Settling(mut settling) = std::mem::take(&mut self.importing.stage) {
            let some = std::mem::take(&mut settling.loading);
            some.iter().for_each(|id| self.settle_member(id, &settling));
            self.importing.stage = Stage::Settling(settling);
        }
    }

    fn settle_member(&mut self, id: &PersonId, settling: &Settling) {
        let resident = self.roster.edit(id);
        let Imported::Done { ext_id: by_our_id } = settling.imported else {
            if resident.import.is_some() {
                resident.import_failed();
                self.queue(id).alone = settling.singly;
                self.advance(id);
            }
            return;
        };
        let Some(mut contact) = resident.import.take() else { return };
        if let Contact::Known { ext_id, .. } = &mut contact {
            *ext_id = by_our_id;
        }
        self.queue(id).begin_payment();
        self.paid(id, contact);
    }
}
