//! A real nats-server, by itself or three of them as a cluster, on loopback and on ports that are free.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{PATIENCE, eventually};

pub struct NatsServer {
    child: Option<Child>,
    port: u16,
    arguments: Vec<String>,
    log: PathBuf,
}

/// Servers that know of each other, with the directory in which they keep everything.
pub struct Nats {
    pub servers: Vec<NatsServer>,
    directory: TempDir,
}

impl Nats {
    /// One server.
    pub async fn start() -> Self {
        Self::start_many(1).await
    }

    /// Three servers, with a copy of everything on each.
    pub async fn cluster() -> Self {
        Self::start_many(3).await
    }

    async fn start_many(count: usize) -> Self {
        // Beside the test's binary: the system's temporary directory may be in memory.
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> = ports.iter().map(|(_, port)| format!("nats://127.0.0.1:{port}")).collect();
        let mut servers = Vec::new();
        for (n, (port, route)) in ports.iter().enumerate() {
            let store = directory.path().join(format!("n{n}"));
            let mut arguments = vec!["-a".into(), "127.0.0.1".into(), "-p".into(), port.to_string(), "-js".into()];
            arguments.extend(["-sd".into(), store.display().to_string(), "-n".into(), format!("n{n}")]);
            if count > 1 {
                let cluster = format!("nats://127.0.0.1:{route}");
                arguments.extend(["--cluster_name".into(), "test".into(), "--cluster".into(), cluster]);
                arguments.extend(["--routes".into(), routes.join(",")]);
            }
            let log = directory.path().join(format!("n{n}.log"));
            let mut server = NatsServer { child: None, port: *port, arguments, log };
            server.start();
            servers.push(server);
        }
        let nats = Self { servers, directory };
        nats.is_ready().await;
        nats
    }

    /// Until JetStream answers.
    pub async fn is_ready(&self) {
        eventually(PATIENCE, async || {
            let client = async_nats::connect(self.addresses()).await.map_err(|error| error.to_string())?;
            let context = async_nats::jetstream::new(client);
            let asked = tokio::time::timeout(Duration::from_secs(1), context.get_stream("none")).await;
            match asked.map_err(|_| "no answer".to_owned())? {
                Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(told) if told.code() == 404) => {
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("a stream that nobody made".to_owned()),
            }
        })
        .await;
    }

    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect()
    }

    /// For files of a test that should stand on a disk.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

impl NatsServer {
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new("nats-server");
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().expect("nats-server, which tests/setup.sh installs"));
    }

    /// SIGKILL, and its end.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
