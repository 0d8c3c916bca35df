//! The two files: what stands in them, at which version, and how an older one is brought up to date.
//!
//! `application_id` says that a file is ours and which of the two it is; `user_version` is its schema version.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::OpenError;

/// One of the store's files.
#[derive(Debug)]
pub(super) struct FileKind {
    application_id: i32,
    /// Only takes effect when the file is made.
    page_size: u32,
    /// Page cache of the writer; its memory does not grow beyond it.
    writer_cache_kib: u32,
    /// Script `i` turns schema version `i` into `i + 1`. Scripts that have been released are never edited.
    migrations: &'static [&'static str],
}

impl FileKind {
    pub(super) fn application_id(&self) -> i32 {
        self.application_id
    }

    /// The schema version that this program works with.
    pub(super) fn known(&self) -> usize {
        self.migrations.len()
    }
}

pub(super) const JOURNAL: FileKind = FileKind {
    application_id: 0x4d58_524a, // "MXRJ"
    page_size: 16_384,
    writer_cache_kib: 16_384,
    // `entries` is the ledger, `blocks` the bytes: counting a backlog or finding what to trim reads the first alone.
    // `*_before` are running totals since creation: they tell how much lies between two entries without a scan.
    // `counters` outlives every entry, so that a drained journal goes on with fresh numbers (CORE 1).
    migrations: &[
        "
        CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL) STRICT;
        CREATE TABLE counters (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            epoch INTEGER NOT NULL,
            next_entry INTEGER NOT NULL,
            events INTEGER NOT NULL,
            profiles INTEGER NOT NULL,
            groups INTEGER NOT NULL,
            bytes INTEGER NOT NULL
        ) STRICT;
        INSERT INTO counters VALUES (1, 1, 1, 0, 0, 0, 0);
        CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            epoch INTEGER NOT NULL,
            records INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            records_before INTEGER NOT NULL,
            bytes_before INTEGER NOT NULL,
            received_at INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE blocks (id INTEGER PRIMARY KEY, block BLOB NOT NULL) STRICT;
    ",
        SENT_BLOCKS,
    ],
};

/// Nothing changes but what a block may hold (`block`, requests as they were sent): an older relay would take one for
/// damaged, so it has to refuse the file.
const SENT_BLOCKS: &str = "";

