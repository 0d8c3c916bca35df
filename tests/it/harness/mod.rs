//! What every test of the whole relay stands on: the relay and the sandbox as child processes of the real binary, so
//! that a kill is a kill, and ways to ask them what they know.
//!
//! Nothing here sleeps for a fixed time: [`eventually`] polls, within a bound.

pub mod disk;
pub mod http;
pub mod metrics;
pub mod mmdb;
pub mod nats;
pub mod process;
pub mod raw;
pub mod records;
pub mod relay;
pub mod sandbox;
pub mod sdk;

use std::time::Duration;

use tokio::time::Instant;

pub use disk::Disk;
pub use metrics::Metrics;
pub use relay::Relay;
pub use sandbox::Sandbox;

/// Long enough for a debug build on two busy cores; only a failing test waits for all of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

/// Polls `check` until it is `Ok`, and panics with its last complaint when `within` is over.
pub async fn eventually<T>(within: Duration, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(complaint) if Instant::now() >= deadline => panic!("not within {within:?}: {complaint}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// `Err` with a comparison unless both are equal: the usual check inside [`eventually`].
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}")) }
}

/// A number from the environment, for longer runs than CI's.
pub fn tunable(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}
