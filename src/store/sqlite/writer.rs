//! The loop of a file's one writer, on a thread of its own: take what waits, commit it as one transaction, answer, see
//! to the file, repeat. [`Work`] says what a group is for the journal and for the state.
//!
//! Whoever waits for an answer is told of a failure by its channel's end: the poison is set first, then the group and
//! the queue are dropped unanswered.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::lock::Lock;
use super::poison::Poison;
use super::upkeep::Upkeep;

/// Nothing has to wait this long before the writer looks after its file.
const IDLE_AFTER: Duration = Duration::from_millis(200);
/// Left between two steps of upkeep, for whoever comes meanwhile.
const BETWEEN_STEPS: Duration = Duration::from_millis(2);

/// What one of the two writers does with what waits.
pub(super) trait Work: Send + 'static {
    type Command: Send + 'static;

    /// Bytes that `command` adds to a group; a group ends at [`Work::GROUP_BYTES`].
    fn weight(command: &Self::Command) -> usize;

    const GROUP_BYTES: usize;
    const GROUP_COMMANDS: usize;

    /// Commits the group and answers everyone in it. An error is a failed write or sync; the poison is set by then.
    fn commit(&mut self, conn: &mut Connection, group: Vec<Self::Command>) -> Result<(), rusqlite::Error>;
}

/// The sending side; dropping it ends the writer after what waits, and waits for it to have closed its file.
pub(super) struct Writer<C> {
    commands: Option<SyncSender<C>>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Send + 'static> Writer<C> {
    /// `queue` must be more than the number of commands that callers can have under way at once.
    pub(super) fn spawn<W: Work<Command = C>>(
        name: &str,
        queue: usize,
        conn: Connection,
        work: W,
        poison: Arc<Poison>,
        lock: Arc<Lock>,
    ) -> std::io::Result<Self> {
        let (commands, waiting) = sync_channel(queue);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let guard = StopGuard { poison: &poison, clean: false };
            run(conn, work, &waiting, guard);
            drop(lock);
        })?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// False when the writer has stopped, or its queue is full.
    pub(super) fn send(&self, command: C) -> bool {
        self.commands.as_ref().is_some_and(|commands| commands.try_send(command).is_ok())
    }
}

impl<C> Drop for Writer<C> {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was reported by its guard.
            drop(thread.join());
        }
    }
}

/// Poisons the store when the writer ends in any other way than by shutdown.
struct StopGuard<'a> {
    poison: &'a Poison,
    clean: bool,
}

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        if !self.clean && !self.poison.is_set() {
            self.poison.set("its writer stopped unexpectedly".to_owned());
        }
    }
}

fn run<W: Work>(mut conn: Connection, mut work: W, waiting: &Receiver<W::Command>, mut guard: StopGuard<'_>) {
    match serve(&mut conn, &mut work, waiting, guard.poison) {
        Ok(()) => guard.clean = true,
        Err(error) => guard.poison.set(error.to_string()),
    }
}

/// Until every sender is gone, or a write failed.
fn serve<W: Work>(
    conn: &mut Connection,
    work: &mut W,
    waiting: &Receiver<W::Command>,
    poison: &Poison,
) -> rusqlite::Result<()> {
    let mut upkeep = Upkeep::new(conn)?;
    let mut wait = Some(IDLE_AFTER);
    loop {
        let next = match wait {
            Some(wait) => waiting.recv_timeout(wait),
            None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            // The other file failed: this one takes no more writes either.
            Ok(_) if poison.is_set() => return Ok(()),
            Ok(command) => {
                work.commit(conn, collect::<W>(command, waiting))?;
                upkeep.after_group(conn)?;
                wait = Some(IDLE_AFTER);
            }
            Err(RecvTimeoutError::Timeout) => wait = upkeep.idle_step(conn)?.then_some(BETWEEN_STEPS),
            Err(RecvTimeoutError::Disconnected) => return Upkeep::finish(conn),
        }
    }
}

/// What waits behind `first`, up to the size of a group.
fn collect<W: Work>(first: W::Command, waiting: &Receiver<W::Command>) -> Vec<W::Command> {
    let mut bytes = W::weight(&first);
    let mut group = vec![first];
    while bytes < W::GROUP_BYTES && group.len() < W::GROUP_COMMANDS {
        let Ok(command) = waiting.try_recv() else { break };
        bytes += W::weight(&command);
        group.push(command);
    }
    group
}
