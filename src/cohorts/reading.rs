//! Holding the list against the members: who of them is in it, and who in it is none of them.

use super::members::phone_of;
use super::rows::{Kind, MEMBER, Mark, MemberRow, REMOVAL, Rows, hash};
use super::run::{Outcome, Run, Source, Stage};
use super::worker::{Engine, StepError};
use crate::alerts::Moment;
use crate::brevo::identifiers::{ContactId, ContactRef, Email};
use crate::brevo::limits::MAX_MEMBERS_PAGE;
use crate::brevo::outcome::{self, ReadError};
use crate::brevo::wire::{Contact, ContactPage};
use crate::config::{BrevoMode, SyncMode};
use crate::people::PersonHash;
use crate::store::{StoreError, WriteBatch};

/// How often a list is read from the beginning because somebody else changed it meanwhile.
const RESTARTS: u32 = 3;
/// Members looked up between two writes.
const LOOK_UPS: usize = 50;

impl Engine {
    /// Reads the next page of the list.
    pub(super) async fn read_list(&self, run: &mut Run) -> Result<(), StepError> {
        let Stage::Reading { offset, count, restarts } = run.stage else { return Ok(()) };
        let page = self.list_page(run, offset).await?;
        if offset == 0 {
            run.counts.list_before = page.count;
            if self.better_looked_up(run, page.count).await? {
                run.stage = Stage::LookingUp { after: None };
                return Ok(self.desk.save(run, WriteBatch::new()).await?);
            }
        } else if page.count != count && restarts < RESTARTS {
            // Whoever came or left has moved others over the edge of a page.
            Rows { state: self.desk.state.as_ref(), run: &run.id }.forget_the_list().await?;
            (run.counts.present, run.counts.to_remove) = (0, 0);
            run.stage = Stage::Reading { offset: 0, count: 0, restarts: restarts + 1 };
            return Ok(self.desk.save(run, WriteBatch::new()).await?);
        }
        let read = offset + page.contacts.len() as u64;
        let last = page.contacts.len() < MAX_MEMBERS_PAGE || read >= page.count;
        let mut batch = WriteBatch::new();
        self.compare(run, &page.contacts, &mut batch).await?;
        run.stage = Stage::Reading { offset: read, count: page.count, restarts };
        if last {
            return self.compared(run, batch).await;
        }
        Ok(self.desk.save(run, batch).await?)
    }

    async fn list_page(&self, run: &mut Run, offset: u64) -> Result<ContactPage, StepError> {
        let brevo = self.brevo()?;
        let answer = brevo.call(brevo.calls.list_members(run.order.list, offset)).await?;
        run.counts.list_calls += 1;
        match outcome::read(&answer) {
            Ok(page) => Ok(page),
            Err(ReadError::NotFound(refusal)) if !refusal.code.is_empty() => Err(StepError::NoSuchList(run.order.list)),
            Err(error) => Err(StepError::Refused(error.to_string())),
        }
    }

    /// A mirror has to know everyone in the list. Otherwise a small group is looked up one by one where that takes fewer
    /// calls than reading a long list.
    async fn better_looked_up(&self, run: &Run, count: u64) -> Result<bool, StoreError> {
        let pages = count.div_ceil(MAX_MEMBERS_PAGE as u64);
        Ok(run.order.mode != SyncMode::Mirror && pages > 1 && self.desk.members_held(run).await? < pages)
    }

    /// Marks the members among `contacts`, and lists whoever is to leave.
    async fn compare(&self, run: &mut Run, contacts: &[Contact], batch: &mut WriteBatch) -> Result<(), StoreError> {
        let id = run.id.clone();
        let rows = Rows { state: self.desk.state.as_ref(), run: &id };
        let hashes: Vec<Vec<PersonHash>> = contacts.iter().map(known_by).collect();
        let flat: Vec<PersonHash> = hashes.iter().flatten().copied().collect();
        let mut owners = rows.owners(&flat).await?.into_iter();
        let mut found: Vec<Vec<Vec<u8>>> = Vec::with_capacity(contacts.len());
        for hashes in &hashes {
            let mut own: Vec<Vec<u8>> = owners.by_ref().take(hashes.len()).flatten().collect();
            own.sort_unstable();
            own.dedup();
            found.push(own);
        }
        let marks = rows.marks(&found.iter().flatten().cloned().collect::<Vec<_>>()).await?;
        let (mut marks, mut marked) = (marks.into_iter(), std::collections::HashSet::new());
        for (contact, members) in contacts.iter().zip(found) {
            for member in &members {
                let known = marks.next().is_some_and(Mark::is_settled);
                rows.put_mark(member, Mark::DONE, batch);
                run.counts.present += u64::from(marked.insert(member.clone()) && !known);
            }
            let leaves = match run.order.mode {
                SyncMode::Mirror => members.is_empty(),
                SyncMode::Remove => !members.is_empty(),
                SyncMode::Add => false,
            };
            if leaves && self.resolver.may_touch(contact.email.as_deref()) {
                rows.put_removal(contact.id, batch);
                run.counts.to_remove += 1;
            }
        }
        Ok(())
    }

