//! One exclusive lock for both files: `flock` on `<journal>.lock`, held until the last writer has closed its file.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::OpenError;

/// Held for as long as any part of it lives; the operating system releases it when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn acquire(journal: &Path) -> Result<Self, OpenError> {
        let path = beside(journal, ".lock");
        let failed = |source: io::Error| OpenError::Io { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::Locked { path: journal.to_owned() }),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

/// `path` with `suffix` added to its file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
