//! Where an address is, from a city database in MaxMind's format (`geoip`).
//!
//! The whole file is held in memory: mapping it would need `unsafe`, and a look-up must not wait for a disk. Read once, at
//! the start.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::geoip2::City;
use maxminddb::{MaxMindDbError, Reader};

use crate::mapping::Place;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("geoip: {path}: {source}")]
pub struct GeoIpError {
    path: PathBuf,
    source: MaxMindDbError,
}

pub struct GeoIp(Reader<Vec<u8>>);

impl fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeoIp").field(&self.kind()).finish()
    }
}

impl GeoIp {
    pub fn open(path: &Path) -> Result<Self, GeoIpError> {
        Reader::open_readfile(path).map(Self).map_err(|source| GeoIpError { path: path.to_owned(), source })
    }

    /// What the database calls itself, such as `GeoLite2-City`.
    pub fn kind(&self) -> &str {
        &self.0.metadata().database_type
    }

    /// When it was made, in seconds since 1970.
    pub fn built_at(&self) -> u64 {
        self.0.metadata().build_epoch
    }

    /// `None` for an address that the database does not know. Names are the English ones, as Mixpanel's are.
    pub fn place(&self, address: IpAddr) -> Option<Place> {
        let found: City<'_> = self.0.lookup(address.to_canonical()).ok()?.decode().ok()??;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let place = Place {
            city: owned(found.city.names.english),
            region: found.subdivisions.first().and_then(|region| owned(region.names.english)),
            country_code: owned(found.country.iso_code),
        };
        (place != Place::default()).then_some(place)
    }
}

#[cfg(test)]
#[path = "../tests/it/harness/mmdb.rs"]
mod mmdb;

#[cfg(test)]
mod tests {
    use super::mmdb::{Net, database};
    use super::*;

    fn place(city: Option<&str>, region: Option<&str>, country_code: Option<&str>) -> Option<Place> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Place { city: owned(city), region: owned(region), country_code: owned(country_code) })
    }

    #[test]
    fn a_place_is_as_exact_as_the_database() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let nets = [
            Net {
                net: "203.0.113.0/24",
                city: Some("Lyon"),
                region: Some("Auvergne-Rhone-Alpes"),
                country: Some("FR"),
            },
            Net { net: "198.51.100.64/26", city: None, region: None, country: Some("DE") },
            Net { net: "2001:db8::/32", city: Some("Oslo"), region: None, country: Some("NO") },
            Net { net: "192.0.2.0/24", city: None, region: None, country: None },
        ];
        std::fs::write(file.path(), database(&nets)).unwrap();
        let geoip = GeoIp::open(file.path()).unwrap();
        assert_eq!(geoip.kind(), "Test-City");
        for (address, expected) in [
            ("203.0.113.9", place(Some("Lyon"), Some("Auvergne-Rhone-Alpes"), Some("FR"))),
            ("::ffff:203.0.113.9", place(Some("Lyon"), Some("Auvergne-Rhone-Alpes"), Some("FR"))),
            ("203.0.113.0", place(Some("Lyon"), Some("Auvergne-Rhone-Alpes"), Some("FR"))),
            ("198.51.100.65", place(None, None, Some("DE"))),
            ("198.51.100.1", None),
            ("2001:db8::1", place(Some("Oslo"), None, Some("NO"))),
            ("192.0.2.1", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(geoip.place(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "rubbish").unwrap();
        let said = GeoIp::open(file.path()).unwrap_err().to_string();
        assert!(said.starts_with("geoip: ") && said.contains(file.path().to_str().unwrap()), "{said}");
        assert!(GeoIp::open(Path::new("no-such.mmdb")).is_err());
    }
}
