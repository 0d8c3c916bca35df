//! How long after an event was sent both sandboxes have it (P9 counts from acceptance, which is later): on an idle relay,
//! and, in turns with it, on one through which an export streams and on one that fills Brevo from Mixpanel's profiles.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failure;
use super::delivery::with_people;
use super::processes::{Relay, Sandbox, scratch};
use super::report::{Aim, Report, percentile};
use super::{http, records};

const EVENTS: usize = 80;
/// In a round of those that are compared.
const EVENTS_A_ROUND: usize = 40;
const ROUNDS: usize = 3;
/// Four a second: an idle relay, inside the smallest plan's limit of ten calls.
const EVERY: Duration = Duration::from_millis(250);
/// A plan of Brevo's whose limits are not what is measured, and logs that keep what came.
const LARGE: &str = r#"{"brevo":{"per_second":99,"attribute_delay_ms":0}}"#;
const PATIENCE: Duration = Duration::from_secs(60);
/// Profiles of a round's backfill: imports for a dozen seconds.
const PROFILES: u64 = 20_000;
/// The first of them; ids of people have six digits.
const FIRST_PROFILE: u64 = 100_000;
const NAMES: [&str; 2] = ["Mixpanel", "Brevo"];

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let directory = scratch("freshness-")?;
    let sandbox = Sandbox::start("{}")?;
    let relay = with_people(directory.path(), &sandbox)?;
    let mut late = Late::default();
    late.measure(&relay, &sandbox, EVENTS, || Ok(true))?;
    for (name, late) in NAMES.into_iter().zip(&late.at) {
        let p99 = percentile(late, 0.99);
        report.row(
            &format!("fresh: from sending to arrival at {name}, idle relay, p99"),
            shown(late),
            "300 ms".to_owned(),
            vec![f64::from(p99) / 300.0],
            Aim::AtMost(1.0),
        );
    }
    report.note(format!("idle relay: {}", relay.process.resident()));
    drop((relay, sandbox, directory));
    beside(report)
}

/// What an export and a backfill do to it.
fn beside(report: &mut Report) -> Result<(), Failure> {
    let (idle_directory, export_directory) = (scratch("idle-")?, scratch("export-")?);
    let idle_sandbox = Sandbox::start(LARGE)?;
    let idle_relay = with_people(idle_directory.path(), &idle_sandbox)?;
    let export_sandbox = Sandbox::start(LARGE)?.exporting_from(Endless::start()?);
    let export_relay = with_people(export_directory.path(), &export_sandbox)?;
    let (mut idle, mut export, mut backfill) = (Late::default(), Late::default(), Late::default());
    let (mut exported, mut filled) = (0, 0);
    for _ in 0..ROUNDS {
        idle.measure(&idle_relay, &idle_sandbox, EVENTS_A_ROUND, || Ok(true))?;
        exported += beside_an_export(&mut export, &export_relay, &export_sandbox)?;
        idle.measure(&idle_relay, &idle_sandbox, EVENTS_A_ROUND, || Ok(true))?;
        filled += beside_a_backfill(&mut backfill)?;
    }
    let seconds = EVERY.as_secs_f64() * (EVENTS_A_ROUND * ROUNDS) as f64;
    let rows = [
        ("an export", &export, format!("{:.0} MiB/s of export", exported as f64 / f64::from(1 << 20) / seconds)),
        ("a backfill", &backfill, format!("{filled} profiles behind it")),
    ];
    for (what, late, beside) in rows {
        for (at, name) in NAMES.into_iter().enumerate() {
            report.row(
                &format!("fresh beside {what}: from sending to arrival at {name}, p99"),
                format!("{}; {beside}", shown(&late.at[at])),
                format!("idle relay in turns {}; 300 ms", shown(&idle.at[at])),
                late.p99s[at].iter().map(|p99| f64::from(*p99) / 300.0).collect(),
                Aim::AtMost(1.0),
            );
        }
    }
    report.note(format!("relay beside exports: {}", export_relay.process.resident()));
    Ok(())
}

fn shown(late: &[u32]) -> String {
    format!("p50 {} ms, p99 {} ms of {}", percentile(late, 0.5), percentile(late, 0.99), late.len())
}

/// Milliseconds from sending to arrival, at each vendor.
#[derive(Default)]
struct Late {
    at: [Vec<u32>; 2],
    /// Of each round.
    p99s: [Vec<u32>; 2],
}

