//! The server loop: connections bounded in number and in the time that their heads may take, and a drain at the end.
//!
//! `axum::serve` sets no limit on either, and ten thousand callers that send a byte a minute would each keep a task and
//! its buffers for good. Here a connection without a whole request head within [`ConnectionLimits::head`] is closed
//! (that ends idle keep-alive connections too), and past [`ConnectionLimits::connections`] the loop stops accepting
//! until one ends: the kernel's queue holds the rest, outside this process's memory. Buffers are made for those who have
//! begun to say something, of whom there are [`ConnectionLimits::talking`] at the most: ten thousand silent callers cost a
//! socket and a task each. A caller that does not read its
//! answer is cut off after [`ConnectionLimits::stall`]: it would hold the answer, and of a passed-through one the vendor's
//! connection too.
//!
//! HTTP/1.1 alone where TLS does not end here: telling the versions apart by their first bytes would be a wait without an
//! end, and no SDK speaks HTTP/2 without TLS. With TLS the handshake says which one it is, within the time of a head.

mod http2;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::doors::Door;
use super::tls;

/// Largest request head, in bytes. A GET with a single event in its query fits; mobile SDKs send bodies.
const MAX_HEAD: usize = 64 << 10;
/// How long to leave `accept` alone after it failed: out of file descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open at once.
    pub connections: usize,
    /// Of these, those that have begun to say something, and so take buffers.
    pub talking: usize,
    /// From opening a connection, or from the end of its last answer, to a whole request head.
    pub head: Duration,
    /// Longest time in which not a byte of an answer can be got rid of.
    pub stall: Duration,
    /// How long requests under way may take once the shutdown has begun.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            talking: 8_192,
            head: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(20),
        }
    }
}

impl ConnectionLimits {
    /// For a listener of operators and their tools. All of its connections fit into the file descriptors that callers
    /// leave to the relay.
    pub fn for_operators() -> Self {
        Self { connections: 256, talking: 128, ..Self::default() }
    }
}

/// In the extensions of a request that came through TLS which ends here.
#[derive(Clone, Copy, Debug)]
pub struct OverTls;

/// Serves `app` until `shutdown`, then drains: no new connections, requests under way are answered.
pub async fn serve(door: Door, app: Router, limits: ConnectionLimits, shutdown: CancellationToken) {
    let Door { listener, tls } = door;
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let talking = Arc::new(Semaphore::new(limits.talking));
    let connections = TaskTracker::new();
    // Told apart from `shutdown`: connections that outlive the drain, or this future, are cut.
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    loop {
        let next = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (stream, peer, slot))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let caller = Caller { peer, over_tls: acceptor.is_some() };
                let served = Served { caller, app: app.clone(), limits, shutdown: shutdown.clone() };
                let connection = connection(stream, acceptor.clone(), served, talking.clone());
                let cut = cut.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = cut.cancelled() => {}
                    }
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
}

/// The other end of a connection.
#[derive(Clone, Copy)]
struct Caller {
    peer: SocketAddr,
    over_tls: bool,
}

/// What one connection is served with.
struct Served {
    caller: Caller,
    app: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, served: Served, talking: Arc<Semaphore>) {
    // An answer is one small packet that nothing follows.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // The protocol's buffers are made at once, 16 KiB and more: for those alone who say something.
    let begins = async {
        // Not `readable`, which may say so of a socket that nobody has looked at yet.
        stream.peek(&mut [0]).await?;
        talking.acquire().await.map_err(io::Error::other)
    };
    let begun = tokio::select! {
        begun = tokio::time::timeout(served.limits.head, begins) => begun,
        () = served.shutdown.cancelled() => return,
    };
    let Ok(Ok(_talking)) = begun else { return };
    // Boxed: a silent caller's task does not have room for both protocols and a handshake.
    Box::pin(conversation(stream, acceptor, served)).await;
}

async fn conversation(stream: TcpStream, acceptor: Option<TlsAcceptor>, served: Served) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(served.limits.stall));
    let stream = Box::pin(stream);
    let Some(acceptor) = acceptor else {
        return http1(stream, served).await;
    };
    let Ok(Ok(stream)) = tokio::time::timeout(served.limits.head, acceptor.accept(stream)).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(tls::H2) {
        http2::connection(stream, served).await;
    } else {
        http1(stream, served).await;
    }
}

async fn http1<S>(stream: S, served: Served)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Served { caller, app, limits, shutdown } = served;
    let service = service_fn(move |request: Request<Incoming>| respond(app.clone(), request, caller));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // How a connection ends says nothing about the relay: callers hang up as they like.
        _ended = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

async fn respond(app: Router, request: Request<Incoming>, caller: Caller) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(caller.peer));
    if caller.over_tls {
        request.extensions_mut().insert(OverTls);
    }
    app.oneshot(request).await
}

#[cfg(test)]
mod tests;
