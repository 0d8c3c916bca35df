//! A child process of the real binary: says when it is ready, and dies with the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// From the start of a process to its line; a debug build that shares two cores with the compiler.
const START: Duration = Duration::from_secs(30);
/// Last lines of the log that a failed test shows.
const SHOWN: usize = 60;

pub struct Process {
    child: Child,
    /// Kept open, or the child would fail when it writes.
    _stdout: BufReader<ChildStdout>,
    log: PathBuf,
    /// What it said on standard output when it was ready.
    pub said: String,
}

impl Process {
    /// Starts `mixrelay ARGUMENTS`, its log appended to `log`, and waits for the line that begins with `ready`. The error
    /// is the exit status of a process that ended instead.
    pub async fn start(arguments: &[&str], log: &Path, ready: &str) -> Result<Self, ExitStatus> {
        Self::start_with(arguments, &[], log, ready).await
    }

    /// The same, with more in its environment.
    pub async fn start_with(
        arguments: &[&str],
        environment: &[(&str, PathBuf)],
        log: &Path,
        ready: &str,
    ) -> Result<Self, ExitStatus> {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true);
        // The developer's own keys and settings must not leak in.
        for (name, _) in std::env::vars() {
            if name.starts_with("MIXPANEL_") || name.starts_with("BREVO_") || name == "MIXRELAY_ADMIN_TOKEN" {
                command.env_remove(name);
            }
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        let announcing = async {
            while !said.lines().last().is_some_and(|line| line.starts_with(ready)) {
                if stdout.read_line(&mut said).await.unwrap() == 0 {
                    return false;
                }
            }
            true
        };
        let announced = tokio::time::timeout(START, announcing).await;
        match announced {
            Ok(true) => Ok(Self { child, _stdout: stdout, log: log.to_owned(), said }),
            Ok(false) => Err(child.wait().await.unwrap()),
            Err(_) => panic!("mixrelay {arguments:?} was not ready within {START:?}:\n{}", tail(log)),
        }
    }

    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap()))
    }

    /// SIGKILL, and its end: nothing of it runs any more.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, and how the process ended by it.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.ended().await
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        let pid = self.pid().expect("the process has ended before it was asked to");
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// SIGSTOP: it stands still until [`Self::thaw`], and its peers notice nothing but silence.
    pub fn freeze(&self) {
        kill_process(self.pid().expect("the process has ended"), Signal::STOP).unwrap();
    }

    pub fn thaw(&self) {
        kill_process(self.pid().expect("the process has ended"), Signal::CONT).unwrap();
    }

    /// How the process ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(super::PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("still running:\n{}", tail(&self.log))).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The most memory that was ever resident, in bytes.
    pub fn peak_resident(&self) -> u64 {
        let pid = self.child.id().expect("the process has ended");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM in /proc/PID/status");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), tail(&self.log));
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}
