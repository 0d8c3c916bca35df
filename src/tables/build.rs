//! From CSV to a table's file ([`super::file`]).
//!
//! One pass writes the CSV down, judges each row and collects the index. A table with more rows than fit into the memory
//! set aside is read again from the file, a range of hashes at a time.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;

use super::file::{self, Entry, Meta, STRIDE, Source, TableFile};
use super::rows::{self, FailedRow, Failures, MAX_TABLE_BYTES, RowProblem};

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of the CSV, inflated.
    pub table: u64,
    /// Index entries sorted at a time.
    pub sorted_at_once: usize,
}

/// Sorting a million entries takes 24 MiB.
const LIMITS: Limits = Limits { table: MAX_TABLE_BYTES, sorted_at_once: 1 << 20 };
const BUFFER: usize = 64 << 10;
/// Longest row, less what is read ahead.
const MAX_ROW_BYTES: u64 = 4 << 20;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the table has more than {MAX_TABLE_BYTES} bytes")]
    TooLarge,
    #[error("the gzip stream is broken")]
    NotInflatable,
    /// The first of the rows that fail it.
    #[error("{}", summary(.0))]
    Invalid(Vec<FailedRow>),
    #[error("the table's file: {0}")]
    Io(io::Error),
}

fn summary(failed: &[FailedRow]) -> String {
    let rows: Vec<_> = failed.iter().map(|row| format!("row {}: {}", row.index, row.problem)).collect();
    rows.join("; ")
}

/// Reads a table, gzip or plain, from `csv` and writes it to `target`, a name that nobody looks at yet. When it returns,
/// the file is whole and synced. What it leaves behind on an error is for the caller to remove.
pub fn build(csv: File, target: &Path, source: Source) -> Result<TableFile, BuildError> {
    build_by(csv, target, source, LIMITS)
}

pub(super) fn build_by(mut csv: File, target: &Path, source: Source, limits: Limits) -> Result<TableFile, BuildError> {
    let sorted_at_once = limits.sorted_at_once;
    let gzip = is_gzip(&csv).map_err(BuildError::Io)?;
    csv.seek(SeekFrom::Start(0)).map_err(BuildError::Io)?;
    let csv = BufReader::with_capacity(BUFFER, csv);
    let input: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(csv)) } else { Box::new(csv) };
    let out =
        File::options().read(true).write(true).create(true).truncate(true).open(target).map_err(BuildError::Io)?;

    let out = BufWriter::with_capacity(BUFFER, &out);
    let mut copy = Copying { input, out, limit: limits.table, bytes: 0, row: 0, row_from: 0, stopped: None };
    let scanned = scan(&mut copy, sorted_at_once);
    let Copying { out, bytes, stopped, .. } = copy;
    let mut scan = match (scanned, stopped) {
        (_, Some(Stopped::TooLarge)) => return Err(BuildError::TooLarge),
        (_, Some(Stopped::Input)) if gzip => return Err(BuildError::NotInflatable),
        (_, Some(Stopped::LongRow(row))) => {
            return Err(BuildError::Invalid(vec![FailedRow { index: row, problem: RowProblem::TooLong }]));
        }
        (scanned, _) => scanned.map_err(BuildError::Io)?,
    };
    let out = out.into_inner().map_err(|error| BuildError::Io(error.into_error()))?;
    let guide = index(out, bytes, &mut scan, sorted_at_once).map_err(BuildError::Io)?;
    if !scan.failures.is_empty() {
        return Err(BuildError::Invalid(scan.failures.into_rows()));
    }
    let meta = Meta { columns: scan.columns, rows: scan.rows, source };
    finish(out, bytes, &guide, &meta).map_err(BuildError::Io)?;
    TableFile::open(target).map_err(|error| BuildError::Io(io::Error::other(error)))
}

fn is_gzip(csv: &File) -> io::Result<bool> {
    let mut magic = [0; 2];
    Ok(csv.read_at(&mut magic, 0)? == 2 && magic == [0x1f, 0x8b])
}

/// Why no more of the CSV came.
enum Stopped {
    TooLarge,
    Input,
    LongRow(u32),
}

