mod model;

use std::path::Path;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::clock::{ManualClock, UnixMillis};
use crate::record::{Destinations, Kind, Origin, Position, Project, Record};
use crate::store::{
    AppendError, Appends as _, Entry, Journal, KeyRange, Picker, Sent, State, StoreError, Table, Tail, TrimReport,
    WriteBatch,
};

const NOTHING_KEPT: Tail = Tail { max_age: Duration::ZERO, max_bytes: 0 };
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// Beside the test binary, which is on a disk even where the temporary directory is not.
fn directory() -> TempDir {
    let binary = std::env::current_exe().unwrap();
    tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
}

fn options(directory: &Path) -> OpenOptions {
    OpenOptions {
        path: directory.join("data/mixrelay.db"),
        min_free: Some(1),
        allow_volatile: true,
        clock: ManualClock::at(NOW),
    }
}

fn open_in(directory: &TempDir) -> SqliteStore {
    open(options(directory.path())).unwrap()
}

/// A second connection, as an operator or a fault would use it.
fn sideways(directory: &TempDir, file: &str) -> Connection {
    Connection::open(directory.path().join("data").join(file)).unwrap()
}

fn record(kind: Kind, body: impl Into<Bytes>) -> Record {
    Record {
        kind,
        origin: Origin::App,
        destinations: Destinations::ALL,
        project: Project::Ours,
        received_at: NOW,
        body: body.into(),
    }
}

fn event(body: impl Into<Bytes>) -> Record {
    record(Kind::Event, body)
}

/// Text that does not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

async fn read_all(journal: &SqliteJournal) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    let mut from = EntryId::FIRST;
    loop {
        let entries = journal.read(from, 1 << 20).await.unwrap();
        let Some(last) = entries.last() else { return all };
        from = last.id.next();
        all.extend(entries);
    }
}

