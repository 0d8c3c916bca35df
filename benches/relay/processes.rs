//! The processes of a run, and what can be asked of them. All are ended when they are dropped.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Failure, http};

const ADMIN_TOKEN: &str = "bench-admin-token-0123456789abcdef";
const BINARY: &str = env!("CARGO_BIN_EXE_mixrelay");
/// Both destinations are off.
const ALONE: &str = "
connectors:
  mixpanel:
    enabled: false
    project_token: sandbox-token
    service_account: { username: sandbox-sa, secret: sandbox-secret }
    project_id: 12345
privacy: { consent: none }";

/// A process that is killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Result<(Self, BufReader<ChildStdout>), Failure> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        Ok((Self { child }, BufReader::new(stdout)))
    }

    /// Asks it to end and waits until it has.
    pub fn end(mut self) -> Result<(), Failure> {
        if let Some(id) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        self.child.wait()?;
        Ok(())
    }

    /// Processor time used so far, all threads.
    pub fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }

    /// Resident memory: now, and at its highest.
    pub fn resident(&self) -> String {
        format!("{} MiB, peak {} MiB", self.memory("VmRSS:") >> 20, self.peak() >> 20)
    }

    /// The most memory that was resident, in bytes.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// A field of the kernel's, in bytes.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
        kibibytes << 10
    }
}