    /// Looks some of the members up, each by whatever Brevo may know them by.
    pub(super) async fn look_up(&self, run: &mut Run) -> Result<(), StepError> {
        let Stage::LookingUp { after } = run.stage.clone() else { return Ok(()) };
        let id = run.id.clone();
        let rows = Rows { state: self.desk.state.as_ref(), run: &id };
        let page = rows.page(MEMBER, after.as_deref(), LOOK_UPS).await?;
        let mut batch = WriteBatch::new();
        for (key, value) in &page {
            let member = MemberRow::read(value)?;
            let contact = self.find(run, &member).await?;
            let in_list = contact.as_ref().is_some_and(|contact| contact.list_ids.contains(&run.order.list));
            match (run.order.mode, contact) {
                (SyncMode::Remove, Some(contact)) if in_list => {
                    rows.put_removal(contact.id, &mut batch);
                    run.counts.to_remove += 1;
                    run.counts.present += 1;
                }
                (SyncMode::Add | SyncMode::Mirror, _) if in_list => {
                    rows.put_mark(key, Mark::DONE, &mut batch);
                    run.counts.present += 1;
                }
                _ => {}
            }
        }
        let Some((last, _)) = page.last() else { return self.compared(run, batch).await };
        run.stage = Stage::LookingUp { after: Some(last.clone()) };
        Ok(self.desk.save(run, batch).await?)
    }

    /// The member's contact, wherever it is.
    pub(super) async fn find(&self, run: &mut Run, member: &MemberRow) -> Result<Option<Contact>, StepError> {
        let brevo = self.brevo()?;
        for kind in Kind::ALL {
            let Some(at) = reference(member, kind) else { continue };
            let answer = brevo.call(brevo.calls.contact(at)).await?;
            run.counts.list_calls += 1;
            if let Ok(Some(contact)) = outcome::contact(&answer) {
                return Ok(Some(contact));
            }
        }
        Ok(None)
    }

    /// Everybody has been looked at: the brake, then the changes.
    async fn compared(&self, run: &mut Run, batch: WriteBatch) -> Result<(), StepError> {
        let stops =
            run.order.brakes() && too_many(run.counts.to_remove, run.counts.list_before, self.max_removal_share);
        if self.resolver.mode == BrevoMode::Observe || run.order.dry_run {
            let why = (stops && run.order.dry_run).then(|| "max_removal_share would stop it".to_owned());
            return Ok(self.desk.end(run, batch, Outcome::Observed, why).await?);
        }
        if stops {
            let why = braked(run, self.max_removal_share);
            self.bell.ring(Moment::BrakePulled);
            return Ok(self.desk.end(run, batch, Outcome::Stopped, Some(why)).await?);
        }
        run.stage = Stage::Removing;
        Ok(self.desk.save(run, batch).await?)
    }

    /// Contacts that are still to leave, as they were found.
    pub(super) async fn leaving(&self, run: &Run, limit: usize) -> Result<Vec<ContactId>, StoreError> {
        let rows = Rows { state: self.desk.state.as_ref(), run: &run.id };
        let page = rows.page(REMOVAL, None, limit).await?;
        let id = |key: Vec<u8>| key.try_into().map(|bytes| ContactId(u64::from_be_bytes(bytes)));
        page.into_iter()
            .map(|(key, _)| id(key).map_err(|_| StoreError::Corrupt("a contact of a cohort run".to_owned())))
            .collect()
    }
}

/// The member as a call about one contact names them.
pub(super) fn reference(member: &MemberRow, kind: Kind) -> Option<ContactRef<'_>> {
    match kind {
        Kind::ExtId => member.ext_id.as_deref().map(ContactRef::ExtId),
        Kind::Email => member.email.as_ref().map(ContactRef::Email),
        Kind::Id => member.contact_id.map(ContactRef::Id),
        Kind::Phone => member.phone.as_ref().map(ContactRef::Phone),
    }
}

/// Hashes of all that Brevo knows the contact by.
fn known_by(contact: &Contact) -> Vec<PersonHash> {
    let attribute =
        |name: &str| contact.attributes.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    let ext_id = attribute("EXT_ID").map(|id| hash(Kind::ExtId, id));
    let email = contact.email.as_deref().and_then(|email| Email::parse(email).ok());
    let email = email.map(|email| hash(Kind::Email, email.as_str()));
    let phone = attribute("SMS").and_then(phone_of).map(|phone| hash(Kind::Phone, phone.digits()));
    let id = Some(hash(Kind::Id, &contact.id.0.to_string()));
    [ext_id, email, phone, id].into_iter().flatten().collect()
}

/// What the brake has held back, and how to let it go. Whoever has left a mirrored group is not taken out later: they may
/// be back by then. The whole group says who is to go.
fn braked(run: &Run, share: f64) -> String {
    let counts = &run.counts;
    let again = match &run.order.source {
        _ if run.order.of_a_mirror => {
            "if that is right, run the whole cohort once by \"syncMode\": \"mirror\" and \"force\": true, or have Mixpanel push all of it"
                .to_owned()
        }
        Source::Dataset { name, .. } => format!("`mixrelay datasets run {name} --force` lets it go on"),
        Source::Cohort { .. } | Source::Pushed { .. } => {
            "ask again with \"force\": true, or `mixrelay cohorts sync --force`, to let it go on".to_owned()
        }
    };
    format!(
        "{} of the {} people in list {} would leave it, which is more than max_removal_share ({share}) allows: {again}",
        counts.to_remove, counts.list_before, run.order.list.0
    )
}

/// The brake of a mirror.
fn too_many(leaving: u64, of: u64, share: f64) -> bool {
    leaving > 0 && leaving as f64 > share * of as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brake_holds_above_its_share() {
        assert!(!too_many(0, 0, 0.3));
        assert!(!too_many(30, 100, 0.3));
        assert!(too_many(31, 100, 0.3));
        assert!(too_many(1, 100, 0.0));
        assert!(!too_many(100, 100, 1.0));
    }
}
