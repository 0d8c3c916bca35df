//! The vendor's ingestion rules, and its words for breaking them (contract §3 to §5).
//!
//! Three strictnesses share one set of rules. [`Rules::Track`] takes whatever can be delivered later: what `/import`
//! would refuse and the relay can put right is reported as a [`Repair`], not as a [`Problem`]. [`Rules::ImportLenient`]
//! (`/import` without `strict=1`) does the same. [`Rules::ImportStrict`] refuses what the vendor documents as refused.

use std::time::Duration;

use crate::clock::UnixMillis;
use crate::config::IdentityMode;
use crate::mixpanel::reserved::{is_identity_event, names_nobody};
use crate::mixpanel::wire::{Event, Operator, Properties, Raw, Update};
use crate::mixpanel::{Api, MAX_RECORD_BYTES};
use crate::record::{Kind, Project};

/// How deep a record may nest at all. Readers downstream recurse, and the vendor documents 3 (contract §3).
pub const MAX_DEPTH: usize = 32;
/// "Nested object depth 3" of the strict import (contract §3).
const STRICT_DEPTH: usize = 3;
/// "< 255 properties" (contract §3).
const STRICT_PROPERTIES: usize = 255;
/// Longest `$insert_id` that `/import` takes, in bytes.
const MAX_INSERT_ID: usize = 36;
/// `/import` takes events up to this far ahead of the present.
const FUTURE_TOLERANCE: Duration = Duration::from_secs(3600);
/// 1971-01-01T00:00:00Z: what is earlier is no time of an event.
pub const EARLIEST: UnixMillis = UnixMillis(31_536_000_000);
/// From here on a number is milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: f64 = 1e11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Track,
    ImportLenient,
    ImportStrict,
}

/// The project tokens that this relay answers for.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    ours: Vec<String>,
    foreign: Vec<String>,
}

impl Tokens {
    pub fn new(ours: Vec<String>, foreign: Vec<String>) -> Self {
        Self { ours, foreign }
    }

    pub fn project_of(&self, token: &str) -> Option<Project> {
        if self.ours.iter().any(|ours| ours == token) {
            return Some(Project::Ours);
        }
        self.foreign.iter().any(|foreign| foreign == token).then_some(Project::Foreign)
    }
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    NotAnObject,
    NotUtf8,
    TooLarge,
    TooDeep,
    NestsTooDeep,
    TooManyProperties,
    EventMissing,
    PropertiesMissing,
    TokenMissing,
    TokenUnknown,
    DistinctIdMissing,
    DistinctIdBlocked,
    TimeMissing,
    TimeNotEpoch,
    TimeInFuture,
    InsertIdMissing,
    InsertIdTooLong,
    InsertIdBadCharacters,
    InsertIdBlocked,
    ProfileTokenMissing,
    ProfileTokenUnknown,
    ProfileDistinctIdMissing,
    GroupKeyMissing,
    GroupIdMissing,
    Operand(Operator),
}

