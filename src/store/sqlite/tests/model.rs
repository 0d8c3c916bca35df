//! The store against a map: random histories of appends, trims, erasures, epochs and writes, orderly ends, and crashes.
//!
//! A crash is a copy of the files while appends and a write are under way, opened in the store's stead. All that such a copy
//! and a disk after a power loss have in common is taken from it: the write-ahead logs are cut somewhere behind what was
//! acknowledged, or scrambled there. What was acknowledged must be in it; what was under way is there whole or not at all.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;

const FILES: [&str; 2] = ["mixrelay.db", "mixrelay.state.db"];

#[derive(Clone, Debug)]
enum Step {
    Append {
        requests: Vec<Vec<usize>>,
    },
    Trim {
        below: u64,
    },
    /// Empties the records of every `every`-th position.
    Erase {
        every: u32,
    },
    RaiseEpoch,
    Write {
        ops: Ops,
        range: Option<(u8, u8)>,
    },
    Reopen,
    Crash {
        requests: Vec<Vec<usize>>,
        ops: Ops,
        turns: u8,
        damage: Damage,
    },
}

type Ops = Vec<(u8, Option<u8>)>;

/// What becomes of the logs behind what was acknowledged.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// The process was killed, and the disk kept everything.
    None,
    /// So many of 256 parts of it are left.
    Cut(u8),
    /// The sector at so many of 256 parts of it is something else.
    Scrambled(u8),
}

fn requests() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let length = prop_oneof![4 => 0..300_usize, 1 => 60_000..70_000_usize];
    proptest::collection::vec(proptest::collection::vec(length, 1..4), 1..6)
}

fn step() -> impl Strategy<Value = Step> {
    let ops = || proptest::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..20);
    let damage =
        prop_oneof![Just(Damage::None), any::<u8>().prop_map(Damage::Cut), any::<u8>().prop_map(Damage::Scrambled)];
    prop_oneof![
        4 => requests().prop_map(|requests| Step::Append { requests }),
        2 => (0..40_u64).prop_map(|below| Step::Trim { below }),
        1 => (1..5_u32).prop_map(|every| Step::Erase { every }),
        1 => Just(Step::RaiseEpoch),
        2 => (ops(), any::<Option<(u8, u8)>>()).prop_map(|(ops, range)| Step::Write { ops, range }),
        1 => Just(Step::Reopen),
        3 => (requests(), ops(), 0..12_u8, damage)
            .prop_map(|(requests, ops, turns, damage)| Step::Crash { requests, ops, turns, damage }),
    ]
}

/// Bodies that no other request of the history has: `serial` goes on.
fn bodies(requests: &[Vec<usize>], serial: &mut u64) -> Vec<Vec<Bytes>> {
    let mut body = |len: &usize| {
        *serial += 1;
        let mut body = format!("{serial} ").into_bytes();
        body.extend(noise(*len, *serial));
        Bytes::from(body)
    };
    requests.iter().map(|lengths| lengths.iter().map(&mut body).collect()).collect()
}

fn batch(ops: &Ops) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in ops {
        match value {
            Some(value) => batch.put(Table::People, [*key], vec![*value]),
            None => batch.delete(Table::People, [*key]),
        }
    }
    batch
}

type People = BTreeMap<Vec<u8>, Bytes>;

fn apply(people: &mut People, ops: &Ops) {
    for (key, value) in ops {
        match value {
            Some(value) => drop(people.insert(vec![*key], Bytes::from(vec![*value]))),
            None => drop(people.remove(&vec![*key])),
        }
    }
}

/// Empties what stands at such an index of its entry; what it looks at is the record, so the history says so in it.
fn is_picked(body: &[u8], every: u32) -> bool {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit());
    let serial = digits.fold(0_u64, |serial, digit| serial * 10 + u64::from(digit - b'0'));
    serial.is_multiple_of(u64::from(every))
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    /// `None`: erased.
    records: BTreeMap<Position, Option<Bytes>>,
    accepted: u64,
    people: People,
    serial: u64,
}

impl Model {
    fn store(&mut self, at: Position, bodies: &[Bytes]) {
        for (index, body) in (at.index..).zip(bodies) {
            assert!(self.records.insert(Position { index, ..at }, Some(body.clone())).is_none());
            self.accepted += 1;
        }
    }

    async fn take(&mut self, store: &SqliteStore, step: Step) {
        match step {
            Step::Append { requests } => {
                let bodies = bodies(&requests, &mut self.serial);
                let appends =
                    bodies.iter().map(|bodies| store.journal.append(bodies.iter().cloned().map(event).collect()));
                for (at, bodies) in futures_util::future::join_all(appends).await.into_iter().zip(&bodies) {
                    self.store(at.unwrap(), bodies);
                }
            }
            Step::Trim { below } => {
                let below = EntryId(below);
                while store.journal.trim(below, NOTHING_KEPT, NOW + Duration::from_secs(1)).await.unwrap().more {}
                self.records.retain(|at, _| at.entry >= below);
            }
            Step::Erase { every } => {
                let picker: Picker = Arc::new(move |record: &Record| is_picked(&record.body, every));
                let (mut from, tip) = (EntryId::FIRST, *store.journal.tip().borrow());
                while from < tip {
                    from = store.journal.erase(from, tip, picker.clone()).await.unwrap().next;
                }
                let picked = |body: &Option<Bytes>| body.as_ref().is_some_and(|body| is_picked(body, every));
                self.records.values_mut().filter(|body| picked(body)).for_each(|body| *body = None);
            }
            Step::RaiseEpoch => drop(store.journal.raise_epoch().await.unwrap()),
            Step::Write { ops, range } => {
                let mut batch = batch(&ops);
                apply(&mut self.people, &ops);
                if let Some((from, to)) = range {
                    batch.delete_range(Table::People, [from], [to]);
                    self.people.retain(|key, _| !(from..to).contains(&key[0]));
                }
                store.state.write(batch).await.unwrap();
            }
            Step::Reopen | Step::Crash { .. } => {}
        }
    }

