//! Changing the list, 150 people a call: whoever is to leave by their contact id, then whoever is to come by what Brevo may
//! know them by.
//!
//! Brevo does not tell a contact that it does not know from one that is in (or out of) the list already: both are failures,
//! and a call of nothing but failures is a 400 (contract §4.2). For who leaves both mean that they are out; a look at one of
//! them makes sure that the call was understood. For who comes, and was not in the list when it was read, a failure means
//! that the contact is not known by that identifier, and the next one is tried; only when the call may have been made
//! before (its answer was lost, or this process did not see it) everybody is looked up.

use super::reading::reference;
use super::rows::{Kind, MEMBER, Mark, MemberRow, Rows};
use super::run::{Outcome, Run, Stage};
use super::worker::{Engine, StepError};
use crate::brevo::identifiers::{ContactId, ContactRef, ListId, Membership};
use crate::brevo::limits::MAX_LIST_CHANGE;
use crate::brevo::outcome::{self, ListOutcome, UpdateOutcome};
use crate::brevo::wire::{ContactUpdate, ListMembers};
use crate::config::SyncMode;
use crate::store::{Pair, WriteBatch};
use crate::vendor::{VendorAnswer, VendorRequest};

/// Members worked on at a time: enough that calls which are not full are few, little enough for memory.
const PAGE: usize = 100 * MAX_LIST_CHANGE;

/// A member who is not settled.
struct Open {
    key: Vec<u8>,
    row: MemberRow,
    mark: Mark,
}

impl Engine {
    /// Takes the next 150 out.
    pub(super) async fn remove_some(&self, run: &mut Run) -> Result<(), StepError> {
        let leaving = self.leaving(run, MAX_LIST_CHANGE).await?;
        if leaving.is_empty() {
            if run.order.mode == SyncMode::Remove {
                return Ok(self.desk.end(run, WriteBatch::new(), Outcome::Done, None).await?);
            }
            run.stage = Stage::Adding { after: None, by_address: false };
            return Ok(self.desk.save(run, WriteBatch::new()).await?);
        }
        let list = run.order.list;
        let answer = self.change(run, Membership::Out, &ListMembers::Ids(leaving.clone())).await?;
        let out = match outcome::list_change(&answer) {
            ListOutcome::Changed { .. } => true,
            ListOutcome::NothingChanged => !self.is_in(run, ContactRef::Id(leaving[0])).await?,
            ListOutcome::UnknownList => return Err(StepError::NoSuchList(list)),
            ListOutcome::Unsaid | ListOutcome::Invalid(_) => false,
        };
        if !out {
            self.remove_one_by_one(run, &leaving).await?;
        }
        let id = run.id.clone();
        let rows = Rows { state: self.desk.state.as_ref(), run: &id };
        let mut batch = WriteBatch::new();
        leaving.iter().for_each(|contact| rows.delete_removal(*contact, &mut batch));
        run.counts.removed += leaving.len() as u64;
        Ok(self.desk.save(run, batch).await?)
    }

    /// Brevo does not like the call as it is: smaller ones tell whom it does not like.
    async fn remove_one_by_one(&self, run: &mut Run, leaving: &[ContactId]) -> Result<(), StepError> {
        let update = ContactUpdate { unlink_list_ids: vec![run.order.list], ..ContactUpdate::default() };
        for contact in leaving {
            if let UpdateOutcome::Invalid(refusal) = self.update(run, ContactRef::Id(*contact), &update).await? {
                return Err(StepError::Refused(refusal.to_string()));
            }
        }
        Ok(())
    }

