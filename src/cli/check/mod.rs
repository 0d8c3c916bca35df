//! `mixrelay check`: what would fail, before it does.

mod brevo;
mod cohorts;
mod datasets;
pub(super) mod live;
mod mixpanel;
mod report;
mod samples;
mod server;
mod tables;
mod webhooks;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{Failure, map};
use crate::brevo::identifiers::Email;
use crate::clock::{Clock as _, SystemClock, UnixMillis};
use crate::config::{Config, MappingTest};
use crate::mapping::{Mismatch, run_test};
use crate::vendor::Transport;
pub(super) use brevo::refusal;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read the file only; ask neither Mixpanel nor Brevo.
    #[arg(long)]
    offline: bool,
    /// Have Brevo push its email events to the relay at this address (https://relay.example.com): makes the webhooks, or
    /// changes those that are there.
    #[arg(long, value_name = "URL", conflicts_with = "offline", value_parser = webhooks::public_url)]
    register_webhooks: Option<url::Url>,
    /// Send one sample of each mapped event for this contact, which is made if it is missing, so that Brevo's editor knows
    /// the events. Automations that wait for them run for it.
    #[arg(long, value_name = "EMAIL", conflicts_with = "offline", value_parser = samples::address)]
    test_contact: Option<Email>,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let loaded = super::load(path)?;
    let mut out = std::io::stdout().lock();
    out.write_all(report::configuration(&path.display().to_string(), &loaded.notices).as_bytes())
        .map_err(Failure::Output)?;
    let examples = examples(&loaded.config, SystemClock.now())?;
    out.write_all(report::examples(&examples).as_bytes()).map_err(Failure::Output)?;
    let wrong = examples.iter().any(|(_, mismatches)| !mismatches.is_empty());
    let read = tables::check(&loaded.config)?;
    out.write_all(report::tables(&read).as_bytes()).map_err(Failure::Output)?;
    let served = server::check(&loaded.config.server);
    out.write_all(report::server(&served).as_bytes()).map_err(Failure::Output)?;
    let wrong = wrong || read.iter().chain(&served).any(|finding| finding.verdict == live::Verdict::Fails);
    if arguments.offline {
        return Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let mapping = map::compiled(&loaded.config)?;
    let vendors = live::Vendors::new(Transport::new().map_err(Failure::Tls)?);
    let findings = runtime.block_on(async {
        let mut findings = live::all(&loaded.config, &vendors).await;
        if let Some(url) = &arguments.register_webhooks {
            findings.extend(webhooks::register(&loaded.config, &vendors, url).await);
        }
        if let Some(email) = &arguments.test_contact {
            findings.extend(samples::send(&loaded.config, &mapping, &vendors, email, SystemClock.now()).await);
        }
        findings
    });
    out.write_all(report::findings(&findings).as_bytes()).map_err(Failure::Output)?;
    let failed = findings.iter().any(|finding| finding.verdict == live::Verdict::Fails);
    Ok(if failed || wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs `mapping_tests`: each by its name, with what came out otherwise.
fn examples(config: &Config, now: UnixMillis) -> Result<Vec<(&str, Vec<Mismatch>)>, Failure> {
    let mapping = map::compiled(config)?;
    let run = |test: &'_ MappingTest| run_test(test, &mapping, now);
    Ok(config.mapping.tests.iter().map(|test| (test.name.as_str(), run(test))).collect())
}

#[cfg(test)]
mod tests;
