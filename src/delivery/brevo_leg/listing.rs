//! Lists that events ask for: in calls of up to 150 people, after the event and its contact are there.

use std::collections::VecDeque;
use std::time::Duration;

use tower::ServiceExt as _;

use super::compose::address;
use super::queue::{Queued, Slot};
use super::{BrevoLeg, Done};
use crate::brevo::calls::Calls;
use crate::brevo::identifiers::{ContactRef, Email, ListId, Membership};
use crate::brevo::limits::MAX_LIST_CHANGE;
use crate::brevo::outcome::{self, ListOutcome, ReadError, Refusal, UpdateOutcome};
use crate::brevo::wire::{ContactUpdate, ListMembers};
use crate::delivery::LegError;
use crate::delivery::history::{Outcome, Span};
use crate::people::person::Contact;
use crate::people::roster::PersonId;
use crate::vendor::VendorAnswer;
use crate::vendor::stack::Stack;

/// List changes under way at once. Others wait, so that more people join a call.
const CALLS: usize = 2;

/// The wait for a contact that is busy.
const BUSY: Duration = Duration::from_secs(1);

/// What became of one person's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Made,
    /// Brevo does not know the contact any more.
    Gone,
    /// The contact is busy: the same again.
    Later,
    /// With Brevo's words.
    Refused(String),
}

/// One call: the same change of one list for several people.
pub(super) struct ListCall {
    list: ListId,
    membership: Membership,
    people: Vec<Member>,
}

#[derive(Clone)]
struct Member {
    id: PersonId,
    contact: Contact,
    /// Whether Brevo has said before that it is so: then "nothing changed" needs no check.
    confirmed: bool,
}

/// The identifier by which a call names its members; all have the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    ExtId,
    Email,
    /// List changes know no phone numbers: such a contact goes alone, as an update.
    Phone,
}

impl Member {
    fn named_by(&self) -> Option<NamedBy> {
        Some(match address(&self.id, &self.contact)? {
            ContactRef::ExtId(_) => NamedBy::ExtId,
            ContactRef::Email(_) => NamedBy::Email,
            ContactRef::Phone(_) | ContactRef::Id(_) => NamedBy::Phone,
        })
    }
}

impl BrevoLeg {
    /// Brevo has taken the event: its record is kept by the person now, until the lists are as it asks.
    pub(super) fn owe_lists(&mut self, id: &PersonId, event: &Queued) {
        match event.slot {
            Slot::Ledger(ticket) => self.parts.books.hand_over(ticket, Outcome::ListsOwed),
            Slot::Shelf { bytes } => {
                self.unshelve(id, event.position, bytes);
                self.parts.books.end_kept(event.position, Outcome::ListsOwed);
            }
        }
        self.owed += 1;
        self.change_lists(id, |lists| lists.owe(&event.event.lists, event.position, event.record.received_at));
    }

    /// Changes what is owed of the person's lists, and keeps the oldest of all in step.
    pub(super) fn change_lists<T>(
        &mut self,
        id: &PersonId,
        change: impl FnOnce(&mut crate::people::lists::Lists) -> T,
    ) -> T {
        let lists = &mut self.roster.edit(id).person.lists;
        let before = lists.owes().then_some(lists.oldest);
        let changed = change(lists);
        let after = lists.owes().then_some(lists.oldest);
        if before != after {
            before.into_iter().for_each(|oldest| self.listed_since.remove(oldest));
            after.into_iter().for_each(|oldest| self.listed_since.add(oldest));
        }
        changed
    }

    /// Lists that a merged id has asked for are its survivor's affair, whose own changes are the later ones. What Brevo has
    /// confirmed holds only for the same contact.
    pub(super) fn move_lists(&mut self, from: &PersonId, into: &PersonId, had_contact: bool) {
        let mut lists = self.change_lists(from, std::mem::take);
        if had_contact {
            lists.forget_confirmed();
        }
        if !lists.is_empty() {
            self.change_lists(into, |own| {
                lists.join(std::mem::take(own));
                *own = lists;
            });
        }
    }

    /// The person's next change, where a call could make it.
    fn next_listing(&self, id: &PersonId) -> Option<(ListId, Membership, NamedBy)> {
        let (list, membership) = self.roster.get(id)?.person.lists.next()?;
        let named_by = self.member(id, list, membership)?.named_by()?;
        Some((list, membership, named_by))
    }

