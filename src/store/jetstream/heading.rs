//! What a journal message says of itself in its header, so that a backlog is counted without reading it.

use async_nats::HeaderMap;

use crate::clock::UnixMillis;
use crate::record::{Kind, PerKind, Record};

const NAME: &str = "Mixrelay-Entry";
/// The first word: another one means that something newer wrote the message.
const VERSION: &str = "1";

/// `Mixrelay-Entry: 1 EVENTS PROFILES GROUPS RECEIVED_AT`, numbers in decimal, the time in Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heading {
    pub records: PerKind,
    /// Of the earliest record.
    pub received_at: UnixMillis,
}

impl Heading {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut counts = PerKind::default();
        records.iter().for_each(|record| counts.add(record.kind, 1));
        let received_at = records.iter().map(|record| record.received_at).min().unwrap_or_default();
        Self { records: counts, received_at }
    }

    /// Of an entry that holds what both have.
    pub(super) fn with(self, other: Self) -> Self {
        if self.records.total() == 0 {
            return other;
        }
        let mut records = self.records;
        records.add(Kind::Event, other.records.event);
        records.add(Kind::Profile, other.records.profile);
        records.add(Kind::Group, other.records.group);
        Self { records, received_at: self.received_at.min(other.received_at) }
    }

    pub(super) fn write(self, headers: &mut HeaderMap) {
        let PerKind { event, profile, group } = self.records;
        headers.insert(NAME, format!("{VERSION} {event} {profile} {group} {}", self.received_at.0));
    }

    /// `None` for a message that no relay wrote, or a newer one.
    pub(super) fn read(headers: Option<&HeaderMap>) -> Option<Self> {
        let text = headers?.get(NAME)?.as_str();
        let mut words = text.split(' ');
        if words.next()? != VERSION {
            return None;
        }
        let mut number = || words.next()?.parse::<u64>().ok();
        let records = PerKind { event: number()?, profile: number()?, group: number()? };
        let received_at = UnixMillis(number()?);
        words.next().is_none().then_some(Self { records, received_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_is_read_as_it_was_written() {
        let one = Heading { records: PerKind { event: 3, profile: 0, group: 7 }, received_at: UnixMillis(50) };
        let two = Heading { records: PerKind { event: 1, profile: 2, group: 0 }, received_at: UnixMillis(40) };
        let both = Heading { records: PerKind { event: 4, profile: 2, group: 7 }, received_at: UnixMillis(40) };
        assert_eq!(Heading::default().with(one).with(two), both);
        let mut headers = HeaderMap::new();
        both.write(&mut headers);
        assert_eq!(Heading::read(Some(&headers)), Some(both));
        assert_eq!(Heading::read(None), None);
        for text in ["", "2 1 1 1 1", "1 1 1 1", "1 1 1 1 x", "1 1 1 1 1 1"] {
            headers.insert(NAME, text);
            assert_eq!(Heading::read(Some(&headers)), None, "{text}");
        }
    }
}
