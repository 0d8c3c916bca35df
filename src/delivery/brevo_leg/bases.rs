//! Bases: the values that profile operators wait for, read in bulk and taken in (CORE 5).
//!
//! ```text
//! a step waits ─► row in `bases` ─► look: who could be told by now? ─► ask ─► wait for intake ─► learn ─► debt
//! ```
//!
//! **When an answer counts.** The question goes out with what is certain about its answer: it holds everything below the
//! position that Mixpanel's leg had passed a while ago ([`Settled`]). The answer may hold more, up to what the journal
//! held when it came. So it is taken only once this leg has folded everything up to that point: by then every step that
//! the answer may hold is among the person's steps, and [`crate::people::unknown`] decides whether they can be told apart.
//! Who cannot be told yet is asked for again.
//!
//! One reading at a time; whoever starts to wait meanwhile joins the next.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::base_sources::{Asked, BaseSource, FoundBases, Settled, ask_brevo, ask_mixpanel};
use super::consent::Turn;
use super::receiving::in_pilot;
use super::{BrevoLeg, Done, Parts};
use crate::clock::UnixMillis;
use crate::delivery::history::Span;
use crate::people::debt::Debt;
use crate::people::person::Person;
use crate::people::roster::{self, PersonId, Resident};
use crate::people::unknown::next;
use crate::record::{EntryId, Position};
use crate::settlement::SkipRule;
use crate::store::StoreError;

/// Between two looks while somebody waits; with Brevo as the source each look goes through all of them.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Rows looked at in one go, and people let go of.
const ROWS: usize = 5_000;
const OVERDUE: usize = 500;
/// First wait after a reading that failed; doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);

/// What the leg knows of those who wait for a base.
pub(super) struct Bases {
    /// Records of which a part waits.
    pub(super) records: u64,
    /// From here on every record that touches a mapped value was folded by this mapping. Before it, another one may have
    /// passed over what this one would have taken.
    seen_from: Position,
    /// Everything below it has been folded, if it was to be.
    taken_in: Position,
    settled: Settled,
    stage: Stage,
    /// The last person looked at; looks go round.
    after: Option<PersonId>,
    /// Whether a row was met in this round.
    met: bool,
    /// Whether anybody may wait, and the checkpoint page with the newest row.
    anyone: bool,
    newest_row: u64,
    next_look_at: Instant,
    /// What the last look went by; the same again finds nobody, unless that one found somebody.
    looked: Option<(Option<Position>, u64)>,
    /// To be asked for one by one, in turn with everybody else.
    alone: VecDeque<PersonId>,
    alone_next: bool,
    /// People in one question: halved when the answer is too long.
    most: usize,
    failures: u32,
}

enum Stage {
    Idle,
    Looking,
    Asking(HashSet<PersonId>),
    /// Taken once this leg has read up to `tip`.
    Answered {
        found: FoundBases,
        people: HashSet<PersonId>,
        tip: EntryId,
    },
}

/// Who could be told their values, and who has waited too long.
pub(super) struct Waiting {
    through: Option<Position>,
    began: u64,
    ready: Vec<PersonId>,
    overdue: Vec<PersonId>,
    people: Vec<(PersonId, Resident)>,
    /// `None`: the round is over.
    after: Option<PersonId>,
    met: bool,
}

impl Bases {
    pub(super) async fn open(parts: &Parts) -> Result<Self, StoreError> {
        // What is settled may have been passed over by another mapping.
        let settled = parts.books.settled_through().map(next).unwrap_or_default();
        let seen_from = settled.max(parts.books.cursor());
        let mut settled = Settled::default();
        settled.through(&parts.bases, Instant::now());
        Ok(Self {
            records: roster::records_waiting_for_bases(&parts.state).await?,
            seen_from,
            taken_in: seen_from,
            settled,
            stage: Stage::Idle,
            after: None,
            met: false,
            anyone: true,
            newest_row: 0,
            next_look_at: Instant::now(),
            looked: None,
            alone: VecDeque::new(),
            alone_next: false,
            most: parts.bases.most(),
            failures: 0,
        })
    }

    pub(super) fn seen_from(&self) -> Position {
        self.seen_from
    }

    pub(super) fn taken_in(&mut self, position: Position) {
        self.taken_in = self.taken_in.max(next(position));
    }

    /// Something that was folded is not known any more: it may be missing in an answer that does not hold all of it.
    pub(super) fn has_forgotten(&mut self) {
        self.seen_from = self.taken_in;
    }

    /// When to look again; `None` while something is under way or nobody waits.
    pub(super) fn look_at(&self) -> Option<Instant> {
        (self.anyone && matches!(self.stage, Stage::Idle)).then_some(self.next_look_at)
    }

    /// Whether people are on their way from the store.
    pub(super) fn looking(&self) -> bool {
        matches!(self.stage, Stage::Looking)
    }

