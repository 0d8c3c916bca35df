//! Where connections come in: the listeners, opened by the relay itself or handed over by whoever started it.
//!
//! A service manager that holds the sockets (systemd's socket activation) keeps them open while the relay restarts, so that
//! no connection is refused meanwhile: they wait in the kernel's queue. The first socket handed over is the public one, the
//! second the private one; the addresses of the configuration are then not opened. One that nothing would serve is an error:
//! its callers would be connected by the kernel and never hear a word.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use listenfd::ListenFd;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::tls::{Certificate, TlsError};
use crate::config::Server;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorsError {
    #[error("server.{key}: cannot listen on {address}: {source}")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error("the socket that was handed over for server.{key} is no listening TCP socket: {source}")]
    HandedOver { key: &'static str, source: io::Error },
    #[error(
        "{handed_over} sockets were handed over, and the configuration serves {served}: set server.admin_listen for the \
         second, or take the others out of the socket unit (ListenStream=)"
    )]
    Unserved { handed_over: usize, served: usize },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("reading the certificate was broken off: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A listener, and how one speaks there.
pub struct Door {
    pub listener: TcpListener,
    /// With it, connections speak TLS and nothing else.
    pub tls: Option<Arc<ServerConfig>>,
}

/// All that the relay listens at.
pub struct Doors {
    /// For apps.
    pub public: Door,
    /// For the people who run it, without TLS.
    pub private: Option<Door>,
    /// What has to be kept up to date while they are open.
    pub certificate: Option<Arc<Certificate>>,
}

impl Doors {
    /// The certificate is read before anything listens.
    pub async fn open(server: &Server) -> Result<Self, DoorsError> {
        let certificate = match server.tls.clone() {
            Some(files) => Some(tokio::task::spawn_blocking(move || Certificate::load(&files)).await??),
            None => None,
        };
        let tls = certificate.as_ref().map(Certificate::server_config).transpose()?;
        let mut handed_over = ListenFd::from_env();
        let served = 1 + usize::from(server.admin_listen.is_some());
        if handed_over.len() > served {
            return Err(DoorsError::Unserved { handed_over: handed_over.len(), served });
        }
        let listener = listener(&mut handed_over, 0, "listen", server.listen).await?;
        let private = match server.admin_listen {
            Some(address) => {
                Some(Door { listener: self::listener(&mut handed_over, 1, "admin_listen", address).await?, tls: None })
            }
            None => None,
        };
        Ok(Self { public: Door { listener, tls }, private, certificate })
    }
}

async fn listener(
    handed_over: &mut ListenFd,
    at: usize,
    key: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, DoorsError> {
    let failed = |source| DoorsError::HandedOver { key, source };
    // Taking one that is not there is an error to the crate, and the usual case here.
    if at < handed_over.len()
        && let Some(socket) = handed_over.take_tcp_listener(at).map_err(failed)?
    {
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(socket).map_err(failed)?;
        tracing::info!(server_key = key, "listening on a socket that was handed over");
        return Ok(listener);
    }
    TcpListener::bind(address).await.map_err(|source| DoorsError::Listen { key, address, source })
}
