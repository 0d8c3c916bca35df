//! Links between people and companies: one call for all that a company is owed, by `link-unlink`, which leaves everyone
//! else as they are (contract §6).
//!
//! A membership stands in the person. Once Brevo has the person's contact it is listed for its company, a row each, and
//! waits until the company is known; then the rows are read, the people's contact numbers looked up where no answer has told
//! them, and the company is told. Contact numbers are asked for behind all live traffic.

use std::collections::BTreeMap;

use std::time::Duration;

use tokio::time::Instant;
use tower::ServiceExt as _;

use super::payer::Caller;
use super::{Back, Companies};
use crate::brevo::companies::{self as brevo, ChangeOutcome, CompanyId, LinkChange};
use crate::brevo::identifiers::ContactId;
use crate::brevo::outcome::{self, Refusal};
use crate::delivery::LegError;
use crate::delivery::brevo_leg::compose::address;
use crate::delivery::brevo_leg::{BrevoLeg, Done};
use crate::mapping::membership::Belonging;
use crate::people::company::{GroupId, Place, rows};
use crate::people::person::Contact;
use crate::people::roster::{self, PersonId, Resident};
use crate::vendor::budget::Limit;
use crate::vendor::stack::Stack;
use crate::vendor::{Priority, VendorRequest};

/// People in one call. Brevo's own limit is not documented; 150 is what its lists take.
const AT_ONCE: usize = 150;

/// Before rows are looked for again that are not durable yet.
const ROWS_RECHECK: Duration = Duration::from_millis(250);

/// A company's links that are owed.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinksOwed {
    pub people: u64,
    /// The company is not known to be there: it is not asked about before a record of its group has found it.
    waits: bool,
    /// People in the next call: halved where Brevo has refused one, until the one whom it does not take is alone.
    at_once: usize,
}

/// One person in a call.
#[derive(Debug)]
pub(in super::super) struct Linked {
    /// Whose row it is; the person may have been merged since.
    row: PersonId,
    person: PersonId,
    contact: Contact,
    member: bool,
    id: Option<ContactId>,
}

/// What became of a call.
#[derive(Debug)]
pub(in super::super) struct LinksPaid {
    people: Vec<Linked>,
    end: LinksEnd,
    window: Option<(Limit, u64)>,
}

#[derive(Debug)]
enum LinksEnd {
    Told,
    /// Somebody has deleted the company.
    Gone,
    Refused(Refusal),
    Misrouted(Refusal),
}

impl Companies {
    fn links_mut(&mut self, group: &GroupId) -> &mut LinksOwed {
        let fresh = LinksOwed { people: 0, waits: false, at_once: AT_ONCE };
        self.links.entry(group.clone()).or_insert(fresh)
    }

    pub(super) fn count_links(&mut self, group: &GroupId, people: u64) {
        self.links_mut(group).people += people;
    }

    /// The company is there now: its links need not wait any more.
    pub(super) fn links_may_go(&mut self, group: &GroupId) {
        if let Some(links) = self.links.get_mut(group) {
            links.waits = false;
        }
    }

    /// Companies whose links could be told.
    pub(super) fn links_ready(&self) -> u64 {
        self.links.values().filter(|links| !links.waits).count() as u64
    }

    /// The next company in turn.
    pub(super) fn next_links(&mut self) -> Option<GroupId> {
        let after = self.linked_last.take();
        let ready = |(group, links): (&GroupId, &LinksOwed)| (!links.waits).then(|| group.clone());
        let from = |after: &GroupId| (std::ops::Bound::Excluded(after.clone()), std::ops::Bound::Unbounded);
        let next = after.and_then(|after| self.links.range(from(&after)).find_map(ready));
        self.linked_last = next.or_else(|| self.links.iter().find_map(ready));
        self.linked_last.clone()
    }
}

impl BrevoLeg {
    /// Takes in which groups a record says that its person is in.
    pub(in super::super) fn take_belongings(&mut self, id: &PersonId, belongings: &[Belonging]) {
        self.roster.edit(id).person.groups.take(belongings);
        self.list_links(id);
    }

    /// Lists a person's new memberships for their companies, once Brevo has the person.
    pub(in super::super) fn list_links(&mut self, id: &PersonId) {
        let new = |resident: &Resident| resident.person.groups.has_new() && resident.person.contact != Contact::Unknown;
        if !self.sends() || self.roster.is_forward(id) || !self.roster.get(id).is_some_and(new) {
            return;
        }
        for group in self.roster.edit(id).person.groups.list() {
            rows::put_link(&group, id, self.parts.books.pending_mut());
            self.companies.count_links(&group, 1);
        }
    }

    /// Begins with the next company whose links are owed: its rows and their people are read.
    pub(super) fn start_links(&mut self) -> bool {
        if self.durable_page < self.companies.links_page {
            return false;
        }
        let Some(group) = self.companies.next_links() else { return false };
        let at_once = self.companies.links_mut(&group).at_once;
        let missing = self.companies.missing(std::iter::once(&group));
        let state = self.parts.state.clone();
        self.companies.busy = true;
        self.spawn(Box::pin(async move {
            let companies = rows::load(&state, missing).await?;
            let people = rows::links(&state, &group, at_once).await?;
            let loaded = roster::load(&state, people.clone()).await?;
            Ok(Done::Companies(Back::Links { group, companies, people, loaded }))
        }));
        true
    }