    async fn compare(&self, store: &SqliteStore) {
        assert_eq!(store.journal.size().await.unwrap().records, self.records.len() as u64);
        assert_eq!(found(store).await, self.records);
        assert_eq!(store.journal.accepted().total(), self.accepted);
        assert_eq!(store.journal.count_from(EntryId::FIRST).await.unwrap(), self.records.len() as u64);
        assert_eq!(people(store).await, self.people);
    }

    /// Takes up what of the requests and of the batch under way at a crash is there, which is for each of them all or
    /// nothing.
    async fn survive(&mut self, store: &SqliteStore, under_way: &[Vec<Bytes>], ops: &Ops) {
        let found = found(store).await;
        for bodies in under_way {
            if let Some((at, _)) = found.iter().find(|(_, body)| body.as_ref() == bodies.first()) {
                self.store(*at, bodies);
            }
        }
        let written = people(store).await;
        if written != self.people {
            apply(&mut self.people, ops);
        }
    }
}

async fn found(store: &SqliteStore) -> BTreeMap<Position, Option<Bytes>> {
    let mut found = BTreeMap::new();
    for entry in read_all(&store.journal).await {
        assert_eq!(entry.lost, 0);
        for (index, record) in entry.records.iter().enumerate() {
            found.insert(entry.position(index), (!record.is_erased()).then(|| record.body.clone()));
        }
    }
    found
}

async fn people(store: &SqliteStore) -> People {
    store.state.scan(Table::People, KeyRange::all(), usize::MAX >> 1).await.unwrap().into_iter().collect()
}

fn log(directory: &TempDir, file: &str) -> PathBuf {
    directory.path().join("data").join(format!("{file}-wal"))
}

/// The files as they are, the logs last: commits go into them alone as long as they are short.
fn copy(from: &TempDir) -> TempDir {
    let to = directory();
    fs::create_dir(to.path().join("data")).unwrap();
    for file in FILES {
        fs::copy(from.path().join("data").join(file), to.path().join("data").join(file)).unwrap();
    }
    for file in FILES {
        fs::copy(log(from, file), log(&to, file)).unwrap();
    }
    to
}

/// Does `damage` to what the log has beyond `synced` bytes.
fn spoil(log: &Path, synced: u64, damage: Damage) {
    let len = fs::metadata(log).unwrap().len();
    let at = |parts: u8| synced + (len - synced) * u64::from(parts) / 256;
    let file = fs::File::options().write(true).open(log).unwrap();
    match damage {
        Damage::None => {}
        Damage::Cut(parts) => file.set_len(at(parts)).unwrap(),
        Damage::Scrambled(parts) => {
            let sector = noise(512.min(usize::try_from(len - at(parts)).unwrap()), u64::from(parts));
            std::os::unix::fs::FileExt::write_all_at(&file, &sector, at(parts)).unwrap();
        }
    }
}

/// Begins all of it, copies the files meanwhile, and opens the copy.
async fn crash(
    model: &mut Model,
    before: (TempDir, SqliteStore),
    (requests, ops): (Vec<Vec<usize>>, Ops),
    turns: u8,
    damage: Damage,
) -> (TempDir, SqliteStore) {
    let (old, store) = before;
    let synced = FILES.map(|file| fs::metadata(log(&old, file)).unwrap().len());
    let under_way = bodies(&requests, &mut model.serial);
    let mut tasks = tokio::task::JoinSet::new();
    for bodies in under_way.clone() {
        let journal = store.journal.clone();
        tasks.spawn(async move { drop(journal.append(bodies.into_iter().map(event).collect()).await) });
    }
    let (state, written) = (store.state.clone(), batch(&ops));
    tasks.spawn(async move { drop(state.write(written).await) });
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    let new = copy(&old);
    tasks.join_all().await;
    drop(store);
    for (file, synced) in FILES.iter().zip(synced) {
        spoil(&log(&new, file), synced, damage);
    }
    let store = open_in(&new);
    model.survive(&store, &under_way, &ops).await;
    (new, store)
}

async fn live(steps: Vec<Step>) {
    let directory = directory();
    let store = open_in(&directory);
    let mut now = (directory, store);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Reopen => {
                let (directory, store) = now;
                drop(store);
                let store = open_in(&directory);
                assert_eq!(store.recovery.records, model.records.len() as u64);
                assert_eq!(store.recovery.first, model.records.keys().next().map(|at| at.entry));
                assert_eq!(store.recovery.log_bytes, 0, "an orderly end leaves no log");
                now = (directory, store);
            }
            Step::Crash { requests, ops, turns, damage } => {
                now = crash(&mut model, now, (requests, ops), turns, damage).await;
            }
            step => model.take(&now.1, step).await,
        }
        model.compare(&now.1).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn the_store_behaves_as_its_model(steps in proptest::collection::vec(step(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(steps));
    }
}
