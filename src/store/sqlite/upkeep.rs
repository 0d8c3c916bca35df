//! What a writer does for its file between groups and when nothing waits: checkpoints of the write-ahead log, and free
//! pages given back to the file system. Always in steps short enough for an append to wait behind.

use rusqlite::{Connection, ErrorCode};

/// A checkpoint copies at most about this much, and whoever waits for the writer waits for that.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// A log that has grown to this because of slow readers is started over with readers locked out.
const RESTART_BYTES: u64 = 256 << 20;
/// When idle, a log of this size is copied too: it makes the next start quicker and the next checkpoint smaller.
const IDLE_CHECKPOINT_BYTES: u64 = 4 << 20;
/// Free pages kept for reuse, since giving them back and taking them again costs writes.
const KEEP_FREE_BYTES: u64 = 32 << 20;
/// Moved by one step of giving back.
const VACUUM_STEP_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Upkeep {
    page_size: u64,
    /// Set when giving back failed for want of room: tried again after the next write.
    no_room: bool,
}

impl Upkeep {
    pub(super) fn new(conn: &Connection) -> rusqlite::Result<Self> {
        let page_size: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
        Ok(Self { page_size: page_size.unsigned_abs().max(1), no_room: false })
    }

    /// After a commit. An error means that a write or sync failed.
    pub(super) fn after_group(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.no_room = false;
        self.keep_log_short(conn)
    }

    /// One step while nothing waits. False when there is nothing left to do.
    pub(super) fn idle_step(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let free: i64 = conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        if free.unsigned_abs() * self.page_size > KEEP_FREE_BYTES && !self.no_room {
            return self.give_back(conn).map(|()| true);
        }
        if self.log(conn)?.pending >= IDLE_CHECKPOINT_BYTES {
            checkpoint(conn, "PASSIVE")?;
        }
        Ok(false)
    }

    fn give_back(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let pages = VACUUM_STEP_BYTES / self.page_size;
        let mut statement = conn.prepare_cached(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        let result = loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(rows);
        match result {
            Err(error) if is_transient(&error) => self.no_room = true,
            other => other?,
        }
        self.keep_log_short(conn)
    }

    fn keep_log_short(&self, conn: &Connection) -> rusqlite::Result<()> {
        let log = self.log(conn)?;
        if log.used >= RESTART_BYTES {
            tracing::warn!(bytes = log.used, "the write-ahead log has grown behind slow readers: starting it over");
            checkpoint(conn, "RESTART")
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