/// Processor time of a process (`self`: this one). Counted in the kernel's ticks of 10 ms.
pub fn cpu_of(process: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state is field 3, user and system time are fields 14 and 15.
    let fields: Vec<_> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `program` under callgrind, whose counts go to `counts`.
pub fn counted(counts: &Path, program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(program);
    command
}

/// The sum in callgrind's file.
pub fn instructions(counts: &Path) -> Result<u64, Failure> {
    let text = std::fs::read_to_string(counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:")).ok_or("callgrind wrote no totals")?;
    Ok(total.trim().parse()?)
}

/// A directory for one server, on a disk and not in memory, removed when dropped.
pub fn scratch(name: &str) -> Result<tempfile::TempDir, Failure> {
    let parent = std::env::var_os("BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    Ok(tempfile::Builder::new().prefix(name).tempdir_in(parent)?)
}

/// `mixrelay sandbox`.
pub struct Sandbox {
    pub control: SocketAddr,
    /// Where Mixpanel takes events and updates.
    pub mixpanel: SocketAddr,
    /// What it printed: a relay's configuration, less listener and store.
    configuration: String,
    _process: Process,
}

impl Sandbox {
    /// `switches` is merged into the sandbox's own.
    pub fn start(switches: &str) -> Result<Self, Failure> {
        let mut command = Command::new(BINARY);
        command.args(["sandbox", "--mixpanel=127.0.0.1:0", "--brevo=127.0.0.1:0", "--control=127.0.0.1:0"]);
        let (process, mut stdout) = Process::spawn(command.stderr(Stdio::null()))?;
        let mut text = String::new();
        while !text.contains("\nstore:") || !text.ends_with('\n') {
            if stdout.read_line(&mut text)? == 0 {
                return Err("the sandbox ended".into());
            }
        }
        let control = text.split("curl http://").nth(1).and_then(|rest| rest.split('/').next());
        let control = control.ok_or("the sandbox names no control address")?.parse()?;
        let ours = |line: &&str| !line.starts_with("server:") && !line.starts_with("store:");
        let configuration = text.lines().filter(ours).collect::<Vec<_>>().join("\n");
        let mixpanel = text.split("ingestion: \"http://").nth(1).and_then(|rest| rest.split('"').next());
        let mixpanel = mixpanel.ok_or("the sandbox names no address of Mixpanel's")?.parse()?;
        let sandbox = Self { control, mixpanel, configuration, _process: process };
        http::call(control, "PUT", "/switches", "", switches)?;
        Ok(sandbox)
    }

    /// Relays in front of it take exports from somewhere else.
    pub fn exporting_from(mut self, address: SocketAddr) -> Self {
        let elsewhere = |line: &str| match line.trim_start().starts_with("export:") {
            true => format!("      export: \"http://{address}\""),
            false => line.to_owned(),
        };
        self.configuration = self.configuration.lines().map(elsewhere).collect::<Vec<_>>().join("\n");
        self
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        http::call(self.control, "GET", path, "", "")
    }

    pub fn put(&self, path: &str, body: &str) -> Result<Value, Failure> {
        http::call(self.control, "PUT", path, "", body)
    }
}

/// Where a destination stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    pub delivered: u64,
    pub parked: u64,
    pub dead_letters: u64,
    pub backlog: u64,
}

/// `mixrelay serve`.
pub struct Relay {
    pub address: SocketAddr,
    /// From the start of the process to its listening.
    pub start_up: Duration,
    pub process: Process,
    directory: PathBuf,
}

impl Relay {
    /// In front of `sandbox`, with its store in `directory`.
    pub fn start(directory: &Path, sandbox: &Sandbox) -> Result<Self, Failure> {
        Self::configured(directory, &sandbox.configuration, Command::new(BINARY))
    }

    /// The same, and it keeps nothing of what is delivered.
    pub fn without_history(directory: &Path, sandbox: &Sandbox) -> Result<Self, Failure> {
        let configuration = format!("{}\nretention: {{ history: 0s }}", sandbox.configuration);
        Self::configured(directory, &configuration, Command::new(BINARY))
    }

    /// The same under callgrind, which writes to `counts` when the relay has ended.
    pub fn counted(directory: &Path, sandbox: &Sandbox, counts: &Path) -> Result<Self, Failure> {
        Self::configured(directory, &sandbox.configuration, counted(counts, Path::new(BINARY)))
    }

    /// With both destinations switched off: records are stored, read back and settled, and nothing is sent.
    pub fn alone(directory: &Path) -> Result<Self, Failure> {
        Self::configured(directory, ALONE, Command::new(BINARY))
    }

    /// The same under callgrind.
    pub fn alone_counted(directory: &Path, counts: &Path) -> Result<Self, Failure> {
        Self::configured(directory, ALONE, counted(counts, Path::new(BINARY)))
    }

    fn configured(directory: &Path, configuration: &str, mut command: Command) -> Result<Self, Failure> {
        let file = directory.join("mixrelay.yaml");
        let text = format!(
            "{configuration}\nserver: {{ listen: \"127.0.0.1:0\" }}\nauth: {{ admin_token: \"{ADMIN_TOKEN}\" }}\n\
             store: \"sqlite:{}\"\n",
            directory.join("relay.db").display()
        );
        std::fs::write(&file, text)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("relay.log"))?;
        let started = Instant::now();
        command.arg("serve").arg("--config").arg(&file).stderr(log).env_remove("BREVO_API_KEY");
        // As the image and the unit have it.
        command.env("MIMALLOC_PURGE_DELAY", "0");
        let (process, mut stdout) = Process::spawn(&mut command)?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let start_up = started.elapsed();
        let Some(address) = address_in(&line) else {
            return Err(std::fs::read_to_string(directory.join("relay.log"))?.into());
        };
        Ok(Self { address, start_up, process, directory: directory.to_owned() })
    }

    /// Its admin API.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value, Failure> {
        let headers = format!("Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/json\r\n");
        http::call(self.address, method, path, &headers, body)
    }

    /// Mixpanel's and Brevo's.
    pub fn standing(&self) -> Result<[Standing; 2], Failure> {
        let status = self.ask("GET", "/v1/status", "")?;
        let of = |name: &str| {
            let all = status["destinations"].as_array().into_iter().flatten();
            let one = all.into_iter().find(|one| one["destination"] == name).cloned().unwrap_or_default();
            let count = |field: &str| one[field].as_u64().unwrap_or(0);
            Standing {
                delivered: count("delivered"),
                parked: count("parked"),
                dead_letters: count("dead_letters"),
                backlog: count("backlog"),
            }
        };
        Ok([of("mixpanel"), of("brevo")])
    }

    /// Waits until `done`, asking ten times a second; how long it took, or an error after `patience` or when a record
    /// was refused.
    pub fn wait_until(
        &self,
        patience: Duration,
        done: impl Fn(&[Standing; 2]) -> bool,
    ) -> Result<(Duration, [Standing; 2]), Failure> {
        let started = Instant::now();
        loop {
            let standing = self.standing()?;
            if standing.iter().any(|one| one.dead_letters > 0) {
                return Err(format!("the figures would be about refusals: {standing:?}").into());
            }
            if done(&standing) {
                return Ok((started.elapsed(), standing));
            }
            if started.elapsed() > patience {
                return Err(format!("not done after {patience:?}: {standing:?}").into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Bytes of its store's files.
    pub fn stored_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

/// The address that a server announces as JSON on its first line.
pub fn address_in(line: &str) -> Option<SocketAddr> {
    let announced: Value = serde_json::from_str(line).ok()?;
    announced["listening"].as_str()?.parse().ok()
}

pub fn both_settled(standing: &[Standing; 2]) -> bool {
    standing.iter().all(|one| one.backlog == 0)
}