    /// Whether an answer about this person is expected or waits to be taken.
    pub(super) fn holds(&self, id: &PersonId) -> bool {
        match &self.stage {
            Stage::Asking(people) | Stage::Answered { people, .. } => people.contains(id),
            Stage::Idle | Stage::Looking => false,
        }
    }
}

impl BrevoLeg {
    /// A part of this record waits for a base. The rest of it, if any, is owed already.
    pub(super) fn await_base(&mut self, id: &PersonId, position: Position, received_at: UnixMillis) {
        self.roster.edit(id).person.unknown.count(position, received_at);
        self.bases.records += 1;
    }

    /// Somebody has begun to wait: the page being filled brings the row.
    pub(super) fn base_wanted(&mut self) {
        self.bases.anyone = true;
        self.bases.newest_row = self.page;
    }

    /// Records that waited for a base are owed once nothing of their person waits any more.
    pub(super) fn after_waiting(&mut self, id: &PersonId) {
        if let Some(released) = self.roster.edit(id).person.unknown.release() {
            self.bases.records = self.bases.records.saturating_sub(released.records);
            self.owe(id, Debt::of_released(released));
        }
    }

    /// Records that wait for a base are counted as skipped; the steps go on waiting.
    pub(super) fn let_waiting_go(&mut self, id: &PersonId, rule: SkipRule) {
        let waiting = self.roster.edit(id).person.unknown.uncount();
        if waiting.records > 0 {
            self.bases.records = self.bases.records.saturating_sub(waiting.records);
            self.parts.books.skip_owed(id, Span::from(&waiting), rule);
        }
    }

    pub(super) fn start_bases(&mut self) {
        let now = Instant::now();
        let through = self.bases.settled.through(&self.parts.bases, now);
        if let Stage::Answered { tip, .. } = &self.bases.stage {
            if self.receiving.is_none() && self.parts.source.next_entry() >= *tip {
                self.take_bases();
            }
            return;
        }
        if self.bases.look_at().is_none_or(|at| at > now) {
            return;
        }
        let asked_by = (through, self.bases.newest_row.min(self.durable_page));
        let by_mixpanel = matches!(self.parts.bases, BaseSource::Mixpanel(_));
        self.bases.next_look_at = now + if by_mixpanel { LOOK_EVERY } else { LOOK_AGAIN };
        let nothing_new = by_mixpanel && self.bases.looked == Some(asked_by);
        // Nothing that Mixpanel answers is certain yet.
        let too_early = by_mixpanel && through.is_none();
        if self.sends() && !nothing_new && !too_early {
            self.bases.looked = Some(asked_by);
            self.look_for_waiting(through);
        }
    }

    fn look_for_waiting(&mut self, through: Option<Position>) {
        self.bases.stage = Stage::Looking;
        let state = self.parts.state.clone();
        let deadline = self.parts.clock.now() - self.parts.settings.parking.max_age;
        let (after, most, began) = (self.bases.after.clone(), self.bases.most, self.durable_page);
        self.spawn(Box::pin(async move {
            let rows = roster::waiting_for_bases(&state, after.as_ref(), ROWS).await?;
            let mut after = if rows.len() == ROWS { rows.last().map(|(id, _)| id.clone()) } else { None };
            let met = !rows.is_empty();
            let (mut ready, mut overdue) = (Vec::new(), Vec::new());
            for (id, row) in rows {
                if row.oldest.is_some_and(|oldest| oldest < deadline) && overdue.len() < OVERDUE {
                    overdue.push(id);
                } else if through.is_none_or(|through| row.needs <= through) {
                    if ready.len() == most {
                        after = ready.last().cloned();
                        break;
                    }
                    ready.push(id);
                }
            }
            let people = roster::load(&state, ready.iter().chain(&overdue).cloned().collect()).await?;
            Ok(Done::Waiting(Waiting { through, began, ready, overdue, people, after, met }))
        }));
    }

    pub(super) fn take_waiting(&mut self, waiting: Waiting) {
        let Waiting { through, began, ready, overdue, people, after, met } = waiting;
        self.bases.stage = Stage::Idle;
        self.take_in(people);
        overdue.iter().for_each(|id| self.give_base_up(id));
        self.bases.met |= met;
        if after.is_none() {
            // A row that was not in the store yet when the look began cannot have been met.
            self.bases.anyone = self.bases.met || self.bases.newest_row > began;
            self.bases.met = false;
        }
        if after.is_some() {
            self.bases.looked = None;
        }
        self.bases.after = after;
        let alone = if self.bases.alone_next { self.bases.alone.pop_front() } else { None };
        self.bases.alone_next = alone.is_none();
        let ids: Vec<_> = match alone {
            Some(alone) => vec![alone],
            None => ready,
        };
        let ids: Vec<_> = ids.into_iter().filter(|id| self.can_be_told(id, through)).collect();
        if !ids.is_empty() {
            self.bases.looked = None;
            self.ask_for_bases(ids, through);
        }
    }

