//! The listener's certificate: read from two PEM files, and read again when they change.
//!
//! A pair is looked at as a whole before it is used: a chain that cannot be read, or a key that is not the certificate's,
//! leaves the old pair in place, and says so once. Connections that are open keep what they began with.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinError;

use crate::config::Tls;

/// HTTP/2 is what browsers and mobile stacks ask for first; every SDK can do without it.
pub(super) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Between two looks at the files. Whoever renews certificates does so days ahead.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A long chain is some kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("server.tls.{key}: {} cannot be read: {source}", path.display())]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("server.tls.{key}: {} is no PEM file of the kind that is needed: {source}", path.display())]
    Pem { key: &'static str, path: PathBuf, source: pem::Error },
    #[error("server.tls.cert: {} holds no certificate; write the chain, the server's own first", path.display())]
    NoCertificate { path: PathBuf },
    #[error("server.tls: {} and {} do not work together: {source}", cert.display(), key.display())]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("server.tls: {0}")]
    Setup(#[source] rustls::Error),
}

/// What two files held, without keeping a key around for comparing.
type Digest = [u8; 32];

struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(tls: &Tls) -> Result<Self, TlsError> {
        Ok(Self { cert: read("cert", &tls.cert)?, key: read("key", &tls.key)? })
    }

    fn digest(&self) -> Digest {
        let length = (self.cert.len() as u64).to_le_bytes();
        Sha256::new().chain_update(length).chain_update(&self.cert).chain_update(&self.key).finalize().into()
    }

    fn certified(&self, tls: &Tls) -> Result<CertifiedKey, TlsError> {
        let broken = |key, path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Pem { key, path, source }
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.cert).collect();
        let chain = chain.map_err(broken("cert", &tls.cert))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate { path: tls.cert.clone() });
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(broken("key", &tls.key))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| TlsError::Pair {
            cert: tls.cert.clone(),
            key: tls.key.clone(),
            source,
        })
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(|source| TlsError::Read { key, path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The pair in use.
pub struct Certificate {
    files: Tls,
    current: RwLock<Arc<CertifiedKey>>,
    /// What was seen last, good or bad: `None` when the files could not even be read.
    seen: Mutex<Option<Digest>>,
}

impl Certificate {
    /// Reads and checks both files. Blocks.
    pub fn load(files: &Tls) -> Result<Arc<Self>, TlsError> {
        let read = Files::read(files)?;
        let current = RwLock::new(Arc::new(read.certified(files)?));
        Ok(Arc::new(Self { files: files.clone(), current, seen: Mutex::new(Some(read.digest())) }))
    }

    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, with whatever pair is current when a connection begins.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        Ok(Arc::new(config))
    }

    /// Looks whether the files have changed, and takes them when they are good. Blocks.
    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Files::read(&self.files);
        let digest = read.as_ref().ok().map(Files::digest);
        if *seen == digest {
            return;
        }
        *seen = digest;
        match read.and_then(|files| files.certified(&self.files)) {
            Ok(certified) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                tracing::info!(cert = %self.files.cert.display(), "the certificate has changed and is in use");
            }
            Err(error) => tracing::warn!(%error, "the new certificate is not used; the one from before stays"),
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Looks at the files for as long as it is polled. Ends only when a look died.
pub async fn watch(certificate: Arc<Certificate>) -> JoinError {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let certificate = certificate.clone();
        if let Err(died) = tokio::task::spawn_blocking(move || certificate.look()).await {
            return died;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A certificate of its own making for `localhost`, and its key.
    pub fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// The pair in files, which live as long as the directory.
    pub fn in_files(dir: &Path, (cert, key): &(String, String)) -> Tls {
        let tls = Tls { cert: dir.join("c.pem"), key: dir.join("k.pem") };
        std::fs::write(&tls.cert, cert).unwrap();
        std::fs::write(&tls.key, key).unwrap();
        tls
    }

    fn in_use(certificate: &Certificate) -> CertificateDer<'static> {
        certificate.current.read().unwrap().cert[0].clone()
    }

    #[test]
    fn a_changed_pair_is_taken_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let tls = in_files(dir.path(), &made());
        let certificate = Certificate::load(&tls).unwrap();
        let first = in_use(&certificate);

        let (cert, key) = made();
        std::fs::write(&tls.cert, &cert).unwrap();
        certificate.look();
        assert_eq!(in_use(&certificate), first, "half a pair is none");
        std::fs::write(&tls.key, &key).unwrap();
        certificate.look();
        let second = in_use(&certificate);
        assert_ne!(second, first);

        for bad in ["", "-----BEGIN CERTIFICATE-----\nnonsense", "not a pem"] {
            std::fs::write(&tls.cert, bad).unwrap();
            certificate.look();
            assert_eq!(in_use(&certificate), second);
        }
        std::fs::remove_file(&tls.cert).unwrap();
        certificate.look();
        assert_eq!(in_use(&certificate), second);
    }

    #[test]
    fn what_cannot_be_used_at_the_start_says_which_file_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = made();
        let refused = |cert: &str, key: &str| {
            let tls = in_files(dir.path(), &(cert.to_owned(), key.to_owned()));
            Certificate::load(&tls).unwrap_err().to_string()
        };
        assert!(refused("", &key).contains("c.pem holds no certificate"));
        assert!(refused(&cert, &cert).starts_with("server.tls.key: "));
        assert!(refused(&cert, &made().1).contains("do not work together"));
        let missing = Tls { cert: dir.path().join("none.pem"), key: dir.path().join("k.pem") };
        let said = Certificate::load(&missing).unwrap_err().to_string();
        assert!(said.starts_with("server.tls.cert: ") && said.contains("none.pem cannot be read"), "{said}");
    }
}
