//! `mixrelay demo`: relay and sandbox in one process, traffic as the SDKs shape it, and a table of where it went.

mod table;
mod traffic;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::sandbox::{Places, configuration};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, ConfigErrors, Secret};
use crate::sandbox::{Sandbox, SandboxConfig};
use crate::serve::Relay;
use crate::telemetry;
use crate::vendor::{TransportError, read_capped};
use table::Row;
use traffic::{Person, Shot};

/// Both destinations are at hand: what takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error("cannot listen on this machine: {0}")]
    Listen(#[source] std::io::Error),
    #[error("cannot keep a store: {0}")]
    Store(#[source] std::io::Error),
    #[error("the demo's own configuration: {0}")]
    Config(#[from] ConfigErrors),
    #[error("the system has no randomness to give: {0}")]
    Randomness(#[from] getrandom::Error),
    #[error("no answer from {url}: {source}")]
    Request { url: String, source: reqwest::Error },
    #[error("no answer from {url}: {source}")]
    Answer { url: String, source: TransportError },
    #[error("{url} did not answer as expected")]
    NotJson { url: String },
    #[error("records were still under way after {} s", PATIENCE.as_secs())]
    Stuck,
}

pub(super) fn run() -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(super::serve::stop_on_signal(shutdown.clone()));
        let directory = Directory::new()?;
        let accounts = SandboxConfig::default();
        let places = sandbox(accounts.clone(), shutdown.clone()).await?;
        let token = Secret::new(admin_token()?);
        let config = relay_config(&accounts, &places, &directory, token.clone())?;
        let relay = Relay::build(config, Arc::new(SystemClock), telemetry::install()?).await?;
        let (Some(address), _) = relay.addresses() else {
            return Err(Failure::Demo(DemoError::Listen(std::io::ErrorKind::AddrNotAvailable.into())));
        };
        let running = tokio::spawn(relay.run(shutdown.clone()));
        let show = async {
            let visitor = Visitor { client: client()?, relay: address, places: &places, token };
            let seen = visitor.show(&accounts).await?;
            let control = places.control;
            let mut out = std::io::stdout();
            writeln!(
                out,
                "{seen}\nIt stays up until Ctrl-C. The relay: http://{address}; what arrived: http://{control}"
            )
            .and_then(|()| out.flush())
            .map_err(Failure::Output)
        };
        tokio::select! {
            shown = show => shown?,
            () = shutdown.cancelled() => {}
        }
        running.await.map_err(|error| Failure::Run(error.into()))??;
        Ok(ExitCode::SUCCESS)
    })
}

/// A directory for the demo's store, which goes with it.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("mixrelay-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(DemoError::Store)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing in it is worth a complaint at the end of a demo.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(Failure::Tls)
}

fn admin_token() -> Result<String, DemoError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn sandbox(accounts: SandboxConfig, shutdown: CancellationToken) -> Result<Places, DemoError> {
    let listen = || TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0));
    let (mixpanel, brevo, control) = tokio::try_join!(listen(), listen(), listen()).map_err(DemoError::Listen)?;
    let at = |listener: &TcpListener| listener.local_addr().map_err(DemoError::Listen);
    let places = Places { mixpanel: at(&mixpanel)?, brevo: at(&brevo)?, control: at(&control)? };
    let sandbox = Sandbox::new(accounts, Arc::new(SystemClock));
    // It outlives the relay's drain, as vendors do; the end of the process ends it.
    tokio::spawn(sandbox.serve(mixpanel, brevo, control, async move {
        shutdown.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    }));
    Ok(places)
}

fn relay_config(
    accounts: &SandboxConfig,
    places: &Places,
    directory: &Directory,
    admin_token: Secret,
) -> Result<config::Config, DemoError> {
    let mut config = config::parse(&configuration(accounts, places), "demo", &|_| None)?.config;
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.store.engine = config::StoreEngine::Sqlite(directory.0.join("relay.db"));
    // A temporary directory may well lie in memory, and nothing in it is missed.
    config.store.allow_volatile = true;
    config.auth.admin_token = Some(admin_token);
    Ok(config)
}

/// Whoever looks at the demo from outside, over HTTP alone.
struct Visitor<'a> {
    client: reqwest::Client,
    relay: SocketAddr,
    places: &'a Places,
    token: Secret,
}