impl Problem {
    /// The `reason` label of `mixrelay_records_rejected_total`.
    pub fn label(self) -> &'static str {
        match self {
            Problem::NotAnObject => "not_an_object",
            Problem::NotUtf8 => "not_utf8",
            Problem::TooLarge => "record_too_large",
            Problem::TooDeep | Problem::NestsTooDeep => "too_deep",
            Problem::TooManyProperties => "too_many_properties",
            Problem::EventMissing => "event_missing",
            Problem::PropertiesMissing => "properties_missing",
            Problem::TokenMissing | Problem::ProfileTokenMissing => "token_missing",
            Problem::TokenUnknown | Problem::ProfileTokenUnknown => "token_unknown",
            Problem::DistinctIdMissing | Problem::ProfileDistinctIdMissing => "distinct_id_missing",
            Problem::DistinctIdBlocked => "distinct_id_blocked",
            Problem::TimeMissing => "time_missing",
            Problem::TimeNotEpoch => "time_not_epoch",
            Problem::TimeInFuture => "time_in_future",
            Problem::InsertIdMissing => "insert_id_missing",
            Problem::InsertIdTooLong | Problem::InsertIdBadCharacters | Problem::InsertIdBlocked => "insert_id_invalid",
            Problem::GroupKeyMissing => "group_key_missing",
            Problem::GroupIdMissing => "group_id_missing",
            Problem::Operand(_) => "operand_invalid",
        }
    }

    /// The sentence of verbose answers, in the vendor's style (contract §4).
    pub fn reason(self) -> &'static str {
        match self {
            Problem::NotAnObject => "data, missing or empty",
            Problem::NotUtf8 => "data, string should be valid utf8",
            Problem::TooLarge => "data, a record exceeds 1 MB",
            Problem::TooDeep | Problem::NestsTooDeep => "data, nested too deep",
            Problem::TooManyProperties => "properties, too many",
            Problem::EventMissing => "event, missing",
            Problem::PropertiesMissing => "properties, missing or empty",
            Problem::TokenMissing => "token, missing or empty",
            Problem::TokenUnknown => "token, not a project token of this relay",
            Problem::DistinctIdMissing => "distinct_id, missing or empty",
            Problem::DistinctIdBlocked => "distinct_id, value is not allowed",
            Problem::TimeMissing => "time, missing",
            Problem::TimeNotEpoch => "time, must be specified as seconds since epoch",
            Problem::TimeInFuture => "time, must not be in the future",
            Problem::InsertIdMissing => "$insert_id, missing",
            Problem::InsertIdTooLong => "$insert_id, longer than 36 bytes",
            Problem::InsertIdBadCharacters => "$insert_id, must only contain alphanumeric or hyphen '-' characters",
            Problem::InsertIdBlocked => "$insert_id, value is not allowed",
            Problem::ProfileTokenMissing => "$token, missing or empty",
            Problem::ProfileTokenUnknown => "$token, not a project token of this relay",
            Problem::ProfileDistinctIdMissing => "$distinct_id, missing or empty",
            Problem::GroupKeyMissing => "$group_key, missing or empty",
            Problem::GroupIdMissing => "$group_id, missing or empty",
            Problem::Operand(operator) => match operator {
                Operator::Unset => "$unset, must be a list of property names",
                Operator::Set => "$set, must be an object",
                Operator::SetOnce => "$set_once, must be an object",
                Operator::Add => "$add, must be an object of numbers",
                Operator::Union => "$union, must be an object",
                Operator::Append => "$append, must be an object",
                Operator::Remove => "$remove, must be an object",
                Operator::Delete => "$delete, invalid",
            },
        }
    }

    /// `field` and `message` of a strict answer's `failed_records` (contract §3; the messages the contract has no
    /// source for follow the form of those it has).
    pub fn strict(self) -> (&'static str, &'static str) {
        match self {
            Problem::NotAnObject => ("", "record is invalid: must be a JSON object"),
            Problem::NotUtf8 => ("properties", "'properties' is invalid: string should be valid utf8"),
            Problem::TooLarge => ("", "record is invalid: must not exceed 1 MB"),
            Problem::TooDeep | Problem::NestsTooDeep => {
                ("properties", "'properties' is invalid: must not be nested deeper than 3 levels")
            }
            Problem::TooManyProperties => {
                ("properties", "'properties' is invalid: must have fewer than 255 properties")
            }
            Problem::EventMissing => ("event", "'event' must not be missing or blank"),
            Problem::PropertiesMissing => ("properties", "'properties' is invalid: must not be missing"),
            Problem::TokenMissing => ("properties.token", "'properties.token' is invalid: must not be missing"),
            Problem::TokenUnknown => {
                ("properties.token", "'properties.token' is invalid: not a project token of this relay")
            }
            Problem::DistinctIdMissing => {
                ("properties.distinct_id", "'properties.distinct_id' is invalid: must not be missing")
            }
            Problem::DistinctIdBlocked => {
                ("properties.distinct_id", "'properties.distinct_id' is invalid: value is not allowed")
            }
            Problem::TimeMissing => ("properties.time", "'properties.time' is invalid: must not be missing"),
            Problem::TimeNotEpoch => {
                ("properties.time", "'properties.time' is invalid: must be specified as seconds since epoch")
            }
            Problem::TimeInFuture => ("properties.time", "'properties.time' is invalid: must not be in the future"),
            Problem::InsertIdMissing => ("$insert_id", "'$insert_id' is invalid: must not be missing"),
            Problem::InsertIdTooLong => ("$insert_id", "'$insert_id' is invalid: must not exceed 36 bytes"),
            Problem::InsertIdBadCharacters => {
                ("$insert_id", "'$insert_id' is invalid: must only contain alphanumeric or hyphen '-' characters")
            }
            Problem::InsertIdBlocked => ("$insert_id", "'$insert_id' is invalid: value is not allowed"),
            Problem::ProfileTokenMissing | Problem::ProfileTokenUnknown => ("$token", self.reason()),
            Problem::ProfileDistinctIdMissing => ("$distinct_id", self.reason()),
            Problem::GroupKeyMissing => ("$group_key", self.reason()),
            Problem::GroupIdMissing => ("$group_id", self.reason()),
            Problem::Operand(operator) => (operator.key(), self.reason()),
        }
    }
}

