//! The tables of the configuration: where each is kept, and which version answers.
//!
//! One directory beside the store, `NAME.table` for each (names percent-encoded). A table is replaced by a file of the
//! configuration that has changed ([`Catalog::refresh`]) or by one that came by HTTP and that Mixpanel took
//! ([`Catalog::stage`], [`Staged::install`]): whichever came last. A version that is refused leaves the old one in place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;

use super::file::{FileStamp, Source, TableFile};
use super::{BuildError, OpenError, build};
use crate::config::LookupTable;

/// How often the files of the configuration are looked at. A changed one is read when it has stood still from one look to
/// the next.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where the tables of a store are kept.
pub fn directory(store: &Path) -> PathBuf {
    store.with_extension("tables")
}

/// Looks at the files of the configuration for as long as the process lives. Returns only when a look has panicked.
pub async fn watch(catalog: Arc<Catalog>) -> JoinError {
    if !catalog.has_files() {
        return std::future::pending().await;
    }
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let catalog = catalog.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || catalog.refresh()).await {
            return error;
        }
    }
}

/// Why the tables cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("lookup_tables: {path}: {source}")]
pub struct CatalogError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
pub struct Catalog {
    directory: PathBuf,
    tables: BTreeMap<String, Entry>,
    /// Builds take memory: one at a time.
    building: Mutex<()>,
    staged: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    settings: LookupTable,
    kept: PathBuf,
    current: RwLock<Option<Arc<TableFile>>>,
    looked: Mutex<Looked>,
}

/// What is known of a table's file besides the version in use.
#[derive(Debug, Default)]
struct Looked {
    /// As of the last look.
    seen: Option<FileStamp>,
    /// Not to be tried again.
    refused: Option<FileStamp>,
    problem: Option<String>,
}

/// A table as `/v1/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    pub name: String,
    /// Null while there is no table.
    pub rows: Option<u32>,
    /// Of the CSV.
    pub bytes: Option<u64>,
    pub columns: Vec<String>,
    /// `file` or `http`: how the table in use came.
    pub came_by: Option<&'static str>,
    /// Why a newer version is not in use, or why there is none.
    pub problem: Option<String>,
}

impl Catalog {
    /// Opens what is kept, and reads the files of tables of which nothing is kept yet. Only a directory that cannot be
    /// used is an error: a table that cannot be read adds nothing, and its status says why.
    pub fn open(tables: &BTreeMap<String, LookupTable>, directory: PathBuf) -> Result<Self, CatalogError> {
        if !tables.is_empty() {
            let ready = fs::create_dir_all(&directory).and_then(|()| remove_unfinished(&directory));
            ready.map_err(|source| CatalogError { path: directory.clone(), source })?;
        }
        let catalog = Self::kept(tables, directory);
        for (name, entry) in &catalog.tables {
            if entry.current().is_none() {
                catalog.look(name, entry, true);
            }
        }
        Ok(catalog)
    }

    fn kept(tables: &BTreeMap<String, LookupTable>, directory: PathBuf) -> Self {
        let entry = |(name, settings): (&String, &LookupTable)| {
            let file = format!("{}.table", utf8_percent_encode(name, NON_ALPHANUMERIC));
            (name.clone(), Entry::open(name, settings.clone(), directory.join(file)))
        };
        Self {
            tables: tables.iter().map(entry).collect(),
            directory,
            building: Mutex::default(),
            staged: AtomicU64::new(0),
        }
    }

    /// What a relay that started now would use, without touching what it keeps: new versions of files go to `scratch`.
    pub fn preview(tables: &BTreeMap<String, LookupTable>, kept: PathBuf, scratch: &Path) -> Self {
        let mut catalog = Self::kept(tables, kept);
        catalog.directory = scratch.to_owned();
        for entry in catalog.tables.values_mut() {
            entry.kept = scratch.join(entry.kept.file_name().unwrap_or_default());
        }
        for (name, entry) in &catalog.tables {
            catalog.look(name, entry, true);
        }
        catalog
    }

