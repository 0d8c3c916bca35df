//! The accept loop. Own, and not axum's, because a fault may have to end a connection with a TCP reset.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Asks for the connection to end with a TCP reset instead of an orderly close.
#[derive(Clone, Debug, Default)]
pub(super) struct Reset(Arc<AtomicBool>);

impl Reset {
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection cut on purpose")]
struct Cut;

/// Serves `listener` until `stop`; connections still open then are cut. A handler that returns `None` leaves its
/// request without an answer and ends the connection.
pub(super) async fn run<H, F>(listener: TcpListener, handler: H, stop: CancellationToken) -> io::Result<()>
where
    H: Fn(Request<Incoming>, SocketAddr, Reset) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<Response<Body>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Small answers must not wait for the caller's acknowledgement; without it they are only slower.
                    drop(stream.set_nodelay(true));
                    connections.spawn(connection(stream, peer, handler.clone()));
                }
                // Out of descriptors, or a peer that left: neither ends the sandbox, but must not spin it either.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}

async fn connection<H, F>(stream: TcpStream, peer: SocketAddr, handler: H)
where
    H: Fn(Request<Incoming>, SocketAddr, Reset) -> F + Send + 'static,
    F: Future<Output = Option<Response<Body>>> + Send + 'static,
{
    let reset = Reset::default();
    let io = Resettable { stream, reset: reset.clone() };
    let service = service_fn(move |request| {
        let answer = handler(request, peer, reset.clone());
        async move { answer.await.ok_or(Cut) }
    });
    let builder = Builder::new(TokioExecutor::new());
    if let Err(ended) = builder.serve_connection(TokioIo::new(io), service).await {
        tracing::trace!(%peer, error = %ended, "sandbox connection ended");
    }
}

/// A stream that resets its connection when dropped, if it was asked to.
struct Resettable {
    stream: TcpStream,
    reset: Reset,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.0.load(Ordering::SeqCst)
            && let Err(refused) = self.stream.set_zero_linger()
        {
            tracing::debug!(error = %refused, "the connection closes in order instead of with a reset");
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
