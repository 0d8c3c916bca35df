//! The mapping that is in force.

use std::sync::Arc;

use super::error::StartError;
use crate::config::Config;
use crate::geoip::GeoIp;
use crate::mapping::{CompiledMapping, Enricher};
use crate::privacy::Rules;
use crate::tables::{Catalog, TableSources};

/// The mapping as it is configured, ready to answer.
pub async fn compiled(config: &Config, tables: &Arc<Catalog>) -> Result<CompiledMapping, StartError> {
    let mapping = CompiledMapping::compile(&config.mapping, config.mixpanel.sync);
    let mapping = mapping.map_err(|mut errors| StartError::Mapping(errors.swap_remove(0)))?;
    let geoip = match config.enrichment.geoip.clone() {
        Some(path) => Some(Arc::new(tokio::task::spawn_blocking(move || GeoIp::open(&path)).await??)),
        None => None,
    };
    let places = geoip.is_some();
    let sources = Arc::new(TableSources::new(tables.clone(), geoip));
    Ok(mapping
        .with_enrichment(Enricher::new(&config.enrichment.columns, places, sources))
        .with_privacy(Rules::new(&config.privacy.brevo, config.privacy.hash_key.as_ref()))
        .with_consent(&config.privacy.consent)
        .with_profile_deletion(config.deletion.on_profile_delete))
}
