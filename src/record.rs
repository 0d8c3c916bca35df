//! The record: the one thing that travels through the whole relay.
//!
//! A record is a single Mixpanel event, profile update or group update, as JSON, in the exact form that Mixpanel is to
//! get: what the app sent, byte for byte, plus what only the edge could know (arrival time, client address, a minted
//! `$insert_id`). Everything else in this file says where a record came from, where it is to go and where it stands.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;

/// What a record is. Metrics and counts name identity events `event`, see [`Kind::label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An event: `{"event": ..., "properties": {...}}`.
    Event,
    /// `$identify`, `$create_alias` or `$merge`: same shape as an event, but delivered on its own and in order.
    Identity,
    /// A user profile update: `{"$token": ..., "$distinct_id": ..., "$set": {...}}`.
    Profile,
    /// A group profile update: `{"$token": ..., "$group_key": ..., "$group_id": ..., "$set": {...}}`.
    Group,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Event, Kind::Identity, Kind::Profile, Kind::Group];

    /// The kind as it is stored: a byte that never changes its meaning.
    pub fn code(self) -> u8 {
        match self {
            Kind::Event => 0,
            Kind::Identity => 1,
            Kind::Profile => 2,
            Kind::Group => 3,
        }
    }

    /// `None` for a code of some newer version.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The published `kind` label: `event` (identity events too), `profile` or `group`.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Event | Kind::Identity => "event",
            Kind::Profile => "profile",
            Kind::Group => "group",
        }
    }
}

/// Numbers of records by published kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerKind {
    pub event: u64,
    pub profile: u64,
    pub group: u64,
}

impl PerKind {
    pub fn add(&mut self, kind: Kind, count: u64) {
        match kind {
            Kind::Event | Kind::Identity => self.event += count,
            Kind::Profile => self.profile += count,
            Kind::Group => self.group += count,
        }
    }

    pub fn total(self) -> u64 {
        self.event + self.profile + self.group
    }
}

/// Who gave the record to the relay (CORE 9): a record that came from Brevo must never go back to Brevo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    App,
    /// A dead letter that is sent again (CORE 9).
    Replay,
    /// As [`Origin::Replay`], and somebody has asked that it sets off automations however old it is (CORE 10).
    ReplayToTrigger,
    Pull,
    /// As [`Origin::Pull`], and somebody has asked that it sets off automations however old it is (CORE 10).
    PullToTrigger,
    BrevoWebhook,
    MixpanelStream,
    /// The relay itself: marks where in the journal an erasure was asked for (CORE 12). For no destination.
    Erasure,
    /// A row of a data set. Its body names the data set, whose columns its properties are.
    Dataset,
}

impl Origin {
    pub const ALL: [Origin; 9] = [
        Origin::App,
        Origin::Replay,
        Origin::ReplayToTrigger,
        Origin::Pull,
        Origin::PullToTrigger,
        Origin::BrevoWebhook,
        Origin::MixpanelStream,
        Origin::Erasure,
        Origin::Dataset,
    ];

    /// The origin as it is stored: a byte that never changes its meaning.
    pub fn code(self) -> u8 {
        match self {
            Origin::App => 0,
            Origin::Replay => 1,
            Origin::Pull => 2,
            Origin::BrevoWebhook => 3,
            Origin::MixpanelStream => 4,
            Origin::Erasure => 5,
            Origin::PullToTrigger => 6,
            Origin::ReplayToTrigger => 7,
            Origin::Dataset => 8,
        }
    }

    /// `None` for a code of some newer version.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.code() == code)
    }

    /// Whether the relay has read the record at Mixpanel: it goes behind an app's, and waits for nobody's identity.
    pub fn is_pulled(self) -> bool {
        matches!(self, Origin::Pull | Origin::PullToTrigger | Origin::Dataset)
    }

    /// Whether somebody has asked that it sets off automations however old it is.
    pub fn triggers_automations(self) -> bool {
        matches!(self, Origin::ReplayToTrigger | Origin::PullToTrigger)
    }

    /// The `origin` label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Origin::App => "app",
            Origin::Replay | Origin::ReplayToTrigger => "replay",
            Origin::Pull | Origin::PullToTrigger => "pull",
            Origin::BrevoWebhook => "brevo_webhook",
            Origin::MixpanelStream => "mixpanel_stream",
            Origin::Erasure => "erasure",
            Origin::Dataset => "dataset",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    Mixpanel,
    Brevo,
}

impl Destination {
    pub const ALL: [Destination; 2] = [Destination::Mixpanel, Destination::Brevo];

