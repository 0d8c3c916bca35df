//! What a disk may hold after a power loss.
//!
//! From the log of `tests/faults/disk.c`: everything that was written and not synced is undone, then a part of it, drawn
//! by the dice, is done again, the last of it torn between sectors. Names that were made, taken away or changed survive
//! up to some point, as in the journal of a file system. A sync that failed has kept nothing safe and says "clean" ever
//! after, as Linux does: what it was asked for can be lost at any later time, and what came after it cannot.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;
const PAGE: usize = 4_096;

/// What was lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// Writes that had not been synced,
    pub unsynced: usize,
    /// and those of them of which nothing, or not all, is left.
    pub lost: usize,
    /// Names whose change was undone.
    pub names: usize,
}

struct Change {
    sequence: u64,
    offset: u64,
    old_size: u64,
    old: Vec<u8>,
    /// `None`: the file was cut, or made longer, to end at `offset`.
    new: Option<Vec<u8>>,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unsynced,
    /// A sync of it has failed.
    Doomed,
    /// Safe, but laid over something that is not.
    Synced,
}

enum Name {
    Made(PathBuf),
    Removed { inode: u64, path: PathBuf },
    Changed { replaced: u64, from: PathBuf, to: PathBuf },
}

#[derive(Default)]
struct Log {
    files: BTreeMap<u64, Vec<Change>>,
    /// With its number and its directory.
    names: Vec<(u64, u64, Name)>,
}

/// With how much of what was not synced the disk gets away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    Drawn,
    /// Nothing.
    None,
}

pub fn play(store: &Path, rig: &Path, luck: Luck, dice: &mut fastrand::Rng) -> Loss {
    let (log_file, graves) = (rig.join("log"), rig.join("graves"));
    let Log { files, names } = read(&fs::read(&log_file).unwrap_or_default(), dice);
    let mut loss = Loss::default();
    let survive = if luck == Luck::None { 0 } else { dice.usize(..=names.len()) };
    for (_, _, name) in names.into_iter().skip(survive).rev() {
        name.undo(&graves);
        loss.names += 1;
    }
    let mut places = BTreeMap::new();
    find(&graves, &mut places);
    find(store, &mut places);
    for (inode, changes) in files {
        let Some(path) = places.get(&inode) else { continue };
        let file = File::options().write(true).open(path).unwrap();
        lose(&file, &changes, luck, dice, &mut loss);
    }
    for path in places.values().filter(|path| path.to_string_lossy().ends_with("-shm")) {
        // Shared memory: what of it reached the disk is anybody's guess.
        let noise: Vec<u8> = (0..fs::metadata(path).unwrap().len()).map(|_| dice.u8(..)).collect();
        fs::write(path, noise).unwrap();
    }
    fs::remove_file(log_file).unwrap_or_default();
    fs::remove_dir_all(&graves).unwrap();
    fs::create_dir(&graves).unwrap();
    loss
}

fn find(directory: &Path, places: &mut BTreeMap<u64, PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let is = entry.metadata().unwrap();
        if is.is_dir() {
            find(&entry.path(), places);
        } else {
            places.insert(is.ino(), entry.path());
        }
    }
}

fn read(mut log: &[u8], dice: &mut fastrand::Rng) -> Log {
    let mut read = Log::default();
    // The last entry may have been cut short by a kill: what it announces was never begun.
    while let Some((head, rest)) = log.split_first_chunk::<56>() {
        let [kind, sequence, inode, offset, old_size, old_len, new_len] =
            std::array::from_fn(|n| u64::from_ne_bytes(head[8 * n..][..8].try_into().unwrap()));
        let (old_len, new_len) = (usize::try_from(old_len).unwrap(), usize::try_from(new_len).unwrap());
        if rest.len() < old_len + new_len {
            break;
        }
        let (old, rest) = rest.split_at(old_len);
        let (new, rest) = rest.split_at(new_len);
        log = rest;
        let path = |bytes: &[u8]| PathBuf::from(std::str::from_utf8(bytes).unwrap());
        match kind {
            1 | 2 => read.files.entry(inode).or_default().push(Change {
                sequence,
                offset,
                old_size,
                old: old.to_vec(),
                new: (kind == 1).then(|| new.to_vec()),
                fate: Fate::Unsynced,
            }),
            3 => read.synced(inode, offset),
            4 => {
                for change in read.files.entry(inode).or_default() {
                    if change.fate == Fate::Unsynced && change.sequence <= offset && dice.bool() {
                        change.fate = Fate::Doomed;
                    }
                }
            }
            5 => read.names.push((sequence, offset, Name::Made(path(new)))),
            6 => read.names.push((sequence, offset, Name::Removed { inode, path: path(new) })),
            7 => {
                let name = Name::Changed { replaced: inode, from: path(old), to: path(new) };
                read.names.push((sequence, offset, name));
            }
            _ => panic!("no entry of a log: kind {kind}"),
        }
    }
    read
}

