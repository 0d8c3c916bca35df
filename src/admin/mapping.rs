//! Trying a mapping out, and taking up the one that the file has now.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Parts;
use super::answers::AdminError;
use super::audit::{self, Action};
use super::auth::Caller;
use super::extract::JsonBody;
use super::mask;
use super::sight::Sight;
use crate::clock::{SharedClock, UnixMillis};
use crate::delivery::shift::Shift;
use crate::in_force::{self, InForce, MappingRefused, Version};
use crate::mapping::{Came, CompiledMapping, preview_again};
use crate::record::{NotAPosition, Origin, Position, Record};
use crate::store::backwards::Backwards;
use crate::store::{StoreError, WriteBatch};

/// Records in one preview.
const MOST: usize = 1_000;
/// Records that are picked by their positions for one preview: each may be a block to read.
const MOST_PICKED: usize = 50;
/// Decoded bytes of the journal that one preview reads, about.
const MOST_BYTES: usize = 64 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// As apps send them.
    #[serde(default)]
    records: Vec<Box<RawValue>>,
    /// The last so many that were accepted.
    recent: Option<usize>,
    /// These, of those that were accepted, by where they stand in the journal.
    #[serde(default)]
    positions: Vec<String>,
    /// In the words of the configuration; what it does not say is as it is.
    mapping: Option<Map<String, Value>>,
}

#[derive(Serialize)]
pub struct Preview {
    /// Of the mapping that is in force.
    version: Value,
    items: Vec<Previewed>,
    /// Of how many records Brevo would get something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    differing: Option<usize>,
}

#[derive(Serialize)]
struct Previewed {
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    record: Value,
    now: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    differs: Option<bool>,
}

/// The mapping that is in force, in the words of the configuration.
#[derive(Serialize)]
pub struct Shown {
    version: Value,
    mapping: Map<String, Value>,
}

pub async fn show(Extract(parts): Extract<Parts>) -> Json<Shown> {
    let now = parts.mapping.now();
    Json(Shown { version: now.version.shown(), mapping: now.words().clone() })
}

pub async fn preview(
    Extract(parts): Extract<Parts>,
    Extension(sight): Extension<Sight>,
    JsonBody(asked): JsonBody<Asked>,
) -> Result<Response, AdminError> {
    if asked.records.len() > MOST {
        return Err(AdminError::invalid(format!("records: more than {MOST}"), "send fewer at once"));
    }
    let wanted = asked.recent.unwrap_or(0).min(MOST);
    let picked = positions(&asked.positions)?;
    if (wanted > 0 || !picked.is_empty()) && asked.mapping.is_some() && !sight.may_unmask() {
        let message = "another mapping is tried on what others have sent by operators only".to_owned();
        return Err(AdminError::forbidden_as(
            message,
            "its conditions would find out what is masked; send `records` of your own, or leave `mapping` out",
        ));
    }
    let present = parts.mapping.now();
    let tried = match &asked.mapping {
        Some(given) => Some(parts.mapping.tried(given).await?),
        None => None,
    };
    let now = parts.clock.now();
    let mut items = Vec::new();
    for record in &asked.records {
        items.push(previewed(
            None,
            record.get(),
            (Came { at: now, origin: Origin::App }, now),
            &present.mapping,
            tried.as_ref(),
        ));
    }
    let mut accepted = at(&parts, &picked).await?;
    accepted.extend(recent(&parts, wanted).await?);
    if !accepted.is_empty() {
        sight.noted(&parts.state, now, "records").await?;
    }
    for (position, record) in accepted {
        let body = String::from_utf8_lossy(&record.body);
        let came = Came { at: record.received_at, origin: record.origin };
        items.push(previewed(Some(position), &body, (came, now), &present.mapping, tried.as_ref()));
    }
    let differing = tried.map(|_| items.iter().filter(|item| item.differs == Some(true)).count());
    Ok(sight.answer(&Preview { version: present.version.shown(), items, differing }, mask::previewed)?)
}

