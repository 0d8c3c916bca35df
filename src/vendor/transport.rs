//! The bottom of the stack: one request over the wire, one answer back, both bounded.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tower::Service;

use super::{VendorAnswer, VendorRequest};
use crate::store::StoreError;

/// Answers longer than this are of no use to anyone: the longest that a write endpoint sends is a list of failed records.
pub(super) const MAX_ANSWER: usize = 4 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection: the request has certainly not arrived.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The request may have arrived.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The request may have arrived.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// An answer came, but more of it than anyone should send.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The relay's own store failed while the call's budget was claimed; nothing was sent, and the process is ending.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TransportError {
    /// Whether the vendor may have acted on the request.
    pub fn doubtful(&self) -> bool {
        !matches!(self, TransportError::Connect(_) | TransportError::Store(_))
    }
}

/// A [`tower::Service`] that sends with reqwest. Cloning shares the connection pool.
#[derive(Clone, Debug)]
pub struct Transport {
    client: reqwest::Client,
    /// Longest answer that is read, in bytes.
    max_answer: usize,
}

impl Transport {
    /// A client that follows no redirect (a redirected write would carry credentials elsewhere) and uses no proxy from
    /// the environment. Fails when TLS cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_nodelay(true)
            .user_agent(concat!("mixrelay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, max_answer: MAX_ANSWER })
    }

    /// The same for answers of up to `max_answer` bytes.
    pub fn reading_up_to(self, max_answer: usize) -> Self {
        Self { max_answer, ..self }
    }

    /// The pool underneath, for callers that stream.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

impl Service<VendorRequest> for Transport {
    type Response = VendorAnswer;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<VendorAnswer, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: VendorRequest) -> Self::Future {
        let (client, max_answer) = (self.client.clone(), self.max_answer);
        Box::pin(async move {
            let body = request.body.clone();
            exchange(&client, request, body.into(), max_answer).await
        })
    }
}

/// Sends `body` in place of the request's own, and reads up to `max_answer` bytes.
pub(super) async fn exchange(
    client: &reqwest::Client,
    request: VendorRequest,
    body: reqwest::Body,
    max_answer: usize,
) -> Result<VendorAnswer, TransportError> {
    let sending = client.request(request.method, request.url).headers(request.headers).body(body).send();
    let response = sending.await.map_err(classify)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read_capped(response, max_answer).await?;
    Ok(VendorAnswer::new(status, headers, body))
}

fn classify(error: reqwest::Error) -> TransportError {
    // The outer message of reqwest only names the URL; the cause is what helps.
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_connect() || error.is_builder() {
        TransportError::Connect(cause.to_string())
    } else {
        TransportError::Broken(cause.to_string())
    }
}

/// Reads an answer's body, up to `max` bytes.
pub async fn read_capped(mut response: reqwest::Response, max: usize) -> Result<Bytes, TransportError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(classify)? {
        if body.len() + chunk.len() > max {
            return Err(TransportError::TooLong(max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
