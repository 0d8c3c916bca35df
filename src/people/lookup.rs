//! People as the leg has last written them down, for those who only look. What it holds in memory is a little newer.

use std::collections::HashMap;
use std::sync::Arc;

use super::erase::people;
use super::person::Person;
use super::roster::PersonId;
use crate::store::{State, StoreError};

/// Links followed from one id: chains are shortened as they are used, so more than a few are a mistake.
const MAX_LINKS: usize = 8;

/// Whom each of `ids` stands for by now, and their row if there is one, in the order of `ids`.
pub async fn current(state: &Arc<dyn State>, ids: &[PersonId]) -> Result<Vec<(PersonId, Option<Person>)>, StoreError> {
    let mut at: Vec<PersonId> = ids.to_vec();
    let mut found: HashMap<PersonId, Person> = HashMap::new();
    let mut wanted: Vec<PersonId> = at.clone();
    for _ in 0..MAX_LINKS {
        wanted.sort_unstable();
        wanted.dedup();
        found.extend(people(state, &wanted).await?);
        wanted.clear();
        for id in &mut at {
            let Some(next) = found.get(id).and_then(|person| person.links.forward()) else { continue };
            *id = next.clone();
            if !found.contains_key(id) {
                wanted.push(id.clone());
            }
        }
        if wanted.is_empty()
            && !at.iter().any(|id| found.get(id).is_some_and(|person| person.links.forward().is_some()))
        {
            break;
        }
    }
    Ok(at.into_iter().map(|id| (id.clone(), found.get(&id).cloned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;
    use crate::store::{Table, WriteBatch};

    #[tokio::test]
    async fn an_id_that_was_merged_leads_to_its_survivor() {
        let (_directory, state) = testing::state();
        let mut batch = WriteBatch::new();
        let rows = [
            ("d1", r#"{"applied":null,"links":{"into":"d2"}}"#),
            ("d2", r#"{"applied":null,"links":{"into":"u"}}"#),
            ("u", r#"{"applied":null,"email":"u@example.com"}"#),
            ("ring", r#"{"applied":null,"links":{"into":"ring"}}"#),
        ];
        rows.iter().for_each(|(id, row)| batch.put(Table::People, *id, *row));
        state.write(batch).await.unwrap();
        let ids: Vec<PersonId> = ["d1", "u", "nobody", "ring", "d1"].map(PersonId::from).to_vec();
        let found = current(&state, &ids).await.unwrap();
        let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_ref()).collect();
        assert_eq!(ids, ["u", "u", "nobody", "ring", "u"]);
        let known: Vec<bool> =
            found.iter().map(|(_, person)| person.as_ref().is_some_and(Person::addressable)).collect();
        assert_eq!(known, [true, true, false, false, true]);
    }
}
