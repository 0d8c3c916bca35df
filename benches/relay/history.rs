//! What history costs, and how long a trace takes: two relays that deliver to both sandboxes in turns, one that keeps
//! history and one that keeps none.

use std::time::{Duration, Instant};

use super::Failure;
use super::delivery::{FREE, make_known};
use super::load::{self, Shape};
use super::processes::{Relay, Sandbox, both_settled, scratch};
use super::records;
use super::report::{Aim, Report, median, milliseconds, thousands};

const ROUNDS: usize = 3;
/// A trace that looks for what is not there has looked at all of history.
const ABSENT: [(&str, &str); 3] =
    [("insert_id", "bench-absent"), ("distinct_id", "nobody"), ("email", "nobody@example.com")];
const TRIES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(180);

/// `HISTORY_SECONDS` makes each flood longer, and history larger: a million entries take about a minute.
fn flood() -> Shape {
    let seconds = std::env::var("HISTORY_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    Shape { connections: 256, duration: Duration::from_secs(seconds), pace: None }
}

/// Events delivered, and the processor time of the relay for each.
struct Round {
    rate: f64,
    micros: f64,
    records: u64,
}

fn round(relay: &Relay) -> Result<Round, Failure> {
    let (cpu, started) = (relay.process.cpu(), Instant::now());
    let outcome = load::run(relay.address, &[records::track(1)], flood())?.all_taken()?;
    relay.wait_until(PATIENCE, both_settled)?;
    let rate = outcome.records as f64 / started.elapsed().as_secs_f64();
    let micros = (relay.process.cpu() - cpu).as_secs_f64() * 1e6 / outcome.records as f64;
    Ok(Round { rate, micros, records: outcome.records })
}

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let sandboxes = [Sandbox::start(FREE)?, Sandbox::start(FREE)?];
    let directories = [scratch("history-on-")?, scratch("history-off-")?];
    let on = Relay::start(directories[0].path(), &sandboxes[0])?;
    let off = Relay::without_history(directories[1].path(), &sandboxes[1])?;
    make_known(&on, PATIENCE)?;
    make_known(&off, PATIENCE)?;
    let (mut rates, mut others, mut ratios, mut costs, mut held) = (vec![], vec![], vec![], vec![], 0);
    let mut micros = vec![];
    for number in 0..ROUNDS {
        // Whoever goes first changes from round to round.
        let (with, without) = if number % 2 == 0 {
            (round(&on)?, round(&off)?)
        } else {
            let without = round(&off)?;
            (round(&on)?, without)
        };
        held += with.records;
        rates.push(with.rate);
        others.push(without.rate);
        ratios.push(with.rate / without.rate);
        micros.push(with.micros);
        costs.push(with.micros / without.micros);
    }
    let against = format!("without history {}", thousands(median(&others)));
    let measure = "delivered to both sandboxes with history, one event a request, 256 connections";
    report.row(measure, thousands(median(&rates)), against, ratios, Aim::AtLeast(0.95));
    report.note(format!(
        "processor time of an event with history, by that without: {:.3}; the relay without trims all that it has delivered, \
         the other nothing: this is what the setting saves or costs, not what history adds",
        median(&costs)
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (mut added, mut with_writes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let [kept, none] = runtime.block_on(path())?;
        added.push(kept.nanos(kept.wall) - none.nanos(none.wall));
        with_writes.push(kept.nanos(kept.cpu) - none.nanos(none.cpu));
    }
    report.note(format!(
        "added to each event at Mixpanel's leg: {:.0} ns in its books, {:.0} ns of processor time with the state's writes; an \
         event costs the relay {:.0} ns in all",
        median(&added),
        median(&with_writes),
        median(&micros) * 1e3
    ));
    report.note(format!(
        "{held} events of history; files of the relay with history {} MiB, of the other {} MiB",
        on.stored_bytes() >> 20,
        off.stored_bytes() >> 20
    ));
    is_what_it_says(&on, &off)?;
    trace(report, &on, "insert_id", &records::first_insert_id(), "the oldest event by its $insert_id")?;
    for (by, of) in ABSENT {
        trace(report, &on, by, of, &format!("nobody's {by}"))?;
    }
    trace(report, &on, "distinct_id", "user-000007", "the last 100 of a person")?;
    trace(report, &on, "outcome", "dead", "the refused of everybody, of which there are none, one answer")?;
    Ok(())
}

/// How long answers take until there is one with something in it, or history has ended.
fn trace(report: &mut Report, relay: &Relay, by: &str, of: &str, what: &str) -> Result<(), Failure> {
    let (mut took, mut answers, mut found) = (Vec::new(), 0, 0);
    let mut last_next = serde_json::Value::Null;
    for _ in 0..TRIES {
        let started = Instant::now();
        let mut cursor = String::new();
        (answers, found) = (0, 0);
        loop {
            let answer = relay.ask("GET", &format!("/v1/trace?{by}={of}{cursor}"), "")?;
            answers += 1;
            found += answer["items"].as_array().map_or(0, Vec::len);
            last_next = answer["next"].clone();
            match answer["next"].as_str() {
                Some(next) if found == 0 && by != "outcome" => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let ended = if last_next.is_null() { "the end of history" } else { "more to look at" };
    let answers = if answers == 1 { "1 answer".to_owned() } else { format!("{answers} answers") };
    report
        .note(format!("trace of {what}: {} in {answers} up to {ended}, {found} records", milliseconds(median(&took))));
    Ok(())
}

/// The figures would be about something else if the one relay kept nothing, or the other did.
fn is_what_it_says(on: &Relay, off: &Relay) -> Result<(), Failure> {
    let path = format!("/v1/trace?insert_id={}", records::first_insert_id());
    let kept = on.ask("GET", &path, "")?;
    for destination in ["mixpanel", "brevo"] {
        let outcome = &kept["items"][0]["destinations"][destination]["outcome"];
        if outcome != "delivered" {
            return Err(format!("the relay with history says {outcome} of its first event at {destination}").into());
        }
    }
    let newest = off.ask("GET", "/v1/trace?limit=1000&outcome=delivered", "")?;
    if newest["items"].as_array().is_some_and(|items| !items.is_empty()) {
        return Err("the relay without history tells outcomes".into());
    }
    Ok(())
}

/// What is added to every record on its way, alone: the same entries go through the books of a leg that writes down what
/// becomes of them and makes filters, and of one that does neither. No trimming, no network: nothing else differs.
async fn path() -> Result<[Path; 2], Failure> {
    use mixrelay::clock::{SystemClock, UnixMillis};
    use mixrelay::delivery::books::Books;
    use mixrelay::delivery::checkpoint::Checkpoint;
    use mixrelay::delivery::history::History;
    use mixrelay::record::{Destination, Destinations, EntryId, Epoch, Kind, Origin, Project, Record};
    use mixrelay::store::sqlite::{self, OpenOptions};
    use mixrelay::store::{Entry, State};
    const ENTRIES: u64 = 200_000;
    const A_CHECKPOINT: u64 = 6_000;
    let mut paths = [Path::default(), Path::default()];
    for (path, kept) in paths.iter_mut().zip([true, false]) {
        let directory = scratch("history-path-")?;
        let options = OpenOptions {
            path: directory.path().join("m.db"),
            min_free: Some(1),
            allow_volatile: true,
            clock: std::sync::Arc::new(SystemClock),
        };
        let store = sqlite::open(options)?;
        let state: std::sync::Arc<dyn State> = store.state.clone();
        let start = Checkpoint::load(&state, Destination::Mixpanel).await?;
        let books = Books::open(&state, Destination::Mixpanel, start, jiff::tz::TimeZone::UTC).await?;
        let mut books = if kept { books.with_filters() } else { books.keep(History::Off) };
        for first in (1..=ENTRIES).step_by(A_CHECKPOINT as usize) {
            let entry = |n| {
                let record = Record {
                    kind: Kind::Event,
                    origin: Origin::App,
                    destinations: Destinations::ALL,
                    project: Project::Ours,
                    received_at: UnixMillis(1),
                    body: records::event_numbered(n).into(),
                };
                Entry { epoch: Epoch(1), id: EntryId(n), records: vec![record], lost: 0 }
            };
            let entries: Vec<_> = (first..(first + A_CHECKPOINT).min(ENTRIES + 1)).map(entry).collect();
            let started = super::processes::cpu_of("self");
            let wall = Instant::now();
            for entry in entries {
                for item in books.admit(entry) {
                    books.deliver(item.ticket, Kind::Event);
                }
            }
            let (batch, _) = books.close_page(UnixMillis(first))?;
            path.wall += wall.elapsed();
            state.write(batch).await?;
            path.cpu += super::processes::cpu_of("self") - started;
        }
        path.records = ENTRIES;
    }
    Ok(paths)
}

#[derive(Default)]
struct Path {
    /// In the books alone.
    wall: Duration,
    /// With what the state's writer does of it, by the kernel's ticks.
    cpu: Duration,
    records: u64,
}

impl Path {
    fn nanos(&self, of: Duration) -> f64 {
        of.as_secs_f64() * 1e9 / self.records as f64
    }
}
