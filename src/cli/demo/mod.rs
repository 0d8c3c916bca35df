//! `mixrelay demo`: the relay and both vendors in one process, five apps, and a table of what became of their records.
//!
//! The relay is the one that `serve` runs, on a store of its own under `data/demo`; the apps and the reader of the table
//! are its clients over HTTP. Only two things are looked at from inside, because no route shows them: the journal, for
//! the event that is followed through, and the shelves.

mod arrivals;
mod figures;
mod follow;
mod http;
mod paper;
mod report;
mod sdk;
mod story;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::figures::Figures;
use self::http::Http;
use self::paper::{Ink, Paper, fit};
use self::report::Findings;
use self::story::{Answer, Step};
use super::Failure;
use super::sandbox::{Places, Relay as RelayPlace, configuration};
use crate::admin::auth::{AdminTokenError, admin_token};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, ConfigErrors, Secret};
use crate::record::Destination;
use crate::sandbox::{Sandbox, SandboxConfig};
use crate::serve::Relay;
use crate::store::{Journal, State, StoreError};
use crate::telemetry;
use crate::vendor::TransportError;

/// Where the demo keeps its store; whatever an earlier demo has left there goes.
const DIRECTORY: &str = "data/demo";
const STORE: &str = "relay.db";

/// Where the relay listens unless told otherwise, and when nobody else does.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Longest wait for both destinations to have settled everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// The counts must stand still for this long: releases from shelves wait for a checkpoint.
const QUIET: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// End after the table, with exit code 1 when something did not arrive.
    #[arg(long)]
    once: bool,
    /// Where the relay listens [default: 127.0.0.1:8080, or a free port when that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error("{DIRECTORY}: another demo runs here; end it first")]
    Running,
    #[error("{}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot listen on loopback: {0}")]
    Listen(#[source] io::Error),
    #[error("the sandbox ended: {0}")]
    Sandbox(#[source] io::Error),
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    #[error("a call on loopback failed: {0}")]
    Client(#[source] reqwest::Error),
    #[error("a call on loopback failed: {0}")]
    Transport(#[from] TransportError),
    #[error("{url} answered {status}")]
    Answer { url: String, status: ::http::StatusCode },
    #[error("{url} did not answer JSON: {source}")]
    NotJson { url: String, source: serde_json::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the event that is followed through cannot be found: {0}")]
    LostTrack(&'static str),
    #[error("the relay ended while the demo ran")]
    RelayEnded,
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("cannot write the table: {0}")]
    Output(#[from] io::Error),
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let directory = Path::new(DIRECTORY);
    clear(directory)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(play(arguments, directory))
}

/// Removes what an earlier demo has left, unless it still runs.
fn clear(directory: &Path) -> Result<(), DemoError> {
    let at = |source| DemoError::Directory { path: directory.to_owned(), source };
    if let Ok(lock) = std::fs::File::open(directory.join(format!("{STORE}.lock")))
        && lock.try_lock().is_err()
    {
        return Err(DemoError::Running);
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        Ok(()) | Err(_) => {}
    }
    std::fs::create_dir_all(directory).map_err(at)
}

/// Everything that runs, as the reader of the table sees it.
struct Stage {
    relay: SocketAddr,
    control: SocketAddr,
    token: Secret,
    journal: Arc<dyn Journal>,
    state: Arc<dyn State>,
    accounts: SandboxConfig,
    http: Http,
    paper: Paper,
}

async fn play(arguments: &Arguments, directory: &Path) -> Result<ExitCode, Failure> {
    let shutdown = CancellationToken::new();
    tokio::spawn(super::serve::stop_on_signal(shutdown.clone()));
    let accounts = SandboxConfig::default();
    let sandbox_down = CancellationToken::new();
    let (places, sandbox) = start_sandbox(&accounts, sandbox_down.clone()).await?;

    let relay = RelayPlace {
        listen: place_to_listen(arguments.listen).await.to_string(),
        store: directory.join(STORE).display().to_string(),
        for_the_demo: true,
    };
    let text = configuration(&accounts, &places, &relay);
    let file = directory.join("mixrelay.yaml");
    std::fs::write(&file, &text).map_err(|source| DemoError::Directory { path: file.clone(), source })?;
    let config = config::parse(&text, &file.display().to_string(), &|_| None).map_err(DemoError::from)?.config;
    let relay = Relay::build(config.clone(), None, Arc::new(SystemClock), telemetry::install()?).await?;
    let stage = Stage {
        relay: relay.addresses().0.ok_or(DemoError::RelayEnded)?,
        control: places.control,
        token: admin_token(&config).map_err(DemoError::from)?,
        journal: relay.journal(),
        state: relay.state(),
        accounts,
        http: Http::new()?,
        paper: Paper::stdout(),
    };
    let relay = tokio::spawn(relay.run(shutdown.clone()));

    let told = tokio::select! {
        told = stage.tell() => Some(told?),
        () = shutdown.cancelled() => None,
    };
    if !arguments.once && told.is_some() {
        stage.addresses(&file).map_err(DemoError::Output)?;
        shutdown.cancelled().await;
    }
    shutdown.cancel();
    relay.await.map_err(DemoError::from)??;
    sandbox_down.cancel();
    sandbox.await.map_err(DemoError::from)?.map_err(DemoError::Sandbox)?;
    let well = told.is_some_and(|findings| findings.is_empty());
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start_sandbox(
    accounts: &SandboxConfig,
    down: CancellationToken,
) -> Result<(Places, tokio::task::JoinHandle<io::Result<()>>), DemoError> {
    let listen = || async { TcpListener::bind(ANY_PORT).await.map_err(DemoError::Listen) };
    let (mixpanel, brevo, control) = (listen().await?, listen().await?, listen().await?);
    let at = |listener: &TcpListener| listener.local_addr().map_err(DemoError::Listen);
    let places = Places { mixpanel: at(&mixpanel)?, brevo: at(&brevo)?, control: at(&control)? };
    let sandbox = Sandbox::new(accounts.clone(), Arc::new(SystemClock));
    Ok((places, tokio::spawn(sandbox.serve(mixpanel, brevo, control, down.cancelled_owned()))))
}

/// The usual port when it is free.
async fn place_to_listen(wanted: Option<SocketAddr>) -> SocketAddr {
    match wanted {
        Some(address) => address,
        None if TcpListener::bind(USUAL).await.is_ok() => USUAL,
        None => ANY_PORT,
    }
}

impl Stage {
    /// The story and its table. What is wrong with it is in the findings.
    async fn tell(&self) -> Result<Findings, DemoError> {
        let paper = &self.paper;
        paper.line(&paper.ink(Ink::Bold, "Mixrelay demo: the relay, and Mixpanel and Brevo simulated on loopback"))?;
        let steps = story::story(&self.accounts, SystemClock.now());
        let mut findings = Findings::default();
        self.send(&steps, &mut findings).await?;
        let (figures, took) = self.quiet().await?;
        let words = format!("Both destinations were done {} ms after the last answer.", took.as_millis());
        paper.line(&paper.ink(Ink::Dim, &words))?;

        report::accounts(paper, &figures, &mut findings)?;
        let url = format!("http://{}/v1/dead-letters", self.relay);
        let dead_letters = self.http.json(&url, Some(self.token.expose())).await?;
        report::reasons(paper, &figures, &self.state, &dead_letters).await?;
        let arrivals = arrivals::read(&self.http, self.control).await?;
        report::arrived(paper, &arrivals, &figures, &steps, &mut findings)?;
        match follow::follow(&steps, &self.journal, &self.http, self.control).await {
            Ok(followed) => report::followed(paper, &followed, &mut findings)?,
            Err(error) => findings.expect(false, || error.to_string()),
        }
        report::verdict(paper, &findings)?;
        Ok(findings)
    }

    async fn send(&self, steps: &[Step], findings: &mut Findings) -> Result<(), DemoError> {
        let paper = &self.paper;
        paper.heading("What the apps send, and what they are answered")?;
        for step in steps {
            let (status, answer) = self.http.send(self.relay, &step.request).await?;
            let right = status == ::http::StatusCode::OK && fits(step.answer, &answer);
            let path = step.request.path.split('?').next().unwrap_or_default();
            let call = format!("{} {path}", step.request.method);
            let (ink, shown) = match step.answer {
                _ if !right => (Ink::Bad, format!("{} {answer}", status.as_u16())),
                Answer::Refused(_) => (Ink::Bad, "0 and why".to_owned()),
                Answer::One | Answer::Verbose => (Ink::Good, "1".to_owned()),
            };
            paper.line(&format!(
                "{} {} {} {} {}",
                paper.ink(Ink::Bold, &fit(step.sdk, 7)),
                fit(step.what, 43),
                fit(&call, 13),
                paper.ink(Ink::Dim, &fit(step.request.wire, 18)),
                paper.ink(ink, &shown)
            ))?;
            findings.expect(right, || format!("{}, {}: answered {status} {answer}", step.sdk, step.what));
        }
        Ok(())
    }

    /// Waits until nothing moves any more, for as long as patience lasts; says how long things moved.
    async fn quiet(&self) -> Result<(Figures, Duration), DemoError> {
        let url = format!("http://{}/metrics", self.relay);
        let start = Instant::now();
        let mut last = None;
        let mut since = start;
        loop {
            let figures = Figures::parse(&self.http.text(&url, Some(self.token.expose())).await?);
            let accounts = Destination::ALL.map(|destination| figures.account(destination));
            let settled = accounts.iter().all(|account| account.backlog == 0);
            if last.as_ref() != Some(&accounts) {
                since = Instant::now();
                last = Some(accounts);
            }
            if (settled && since.elapsed() >= QUIET) || start.elapsed() >= PATIENCE {
                return Ok((figures, since - start));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn addresses(&self, file: &Path) -> io::Result<()> {
        let (paper, relay, control) = (&self.paper, self.relay, self.control);
        let token = Path::new(DIRECTORY).join("admin-token");
        paper.heading("Try it")?;
        paper.line(&format!("Send an event to the relay, {}:", paper.ink(Ink::Bold, &format!("http://{relay}"))))?;
        paper.line(&format!("  curl 'http://{relay}/track?verbose=1' --data-urlencode \\"))?;
        paper.line(&format!(
            "    'data={{\"event\":\"Purchase\",\"properties\":{{\"token\":\"{}\",\"distinct_id\":\"ada\"}}}}'",
            self.accounts.mixpanel.project_token
        ))?;
        paper.line("See it arrive; the sandbox also takes orders to fail (docs/sandbox.md):")?;
        paper.line(&format!("  curl 'http://{control}/mixpanel/events?event=Purchase'"))?;
        paper.line(&format!("  curl 'http://{control}/brevo/events?event_name=order_completed'"))?;
        let console = paper.ink(Ink::Bold, &format!("http://{relay}/console"));
        paper.line(&format!("Look at its console with the token in {}: {console}", token.display()))?;
        paper.line("Ask it as its operator, with the same token:")?;
        let bearer = format!("-H \"Authorization: Bearer $(cat {})\"", token.display());
        paper.line(&format!("  curl {bearer} http://{relay}/v1/status"))?;
        paper.line(&format!("  curl {bearer} http://{relay}/metrics"))?;
        let words = format!("The relay runs with {}. Ctrl-C ends it.", file.display());
        paper.line(&paper.ink(Ink::Dim, &words))
    }
}

/// Whether the SDK would take `answer` for what it is.
fn fits(expected: Answer, answer: &str) -> bool {
    let verbose = |error: serde_json::Value, status: u64| {
        serde_json::from_str::<serde_json::Value>(answer)
            .is_ok_and(|answer| answer["error"] == error && answer["status"] == status)
    };
    match expected {
        Answer::One => answer == "1",
        Answer::Verbose => verbose(serde_json::Value::Null, 1),
        Answer::Refused(reason) => verbose(reason.into(), 0),
    }
}
