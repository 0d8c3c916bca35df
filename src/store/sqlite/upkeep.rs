//! What a writer does for its file between groups and when nothing waits: checkpoints of the write-ahead log, and free
//! pages given back to the file system. Always in steps short enough for an append to wait behind.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::schema::BUSY_TIMEOUT;

/// A checkpoint copies at most about this much, and whoever waits for the writer waits for that.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// A log that has grown to this because readers came without a gap is started over with readers kept out,
const RESTART_BYTES: u64 = 256 << 20;
/// which is tried this often and waits this long for those that read: someone's forgotten `sqlite3` must not hold up
/// every append.
const RESTART_EVERY: Duration = Duration::from_secs(10);
const RESTART_WAIT: Duration = Duration::from_millis(100);
/// When idle, a log of this size is copied too: it makes the next start quicker and the next checkpoint smaller.
const IDLE_CHECKPOINT_BYTES: u64 = 4 << 20;
/// Free pages kept for reuse, since giving them back and taking them again costs writes.
const KEEP_FREE_BYTES: u64 = 64 << 20;
/// Moved by one step of giving back,
const VACUUM_STEP_BYTES: u64 = 1 << 20;
/// and how often such a step is taken under load: a relay that is never idle returns a day's backlog in minutes.
const VACUUM_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Upkeep {
    page_size: u64,
    last_vacuum: Instant,
    last_restart: Option<Instant>,
}

impl Upkeep {
    pub(super) fn new(conn: &Connection) -> rusqlite::Result<Self> {
        let page_size: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
        Ok(Self { page_size: page_size.unsigned_abs().max(1), last_vacuum: Instant::now(), last_restart: None })
    }

    /// After a commit. An error means that a write or sync failed.
    pub(super) fn after_group(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.last_vacuum.elapsed() >= VACUUM_EVERY {
            self.give_back(conn)?;
        }
        self.keep_log_short(conn)
    }

    /// One step while nothing waits. False when there is nothing left to do.
    pub(super) fn idle_step(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        if self.give_back(conn)? {
            self.keep_log_short(conn)?;
            return Ok(true);
        }
        if self.log(conn)?.pending >= IDLE_CHECKPOINT_BYTES {
            checkpoint(conn, "PASSIVE")?;
        }
        Ok(false)
    }

    /// At the end of an orderly shutdown: everything into the file, so that the next start finds an empty log.
    pub(super) fn finish(conn: &Connection) -> rusqlite::Result<()> {
        checkpoint(conn, "TRUNCATE")
    }

    /// One step of returning free pages to the file system; false when there are too few to bother.
    fn give_back(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        self.last_vacuum = Instant::now();
        let free = conn.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get::<_, i64>(0))?;
        if free.unsigned_abs() * self.page_size <= KEEP_FREE_BYTES {
            return Ok(false);
        }
        let pages = VACUUM_STEP_BYTES / self.page_size;
        let mut statement = conn.prepare_cached(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        // The statement moves one page with every row, so it has to be stepped to its end.
        loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(error) if is_transient(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn keep_log_short(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let log = self.log(conn)?;
        let restart_due = self.last_restart.is_none_or(|last| last.elapsed() >= RESTART_EVERY);
        if log.used >= RESTART_BYTES && restart_due {
            self.last_restart = Some(Instant::now());
            tracing::warn!(bytes = log.used, "the write-ahead log has grown behind readers: starting it over");
            conn.busy_timeout(RESTART_WAIT)?;
            let restarted = checkpoint(conn, "RESTART");
            conn.busy_timeout(BUSY_TIMEOUT)?;
            restarted
        } else if log.pending >= CHECKPOINT_BYTES {
            checkpoint(conn, "PASSIVE")
        } else {
            Ok(())
        }
    }

    fn log(&self, conn: &Connection) -> rusqlite::Result<LogSize> {
        let mut statement = conn.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
        let (frames, copied) = statement.query_row([], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
        let bytes = |frames: i64| frames.max(0).unsigned_abs() * self.page_size;
        // A log copied to its end starts over with the next commit.
        let used = if frames == copied { 0 } else { bytes(frames) };
        Ok(LogSize { used, pending: bytes(frames - copied) })
    }
}

/// Bytes of the write-ahead log.
struct LogSize {
    /// From its start to its end,
    used: u64,
    /// and those of them that are not in the file yet.
    pending: u64,
}

/// Copies the whole log into the file, where `secure_delete` has overwritten what was deleted, and cuts the log to
/// nothing. False when a reader or another process stood in the way.
pub(super) fn scrub(conn: &Connection) -> rusqlite::Result<bool> {
    conn.busy_timeout(RESTART_WAIT)?;
    let mut statement = conn.prepare_cached("PRAGMA wal_checkpoint(TRUNCATE)")?;
    let done = match statement.query_row([], |row| row.get::<_, i64>(0)) {
        Ok(busy) => Ok(busy == 0),
        Err(error) if is_transient(&error) => Ok(false),
        Err(error) => Err(error),
    };
    conn.busy_timeout(BUSY_TIMEOUT)?;
    done
}

/// A checkpoint that could not go on for want of locks or room has done no harm: the log still holds everything.
fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    match statement.query_row([], |_| Ok(())) {
        Err(error) if is_transient(&error) => Ok(()),
        other => other,
    }
}

/// True when nothing was written, so that the same may be tried again.
///
/// SQLite reports "disk full" only from writes that the operating system refused or from its own page limit, never from
/// a sync (that is an I/O error): the transaction has no commit record on disk, and its rollback leaves the log as it was
/// before. "Busy" and "locked" are reported before anything is written.
pub(super) fn is_transient(error: &rusqlite::Error) -> bool {
    is_full(error) || matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// True also where SQLite says no more than "I/O error": the index of the log, which it makes at the first opening, takes
/// room as well.
pub(super) fn found_no_room(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    is_full(error) || extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}