pub(super) const STATE: FileKind = FileKind {
    application_id: 0x4d58_5253, // "MXRS"
    page_size: 4_096,
    writer_cache_kib: 16_384,
    migrations: &[
        "
        CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL) STRICT;
        CREATE TABLE checkpoints (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE people (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE debts (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE shelf_order (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE shelves (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE dead_letters (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE budgets (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE dedup (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE vendors (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE meta (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE tombstones (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE erasures (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE IF NOT EXISTS bases (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE companies (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        // A row for every way to a person who is known already, as `people::address_book` writes them.
        "
        CREATE TABLE addresses (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TEMP VIEW known AS
            SELECT CAST(key AS TEXT) AS id,
                json_extract(CAST(value AS TEXT), '$.email') AS email,
                json_extract(CAST(value AS TEXT), '$.contact.known.email') AS contact_email,
                json_extract(CAST(value AS TEXT), '$.contact.known.contact_id') AS contact_id,
                iif(json_extract(CAST(value AS TEXT), '$.contact.known.ext_id'), '\"owns\"', '\"claims\"') AS claim
            FROM people;
        INSERT OR REPLACE INTO addresses SELECT CAST('a' || email || char(31) || id AS BLOB), CAST('\"claims\"' AS BLOB)
            FROM known WHERE email IS NOT NULL;
        INSERT OR REPLACE INTO addresses SELECT CAST('a' || contact_email || char(31) || id AS BLOB), CAST(claim AS BLOB)
            FROM known WHERE contact_email IS NOT NULL;
        INSERT OR REPLACE INTO addresses SELECT CAST('c' || contact_id || char(31) || id AS BLOB), CAST(claim AS BLOB)
            FROM known WHERE contact_id IS NOT NULL;
        DROP VIEW known;
    ",
        "
        CREATE TABLE audit (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        // Nobody knows when the people of before were last heard of: today, as `people::unseen` writes it.
        "
        CREATE TABLE seen (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        UPDATE people SET value = CAST(
            json_set(CAST(value AS TEXT), '$.seen', CAST(strftime('%s', 'now') AS INTEGER) / 86400) AS BLOB);
        INSERT INTO seen SELECT CAST(
            printf('%06d', json_extract(CAST(value AS TEXT), '$.seen')) || CAST(key AS TEXT) AS BLOB), x'' FROM people;
    ",
        "
        CREATE TABLE cohort_runs (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE cohort_rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE backfills (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE days (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE datasets (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE dataset_rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE outcomes (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
        "
        CREATE TABLE filters (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE rewritten (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    ",
    ],
};

/// Page cache of one reading connection: enough for the inner pages of a tree, since blocks are read once.
const READER_CACHE_KIB: u32 = 2_048;
/// The write-ahead log is cut back to this when it starts over.
const LOG_SIZE_LIMIT: u64 = 64 << 20;
/// How long a statement waits for another process that looks inside with `sqlite3`.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// It survives power loss before anybody is answered.
    Synced,
    /// The file stays whole, and may be found at an earlier commit: something else has the rest.
    Copy,
}

impl Durability {
    /// FULL syncs the log at every commit, which is what an answer waits for; NORMAL only before pages go into the file.
    fn synchronous(self) -> &'static str {
        match self {
            Durability::Synced => "FULL",
            Durability::Copy => "NORMAL",
        }
    }
}

/// Opens `path` for its one writer, and makes or upgrades its schema.
pub(super) fn open_writer(path: &Path, kind: &FileKind, durability: Durability) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::from_sqlite(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    configure_writer(&conn, kind, durability).map_err(failed)?;
    migrate(&mut conn, path, kind)?;
    Ok(conn)
}

fn configure_writer(conn: &Connection, kind: &FileKind, durability: Durability) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // Order matters: page size and vacuum mode are fixed by the first page written, which the journal mode writes.
    conn.pragma_update(None, "page_size", kind.page_size)?;
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        return Err(rusqlite::Error::SqliteFailure(code, Some(format!("journal mode {mode} instead of wal"))));
    }
    conn.pragma_update(None, "synchronous", durability.synchronous())?;
    // On Apple's systems an ordinary sync stops at the drive's cache.
    conn.pragma_update(None, "fullfsync", "ON")?;
    conn.pragma_update(None, "checkpoint_fullfsync", "ON")?;
    // Checkpoints are the writer's affair, between groups (`upkeep`).
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "journal_size_limit", LOG_SIZE_LIMIT.cast_signed())?;
    conn.pragma_update(None, "cache_size", -i64::from(kind.writer_cache_kib))?;
    // Deleted records are overwritten, not only forgotten (CORE 12).
    conn.pragma_update(None, "secure_delete", "ON")?;
    conn.pragma_update(None, "cell_size_check", "ON")?;
    conn.pragma_update(None, "trusted_schema", "OFF")?;
    conn.pragma_update(None, "temp_store", "MEMORY")
}

/// Opens `path` for reading only. The writer must have been opened before.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "cache_size", -i64::from(READER_CACHE_KIB))?;
    conn.pragma_update(None, "trusted_schema", "OFF")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

fn migrate(conn: &mut Connection, path: &Path, kind: &FileKind) -> Result<(), OpenError> {
    let failed = |error| OpenError::from_sqlite(path, error);
    let (application, version) = identity(conn).map_err(failed)?;
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;

    let fresh = application == 0 && version == 0 && objects == 0;
    if !fresh && application != kind.application_id {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let known = kind.migrations.len();
    let from = usize::try_from(version).unwrap_or(usize::MAX);
    if from > known {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found: version, known });
    }
    if from == known {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    for script in &kind.migrations[from..] {
        tx.execute_batch(script).map_err(failed)?;
    }
    tx.pragma_update(None, "application_id", kind.application_id).map_err(failed)?;
    tx.pragma_update(None, "user_version", i64::try_from(known).unwrap_or(i64::MAX)).map_err(failed)?;
    tx.commit().map_err(failed)?;
    if from > 0 {
        tracing::info!(path = %path.display(), from, to = known, "the store's schema was upgraded");
    }
    Ok(())
}

/// Which file it says it is, and its schema version; zeros in an empty one.
pub(super) fn identity(conn: &Connection) -> rusqlite::Result<(i32, i32)> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}

/// The id that both files carry; `None` in a file that has none yet.
pub(super) fn store_id(conn: &Connection) -> rusqlite::Result<Option<String>> {
    use rusqlite::OptionalExtension;
    conn.query_row("SELECT id FROM store", [], |row| row.get(0)).optional()
}

pub(super) fn set_store_id(conn: &Connection, id: &str) -> rusqlite::Result<()> {
    conn.execute("INSERT INTO store (one, id) VALUES (1, ?1)", [id]).map(|_| ())
}

/// True for what SQLite reports when the file's bytes make no sense.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