impl Late {
    /// Sends up to `count` events for as long as `under_way`, and waits until they are at both vendors.
    fn measure(
        &mut self,
        relay: &Relay,
        sandbox: &Sandbox,
        count: usize,
        mut under_way: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        // Marks of earlier rounds are behind.
        let first = arrivals(sandbox, 0)?.len();
        let mut sent = Vec::new();
        let started = Instant::now();
        for number in 0..count {
            std::thread::sleep((EVERY * u32::try_from(number)?).saturating_sub(started.elapsed()));
            if !under_way()? {
                break;
            }
            sent.push(jiff::Timestamp::now().as_millisecond());
            http::send(relay.address, &mut records::marked(first + number))?;
        }
        for (vendor, name) in NAMES.into_iter().enumerate() {
            let due = Instant::now() + PATIENCE;
            let mut arrived = arrivals(sandbox, vendor)?;
            while arrived.len() < first + sent.len() {
                if Instant::now() > due {
                    return Err(format!("{} of {} events arrived at {name}", arrived.len(), first + sent.len()).into());
                }
                std::thread::sleep(Duration::from_millis(100));
                arrived = arrivals(sandbox, vendor)?;
            }
            let late = |(number, at): &(usize, i64)| {
                Some(u32::try_from(at - sent.get(number.checked_sub(first)?)?).unwrap_or(0))
            };
            let late: Vec<u32> = arrived.iter().filter_map(late).collect();
            self.p99s[vendor].push(percentile(&late, 0.99));
            self.at[vendor].extend(late);
        }
        Ok(())
    }
}

/// Number and time of arrival of every marked event.
fn arrivals(sandbox: &Sandbox, vendor: usize) -> Result<Vec<(usize, i64)>, Failure> {
    let (path, mark) = [
        ("/mixpanel/events?raw=1&limit=100000", "/record/properties/mark"),
        ("/brevo/events?limit=100000", "/event/event_properties/mark"),
    ][vendor];
    let log = sandbox.get(path)?;
    let read = |event: &Value| Some((usize::try_from(event.pointer(mark)?.as_u64()?).ok()?, event["at"].as_i64()?));
    Ok(log["events"].as_array().into_iter().flatten().filter_map(read).collect())
}

/// A round while somebody reads an export through the relay; how many bytes of it came.
fn beside_an_export(late: &mut Late, relay: &Relay, sandbox: &Sandbox) -> Result<u64, Failure> {
    let (over, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut stream = TcpStream::connect(relay.address)?;
    stream.write_all(records::export().as_bytes())?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut buffer = vec![0; 1 << 18];
            while !over.load(Ordering::Acquire) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => bytes.fetch_add(read as u64, Ordering::Relaxed),
                };
            }
        });
        let mut before = 0;
        let measured = late.measure(relay, sandbox, EVENTS_A_ROUND, || {
            let now = bytes.load(Ordering::Relaxed);
            // Only what comes while it streams counts.
            let streams = now > before || before == 0;
            before = now;
            if streams && !reading.is_finished() { Ok(true) } else { Err("the export has ended".into()) }
        });
        over.store(true, Ordering::Release);
        measured
    })?;
    Ok(bytes.into_inner())
}

/// A round while profiles of before are brought to Brevo; how many. The relay is a new one: the second time there would be
/// nothing to do.
fn beside_a_backfill(late: &mut Late) -> Result<u64, Failure> {
    let directory = scratch("backfill-")?;
    let sandbox = Sandbox::start(LARGE)?;
    let relay = with_people(directory.path(), &sandbox)?;
    for first in (FIRST_PROFILE..FIRST_PROFILE + PROFILES).step_by(2_000) {
        http::send(sandbox.mixpanel, &mut records::engage(first..first + 2_000, 0))?;
    }
    let run = relay.ask("POST", "/v1/backfills", r#"{"what":"profiles"}"#)?;
    let id = run["id"].as_str().ok_or("a backfill without an id")?;
    late.measure(&relay, &sandbox, EVENTS_A_ROUND, || {
        let run = relay.ask("GET", &format!("/v1/backfills/{id}"), "")?;
        let [_, brevo] = relay.standing()?;
        Ok(run["state"] == "running" || brevo.backlog > 0)
    })?;
    let run = relay.ask("GET", &format!("/v1/backfills/{id}"), "")?;
    Ok(run["read"].as_u64().unwrap_or(0))
}

/// A vendor whose exports have no end.
struct Endless;

impl Endless {
    fn start() -> Result<SocketAddr, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || drop(Self::serve(stream)));
            }
        });
        Ok(address)
    }

    fn serve(mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let lines = records::exported(500);
        let chunk = [format!("{:x}\r\n", lines.len()).as_bytes(), lines.as_bytes(), b"\r\n"].concat();
        loop {
            stream.write_all(&chunk)?;
        }
    }
}
