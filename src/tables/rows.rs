//! The vendor's rules for a table (contract §7), with the vendor's messages.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use csv::{ByteRecord, Reader, ReaderBuilder};
use serde::Serialize;

/// The vendor's limit, inflated. 4 bytes are enough for any place in a table.
pub const MAX_TABLE_BYTES: u64 = 100 * 1024 * 1024;

/// Failed rows that an answer names.
pub const SHOWN: usize = 10;

/// What is wrong with a row. The messages of the first three are the vendor's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    #[error("primary key is required and cannot be blank")]
    BlankKey,
    #[error("invalid row: wrong number of fields")]
    FieldCount,
    #[error("invalid row: row indexes {first} and {second} have the same primary key")]
    SameKey { first: u32, second: u32 },
    #[error("invalid row: not UTF-8")]
    NotUtf8,
    /// Most likely a quote that is never closed.
    #[error("invalid row: too long, or a quote is not closed")]
    TooLong,
    #[error("invalid header: the table is empty")]
    NoHeader,
    #[error("invalid header: column {0} has no name")]
    UnnamedColumn(usize),
    #[error("invalid header: two columns are named \"{0}\"")]
    SameName(String),
}

/// A row that fails the table. The header is row 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    pub index: u32,
    pub problem: RowProblem,
}

#[derive(Serialize)]
struct WireFailure {
    index: u32,
    message: String,
}

impl Serialize for FailedRow {
    /// As in the vendor's `failed_records`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireFailure { index: self.index, message: self.problem.to_string() }.serialize(serializer)
    }
}

/// The first failed rows, in whichever order they are found.
#[derive(Debug, Default)]
pub struct Failures(BTreeMap<u32, RowProblem>);

impl Failures {
    pub fn add(&mut self, index: u32, problem: RowProblem) {
        self.0.entry(index).or_insert(problem);
        if self.0.len() > SHOWN {
            self.0.pop_last();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_rows(self) -> Vec<FailedRow> {
        self.0.into_iter().map(|(index, problem)| FailedRow { index, problem }).collect()
    }
}

/// A reader of RFC 4180. Whether rows are as long as the header is for [`row_problem`] to say.
pub fn reader<R: Read>(source: R, buffer: usize) -> Reader<R> {
    ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(buffer).from_reader(source)
}

/// The names of the columns; the first is the key.
pub fn header(record: &ByteRecord) -> Result<Vec<String>, RowProblem> {
    let mut names = Vec::with_capacity(record.len());
    let mut seen = HashSet::new();
    for (at, field) in record.iter().enumerate() {
        let name = std::str::from_utf8(field).map_err(|_| RowProblem::NotUtf8)?;
        if name.trim().is_empty() {
            return Err(RowProblem::UnnamedColumn(at + 1));
        }
        if !seen.insert(name) {
            return Err(RowProblem::SameName(name.to_owned()));
        }
        names.push(name.to_owned());
    }
    if names.is_empty() { Err(RowProblem::NoHeader) } else { Ok(names) }
}

/// What is wrong with a row by itself.
pub fn row_problem(record: &ByteRecord, columns: usize) -> Option<RowProblem> {
    if record.len() != columns {
        return Some(RowProblem::FieldCount);
    }
    if record.iter().any(|field| std::str::from_utf8(field).is_err()) {
        return Some(RowProblem::NotUtf8);
    }
    // Checked to be UTF-8 just above.
    let key = record.get(0).and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
    key.trim().is_empty().then_some(RowProblem::BlankKey)
}
