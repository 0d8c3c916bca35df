//! The load generator: HTTP/1.1 over plain TCP connections that stay open, on one thread, with requests rendered before.
//!
//! Closed loop: each connection sends its next request when the last one is answered. Paced: each has its own timetable,
//! and what a late answer delays counts as latency of the request that it delays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Failure;
use super::records::Template;
use super::report::percentile;

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub connections: usize,
    pub duration: Duration,
    /// Requests a second, all connections together; `None` is a closed loop.
    pub pace: Option<f64>,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub answered: u64,
    /// Records in requests that were answered with success.
    pub records: u64,
    /// Answers other than success.
    pub refused: u64,
    pub elapsed: Duration,
    /// Microseconds, one a request.
    pub latencies: Vec<u32>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    pub fn record_rate(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }

    pub fn p50(&self) -> f64 {
        f64::from(percentile(&self.latencies, 0.5))
    }

    pub fn p99(&self) -> f64 {
        f64::from(percentile(&self.latencies, 0.99))
    }

    /// An error when not everything was taken: the figures would be about refusals.
    pub fn all_taken(self) -> Result<Self, Failure> {
        if self.refused > 0 || self.answered == 0 {
            return Err(format!("{} of {} requests were refused", self.refused, self.answered + self.refused).into());
        }
        Ok(self)
    }

    /// One request and its answer.
    async fn exchange(
        &mut self,
        stream: &mut TcpStream,
        template: &mut Template,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        stream.write_all(template.next()).await?;
        if is_success(stream, buffer).await? {
            self.answered += 1;
            self.records += template.records;
        } else {
            self.refused += 1;
        }
        Ok(())
    }

    fn add(&mut self, other: Outcome) {
        self.answered += other.answered;
        self.records += other.records;
        self.refused += other.refused;
        self.latencies.extend(other.latencies);
    }
}

/// Sends requests of `templates`, the connections spread over them, and waits for all answers.
pub fn run(address: SocketAddr, templates: &[Template], shape: Shape) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut streams = Vec::with_capacity(shape.connections);
        for _ in 0..shape.connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let started = Instant::now();
        let connections = streams.into_iter().enumerate().map(|(index, stream)| {
            let timetable = Timetable::of(&shape, index, started);
            let template = templates[index % templates.len()].clone();
            tokio::spawn(connection(stream, template, timetable, started + shape.duration))
        });
        let mut outcome = Outcome::default();
        for ended in join_all(connections.collect::<Vec<_>>()).await {
            outcome.add(ended??);
        }
        outcome.elapsed = started.elapsed();
        Ok(outcome)
    })
}

/// `requests` on each of `connections`, one behind the other's answer.
pub fn exact(
    address: SocketAddr,
    templates: &[Template],
    connections: usize,
    requests: u64,
) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = |index: usize| {
            let mut template = templates[index % templates.len()].clone();
            async move {
                let mut stream = TcpStream::connect(address).await?;
                let (mut outcome, mut buffer) = (Outcome::default(), Vec::new());
                for _ in 0..requests {
                    outcome.exchange(&mut stream, &mut template, &mut buffer).await?;
                }
                Ok::<_, std::io::Error>(outcome)
            }
        };
        let mut outcome = Outcome::default();
        for ended in join_all((0..connections).map(connection)).await {
            outcome.add(ended?);
        }
        Ok(outcome)
    })
}

/// When a connection sends its next request.
struct Timetable {
    next: Instant,
    every: Option<Duration>,
}

impl Timetable {
    fn of(shape: &Shape, index: usize, started: Instant) -> Self {
        let every = shape.pace.map(|pace| Duration::from_secs_f64(shape.connections as f64 / pace));
        let offset = every.map_or(Duration::ZERO, |every| every.mul_f64(index as f64 / shape.connections as f64));
        Self { next: started + offset, every }
    }

    /// Waits for the next departure; returns when the request's time begins to count. Whoever is early waits for the
    /// clock, which is nobody's latency; whoever is late was made so by the answer before.
    async fn departure(&mut self) -> Instant {
        let Some(every) = self.every else { return Instant::now() };
        let planned = self.next;
        self.next += every;
        if planned > Instant::now() {
            tokio::time::sleep_until(planned.into()).await;
            Instant::now()
        } else {
            planned
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    mut template: Template,
    mut timetable: Timetable,
    until: Instant,
) -> std::io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut buffer = Vec::with_capacity(4096);
    while timetable.next < until && Instant::now() < until {
        let begun = timetable.departure().await;
        outcome.exchange(&mut stream, &mut template, &mut buffer).await?;
        outcome.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(outcome)
}

/// Reads one answer to its end; whether it is a 200 that does not say `0`.
async fn is_success(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(body) = buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else { continue };
        let length = content_length(&buffer[..body]).ok_or(std::io::ErrorKind::InvalidData)?;
        if buffer.len() >= body + length {
            return Ok(buffer.get(9..12) == Some(b"200".as_slice()) && buffer.get(body) != Some(&b'0'));
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let at = head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME))? + NAME.len();
    let value = head[at..].split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