    /// Brings the members of a page to the list, those that Brevo knows.
    pub(super) async fn add_some(&self, run: &mut Run) -> Result<(), StepError> {
        let Stage::Adding { after, mut by_address } = run.stage.clone() else { return Ok(()) };
        let (mut open, last) = self.open_members(run, after.as_deref()).await?;
        while let Some((kind, members)) = next_call(&open, by_address) {
            let failed = self.add(run, kind, &members, &open).await?;
            by_address = addresses_first(by_address, kind, failed.len(), members.len());
            run.stage = Stage::Adding { after: after.clone(), by_address };
            self.note_added(run, kind, &members, &failed, &mut open).await?;
        }
        run.stage = match last {
            Some(last) => Stage::Adding { after: Some(last), by_address },
            None => Stage::Creating { after: None },
        };
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    /// The members of the next page who are not settled, and where the page after it begins; `None` when there is none.
    async fn open_members(&self, run: &Run, after: Option<&[u8]>) -> Result<(Vec<Open>, Option<Vec<u8>>), StepError> {
        let rows = Rows { state: self.desk.state.as_ref(), run: &run.id };
        let page = rows.page(MEMBER, after, PAGE).await?;
        let last = (page.len() == PAGE).then(|| page.last().map(|(key, _)| key.clone())).flatten();
        let keys: Vec<Vec<u8>> = page.iter().map(|(key, _)| key.clone()).collect();
        let marks = rows.marks(&keys).await?;
        let mut open = Vec::new();
        for ((key, value), mark) in page.into_iter().zip(marks) {
            if !mark.is_settled() {
                open.push(Open { row: MemberRow::read(&value)?, key, mark });
            }
        }
        Ok((open, last))
    }

    /// One call for the members at these places in `open`; who of them is not in the list after it, in order.
    async fn add(&self, run: &mut Run, kind: Kind, members: &[usize], open: &[Open]) -> Result<Vec<usize>, StepError> {
        let doubtful = self.first_after_a_crash(&run.id);
        let mut failed = match kind {
            Kind::Phone => self.add_by_phone(run, members, open).await?,
            _ => self.add_by_call(run, kind, members, open, doubtful).await?,
        };
        failed.sort_unstable();
        Ok(failed)
    }

    /// Writes down what a call has done.
    async fn note_added(
        &self,
        run: &mut Run,
        kind: Kind,
        members: &[usize],
        failed: &[usize],
        open: &mut [Open],
    ) -> Result<(), StepError> {
        let id = run.id.clone();
        let rows = Rows { state: self.desk.state.as_ref(), run: &id };
        let mut batch = WriteBatch::new();
        for at in members {
            let member = &mut open[*at];
            if failed.binary_search(at).is_ok() {
                member.mark = member.mark.and_tried(kind);
            } else {
                member.mark = Mark::DONE;
                run.counts.added += 1;
            }
            rows.put_mark(&member.key, member.mark, &mut batch);
        }
        Ok(self.desk.save(run, batch).await?)
    }

    /// Who of the members is not in the list after the call.
    async fn add_by_call(
        &self,
        run: &mut Run,
        kind: Kind,
        members: &[usize],
        open: &[Open],
        doubtful: bool,
    ) -> Result<Vec<usize>, StepError> {
        let rows: Vec<&MemberRow> = members.iter().map(|at| &open[*at].row).collect();
        let answer = self.change(run, Membership::In, &named(kind, &rows)).await?;
        let doubtful = doubtful || answer.doubtful > 0;
        let failed: Vec<usize> = match outcome::list_change(&answer) {
            ListOutcome::Changed { unchanged, .. } => {
                let unchanged: std::collections::HashSet<String> = unchanged.into_iter().collect();
                let failed = |at: &&usize| name(kind, &open[**at].row).is_some_and(|name| unchanged.contains(&name));
                members.iter().filter(failed).copied().collect()
            }
            ListOutcome::NothingChanged => members.to_vec(),
            ListOutcome::UnknownList => return Err(StepError::NoSuchList(run.order.list)),
            // An id that Brevo cannot read spoils its neighbours' call: they go one by one.
            // A success that names nobody does not tell either.
            ListOutcome::Unsaid | ListOutcome::Invalid(_) => {
                return self.add_one_by_one(run, kind, members, open).await;
            }
        };
        if !doubtful {
            return Ok(failed);
        }
        let mut not_in = Vec::new();
        for at in failed {
            let Some(at_brevo) = reference(&open[at].row, kind) else { continue };
            if !self.is_in(run, at_brevo).await? {
                not_in.push(at);
            }
        }
        Ok(not_in)
    }

    /// List changes know no phone numbers.
    async fn add_by_phone(&self, run: &mut Run, members: &[usize], open: &[Open]) -> Result<Vec<usize>, StepError> {
        self.add_one_by_one(run, Kind::Phone, members, open).await
    }

    async fn add_one_by_one(
        &self,
        run: &mut Run,
        kind: Kind,
        members: &[usize],
        open: &[Open],
    ) -> Result<Vec<usize>, StepError> {
        let update = ContactUpdate { list_ids: vec![run.order.list], ..ContactUpdate::default() };
        let mut failed = Vec::new();
        for at in members {
            let Some(at_brevo) = reference(&open[*at].row, kind) else { continue };
            if self.update(run, at_brevo, &update).await? != UpdateOutcome::Updated {
                failed.push(*at);
            }
        }
        Ok(failed)
    }

    async fn change(
        &self,
        run: &mut Run,
        membership: Membership,
        members: &ListMembers,
    ) -> Result<VendorAnswer, StepError> {
        let brevo = self.brevo()?;
        let list: ListId = run.order.list;
        let packed = match membership {
            Membership::In => brevo.calls.add_to_list(list, members),
            Membership::Out => brevo.calls.remove_from_list(list, members),
        };
        let request: VendorRequest = packed.into_iter().next().map(|call| call.request).ok_or(StepError::Nobody)?;
        run.counts.list_calls += 1;
        Ok(brevo.call(request).await?)
    }

    async fn update(
        &self,
        run: &mut Run,
        at: ContactRef<'_>,
        update: &ContactUpdate,
    ) -> Result<UpdateOutcome, StepError> {
        let brevo = self.brevo()?;
        loop {
            let answer = brevo.call(brevo.calls.update_contact(at, update)).await?;
            run.counts.list_calls += 1;
            match outcome::update(&answer) {
                UpdateOutcome::TooEarly => tokio::time::sleep(super::creating::BUSY).await,
                other => return Ok(other),
            }
        }
    }

    /// Whether the contact is in the list now.
    async fn is_in(&self, run: &mut Run, at: ContactRef<'_>) -> Result<bool, StepError> {
        let brevo = self.brevo()?;
        let answer = brevo.call(brevo.calls.contact(at)).await?;
        run.counts.list_calls += 1;
        let contact = outcome::contact(&answer);
        Ok(contact.ok().flatten().is_some_and(|contact| contact.list_ids.contains(&run.order.list)))
    }
}

/// Contacts that somebody else has made may carry no ids of ours: when most of a call by one kind fails, the other goes
/// first.
fn addresses_first(now: bool, kind: Kind, failed: usize, of: usize) -> bool {
    if kind == Kind::Phone || failed * 2 <= of { now } else { kind == Kind::ExtId }
}

/// The next call: up to 150 members by one kind of identifier, a full one if there is any. `None` when everybody is
/// settled or has nothing left to be tried by.
fn next_call(open: &[Open], by_address: bool) -> Option<(Kind, Vec<usize>)> {
    let (first, second) = if by_address { (Kind::Email, Kind::ExtId) } else { (Kind::ExtId, Kind::Email) };
    let order = [first, second, Kind::Id, Kind::Phone];
    let mut calls: [(Kind, Vec<usize>); 4] = order.map(|kind| (kind, Vec::new()));
    for (at, member) in open.iter().enumerate().filter(|(_, member)| !member.mark.is_settled()) {
        let left = |kind: &Kind| member.row.has(*kind) && !member.mark.tried(*kind);
        let Some(place) = order.iter().position(left) else { continue };
        calls[place].1.push(at);
        if calls[place].1.len() == MAX_LIST_CHANGE {
            return Some(std::mem::replace(&mut calls[place], (order[place], Vec::new())));
        }
    }
    calls.into_iter().find(|(_, members)| !members.is_empty())
}

/// As Brevo names the member in its answer.
fn name(kind: Kind, row: &MemberRow) -> Option<String> {
    match kind {
        Kind::ExtId => row.ext_id.clone(),
        Kind::Email => row.email.as_ref().map(|email| email.as_str().to_owned()),
        Kind::Id => row.contact_id.map(|id| id.0.to_string()),
        Kind::Phone => None,
    }
}

fn named(kind: Kind, rows: &[&MemberRow]) -> ListMembers {
    match kind {
        Kind::Email => ListMembers::Emails(rows.iter().filter_map(|row| row.email.clone()).collect()),
        Kind::Id => ListMembers::Ids(rows.iter().filter_map(|row| row.contact_id).collect()),
        Kind::ExtId | Kind::Phone => ListMembers::ExtIds(rows.iter().filter_map(|row| row.ext_id.clone()).collect()),
    }
}

/// Keys of a page.
pub(super) fn keys(page: &[Pair]) -> Vec<Vec<u8>> {
    page.iter().map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brevo::identifiers::Email;

    fn open(n: usize, ext_id: bool, email: bool) -> Open {
        let row = MemberRow {
            ext_id: ext_id.then(|| format!("u{n}")),
            email: email.then(|| Email::parse(&format!("u{n}@example.com")).unwrap()),
            ..MemberRow::default()
        };
        Open { key: vec![], row, mark: Mark::default() }
    }

    #[test]
    fn a_full_call_goes_before_one_that_is_not() {
        let mut members: Vec<Open> = (0..3).map(|n| open(n, true, false)).collect();
        members.extend((0..160).map(|n| open(n, false, true)));
        let (kind, call) = next_call(&members, false).unwrap();
        assert_eq!((kind, call.len()), (Kind::Email, 150));
        call.iter().for_each(|at| members[*at].mark = Mark::DONE);
        assert_eq!(next_call(&members, false).map(|(kind, call)| (kind, call.len())), Some((Kind::ExtId, 3)));
    }

    /// Its answer may have been lost: only the call that is made first after a crash is looked into.
    #[test]
    fn the_call_that_was_under_way_at_a_crash_is_made_again_as_it_was() {
        let members: Vec<Open> = (0..2).map(|n| open(n, true, true)).collect();
        let by_address = addresses_first(false, Kind::ExtId, 150, 150);
        let run_stage = Stage::Adding { after: None, by_address };
        let stored: Stage = serde_json::from_slice(&serde_json::to_vec(&run_stage).unwrap()).unwrap();
        let Stage::Adding { by_address: again, .. } = stored else { panic!("{stored:?}") };
        assert_eq!(next_call(&members, again).unwrap().0, Kind::Email);
        assert!(!addresses_first(true, Kind::Email, 2, 2) && addresses_first(true, Kind::Email, 1, 2));
        let earlier: Stage = serde_json::from_str(r#"{"is":"adding","after":null}"#).unwrap();
        assert_eq!(earlier, Stage::Adding { after: None, by_address: false });
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let mut members = vec![open(1, true, true)];
        assert_eq!(next_call(&members, true).unwrap().0, Kind::Email);
        members[0].mark = members[0].mark.and_tried(Kind::Email);
        assert_eq!(next_call(&members, true).unwrap().0, Kind::ExtId);
        members[0].mark = members[0].mark.and_tried(Kind::ExtId);
        assert!(next_call(&members, true).is_none() && !members[0].mark.is_settled());
    }
}
