//! A table as it is kept: the CSV itself, then an index of its rows.
//!
//! ```text
//! CSV, inflated, byte for byte
//! index    16 bytes a row, in order of hash: hash of the key (8), offset (4) and length (4) of the row in the CSV
//! guide    the hash of every 128th index entry (8 bytes each): the only part that is held in memory
//! meta     JSON: columns, rows, where the table came from
//! trailer  lengths of CSV, guide and meta, checksum of guide and meta, magic
//! ```
//!
//! Numbers are little-endian. Rows are found by two reads: of the index entries between two guide posts (2 KiB), and of
//! the row, whose key is then compared. The rows themselves carry no checksum: the file is synced before it gets its
//! name, and a row that the disk has damaged since is at worst not found.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use csv_core::{ReadRecordResult, Reader};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::cell;

pub(super) const MAGIC: &[u8; 8] = b"MXRTBL01";
pub(super) const TRAILER: usize = 40;
pub(super) const ENTRY: usize = 16;
/// Index entries between two guide posts.
pub(super) const STRIDE: usize = 128;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The first is the key.
    pub columns: Vec<String>,
    pub rows: u32,
    pub source: Source,
}

/// Where a table came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Source {
    /// The CSV file of the configuration as it was last looked at; `None`: the table has no such file, or came before
    /// one was named. A table that came by HTTP keeps the stamp of the file that it replaced: only a change of the file
    /// replaces it in turn.
    pub file: Option<FileStamp>,
    /// The table came by HTTP.
    pub sent: bool,
}

/// What tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    pub modified_ns: u64,
    pub bytes: u64,
}

/// Why a kept table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} is no table of this version, or is damaged")]
    Damaged(PathBuf),
}

/// An index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub hash: u64,
    pub offset: u32,
    pub length: u32,
}

