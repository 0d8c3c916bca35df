//! Where log lines go: standard error, for people on a terminal, as JSON elsewhere.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Holds the level, `debug`, or a filter, `info,mixrelay::delivery=debug`.
const VARIABLE: &str = "MIXRELAY_LOG";

#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE}: not a log filter: {0}; write a level such as info, or pairs such as mixrelay::delivery=debug")]
pub(super) struct LogsError(#[from] ParseError);

/// Starts logging for the process, at `usual` where the environment says nothing. A second call changes nothing.
pub(super) fn start(usual: &str) -> Result<(), LogsError> {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let filter = EnvFilter::try_new(if wanted.trim().is_empty() { usual } else { &wanted })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).with_ansi(false).try_init()
    };
    // Whoever came first keeps logging.
    drop(started);
    Ok(())
}
