//! `mixrelay map`: Mixpanel records in, what Brevo would be sent out. Nothing is sent, and no vendor is asked.

use std::io::{BufRead, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::Failure;
use crate::clock::{Clock as _, SystemClock, UnixMillis};
use crate::config::{Config, StoreEngine};
use crate::geoip::{GeoIp, GeoIpError};
use crate::mapping::{CompiledMapping, Enricher, MappingError, preview};
use crate::privacy::Rules;
use crate::tables::{self, Catalog, TableSources};

#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("standard input: {0}; give one JSON record after the other, or arrays of them")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    GeoIp(#[from] GeoIpError),
    #[error("no temporary directory for lookup tables: {0}")]
    Scratch(#[source] std::io::Error),
    #[error("{}", lines(.0))]
    Mapping(Vec<MappingError>),
}

fn lines(errors: &[MappingError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    let mapping = compiled(&super::load(path)?.config)?;
    let out = std::io::stdout().lock();
    let pretty = out.is_terminal();
    all(std::io::stdin().lock(), out, pretty, &mapping, SystemClock.now())?;
    Ok(ExitCode::SUCCESS)
}

/// The tables as `serve` would have them.
pub(super) fn lookup_tables(config: &Config) -> Result<Catalog, InputError> {
    let StoreEngine::Sqlite(store) = &config.store.engine;
    // Open files outlive it.
    let scratch = tempfile::tempdir().map_err(InputError::Scratch)?;
    Ok(Catalog::preview(&config.enrichment.lookup_tables, tables::directory(store), scratch.path()))
}

/// The mapping as `serve` would use it.
pub(super) fn compiled(config: &Config) -> Result<CompiledMapping, InputError> {
    let mapping = CompiledMapping::compile(&config.mapping, config.mixpanel.sync).map_err(InputError::Mapping)?;
    let geoip = config.enrichment.geoip.as_deref().map(GeoIp::open).transpose()?.map(Arc::new);
    let places = geoip.is_some();
    let sources = Arc::new(TableSources::new(Arc::new(lookup_tables(config)?), geoip));
    let mapping = mapping.with_enrichment(Enricher::new(&config.enrichment.columns, places, sources));
    let mapping = mapping.with_privacy(Rules::new(&config.privacy.brevo, config.privacy.hash_key.as_ref()));
    let mapping =
        mapping.with_consent(&config.privacy.consent).with_profile_deletion(config.deletion.on_profile_delete);
    mapping.with_datasets(&config.cohorts.datasets).map_err(InputError::Mapping)
}

/// Describes every record of `input`, one JSON value a line or, `pretty`, spread for people.
fn all(
    input: impl BufRead,
    mut out: impl Write,
    pretty: bool,
    mapping: &CompiledMapping,
    now: UnixMillis,
) -> Result<(), Failure> {
    let values = serde_json::Deserializer::from_reader(input).into_iter::<Box<RawValue>>();
    for value in values {
        let value = value.map_err(InputError::Json)?;
        for record in records(value)? {
            let described = preview(record.get(), mapping, None, now);
            print(&mut out, pretty, &described).map_err(Failure::Output)?;
        }
    }
    out.flush().map_err(Failure::Output)
}

/// A record by itself, or those of an array.
fn records(value: Box<RawValue>) -> Result<Vec<Box<RawValue>>, InputError> {
    if value.get().starts_with('[') { Ok(serde_json::from_str(value.get())?) } else { Ok(vec![value]) }
}

fn print(out: &mut impl Write, pretty: bool, described: &Value) -> std::io::Result<()> {
    if pretty { writeln!(out, "{described:#}") } else { writeln!(out, "{described}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn mapped(input: &str) -> Result<Vec<Value>, Failure> {
        let text = "event_mapping: { Purchase: order_completed }";
        let config = parse(text, "x", &|_| Some("t".to_owned())).unwrap().config;
        let mapping = CompiledMapping::compile(&config.mapping, config.mixpanel.sync).unwrap();
        let mut out = Vec::new();
        all(input.as_bytes(), &mut out, false, &mapping, UnixMillis(1_700_000_000_000))?;
        let lines = String::from_utf8(out).unwrap();
        Ok(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[test]
    fn lines_arrays_and_spread_records_are_all_read() {
        let purchase = r#"{"event":"Purchase","properties":{"distinct_id":"u1","time":1700000000}}"#;
        let input =
            format!("{purchase}\n[{purchase}, {purchase}]\n{{\n \"event\": \"Other\",\n \"properties\": {{}}}}");
        let described = mapped(&input).unwrap();
        let decisions: Vec<_> = described.iter().map(|d| d["decision"].as_str().unwrap()).collect();
        assert_eq!(decisions, ["send", "send", "send", "skip"]);
        assert_eq!(described[0]["calls"][0]["body"]["event_name"], "order_completed");
    }

    #[test]
    fn what_is_not_json_is_told_with_its_line() {
        let error = mapped("{}\nnonsense").unwrap_err().to_string();
        assert!(error.starts_with("standard input: ") && error.contains("line 2"), "{error}");
        assert!(mapped("").unwrap().is_empty());
    }
}
