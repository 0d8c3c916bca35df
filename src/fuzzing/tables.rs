//! Lookup tables: a CSV that is taken answers for every row with what another reader finds there, and a file that a disk
//! has damaged answers with nothing, or with what it held.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use serde_json::Value;

use super::first_line;
use crate::tables::file::Source;
use crate::tables::{BuildError, TableFile, build, cell};

/// First line: where the finished file is damaged, as pairs of a place and a byte. The rest is the CSV, gzip or plain.
pub fn tables(data: &[u8]) {
    let (damage, csv) = first_line(data);
    if let Ok(text) = std::str::from_utf8(csv) {
        check_cell(text);
    }
    let mut source = tempfile::tempfile_in(scratch()).expect("a scratch file");
    source.write_all(csv).expect("room for it");
    let target = tempfile::NamedTempFile::new_in(scratch()).expect("a scratch file");
    let table = match build(source, target.path(), Source { file: None, sent: true }) {
        Ok(table) => table,
        Err(BuildError::Invalid(failed)) => {
            assert!(!failed.is_empty() && failed.is_sorted_by(|a, b| a.index < b.index));
            return;
        }
        Err(BuildError::NotInflatable | BuildError::TooLarge) => return,
        Err(BuildError::Io(error)) => panic!("{error}"),
    };
    let mut plain = vec![0; usize::try_from(table.bytes()).expect("small")];
    std::fs::File::open(target.path())
        .expect("it was built")
        .read_exact_at(&mut plain, 0)
        .expect("the CSV is in front");
    let rows = rows(&plain, &table);
    check_rows(&table, &rows);
    let reopened = TableFile::open(target.path()).expect("what was built opens");
    assert_eq!(reopened.meta(), table.meta());
    check_rows(&reopened, &rows);

    let length = std::fs::metadata(target.path()).expect("it was built").len();
    let file = std::fs::File::options().write(true).open(target.path()).expect("ours");
    for pair in damage.as_chunks::<2>().0 {
        // From the end: the trailer, the guide and the index are what a reader believes.
        let place = length.saturating_sub(1 + u64::from(pair[0]));
        file.write_all_at(&pair[1..], place).expect("ours");
    }
    if let Ok(damaged) = TableFile::open(target.path()) {
        for key in rows.keys() {
            // Not found, or an error, or a row: never a panic, and no more memory than the file is long.
            drop(damaged.row(key));
        }
    }
}

/// Keys and cells by a reader that keeps everything in memory.
fn rows(csv: &[u8], table: &TableFile) -> BTreeMap<String, Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(true).flexible(false).from_reader(csv);
    let columns: Vec<&str> = table.meta().columns.iter().map(String::as_str).collect();
    assert_eq!(reader.headers().expect("a good header").iter().collect::<Vec<_>>(), columns);
    let mut rows = BTreeMap::new();
    for row in reader.records() {
        let row: Vec<String> = row.expect("a good row").iter().map(str::to_owned).collect();
        assert!(rows.insert(row[0].clone(), row).is_none(), "two rows have one key");
    }
    assert_eq!(rows.len(), table.meta().rows as usize);
    rows
}

fn check_rows(table: &TableFile, rows: &BTreeMap<String, Vec<String>>) {
    for (key, cells) in rows {
        let row = table.row(key).expect("ours").unwrap_or_else(|| panic!("no row {key:?}"));
        assert_eq!(row.key(), key);
        for (column, text) in cells.iter().enumerate() {
            assert_eq!(
                row.json(column).map(|raw| raw.get().to_owned()),
                cell::json(text).map(|raw| raw.get().to_owned())
            );
        }
        assert!(row.json(cells.len()).is_none());
    }
    let missing = rows.keys().next_back().map_or_else(|| "x".to_owned(), |last| format!("{last}x"));
    assert!(table.row(&missing).expect("ours").is_none());
}

/// Whatever a cell means, it is JSON, and what is text is the cell's own.
fn check_cell(text: &str) {
    let Some(json) = cell::json(text) else { return assert_eq!(text, "") };
    match serde_json::from_str::<Value>(json.get()).expect("a cell is JSON") {
        Value::String(same) => assert_eq!(same, text),
        _ => assert_eq!(json.get(), text),
    }
}

/// In memory where there is such a place: a table is synced before it is used.
fn scratch() -> &'static std::path::Path {
    let memory = std::path::Path::new("/dev/shm");
    static SCRATCH: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    SCRATCH.get_or_init(|| if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() })
}
