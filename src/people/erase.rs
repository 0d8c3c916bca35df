//! Everything of one person in the state's tables: found, shown, taken away (CORE 12).
//!
//! Only while the leg stands back: it would write back what it holds in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::address_book;
use super::company::{GroupId, rows as company_rows};
use super::person::{Identifiers, Person};
use super::roster::{self, PersonId};
use super::shelf::{self, Parked};
use super::unseen;
use crate::record::Position;
use crate::store::{State, StoreError, Table, WriteBatch};

/// Shelf rows looked at by one read.
const ROWS: usize = 500;

/// Tables with one row for each person, under the person's id.
const TABLES: [Table; 3] = [Table::People, Table::Debts, Table::Bases];

/// What was taken away.
#[derive(Debug, Default)]
pub struct Taken {
    pub people: Vec<(PersonId, Person)>,
    /// By which an import, that is under way or was not seen to go through, may make contacts of them.
    pub imported: Vec<Identifiers>,
    /// Records that were folded and not yet told to Brevo.
    pub owed: u64,
    /// Records that waited on shelves.
    pub parked: u64,
}

/// `ids` with every id that is known to be the same person's.
pub async fn cluster(state: &Arc<dyn State>, ids: &[String]) -> Result<Vec<String>, StoreError> {
    let mut found: BTreeSet<PersonId> = ids.iter().map(|id| PersonId::from(id.as_str())).collect();
    let mut ahead: Vec<PersonId> = found.iter().cloned().collect();
    // A device may have been named without the prefix that it has as a person.
    ahead.extend(ids.iter().filter(|id| !id.starts_with("$device:")).map(|id| format!("$device:{id}").into()));
    while !ahead.is_empty() {
        let people = people(state, &ahead).await?;
        let mut next = Vec::new();
        for (id, person) in people {
            let links = &person.links;
            let others = links.forward().into_iter().chain(links.merged()).chain(links.joining());
            next.extend(others.filter(|other| found.insert((*other).clone())).cloned());
            let mut after = None;
            while links.is_full() {
                let unlisted = address_book::unlisted(state, &id, after.as_ref(), ROWS).await?;
                let Some(last) = unlisted.last() else { break };
                after = Some(last.clone());
                next.extend(unlisted.into_iter().filter(|other| found.insert(other.clone())));
            }
            found.insert(id);
        }
        ahead = next;
    }
    Ok(found.into_iter().map(|id| id.to_string()).collect())
}

/// Those of `ids` of whom there is a row.
pub async fn people(state: &Arc<dyn State>, ids: &[PersonId]) -> Result<Vec<(PersonId, Person)>, StoreError> {
    let rows = rows(state, Table::People, ids).await?;
    let person = |(id, row): (&PersonId, Option<Bytes>)| {
        row.map(|row| {
            let person = serde_json::from_slice(&row).map_err(|e| StoreError::Corrupt(format!("person: {e}")))?;
            Ok((id.clone(), person))
        })
    };
    ids.iter().zip(rows).filter_map(person).collect()
}

async fn rows(state: &Arc<dyn State>, table: Table, ids: &[PersonId]) -> Result<Vec<Option<Bytes>>, StoreError> {
    state.get(table, ids.iter().map(|id| id.as_bytes().to_vec()).collect()).await
}

/// The addresses by which Brevo knows `ids`, or may.
pub async fn addresses(state: &Arc<dyn State>, ids: &[String]) -> Result<BTreeSet<String>, StoreError> {
    let ids: Vec<PersonId> = ids.iter().map(|id| PersonId::from(id.as_str())).collect();
    let people = people(state, &ids).await?;
    let imported = imported(state, &ids, &people).await?;
    let own = people.into_iter().flat_map(|(_, person)| [person.contact.identifiers().email, person.email]);
    let emails = own.chain(imported.into_iter().map(|identifiers| identifiers.email)).flatten();
    Ok(emails.map(|email| email.as_str().to_owned()).collect())
}

