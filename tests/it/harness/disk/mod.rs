//! A disk that fails on request, beneath one relay: `tests/faults/disk.c`, preloaded into the process, and the block of
//! memory by which it is told what to do. A power loss is worked out from its log, by [`loss`], when the process is dead.
//!
//! The library is built with `cc` once per run. Where there is none, or no `LD_PRELOAD`, [`Disk::new`] says so loudly and
//! gives none: what needs a disk is skipped then.

mod loss;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

pub use loss::Loss;
use loss::Luck;

/// The fields of `struct control`, in its order: eight bytes each.
#[derive(Clone, Copy, Debug)]
pub enum Knob {
    /// Milliseconds added to the wall clock, signed.
    Clock,
    /// Bytes by which files may still grow.
    Room,
    ReadOnly,
    /// The longest delay of a write or a sync, in microseconds.
    Delay,
    /// The n-th sync from now fails, once.
    FailSync,
    /// The process dies at the n-th operation from now.
    Die,
    /// Of 256 writes.
    ShortWrites,
    /// Of 256 writes.
    Interrupted,
    /// Syncs succeed and do nothing.
    Lying,
    Seed,
    /// Read only, as is what follows.
    Operations,
    Syncs,
    /// For want of room, or on a read-only disk.
    Refused,
}

const KNOBS: usize = Knob::Refused as usize + 1;
const PLENTY: u64 = u64::MAX;

pub struct Disk {
    control: File,
    /// Holds `store`, on which the relay lives, and `rig`, of which it knows nothing.
    dir: TempDir,
}

impl Disk {
    /// `None` where it cannot be built, which is said.
    pub fn new(seed: u64) -> Option<Self> {
        library()?;
        let dir = tempfile::tempdir_in(fs::canonicalize(env!("CARGO_TARGET_TMPDIR")).unwrap()).unwrap();
        for part in ["store", "rig/graves"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        let control = File::options().read(true).write(true).create_new(true).open(dir.path().join("rig/control"));
        let disk = Self { control: control.unwrap(), dir };
        disk.control.set_len(4_096).unwrap();
        disk.set(Knob::Seed, seed);
        disk.heal();
        Some(disk)
    }

    pub fn set(&self, knob: Knob, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), 8 * knob as u64).unwrap();
    }

    pub fn get(&self, knob: Knob) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 8 * knob as u64).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// Milliseconds by which the relay's wall clock is wrong from now on.
    pub fn set_clock(&self, wrong_by: i64) {
        self.set(Knob::Clock, wrong_by.cast_unsigned());
    }

    /// Everything but the clock as it should be.
    pub fn heal(&self) {
        for knob in [Knob::ReadOnly, Knob::Delay, Knob::FailSync, Knob::Die, Knob::ShortWrites, Knob::Interrupted] {
            self.set(knob, 0);
        }
        self.set(Knob::Room, PLENTY);
        self.set(Knob::Lying, 0);
    }

    /// What [`loss`] says that such a disk may hold after a power loss. The process must be dead.
    pub fn lose_power(&self, dice: &mut fastrand::Rng) -> Loss {
        loss::play(&self.store(), &self.rig(), Luck::Drawn, dice)
    }

    /// The same, and everything that was not synced is gone.
    pub fn lose_power_and_all_unsynced(&self) -> Loss {
        loss::play(&self.store(), &self.rig(), Luck::None, &mut fastrand::Rng::new())
    }

    /// An empty disk, as bought. The process must be dead.
    pub fn erase(&self) {
        for part in ["store", "rig/graves"] {
            fs::remove_dir_all(self.dir.path().join(part)).unwrap();
            fs::create_dir_all(self.dir.path().join(part)).unwrap();
        }
        fs::remove_file(self.rig().join("log")).unwrap_or_default();
    }

    /// The directory of the store.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn rig(&self) -> PathBuf {
        self.dir.path().join("rig")
    }

    /// What a process needs in its environment to live on this disk.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", library().expect("there is a disk").to_owned()),
            ("MIXRELAY_FAULTS_DIRECTORY", self.store()),
            ("MIXRELAY_FAULTS_RIG", self.rig()),
        ]
    }
}

/// Built once; `None` where it cannot be.
fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    LIBRARY.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    const { assert!(KNOBS * 8 <= 4_096) };
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return skipped("they need LD_PRELOAD as glibc has it");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/disk.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let unfinished = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o"]);
    match command.arg(unfinished.path()).arg(source).arg("-lpthread").output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return skipped("there is no C compiler (cc)"),
        Err(error) => panic!("cc: {error}"),
        Ok(built) => assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr)),
    }
    // Renamed into place: another run may be using it.
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults-disk.so");
    unfinished.persist(&library).unwrap();
    Some(library)
}

fn skipped(why: &str) -> Option<PathBuf> {
    eprintln!("SKIPPED: faults beneath the store are not tried: {why}");
    None
}