fn previewed(
    position: Option<String>,
    record: &str,
    (came, now): (Came, UnixMillis),
    present: &CompiledMapping,
    tried: Option<&CompiledMapping>,
) -> Previewed {
    let shown = |mapping: &CompiledMapping| preview_again(record, mapping, came, Some(now));
    let (now, then) = (shown(present), tried.map(shown));
    let differs = then.as_ref().map(|then| *then != now);
    let record = serde_json::from_str(record).unwrap_or_else(|_| Value::from(record));
    Previewed { position, record, now, then, differs }
}

fn positions(given: &[String]) -> Result<Vec<Position>, AdminError> {
    if given.len() > MOST_PICKED {
        return Err(AdminError::invalid(format!("positions: more than {MOST_PICKED}"), "send fewer at once"));
    }
    let read = |text: &String| {
        text.parse().map_err(|error: NotAPosition| AdminError::invalid(error.to_string(), "GET /v1/trace shows them"))
    };
    given.iter().map(read).collect()
}

/// What stands at these positions, as far as it is still there and nobody's who was erased.
async fn at(parts: &Parts, positions: &[Position]) -> Result<Vec<(String, Record)>, StoreError> {
    let mut found = Vec::new();
    for position in positions {
        // One entry comes, however large it is.
        let entries = parts.journal.read(position.entry, 1).await?;
        let there = entries.iter().find(|entry| entry.id == position.entry && entry.epoch == position.epoch);
        let record = there.and_then(|entry| entry.records.get(usize::try_from(position.index).ok()?));
        if let Some(record) = record.filter(|record| !record.is_erased()) {
            found.push((position.to_string(), record.clone()));
        }
    }
    Ok(found)
}

/// The last records that are still there, newest first; those of erased people are gone.
async fn recent(parts: &Parts, wanted: usize) -> Result<Vec<(String, Record)>, StoreError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    let mut backwards = Backwards::new(parts.journal.clone());
    while found.len() < wanted && bytes < MOST_BYTES {
        let entries = backwards.next().await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            for (index, record) in entry.records.iter().enumerate().rev() {
                bytes += record.body.len();
                if found.len() < wanted && !record.is_erased() {
                    found.push((entry.position(index).to_string(), record.clone()));
                }
            }
        }
    }
    Ok(found)
}

/// What a reload needs, for a signal as well as for a caller.
pub struct Reload {
    pub mapping: Arc<InForce>,
    pub brevo: Shift,
    pub clock: SharedClock,
}

impl Reload {
    pub async fn run(&self, caller: Caller) -> Result<in_force::Reloaded, MappingRefused> {
        let at = self.clock.now();
        let note = move |version: &Version, batch: &mut WriteBatch| {
            let detail = json!({ "version": version.number, "hash": version.hash });
            audit::put(&caller, at, Action::Reload, detail, batch)
        };
        self.mapping.clone().reload(self.brevo.clone(), note).await
    }
}

#[derive(Serialize)]
pub struct Reloaded {
    /// False: the file says what is in force already.
    changed: bool,
    version: Value,
}

pub async fn reload(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Reloaded>, AdminError> {
    let brevo = parts.orders.brevo.clone();
    let reload = Reload { mapping: parts.mapping.clone(), brevo, clock: parts.clock.clone() };
    let reloaded = reload.run(caller).await?;
    Ok(Json(Reloaded { changed: reloaded.changed, version: reloaded.version.shown() }))
}

impl From<MappingRefused> for AdminError {
    fn from(refused: MappingRefused) -> Self {
        match refused {
            MappingRefused::Store(error) => error.into(),
            MappingRefused::Stopping => Self::stopping(refused.to_string()),
            refused => AdminError::invalid(refused.to_string(), "nothing was changed: what was in force stays so"),
        }
    }
}
