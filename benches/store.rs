//! The store under the load that the relay puts on it: appends of many apps, state written back in sorted batches, and
//! both legs reading. Prints one table; `docs/decisions/2026-11-24-store-mixed-load.md` says what follows from it.
//!
//! `cargo bench --bench store -- [seconds per row] [directory]`

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mixrelay::clock::{Clock, SystemClock};
use mixrelay::record::{Destinations, EntryId, Kind, Origin, Project, Record};
use mixrelay::store::sqlite::{OpenOptions, SqliteJournal, SqliteState, SqliteStore, open};
use mixrelay::store::{AppendError, Appends as _, Journal, State, Table, Tail, WriteBatch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Legs read about this much at a time.
const READ_BYTES: usize = 4 << 20;
const PEOPLE: u64 = 500_000;
const BATCH: usize = 1_000;

/// One row of the table.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    producers: usize,
    records_per_request: usize,
    /// Requests a second over all producers; `None`: as fast as answers come.
    pace: Option<u32>,
    /// Write-back batches a second; `None`: none.
    batches: Option<u32>,
    legs: usize,
    /// Trim behind the slower leg, keeping nothing.
    trim: bool,
}

const LOADS: [Load; 8] = [
    Load {
        name: "appends alone",
        producers: 256,
        records_per_request: 1,
        pace: None,
        batches: None,
        legs: 0,
        trim: false,
    },
    Load {
        name: "+ two legs",
        producers: 256,
        records_per_request: 1,
        pace: None,
        batches: None,
        legs: 2,
        trim: false,
    },
    Load {
        name: "+ 10 batches/s",
        producers: 256,
        records_per_request: 1,
        pace: None,
        batches: Some(10),
        legs: 2,
        trim: false,
    },
    Load {
        name: "+ all batches that fit",
        producers: 256,
        records_per_request: 1,
        pace: None,
        batches: Some(1000),
        legs: 2,
        trim: false,
    },
    Load {
        name: "+ 10 batches/s + trim",
        producers: 256,
        records_per_request: 1,
        pace: None,
        batches: Some(10),
        legs: 2,
        trim: true,
    },
    Load {
        name: "20,000/s, 10 batches/s, trim",
        producers: 256,
        records_per_request: 1,
        pace: Some(20_000),
        batches: Some(10),
        legs: 2,
        trim: true,
    },
    Load {
        name: "2,000 a request, alone",
        producers: 8,
        records_per_request: 2000,
        pace: None,
        batches: None,
        legs: 0,
        trim: false,
    },
    Load {
        name: "2,000 a request, all of it",
        producers: 8,
        records_per_request: 2000,
        pace: None,
        batches: Some(10),
        legs: 2,
        trim: true,
    },
];

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let seconds: u64 = args.next().map_or(Ok(6), |seconds| seconds.parse())?;
    let directory = args.next().map_or_else(beside_the_binary, |directory| Ok(PathBuf::from(directory)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    plain_syncs(&directory)?;
    println!(
        "{:<29} {:>9} {:>7} {:>7} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8} {:>6} {:>5}",
        "load",
        "records/s",
        "MiB/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "legs/s",
        "puts/s",
        "put p50",
        "put p99",
        "w/pay",
        "RSS"
    );
    for load in LOADS {
        let scratch = tempfile::tempdir_in(&directory)?;
        let store = open_at(scratch.path())?;
        runtime.block_on(run(load, &store, Duration::from_secs(seconds)))?;
    }
    runtime.block_on(long_ledger(&directory))?;
    Ok(())
}

/// What the disk itself takes for the smallest durable write, to read the rest by.
fn plain_syncs(directory: &Path) -> Result<()> {
    let mut file = tempfile::tempfile_in(directory)?;
    let mut waits = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        file.write_all(&[b'x'; 16 << 10])?;
        file.sync_data()?;
        waits.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    let (p50, p99, max) = (percentile(&mut waits, 0.5), percentile(&mut waits, 0.99), percentile(&mut waits, 1.0));
    println!("plain file, 16 KiB and a sync: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.1} ms\n");
    Ok(())
}

fn beside_the_binary() -> std::io::Result<PathBuf> {
    let binary = std::env::current_exe()?;
    Ok(binary.parent().map_or_else(|| PathBuf::from("."), Path::to_owned))
}

fn open_at(directory: &Path) -> Result<SqliteStore> {
    let path = directory.join("mixrelay.db");
    Ok(open(OpenOptions { path, min_free: None, allow_volatile: true, clock: Arc::new(SystemClock) })?)
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    records: AtomicU64,
    bytes: AtomicU64,
    read: AtomicU64,
    puts: AtomicU64,
    refused: AtomicU64,
}

async fn run(load: Load, store: &SqliteStore, length: Duration) -> Result<()> {
    if load.batches.is_some() {
        fill_people(&store.state).await?;
    }
    let shared = Arc::new(Shared::default());
    let written = written_bytes();
    let started = Instant::now();
    let producers: Vec<_> = (0..load.producers)
        .map(|n| tokio::spawn(produce(Arc::clone(&store.journal), load, n as u64, Arc::clone(&shared))))
        .collect();
    let cursors: Vec<_> = (0..load.legs).map(|_| Arc::new(AtomicU64::new(1))).collect();
    let legs: Vec<_> = cursors
        .iter()
        .map(|cursor| tokio::spawn(follow(Arc::clone(&store.journal), Arc::clone(cursor), Arc::clone(&shared))))
        .collect();
    let batches =
        load.batches.map(|rate| tokio::spawn(write_back(Arc::clone(&store.state), rate, Arc::clone(&shared))));
    let trimmer =
        load.trim.then(|| tokio::spawn(trim(Arc::clone(&store.journal), cursors.clone(), Arc::clone(&shared))));

    tokio::time::sleep(length).await;
    shared.stop.store(true, Ordering::Relaxed);
    let took = started.elapsed().as_secs_f64();
    let mut waits = Vec::new();
    for producer in producers {
        waits.append(&mut producer.await?);
    }
    let mut puts = match batches {
        Some(batches) => batches.await?,
        None => Vec::new(),
    };
    for leg in legs {
        leg.await?;
    }
    if let Some(trimmer) = trimmer {
        trimmer.await?;
    }
    let written = (written_bytes() - written) as f64;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let payload = count(&shared.bytes);
    println!(
        "{:<29} {:>9.0} {:>7.1} {:>7.2} {:>7.2} {:>7.1} {:>9.0} {:>8.0} {:>8.1} {:>8.1} {:>6.2} {:>5.0}",
        load.name,
        count(&shared.records) / took,
        payload / took / f64::from(1 << 20),
        percentile(&mut waits, 0.5),
        percentile(&mut waits, 0.99),
        percentile(&mut waits, 1.0),
        count(&shared.read) / took,
        count(&shared.puts) / took,
        percentile(&mut puts, 0.5),
        percentile(&mut puts, 0.99),
        written / payload,
        resident_mib(),
    );
    let refused = shared.refused.load(Ordering::Relaxed);
    if refused > 0 {
        println!("  {refused} requests were refused as busy");
    }
    Ok(())
}

/// Appends until told to stop; milliseconds that each answer took.
async fn produce(journal: Arc<SqliteJournal>, load: Load, seed: u64, shared: Arc<Shared>) -> Vec<f64> {
    let mut random = Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let every = load.pace.map(|rate| Duration::from_secs_f64(load.producers as f64 / f64::from(rate)));
    let mut waits = Vec::new();
    let mut due = tokio::time::Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(every) = every {
            due += every.mul_f64(0.5 + random.unit());
            tokio::time::sleep_until(due).await;
        }
        let records: Vec<_> = (0..load.records_per_request).map(|_| event(&mut random)).collect();
        let bytes: usize = records.iter().map(|record| record.body.len()).sum();
        let asked = Instant::now();
        match journal.append(records).await {
            Ok(_) => {
                waits.push(asked.elapsed().as_secs_f64() * 1e3);
                shared.records.fetch_add(load.records_per_request as u64, Ordering::Relaxed);
                shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(AppendError::Busy) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("an append failed: {error}"),
        }
    }
    waits
}

/// Reads like a leg: everything from its cursor on, then waits for more.
async fn follow(journal: Arc<SqliteJournal>, cursor: Arc<AtomicU64>, shared: Arc<Shared>) {
    let mut tip = journal.tip();
    while !shared.stop.load(Ordering::Relaxed) {
        let from = EntryId(cursor.load(Ordering::Relaxed));
        let entries = journal.read(from, READ_BYTES).await.expect("the journal can be read");
        let records: usize = entries.iter().map(|entry| entry.records.len()).sum();
        shared.read.fetch_add(records as u64, Ordering::Relaxed);
        match entries.last() {
            Some(last) => cursor.store(last.id.next().0, Ordering::Relaxed),
            None => drop(tokio::time::timeout(Duration::from_millis(100), tip.changed()).await),
        }
    }
}

/// Writes batches of random people, as the write-back of a cache does; milliseconds that each took.
async fn write_back(state: Arc<SqliteState>, rate: u32, shared: Arc<Shared>) -> Vec<f64> {
    let mut random = Random(42);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waits = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let mut batch = WriteBatch::new();
        for _ in 0..BATCH {
            batch.put(Table::People, person(random.next() % PEOPLE), vec![b'v'; 200]);
        }
        batch.put(Table::Checkpoints, "mixpanel", vec![b'c'; 200]);
        let asked = Instant::now();
        state.write(batch).await.expect("the state can be written");
        waits.push(asked.elapsed().as_secs_f64() * 1e3);
        shared.puts.fetch_add(BATCH as u64, Ordering::Relaxed);
    }
    waits
}

