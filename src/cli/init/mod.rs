//! `mixrelay init`: looks around at both vendors, and writes a commented configuration in `observe` mode.
//!
//! [`ask`] gathers the keys (environment, flags, a terminal), [`found`] reads what the vendors tell of themselves without
//! changing anything there, [`propose`] decides what of it to map, [`file`](mod@file) writes it down: the last two are
//! pure. The file is read back by the loader before anybody gets to see it, and an existing one is never touched.

mod ask;
mod file;
mod found;
mod propose;

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use url::Url;

use super::Failure;
use super::check::live::Vendors;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, ConfigErrors, IdentityMode, Residency};
use crate::vendor::Transport;

/// What is not asked here comes from MIXPANEL_TOKEN, MIXPANEL_SA_USER, MIXPANEL_SA_SECRET, MIXPANEL_PROJECT_ID and
/// BREVO_API_KEY, and where a terminal is there, from whoever sits at it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The region of the Mixpanel project; found when left out.
    #[arg(long, value_name = "US|EU|IN", value_parser = residency)]
    residency: Option<Residency>,
    /// The project's ID-merge mode; found as far as Mixpanel tells when left out.
    #[arg(long, value_name = "simplified|original", value_parser = identity)]
    identity: Option<IdentityMode>,
    /// The Mixpanel project; found when the service account may use only one.
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,
    /// Mixpanel somewhere else, such as `mixrelay sandbox`.
    #[arg(long, value_name = "URL")]
    mixpanel_url: Option<Url>,
    /// Brevo somewhere else, its version path included.
    #[arg(long, value_name = "URL")]
    brevo_url: Option<Url>,
}

fn residency(text: &str) -> Result<Residency, &'static str> {
    Residency::ALL.into_iter().find(|known| known.label().eq_ignore_ascii_case(text)).ok_or("write US, EU or IN")
}

fn identity(text: &str) -> Result<IdentityMode, &'static str> {
    let all = [IdentityMode::Simplified, IdentityMode::Original];
    all.into_iter().find(|known| known.label() == text).ok_or("write simplified or original")
}

#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("{} is there already, and is left as it is; name another file with --config", .0.display())]
    Exists(PathBuf),
    #[error("{what} is missing; set {variable}, or run this in a terminal and be asked")]
    Missing { what: &'static str, variable: &'static str },
    #[error("cannot ask: {0}")]
    Terminal(#[source] io::Error),
    #[error(
        "no region of Mixpanel knows the service account {0}; check its name and secret (Organization Settings, Service Accounts)"
    )]
    UnknownAccount(String),
    #[error("Mixpanel cannot be asked: {0}")]
    Mixpanel(#[source] super::check::live::NoAnswer),
    #[error("the service account may use several projects; name one with --project-id: {}", .0.join(", "))]
    WhichProject(Vec<String>),
    #[error("the service account may not use project {project}; those it may use: {}", .may.join(", "))]
    OtherProject { project: String, may: Vec<String> },
    #[error("the Brevo API key: {0}")]
    BrevoKey(String),
    #[error("a proposal made no configuration that loads, please report this: {0}")]
    Unloadable(#[source] ConfigErrors),
    #[error("{}: cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    if path.exists() {
        return Err(InitError::Exists(path.to_owned()).into());
    }
    let terminal = ask::Terminal::new(io::stdin().is_terminal());
    let keys = ask::keys(&terminal, arguments, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let vendors = Vendors::new(Transport::new().map_err(Failure::Tls)?);
    let found = runtime.block_on(found::look(&keys, arguments, &vendors, &terminal))?;
    let proposal = propose::propose(&found);
    let text = file::render(&keys, arguments, &found, &proposal, SystemClock.now());
    let loaded = config::parse(&text, &path.display().to_string(), &|name| std::env::var(name).ok());
    loaded.map_err(InitError::Unloadable)?;
    write(path, &text)?;
    let mut out = io::stdout();
    out.write_all(summary(path, &found, &proposal).as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// Only for its owner: it may hold keys.
fn write(path: &Path, text: &str) -> Result<(), InitError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
        _ => InitError::Write { path: path.to_owned(), source },
    })
}

fn summary(path: &Path, found: &found::Found, proposal: &propose::Proposal) -> String {
    let path = path.display();
    let mut out = String::new();
    for said in &found.told {
        out.push_str(&format!("  {said}\n"));
    }
    let (events, properties) = (proposal.events.iter(), proposal.properties.iter());
    let mapped = |active: usize, all: usize| format!("{active} of {all}");
    out.push_str(&format!(
        "{path}: written, in observe mode: everything is mapped, nothing is sent to Brevo\n  events mapped: {}\n  \
         properties mapped: {}\n  what was not mapped stands there as comments\nnext:\n  mixrelay check --config {path}\n  \
         mixrelay serve --config {path}\n",
        mapped(events.clone().filter(|event| event.active).count(), events.count()),
        mapped(properties.clone().filter(|property| property.active).count(), properties.count()),
    ));
    out
}
