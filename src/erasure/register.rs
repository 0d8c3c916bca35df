//! The register of every place that holds personal data, or could: what, for how long, and what an erasure does there.
//!
//! `docs/privacy.md` shows it; tests fail for a table, a file, or a module with something shared in memory that is not in
//! it.

use crate::store::Table;

/// Where data can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Table(Table),
    /// A file beside the store, by the end of its name.
    File(&'static str),
    /// A stream of NATS servers, by the middle of its name.
    Stream(&'static str),
    /// In memory, by the module that owns it.
    Memory(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Holding {
    pub place: Place,
    /// What of people is in it; `None`: nothing.
    pub what: Option<&'static str>,
    pub kept: &'static str,
    /// What an erasure does about it.
    pub erased: &'static str,
}

impl Holding {
    const fn of_people(place: Place, what: &'static str, kept: &'static str, erased: &'static str) -> Self {
        Self { place, what: Some(what), kept, erased }
    }

    const fn of_nobody(place: Place) -> Self {
        Self { place, what: None, kept: "with the store", erased: "–" }
    }
}

const ROWS: &str = "rows deleted, pages overwritten";
const LEG: &str = "the leg stands back and begins anew without it";

const UNSEEN: &str = "`retention.unseen_people` after a record last named the person";

/// What is known of a table.
pub fn of_table(table: Table) -> Holding {
    let place = Place::Table(table);
    let until_paid = "until Brevo has it";
    match table {
        Table::People => Holding::of_people(place, "ids, mapped values, addresses", UNSEEN, ROWS),
        Table::Debts => Holding::of_people(place, "ids; addresses while an import runs", until_paid, ROWS),
        Table::Bases => Holding::of_people(place, "ids", "until the values are known", ROWS),
        Table::Shelves => Holding::of_people(place, "records", "`parking.max_age`", ROWS),
        Table::ShelfOrder => Holding::of_people(place, "ids", "`parking.max_age`", ROWS),
        Table::DeadLetters => Holding::of_people(place, "records, vendors' answers", "`retention.dead_letters`", ROWS),
        Table::Dedup => Holding::of_people(place, "hashes of events", "`dedup_window`", "end with their window"),
        Table::Tombstones => {
            Holding::of_people(place, "keyed hashes of ids and addresses", "`retention.tombstones`", "made by it")
        }
        Table::Erasures => Holding::of_people(
            place,
            "ids until nobody needs them, then keyed hashes",
            "`retention.tombstones`",
            "the receipt itself",
        ),
        Table::Companies => Holding::of_people(
            place,
            "names of firms, which may be a person's; ids of people whose links are owed",
            "with the group; until Brevo has the link",
            "links deleted; a group is nobody's",
        ),
        Table::Seen => Holding::of_people(place, "ids, by the day when they were last heard of", UNSEEN, ROWS),
        Table::Addresses => {
            Holding::of_people(place, "addresses and numbers of contacts, whose they are", "with the person", ROWS)
        }
        Table::CohortRows => Holding::of_people(
            place,
            "ids, addresses and mapped values of a cohort's members; then ids of those not matched",
            "while its run is under way; then `retention.runs`",
            ROWS,
        ),
        Table::DatasetRows => Holding::of_people(
            place,
            "ids and columns of a data set's rows; then ids of those not matched",
            "while its run is under way; then `retention.runs`",
            ROWS,
        ),
        Table::Outcomes => Holding::of_people(
            place,
            "hashes of ids to whom Brevo owed something",
            "`retention.history`",
            "end with the history",
        ),
        Table::Filters => Holding::of_people(
            place,
            "hashes of ids and addresses, folded into bits",
            "`retention.history`",
            "rows that may hold the person deleted, pages overwritten",
        ),
        Table::Rewritten => Holding::of_people(
            place,
            "of the JetStream engine: records of others that shared a message with somebody who was erased",
            "`retention.history`",
            "records emptied in their places",
        ),
        Table::CohortRuns
        | Table::Checkpoints
        | Table::Budgets
        | Table::Vendors
        | Table::Audit
        | Table::Backfills
        | Table::Days
        | Table::Datasets
        | Table::Meta => Holding::of_nobody(place),
    }
}

/// Files and what is held in memory.
pub const OTHERS: &[Holding] = &[
    Holding::of_people(
        Place::File(".db"),
        "records, in compressed blocks",
        "`retention.history`",
        "records emptied in their places",
    ),
    Holding::of_people(Place::File(".db-wal"), "what was written last", "until copied into the file", "cut to nothing"),
    Holding::of_nobody(Place::File(".db-shm")),
    Holding::of_people(Place::File(".state.db"), "the tables above", "as they say", ROWS),
    Holding::of_people(
        Place::File(".state.db-wal"),
        "what was written last",
        "until copied into the file",
        "cut to nothing",
    ),
    Holding::of_nobody(Place::File(".state.db-shm")),
    Holding::of_nobody(Place::File(".db.lock")),
    Holding::of_people(
        Place::Stream("journal"),
        "records, in compressed blocks",
        "`retention.history`",
        "messages removed and overwritten; what others had in them stands in `rewritten`",
    ),
    Holding::of_people(
        Place::Stream("state"),
        "what was written to the tables above",
        "until a snapshot has it",
        "cut behind a new snapshot",
    ),
    Holding::of_people(Place::Stream("snapshots"), "the tables above", "until the next one", "replaced by a new one"),
    Holding::of_people(
        Place::Memory("store/jetstream/reading"),
        "records that were read ahead",
        "8 MiB a reader",
        "forgotten",
    ),
    Holding::of_people(
        Place::Memory("store/sqlite/recent"),
        "the newest records",
        "8 MiB",
        "forgotten with their blocks",
    ),
    Holding::of_people(Place::Memory("delivery"), "records on their way, people at work", "until settled", LEG),
    Holding::of_people(Place::Memory("people"), "people at work", "50,000 people", LEG),
    Holding::of_people(
        Place::Memory("edge/passthrough/answers"),
        "answers of /flags",
        "10 minutes",
        "all of them forgotten",
    ),
    Holding::of_people(
        Place::File(".tables"),
        "lookup tables as they were given",
        "with the table",
        "nothing: replace the table",
    ),
    Holding::of_people(Place::Memory("tables"), "lookup tables", "with the table", "nothing: replace the table"),
    Holding::of_people(
        Place::Memory("read_side"),
        "Mixpanel's answers to queries",
        "as `read_side` keeps them, minutes",
        "all of them forgotten, and again when Mixpanel has deleted",
    ),
    Holding::of_people(Place::Memory("privacy/tombstones"), "keyed hashes", "`retention.tombstones`", "made by it"),
];

/// The register as the table of `docs/privacy.md`.
pub fn table() -> String {
    let mut out = String::from("| where | what of people | kept | an erasure |\n|---|---|---|---|\n");
    for Holding { place, what, kept, erased } in Table::ALL.into_iter().map(of_table).chain(OTHERS.iter().copied()) {
        let Some(what) = what else { continue };
        let place = match place {
            Place::Table(table) => format!("table `{}`", table.name()),
            Place::File(name) => format!("file `*{name}`"),
            Place::Stream(name) => format!("stream `*-{name}-*`"),
            Place::Memory(module) => format!("memory of `{module}`"),
        };
        out.push_str(&format!("| {place} | {what} | {kept} | {erased} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::testing;
    use crate::store::{State as _, WriteBatch};

    #[test]
    fn the_document_shows_the_register() {
        let document = include_str!("../../docs/privacy.md");
        assert!(document.contains(&table()), "put this into docs/privacy.md:\n{}", table());
    }

    #[tokio::test]
    async fn every_file_of_a_store_is_registered() {
        let directory = testing::directory();
        let store = testing::open(&directory, ManualClock::at(crate::clock::UnixMillis(0)));
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, "a", "b");
        store.state.write(batch).await.unwrap();
        for file in std::fs::read_dir(directory.path()).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let end = name.strip_prefix('m').unwrap();
            assert!(OTHERS.iter().any(|holding| holding.place == Place::File(end_of(end))), "{name} is not registered");
        }
    }

    /// The registered end that is this one.
    fn end_of(end: &str) -> &'static str {
        let registered = OTHERS.iter().filter_map(|holding| match holding.place {
            Place::File(registered) => Some(registered),
            _ => None,
        });
        registered.into_iter().find(|registered| *registered == end).unwrap_or("")
    }

    /// Modules that share something changeable in memory and hold nothing of people, each with why.
    const NOTHING_OF_PEOPLE: &[(&str, &str)] = &[
        ("clock", "a test's clock"),
        ("edge/server/http2", "when streams were opened"),
        ("edge/tls", "the certificate and its key"),
        ("edge/auth/replay", "hashes of request ids"),
        ("edge/service", "the page of the API document"),
        ("store/jetstream/health", "why the servers take nothing"),
        ("store/jetstream/journal", "counts and numbers of entries"),
        ("store/jetstream/lease", "a time"),
        ("store/sqlite/journal", "numbers of damaged entries"),
        ("store/sqlite/journal_writer", "counters"),
        ("store/sqlite/poison", "why the store failed"),
        ("store/sqlite/readers", "connections"),
        ("store/sqlite/watermark", "free space"),
        ("cohorts", "which runs are under way"),
        ("datasets", "which runs are under way"),
        ("vendor/budget", "budgets"),
        ("vendor/gate", "whether a destination takes calls"),
        ("erasure/worker", "counts of one erasure under way"),
        ("feed", "whose turn it is"),
        ("console/pulse", "counts"),
        ("reconciliation", "whose turn it is"),
        ("pulls", "which backfill is under way, counts"),
    ];

    /// Rooms that never run in a relay, or only before it does.
    const ELSEWHERE: &[&str] = &["sandbox", "simulation", "fuzzing", "cli", "config"];

    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn whatever_is_shared_in_memory_is_registered() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&root, &mut files);
        for file in files {
            let module = file.strip_prefix(&root).unwrap().with_extension("").display().to_string();
            let module = module.trim_end_matches("/mod").to_owned();
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let shares =
                ["Mutex<", "RwLock<", "OnceLock<", "LazyLock<", "ArcSwap<"].iter().any(|word| code.contains(word));
            let inside = |room: &str| module == room || module.starts_with(&format!("{room}/"));
            if !shares
                || ELSEWHERE.iter().any(|room| inside(room))
                || module.ends_with("tests")
                || module.ends_with("testing")
            {
                continue;
            }
            let held = OTHERS.iter().any(|holding| matches!(holding.place, Place::Memory(place) if inside(place)));
            let nothing = NOTHING_OF_PEOPLE.iter().any(|(place, _)| inside(place));
            assert!(
                held || nothing,
                "{module} shares something in memory: say in the register what of people is in it"
            );
        }
    }
}
