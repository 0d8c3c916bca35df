//! Who a row is about, whether they may be at Brevo, and what the row would change of them; of those, the rows that change
//! something go on into the journal.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::asking::at_brevo;
use super::definition::Definition;
use super::kept::Found;
use super::run::{Outcome, Run, Stage};
use super::worker::{Engine, StepError};
use crate::brevo::identifiers::{Email, Phone};
use crate::cohorts::Unmatched;
use crate::config::SyncMode;
use crate::feed::Draft;
use crate::mapping::{CompiledMapping, Operation, ProfileChange, ProfileDecision, ProfileView, Target, map_row};
use crate::people::lookup;
use crate::people::person::{Contact, Folded, Person};
use crate::people::roster::PersonId;
use crate::privacy::Erased;
use crate::record::{Destinations, Kind, Origin};
use crate::store::{WriteBatch, write_when_there_is_room};

/// People looked at between two writes.
const AT_ONCE: usize = 500;
/// Members in a page for the lists' desk.
pub(super) const MEMBERS: u64 = 1_000;

impl Engine {
    /// Looks at the next people, and feeds what changes.
    pub(super) async fn compare_some(&self, run: &mut Run, definition: &Definition) -> Result<(), StepError> {
        let Stage::Comparing { after } = run.stage.clone() else { return Ok(()) };
        let (parts, id) = (&self.desk.parts, run.id.clone());
        let rows = self.desk.rows(&id);
        let page = rows.people(after.as_deref(), AT_ONCE).await?;
        let Some((last, _)) = page.last() else { return self.compared(run, definition).await };
        let last = last.clone();
        let mapping = (parts.resolver.mapping)();
        let name = &definition.dataset.name;
        let ids = page.iter().map(|(_, found)| at_brevo(&mapping, name, &found.id).unwrap_or_else(|| "".into()));
        let ids: Vec<PersonId> = ids.collect();
        let people = lookup::current(&parts.state, &ids).await?;
        // Held until the rows of those who are not matched are written.
        let erased = parts.resolver.tombstones.now();
        let (mut batch, mut drafts) = (WriteBatch::new(), Vec::new());
        for ((_, found), (canonical, person)) in page.iter().zip(people) {
            let unmatched: u64 = run.counts.unmatched.values().sum();
            match self.judge(&mapping, definition, found, &canonical, person, &erased) {
                Ok(folded) => {
                    run.counts.matched += 1;
                    if folded.owes() {
                        run.counts.changed += 1;
                        drafts.push(Draft::row(name, &found.id, &found.columns));
                    }
                    for attribute in folded.attributes {
                        *run.counts.attributes.entry(attribute).or_default() += 1;
                    }
                }
                Err(why) => {
                    run.note_unmatched(why);
                    rows.put_unmatched(&found.id, why, unmatched, &mut batch)?;
                }
            }
        }
        // The unmatched first, under the tombstones' word; the cursor only moves when the others are in the journal.
        write_when_there_is_room(parts.state.as_ref(), batch).await?;
        drop(erased);
        if !run.dry_run {
            let fed = parts.feed.append(Origin::Dataset, Destinations::BREVO, drafts).await?;
            run.counts.fed += fed.appended;
        }
        run.stage = Stage::Comparing { after: Some(last) };
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    /// What the row changes of its person; `Err`: why nothing of it goes to Brevo.
    fn judge(
        &self,
        mapping: &CompiledMapping,
        definition: &Definition,
        found: &Found,
        canonical: &PersonId,
        person: Option<Person>,
        erased: &Erased,
    ) -> Result<Folded, Unmatched> {
        if erased.covers_id(&found.id) || erased.covers_id(canonical) {
            return Err(Unmatched::Erased);
        }
        let dataset = &definition.dataset;
        let change = change(mapping, &dataset.name, found);
        let mut person = person.unwrap_or_default();
        let (email, phone) = addresses(&change);
        person.email = person.email.or(email);
        person.phone = person.phone.or(phone);
        // Attributes are brought to Brevo, whatever the list's mode.
        let mode = if dataset.attributes.is_empty() { dataset.mode } else { SyncMode::Mirror };
        if let Some(why) = self.desk.parts.resolver.refusal(mapping, mode, &person, &BTreeMap::new()) {
            return Err(why);
        }
        if !person.addressable() && person.contact == Contact::Unknown {
            return Err(Unmatched::NoAddress);
        }
        Ok(person.would_take(change))
    }

    async fn compared(&self, run: &mut Run, definition: &Definition) -> Result<(), StepError> {
        if definition.dataset.list.is_none() {
            return Ok(self.desk.end(run, Outcome::Done, None).await?);
        }
        let pages = u32::try_from(run.counts.people.div_ceil(MEMBERS)).unwrap_or(u32::MAX).max(1);
        run.stage = Stage::Members { page: 1, pages, after: None };
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }
}

/// What the row says, by the mapping and the privacy rules.
fn change(mapping: &CompiledMapping, dataset: &str, found: &Found) -> ProfileChange {
    let row = Draft::row(dataset, &found.id, &found.columns);
    let Ok(Some(visible)) = mapping.visible(Kind::Profile, &row.body) else { return ProfileChange::default() };
    let Ok(view) = ProfileView::parse(&visible) else { return ProfileChange::default() };
    match map_row(dataset, &view, mapping) {
        ProfileDecision::Change(change) => change,
        ProfileDecision::Skip(_) => ProfileChange::default(),
    }
}

fn addresses(change: &ProfileChange) -> (Option<Email>, Option<Phone>) {
    let (mut email, mut phone) = (None, None);
    for operation in &change.operations {
        match operation {
            Operation::Email(assignment) => email = Some(assignment.value.clone()),
            Operation::Phone(assignment) => phone = Some(assignment.value.clone()),
            Operation::Attribute(..) | Operation::Delete { .. } => {}
        }
    }
    (email, phone)
}

/// What of the row is an address, under the names that profiles have for it: the lists' desk knows no data sets.
pub(super) fn as_properties(mapping: &CompiledMapping, dataset: &str, found: &Found) -> Map<String, Value> {
    let (email, phone) = addresses(&change(mapping, dataset, found));
    let named =
        |wanted: Target| mapping.properties().find(|(_, target)| **target == wanted).map(|(name, _)| name.to_owned());
    let email = email.and_then(|email| Some((named(Target::Email)?, email.as_str().into())));
    let phone = phone.and_then(|phone| Some((named(Target::Phone)?, phone.to_string().into())));
    email.into_iter().chain(phone).collect()
}
