//! The bottom of the stack for one large body: streamed from a file, so that it is never in memory.

use std::fs::File;
use std::future::Future;
use std::io::{self, Seek as _, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{CONTENT_LENGTH, HeaderValue};
use tokio_util::io::ReaderStream;
use tower::Service;

use super::transport::{MAX_ANSWER, exchange};
use super::{Transport, TransportError, VendorAnswer, VendorRequest};

/// A [`Service`] that sends a file, from its beginning, in place of the request's own body. One call at a time: calls
/// share the file's cursor.
#[derive(Clone, Debug)]
pub struct Upload {
    transport: Transport,
    file: Arc<File>,
}

impl Upload {
    pub fn new(transport: Transport, file: Arc<File>) -> Self {
        Self { transport, file }
    }

    fn body(&self) -> io::Result<(reqwest::Body, u64)> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let length = file.metadata()?.len();
        Ok((reqwest::Body::wrap_stream(ReaderStream::new(tokio::fs::File::from_std(file))), length))
    }
}

impl Service<VendorRequest> for Upload {
    type Response = VendorAnswer;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<VendorAnswer, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: VendorRequest) -> Self::Future {
        let client = self.transport.client().clone();
        let body = self.body();
        Box::pin(async move {
            // Nothing has left yet.
            let (body, length) = body.map_err(|error| TransportError::Connect(error.to_string()))?;
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            exchange(&client, request, body, MAX_ANSWER).await
        })
    }
}
