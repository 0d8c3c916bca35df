//! The streams as they have to be: made where they are missing, compared where they are there.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};

use super::OpenError;
use super::link::{Link, Names};

/// How long a message's id is remembered: far longer than anybody sends it again.
const DUPLICATES: Duration = Duration::from_secs(120);
/// A full stream of snapshots must not stop the state's log from being cut.
const SNAPSHOTS: i64 = -1;

/// What the configuration says of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Servers that hold a copy of everything: 1, 3 or 5.
    pub replicas: usize,
    /// Bytes that the journal may take; none: as many as the servers give the account.
    pub journal_bytes: Option<u64>,
}

/// How a stream stands apart from what the relay wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub stream: String,
    pub what: &'static str,
    pub found: String,
    pub wanted: String,
    /// The relay's promises do not hold on such a stream.
    pub fatal: bool,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stream, what, found, wanted, .. } = self;
        write!(f, "stream {stream}: {what} is {found}, and should be {wanted}")
    }
}

/// The three streams, the journal's first.
pub(super) fn wanted(names: &Names, sizes: Sizes) -> [Config; 3] {
    let stream = |name: String, subjects: String, max_bytes: i64| Config {
        name,
        subjects: vec![subjects],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // What does not fit is refused, never put in the place of something older.
        discard: DiscardPolicy::New,
        num_replicas: sizes.replicas,
        max_bytes,
        duplicate_window: DUPLICATES,
        ..Config::default()
    };
    let journal_bytes = sizes.journal_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    [
        stream(names.journal_stream(), names.journal_subject(), journal_bytes),
        stream(names.state_stream(), names.state_subject(), -1),
        stream(names.snapshot_stream(), names.snapshot_subjects(), SNAPSHOTS),
    ]
}

/// Where `found` is not what is `wanted`.
pub(super) fn differences(wanted: &Config, found: &Config) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut compare = |what, found: String, wanted_value: String, fatal| {
        if found != wanted_value {
            all.push(Difference { stream: wanted.name.clone(), what, found, wanted: wanted_value, fatal });
        }
    };
    let limit = |value: i64| if value <= 0 { "none".to_owned() } else { value.to_string() };
    compare("its subjects", found.subjects.join(", "), wanted.subjects.join(", "), true);
    compare("its retention", format!("{:?}", found.retention), format!("{:?}", wanted.retention), true);
    compare("what it does when full", format!("{:?}", found.discard), format!("{:?}", wanted.discard), true);
    compare("its storage", format!("{:?}", found.storage), format!("{:?}", wanted.storage), true);
    compare("the age that it keeps, in seconds", found.max_age.as_secs().to_string(), "0".to_owned(), true);
    compare("the number of messages that it keeps", limit(found.max_messages), "none".to_owned(), true);
    let per_subject = limit(found.max_messages_per_subject);
    compare("the number of messages that it keeps of a subject", per_subject, "none".to_owned(), true);
    compare("whether messages can be deleted", (!found.deny_delete).to_string(), "true".to_owned(), true);
    compare("whether it can be purged", (!found.deny_purge).to_string(), "true".to_owned(), true);
    compare("the number of its replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string(), false);
    compare("its size in bytes", limit(found.max_bytes), limit(wanted.max_bytes), false);
    all
}

/// Makes the missing streams. Errors when one is there on which the promises would not hold; whatever else stands apart
/// is returned.
pub(super) async fn provide(link: &Link, sizes: Sizes) -> Result<Vec<Difference>, OpenError> {
    let mut apart = Vec::new();
    for config in wanted(&link.names, sizes) {
        let info = match found(link, &config.name).await? {
            Some(info) => info,
            None => create(link, &config).await?,
        };
        apart.extend(differences(&config, &info.config));
    }
    match apart.iter().find(|difference| difference.fatal) {
        Some(difference) => Err(OpenError::Stream(difference.clone())),
        None => Ok(apart),
    }
}

/// Where the streams that are there stand apart; a missing one is none of these.
pub(super) async fn look(link: &Link, sizes: Sizes) -> Result<Vec<Difference>, OpenError> {
    let mut apart = Vec::new();
    for config in wanted(&link.names, sizes) {
        if let Some(info) = found(link, &config.name).await? {
            apart.extend(differences(&config, &info.config));
        }
    }
    Ok(apart)
}

async fn found(link: &Link, name: &str) -> Result<Option<Info>, OpenError> {
    match link.context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(told) if told.code() == 404 => Ok(None),
            _ => Err(OpenError::asked(name, error)),
        },
    }
}

async fn create(link: &Link, config: &Config) -> Result<Info, OpenError> {
    match link.context.create_stream(config.clone()).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        // Another relay was faster, with sizes of its own.
        Err(error) => match (error.kind(), found(link, &config.name).await) {
            (CreateStreamErrorKind::JetStream(_), Ok(Some(info))) => Ok(info),
            _ => Err(OpenError::asked(&config.name, error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { replicas: 3, journal_bytes: Some(1 << 30) };

    #[test]
    fn a_stream_that_drops_what_is_old_is_refused_and_another_size_is_told() {
        let [journal, state, _] = wanted(&Names::new("relay"), SIZES);
        assert_eq!(differences(&journal, &journal), []);
        assert_eq!(
            differences(&state, &Config { max_messages: -1, ..state.clone() }),
            [],
            "the server writes -1 for none"
        );
        let dropping = Config { discard: DiscardPolicy::Old, max_age: Duration::from_secs(3600), ..journal.clone() };
        let found = differences(&journal, &dropping);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|difference| difference.fatal));
        let smaller = Config { num_replicas: 1, max_bytes: 1 << 20, ..journal.clone() };
        let found: Vec<_> = differences(&journal, &smaller).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "stream relay-journal-0: the number of its replicas is 1, and should be 3",
                "stream relay-journal-0: its size in bytes is 1048576, and should be 1073741824",
            ]
        );
        assert!(differences(&journal, &smaller).iter().all(|difference| !difference.fatal));
    }
}