    /// Tells the company, now that everyone is in memory.
    pub(super) fn tell_links(&mut self, group: GroupId, rows: Vec<PersonId>) {
        if rows.is_empty() {
            // All that is counted stands on pages that are not durable yet, or nothing does.
            if !self.parts.books.is_dirty() && !self.companies.is_dirty() && self.writing.is_none() {
                self.companies.links.remove(&group);
            }
            let companies = &mut self.companies;
            companies.next_at = companies.next_at.max(Instant::now() + ROWS_RECHECK);
            return;
        }
        let place = self.companies.residents.get(&group).map(|resident| resident.company.place.clone());
        let Some(Place::At { id, .. }) = place else {
            self.companies.links_mut(&group).waits = true;
            return;
        };
        let mut people = Vec::new();
        for row in rows {
            let person = self.roster.resolve(&row);
            let resident = self.roster.get(&person).cloned().unwrap_or_default();
            match resident.person.groups.owed(&group) {
                Some(member) if resident.person.contact != Contact::Unknown => {
                    let id = match &resident.person.contact {
                        Contact::Known { contact_id, .. } => *contact_id,
                        Contact::Unknown => None,
                    };
                    people.push(Linked { row, person, contact: resident.person.contact, member, id });
                }
                // Settled by another row, or the contact is gone: it is listed again with the next one.
                _ => self.forget_link(&group, &row),
            }
        }
        let (Some(vendor), false) = (&self.parts.vendor, people.is_empty()) else { return };
        let Some(caller) = self.company_caller() else { return };
        let contacts = vendor.stack.clone();
        self.companies.busy = true;
        self.spawn(Box::pin(async move {
            let paid = tell(caller, contacts, &id, people).await?;
            Ok(Done::Companies(Back::LinksPaid(group, Box::new(paid))))
        }));
    }

    fn forget_link(&mut self, group: &GroupId, row: &PersonId) {
        rows::remove_link(group, row, self.parts.books.pending_mut());
        self.companies.links_page = self.page;
        let links = self.companies.links_mut(group);
        links.people = links.people.saturating_sub(1);
        if links.people == 0 {
            self.companies.links.remove(group);
        }
    }

    pub(super) fn settle_links(&mut self, group: &GroupId, paid: LinksPaid) {
        self.companies.learn_limit(paid.window);
        for linked in &paid.people {
            if let (Some(id), Contact::Known { contact_id, .. }) =
                (linked.id, &mut self.roster.edit(&linked.person).person.contact)
            {
                *contact_id = Some(id);
            }
        }
        let alone = paid.people.len() == 1;
        match paid.end {
            LinksEnd::Told => {
                self.companies.misrouted = 0;
                self.companies.links_mut(group).at_once = AT_ONCE;
                self.links_told(group, paid.people);
            }
            LinksEnd::Refused(refusal) if alone => {
                tracing::warn!(%refusal, "Brevo does not link a contact to its company");
                self.links_told(group, paid.people);
            }
            LinksEnd::Refused(refusal) => {
                tracing::debug!(%refusal, "links were refused whole: fewer at once will tell whose");
                self.companies.links_mut(group).at_once = (paid.people.len() / 2).max(1);
            }
            LinksEnd::Gone => {
                tracing::warn!("a company is not at Brevo any more, and is made anew");
                let now = self.parts.clock.now();
                self.companies.lost(group, now, self.parts.books.pending_mut());
                self.companies.links_mut(group).waits = true;
            }
            LinksEnd::Misrouted(refusal) => {
                self.companies.hold();
                tracing::warn!(%refusal, "Brevo does not answer for companies; contacts and events go on");
            }
        }
    }

    fn links_told(&mut self, group: &GroupId, people: Vec<Linked>) {
        for linked in people {
            self.roster.edit(&linked.person).person.groups.settle(group, linked.member);
            self.forget_link(group, &linked.row);
            self.list_links(&linked.person);
        }
    }
}

/// Finds the contact numbers that are not known, and tells the company. Someone whom Brevo does not have is left out of
/// the call, and counts as told: there is nobody to link.
async fn tell(
    caller: Caller,
    contacts: Stack,
    company: &CompanyId,
    mut people: Vec<Linked>,
) -> Result<LinksPaid, LegError> {
    let mut unread = Vec::new();
    for (index, linked) in people.iter_mut().enumerate().filter(|(_, linked)| linked.id.is_none()) {
        let Some(at) = address(&linked.person, &linked.contact) else { continue };
        let request = VendorRequest { priority: Priority::Backfill, ..caller.calls.contact(at) };
        let answer = contacts.clone().oneshot(request).await?;
        match outcome::contact(&answer) {
            Ok(found) => linked.id = found.map(|contact| contact.id),
            // Busy, or unreadable: these keep their place in the line.
            Err(_) => unread.push(index),
        }
    }
    for index in unread.into_iter().rev() {
        people.remove(index);
    }
    // By number: what is said twice of one contact is said once.
    let wanted: BTreeMap<ContactId, bool> =
        people.iter().filter_map(|linked| Some((linked.id?, linked.member))).collect();
    let of = |member: bool| wanted.iter().filter(|(_, wanted)| **wanted == member).map(|(id, _)| *id).collect();
    let change = LinkChange { link_contact_ids: of(true), unlink_contact_ids: of(false) };
    let end = if wanted.is_empty() {
        LinksEnd::Told
    } else {
        let answer = caller.call(caller.calls.link_company(company, &change)).await?;
        match brevo::changed(&answer) {
            ChangeOutcome::Done(_) => LinksEnd::Told,
            ChangeOutcome::NotFound => LinksEnd::Gone,
            ChangeOutcome::Invalid(refusal) => LinksEnd::Refused(refusal),
            ChangeOutcome::Misrouted(refusal) => LinksEnd::Misrouted(refusal),
        }
    };
    Ok(LinksPaid { people, end, window: caller.window().await })
}
