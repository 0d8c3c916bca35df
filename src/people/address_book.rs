//! Whose a contact of Brevo's is: from an address or a contact's number to the person.
//!
//! One row for each way to a person, under the way and the person's id, so that every person's rows are written with
//! their own and two people who share an address do not write over each other. Which of them an address stands for is
//! decided by who reads: the one whose contact Brevo has confirmed under an id of theirs goes before one who only
//! claims the address. A row may lead to an id that was merged: links are followed by whoever reads.
//!
//! Beside these, a row leads from a person to each merged id for which their own list had no room.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::PersonHash;
use super::person::{Contact, Person};
use super::roster::{self, PersonId, Roster};
use crate::brevo::identifiers::ContactId;
use crate::store::{KeyRange, State, StoreError, Table};

/// Ends the way in a row's key: no address holds it. The schema's upgrade writes it too.
const END: char = '\u{1f}';
const ADDRESS: char = 'a';
const CONTACT: char = 'c';
const MERGED: char = 'm';
/// People who share an address, looked at. More are no person's address but a placeholder.
const SHARED: usize = 64;

/// How sure a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Brevo has confirmed the contact under an id of the person's.
    Owns,
    /// The person's profile says so, or the contact carries another's id.
    Claims,
}

/// A person's rows: their keys without the person's id.
pub type Ways = BTreeMap<String, Claim>;

/// The rows that a person is to have.
pub fn ways(person: &Person) -> Ways {
    let mut ways = Ways::new();
    if let Some(email) = &person.email {
        ways.insert(way(ADDRESS, email.as_str()), Claim::Claims);
    }
    if let Contact::Known { email, ext_id, contact_id, .. } = &person.contact {
        let claim = if *ext_id { Claim::Owns } else { Claim::Claims };
        ways.extend(email.iter().map(|email| (way(ADDRESS, email.as_str()), claim)));
        ways.extend(contact_id.iter().map(|id| (way(CONTACT, &id.0.to_string()), claim)));
    }
    ways.extend(person.links.unlisted_at().map(|into| (merged_into(into), Claim::Claims)));
    ways
}

/// A hash, for an id may hold every character.
fn merged_into(id: &str) -> String {
    let hash: String = PersonHash::of(id).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    way(MERGED, &hash)
}

/// Up to `limit` of the ids that were merged into `id` and are not in their list, in order, from `after` (exclusive) on.
pub async fn unlisted(
    state: &Arc<dyn State>,
    id: &str,
    after: Option<&PersonId>,
    limit: usize,
) -> Result<Vec<PersonId>, StoreError> {
    let way = merged_into(id);
    let mut range = KeyRange::prefix(way.as_str());
    if let Some(after) = after {
        range = range.after(key(&way, after));
    }
    let rows = state.scan(Table::Addresses, range, limit).await?;
    let id = |(key, _): (Vec<u8>, bytes::Bytes)| {
        let id = std::str::from_utf8(&key[way.len()..]);
        id.map(PersonId::from).map_err(|_| StoreError::Corrupt(format!("a row of {}", Table::Addresses.name())))
    };
    rows.into_iter().map(id).collect()
}

fn way(tag: char, text: &str) -> String {
    format!("{tag}{text}{END}")
}

/// The key of a row.
pub fn key(way: &str, id: &str) -> Vec<u8> {
    [way, id].concat().into_bytes()
}

/// What a push of Brevo's says of its person.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sought {
    pub contact_id: Option<ContactId>,
    /// The id that the contact carries: the canonical id of the person, where the relay made it.
    pub ext_id: Option<String>,
    /// Lower case, whether Brevo could mail it or not.
    pub address: Option<String>,
}

/// The canonical id of whoever is sought: by the contact's number, else its ext_id, else its address. `None`: nobody whom
/// the relay knows.
pub async fn find(state: &Arc<dyn State>, sought: &Sought) -> Result<Option<PersonId>, StoreError> {
    if let Some(id) = sought.contact_id
        && let Some(person) = behind(state, &way(CONTACT, &id.0.to_string())).await?
    {
        return Ok(Some(person));
    }
    if let Some(ext_id) = &sought.ext_id {
        return canonical(state, ext_id.as_str().into()).await.map(Some);
    }
    match &sought.address {
        Some(address) => behind(state, &way(ADDRESS, address)).await,
        None => Ok(None),
    }
}

async fn behind(state: &Arc<dyn State>, way: &str) -> Result<Option<PersonId>, StoreError> {
    let rows = state.scan(Table::Addresses, KeyRange::prefix(way), SHARED).await?;
    let mut candidates = Vec::with_capacity(rows.len());
    for (key, value) in rows {
        let corrupt = || StoreError::Corrupt(format!("a row of {}", Table::Addresses.name()));
        let claim: Claim = serde_json::from_slice(&value).map_err(|_| corrupt())?;
        let id = std::str::from_utf8(&key[way.len()..]).map_err(|_| corrupt())?;
        candidates.push((claim, PersonId::from(id)));
    }
    match candidates.into_iter().min() {
        Some((_, id)) => canonical(state, id).await.map(Some),
        None => Ok(None),
    }
}

/// Whom `id` was merged into by now.
async fn canonical(state: &Arc<dyn State>, id: PersonId) -> Result<PersonId, StoreError> {
    let mut roster = Roster::default();
    roster.take_in(roster::load(state, vec![id.clone()]).await?);
    Ok(roster.resolve(&id))
}