async fn trim(journal: Arc<SqliteJournal>, cursors: Vec<Arc<AtomicU64>>, shared: Arc<Shared>) {
    let nothing = Tail { max_age: Duration::ZERO, max_bytes: 0 };
    while !shared.stop.load(Ordering::Relaxed) {
        let below = cursors.iter().map(|cursor| cursor.load(Ordering::Relaxed)).min().unwrap_or(1);
        let report =
            journal.trim(EntryId(below), nothing, SystemClock.now()).await.expect("the journal can be trimmed");
        if !report.more {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn fill_people(state: &SqliteState) -> Result<()> {
    let mut keys: Vec<_> = (0..PEOPLE).map(person).collect();
    keys.sort_unstable();
    for keys in keys.chunks(10_000) {
        let mut batch = WriteBatch::new();
        for key in keys {
            batch.put(Table::People, key.clone(), vec![b'0'; 200]);
        }
        state.write(batch).await?;
    }
    Ok(())
}

/// What a backlog of many small entries costs: the ledger alone is filled, since nothing here reads a block.
async fn long_ledger(directory: &Path) -> Result<()> {
    const ENTRIES: u32 = 1_700_000;
    let scratch = tempfile::tempdir_in(directory)?;
    drop(open_at(scratch.path())?);
    let conn = rusqlite::Connection::open(scratch.path().join("mixrelay.db"))?;
    conn.execute_batch(&format!(
        "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {ENTRIES})
         INSERT INTO entries (id, epoch, records, bytes, records_before, bytes_before, received_at)
         SELECT id, 1, 20, 6000, 20 * (id - 1), 6000 * (id - 1), 1700000000000 + id FROM n;
         UPDATE counters SET next_entry = {ENTRIES} + 1, events = 20 * {ENTRIES}, bytes = 6000 * {ENTRIES};"
    ))?;
    drop(conn);
    let timed = Instant::now();
    let store = open_at(scratch.path())?;
    println!("\nbacklog of {ENTRIES} entries (10 GiB at 6 kB each):");
    println!("  open             {:>8.1} ms", timed.elapsed().as_secs_f64() * 1e3);
    for name in ["count_from, cold", "count_from, warm"] {
        let timed = Instant::now();
        store.journal.count_from(EntryId(1)).await?;
        println!("  {name:<16} {:>8.1} ms", timed.elapsed().as_secs_f64() * 1e3);
    }
    let timed = Instant::now();
    store.journal.size().await?;
    println!("  size             {:>8.1} ms", timed.elapsed().as_secs_f64() * 1e3);
    let tail = Tail { max_age: Duration::from_secs(u64::from(u32::MAX)), max_bytes: 2 << 30 };
    let timed = Instant::now();
    store.journal.trim(EntryId(u64::MAX), tail, SystemClock.now()).await?;
    println!("  one trim step    {:>8.1} ms", timed.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// An event as an SDK sends it, about 400 bytes.
fn event(random: &mut Random) -> Record {
    const NAMES: [&str; 6] = ["Purchase", "Page View", "Sign Up", "Add To Cart", "Search", "Video Played"];
    const PLANS: [&str; 3] = ["free", "pro", "enterprise"];
    let name = NAMES[(random.next() % 6) as usize];
    let plan = PLANS[(random.next() % 3) as usize];
    let person = random.next() % PEOPLE;
    let body = format!(
        r#"{{"event":"{name}","properties":{{"token":"0123456789abcdef0123456789abcdef","time":{},"distinct_id":"user-{person}","$insert_id":"{:016x}{:016x}","$os":"Mac OS X","$browser":"Chrome","$browser_version":{},"$screen_height":1080,"$screen_width":1920,"mp_lib":"web","$lib_version":"2.56.0","plan":"{plan}","amount":{:.2},"product_id":"sku-{}","$current_url":"https://shop.example.com/p/{}"}}}}"#,
        1_700_000_000_000 + random.next() % 86_400_000,
        random.next(),
        random.next(),
        100 + random.next() % 30,
        random.unit() * 500.0,
        random.next() % 10_000,
        random.next() % 10_000,
    );
    Record {
        kind: Kind::Event,
        origin: Origin::App,
        destinations: Destinations::ALL,
        project: Project::Ours,
        received_at: SystemClock.now(),
        body: Bytes::from(body),
    }
}

/// A key in random order.
fn person(n: u64) -> Vec<u8> {
    let mut random = Random(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    [random.next().to_be_bytes(), n.to_be_bytes()].concat()
}

/// Milliseconds below which `share` of `waits` lie.
fn percentile(waits: &mut [f64], share: f64) -> f64 {
    waits.sort_unstable_by(f64::total_cmp);
    let last = waits.len().saturating_sub(1);
    waits.get((last as f64 * share) as usize).copied().unwrap_or(0.0)
}

/// Bytes that this process has caused to be written to disks, where the system says so.
fn written_bytes() -> u64 {
    proc_field("/proc/self/io", "write_bytes:")
}

fn resident_mib() -> f64 {
    proc_field("/proc/self/status", "VmRSS:") as f64 / 1024.0
}

fn proc_field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0)
}
