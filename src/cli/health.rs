//! `mixrelay health`: is the relay of this configuration alive? For container images without a shell or a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use crate::config::Server;

/// Shorter than anything that watches would wait.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum HealthError {
    #[error("{address} does not answer: {source}")]
    NoAnswer { address: SocketAddr, source: reqwest::Error },
    #[error("{address} answered {status}")]
    Status { address: SocketAddr, status: http::StatusCode },
}

pub(super) fn run(path: &Path) -> Result<ExitCode, Failure> {
    let config = super::load(path)?.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    // The question holds nothing that a stranger could use, and the certificate names the relay's public host.
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_danger_accept_invalid_certs(true);
    let client = client.build().map_err(Failure::Tls)?;
    runtime.block_on(ask(&client, scheme(&config.server), address(&config.server)))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &reqwest::Client, scheme: &str, address: SocketAddr) -> Result<(), HealthError> {
    let asked = client.get(format!("{scheme}://{address}/healthz")).send().await;
    let answer = asked.map_err(|source| HealthError::NoAnswer { address, source })?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(HealthError::Status { address, status }),
    }
}

/// The private listener never speaks TLS.
pub(super) fn scheme(server: &Server) -> &'static str {
    if server.tls.is_some() && server.admin_listen.is_none() { "https" } else { "http" }
}

/// Where the relay can be reached from its own machine.
pub(super) fn address(server: &Server) -> SocketAddr {
    let listen = server.admin_listen.unwrap_or(server.listen);
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;

    use super::*;

    #[test]
    fn every_address_is_asked_on_this_machine() {
        let at = |listen: &str| address(&Server { listen: listen.parse().unwrap(), ..Server::default() }).to_string();
        assert_eq!(at("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(at("[::]:8080"), "[::1]:8080");
        assert_eq!(at("192.0.2.7:1"), "192.0.2.7:1");
        let admin_listen = Some("127.0.0.1:9090".parse().unwrap());
        assert_eq!(address(&Server { admin_listen, ..Server::default() }).port(), 9090);
    }

    #[tokio::test]
    async fn only_a_good_answer_is_health() {
        super::super::use_ring();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (status, good) in [(StatusCode::OK, true), (StatusCode::SERVICE_UNAVAILABLE, false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let app = Router::new().route("/healthz", get(move || async move { status }));
            tokio::spawn(async move { axum::serve(listener, app).await });
            assert_eq!(ask(&client, "http", address).await.is_ok(), good);
        }
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(ask(&client, "http", free).await, Err(HealthError::NoAnswer { .. })));
    }
}