    fn can_be_told(&self, id: &PersonId, through: Option<Position>) -> bool {
        self.roster.get(id).is_some_and(|Resident { person, .. }| {
            !person.unknown.is_empty()
                && person.links.forward().is_none()
                && through.is_none_or(|through| self.needs(person) <= through)
                && self.parts.bases.may_know(person)
                && in_pilot(self.parts.settings.mode, &self.parts.settings.pilot_emails, person)
        })
    }

    /// The least that an answer about this person must hold. A question was written down by the measure of its own process,
    /// and its answer is to tell the rest of the profile too.
    fn needs(&self, person: &Person) -> Position {
        let needs = person.unknown.needs();
        if person.unknown.asks() { needs.max(self.bases.seen_from) } else { needs }
    }

    /// What waits has waited too long: it is known at Mixpanel, and Brevo gets it with the next value that can be told.
    fn give_base_up(&mut self, id: &PersonId) {
        let waiting = self.roster.edit(id).person.unknown.give_up();
        self.bases.records = self.bases.records.saturating_sub(waiting.records);
        self.parts.books.skip_owed(id, Span::from(&waiting), SkipRule::Expired);
        self.bases.has_forgotten();
    }

    fn ask_for_bases(&mut self, ids: Vec<PersonId>, through: Option<Position>) {
        let mapping = self.parts.mapping.clone();
        self.bases.stage = Stage::Asking(ids.iter().cloned().collect());
        match (&self.parts.bases, through, &self.parts.vendor) {
            (BaseSource::Mixpanel(source), Some(through), _) => {
                let Some(request) = source.calls.profiles(ids.iter().map(AsRef::as_ref), &source.properties) else {
                    return;
                };
                let (stack, budgets) = (source.stack.clone(), source.budgets.clone());
                let properties = source.properties.clone();
                self.spawn(Box::pin(async move {
                    let asked = ask_mixpanel(ids, through, mapping, request, stack, budgets, properties).await?;
                    Ok(Done::Bases(asked))
                }));
            }
            (BaseSource::Brevo, _, Some(vendor)) => {
                let person = |id: PersonId| self.roster.get(&id).map(|resident| (id.clone(), resident.person.clone()));
                let people = ids.into_iter().filter_map(person).collect();
                let (calls, stack) = (vendor.calls.clone(), vendor.stack.clone());
                self.spawn(Box::pin(async move { Ok(Done::Bases(ask_brevo(people, mapping, calls, stack).await?)) }));
            }
            // Never asked: `through` is there with Mixpanel, and nothing is looked for without a vendor.
            _ => self.bases.stage = Stage::Idle,
        }
    }

    pub(super) fn take_asked(&mut self, asked: Asked) {
        let Stage::Asking(people) = std::mem::replace(&mut self.bases.stage, Stage::Idle) else { return };
        let words = match asked {
            Asked::Found { found, alone, pause } => {
                (self.bases.failures, self.bases.most) = (0, self.parts.bases.most());
                self.bases.alone.extend(alone);
                self.bases.alone.truncate(self.bases.most);
                self.bases.next_look_at = Instant::now() + pause;
                let tip = *self.parts.journal.tip().borrow();
                self.bases.stage = Stage::Answered { found, people, tip };
                return;
            }
            Asked::TooLong => {
                self.bases.most = (people.len() / 2).max(1);
                "the answer is too long: fewer people are asked for".to_owned()
            }
            Asked::Failed(words) => words,
        };
        let wait = FIRST_BACKOFF.saturating_mul(1 << self.bases.failures.min(16)).min(LONGEST_BACKOFF);
        self.bases.failures = self.bases.failures.saturating_add(1);
        self.bases.next_look_at = Instant::now() + wait;
        tracing::warn!(words, retry_s = wait.as_secs(), "values cannot be read that profile operators wait for");
    }

    /// Everything that the answer may hold has been folded by now.
    fn take_bases(&mut self) {
        let Stage::Answered { found, .. } = std::mem::replace(&mut self.bases.stage, Stage::Idle) else { return };
        self.bases.looked = None;
        let (mode, seen_from) = (self.parts.settings.mode, self.bases.seen_from);
        for (id, bases) in found {
            // Merged meanwhile: the survivor waits now, or nobody does.
            if self.roster.is_forward(&id) {
                continue;
            }
            for (base, found) in bases {
                let answer = self.answer(&id);
                let mut folded = self.roster.edit(&id).person.learn(base, found, seen_from);
                match self.consent_after(&id, answer, &folded, false) {
                    Turn::Allowed => {}
                    Turn::Given => self.owe_everything(&id, &mut folded),
                    Turn::Withheld | Turn::Withdrawn => continue,
                }
                let person = &self.roster.edit(&id).person;
                let sent = person.addressable() && in_pilot(mode, &self.parts.settings.pilot_emails, person);
                if folded.owes() && sent {
                    self.owe(&id, Debt::of_values(folded));
                }
            }
            self.after_waiting(&id);
            if self.withheld(&id) { self.refuse(&id) } else { self.advance(&id) }
        }
    }
}
