//! Carries erasures out, one stage after the other, each written down before the next (CORE 12).
//!
//! ```text
//! asked (tombstones stand) ─► marked in the journal ─► unread links looked through ─► each leg stands back, with Brevo's the
//!   runs into lists: rows, debts, shelves, dead letters go, counted as skipped ─► blocks emptied ─► files scrubbed
//!   ─► Mixpanel's task, Brevo's contacts ─► finished
//! ```
//!
//! Brevo's leg is the one that links ids. What it had not read when the erasure was asked for is looked through for links
//! first ([`super::unread`]); what it had read is known once it has stood back and written everything down, which is why it
//! does so before the other. Ids that turn up there have unread links of their own, so the looking begins anew with them.
//!
//! Every stage can be done again: a crash repeats the one that it interrupted. The mark is a record of the journal like any
//! other (accepted as a profile record, for no destination), so that there is no doubt about what lies before it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::desk::Desk;
use super::receipt::{Erasure, ErasureId, Side, Stage};
use super::unread::Unread;
use super::vendors::{self, Outcome, Vendors};
use crate::alerts::{Bell, Moment};
use crate::clock::UnixMillis;
use crate::cohorts;
use crate::datasets;
use crate::delivery::checkpoint::Checkpoint;
use crate::delivery::dead_letters::{self, DeadLetter, DeadLetterId, replay};
use crate::delivery::history;
use crate::delivery::shift::Shift;
use crate::mixpanel::keys;
use crate::people::erase;
use crate::record::{Destination, Destinations, EntryId, Kind, Origin, Project, Record};
use crate::settlement::SkipRule;
use crate::store::{AppendError, Journal, Picker, StoreError, WriteBatch, write_when_there_is_room};

/// Between two looks at what may be due without anyone having said so.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two looks for tombstones that have been kept long enough.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// First wait before something is tried or asked again; doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(15 * 60);
/// Between two looks whether a request that was judged earlier has been stored.
const SETTLE: Duration = Duration::from_millis(5);
/// Tries to empty a log that a reader holds, before that waits its turn like everything else.
const SCRUBS: usize = 20;
const SCRUB_PAUSE: Duration = Duration::from_millis(50);
/// Dead letters looked at by one read.
const LETTERS: usize = 50;
/// Erasures that go through the relay together.
const TOGETHER: usize = 64;

pub struct Parts {
    pub desk: Arc<Desk>,
    pub journal: Arc<dyn Journal>,
    pub mixpanel: Shift,
    pub brevo: Shift,
    /// Runs that bring groups into Brevo's lists: they hold people beside the leg.
    pub lists: Shift,
    pub vendors: Vendors,
    pub unread: Unread,
    /// Empties the places that keep answers of Mixpanel's in memory.
    pub forget: Vec<Forget>,
    pub bell: Arc<Bell>,
}

pub type Forget = Box<dyn Fn() + Send + Sync>;

pub struct Worker {
    parts: Parts,
    /// When each erasure is looked at next, and how often it was without an end.
    due: BTreeMap<ErasureId, (Instant, u32)>,
}

impl Worker {
    pub fn new(parts: Parts) -> Self {
        Self { parts, due: BTreeMap::new() }
    }

