//! The connection to the servers, and what the streams are called.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;

use super::OpenError;

/// How long one answer of a server is waited for.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two tries to reach a server.
const RECONNECT: Duration = Duration::from_millis(250);
/// Publications whose answer is awaited at once, of all kinds: far above what the writers here allow themselves.
const UNANSWERED: usize = 256;
/// Of a message's permitted size, what headers and the protocol may take.
const ENVELOPE: usize = 1 << 10;

/// Where the servers are and how to be let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// `host:port`, at least one.
    pub addresses: Vec<String>,
    /// A file as `nsc` writes it.
    pub credentials: Option<PathBuf>,
    /// Certificates of those who vouch for the servers, in PEM; with any, or with [`Servers::tls`], nothing is sent in clear.
    pub ca: Option<PathBuf>,
    pub tls: bool,
}

/// Which streams are ours. The prefix keeps relays of other projects apart that share the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    partition: u16,
}

impl Names {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), partition: 0 }
    }

    pub fn journal_stream(&self) -> String {
        self.stream("journal")
    }

    pub fn journal_subject(&self) -> String {
        self.subject("journal")
    }

    pub fn state_stream(&self) -> String {
        self.stream("state")
    }

    pub fn state_subject(&self) -> String {
        self.subject("state")
    }

    pub fn snapshot_stream(&self) -> String {
        self.stream("snapshots")
    }

    /// The pieces of the snapshot that stands at `sequence` of the state's log, and was made under the claim `term`.
    pub fn snapshot_subject(&self, sequence: u64, term: u64) -> String {
        format!("{}.{sequence}.{term}", self.subject("snapshots"))
    }

    /// Says which snapshot is whole.
    pub fn manifest_subject(&self) -> String {
        format!("{}.manifest", self.subject("snapshots"))
    }

    pub fn snapshot_subjects(&self) -> String {
        format!("{}.>", self.subject("snapshots"))
    }

    fn stream(&self, what: &str) -> String {
        format!("{}-{what}-{}", self.prefix, self.partition)
    }

    fn subject(&self, what: &str) -> String {
        format!("{}.{what}.{}", self.prefix, self.partition)
    }
}

/// An open connection. It mends itself; what is asked meanwhile fails after a moment.
#[derive(Clone)]
pub(super) struct Link {
    pub client: async_nats::Client,
    pub context: jetstream::Context,
    pub names: Names,
}

impl Link {
    pub(super) async fn open(servers: &Servers, names: Names) -> Result<Self, OpenError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Unreachable {
            servers: servers.addresses.join(", "),
            source,
        };
        let mut options = async_nats::ConnectOptions::new()
            .name("mixrelay")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .reconnect_delay_callback(|_attempt| RECONNECT);
        if let Some(path) = &servers.credentials {
            let credentials = tokio::fs::read_to_string(path).await;
            let credentials = credentials.and_then(|text| options.credentials(&text));
            options = credentials.map_err(|source| OpenError::Credentials { path: path.clone(), source })?;
        }
        if let Some(path) = &servers.ca {
            options = options.add_root_certificates(path.clone());
        }
        let options = options.require_tls(servers.tls || servers.ca.is_some());
        let client = options.connect(servers.addresses.as_slice()).await.map_err(|error| failed(error.into()))?;
        let context = jetstream::ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER).max_ack_inflight(UNANSWERED);
        Ok(Self { context: context.build(client.clone()), client, names })
    }

    /// Bytes that a message's payload may have.
    pub(super) fn max_payload(&self) -> usize {
        self.client.server_info().max_payload.saturating_sub(ENVELOPE)
    }

    pub(super) fn connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}