/// By which an import may make contacts of `ids`, whose rows are `people`.
async fn imported(
    state: &Arc<dyn State>,
    ids: &[PersonId],
    people: &[(PersonId, Person)],
) -> Result<Vec<Identifiers>, StoreError> {
    let marked = roster::importing_as(state, ids).await?.into_iter().map(|(_, contact)| contact.identifiers());
    let earlier = people.iter().filter_map(|(_, person)| person.maybe_imported.as_deref().cloned());
    Ok(marked.chain(earlier).collect())
}

/// Adds to `batch` what takes everything of `ids` away; the caller counts the records among it as skipped.
pub async fn take(state: &Arc<dyn State>, ids: &[String], batch: &mut WriteBatch) -> Result<Taken, StoreError> {
    let ids: Vec<PersonId> = ids.iter().map(|id| PersonId::from(id.as_str())).collect();
    let people = people(state, &ids).await?;
    let mut taken = Taken { imported: imported(state, &ids, &people).await?, people, ..Taken::default() };
    for table in [Table::Debts, Table::Bases] {
        for row in rows(state, table, &ids).await?.into_iter().flatten() {
            taken.owed += counted(table, &row)?;
        }
    }
    for (id, person) in &taken.people {
        if let Some(day) = person.seen {
            batch.delete(Table::Seen, unseen::key(day, id));
        }
        for way in address_book::ways(person).keys() {
            batch.delete(Table::Addresses, address_book::key(way, id));
        }
    }
    // A link is listed under the id that it was said of, which may have been merged since.
    let groups: BTreeSet<GroupId> = taken.people.iter().flat_map(|(_, person)| person.groups.groups()).collect();
    for id in &ids {
        groups.iter().for_each(|group| company_rows::remove_link(group, id, batch));
        for table in TABLES {
            batch.delete(table, id.as_bytes());
        }
        let mut after = None;
        loop {
            let rows = shelf::of_person(state, id, after, ROWS).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.position);
            taken.parked += rows.len() as u64;
            for row in &rows {
                shelf::remove(id, row.position, batch);
            }
        }
    }
    Ok(taken)
}

/// How many records a row stands for.
fn counted(table: Table, row: &[u8]) -> Result<u64, StoreError> {
    let row: Value =
        serde_json::from_slice(row).map_err(|e| StoreError::Corrupt(format!("a row of {}: {e}", table.name())))?;
    let listed = row["listed"]["records"].as_u64().unwrap_or(0);
    Ok(row["records"].as_u64().unwrap_or(0) + listed)
}

/// What is held of one id, as the tables hold it: `(table, row)`.
pub async fn held(state: &Arc<dyn State>, id: &str) -> Result<Vec<(Table, Value)>, StoreError> {
    let mut held = Vec::new();
    for table in TABLES {
        let row = rows(state, table, &[PersonId::from(id)]).await?.into_iter().flatten().next();
        held.extend(row.map(|row| (table, serde_json::from_slice(&row).unwrap_or(Value::Null))));
    }
    Ok(held)
}

