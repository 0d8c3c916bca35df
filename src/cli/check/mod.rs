//! `mixrelay check`: what would fail, before it does.

mod brevo;
mod live;
mod mixpanel;
mod report;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::Failure;
use crate::vendor::Transport;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read the file only; ask neither Mixpanel nor Brevo.
    #[arg(long)]
    offline: bool,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let loaded = super::load(path)?;
    let mut out = std::io::stdout().lock();
    out.write_all(report::configuration(&path.display().to_string(), &loaded.notices).as_bytes())
        .map_err(Failure::Output)?;
    if let Some(rule) = loaded.config.not_enforced() {
        writeln!(out, "  fails    {rule}").map_err(Failure::Output)?;
        return Ok(ExitCode::FAILURE);
    }
    if arguments.offline {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let vendors = live::Vendors::new(Transport::new().map_err(Failure::Tls)?);
    let findings = runtime.block_on(live::all(&loaded.config, &vendors));
    out.write_all(report::findings(&findings).as_bytes()).map_err(Failure::Output)?;
    let failed = findings.iter().any(|finding| finding.verdict == live::Verdict::Fails);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests;