    /// The version of `name` in use.
    pub fn get(&self, name: &str) -> Option<Arc<TableFile>> {
        self.tables.get(name)?.current()
    }

    /// Whether any table comes from a file.
    fn has_files(&self) -> bool {
        self.tables.values().any(|entry| entry.settings.file.is_some())
    }

    /// Looks at every file of the configuration and takes in what has changed. Blocks for as long as that takes.
    pub fn refresh(&self) {
        for (name, entry) in &self.tables {
            self.look(name, entry, false);
        }
    }

    pub fn status(&self) -> Vec<TableStatus> {
        self.tables.iter().map(|(name, entry)| entry.status(name)).collect()
    }

    /// Reads a table that has come by HTTP for `id` at Mixpanel, gzip or plain. Blocks. It is put in place by
    /// [`Staged::install`], and only if the configuration names a table of that id.
    pub fn stage(self: &Arc<Self>, id: &str, csv: File) -> Result<Staged, BuildError> {
        let entry = self.tables.iter().find(|(_, entry)| entry.settings.id.as_deref() == Some(id));
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{number}.unfinished"));
        let unfinished = Unfinished(path);
        // Of a file only a change from now on replaces what was sent.
        let file = entry.and_then(|(_, entry)| stamp(entry.settings.file.as_deref()?).ok());
        let table = {
            let _one = self.one_at_a_time();
            build(csv, &unfinished.0, Source { file, sent: true })?
        };
        Ok(Staged { catalog: self.clone(), table, unfinished, name: entry.map(|(name, _)| name.clone()) })
    }

    /// A new file beside the tables, without a name: it is gone with its last handle.
    pub fn spool(&self) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        tempfile::tempfile_in(&self.directory)
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.building.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `at_once`: without waiting for the file to stand still.
    fn look(&self, name: &str, entry: &Entry, at_once: bool) {
        let Some(path) = &entry.settings.file else { return };
        let mut looked = entry.looked();
        let seen = match stamp(path) {
            Ok(seen) => seen,
            Err(error) => {
                looked.seen = None;
                return looked.complain(name, format!("{}: {error}", path.display()));
            }
        };
        let steady = looked.seen.replace(seen) == Some(seen) || at_once;
        if entry.current().is_some_and(|table| table.meta().source.file == Some(seen)) {
            looked.problem = None;
            return;
        }
        if !steady || looked.refused == Some(seen) {
            return;
        }
        drop(looked);
        let taken = self.take(path, seen, entry);
        let mut looked = entry.looked();
        match taken {
            Ok(table) => {
                looked.problem = None;
                tracing::info!(table = name, rows = table.meta().rows, file = %path.display(), "lookup table read");
            }
            Err(Refused::Changing) => {}
            Err(Refused::Build(error)) => {
                // What the disk refuses may work the next time.
                looked.refused = (!matches!(error, BuildError::Io(_))).then_some(seen);
                looked.complain(name, format!("{}: {error}", path.display()));
            }
        }
    }

    fn take(&self, path: &Path, seen: FileStamp, entry: &Entry) -> Result<Arc<TableFile>, Refused> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let unfinished = Unfinished(self.directory.join(format!("{number}.unfinished")));
        let csv = File::open(path).map_err(BuildError::Io)?;
        let table = {
            let _one = self.one_at_a_time();
            build(csv, &unfinished.0, Source { file: Some(seen), sent: false })?
        };
        if stamp(path).ok() != Some(seen) {
            return Err(Refused::Changing);
        }
        Ok(entry.install(table, &unfinished).map_err(BuildError::Io)?)
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the file is being written")]
    Changing,
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Entry {
    fn open(name: &str, settings: LookupTable, kept: PathBuf) -> Self {
        let mut looked = Looked::default();
        let current = match TableFile::open(&kept) {
            Ok(table) => Some(Arc::new(table)),
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                looked.complain(name, error.to_string());
                None
            }
        };
        Self { settings, kept, current: RwLock::new(current), looked: Mutex::new(looked) }
    }

