//! Records that are still to be appended.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::mapping::DATASET;
use crate::record::Kind;

/// One record as the journal is to hold it: a JSON object in Mixpanel's own form, whoever it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub kind: Kind,
    pub body: Bytes,
}

impl Draft {
    /// `body`: one JSON object, as [`crate::record::Record`] has it.
    pub fn new(kind: Kind, body: Bytes) -> Self {
        Self { kind, body }
    }

    /// What a profile was found to hold: `set`, and nothing under the names of `unset`.
    pub fn profile(distinct_id: &str, set: &Map<String, Value>, unset: &[&str]) -> Self {
        let mut update = json!({ "$distinct_id": distinct_id, "$set": set });
        if !unset.is_empty() {
            update["$unset"] = unset.into();
        }
        Self::new(Kind::Profile, Bytes::from(update.to_string()))
    }

    /// A row of the data set `dataset`: its columns, of which null says that there is no value.
    pub fn row(dataset: &str, distinct_id: &str, columns: &Map<String, Value>) -> Self {
        let update = json!({ "$distinct_id": distinct_id, DATASET: dataset, "$set": columns });
        Self::new(Kind::Profile, Bytes::from(update.to_string()))
    }
}