    /// Works for as long as the process lives.
    pub async fn run(mut self) -> Result<(), StoreError> {
        let mut expire_at = Instant::now();
        loop {
            for id in self.parts.desk.unfinished().await? {
                self.due.entry(id).or_insert((Instant::now(), 0));
            }
            self.turn().await?;
            if expire_at <= Instant::now() {
                self.parts.desk.expire().await?;
                expire_at = Instant::now() + EXPIRE_EVERY;
            }
            let next = self.due.values().map(|(at, _)| *at).min();
            let next = next.unwrap_or_else(|| Instant::now() + LOOK_EVERY).min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                () = self.parts.desk.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Everything that is due.
    async fn turn(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let ids: Vec<ErasureId> = self.due.iter().filter(|(_, (at, _))| *at <= now).map(|(id, _)| id.clone()).collect();
        for ids in ids.chunks(TOGETHER) {
            let mut erasures = Vec::new();
            for id in ids {
                match self.parts.desk.get(id).await? {
                    Some(erasure) if !erasure.is_finished() => erasures.push(erasure),
                    _ => {
                        self.due.remove(id);
                    }
                }
            }
            self.in_the_relay(&mut erasures).await?;
            for erasure in &mut erasures {
                if erasure.stage == Stage::Done {
                    self.at_the_vendors(erasure).await?;
                    if erasure.to_scrub {
                        self.save(erasure).await?;
                    }
                }
                self.put_off(erasure);
            }
        }
        Ok(())
    }

    fn put_off(&mut self, erasure: &Erasure) {
        if erasure.is_finished() {
            self.due.remove(&erasure.id);
            return;
        }
        if let Some((at, tries)) = self.due.get_mut(&erasure.id) {
            *at = Instant::now() + FIRST_WAIT.saturating_mul(1 << (*tries).min(12)).min(LAST_WAIT);
            *tries += 1;
        }
    }

    /// The relay's own part, for all of them together: legs stand back once.
    async fn in_the_relay(&self, erasures: &mut [Erasure]) -> Result<(), StoreError> {
        if !self.mark(erasures).await? {
            return Ok(());
        }
        while erasures.iter().any(|erasure| erasure.stage == Stage::Marked) {
            self.read_ahead(erasures).await?;
            let lists = self.parts.lists.stand_back().await;
            let (Some(brevo), Some(lists)) = (self.parts.brevo.stand_back().await, lists) else {
                return std::future::pending().await;
            };
            for erasure in erasures.iter_mut().filter(|erasure| erasure.stage == Stage::Marked) {
                // Links may have been made since it was asked for: the leg has written down all that it knew.
                let all = erase::cluster(&self.parts.desk.state, &erasure.to_erase).await?;
                if !self.widen(erasure, all).await? {
                    self.take_rows(Destination::Brevo, erasure).await?;
                }
            }
            drop((brevo, lists));
        }
        if erasures.iter().any(|erasure| erasure.stage == Stage::BrevoRows) {
            let Some(stood_back) = self.parts.mixpanel.stand_back().await else {
                return std::future::pending().await;
            };
            for erasure in erasures.iter_mut().filter(|erasure| erasure.stage == Stage::BrevoRows) {
                self.take_rows(Destination::Mixpanel, erasure).await?;
            }
            drop(stood_back);
        }
        self.empty_journal(erasures).await?;
        if erasures.iter().any(|erasure| erasure.stage == Stage::Journal) && self.scrub().await? {
            for erasure in erasures.iter_mut().filter(|erasure| erasure.stage == Stage::Journal) {
                erasure.stage = Stage::Done;
                self.save(erasure).await?;
            }
        }
        Ok(())
    }

    /// Puts the mark of each into the journal. False: not now.
    async fn mark(&self, erasures: &mut [Erasure]) -> Result<bool, StoreError> {
        for erasure in erasures.iter_mut().filter(|erasure| erasure.stage == Stage::Asked) {
            self.settled().await;
            self.forget_answers();
            match self.parts.journal.append(vec![mark(&erasure.id, self.parts.desk.clock.now())]).await {
                Ok(position) => erasure.position = Some(position),
                Err(AppendError::Poisoned(reason)) => return Err(StoreError::Failed(reason)),
                Err(error) => {
                    tracing::warn!(%error, "an erasure waits for the journal");
                    return Ok(false);
                }
            }
            erasure.stage = Stage::Marked;
            self.save(erasure).await?;
        }
        Ok(true)
    }

    /// Widens those that are marked by links that wait in the journal, until none leads to anybody else.
    async fn read_ahead(&self, erasures: &mut [Erasure]) -> Result<(), StoreError> {
        let mut marked: Vec<&mut Erasure> =
            erasures.iter_mut().filter(|erasure| erasure.stage == Stage::Marked).collect();
        loop {
            // Nothing that names one of them comes in any more behind the present end.
            self.settled().await;
            let below = *self.parts.journal.tip().borrow();
            let found = self.parts.unread.look_through(&marked, below).await?;
            let mut widened = false;
            for (erasure, found) in marked.iter_mut().zip(found) {
                // Mixpanel may not have read the link either.
                if erasure.mixpanel == Side::Waiting {
                    let known = |id: &String| !erasure.asked_for.contains(id);
                    let new: Vec<String> = found.raw.into_iter().filter(known).collect();
                    erasure.asked_for.extend(new);
                }
                let all = [erasure.to_erase.clone(), found.ids.into_iter().collect()].concat();
                let all = erase::cluster(&self.parts.desk.state, &all).await?;
                widened |= self.widen(erasure, all).await?;
            }
            if !widened {
                return Ok(());
            }
        }
    }

    /// Notes that `all` are the person's ids; those that are new get their tombstones. True when there are any.
    async fn widen(&self, erasure: &mut Erasure, all: Vec<String>) -> Result<bool, StoreError> {
        let found: Vec<String> = all.iter().filter(|id| !erasure.to_erase.contains(id)).cloned().collect();
        if found.is_empty() {
            return Ok(false);
        }
        erasure.to_erase = all;
        erasure.erased_ids = erasure.to_erase.len() as u64;
        let mut batch = WriteBatch::new();
        erasure.put(&mut batch)?;
        self.parts.desk.entomb(&found, batch).await?;
        Ok(true)
    }

    fn forget_answers(&self) {
        self.parts.forget.iter().for_each(|forget| forget());
    }

    /// What was judged before the tombstones stood is stored, too.
    async fn settled(&self) {
        while !self.parts.desk.tombstones.settled() {
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Takes what a leg that has stood back holds of these people, and counts it as skipped, in one write.
    async fn take_rows(&self, destination: Destination, erasure: &mut Erasure) -> Result<(), StoreError> {
        let desk = &self.parts.desk;
        let mut batch = WriteBatch::new();
        let mut skipped = 0;
        if destination == Destination::Brevo {
            let taken = erase::take(&desk.state, &erasure.to_erase, &mut batch).await?;
            cohorts::erase::take(&desk.state, &erasure.to_erase, &mut batch).await?;
            datasets::erase::take(&desk.state, &erasure.to_erase, &mut batch).await?;
            skipped += taken.owed + taken.parked;
            erasure.removed.people += taken.people.len() as u64;
            erasure.removed.owed += taken.owed;
            erasure.removed.parked += taken.parked;
            if self.parts.vendors.deletes_contacts() {
                let people = taken.people.iter().map(|(id, person)| (id.as_ref(), person));
                erasure.to_go = vendors::contacts_to_go(&erasure.to_erase, people, taken.imported);
            }
        }
        let letters = self.letters(destination, &erasure.to_erase).await?;
        letters.iter().for_each(|id| dead_letters::delete(*id, &mut batch));
        let again = self.letters_again(destination, &erasure.to_erase).await?;
        again.iter().for_each(|id| replay::arrived(*id, &mut batch));
        let letters = (letters.len() + again.len()) as u64;
        erasure.removed.dead_letters += letters;
        skipped += letters;
        erasure.stage = match destination {
            Destination::Brevo => Stage::BrevoRows,
            Destination::Mixpanel => Stage::Rows,
        };
        let mut checkpoint = Checkpoint::load(&desk.state, destination).await?;
        if skipped > 0 {
            checkpoint.tally.skip(SkipRule::Erased, skipped);
        }
        checkpoint.put(destination, &mut batch)?;
        erasure.put(&mut batch)?;
        write_when_there_is_room(desk.state.as_ref(), batch).await
    }

    /// Letters that are held of these people.
    async fn letters(&self, destination: Destination, ids: &[String]) -> Result<Vec<DeadLetterId>, StoreError> {
        let ids = normal(ids.iter().map(|id| (id.as_str(), 0)));
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = dead_letters::page(&self.parts.desk.state, destination, after, LETTERS).await?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            after = Some(*last);
            found.extend(page.into_iter().filter(|(_, letter)| of_them(&ids, letter)).map(|(id, _)| id));
        }
    }

    /// Those that are on their way again.
    async fn letters_again(&self, destination: Destination, ids: &[String]) -> Result<Vec<DeadLetterId>, StoreError> {
        let ids = normal(ids.iter().map(|id| (id.as_str(), 0)));
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = replay::page(&self.parts.desk.state, destination, after, LETTERS).await?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            after = Some(last.position);
            found.extend(page.into_iter().filter(|(_, letter)| of_them(&ids, letter)).map(|(id, _)| id));
        }
    }

    /// Empties blocks. Records that are stored later are emptied before that.
    async fn empty_journal(&self, erasures: &mut [Erasure]) -> Result<(), StoreError> {
        let open = || erasures.iter().enumerate().filter(|(_, erasure)| erasure.stage == Stage::Rows);
        if open().next().is_none() {
            return Ok(());
        }
        // Not only up to the mark: ids that were found when Brevo's leg stood back had no tombstones at that time.
        self.settled().await;
        let below = *self.parts.journal.tip().borrow();
        let ids = normal(open().flat_map(|(at, erasure)| erasure.to_erase.iter().map(move |id| (id.as_str(), at))));
        let counts = Arc::new(std::sync::Mutex::new(vec![0_u64; erasures.len()]));
        let counting = counts.clone();
        let belongs: Picker = Arc::new(move |record| {
            let found = whose(&ids, record.kind, &record.body);
            if let Some(at) = found {
                counting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] += 1;
            }
            found.is_some()
        });
        let mut from = EntryId::FIRST;
        while from < below {
            from = self.parts.journal.erase(from, below, belongs.clone()).await?.next;
            tokio::task::yield_now().await;
        }
        let names: Vec<&str> = open().flat_map(|(_, erasure)| erasure.to_erase.iter().map(AsRef::as_ref)).collect();
        history::forget_named(self.parts.desk.state.as_ref(), &names).await?;
        drop(names);
        drop(belongs);
        let counts = std::mem::take(&mut *counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (erasure, emptied) in erasures.iter_mut().zip(counts) {
            if erasure.stage == Stage::Rows {
                erasure.removed.journal_records += emptied;
                erasure.stage = Stage::Journal;
                self.save(erasure).await?;
            }
        }
        Ok(())
    }

    /// False: a reader stood in the way for too long.
    async fn scrub(&self) -> Result<bool, StoreError> {
        let (mut journal, mut state) = (false, false);
        for _ in 0..SCRUBS {
            journal = journal || self.parts.journal.scrub().await?;
            state = state || self.parts.desk.state.scrub().await?;
            if journal && state {
                return Ok(true);
            }
            tokio::time::sleep(SCRUB_PAUSE).await;
        }
        tracing::warn!("an erasure waits: somebody reads the store's files, whose logs cannot be emptied meanwhile");
        Ok(false)
    }

    async fn at_the_vendors(&self, erasure: &mut Erasure) -> Result<(), StoreError> {
        let vendors = &self.parts.vendors;
        if !erasure.mixpanel.ended() {
            let outcome = vendors.mixpanel(&erasure.mixpanel, &erasure.asked_for, &erasure.compliance).await;
            note(erasure, Destination::Mixpanel, outcome);
            // Until then Mixpanel knew the person, and may have spoken of them.
            if erasure.mixpanel.ended() {
                self.forget_answers();
            }
            self.save(erasure).await?;
        }
        while !erasure.brevo.ended() {
            let outcome = vendors.brevo(&self.parts.desk, erasure.to_go.last()).await?;
            let go_on = matches!(outcome, Outcome::Gone(_) | Outcome::Kept(_));
            match outcome {
                Outcome::Gone(there) => {
                    erasure.to_scrub |= erasure.to_go.pop().is_some();
                    erasure.contacts += u64::from(there);
                }
                Outcome::Kept(said) => {
                    tracing::error!(erasure = erasure.id, said, "Brevo would not delete a contact");
                    erasure.to_scrub |= erasure.to_go.pop().is_some();
                    erasure.contacts_refused += 1;
                    erasure.brevo_said = Some(said);
                }
                Outcome::Now(Side::Done) if erasure.contacts_refused > 0 => erasure.brevo = Side::Failed,
                outcome => note(erasure, Destination::Brevo, outcome),
            }
            self.save(erasure).await?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// Writes the erasure down. Once nobody needs the ids any more they are forgotten, in the files too.
    async fn save(&self, erasure: &mut Erasure) -> Result<(), StoreError> {
        erasure.forget();
        self.write(erasure).await?;
        // The other side may wait for days: a refusal is told at once.
        if erasure.is_refused() && !erasure.alerted {
            self.parts.bell.ring(Moment::ErasureFailed);
            erasure.alerted = true;
            self.write(erasure).await?;
        }
        // As long as contacts are still to go, their names are in the row itself.
        if erasure.to_scrub && erasure.to_go.is_empty() && self.scrub().await? {
            erasure.to_scrub = false;
            self.write(erasure).await?;
        }
        // Not before nothing of it is in the files: whoever reads that it is finished may look.
        if erasure.has_ended() && !erasure.is_finished() {
            erasure.finished_at = Some(self.parts.desk.clock.now());
            self.write(erasure).await?;
            tracing::info!(erasure = erasure.id, failed = erasure.is_refused(), "an erasure has ended");
        }
        Ok(())
    }

    async fn write(&self, erasure: &Erasure) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        erasure.put(&mut batch)?;
        write_when_there_is_room(self.parts.desk.state.as_ref(), batch).await
    }
}

fn of_them(ids: &HashMap<String, usize>, letter: &DeadLetter) -> bool {
    whose(ids, letter.kind, letter.record.as_bytes()).is_some()
}

/// Notes what a vendor's side has come to.
fn note(erasure: &mut Erasure, destination: Destination, outcome: Outcome) {
    let (side, said) = match outcome {
        Outcome::Now(side) => (Some(side), None),
        Outcome::Failed(said) => {
            tracing::error!(erasure = erasure.id, %destination, said, "an erasure was refused");
            (Some(Side::Failed), Some(said))
        }
        Outcome::Later(said) => {
            tracing::warn!(erasure = erasure.id, %destination, said, "an erasure waits");
            (None, Some(said))
        }
        // One contact's, which the caller counts.
        Outcome::Gone(_) | Outcome::Kept(_) => (None, None),
    };
    if let Some(side) = side {
        *erasure.side_mut(destination) = side;
    }
    if said.is_some() {
        match destination {
            Destination::Mixpanel => erasure.mixpanel_said = said,
            Destination::Brevo => erasure.brevo_said = said,
        }
    }
}

fn mark(id: &str, now: UnixMillis) -> Record {
    Record {
        kind: Kind::Profile,
        origin: Origin::Erasure,
        destinations: Destinations::NONE,
        project: Project::Ours,
        received_at: now,
        body: format!("{{\"erasure\":\"{id}\"}}").into(),
    }
}

/// Ids without the prefix that devices have as people, each with what it stands for.
fn normal<'a>(ids: impl Iterator<Item = (&'a str, usize)>) -> HashMap<String, usize> {
    ids.map(|(id, at)| (bare(id).to_owned(), at)).collect()
}

fn bare(id: &str) -> &str {
    id.strip_prefix("$device:").unwrap_or(id)
}

fn whose(ids: &HashMap<String, usize>, kind: Kind, body: &[u8]) -> Option<usize> {
    keys::people(kind, body).iter().find_map(|id| ids.get(bare(id)).copied())
}

#[cfg(test)]
mod tests;