/// What is wrong with an `$insert_id` that the relay puts right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertId {
    Good,
    /// Absent, null, empty or one of the blocked words: the record has no id of its own.
    Absent,
    /// `/import` would refuse it: a derived one takes its place.
    Unusable(Problem),
}

/// What the edge has to put right before an event can be delivered through `/import`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    pub insert_id: InsertId,
    /// `time` is absent, or further ahead than `/import` takes: the arrival time takes its place, as the vendor does.
    pub time: bool,
    /// `distinct_id` is absent where the project's `/import` wants one; the vendor takes an empty string for "nobody".
    pub distinct_id: bool,
    /// The record does not carry its token.
    pub token: bool,
}

/// An event that can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub kind: Kind,
    pub project: Project,
    /// `$ignore` is truthy: the vendor drops it in silence, and nobody else may have it.
    pub ignored: bool,
    pub repair: Repair,
}

/// Judges one event of `length` bytes. `implied` is the project that the caller's credentials stand for, when records
/// need not name it (`/import`).
pub fn event(
    event: &Event<'_>,
    length: usize,
    rules: Rules,
    tokens: &Tokens,
    implied: Option<Project>,
    identity: IdentityMode,
    now: UnixMillis,
) -> Result<Accepted, Problem> {
    if length > MAX_RECORD_BYTES {
        return Err(Problem::TooLarge);
    }
    let name = event.event.filter(|name| name.is_present()).and_then(Raw::as_str).ok_or(Problem::EventMissing)?;
    let properties = event.properties.as_ref().filter(|p| p.count > 0).ok_or(Problem::PropertiesMissing)?;
    // The object itself is one level, as the vendor counts.
    if event.depth.max(properties.depth + 1) > MAX_DEPTH {
        return Err(Problem::TooDeep);
    }
    let (project, token_missing) = match properties.token.filter(|token| token.is_present()) {
        Some(token) => {
            let token = token.as_str().ok_or(Problem::TokenUnknown)?;
            (tokens.project_of(&token).ok_or(Problem::TokenUnknown)?, false)
        }
        None => (implied.ok_or(Problem::TokenMissing)?, true),
    };
    let kind = if is_identity_event(&name) { Kind::Identity } else { Kind::Event };
    let missing_distinct_id = properties.distinct_id.is_none_or(Raw::is_null);
    let mut repair = Repair {
        insert_id: insert_id(properties.insert_id),
        time: false,
        distinct_id: missing_distinct_id && identity == IdentityMode::Original,
        token: token_missing,
    };
    let time = time(properties.time, now);
    if rules == Rules::ImportStrict {
        strict(properties, time, missing_distinct_id, repair)?;
    } else if kind == Kind::Identity && rules == Rules::Track && missing_distinct_id && name == "$identify" {
        return Err(Problem::DistinctIdMissing);
    }
    repair.time = matches!(time, Err(Problem::TimeMissing | Problem::TimeInFuture));
    // Identity events name their people in properties of their own.
    repair.distinct_id &= kind == Kind::Event;
    Ok(Accepted { kind, project, ignored: properties.ignore.is_some_and(is_truthy), repair })
}

