//! `/import`, 2,000 events a request, gzip, against inflating and reading the same bytes.

use std::time::Duration;

use super::Failure;
use super::load::{self, Shape};
use super::peers;
use super::processes::{Relay, both_settled, scratch};
use super::records;
use super::report::{Aim, Report, median, milliseconds, thousands};

const ROUNDS: usize = 5;
const BODIES: usize = 16;
const SHAPE: Shape = Shape { connections: 8, duration: Duration::from_secs(3), pace: None };

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let directory = scratch("import-")?;
    let relay = Relay::alone(directory.path())?;
    let (templates, bodies): (Vec<_>, Vec<_>) = records::imports(BODIES).into_iter().unzip();
    load::run(relay.address, &templates, Shape { duration: Duration::from_secs(1), ..SHAPE })?.all_taken()?;
    let (mut ours, mut theirs, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(peers::inflate_and_read(&bodies, Duration::from_secs(2))?);
        let outcome = load::run(relay.address, &templates, SHAPE)?.all_taken()?;
        ours.push(outcome.record_rate());
        latencies.push(outcome.p99());
        // The legs read what was stored; the peer is not to share the cores with that.
        relay.wait_until(Duration::from_secs(30), both_settled)?;
    }
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let against = format!("inflate + one serde_json pass {}", thousands(median(&theirs)));
    report.row(
        "`/import`, 2,000 events, gzip, durable: events",
        thousands(median(&ours)),
        against,
        ratios,
        Aim::AtLeast(0.6),
    );
    let sizes: usize = bodies.iter().map(Vec::len).sum();
    report.note(format!("an import's body: {} KiB gzipped", sizes / bodies.len() / 1024));
    report.note(format!(
        "relay during /import: p99 {} a request of 2,000 events; {}",
        milliseconds(median(&latencies)),
        relay.process.resident()
    ));
    Ok(())
}