    fn current(&self) -> Option<Arc<TableFile>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a finished table its name. The file is synced; its name is too before this returns.
    fn install(&self, table: TableFile, unfinished: &Unfinished) -> io::Result<Arc<TableFile>> {
        let table = Arc::new(table);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        fs::rename(&unfinished.0, &self.kept)?;
        if let Some(directory) = self.kept.parent() {
            File::open(directory)?.sync_all()?;
        }
        *current = Some(table.clone());
        Ok(table)
    }

    fn status(&self, name: &str) -> TableStatus {
        let table = self.current();
        let nothing = || match &self.settings.file {
            Some(_) => None,
            None => Some("no table has been sent yet: PUT it to /lookup-tables once".to_owned()),
        };
        let problem = self.looked().problem.clone();
        TableStatus {
            name: name.to_owned(),
            rows: table.as_ref().map(|table| table.meta().rows),
            bytes: table.as_ref().map(|table| table.bytes()),
            columns: table.as_ref().map_or_else(Vec::new, |table| table.meta().columns.clone()),
            came_by: table.as_ref().map(|table| if table.meta().source.sent { "http" } else { "file" }),
            problem: problem.or_else(|| if table.is_none() { nothing() } else { None }),
        }
    }
}

impl Looked {
    /// Said once, until something else is the matter.
    fn complain(&mut self, table: &str, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(table, problem, "the lookup table is not read; an earlier version stays in use");
            self.problem = Some(problem);
        }
    }
}

/// A good table, not in use yet. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Staged {
    catalog: Arc<Catalog>,
    table: TableFile,
    unfinished: Unfinished,
    /// `None`: the configuration names no table of this id, and nothing is kept.
    name: Option<String>,
}

impl Staged {
    pub fn install(self) -> io::Result<()> {
        let Some((name, entry)) = self.name.as_ref().and_then(|name| self.catalog.tables.get_key_value(name)) else {
            return Ok(());
        };
        let table = entry.install(self.table, &self.unfinished)?;
        entry.looked().problem = None;
        tracing::info!(table = name, rows = table.meta().rows, "lookup table received");
        Ok(())
    }
}

/// A file that is removed unless it gets another name.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there after a rename; and what stays is removed at the next start.
        drop(fs::remove_file(&self.0));
    }
}

