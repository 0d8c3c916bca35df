//! The command line: which subcommand, which file, which exit code.
//!
//! Each subcommand is a thin function in a file of its own that loads the configuration, builds what it needs, and runs
//! it. Exit codes are an interface: 0 done, 1 the configuration or the start failed or `check` found something that
//! fails, 64 the command line cannot be understood.

mod admin;
mod backfill;
mod check;
mod cohorts;
mod datasets;
mod dead_letters;
mod demo;
mod health;
mod init;
mod logs;
mod map;
mod reconcile;
mod sandbox;
mod serve;
mod store;
mod trace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{self, ConfigError, Loaded};
use crate::serve::{RunError, StartError};

/// `EX_USAGE` of sysexits.
const USAGE: u8 = 64;

/// A durable relay from Mixpanel SDKs to Mixpanel and Brevo.
#[derive(Debug, Parser)]
#[command(name = "mixrelay", version, disable_help_subcommand = true)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "mixrelay.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring profiles or events of before this relay from Mixpanel to Brevo, through the running relay.
    Backfill(backfill::Arguments),
    /// Test the configuration, the credentials, and Brevo's attributes and lists, and say what would fail.
    Check(check::Arguments),
    /// List, show, send again, purge or export the running relay's dead letters.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Show Mixpanel's cohorts and bring them into Brevo lists, through the running relay.
    #[command(subcommand)]
    Cohorts(cohorts::Command),
    /// Show data sets, and run them: what a question to Mixpanel says of people, as attributes and list members.
    #[command(subcommand)]
    Datasets(datasets::Command),
    /// Run the relay against both simulated vendors, send it what five SDKs send, and show what became of it.
    Demo(demo::Arguments),
    /// Ask the running relay whether it is alive.
    Health,
    /// Look around at Mixpanel and Brevo, and write a configuration with proposals.
    Init(init::Arguments),
    /// Read Mixpanel records on standard input and print what Brevo would be sent for each.
    Map,
    /// Hold what was delivered on a day against what Mixpanel and Brevo count, through the running relay.
    Reconcile(reconcile::Arguments),
    /// Simulate Mixpanel and Brevo on this machine, and print a configuration that points at them.
    Sandbox(sandbox::Arguments),
    /// Run the relay until SIGTERM. SIGHUP takes up the file's mapping as it is now.
    Serve,
    /// Look at the store, check it or copy it, also while the relay runs.
    Store(store::Arguments),
    /// Say what became of a record or a person's records, by the running relay's journal.
    Trace(trace::Arguments),
}

/// Why a subcommand ended without having done its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Ask(#[from] admin::AskError),
    #[error(transparent)]
    Logs(#[from] logs::LogsError),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[source] reqwest::Error),
    #[error(transparent)]
    Cohorts(#[from] cohorts::CohortsError),
    #[error(transparent)]
    Dataset(#[from] datasets::NoSuch),
    #[error(transparent)]
    Backfill(#[from] backfill::BackfillError),
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    #[error(transparent)]
    Health(#[from] health::HealthError),
    #[error(transparent)]
    Init(#[from] init::InitError),
    #[error(transparent)]
    Input(#[from] map::InputError),
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    #[error("cannot write the answer: {0}")]
    Output(#[source] std::io::Error),
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error(transparent)]
    Store(#[from] store::StoreCommandError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs the command line `args`, the program's name included.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return answer(&error),
    };
    use_ring();
    // The demo's table is its output: what goes well need not be told twice.
    let level = if matches!(cli.command, Command::Demo(_) | Command::DeadLetters(_) | Command::Trace(_)) {
        "warn"
    } else {
        "info"
    };
    let done = logs::start(level).map_err(Failure::from).and_then(|()| match &cli.command {
        Command::Backfill(arguments) => backfill::run(&cli.config, arguments),
        Command::Check(arguments) => check::run(&cli.config, arguments),
        Command::DeadLetters(command) => dead_letters::run(&cli.config, command),
        Command::Cohorts(command) => cohorts::run(&cli.config, command),
        Command::Datasets(command) => datasets::run(&cli.config, command),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Health => health::run(&cli.config),
        Command::Init(arguments) => init::run(&cli.config, arguments),
        Command::Map => map::run(&cli.config),
        Command::Reconcile(arguments) => reconcile::run(&cli.config, arguments),
        Command::Sandbox(arguments) => sandbox::run(arguments),
        Command::Serve => serve::run(&cli.config),
        Command::Store(arguments) => store::run(&cli.config, arguments),
        Command::Trace(arguments) => trace::run(&cli.config, arguments),
    });
    match done {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Help and version are what was asked for; everything else is a command line that cannot be understood.
fn answer(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nobody is left to tell when the terminal is gone.
    drop(error.print());
    if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
}

/// TLS through ring, for the whole process. A provider that is there already is as good.
fn use_ring() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn load(path: &Path) -> Result<Loaded, ConfigError> {
    config::load(path, &|name| std::env::var(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_file_may_be_named_before_or_after_the_subcommand() {
        for args in [["mixrelay", "--config", "x.yaml", "check"], ["mixrelay", "check", "--config", "x.yaml"]] {
            assert_eq!(Cli::try_parse_from(args).unwrap().config, PathBuf::from("x.yaml"));
        }
        assert_eq!(Cli::try_parse_from(["mixrelay", "check"]).unwrap().config, PathBuf::from("mixrelay.yaml"));
    }
}
