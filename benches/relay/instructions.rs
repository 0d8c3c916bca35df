//! `make instructions`: instructions a record, counted by callgrind. They hardly depend on how busy the machine is, so a
//! change of a few per cent can be seen, and CI can compare them with `instructions.txt`. What the kernel does is not
//! counted.
//!
//! Each row is two runs of one process with different numbers of requests; the difference is free of what starting and
//! stopping cost.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::Failure;
use super::delivery;
use super::load;
use super::peers::{self, Axum};
use super::processes::{Relay, Sandbox, both_settled, counted, instructions, scratch};
use super::records;

/// How far above what is written down a row may lie: threads take turns differently from run to run.
const TOLERANCE: f64 = 0.10;
/// Callgrind makes a program some fifty times as slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// The variable that has the counts written down instead of compared.
const UPDATE: &str = "UPDATE_INSTRUCTIONS";

/// Requests of a run: few, and many.
struct Scale {
    connections: usize,
    few: u64,
    many: u64,
}

const TRACK: Scale = Scale { connections: 64, few: 10, many: 110 };
const IMPORT: Scale = Scale { connections: 4, few: 1, many: 6 };
const DELIVERED: Scale = Scale { connections: 8, few: 2, many: 22 };
const BODIES: usize = 16;
const IMPORTED: u64 = 2_000;

type Measure = fn() -> Result<u64, Failure>;
const ROWS: [(&str, Measure); 3] = [("track", track), ("import", import), ("delivered", delivered)];

pub fn run() -> Result<(), Failure> {
    println!("instructions a record:");
    let mut ours = Vec::new();
    for (name, measure) in ROWS {
        let count = measure()?;
        println!("  {name}: {count}");
        ours.push((name, count));
    }
    println!("  an axum handler that reads a /track body: {}", axum()?);
    println!("  inflating an /import and one serde_json pass, an event: {}", inflate_and_read()?);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/relay/instructions.txt");
    if std::env::var_os(UPDATE).is_some() {
        let text = ours.iter().fold(String::new(), |mut text, (name, count)| {
            writeln!(text, "{name} {count}").map_or_else(|_| String::new(), |()| text)
        });
        return Ok(std::fs::write(file, text)?);
    }
    compare(&ours, &std::fs::read_to_string(file)?)
}

fn compare(ours: &[(&str, u64)], written: &str) -> Result<(), Failure> {
    let mut worse = Vec::new();
    for (name, count) in ours {
        let line = written.lines().find_map(|line| line.strip_prefix(name)).ok_or("a row is not written down")?;
        let before: u64 = line.trim().parse()?;
        let change = *count as f64 / before as f64 - 1.0;
        println!("  {name}: {:+.1} % of the {before} that are written down", change * 100.0);
        if change > TOLERANCE {
            worse.push(*name);
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!("more instructions than written down: {}; {UPDATE}=1 writes them down", worse.join(", ")).into())
}

/// One event a request: accepted, stored, read back and settled by both legs.
fn track() -> Result<u64, Failure> {
    per_record(&TRACK, 1, |requests| {
        let directory = scratch("count-track-")?;
        let counts = directory.path().join("counts");
        let relay = Relay::alone_counted(directory.path(), &counts)?;
        load::exact(relay.address, &[records::track(1)], TRACK.connections, requests)?.all_taken()?;
        settled(relay, &counts)
    })
}

/// The same for 2,000 events a request, gzipped.
fn import() -> Result<u64, Failure> {
    let templates: Vec<_> = records::imports(BODIES).into_iter().map(|(template, _)| template).collect();
    per_record(&IMPORT, IMPORTED, |requests| {
        let directory = scratch("count-import-")?;
        let counts = directory.path().join("counts");
        let relay = Relay::alone_counted(directory.path(), &counts)?;
        load::exact(relay.address, &templates, IMPORT.connections, requests)?.all_taken()?;
        settled(relay, &counts)
    })
}

/// Batches of 50 events, every other one mapped, delivered to both sandboxes.
fn delivered() -> Result<u64, Failure> {
    let sandbox = Sandbox::start(delivery::FREE)?;
    per_record(&DELIVERED, delivery::BATCH as u64, |requests| {
        let directory = scratch("count-delivered-")?;
        let counts = directory.path().join("counts");
        let relay = Relay::counted(directory.path(), &sandbox, &counts)?;
        delivery::make_known(&relay, PATIENCE)?;
        let templates = [records::half_mapped(delivery::BATCH)];
        load::exact(relay.address, &templates, DELIVERED.connections, requests)?.all_taken()?;
        settled(relay, &counts)
    })
}

fn settled(relay: Relay, counts: &Path) -> Result<u64, Failure> {
    relay.wait_until(PATIENCE, both_settled)?;
    relay.process.end()?;
    instructions(counts)
}

fn axum() -> Result<u64, Failure> {
    per_record(&TRACK, 1, |requests| {
        let directory = scratch("count-axum-")?;
        let counts = directory.path().join("counts");
        let axum = Axum::start_counted(&counts)?;
        load::exact(axum.address, &[records::track(1)], TRACK.connections, requests)?.all_taken()?;
        axum.process.end()?;
        instructions(&counts)
    })
}

fn inflate_and_read() -> Result<u64, Failure> {
    per_record(&IMPORT, IMPORTED, |requests| {
        let directory = scratch("count-inflate-")?;
        let counts = directory.path().join("counts");
        let bodies = requests * IMPORT.connections as u64;
        let mut command = counted(&counts, &std::env::current_exe()?);
        let status = command.args([peers::INFLATE, &bodies.to_string()]).stderr(Stdio::null()).status()?;
        if !status.success() {
            return Err("the peer failed".into());
        }
        instructions(&counts)
    })
}

/// What `run`, which is told how many requests each connection sends, costs for each record.
fn per_record(scale: &Scale, records: u64, run: impl Fn(u64) -> Result<u64, Failure>) -> Result<u64, Failure> {
    let (few, many) = (run(scale.few)?, run(scale.many)?);
    let difference = (scale.many - scale.few) * scale.connections as u64 * records;
    Ok(many.saturating_sub(few) / difference)
}