/// What a crash has left.
fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "unfinished") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn stamp(path: &Path) -> io::Result<FileStamp> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(FileStamp { modified_ns: u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX), bytes: metadata.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "55b4fb2b-e8de-466c-930f-8b36640b9b5e";

    struct Place {
        directory: tempfile::TempDir,
        settings: BTreeMap<String, LookupTable>,
    }

    impl Place {
        fn new(csv: Option<&str>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("products.csv");
            let settings = LookupTable { id: Some(ID.to_owned()), file: csv.map(|_| file) };
            let place = Self { directory, settings: [("pro/ducts".to_owned(), settings)].into() };
            csv.inspect(|csv| place.write(csv));
            place
        }

        fn write(&self, csv: &str) {
            fs::write(self.directory.path().join("products.csv"), csv).unwrap();
        }

        fn open(&self) -> Arc<Catalog> {
            Arc::new(Catalog::open(&self.settings, self.directory.path().join("m.tables")).unwrap())
        }

        fn sent(&self, csv: &str) -> File {
            let path = self.directory.path().join("sent.csv");
            fs::write(&path, csv).unwrap();
            File::open(path).unwrap()
        }
    }

    fn value(catalog: &Catalog, key: &str) -> Option<String> {
        Some(catalog.get("pro/ducts")?.row(key).unwrap()?.json(1)?.get().to_owned())
    }

    fn problem(catalog: &Catalog) -> Option<String> {
        catalog.status().remove(0).problem
    }

    #[test]
    fn a_file_is_read_at_the_start_and_again_when_it_has_changed_and_stands_still() {
        let place = Place::new(Some("id,a\nk,1\n"));
        let catalog = place.open();
        assert_eq!(value(&catalog, "k").as_deref(), Some("1"));
        place.write("id,a\nk,22\n");
        catalog.refresh();
        assert_eq!(value(&catalog, "k").as_deref(), Some("1"), "it may still be being written");
        catalog.refresh();
        assert_eq!(value(&catalog, "k").as_deref(), Some("22"));
    }

    #[test]
    fn a_broken_version_is_refused_and_the_old_one_stays() {
        let place = Place::new(Some("id,a\nk,1\n"));
        let catalog = place.open();
        place.write("id,a\nk,1\nk,2\n");
        catalog.refresh();
        catalog.refresh();
        assert_eq!(value(&catalog, "k").as_deref(), Some("1"));
        let said = problem(&catalog).unwrap();
        assert!(said.ends_with("row 2: invalid row: row indexes 1 and 2 have the same primary key"), "{said}");
        // A restart takes the version that worked.
        let catalog = place.open();
        assert_eq!((value(&catalog, "k").as_deref(), problem(&catalog)), (Some("1"), None));
        catalog.refresh();
        catalog.refresh();
        assert!(problem(&catalog).is_some());
        place.write("id,a\nk,333\n");
        catalog.refresh();
        catalog.refresh();
        assert_eq!((value(&catalog, "k").as_deref(), problem(&catalog)), (Some("333"), None));
        fs::remove_file(place.directory.path().join("products.csv")).unwrap();
        catalog.refresh();
        assert_eq!(value(&catalog, "k").as_deref(), Some("333"));
        assert!(problem(&catalog).is_some());
    }

    #[test]
    fn what_was_sent_is_used_once_it_is_installed_and_stays_over_restarts() {
        let place = Place::new(None);
        let catalog = place.open();
        assert!(problem(&catalog).unwrap().contains("PUT"));
        let staged = catalog.stage(ID, place.sent("id,a\nk,1\n")).unwrap();
        assert_eq!(value(&catalog, "k"), None);
        staged.install().unwrap();
        assert_eq!((value(&catalog, "k").as_deref(), problem(&catalog)), (Some("1"), None));
        // Refused by the vendor: never installed.
        drop(catalog.stage(ID, place.sent("id,a\nk,2\n")).unwrap());
        catalog.stage("another", place.sent("id,a\nk,3\n")).unwrap().install().unwrap();
        assert!(catalog.stage(ID, place.sent("id,a\n,3\n")).is_err());
        // A crash in the middle of a build.
        fs::write(place.directory.path().join("m.tables/9.unfinished"), "half").unwrap();
        let catalog = place.open();
        assert_eq!(value(&catalog, "k").as_deref(), Some("1"));
        let kept: Vec<_> = fs::read_dir(place.directory.path().join("m.tables")).unwrap().collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
    }

    #[test]
    fn of_file_and_call_the_later_counts_over_restarts_too() {
        let place = Place::new(Some("id,a\nk,1\n"));
        let catalog = place.open();
        catalog.stage(ID, place.sent("id,a\nk,2\n")).unwrap().install().unwrap();
        let catalog = place.open();
        catalog.refresh();
        catalog.refresh();
        assert_eq!(value(&catalog, "k").as_deref(), Some("2"));
        place.write("id,a\nk,333\n");
        catalog.refresh();
        catalog.refresh();
        assert_eq!(value(&catalog, "k").as_deref(), Some("333"));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let place = Place::new(None);
        place.open().stage(ID, place.sent("id,a\nk,1\n")).unwrap().install().unwrap();
        let kept = place.directory.path().join("m.tables/pro%2Fducts.table");
        fs::write(&kept, "rubbish").unwrap();
        let catalog = place.open();
        assert_eq!(value(&catalog, "k"), None);
        assert!(problem(&catalog).unwrap().contains("damaged"));
    }
}