fn strict(
    properties: &Properties<'_>,
    time: Result<UnixMillis, Problem>,
    missing_distinct_id: bool,
    repair: Repair,
) -> Result<(), Problem> {
    if properties.count >= STRICT_PROPERTIES {
        return Err(Problem::TooManyProperties);
    }
    if properties.depth > STRICT_DEPTH {
        return Err(Problem::NestsTooDeep);
    }
    time?;
    if missing_distinct_id && repair.distinct_id {
        return Err(Problem::DistinctIdMissing);
    }
    if properties.distinct_id.is_some_and(|id| !id.is_null() && is_blocked(id)) {
        return Err(Problem::DistinctIdBlocked);
    }
    match repair.insert_id {
        InsertId::Good => Ok(()),
        InsertId::Unusable(problem) => Err(problem),
        InsertId::Absent if properties.insert_id.is_some_and(|id| id.is_present() && is_blocked(id)) => {
            Err(Problem::InsertIdBlocked)
        }
        InsertId::Absent => Err(Problem::InsertIdMissing),
    }
}

/// Judges one profile or group update of `length` bytes.
pub fn update(update: &Update<'_>, length: usize, api: Api, tokens: &Tokens) -> Result<Project, Problem> {
    if length > MAX_RECORD_BYTES {
        return Err(Problem::TooLarge);
    }
    if update.depth > MAX_DEPTH {
        return Err(Problem::TooDeep);
    }
    let token = update.token.filter(|token| token.is_present()).ok_or(Problem::ProfileTokenMissing)?;
    let token = token.as_str().ok_or(Problem::ProfileTokenUnknown)?;
    let project = tokens.project_of(&token).ok_or(Problem::ProfileTokenUnknown)?;
    let present = |field: Option<Raw<'_>>| field.is_some_and(Raw::is_present);
    if api == Api::Groups {
        if !present(update.group_key) {
            return Err(Problem::GroupKeyMissing);
        }
        if !present(update.group_id) {
            return Err(Problem::GroupIdMissing);
        }
    } else if !present(update.distinct_id) {
        return Err(Problem::ProfileDistinctIdMissing);
    }
    for (operator, operand) in &update.operators {
        let fits = match operator {
            Operator::Unset => operand.text().starts_with('['),
            Operator::Delete => true,
            _ => operand.text().starts_with('{'),
        };
        if !fits {
            return Err(Problem::Operand(*operator));
        }
    }
    Ok(project)
}

/// `$ignore` is truthy when true or a string that is not empty (contract §3).
pub fn is_truthy(raw: Raw<'_>) -> bool {
    raw.text() == "true" || raw.as_str().is_some_and(|text| !text.is_empty())
}

fn is_blocked(raw: Raw<'_>) -> bool {
    names_nobody(&raw.as_str().unwrap_or(std::borrow::Cow::Borrowed(raw.text())))
}

fn insert_id(raw: Option<Raw<'_>>) -> InsertId {
    let Some(raw) = raw.filter(|raw| raw.is_present() && !is_blocked(*raw)) else { return InsertId::Absent };
    match raw.as_str() {
        Some(id) if id.len() > MAX_INSERT_ID => InsertId::Unusable(Problem::InsertIdTooLong),
        Some(id) if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => InsertId::Good,
        _ => InsertId::Unusable(Problem::InsertIdBadCharacters),
    }
}

/// A JSON number as a time, in seconds or milliseconds; `None` for what is none.
pub(super) fn epoch(number: &str) -> Option<UnixMillis> {
    let number: f64 = number.parse().ok()?;
    let millis = if number >= MILLIS_FROM { number } else { number * 1000.0 };
    // Beyond 2^53 the cast only loses what is far in the future anyway.
    (millis.is_finite() && millis >= EARLIEST.0 as f64).then_some(UnixMillis(millis as u64))
}

/// The event's time, when `/import` would take it.
fn time(raw: Option<Raw<'_>>, now: UnixMillis) -> Result<UnixMillis, Problem> {
    let raw = raw.filter(|raw| raw.is_present()).ok_or(Problem::TimeMissing)?;
    let at = epoch(raw.text()).ok_or(Problem::TimeNotEpoch)?;
    if at > now + FUTURE_TOLERANCE {
        return Err(Problem::TimeInFuture);
    }
    Ok(at)
}

#[cfg(test)]
mod tests;