/// Up to `limit` records on the shelf of `id`.
pub async fn on_shelf(state: &Arc<dyn State>, id: &str, limit: usize) -> Result<Vec<(Position, Parked)>, StoreError> {
    let rows = shelf::of_person(state, id, None, limit).await?;
    Ok(rows.into_iter().map(|row| (row.position, row)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brevo::identifiers::Email;
    use crate::config::IdentityMode;
    use crate::mapping::membership::Belonging;
    use crate::people::company::group_id;
    use crate::people::identity::{Link, Verb};
    use crate::people::person::Contact;
    use crate::people::roster::{Resident, Roster};
    use crate::record::{EntryId, Epoch};
    use crate::store::KeyRange;
    use crate::store::testing;

    #[tokio::test]
    async fn links_that_are_owed_go_with_the_person_and_others_stay() {
        let (_directory, state) = testing::state();
        let mut ada = Person::default();
        ada.groups.take(&[Belonging::Joins { key: "k".to_owned(), ids: vec!["a".to_owned()] }]);
        let group = group_id("k", "a");
        let mut batch = WriteBatch::new();
        batch.put(Table::People, "ada", serde_json::to_vec(&ada).unwrap());
        for id in ["ada", "bob"] {
            company_rows::put_link(&group, &id.into(), &mut batch);
        }
        state.write(batch).await.unwrap();

        let mut batch = WriteBatch::new();
        take(&state, &["ada".to_owned()], &mut batch).await.unwrap();
        state.write(batch).await.unwrap();
        assert_eq!(company_rows::links(&state, &group, 10).await.unwrap(), [PersonId::from("bob")]);
    }

    /// The address by which the import carries them, though it has changed since; also once the import has failed.
    #[tokio::test]
    async fn whoever_is_in_an_import_is_taken_with_the_contact_that_it_makes() {
        let (_directory, state) = testing::state();
        let address = |raw: &str| Some(Email::parse(raw).unwrap());
        let mut roster = Roster::default();
        let imported = roster.edit(&"ada".into());
        imported.person.email = address("ada@example.com");
        imported.join_import(Contact::known(address("ada@example.com"), true, None));
        imported.person.email = address("new@example.com");
        roster.edit(&"bob".into()).person.email = address("bob@example.com");
        let failed = roster.edit(&"eve".into());
        failed.join_import(Contact::known(address("eve@example.com"), true, None));
        failed.import_failed();
        let mut batch = WriteBatch::new();
        roster.put_changes(&mut batch, crate::people::unseen::Day::default()).unwrap();
        state.write(batch).await.unwrap();

        let ids = ["ada", "bob", "eve"].map(str::to_owned);
        let taken = take(&state, &ids, &mut WriteBatch::new()).await.unwrap();
        let emails: Vec<_> = taken.imported.into_iter().map(|identifiers| identifiers.email).collect();
        assert_eq!(emails, [address("ada@example.com"), address("eve@example.com")]);
        let held = addresses(&state, &ids).await.unwrap();
        let all = ["ada@example.com", "bob@example.com", "eve@example.com", "new@example.com"];
        assert_eq!(held.into_iter().collect::<Vec<_>>(), all);
    }

    /// A person's own list of ids is bounded; what was merged beyond it is found all the same, and by no scan of everybody.
    #[tokio::test]
    async fn devices_beyond_a_persons_list_are_found_and_taken() {
        let (_directory, state) = testing::state();
        let devices: Vec<PersonId> = (0..1_700).map(|n| PersonId::from(format!("$device:d{n:04}"))).collect();
        let mut roster = Roster::default();
        let everybody = devices.iter().cloned().chain(["ada".into(), "bob".into(), "$device:b".into()]);
        roster.take_in(everybody.map(|id| (id, Resident::default())).collect());
        let pairs = devices.iter().map(|device| (device.clone(), "ada"));
        for (index, (from, into)) in (0..).zip(pairs.chain([("$device:b".into(), "bob")])) {
            let link = Link { verb: Verb::Device, from, into: into.into() };
            let at = Position { epoch: Epoch(1), entry: EntryId(1), index };
            assert!(roster.link(&link, at, IdentityMode::Simplified).is_some());
        }
        let mut batch = WriteBatch::new();
        roster.put_changes(&mut batch, crate::people::unseen::Day::default()).unwrap();
        state.write(batch).await.unwrap();

        let found = cluster(&state, &["ada".to_owned()]).await.unwrap();
        assert_eq!(found.len(), 1_701);
        // From a device that is in nobody's list, too.
        assert_eq!(cluster(&state, &["$device:d1699".to_owned()]).await.unwrap(), found);
        let mut batch = WriteBatch::new();
        assert_eq!(take(&state, &found, &mut batch).await.unwrap().people.len(), 1_701);
        state.write(batch).await.unwrap();
        let left = state.scan(Table::People, KeyRange::all(), 10).await.unwrap();
        assert_eq!(left.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [b"$device:b".to_vec(), b"bob".to_vec()]);
        assert!(state.scan(Table::Addresses, KeyRange::all(), 10).await.unwrap().is_empty());
    }
}
