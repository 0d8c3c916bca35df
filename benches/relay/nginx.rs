//! nginx as a peer: one server block that proxies with keep-alive, and one that answers 200 and does nothing else.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Failure;
use super::processes::{Process, scratch};

pub struct Nginx {
    pub address: SocketAddr,
    _master: Master,
    _directory: tempfile::TempDir,
}

/// Ended by SIGTERM, so that its workers end too.
struct Master {
    process: Option<Process>,
    pid_file: std::path::PathBuf,
}

impl Nginx {
    pub fn start() -> Result<Self, Failure> {
        let directory = scratch("nginx-")?;
        let (front, upstream) = (free_port()?, free_port()?);
        let path = directory.path().display();
        let text = format!(
            "worker_processes auto;\npid {path}/nginx.pid;\nerror_log {path}/error.log;\ndaemon off;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {path}/body;\n  proxy_temp_path {path}/proxy;\n  \
             fastcgi_temp_path {path}/fastcgi;\n  uwsgi_temp_path {path}/uwsgi;\n  scgi_temp_path {path}/scgi;\n  \
             keepalive_requests 1000000000;\n  client_body_buffer_size 64k;\n  \
             upstream empty {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}\n  \
             server {{\n    listen {front} reuseport backlog=4096;\n    \
             location / {{ proxy_pass http://empty; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n  }}\n  \
             server {{ listen {upstream} reuseport backlog=4096; location / {{ return 200; }} }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text)?;
        let mut command = Command::new("nginx");
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file).stderr(Stdio::null());
        let (process, _stdout) = Process::spawn(&mut command)
            .map_err(|error| format!("nginx does not start: {error}; `make bench` installs it"))?;
        let master = Master { process: Some(process), pid_file: directory.path().join("nginx.pid") };
        let started = Instant::now();
        while TcpStream::connect(front).is_err() {
            if started.elapsed() > Duration::from_secs(5) {
                return Err(std::fs::read_to_string(directory.path().join("error.log"))?.into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { address: front, _master: master, _directory: directory })
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(&self.pid_file).unwrap_or_default();
        if !pid.trim().is_empty() {
            drop(Command::new("kill").args(["-TERM", pid.trim()]).status());
            let started = Instant::now();
            while self.pid_file.exists() && started.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.process = None;
    }
}

/// nginx cannot be told to choose a port and say which.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