impl Visitor<'_> {
    /// Sends everything, waits until it has arrived, and says where.
    async fn show(&self, accounts: &SandboxConfig) -> Result<String, DemoError> {
        let people = traffic::everybody(&accounts.mixpanel, SystemClock.now());
        let mut answers = Vec::new();
        for person in &people {
            let mut accepted = 0;
            for shot in &person.shots {
                accepted += if table::accepted(&self.send(shot).await?) { shot.records } else { 0 };
            }
            answers.push(accepted);
        }
        let status = self.quiet().await?;
        let mut rows = Vec::new();
        for (person, accepted) in people.iter().zip(answers) {
            rows.push(self.row(person, accepted).await?);
        }
        let followed = match people.first() {
            Some(person) => self.followed(person).await?,
            None => String::new(),
        };
        Ok([table::people(&rows), table::destinations(&status), followed].concat())
    }

    async fn send(&self, shot: &Shot) -> Result<Vec<u8>, DemoError> {
        let url = format!("http://{}{}", self.relay, shot.path_and_query);
        let method = if shot.get { Method::GET } else { Method::POST };
        let mut request = self.client.request(method, &url).body(shot.body.clone());
        for (name, value) in &shot.headers {
            request = request.header(*name, value);
        }
        self.answer(url, request).await
    }

    async fn answer(&self, url: String, request: reqwest::RequestBuilder) -> Result<Vec<u8>, DemoError> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(source) => return Err(DemoError::Request { url, source }),
        };
        let body = read_capped(response, MAX_ANSWER).await.map_err(|source| DemoError::Answer { url, source })?;
        Ok(body.to_vec())
    }

    async fn json(&self, url: String, request: reqwest::RequestBuilder) -> Result<Value, DemoError> {
        let body = self.answer(url.clone(), request).await?;
        serde_json::from_slice(&body).map_err(|_| DemoError::NotJson { url })
    }

    /// What the sandbox shows at `path`.
    async fn arrived(&self, path: String) -> Result<Value, DemoError> {
        let url = format!("http://{}{path}", self.places.control);
        let request = self.client.get(&url);
        self.json(url, request).await
    }

    /// The relay's status once nothing is under way any more.
    async fn quiet(&self) -> Result<Value, DemoError> {
        let url = format!("http://{}/v1/status", self.relay);
        let looking = async {
            loop {
                let request = self.client.get(&url).bearer_auth(self.token.expose());
                let status = self.json(url.clone(), request).await?;
                let backlog = table::backlog(&status);
                if backlog == 0 {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.map_err(|_| DemoError::Stuck)?
    }

    async fn row(&self, person: &Person, accepted: u64) -> Result<Row, DemoError> {
        let id = person.distinct_id;
        let events = self.arrived(format!("/mixpanel/events?distinct_id={id}")).await?;
        let updates = self.arrived(format!("/mixpanel/updates?distinct_id={id}")).await?;
        let contact = self.arrived(format!("/brevo/contacts/{id}")).await?;
        let brevo_events = match contact["id"].as_i64() {
            Some(contact) => self.arrived(format!("/brevo/events?contact_id={contact}")).await?,
            None => Value::Null,
        };
        Ok(Row {
            sdk: person.sdk,
            sent: person.shots.iter().map(|shot| shot.records).sum(),
            accepted,
            mixpanel_events: table::count(&events["events"]),
            mixpanel_updates: table::count(&updates["updates"]),
            brevo_contact: contact["email"].as_str().map(str::to_owned),
            brevo_events: table::count(&brevo_events["events"]),
        })
    }

    /// The first person's purchase, at every place it has been.
    async fn followed(&self, person: &Person) -> Result<String, DemoError> {
        let id = person.distinct_id;
        let mixpanel = self.arrived(format!("/mixpanel/events?distinct_id={id}&event=Purchase")).await?;
        let contact = self.arrived(format!("/brevo/contacts/{id}")).await?;
        let brevo = match contact["id"].as_i64() {
            Some(contact) => {
                self.arrived(format!("/brevo/events?contact_id={contact}&event_name=order_completed")).await?
            }
            None => Value::Null,
        };
        Ok(table::followed(&[
            ("the app sent, in base64 in a form", person.purchase.clone()),
            ("Mixpanel has", mixpanel["events"][0].clone()),
            ("Brevo has the contact", if contact["id"].is_null() { Value::Null } else { contact }),
            ("Brevo has the event", brevo["events"][0]["event"].clone()),
        ]))
    }
}
