//! For tests of this room: requests without a network, and a sandbox behind real loopback sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::http::Call;
use super::{Sandbox, SandboxConfig};
use crate::clock::{ManualClock, UnixMillis};

pub const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

pub fn call(method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Call {
    let uri: Uri = target.parse().expect("a target");
    let raw_query = uri.query().unwrap_or_default().to_owned();
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).expect("a name"), HeaderValue::from_str(value).expect("a value"))
        })
        .collect();
    Call {
        method: Method::from_bytes(method.as_bytes()).expect("a method"),
        path: uri.path().to_owned(),
        query: form_urlencoded::parse(raw_query.as_bytes()).into_owned().collect(),
        raw_query,
        headers,
        body: body.into(),
        peer: SocketAddr::from(([127, 0, 0, 1], 5555)),
    }
}

/// A sandbox on three ports of its own, under a clock that stands at [`NOW`] until moved.
pub struct Running {
    pub clock: Arc<ManualClock>,
    pub mixpanel: String,
    pub brevo: String,
    pub control: String,
    pub http: reqwest::Client,
    _stop: oneshot::Sender<()>,
}

impl Running {
    pub async fn start(config: SandboxConfig) -> Self {
        // Tests of one process race to install it; whoever is second finds it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let clock = ManualClock::at(NOW);
        let sandbox = Sandbox::new(config, clock.clone());
        let listen = || async { TcpListener::bind("127.0.0.1:0").await.expect("a loopback port") };
        let (mixpanel, brevo, control) = (listen().await, listen().await, listen().await);
        let base = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("bound"));
        let (mixpanel_base, brevo_base, control_base) = (base(&mixpanel), base(&brevo), base(&control));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(sandbox.serve(mixpanel, brevo, control, async move {
            drop(stopped.await);
        }));
        Self {
            clock,
            mixpanel: mixpanel_base,
            brevo: format!("{brevo_base}/v3"),
            control: control_base,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            _stop: stop,
        }
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> (u16, HeaderMap, String) {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = Limited::new(reqwest::Body::from(response), 1 << 26).collect().await.expect("a body").to_bytes();
        (status, headers, String::from_utf8_lossy(&body).into_owned())
    }

    /// A call to Brevo with the account's key.
    pub async fn brevo(&self, method: &str, path: &str, body: Option<Value>) -> (u16, HeaderMap, Value) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request =
            self.http.request(method, format!("{}{path}", self.brevo)).header("api-key", "xkeysib-sandbox");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let (status, headers, body) = self.send(request).await;
        (status, headers, serde_json::from_str(&body).unwrap_or_default())
    }

    /// `/import` with the service account.
    pub async fn import(&self, query: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let url = format!("{}/import?project_id=12345&{query}", self.mixpanel);
        let request = self.http.post(url).basic_auth("sandbox-sa", Some("sandbox-secret")).body(body);
        let (status, _, body) = self.send(request).await;
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.http.request(method, format!("{}{path}", self.control)).body(body.to_string());
        let (status, _, body) = self.send(request).await;
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    pub async fn show(&self, path: &str) -> Value {
        self.control("GET", path, Value::Null).await.1
    }
}