/// The id under which Mixpanel gets what a contact does of whom no id is known: made of `contact`, the address in lower
/// case or the contact's number, and the same at every relay. It has the form of an id that an SDK makes up for a
/// visitor (a version 4 UUID), because it stands for one: somebody who has not said who they are.
pub fn stand_in(contact: &str) -> String {
    let hash: [u8; 32] = Sha256::new().chain_update(b"mixrelay contact\0").chain_update(contact).finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brevo::identifiers::Email;
    use crate::clock::SystemClock;
    use crate::people::identity::{Link, Verb, is_anonymous};
    use crate::people::unseen::Day;
    use crate::record::{EntryId, Epoch, Position};
    use crate::store::WriteBatch;
    use crate::store::sqlite::{self, OpenOptions, SqliteStore};
    use crate::store::testing;

    fn open(directory: &tempfile::TempDir) -> SqliteStore {
        let path = directory.path().join("m.db");
        let options = OpenOptions { path, min_free: Some(1), allow_volatile: true, clock: Arc::new(SystemClock) };
        sqlite::open(options).unwrap()
    }

    fn directory() -> tempfile::TempDir {
        testing::directory()
    }

    fn email(text: &str) -> Email {
        Email::parse(text).unwrap()
    }

    fn at(address: &str) -> Sought {
        Sought { address: Some(address.to_owned()), ..Sought::default() }
    }

    fn number(id: u64) -> Sought {
        Sought { contact_id: Some(ContactId(id)), ..Sought::default() }
    }

    async fn found(state: &Arc<dyn State>, sought: &Sought) -> Option<String> {
        find(state, sought).await.unwrap().map(|id| id.to_string())
    }

    async fn write(state: &Arc<dyn State>, roster: &mut Roster) {
        let mut batch = WriteBatch::new();
        roster.put_changes(&mut batch, Day::default()).unwrap();
        state.write(batch).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_stands_for_whose_contact_it_is_and_else_for_who_claims_it() {
        let directory = directory();
        let store = open(&directory);
        let state: Arc<dyn State> = store.state.clone();
        let mut roster = Roster::default();
        roster.edit(&"zoe".into()).person.email = Some(email("both@example.com"));
        roster.edit(&"ann".into()).person.email = Some(email("both@example.com"));
        write(&state, &mut roster).await;
        assert_eq!(found(&state, &at("both@example.com")).await.as_deref(), Some("ann"));
        assert_eq!(found(&state, &at("other@example.com")).await, None);

        let contact_id = Some(ContactId(7));
        let address = Some(email("both@example.com"));
        roster.edit(&"zoe".into()).person.contact =
            Contact::Known { email: address, ext_id: true, known_as: None, contact_id, phone: None };
        write(&state, &mut roster).await;
        assert_eq!(found(&state, &at("both@example.com")).await.as_deref(), Some("zoe"));
        assert_eq!(found(&state, &number(7)).await.as_deref(), Some("zoe"));

        // A new address at Mixpanel, and in a later process: the old one stays as long as Brevo has it.
        let mut roster = Roster::default();
        roster.take_in(roster::load(&state, vec!["zoe".into()]).await.unwrap());
        roster.edit(&"zoe".into()).person.email = Some(email("zoe@example.com"));
        write(&state, &mut roster).await;
        assert_eq!(found(&state, &at("zoe@example.com")).await.as_deref(), Some("zoe"));
        roster.edit(&"zoe".into()).person.contact = Contact::known(Some(email("zoe@example.com")), true, None);
        write(&state, &mut roster).await;
        assert_eq!(found(&state, &at("both@example.com")).await.as_deref(), Some("ann"));
        assert_eq!(found(&state, &number(7)).await, None);
    }

    #[tokio::test]
    async fn links_are_followed() {
        let directory = directory();
        let store = open(&directory);
        let state: Arc<dyn State> = store.state.clone();
        let mut roster = Roster::default();
        let (device, user): (PersonId, PersonId) = ("$device:d".into(), "u".into());
        roster.edit(&device).person.email = Some(email("u@example.com"));
        roster.edit(&user);
        let link = Link { verb: Verb::Device, from: device.clone(), into: user.clone() };
        let position = Position { epoch: Epoch(1), entry: EntryId(1), index: 0 };
        roster.link(&link, position, crate::config::IdentityMode::Simplified).unwrap();
        write(&state, &mut roster).await;
        assert_eq!(found(&state, &at("u@example.com")).await.as_deref(), Some("u"));
        let ext_id = |id: &str| Sought { ext_id: Some(id.to_owned()), ..Sought::default() };
        assert_eq!(found(&state, &ext_id("$device:d")).await.as_deref(), Some("u"));
        assert_eq!(found(&state, &ext_id("stranger")).await.as_deref(), Some("stranger"));
    }

    #[test]
    fn a_stand_in_never_changes_and_looks_like_a_visitor() {
        // Written down so that an upgrade cannot change it: it would make a second visitor of everyone.
        assert_eq!(stand_in("ada@example.com"), "6bcd6f78-e5a5-4466-93e4-5c5276fd2bf4");
        assert!(is_anonymous(&stand_in("ada@example.com")));
        assert_ne!(stand_in("ada@example.com"), stand_in("bob@example.com"));
    }
}