impl Log {
    /// Everything of the file, or the directory, up to this number is safe.
    fn synced(&mut self, inode: u64, covered: u64) {
        self.names.retain(|(sequence, directory, _)| *directory != inode || *sequence > covered);
        let Some(changes) = self.files.get_mut(&inode) else { return };
        for change in changes.iter_mut().filter(|change| change.sequence <= covered) {
            if change.fate == Fate::Unsynced {
                change.fate = Fate::Synced;
            }
        }
        let safe = changes.iter().take_while(|change| change.fate == Fate::Synced).count();
        changes.drain(..safe);
    }
}

impl Name {
    fn undo(self, graves: &Path) {
        // A kill may have come between the log and the deed: then it is still there.
        let back = |inode: u64, path: &Path| match fs::hard_link(graves.join(inode.to_string()), path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {error}", path.display()),
            _ => {}
        };
        match self {
            // Its bytes go with it, since nothing else names them.
            Name::Made(path) => fs::remove_file(path).unwrap_or_default(),
            Name::Removed { inode, path } => back(inode, &path),
            Name::Changed { replaced, from, to } => {
                if fs::rename(&to, from).is_ok() && replaced != 0 {
                    back(replaced, &to);
                }
            }
        }
    }
}

/// Undoes everything, and does again what survives.
fn lose(file: &File, changes: &[Change], luck: Luck, dice: &mut fastrand::Rng, loss: &mut Loss) {
    let unsynced = changes.iter().filter(|change| change.fate != Fate::Synced).count();
    if unsynced == 0 {
        return;
    }
    loss.unsynced += unsynced;
    for change in changes.iter().rev() {
        file.write_all_at(&change.old, change.offset).unwrap();
        file.set_len(change.old_size).unwrap();
    }
    // Nothing, everything, everything up to some moment, or whatever the disk happened to take first.
    let way = if luck == Luck::None { 0 } else { dice.u8(..4) };
    let until = dice.usize(..=unsynced);
    let mut nth = 0;
    for change in changes {
        let part = if change.fate == Fate::Synced {
            Part::All
        } else {
            nth += 1;
            match way {
                0 => Part::Nothing,
                1 => Part::All,
                2 if nth == until => Part::Torn,
                2 if nth < until => Part::All,
                2 => Part::Nothing,
                _ if nth == unsynced => Part::Torn,
                _ if dice.bool() => Part::All,
                _ => Part::Nothing,
            }
        };
        if part != Part::All {
            loss.lost += 1;
        }
        match (&change.new, part) {
            (_, Part::Nothing) => {}
            (None, _) => file.set_len(change.offset).unwrap(),
            (Some(new), Part::All) => file.write_all_at(new, change.offset).unwrap(),
            (Some(new), Part::Torn) => tear(file, new, change.offset, dice),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Torn,
    All,
}

/// Some of the sectors, at their places in the file.
fn tear(file: &File, new: &[u8], offset: u64, dice: &mut fastrand::Rng) {
    let unit = if dice.bool() { SECTOR } else { PAGE };
    let mut at = 0;
    while at < new.len() {
        let inside = usize::try_from(offset % unit as u64).unwrap() * usize::from(at == 0);
        let end = new.len().min(at + unit - inside);
        if dice.bool() {
            file.write_all_at(&new[at..end], offset + at as u64).unwrap();
        }
        at = end;
    }
}