    /// The destination as it is stored in keys: a byte that never changes its meaning.
    pub fn code(self) -> u8 {
        match self {
            Destination::Mixpanel => b'm',
            Destination::Brevo => b'b',
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Destination::Mixpanel => "mixpanel",
            Destination::Brevo => "brevo",
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The set of destinations that a record is for. Every leg reads every record; one that is not for it is settled as
/// skipped, rule `not_for_this_destination`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destinations(u8);

impl Destinations {
    pub const NONE: Destinations = Destinations(0);
    pub const ALL: Destinations = Destinations(0b11);
    pub const MIXPANEL: Destinations = Destinations(0b01);
    pub const BREVO: Destinations = Destinations(0b10);

    pub fn contains(self, destination: Destination) -> bool {
        self.0 & Self::from(destination).0 != 0
    }

    /// The mask as stored.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The mask from storage; unknown bits are kept, so that a newer relay's masks survive an older one's copy.
    pub fn from_bits(bits: u8) -> Self {
        Destinations(bits)
    }
}

impl From<Destination> for Destinations {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::Mixpanel => Self::MIXPANEL,
            Destination::Brevo => Self::BREVO,
        }
    }
}

impl fmt::Debug for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Destination::ALL.iter().filter(|d| self.contains(**d))).finish()
    }
}

/// Which project a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Project {
    /// Carries one of the configured `project_token`s.
    Ours,
    /// Carries a token listed under `other_tokens: {forward: [...]}`: the service account knows nothing of that project,
    /// so it can only travel through `/track`.
    Foreign,
}

/// One accepted record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub origin: Origin,
    pub destinations: Destinations,
    pub project: Project,
    /// When the edge had the whole request.
    pub received_at: UnixMillis,
    /// One JSON object, UTF-8, without surrounding white space. Empty: the record of a person who was erased.
    pub body: Bytes,
}

impl Record {
    /// Whether only the record's place is left: it counts, and says nothing any more.
    pub fn is_erased(&self) -> bool {
        self.body.is_empty()
    }
}

/// Number of an entry in the journal: counted from 1 by a stored counter, never reused within an epoch (CORE 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub u64);

impl EntryId {
    pub const FIRST: EntryId = EntryId(1);

    pub fn next(self) -> EntryId {
        EntryId(self.0 + 1)
    }
}

/// Generation of a store: raised when a store is restored from a backup, copied to another engine or recreated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

/// Where a record stands in the journal. Positions order as the relay accepted the records. The index matters: one
/// `/engage` request may hold two `$add` of one person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub epoch: Epoch,
    pub entry: EntryId,
    pub index: u32,
}

impl Position {
    /// Length of [`Position::to_bytes`].
    pub const LEN: usize = 16;

    /// Big-endian bytes, so that keys made of positions sort as positions do.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[4..12].copy_from_slice(&self.entry.0.to_be_bytes());
        out[12..].copy_from_slice(&self.index.to_be_bytes());
        out
    }

    /// `None` when `bytes` is not exactly [`Position::LEN`] long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let [a, b, c, d, rest @ ..] = *bytes;
        let [e0, e1, e2, e3, e4, e5, e6, e7, i0, i1, i2, i3] = rest;
        Some(Position {
            epoch: Epoch(u32::from_be_bytes([a, b, c, d])),
            entry: EntryId(u64::from_be_bytes([e0, e1, e2, e3, e4, e5, e6, e7])),
            index: u32::from_be_bytes([i0, i1, i2, i3]),
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch.0, self.entry.0, self.index)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record's position: it looks like 1.42.0")]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let mut numbers = text.split('.');
        let mut next = || numbers.next().ok_or(NotAPosition);
        let position = Position {
            epoch: Epoch(next()?.parse().map_err(|_| NotAPosition)?),
            entry: EntryId(next()?.parse().map_err(|_| NotAPosition)?),
            index: next()?.parse().map_err(|_| NotAPosition)?,
        };
        numbers.next().is_none().then_some(position).ok_or(NotAPosition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_sort_as_their_bytes() {
        let at = |epoch, entry, index| Position { epoch: Epoch(epoch), entry: EntryId(entry), index };
        let sorted = [at(0, 1, 9), at(0, 2, 0), at(0, 256, 0), at(1, 1, 0), at(1, 1, 300)];
        for pair in sorted.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].to_bytes() < pair[1].to_bytes());
        }
        for position in sorted {
            assert_eq!(Position::from_bytes(&position.to_bytes()), Some(position));
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        assert_eq!(Position::from_bytes(b"short"), None);
        for text in ["", "1.2", "1.2.3.4", "1.2.x", "-1.2.3", "1.2.4294967296"] {
            assert_eq!(text.parse::<Position>(), Err(NotAPosition), "{text}");
        }
    }
}