/// Writes down what is read through it, up to the vendor's limit.
struct Copying<R, W> {
    input: R,
    out: W,
    limit: u64,
    bytes: u64,
    /// The row that is being read, and where it began: a quote that is never closed makes one row of all the rest.
    row: u32,
    row_from: u64,
    stopped: Option<Stopped>,
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer).inspect_err(|_| self.stopped = Some(Stopped::Input))?;
        self.bytes += read as u64;
        if self.bytes > self.limit {
            self.stopped = Some(Stopped::TooLarge);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if self.bytes - self.row_from > MAX_ROW_BYTES {
            self.stopped = Some(Stopped::LongRow(self.row));
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// What the first pass finds.
struct Scan {
    columns: Vec<String>,
    rows: u32,
    failures: Failures,
    /// Every row's, unless there are more than are sorted at once.
    found: Option<Vec<Numbered>>,
}

/// An index entry and its row's number. Sorts by hash, then by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Numbered {
    entry: Entry,
    row: u32,
}

fn scan<R: Read, W: Write>(copy: &mut Copying<R, W>, sorted_at_once: usize) -> io::Result<Scan> {
    let mut reader = rows::reader(copy, BUFFER);
    let mut record = ByteRecord::new();
    let mut scan = Scan { columns: Vec::new(), rows: 0, failures: Failures::default(), found: Some(Vec::new()) };
    reader.read_byte_record(&mut record)?;
    match rows::header(&record) {
        Ok(columns) => scan.columns = columns,
        Err(problem) => {
            scan.failures.add(0, problem);
            return Ok(scan);
        }
    }
    loop {
        let end = reader.position().byte();
        let copy = reader.get_mut();
        (copy.row, copy.row_from) = (scan.rows + 1, end);
        if !reader.read_byte_record(&mut record)? {
            return Ok(scan);
        }
        scan.rows += 1; // there are fewer rows than bytes
        if let Some(problem) = rows::row_problem(&record, scan.columns.len()) {
            scan.failures.add(scan.rows, problem);
            continue;
        }
        if scan.found.as_ref().is_some_and(|found| found.len() == sorted_at_once) {
            scan.found = None;
        }
        if let Some(found) = &mut scan.found {
            found.push(numbered(&record, reader.position().byte(), scan.rows));
        }
    }
}

fn numbered(record: &ByteRecord, end: u64, row: u32) -> Numbered {
    let offset = record.position().map_or(0, csv::Position::byte);
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX); // a table is smaller than 4 GiB
    let hash = file::hash(record.get(0).unwrap_or_default());
    Numbered { entry: Entry { hash, offset: narrow(offset), length: narrow(end - offset) }, row }
}

/// Writes the index behind the CSV and returns the guide to it. Finds the rows that share a key.
fn index(out: &File, csv_bytes: u64, scan: &mut Scan, sorted_at_once: usize) -> io::Result<Vec<u8>> {
    let mut writer = BufWriter::with_capacity(BUFFER, out);
    let mut guide = Vec::new();
    let mut written = 0;
    // Hashes are spread evenly; three quarters full on average leaves room for the uneven.
    let ranges = match &scan.found {
        Some(_) => 1,
        None => (scan.rows as usize).div_ceil((sorted_at_once * 3 / 4).max(1)) as u64,
    };
    let share = u64::MAX / ranges + u64::from(ranges > 1);
    for range in 0..ranges {
        let mut entries = match scan.found.take() {
            Some(found) => found,
            None => rows_of_range(out, csv_bytes, scan.columns.len(), |hash| hash / share == range)?,
        };
        entries.sort_unstable();
        same_keys(out, &entries, &mut scan.failures)?;
        for numbered in &entries {
            if written % STRIDE == 0 {
                guide.extend_from_slice(&numbered.entry.hash.to_le_bytes());
            }
            writer.write_all(&numbered.entry.to_bytes())?;
            written += 1;
        }
    }
    writer.flush()?;
    Ok(guide)
}

/// The good rows whose key's hash is `wanted`, read again from the file.
fn rows_of_range(
    out: &File,
    csv_bytes: u64,
    columns: usize,
    wanted: impl Fn(u64) -> bool,
) -> io::Result<Vec<Numbered>> {
    let mut reader = rows::reader(Section { file: out, at: 0, end: csv_bytes }, BUFFER);
    let mut record = ByteRecord::new();
    let mut found = Vec::new();
    let mut row = 0;
    reader.read_byte_record(&mut record)?;
    while reader.read_byte_record(&mut record)? {
        row += 1;
        if rows::row_problem(&record, columns).is_none() {
            let numbered = numbered(&record, reader.position().byte(), row);
            if wanted(numbered.entry.hash) {
                found.push(numbered);
            }
        }
    }
    Ok(found)
}

/// Part of a file, read without moving its cursor.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Rows of one hash with the same key fail the table. Different keys of one hash are as good as impossible, and harmless.
fn same_keys(out: &File, sorted: &[Numbered], failures: &mut Failures) -> io::Result<()> {
    for group in sorted.chunk_by(|a, b| a.entry.hash == b.entry.hash).filter(|group| group.len() > 1) {
        let mut group = group.to_vec();
        group.sort_unstable_by_key(|numbered| numbered.row);
        let mut before: Option<(Vec<u8>, u32)> = None;
        for Numbered { entry, row } in group {
            let key = key_of(out, entry)?;
            if let Some((same, first)) = &before
                && *same == key
            {
                failures.add(row, RowProblem::SameKey { first: *first, second: row });
            }
            before = Some((key, row));
        }
    }
    Ok(())
}

fn key_of(out: &File, entry: Entry) -> io::Result<Vec<u8>> {
    let mut text = vec![0; entry.length as usize];
    out.read_exact_at(&mut text, entry.offset.into())?;
    let mut record = ByteRecord::new();
    rows::reader(text.as_slice(), text.len()).read_byte_record(&mut record)?;
    Ok(record.get(0).unwrap_or_default().to_vec())
}

fn finish(mut out: &File, csv_bytes: u64, guide: &[u8], meta: &Meta) -> io::Result<()> {
    let meta = serde_json::to_vec(meta)?;
    out.seek(SeekFrom::End(0))?;
    out.write_all(guide)?;
    out.write_all(&meta)?;
    out.write_all(&file::trailer(csv_bytes, guide, &meta))?;
    out.sync_all()
}