impl Entry {
    pub fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY]) -> Self {
        let [a, b, c, d, e, f, g, h, o0, o1, o2, o3, l0, l1, l2, l3] = *bytes;
        Self {
            hash: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            offset: u32::from_le_bytes([o0, o1, o2, o3]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }
}

pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The end of a file.
pub(super) fn trailer(csv_bytes: u64, guide: &[u8], meta: &[u8]) -> [u8; TRAILER] {
    let mut bytes = [0; TRAILER];
    bytes[..8].copy_from_slice(&csv_bytes.to_le_bytes());
    bytes[8..16].copy_from_slice(&(guide.len() as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&(meta.len() as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&checksum(guide, meta).to_le_bytes());
    bytes[32..].copy_from_slice(MAGIC);
    bytes
}

fn checksum(guide: &[u8], meta: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(guide);
    hash.update(meta);
    hash.digest()
}

/// A table that can be asked, by any number of threads at once.
#[derive(Debug)]
pub struct TableFile {
    file: File,
    csv_bytes: u64,
    guide: Vec<u64>,
    meta: Meta,
    /// Made once: that costs ten times a look-up. (A clone of one does not work.)
    parser: Mutex<Reader>,
}

impl TableFile {
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Self::parse(file, length)?.ok_or_else(|| OpenError::Damaged(path.to_owned()))
    }

    /// `None` for a file that is not what its trailer says.
    fn parse(file: File, length: u64) -> io::Result<Option<Self>> {
        let Some(end) = length.checked_sub(TRAILER as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, end)?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&trailer[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (csv_bytes, guide_bytes, meta_bytes) = (number(0), number(8), number(16));
        let tail = guide_bytes.checked_add(meta_bytes).filter(|tail| *tail <= end && guide_bytes.is_multiple_of(8));
        let (Some(tail), true) = (tail, &trailer[32..] == MAGIC) else { return Ok(None) };
        let tail_bytes = usize::try_from(tail).unwrap_or(usize::MAX); // no longer than the file
        let mut tail = vec![0; tail_bytes];
        file.read_exact_at(&mut tail, end - tail_bytes as u64)?;
        let (guide, meta) = tail.split_at(tail_bytes - usize::try_from(meta_bytes).unwrap_or(tail_bytes));
        if checksum(guide, meta) != number(24) {
            return Ok(None);
        }
        let Ok(meta) = serde_json::from_slice::<Meta>(meta) else { return Ok(None) };
        // No checksum covers the length of the CSV: a disk may have made anything of it.
        if csv_bytes.checked_add(u64::from(meta.rows) * ENTRY as u64 + tail_bytes as u64) != Some(end) {
            return Ok(None);
        }
        let (posts, _) = guide.as_chunks::<8>();
        let guide = posts.iter().map(|post| u64::from_le_bytes(*post)).collect();
        Ok(Some(Self { file, csv_bytes, guide, meta, parser: Mutex::new(Reader::new()) }))
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of the CSV.
    pub fn bytes(&self) -> u64 {
        self.csv_bytes
    }

    /// The column called `name`, to be asked of a row.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.meta.columns.iter().position(|column| column == name)
    }

    /// The row of `key`.
    pub fn row(&self, key: &str) -> io::Result<Option<Row>> {
        let hash = hash(key.as_bytes());
        // Equal hashes may begin before a guide post and end behind it.
        let begin = self.guide.partition_point(|post| *post < hash).saturating_sub(1) * STRIDE;
        let end = (self.guide.partition_point(|post| *post <= hash) * STRIDE).min(self.meta.rows as usize);
        let mut index = vec![0; end.saturating_sub(begin) * ENTRY];
        self.file.read_exact_at(&mut index, self.csv_bytes + (begin * ENTRY) as u64)?;
        let (entries, _) = index.as_chunks::<ENTRY>();
        let first = entries.partition_point(|entry| Entry::from_bytes(entry).hash < hash);
        for entry in entries[first..].iter().map(Entry::from_bytes).take_while(|entry| entry.hash == hash) {
            if let Some(row) = self.read(entry)?.filter(|row| row.key() == key) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn read(&self, entry: Entry) -> io::Result<Option<Row>> {
        if u64::from(entry.offset) + u64::from(entry.length) > self.csv_bytes {
            return Ok(None);
        }
        let mut text = vec![0; entry.length as usize];
        self.file.read_exact_at(&mut text, entry.offset.into())?;
        Ok(self.parse_row(&text))
    }

    /// `None` for what is no row of this table: the disk has damaged it.
    fn parse_row(&self, mut text: &[u8]) -> Option<Row> {
        let mut parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
        parser.reset();
        // One more of each than is filled: the parser stops at a full buffer before it has seen the row's end.
        let (mut cells, mut ends) = (vec![0; text.len() + 1], vec![0; self.meta.columns.len() + 1]);
        let (mut written, mut ended) = (0, 0);
        loop {
            let (result, read, out, fields) = parser.read_record(text, &mut cells[written..], &mut ends[ended..]);
            (text, written, ended) = (&text[read..], written + out, ended + fields);
            match result {
                // The last row may lack its line end; asked again with nothing, the parser ends it.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record => break,
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull | ReadRecordResult::End => return None,
            }
        }
        cells.truncate(written);
        ends.truncate(ended);
        Some(Row { cells: String::from_utf8(cells).ok()?, ends })
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// One behind the other.
    cells: String,
    ends: Vec<usize>,
}

impl Row {
    pub fn key(&self) -> &str {
        self.cell(0).unwrap_or_default()
    }

    fn cell(&self, column: usize) -> Option<&str> {
        let begin = if column == 0 { 0 } else { *self.ends.get(column - 1)? };
        self.cells.get(begin..*self.ends.get(column)?)
    }

    /// A cell as JSON; `None` when it is empty.
    pub fn json(&self, column: usize) -> Option<Box<RawValue>> {
        cell::json(self.cell(column)?)
    }
}
