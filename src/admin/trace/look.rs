//! Which records are looked for.

use std::collections::BTreeSet;

use memchr::memmem::Finder;
use serde_json::Value;

use super::Asked;
use crate::admin::answers::AdminError;
use crate::mixpanel::keys;
use crate::record::Record;

const KINDS: [&str; 3] = ["event", "profile", "group"];

/// Whose records are looked for.
pub enum Wanted {
    Anybody,
    InsertId(String),
    /// Records of any of these ids, without `$device:`, and those in which the address stands.
    People {
        ids: BTreeSet<String>,
        address: Option<String>,
    },
}

impl Wanted {
    /// What a filter is asked for, any of it.
    pub fn names(&self) -> Option<Vec<&str>> {
        match self {
            Wanted::Anybody => None,
            Wanted::InsertId(id) => Some(vec![bare(id)]),
            Wanted::People { ids, address } => Some(ids.iter().chain(address).map(String::as_str).collect()),
        }
    }
}

/// Finds records quickly: only those whose bytes hold what is looked for are parsed.
pub struct Look<'a> {
    wanted: &'a Wanted,
    kind: Option<&'a str>,
    event: Option<&'a str>,
    /// `None`: a text that can be written in several ways; everything is parsed.
    finders: Option<Vec<Finder<'a>>>,
}

impl<'a> Look<'a> {
    pub fn new(wanted: &'a Wanted, asked: &'a Asked) -> Result<Self, AdminError> {
        let kind = asked.kind.as_deref();
        if let Some(unknown) = kind.filter(|kind| !KINDS.contains(kind)) {
            return Err(AdminError::invalid(format!("kind: no {unknown}"), "event, profile and group are the kinds"));
        }
        let texts: Vec<&str> = match wanted {
            Wanted::Anybody => Vec::new(),
            Wanted::InsertId(id) => vec![id],
            Wanted::People { ids, .. } => ids.iter().map(String::as_str).collect(),
        };
        let plain = |text: &&str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'/'));
        let sought = !texts.is_empty() && texts.iter().all(plain);
        let finders = sought.then(|| texts.iter().map(|text| Finder::new(*text)).collect());
        Ok(Self { wanted, kind, event: asked.event.as_deref(), finders })
    }

    pub fn finds(&self, record: &Record) -> bool {
        !record.is_erased()
            && self.kind.is_none_or(|kind| kind == record.kind.label())
            && (self.names(record) || self.has_address(record))
            && self.event.is_none_or(|wanted| event(record).is_some_and(|name| name == wanted))
    }

    fn names(&self, record: &Record) -> bool {
        let holds = |finders: &Vec<Finder<'_>>| finders.iter().any(|finder| finder.find(&record.body).is_some());
        self.finders.as_ref().is_none_or(holds)
            && match self.wanted {
                Wanted::Anybody => true,
                Wanted::InsertId(wanted) => insert_id(record).is_some_and(|id| id == *wanted),
                Wanted::People { ids, .. } => {
                    keys::people(record.kind, &record.body).iter().any(|id| ids.contains(bare(id)))
                }
            }
    }

    fn has_address(&self, record: &Record) -> bool {
        let Wanted::People { address: Some(wanted), .. } = self.wanted else { return false };
        let mut found = false;
        keys::addresses(&record.body, |address| found |= address == wanted);
        found
    }
}

fn event(record: &Record) -> Option<String> {
    let body: Value = serde_json::from_slice(&record.body).ok()?;
    body["event"].as_str().map(str::to_owned)
}

fn insert_id(record: &Record) -> Option<String> {
    let body: Value = serde_json::from_slice(&record.body).ok()?;
    body["properties"]["$insert_id"].as_str().map(str::to_owned)
}

/// An id without the prefix that a device's has where it stands for a person.
pub fn bare(id: &str) -> &str {
    id.strip_prefix("$device:").unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::record::{Destinations, Kind, Origin, Project};

    #[test]
    fn records_are_found_however_their_ids_are_written() {
        let record = |kind, body: &str| Record {
            kind,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(1),
            body: body.to_owned().into(),
        };
        let event = record(
            Kind::Event,
            r#"{"event":"e","properties":{"distinct_id":"$device:d","$insert_id":"i-1","note":"u"}}"#,
        );
        let escaped = record(Kind::Profile, r#"{"$distinct_id":"J\u00f6rg","$set":{}}"#);
        let finds = |wanted: Wanted, record: &Record| Look::new(&wanted, &Asked::default()).unwrap().finds(record);
        let only = |kind: &str, event: Option<&str>, record: &Record| {
            let asked = Asked { kind: Some(kind.to_owned()), event: event.map(str::to_owned), ..Asked::default() };
            Look::new(&Wanted::Anybody, &asked).unwrap().finds(record)
        };
        let people =
            |ids: &[&str]| Wanted::People { ids: ids.iter().map(|id| (*id).to_owned()).collect(), address: None };
        assert!(finds(Wanted::InsertId("i-1".to_owned()), &event));
        assert!(finds(Wanted::Anybody, &event) && only("event", Some("e"), &event) && only("profile", None, &escaped));
        assert!(!only("event", Some("f"), &event) && !only("group", None, &event) && !only("event", None, &escaped));
        assert!(!finds(Wanted::InsertId("i".to_owned()), &event), "a part of an id is another");
        assert!(finds(people(&["x", "d"]), &event));
        assert!(!finds(people(&["u"]), &event), "a property is nobody's id");
        assert!(finds(people(&["Jörg"]), &escaped));
        let mail = record(Kind::Profile, r#"{"$distinct_id":"q","$set":{"Mail":"Ada.L+x@Example.com"}}"#);
        let by = |address: &str| Wanted::People { ids: BTreeSet::new(), address: Some(address.to_owned()) };
        assert!(finds(by("ada.l+x@example.com"), &mail), "wherever it stands");
        assert!(!finds(by("x@example.com"), &mail) && !finds(by("ada.l+x@example.com"), &event));
        assert!(
            !finds(people(&["d"]), &Record { body: bytes::Bytes::new(), ..event }),
            "an erased one is found by nobody"
        );
    }
}
