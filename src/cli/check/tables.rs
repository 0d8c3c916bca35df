//! Lookup tables: whether each can be read, and whether `enrich` asks for columns that are there; the city database.

use std::path::Path;

use super::super::Failure;
use super::super::map::lookup_tables;
use super::live::Finding;
use crate::clock::UnixMillis;
use crate::config::{Config, LookupColumns};
use crate::geoip::GeoIp;
use crate::tables::{Catalog, TableStatus};

pub(super) fn check(config: &Config) -> Result<Vec<Finding>, Failure> {
    let mut found: Vec<Finding> = config.enrichment.geoip.as_deref().map(places).into_iter().collect();
    if config.enrichment.lookup_tables.is_empty() {
        return Ok(found);
    }
    let catalog = lookup_tables(config)?;
    let tables = catalog.status().into_iter().flat_map(|status| table(config, status));
    let rules = config.enrichment.columns.iter().filter_map(|rule| missing_columns(&catalog, rule));
    found.extend(tables.chain(rules));
    Ok(found)
}

fn places(path: &Path) -> Finding {
    match GeoIp::open(path) {
        Ok(geoip) => Finding::works("geoip", format!("{} of {}", geoip.kind(), UnixMillis(geoip.built_at() * 1000))),
        Err(error) => Finding::fails("geoip", error.to_string()),
    }
}

fn table(config: &Config, status: TableStatus) -> Vec<Finding> {
    let subject = format!("lookup_tables.{}", status.name);
    let from_file = config.enrichment.lookup_tables.get(&status.name).is_some_and(|table| table.file.is_some());
    let rows = status.rows.map(|rows| {
        let key = status.columns.first().map_or("", String::as_str);
        let columns = status.columns.get(1..).unwrap_or_default().join(", ");
        Finding::works(&subject, format!("{rows} rows by {key}, with {columns}"))
    });
    let problem = status.problem.map(|problem| {
        if from_file { Finding::fails(&subject, problem) } else { Finding::doubtful(&subject, problem) }
    });
    rows.into_iter().chain(problem).collect()
}

fn missing_columns(catalog: &Catalog, rule: &LookupColumns) -> Option<Finding> {
    let table = catalog.get(&rule.table)?;
    let missing: Vec<&str> =
        rule.columns.keys().map(String::as_str).filter(|name| table.column(name).is_none()).collect();
    let said =
        format!("{} has no column {}; it has {}", rule.table, missing.join(", "), table.meta().columns.join(", "));
    (!missing.is_empty()).then(|| Finding::fails(format!("enrich by {}", rule.property), said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::live::Verdict;
    use crate::config::parse;

    #[test]
    fn tables_and_the_columns_asked_of_them_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, csv: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, csv).unwrap();
            path.display().to_string()
        };
        let (good, bad) = (file("good.csv", "id,category\n1,mug\n2,cup\n"), file("bad.csv", "id\n1\n1\n"));
        let text = format!(
            "store: sqlite:{}/m.db\nlookup_tables:\n  good: {{ file: {good} }}\n  bad: {{ file: {bad} }}\n  sent: {{ id: x }}\n\
             enrich:\n  - {{ property: p, table: good, columns: {{ category: a, colour: b }} }}\n",
            directory.path().display()
        );
        let config = parse(&text, "x", &|_| Some("t".to_owned())).unwrap().config;
        let found = check(&config).unwrap();
        let said = |at: usize| (found[at].verdict, found[at].subject.as_str(), found[at].said.as_str());
        let (verdict, subject, problem) = said(0);
        assert_eq!((verdict, subject), (Verdict::Fails, "lookup_tables.bad"));
        assert!(problem.ends_with("row indexes 1 and 2 have the same primary key"), "{problem}");
        assert_eq!(said(1), (Verdict::Works, "lookup_tables.good", "2 rows by id, with category"));
        assert_eq!((said(2).0, said(2).1), (Verdict::Doubtful, "lookup_tables.sent"));
        assert_eq!(said(3), (Verdict::Fails, "enrich by p", "good has no column colour; it has id, category"));
        assert!(!directory.path().join("m.tables").exists(), "check leaves nothing behind");
    }
}
