use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::build::{Limits, build_by};
use super::file::Source;
use super::*;

const SENT: Source = Source { file: None, sent: true };

fn built_by(directory: &TempDir, csv: &[u8], sorted_at_once: usize) -> Result<TableFile, BuildError> {
    let input = directory.path().join("input");
    fs::write(&input, csv).unwrap();
    build_by(
        File::open(&input).unwrap(),
        &directory.path().join("table"),
        SENT,
        Limits { table: 1 << 24, sorted_at_once },
    )
}

fn built(directory: &TempDir, csv: &str) -> Result<TableFile, BuildError> {
    built_by(directory, csv.as_bytes(), 1000)
}

fn cell(table: &TableFile, key: &str, column: &str) -> Option<String> {
    let column = table.column(column).unwrap();
    table.row(key).unwrap()?.json(column).map(|raw| raw.get().to_owned())
}

fn failures(csv: &str) -> Vec<(u32, String)> {
    let directory = tempfile::tempdir().unwrap();
    match built(&directory, csv) {
        Err(BuildError::Invalid(failed)) => {
            failed.into_iter().map(|row| (row.index, row.problem.to_string())).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_row_is_found_by_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let csv = "\u{feff}id,name,price,tags\r\n1,Mug,9.50,\"[\"\"a\"\",\"\"b\"\"]\"\r\n\"two, or 2\",\"a \"\"quoted\"\"\nname\",,\n3,x,true,y";
    let table = built(&directory, csv).unwrap();
    assert_eq!(table.meta().columns, ["id", "name", "price", "tags"]);
    assert_eq!((table.meta().rows, table.bytes()), (3, csv.len() as u64));
    assert_eq!(cell(&table, "1", "name").as_deref(), Some(r#""Mug""#));
    assert_eq!(cell(&table, "1", "price").as_deref(), Some("9.50"));
    assert_eq!(cell(&table, "1", "tags").as_deref(), Some(r#"["a","b"]"#));
    assert_eq!(cell(&table, "two, or 2", "name").as_deref(), Some(r#""a \"quoted\"\nname""#));
    assert_eq!(cell(&table, "two, or 2", "price"), None);
    assert_eq!(cell(&table, "3", "price").as_deref(), Some("true"));
    assert!(table.row("4").unwrap().is_none() && table.row("").unwrap().is_none());
    assert_eq!(table.column("colour"), None);
}

#[test]
fn the_vendors_rules_have_the_vendors_words() {
    let blank = "primary key is required and cannot be blank".to_owned();
    let fields = "invalid row: wrong number of fields".to_owned();
    assert_eq!(
        failures("id,a\n1,x\n,y\n3\n4,x,y\n \t,z\n"),
        [(2, blank.clone()), (3, fields.clone()), (4, fields.clone()), (5, blank)]
    );
    assert_eq!(
        failures("id\n7\n7\n8\n7\n"),
        [
            (2, "invalid row: row indexes 1 and 2 have the same primary key".to_owned()),
            (4, "invalid row: row indexes 2 and 4 have the same primary key".to_owned()),
        ]
    );
    assert_eq!(failures(""), [(0, "invalid header: the table is empty".to_owned())]);
    assert_eq!(failures("id,a,a\n"), [(0, "invalid header: two columns are named \"a\"".to_owned())]);
    assert_eq!(failures("id,,a\n"), [(0, "invalid header: column 2 has no name".to_owned())]);
    // At most ten are named, and those are the first.
    let many: String = (0..40).map(|_| "1,2\n").collect();
    let named: Vec<u32> = failures(&format!("id\n{many}")).into_iter().map(|(index, _)| index).collect();
    assert_eq!(named, (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let csv = format!("id,a\n1,x\n2,\"{}", "y,z\n".repeat(1 << 21));
    assert_eq!(failures(&csv), [(2, "invalid row: too long, or a quote is not closed".to_owned())]);
}

#[test]
fn a_table_of_a_header_alone_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let table = built(&directory, "id,a\n").unwrap();
    assert_eq!(table.meta().rows, 0);
    assert!(table.row("1").unwrap().is_none());
}

#[test]
fn gzip_is_inflated_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let zip = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    let table = built_by(&directory, &zip(b"id,a\n1,x\n"), 10).unwrap();
    assert_eq!(cell(&table, "1", "a").as_deref(), Some(r#""x""#));
    let whole = zip(b"id,a\n1,x\n");
    assert!(matches!(built_by(&directory, &whole[..whole.len() - 9], 10), Err(BuildError::NotInflatable)));
    let bomb = zip("1,some text that packs well\n".repeat(1 << 20).as_bytes());
    assert!(matches!(built_by(&directory, &bomb, 10), Err(BuildError::TooLarge)));
}

#[test]
fn what_is_not_a_whole_table_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    drop(built(&directory, "id,a\n1,x\n").unwrap());
    let path: PathBuf = directory.path().join("table");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(TableFile::open(&path), Err(OpenError::Damaged(_))), "{length}");
    }
    let mut flipped = whole.clone();
    let guide = whole.len() - file::TRAILER - 20;
    flipped[guide] ^= 1;
    fs::write(&path, &flipped).unwrap();
    assert!(matches!(TableFile::open(&path), Err(OpenError::Damaged(_))));
}

proptest! {
    /// However little is sorted at a time, every row is found, and a key that is there twice is told.
    #[test]
    fn a_table_answers_as_a_map_would(keys in prop::collection::btree_set("[a-c,\"\n ]{0,3}x", 0..300), at_once in 1usize..400) {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["id", "n"]).unwrap();
        for (n, key) in keys.iter().enumerate() {
            writer.write_record([key.as_str(), &n.to_string()]).unwrap();
        }
        let mut csv = writer.into_inner().unwrap();
        let table = built_by(&directory, &csv, at_once).unwrap();
        prop_assert_eq!(table.meta().rows as usize, keys.len());
        for (n, key) in keys.iter().enumerate() {
            prop_assert_eq!(cell(&table, key, "n"), Some(n.to_string()));
        }
        prop_assert!(table.row("absent").unwrap().is_none());
        if let Some(first) = keys.first() {
            csv.extend_from_slice(format!("\"{}\",1\n", first.replace('"', "\"\"")).as_bytes());
            let Err(BuildError::Invalid(failed)) = built_by(&directory, &csv, at_once) else { panic!("built") };
            let second = keys.len() as u32 + 1;
            prop_assert_eq!(&failed, &[FailedRow { index: second, problem: RowProblem::SameKey { first: 1, second } }]);
        }
    }
}

/// Prints what `docs/mapping.md` states: `cargo test --release --lib -- --ignored --nocapture measure_a_table_of_100_mb`.
#[test]
#[ignore = "a measurement"]
fn measure_a_table_of_100_mb() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input");
    let mut csv = std::io::BufWriter::new(File::create(&input).unwrap());
    let mut bytes = csv.write(b"id,name,category,price,added\n").unwrap();
    let mut rows = 0u64;
    while bytes < usize::try_from(MAX_TABLE_BYTES).unwrap() - 100 {
        let row =
            format!("sku-{rows},Product number {rows},category {},{}.99,2024-05-01T10:00:00Z\n", rows % 97, rows % 500);
        csv.write_all(row.as_bytes()).unwrap();
        bytes += row.len();
        rows += 1;
    }
    drop(csv.into_inner().unwrap());
    let peak = |when: &str| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        println!("{when}: {}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    };
    peak("before");
    let started = std::time::Instant::now();
    let table = build(File::open(&input).unwrap(), &directory.path().join("table"), SENT).unwrap();
    println!("{bytes} bytes, {rows} rows: built in {:?}", started.elapsed());
    let started = std::time::Instant::now();
    drop(TableFile::open(&directory.path().join("table")).unwrap());
    peak("built and opened");
    println!("opened in {:?}", started.elapsed());
    let keys: Vec<String> = (0..200_000).map(|_| format!("sku-{}", fastrand::u64(0..rows))).collect();
    let started = std::time::Instant::now();
    for key in &keys {
        assert!(table.row(key).unwrap().is_some());
    }
    println!("a look-up: {:?}", started.elapsed() / 200_000);
    let started = std::time::Instant::now();
    for key in &keys {
        assert!(table.row(&key[1..]).unwrap().is_none());
    }
    println!("a look-up in vain: {:?}", started.elapsed() / 200_000);
}
