//! HTTP/2, which only comes through TLS: one connection with many streams, held to the limits that plain ones have.
//!
//! The protocol has no time limit of its own for a caller that asks nothing or reads nothing, so [`Streams`] keeps note
//! of every stream of a connection, and [`judge`](Streams::judge) says when the connection has outstayed: pure, time
//! passed in.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{ConnectionLimits, MAX_HEAD, Served};

/// Bytes of bodies that a caller may send ahead, per stream and in all: as much as a plain connection buffers, a few
/// times over, for these have many requests on one connection.
const WINDOW: u32 = 256 << 10;
/// Requests at once on one connection.
const STREAMS: u32 = 128;

/// Serves one connection until its caller leaves, outstays the limits, or the shutdown has drained it.
pub(super) async fn connection<S>(stream: S, served: Served)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Served { caller, app, limits, shutdown } = served;
    let streams = Arc::new(Streams::new(Instant::now()));
    let seen = streams.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let stream = seen.open();
        let answer = super::respond(app.clone(), request, caller);
        async move {
            let answer: Response<Body> = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Watched { body, stream }))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.stall)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut looks = tokio::time::interval(limits.head.min(limits.stall) / 4);
    let mut leaving = false;
    loop {
        let leave = tokio::select! {
            // How a connection ends says nothing about the relay: callers hang up as they like.
            _ended = connection.as_mut() => return,
            () = shutdown.cancelled(), if !leaving => true,
            now = looks.tick() => match streams.judge(now, &limits) {
                Standing::Welcome => false,
                Standing::Idle => !leaving,
                Standing::Stalled => return,
            },
        };
        if leave {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Welcome,
    /// Nothing was asked for a while: told to leave.
    Idle,
    /// Does not take its answers, or does not leave: cut.
    Stalled,
}

/// The streams of one connection.
struct Streams {
    inner: Mutex<Inner>,
}

struct Inner {
    open: HashMap<u64, Waiting>,
    next: u64,
    /// When the last stream ended.
    since: Instant,
}

#[derive(Clone, Copy)]
enum Waiting {
    /// For the relay, or for the rest of the request: the edge bounds both.
    ForUs,
    /// For the caller to take what it was handed.
    ForThem { since: Instant },
}

impl Streams {
    fn new(now: Instant) -> Self {
        Self { inner: Mutex::new(Inner { open: HashMap::new(), next: 0, since: now }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(self: &Arc<Self>) -> Stream {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.open.insert(id, Waiting::ForUs);
        Stream { id, streams: self.clone() }
    }

    fn judge(&self, now: Instant, limits: &ConnectionLimits) -> Standing {
        let inner = self.lock();
        let stalled = |waiting: &Waiting| match waiting {
            Waiting::ForUs => false,
            Waiting::ForThem { since } => now.duration_since(*since) > limits.stall,
        };
        let idle = if inner.open.is_empty() { now.duration_since(inner.since) } else { Duration::ZERO };
        if inner.open.values().any(stalled) || idle > limits.head + limits.stall {
            Standing::Stalled
        } else if idle > limits.head {
            Standing::Idle
        } else {
            Standing::Welcome
        }
    }
}

/// One request with its answer, for as long as the server holds it.
struct Stream {
    id: u64,
    streams: Arc<Streams>,
}

impl Stream {
    fn waits(&self, waiting: Waiting) {
        self.streams.lock().open.insert(self.id, waiting);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.streams.lock();
        inner.open.remove(&self.id);
        inner.since = Instant::now();
    }
}

/// An answer's body, which knows whether its last piece was taken.
struct Watched {
    body: Body,
    stream: Stream,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.stream.waits(Waiting::ForUs);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.stream.waits(Waiting::ForThem { since: Instant::now() });
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_outstays_is_told_apart_from_who_waits_for_us() {
        let limits = ConnectionLimits {
            head: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            ..ConnectionLimits::default()
        };
        let start = Instant::now();
        let streams = Arc::new(Streams::new(start));
        let at = |seconds| streams.judge(start + Duration::from_secs(seconds), &limits);
        assert_eq!([at(30), at(31), at(41)], [Standing::Welcome, Standing::Idle, Standing::Stalled]);

        let stream = streams.open();
        assert_eq!(at(1000), Standing::Welcome, "a long query is ours to bound");
        stream.waits(Waiting::ForThem { since: start + Duration::from_secs(1000) });
        assert_eq!([at(1010), at(1011)], [Standing::Welcome, Standing::Stalled]);
        drop(stream);
        assert_eq!(at(30), Standing::Welcome);
    }
}
