//! `mixrelay serve`: the relay itself.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, load};
use crate::admin::auth::Caller;
use crate::admin::mapping::Reload;
use crate::clock::SystemClock;
use crate::config::{Role, Weight};
use crate::in_force::{ConfigSource, Reloaded};
use crate::serve::Relay;
use crate::telemetry;

/// Threads for what blocks: reads of the store, and the unpacking and packing of big bodies. Each holds megabytes while it
/// works and its allocator's share of them afterwards, so their number is part of the bound on memory (P10).
const BLOCKING_THREADS: usize = 16;

/// The one line on standard output, for scripts that let the system choose the ports.
#[derive(Serialize)]
struct Listening {
    listening: Option<std::net::SocketAddr>,
    admin: Option<std::net::SocketAddr>,
}

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    let loaded = load(path)?;
    for notice in &loaded.notices {
        match notice.weight() {
            Weight::Warning => tracing::warn!("{notice}"),
            Weight::Note => tracing::info!("{notice}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(stop_on_signal(shutdown.clone()));
        let again = path.to_owned();
        let source: ConfigSource = Arc::new(move || load(&again));
        let relay = Relay::build(loaded.config, Some(source), Arc::new(SystemClock), telemetry::install()?).await?;
        tokio::spawn(reload_on_hangup(relay.reload()));
        let (listening, admin) = relay.addresses();
        announce(&Listening { listening, admin })?;
        relay.run(shutdown).await?;
        tracing::info!("drained and stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// SIGHUP takes up the file's mapping as it is now.
async fn reload_on_hangup(reload: Reload) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        return tracing::error!("cannot listen for SIGHUP: it would end this process");
    };
    while hangups.recv().await.is_some() {
        let caller = Caller { name: "SIGHUP".into(), role: Role::Admin };
        match reload.run(caller).await {
            Ok(Reloaded { changed: false, .. }) => tracing::info!("the file says what is in force already"),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the mapping was not reloaded: what was in force stays so"),
        }
    }
}

fn announce(listening: &Listening) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    serde_json::to_writer(&mut out, listening).map_err(|e| Failure::Output(e.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(Failure::Output)
}

/// SIGTERM and Ctrl-C drain; a second one ends at once, as the shell's default would.
pub(super) async fn stop_on_signal(shutdown: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return tracing::error!("cannot listen for signals: only SIGKILL will stop this process");
    };
    for first in [true, false] {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if !first {
            std::process::exit(130);
        }
        tracing::info!("stopping: what is under way may finish; a second signal ends at once");
        shutdown.cancel();
    }
}