    fn member(&self, id: &PersonId, list: ListId, membership: Membership) -> Option<Member> {
        let person = &self.roster.get(id).filter(|_| self.is_in_pilot(id))?.person;
        if person.deletion.is_some() {
            return None;
        }
        let confirmed = person.lists.is_confirmed(list, membership);
        person.lists.wants(list, membership).then(|| Member {
            id: id.clone(),
            contact: person.contact.clone(),
            confirmed,
        })
    }

    pub(super) fn start_listings(&mut self) {
        while self.sends() && self.listings_under_way < CALLS {
            let Some(first) = self.to_list.pop_front() else { return };
            self.queue(&first).listed_to_list = false;
            let Some((list, membership, named_by)) = self.next_listing(&first) else {
                self.advance(&first);
                continue;
            };
            let mut people: Vec<Member> = self.member(&first, list, membership).into_iter().collect();
            let line = std::mem::take(&mut self.to_list);
            let mut others = VecDeque::with_capacity(line.len());
            let room = if named_by == NamedBy::Phone { 1 } else { MAX_LIST_CHANGE };
            for id in line {
                let member = self.member(&id, list, membership).filter(|member| member.named_by() == Some(named_by));
                match member {
                    Some(member) if people.len() < room => {
                        self.queue(&id).listed_to_list = false;
                        people.push(member);
                    }
                    _ => others.push_back(id),
                }
            }
            self.to_list = others;
            for member in &people {
                self.queue(&member.id).listing = true;
            }
            self.send_listing(ListCall { list, membership, people });
        }
    }

    fn send_listing(&mut self, call: ListCall) {
        let Some(vendor) = &self.parts.vendor else { return };
        let lister = Lister { calls: vendor.calls.clone(), stack: vendor.stack.clone() };
        self.listings_under_way += 1;
        self.spawn(Box::pin(async move {
            let listed = lister.change(&call).await?;
            Ok(Done::Listed(call, listed))
        }));
    }

    pub(super) fn settle_listing(&mut self, call: ListCall, listed: Vec<Listed>) {
        self.listings_under_way -= 1;
        for (member, listed) in call.people.iter().zip(listed) {
            let id = &member.id;
            self.queue(id).listing = false;
            match listed {
                // Once: whom Brevo does not know right after it has taken the contact, it does not know by this identifier.
                Listed::Gone
                    if self.roster.edit(id).person.addressable()
                        && !std::mem::replace(&mut self.queue(id).anew_for_list, true) =>
                {
                    tracing::warn!("a contact is not at Brevo any more, and is written anew before it joins a list");
                    self.contact_is_gone(id);
                }
                Listed::Later => {}
                Listed::Made => self.listing_settled(id, &call, true),
                Listed::Gone => self.listing_refused(id, &call, "Brevo has no such contact"),
                Listed::Refused(words) => self.listing_refused(id, &call, &words),
            }
            self.advance(id);
        }
    }

    /// The event was delivered, and a replay of it would send it twice: what Brevo refused is counted beside it.
    fn listing_refused(&mut self, id: &PersonId, call: &ListCall, words: &str) {
        self.parts.books.tally_mut().lists_refused += 1;
        if self.refused_lists.insert(call.list) {
            tracing::warn!(list = call.list.0, change = call.membership.verb(), words, "Brevo does not change a list");
        }
        self.listing_settled(id, call, false);
    }

    fn listing_settled(&mut self, id: &PersonId, call: &ListCall, made: bool) {
        self.queue(id).anew_for_list = false;
        let settled = self.change_lists(id, |lists| lists.settle(call.list, call.membership, made));
        self.owed = self.owed.saturating_sub(settled.records);
        self.parts.books.deliver_listed(id, Span::from(&settled));
    }
}

struct Lister {
    calls: Calls,
    stack: Stack,
}

impl Lister {
    async fn call(&self, request: crate::vendor::VendorRequest) -> Result<VendorAnswer, LegError> {
        Ok(self.stack.clone().oneshot(request).await?)
    }

