//! The tables, and the places of addresses, as the mapping asks for them.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::Catalog;
use crate::geoip::GeoIp;
use crate::mapping::{Place, Sources};
use crate::telemetry::{self, Lookup};

/// Answers from the files; what cannot be answered is counted.
#[derive(Clone, Debug)]
pub struct TableSources {
    catalog: Arc<Catalog>,
    geoip: Option<Arc<GeoIp>>,
}

impl TableSources {
    pub fn new(catalog: Arc<Catalog>, geoip: Option<Arc<GeoIp>>) -> Self {
        Self { catalog, geoip }
    }
}

impl Sources for TableSources {
    fn cells(&self, table: &str, key: &str, columns: &[&str]) -> Option<Vec<Option<Box<RawValue>>>> {
        let Some(file) = self.catalog.get(table) else {
            telemetry::looked_up(Lookup::NoTable);
            return None;
        };
        let row = match file.row(key) {
            Ok(Some(row)) => row,
            Ok(None) => {
                telemetry::looked_up(Lookup::NoKey);
                return None;
            }
            Err(error) => {
                telemetry::looked_up(Lookup::Failed);
                tracing::debug!(table, %error, "a look-up failed");
                return None;
            }
        };
        telemetry::looked_up(Lookup::Found);
        Some(columns.iter().map(|column| row.json(file.column(column)?)).collect())
    }

    fn place(&self, address: IpAddr) -> Option<Place> {
        self.geoip.as_ref()?.place(address)
    }
}
