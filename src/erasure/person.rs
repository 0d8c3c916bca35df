//! Everything that the relay holds about a person.

use serde_json::{Value, json};

use super::desk::Desk;
use crate::delivery::dead_letters;
use crate::mixpanel::keys;
use crate::people::erase;
use crate::record::Destination;
use crate::store::StoreError;

/// Records of a shelf and dead letters shown of each, at most.
const SHOWN: usize = 1_000;
/// Dead letters looked at by one read.
const LETTERS: usize = 50;

impl Desk {
    /// `{"ids", "erased_since", "held": [{"id", "people", "debts", "bases"}], "shelf", "dead_letters", "more"}`; records of
    /// the journal's history are not in it. Nothing is held of somebody unknown.
    pub async fn about(&self, id: &str) -> Result<Value, StoreError> {
        let state = &self.state;
        let ids = erase::cluster(state, &[id.to_owned()]).await?;
        let (mut held, mut shelf, mut more) = (Vec::new(), Vec::new(), false);
        for id in &ids {
            let rows = erase::held(state, id).await?;
            if !rows.is_empty() {
                let mut one = serde_json::Map::from_iter([("id".to_owned(), json!(id))]);
                one.extend(rows.into_iter().map(|(table, row)| (table.name().to_owned(), row)));
                held.push(Value::Object(one));
            }
            for (position, parked) in erase::on_shelf(state, id, SHOWN - shelf.len()).await? {
                shelf.push(json!({
                    "position": position.to_string(),
                    "kind": parked.record.kind.label(),
                    "received_at": parked.record.received_at.to_string(),
                    "record": serde_json::from_slice::<Value>(&parked.record.body).unwrap_or(Value::Null),
                }));
            }
            more |= shelf.len() == SHOWN;
        }
        let letters = self.letters_of(&ids).await?;
        more |= letters.len() == SHOWN;
        let erased_since = self.tombstone(id).await?.map(|stone| stone.since.to_string());
        Ok(json!({
            "ids": ids, "erased_since": erased_since, "held": held, "shelf": shelf, "dead_letters": letters, "more": more,
        }))
    }

    async fn letters_of(&self, ids: &[String]) -> Result<Vec<Value>, StoreError> {
        let mut letters = Vec::new();
        for destination in Destination::ALL {
            let mut after = None;
            loop {
                let page = dead_letters::page(&self.state, destination, after, LETTERS).await?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                for (id, letter) in page {
                    let theirs = keys::people(letter.kind, letter.record.as_bytes()).iter().any(|id| ids.contains(id));
                    if theirs && letters.len() < SHOWN {
                        letters.push(json!({
                            "id": id.to_string(),
                            "reason": letter.reason.label(),
                            "received_at": letter.received_at.to_string(),
                            "answer": letter.answer,
                            "record": serde_json::from_str::<Value>(&letter.record).unwrap_or(Value::Null),
                        }));
                    }
                }
            }
        }
        Ok(letters)
    }
}