    /// Makes the change; what became of it for each of the call's people, in their order.
    async fn change(&self, call: &ListCall) -> Result<Vec<Listed>, LegError> {
        let people = &call.people;
        let Some(members) = members(people) else { return self.one_by_one(call).await };
        let mut packed = match call.membership {
            Membership::In => self.calls.add_to_list(call.list, &members),
            Membership::Out => self.calls.remove_from_list(call.list, &members),
        };
        if packed.len() != 1 {
            return self.one_by_one(call).await;
        }
        let answer = self.call(packed.remove(0).request).await?;
        let unchanged = |names: &[String]| -> Vec<bool> {
            people.iter().map(|member| name(member).is_some_and(|name| names.contains(&name))).collect()
        };
        match outcome::list_change(&answer) {
            ListOutcome::Changed { unchanged: names, .. } => self.checked(call, &unchanged(&names)).await,
            ListOutcome::NothingChanged => self.checked(call, &vec![true; people.len()]).await,
            ListOutcome::UnknownList => {
                Ok(vec![Listed::Refused(format!("the account has no list {}", call.list.0)); people.len()])
            }
            // Smaller calls will tell who it is that Brevo does not like, or who is busy, or what came of this one.
            ListOutcome::Invalid(_) | ListOutcome::Unsaid => self.one_by_one(call).await,
        }
    }

    /// Who did not change was in (or out) already, or is unknown: the answer is the same (contract §4.2). So each is
    /// looked up, once: what Brevo has confirmed before is believed.
    async fn checked(&self, call: &ListCall, unchanged: &[bool]) -> Result<Vec<Listed>, LegError> {
        let mut listed = Vec::with_capacity(call.people.len());
        for (member, unchanged) in call.people.iter().zip(unchanged) {
            listed.push(if *unchanged && !member.confirmed { self.look(call, member).await? } else { Listed::Made });
        }
        Ok(listed)
    }

    async fn look(&self, call: &ListCall, member: &Member) -> Result<Listed, LegError> {
        let Some(at) = address(&member.id, &member.contact) else { return Ok(Listed::Gone) };
        let answer = self.call(self.calls.contact(at)).await?;
        Ok(match outcome::contact(&answer) {
            Ok(Some(contact)) if contact.list_ids.contains(&call.list) == (call.membership == Membership::In) => {
                Listed::Made
            }
            Ok(Some(_)) => Listed::Refused("Brevo says that nothing changed, and it is not so".to_owned()),
            Ok(None) => Listed::Gone,
            Err(ReadError::Refused(Refusal { status: 409 | 425, .. })) => {
                tokio::time::sleep(BUSY).await;
                Listed::Later
            }
            Err(error) => Listed::Refused(error.to_string()),
        })
    }

    /// By updates of single contacts.
    async fn one_by_one(&self, call: &ListCall) -> Result<Vec<Listed>, LegError> {
        let mut listed = Vec::with_capacity(call.people.len());
        for member in &call.people {
            let Some(at) = address(&member.id, &member.contact) else {
                listed.push(Listed::Gone);
                continue;
            };
            let mut update = ContactUpdate::default();
            match call.membership {
                Membership::In => update.list_ids.push(call.list),
                Membership::Out => update.unlink_list_ids.push(call.list),
            }
            let answer = self.call(self.calls.update_contact(at, &update)).await?;
            listed.push(match outcome::update(&answer) {
                UpdateOutcome::Updated => Listed::Made,
                UpdateOutcome::NotFound => Listed::Gone,
                UpdateOutcome::TooEarly => {
                    tokio::time::sleep(BUSY).await;
                    Listed::Later
                }
                UpdateOutcome::Conflict { refusal, .. } | UpdateOutcome::Invalid(refusal) => {
                    Listed::Refused(refusal.to_string())
                }
            });
        }
        Ok(listed)
    }
}

/// As Brevo names the member in its answer.
fn name(member: &Member) -> Option<String> {
    match address(&member.id, &member.contact)? {
        ContactRef::ExtId(id) => Some(id.to_owned()),
        ContactRef::Email(email) => Some(email.as_str().to_owned()),
        ContactRef::Phone(_) | ContactRef::Id(_) => None,
    }
}

/// `None`: a list change cannot name them.
fn members(people: &[Member]) -> Option<ListMembers> {
    let emails: Option<Vec<Email>> = people
        .iter()
        .map(|member| match address(&member.id, &member.contact) {
            Some(ContactRef::Email(email)) => Some(email.clone()),
            _ => None,
        })
        .collect();
    if let Some(emails) = emails {
        return Some(ListMembers::Emails(emails));
    }
    let ids = people.iter().map(|member| match address(&member.id, &member.contact) {
        Some(ContactRef::ExtId(id)) => Some(id.to_owned()),
        _ => None,
    });
    ids.collect::<Option<_>>().map(ListMembers::ExtIds)
}