#[tokio::test]
async fn a_request_that_was_stored_as_sent_is_read_and_erased_like_any_other() {
    let directory = directory();
    let store = open_in(&directory);
    let bodies: Vec<String> = (0..2_000).map(|n| format!(r#"{{"event":"e","properties":{{"n":{n:040}}}}}"#)).collect();
    let text = Bytes::from(format!("[{}]", bodies.join(",")));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &text).unwrap();
    let sent = Sent { gzip: gzip.finish().unwrap().into(), text: text.clone() };
    let size = bodies[0].len();
    let records: Vec<_> =
        (0..2_000).map(|n| event(text.slice(1 + n * (size + 1)..1 + n * (size + 1) + size))).collect();
    let at = store.journal.append_sent(records.clone(), sent.clone()).await.unwrap();
    assert_eq!(store.journal.read(at.entry, 1).await.unwrap()[0].records, records, "from memory");
    let stored = store.journal.size().await.unwrap().bytes;
    assert!(stored < sent.gzip.len() as u64 + 16_384, "{stored} bytes for {}", sent.gzip.len());
    drop(store);

    let store = open_in(&directory);
    assert_eq!(store.journal.read(at.entry, 1).await.unwrap()[0].records, records, "from the file");
    let picker: Picker = Arc::new(|record: &Record| record.body.ends_with(b"7}}"));
    let tip = *store.journal.tip().borrow();
    assert_eq!(store.journal.erase(at.entry, tip, picker).await.unwrap().emptied, 200);
    let left = &store.journal.read(at.entry, 1).await.unwrap()[0].records;
    assert_eq!(left.len(), 2_000);
    assert_eq!(left.iter().filter(|record| record.is_erased()).count(), 200);
}

#[tokio::test]
async fn requests_that_wait_together_share_an_entry_in_order() {
    let directory = directory();
    let store = open_in(&directory);
    let appends = (0..500).map(|n| store.journal.append(vec![event(format!("{n:0100}")), event(format!("{n}b"))]));
    let positions: Vec<_> = futures_util::future::join_all(appends).await.into_iter().map(Result::unwrap).collect();
    let entries = read_all(&store.journal).await;
    assert!(entries.len() < 100, "{} entries for 500 requests", entries.len());
    for (n, at) in positions.iter().enumerate() {
        let entry = entries.iter().find(|entry| entry.id == at.entry).unwrap();
        let index = at.index as usize;
        assert_eq!(entry.records[index].body, format!("{n:0100}"));
        assert_eq!(entry.records[index + 1].body, format!("{n}b"));
    }
}

/// CORE 1: an idle, drained and restarted relay must not give old numbers again, or its legs go deaf.
#[tokio::test]
async fn drained_restarted_and_written_again_the_numbers_go_on() {
    let directory = directory();
    let store = open_in(&directory);
    for n in 0..3 {
        store.journal.append(vec![event(format!("{n}"))]).await.unwrap();
    }
    let cursor = Position { epoch: store.journal.epoch(), entry: EntryId(4), index: 0 };
    let report = store.journal.trim(EntryId(4), NOTHING_KEPT, NOW + Duration::from_secs(1)).await.unwrap();
    assert_eq!(report, TrimReport { entries: 3, more: false });
    assert_eq!(store.journal.size().await.unwrap().entries, 0);
    drop(store);

    let store = open_in(&directory);
    assert_eq!(store.recovery.tip, EntryId(4));
    assert_eq!(store.recovery.first, None);
    assert_eq!(store.journal.accepted().event, 3, "counts add up over restarts");
    store.journal.check_cursor(cursor).unwrap();
    let at = store.journal.append(vec![event("after")]).await.unwrap();
    assert_eq!(at.entry, EntryId(4));
    assert_eq!(store.journal.read(cursor.entry, 1).await.unwrap()[0].records[0].body, "after");
    assert_eq!(store.journal.accepted().event, 4);
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_refused() {
    let directory = directory();
    let store = open_in(&directory);
    store.journal.append(vec![event("1")]).await.unwrap();
    let at = |epoch, entry, index| Position { epoch: Epoch(epoch), entry: EntryId(entry), index };
    store.journal.check_cursor(at(1, 2, 0)).unwrap();
    for ahead in [at(1, 2, 1), at(1, 3, 0), at(2, 1, 0)] {
        let refused = store.journal.check_cursor(ahead).unwrap_err();
        assert_eq!(refused.cursor, ahead);
    }
}

#[tokio::test]
async fn a_raised_epoch_orders_behind_what_is_held_and_lasts() {
    let directory = directory();
    let store = open_in(&directory);
    let before = store.journal.append(vec![event("before")]).await.unwrap();
    assert_eq!(store.journal.raise_epoch().await.unwrap(), Epoch(2));
    let after = store.journal.append(vec![event("after")]).await.unwrap();
    assert!(before < after);
    drop(store);
    let store = open_in(&directory);
    assert_eq!(store.journal.epoch(), Epoch(2));
    let epochs: Vec<_> = read_all(&store.journal).await.iter().map(|entry| entry.epoch).collect();
    assert_eq!(epochs, [Epoch(1), Epoch(2)]);
}

#[tokio::test]
async fn the_tip_wakes_whoever_waits_for_it() {
    let directory = directory();
    let store = open_in(&directory);
    let mut tip = store.journal.tip();
    store.journal.append(vec![event("1")]).await.unwrap();
    tip.changed().await.unwrap();
    assert_eq!(*tip.borrow(), EntryId(2));
}

#[tokio::test]
async fn trimming_keeps_the_tail_and_what_is_not_read() {
    let directory = directory();
    let store = open_in(&directory);
    for n in 0..20_u64 {
        let mut old = event(noise(1000, n));
        old.received_at = UnixMillis(NOW.0 + n * 1000);
        store.journal.append(vec![old]).await.unwrap();
    }
    let now = NOW + Duration::from_secs(19);
    let held = store.journal.size().await.unwrap();
    assert_eq!((held.entries, held.records, held.oldest_received_at), (20, 20, Some(NOW)));
    let day = Duration::from_secs(86_400);

    let keep_all = Tail { max_age: day, max_bytes: u64::MAX };
    assert_eq!(store.journal.trim(EntryId(21), keep_all, now).await.unwrap(), TrimReport::default());

    // By age: entries 1 to 4 are older than 15 s.
    let by_age = Tail { max_age: Duration::from_secs(15), max_bytes: u64::MAX };
    assert_eq!(store.journal.trim(EntryId(21), by_age, now).await.unwrap().entries, 4);
    let left = store.journal.size().await.unwrap();
    assert_eq!((left.entries, left.records, left.oldest_received_at), (16, 16, Some(NOW + Duration::from_secs(4))));
    assert_eq!(left.bytes, held.bytes / 20 * 16);

    // By bytes: what lies below the slowest leg may be two entries' worth.
    let by_bytes = Tail { max_age: day, max_bytes: held.bytes / 20 * 2 };
    assert_eq!(store.journal.trim(EntryId(11), by_bytes, now).await.unwrap().entries, 4);
    assert_eq!(read_all(&store.journal).await[0].id, EntryId(9));

    // Never at or above `below`, however small the tail, nor beyond the tip.
    store.journal.trim(EntryId(11), NOTHING_KEPT, now).await.unwrap();
    assert_eq!(read_all(&store.journal).await[0].id, EntryId(11));
    store.journal.trim(EntryId(u64::MAX), NOTHING_KEPT, now).await.unwrap();
    assert_eq!(store.journal.append(vec![event("x")]).await.unwrap().entry, EntryId(21));
}

#[tokio::test]
async fn trimming_goes_in_steps_and_gives_the_space_back() {
    let directory = directory();
    let store = open_in(&directory);
    for n in 0..80 {
        store.journal.append(vec![event(noise(1 << 20, n))]).await.unwrap();
    }
    let mut steps = 0;
    loop {
        let report = store.journal.trim(EntryId(81), NOTHING_KEPT, NOW + Duration::from_secs(1)).await.unwrap();
        steps += 1;
        if !report.more {
            break;
        }
    }
    assert!(steps > 10, "{steps} steps for 80 MiB");
    drop(store);
    let conn =
        schema::open_writer(&directory.path().join("data/mixrelay.db"), &schema::JOURNAL, schema::Durability::Synced)
            .unwrap();
    let pages = |conn: &Connection| conn.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap();
    let before = pages(&conn);
    let mut upkeep = upkeep::Upkeep::new(&conn).unwrap();
    while upkeep.idle_step(&conn).unwrap() {}
    assert!(pages(&conn) < before, "{before} pages before, {} after", pages(&conn));
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let directory = directory();
    let store = open_in(&directory);
    let refused = open(options(directory.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }));
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    drop(store);
    open_in(&directory);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    for file in ["mixrelay.db", "mixrelay.state.db"] {
        let directory = directory();
        drop(open_in(&directory));
        sideways(&directory, file).pragma_update(None, "user_version", 99).unwrap();
        let refused = open(options(directory.path())).err().unwrap();
        assert!(matches!(refused, OpenError::NewerSchema { found: 99, .. }), "{refused}");
        assert!(refused.to_string().contains("newer Mixrelay"), "{refused}");
    }
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date() {
    let directory = directory();
    let store = open_in(&directory);
    let ada = r#"{"email":"a@b.c","contact":{"known":{"email":"a@b.c","ext_id":true,"contact_id":7}}}"#;
    store.state.write(put(Table::People, "ada", ada)).await.unwrap();
    store.state.write(put(Table::People, "bob", r#"{"email":"a@b.c"}"#)).await.unwrap();
    drop(store);
    let state = sideways(&directory, "mixrelay.state.db");
    // As the first version made it.
    for table in Table::ALL.iter().filter(|table| SINCE_VERSION_2.contains(table)) {
        state.execute_batch(&format!("DROP TABLE {}", table.name())).unwrap();
    }
    state.pragma_update(None, "user_version", 1).unwrap();
    drop(state);
    let store = open_in(&directory);
    let people = store.state.get(Table::People, vec![b"ada".to_vec()]).await.unwrap();
    let mut upgraded: serde_json::Value = serde_json::from_slice(people[0].as_deref().unwrap()).unwrap();
    let seen = upgraded.as_object_mut().unwrap().remove("seen").unwrap();
    assert_eq!(upgraded, serde_json::from_str::<serde_json::Value>(ada).unwrap());
    let rows = store.state.scan(Table::Seen, KeyRange::all(), 10).await.unwrap();
    let keys: Vec<_> = rows.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
    assert_eq!(keys, ["ada", "bob"].map(|id| format!("{:06}{id}", seen.as_u64().unwrap())));
    let addresses = store.state.scan(Table::Addresses, KeyRange::all(), 10).await.unwrap();
    let rows = [("aa@b.c\u{1f}ada", "\"owns\""), ("aa@b.c\u{1f}bob", "\"claims\""), ("c7\u{1f}ada", "\"owns\"")];
    assert_eq!(addresses, rows.map(|(key, claim)| (key.as_bytes().to_vec(), claim.into())));
    for table in Table::ALL {
        store.state.write(put(table, "key", "value")).await.unwrap();
    }
}

/// Tables that the first version did not have.
const SINCE_VERSION_2: [Table; 16] = [
    Table::Filters,
    Table::Rewritten,
    Table::Outcomes,
    Table::Tombstones,
    Table::Erasures,
    Table::Bases,
    Table::Companies,
    Table::Addresses,
    Table::Audit,
    Table::CohortRuns,
    Table::CohortRows,
    Table::Seen,
    Table::Backfills,
    Table::Days,
    Table::Datasets,
    Table::DatasetRows,
];

fn put(table: Table, key: &str, value: &'static str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(table, key, value);
    batch
}

/// Every byte of the store's files, and every block as it decodes.
async fn remains(directory: &TempDir, store: &SqliteStore) -> Vec<u8> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(directory.path().join("data")).unwrap() {
        all.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    for entry in store.journal.read(EntryId::FIRST, usize::MAX).await.unwrap() {
        entry.records.iter().for_each(|record| all.extend_from_slice(&record.body));
    }
    all
}

fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[tokio::test]
async fn erased_records_leave_their_places_and_nothing_else() {
    let directory = directory();
    let store = open_in(&directory);
    // Small ones share a block, which is not compressed; large ones are, each its own.
    let small = |who: &str| event(format!("{{\"who\":\"{who}\"}}"));
    let large = |who: &str| event(format!("{{\"who\":\"{who}\",\"x\":\"{}\"}}", "z".repeat(100_000)));
    store.journal.append(vec![small("ada"), small("bob"), small("ada")]).await.unwrap();
    store.journal.append(vec![large("bob"), large("ada")]).await.unwrap();
    let before = (store.journal.accepted(), store.journal.size().await.unwrap());
    assert!(holds(&remains(&directory, &store).await, "ada"));

    let picker: Picker = Arc::new(|record| holds(&record.body, "\"ada\""));
    let tip = *store.journal.tip().borrow();
    let (mut from, mut emptied) = (EntryId::FIRST, 0);
    while from < tip {
        let step = store.journal.erase(from, tip, picker.clone()).await.unwrap();
        (from, emptied) = (step.next, emptied + step.emptied);
    }
    assert_eq!(emptied, 3);
    assert!(store.journal.scrub().await.unwrap() && store.state.scrub().await.unwrap());

    assert!(!holds(&remains(&directory, &store).await, "ada"));
    let erased: Vec<Vec<bool>> = (store.journal.read(EntryId::FIRST, usize::MAX).await.unwrap().iter())
        .map(|entry| entry.records.iter().map(Record::is_erased).collect())
        .collect();
    assert_eq!(erased.concat(), [true, false, true, false, true]);
    let after = store.journal.size().await.unwrap();
    assert_eq!((before.0, before.1.records, before.1.bytes), (store.journal.accepted(), after.records, after.bytes));
    // A second time there is nothing to do, and nothing breaks.
    assert_eq!(store.journal.erase(EntryId::FIRST, tip, picker).await.unwrap().emptied, 0);
    drop(store);
    assert_eq!(open_in(&directory).recovery.records, 5);
}

#[tokio::test]
async fn what_the_state_has_deleted_is_in_no_page() {
    let directory = directory();
    let store = open_in(&directory);
    for n in 0..500 {
        store.state.write(put(Table::People, &format!("ada-{n}"), "{\"email\":\"ada@example.com\"}")).await.unwrap();
    }
    let mut batch = WriteBatch::new();
    batch.delete_range(Table::People, "ada", "adb");
    store.state.write(batch).await.unwrap();
    assert!(store.state.scrub().await.unwrap());
    assert!(!holds(&remains(&directory, &store).await, "ada"));
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_refused() {
    let (one, two) = (directory(), directory());
    for directory in [&one, &two] {
        open_in(directory).journal.append(vec![event("1")]).await.unwrap();
    }
    std::fs::copy(two.path().join("data/mixrelay.state.db"), one.path().join("data/mixrelay.state.db")).unwrap();
    assert!(matches!(open(options(one.path())).err().unwrap(), OpenError::Mismatch { .. }));

    std::fs::remove_file(one.path().join("data/mixrelay.state.db")).unwrap();
    assert!(matches!(open(options(one.path())).err().unwrap(), OpenError::Half { .. }));
    std::fs::remove_file(two.path().join("data/mixrelay.db")).unwrap();
    assert!(matches!(open(options(two.path())).err().unwrap(), OpenError::Half { .. }));
}

#[test]
fn a_foreign_database_is_left_alone() {
    let directory = directory();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    sideways(&directory, "mixrelay.db").execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    assert!(matches!(open(options(directory.path())).err().unwrap(), OpenError::Foreign { .. }));
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let directory = directory();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    std::fs::write(directory.path().join("data/mixrelay.db"), noise(100_000, 1)).unwrap();
    let refused = open(options(directory.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
    assert!(refused.to_string().contains("mixrelay.db is damaged"), "{refused}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_memory_file_system_is_refused_unless_allowed() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let with = |allow_volatile| open(OpenOptions { allow_volatile, ..options(directory.path()) });
    let refused = with(false).err().unwrap();
    assert!(matches!(refused, OpenError::Volatile { file_system: "tmpfs", .. }));
    assert!(refused.to_string().contains("allow_volatile_store"), "{refused}");
    with(true).unwrap();
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let store = open_in(&directory);
    for file in std::fs::read_dir(directory.path().join("data")).unwrap() {
        let file = file.unwrap();
        if !file.path().to_string_lossy().ends_with(".lock") {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
        }
    }
    drop(store);
}

/// P1: after a failed write nobody is told of success, everything is refused, and the process is told to exit.
#[tokio::test]
async fn a_failed_commit_poisons_both_files() {
    let directory = directory();
    let store = open_in(&directory);
    store.journal.append(vec![event("kept")]).await.unwrap();
    let mut failed = store.failed();
    assert!(!*failed.borrow());
    sideways(&directory, "mixrelay.db")
        .execute_batch("CREATE TRIGGER fault BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'injected'); END")
        .unwrap();
    let appends = (0..10).map(|n| store.journal.append(vec![event(format!("lost {n}"))]));
    for answer in futures_util::future::join_all(appends).await {
        assert!(matches!(answer, Err(AppendError::Poisoned(reason)) if reason.contains("injected")));
    }
    failed.changed().await.unwrap();
    assert!(*failed.borrow());
    assert!(matches!(store.journal.append(vec![event("no")]).await, Err(AppendError::Poisoned(_))));
    assert!(matches!(store.journal.ready(), Err(AppendError::Poisoned(_))));
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, "k", "v");
    assert!(matches!(store.state.write(batch).await, Err(StoreError::Failed(_))));
    drop(store);

    sideways(&directory, "mixrelay.db").execute_batch("DROP TRIGGER fault").unwrap();
    let store = open_in(&directory);
    let entries = read_all(&store.journal).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].records[0].body, "kept");
    assert_eq!(store.journal.accepted().event, 1);
}

/// A full disk is not a failed sync: SQLite rolls back, and when there is room the store goes on.
#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let directory = directory();
    let store = open_in(&directory);
    store.journal.append(vec![event("first")]).await.unwrap();
    drop(store);
    let mut conn =
        schema::open_writer(&directory.path().join("data/mixrelay.db"), &schema::JOURNAL, schema::Durability::Synced)
            .unwrap();
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    conn.pragma_update(None, "max_page_count", pages + 8).unwrap();

    let counters = journal_writer::read_counters(&conn).unwrap();
    let watermark = Arc::new(Watermark::new(Some(1), Box::new(|| Ok(watermark::Space { free: 9, total: 9 }))));
    let mut work = JournalWork {
        progress: Progress::new(counters),
        watermark,
        sealer: Sealer::default(),
        poison: Arc::new(Poison::new()),
        recent: Arc::new(Recent::default()),
    };
    let mut append = |body: Vec<u8>| {
        use writer::Work;
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let append = journal::prepare(vec![event(body)], 1 << 20, None, reply, permit);
        work.commit(&mut conn, vec![journal_writer::Command::Append(append)]).unwrap();
        answer.try_recv().unwrap()
    };
    assert!(matches!(append(noise(1 << 20, 3)), Err(AppendError::DiskFull { .. })));
    let next = append(b"fits".to_vec()).unwrap();
    assert_eq!(next.entry, EntryId(2), "the refused request took no number");
}

#[tokio::test]
async fn under_the_watermark_appends_are_refused_and_the_rest_works() {
    let directory = directory();
    open_in(&directory).journal.append(vec![event("1")]).await.unwrap();
    let store = open(OpenOptions { min_free: Some(u64::MAX), ..options(directory.path()) }).unwrap();
    assert!(matches!(store.journal.append(vec![event("2")]).await, Err(AppendError::DiskFull { .. })));
    assert!(matches!(store.journal.ready(), Err(AppendError::DiskFull { watermark: u64::MAX, .. })));
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, "k", "v");
    store.state.write(batch).await.unwrap();
    let report = store.journal.trim(EntryId(2), NOTHING_KEPT, NOW + Duration::from_secs(1)).await.unwrap();
    assert_eq!(report.entries, 1);
}

#[tokio::test]
async fn a_damaged_block_is_passed_and_counted() {
    let directory = directory();
    let store = open_in(&directory);
    for n in 0..4 {
        store.journal.append(vec![event(format!("{n}")), event(format!("{n}b"))]).await.unwrap();
    }
    drop(store);
    let conn = sideways(&directory, "mixrelay.db");
    conn.execute(
        "UPDATE blocks SET block = CAST(substr(block, 1, length(block) - 1) || x'7e' AS BLOB) WHERE id = 2",
        [],
    )
    .unwrap();
    conn.execute("DELETE FROM blocks WHERE id = 3", []).unwrap();
    drop(conn);

    let store = open_in(&directory);
    let lost = |entry| Quarantined { entry: EntryId(entry), records: 2 };
    assert_eq!(store.recovery.quarantined, [lost(2), lost(3)]);
    let entries = read_all(&store.journal).await;
    let seen: Vec<_> = entries.iter().map(|entry| (entry.id.0, entry.records.len(), entry.lost)).collect();
    assert_eq!(seen, [(1, 2, 0), (2, 0, 2), (3, 0, 2), (4, 2, 0)]);
    assert_eq!(store.journal.count_from(EntryId(1)).await.unwrap(), 8, "lost records are owed until a leg passes them");
    let report = store.journal.trim(EntryId(5), NOTHING_KEPT, NOW + Duration::from_secs(1)).await.unwrap();
    assert_eq!(report.entries, 4);
}

#[tokio::test]
async fn every_table_of_the_register_is_there() {
    let directory = directory();
    let store = open_in(&directory);
    for table in Table::ALL {
        let found = store.state.get(table, vec![b"key".to_vec()]).await;
        assert_eq!(found.unwrap(), [None], "{}", table.name());
    }
}

#[tokio::test]
async fn state_is_read_as_it_was_written() {
    let directory = directory();
    let store = open_in(&directory);
    let mut batch = WriteBatch::new();
    for n in 0..100_u8 {
        batch.put(Table::People, [b'p', n], vec![n; 10]);
    }
    batch.put(Table::Shelves, "p", "another table");
    batch.put(Table::People, [b'p', 5], "later wins");
    batch.delete(Table::People, [b'p', 6]);
    batch.delete_range(Table::People, [b'p', 90], [b'p', 95]);
    batch.put(Table::People, [b'p', 92], "after the range");
    store.state.write(batch).await.unwrap();

    let keys = vec![vec![b'p', 92], vec![b'p', 5], vec![b'p', 6], vec![b'p', 91], vec![b'p', 95], vec![b'p', 5]];
    let values = store.state.get(Table::People, keys).await.unwrap();
    let later = Some(Bytes::from("later wins"));
    let after = Some(Bytes::from("after the range"));
    assert_eq!(values, [after, later.clone(), None, None, Some(Bytes::from(vec![95; 10])), later]);

    let (count, bytes) = store.state.count(Table::People, KeyRange::prefix("p")).await.unwrap();
    assert_eq!((count, bytes), (95, 93 * 10 + 10 + 15));
    let pairs = store.state.scan(Table::People, KeyRange { from: vec![b'p', 98], to: None }, 10).await.unwrap();
    assert_eq!(pairs.iter().map(|(key, _)| key[1]).collect::<Vec<_>>(), [98, 99]);
    assert_eq!(store.state.scan(Table::People, KeyRange::all(), 3).await.unwrap().len(), 3);
    assert_eq!(store.state.count(Table::Dedup, KeyRange::all()).await.unwrap(), (0, 0));
}
