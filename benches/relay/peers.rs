//! Peers of our own: an axum handler that only reads the body, and the least that an import costs.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use serde::de::IgnoredAny;

use super::Failure;
use super::processes::{Process, address_in, counted};
use super::records;

/// The argument that makes this binary the axum peer.
pub const AXUM: &str = "axum-peer";
/// Bodies that differ, of those that are read.
const DISTINCT: usize = 16;
/// The argument that makes it inflate and read as many bodies as the next argument says.
pub const INFLATE: &str = "inflate-peer";

/// Serves until killed; its first line says where.
pub fn serve_axum() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        use axum::serve::ListenerExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!(r#"{{"listening":"{}"}}"#, listener.local_addr()?);
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, Router::new().route("/track", post(read_body))).await?;
        Ok(())
    })
}

async fn read_body(body: Bytes) -> StatusCode {
    std::hint::black_box(body);
    StatusCode::OK
}

pub struct Axum {
    pub address: std::net::SocketAddr,
    pub process: Process,
}

impl Axum {
    pub fn start() -> Result<Self, Failure> {
        Self::spawn(Command::new(std::env::current_exe()?))
    }

    /// Under callgrind.
    pub fn start_counted(counts: &Path) -> Result<Self, Failure> {
        Self::spawn(counted(counts, &std::env::current_exe()?))
    }

    fn spawn(mut command: Command) -> Result<Self, Failure> {
        use std::io::BufRead as _;
        let (process, mut stdout) = Process::spawn(command.arg(AXUM).stderr(Stdio::null()))?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = address_in(&line).ok_or("the axum peer does not say where it listens")?;
        Ok(Self { address, process })
    }
}

/// Events a second of inflating `bodies` (2,000 events each) and reading the JSON once, on all cores, for `duration`.
pub fn inflate_and_read(bodies: &[Vec<u8>], duration: Duration) -> Result<f64, Failure> {
    let cores = std::thread::available_parallelism()?.get();
    let done = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let work = || {
            let mut text = Vec::new();
            for body in bodies.iter().cycle() {
                if started.elapsed() >= duration {
                    return Ok(());
                }
                inflate_and_read_one(body, &mut text)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread: std::thread::ScopedJoinHandle<'_, std::io::Result<()>>| {
            thread.join().unwrap_or(Ok(()))
        })
    })?;
    Ok(done.into_inner() as f64 * 2_000.0 / started.elapsed().as_secs_f64())
}

fn inflate_and_read_one(body: &[u8], text: &mut Vec<u8>) -> std::io::Result<()> {
    text.clear();
    flate2::read::GzDecoder::new(body).read_to_end(text)?;
    serde_json::from_slice::<IgnoredAny>(text)?;
    Ok(())
}

/// The same for `count` bodies on this thread, for the counting of instructions.
pub fn inflate_and_read_some(count: usize) -> Result<(), Failure> {
    let bodies = records::imports(DISTINCT);
    let mut text = Vec::new();
    for (_, body) in bodies.iter().cycle().take(count) {
        inflate_and_read_one(body, &mut text)?;
    }
    Ok(())
}
