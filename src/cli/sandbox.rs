//! `mixrelay sandbox`: both vendors on this machine, and a configuration that points at them.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::clock::SystemClock;
use crate::sandbox::{IdentityMode, Sandbox, SandboxConfig};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where Mixpanel is simulated.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091")]
    mixpanel: SocketAddr,
    /// Where Brevo is simulated.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8092")]
    brevo: SocketAddr,
    /// Where one looks at what arrived, and orders faults.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    control: SocketAddr,
    /// A JSON file with other accounts than the usual ones.
    #[arg(long, value_name = "FILE")]
    accounts: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SandboxError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: not accounts for the sandbox: {source}", path.display())]
    Accounts { path: PathBuf, source: serde_json::Error },
    #[error("--{flag}: cannot listen on {address}: {source}")]
    Listen { flag: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the sandbox ended: {0}")]
    Ended(#[source] std::io::Error),
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let accounts = arguments.accounts.as_deref().map_or_else(|| Ok(SandboxConfig::default()), read)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let mixpanel = listen("mixpanel", arguments.mixpanel).await?;
        let brevo = listen("brevo", arguments.brevo).await?;
        let control = listen("control", arguments.control).await?;
        let places = Places {
            mixpanel: mixpanel.local_addr().map_err(SandboxError::Ended)?,
            brevo: brevo.local_addr().map_err(SandboxError::Ended)?,
            control: control.local_addr().map_err(SandboxError::Ended)?,
        };
        let mut out = std::io::stdout();
        let relay = Relay { listen: "127.0.0.1:8080".into(), store: "data/sandbox.db".into(), for_the_demo: false };
        let text = configuration(&accounts, &places, &relay);
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;

        let shutdown = CancellationToken::new();
        tokio::spawn(super::serve::stop_on_signal(shutdown.clone()));
        let sandbox = Sandbox::new(accounts, Arc::new(SystemClock));
        let served = sandbox.serve(mixpanel, brevo, control, shutdown.cancelled_owned()).await;
        served.map_err(SandboxError::Ended)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn read(path: &Path) -> Result<SandboxConfig, SandboxError> {
    let text = std::fs::read(path).map_err(|source| SandboxError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| SandboxError::Accounts { path: path.to_owned(), source })
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, SandboxError> {
    TcpListener::bind(address).await.map_err(|source| SandboxError::Listen { flag, address, source })
}

/// Where a running sandbox is.
pub(super) struct Places {
    pub mixpanel: SocketAddr,
    pub brevo: SocketAddr,
    pub control: SocketAddr,
}

/// The relay that the configuration is for.
pub(super) struct Relay {
    pub listen: String,
    pub store: String,
    /// A demo's store may stand on any file system, and needs little room.
    pub for_the_demo: bool,
}

const DEMO_STORE: &str = "# A demo may run in a container's own file system, and on a disk that is nearly full.\n\
    allow_volatile_store: true\nstore_min_free: 64MiB\n";

/// A configuration for a relay in front of the sandbox: the documentation's mapping, the sandbox's accounts.
pub(super) fn configuration(accounts: &SandboxConfig, places: &Places, relay: &Relay) -> String {
    let Places { mixpanel, brevo, control } = places;
    // JSON strings are YAML too, whatever they hold.
    let text = |value: &str| json!(value).to_string();
    let identity = match accounts.mixpanel.identity {
        IdentityMode::Simplified => "simplified",
        IdentityMode::Original => "original",
    };
    format!(
        r#"# The sandbox is up. This is a configuration for a relay in front of it: mixrelay serve --config FILE
# What arrived: curl http://{control}/mixpanel/events, http://{control}/brevo/contacts; more: http://{control}/
connectors:
  mixpanel:
    project_token: {token}
    service_account: {{ username: {username}, secret: {secret} }}
    project_id: {project_id}
    identity: {identity}
    endpoints:
      ingestion: "http://{mixpanel}"
      query: "http://{mixpanel}"
      app: "http://{mixpanel}"
      export: "http://{mixpanel}"
      cdn: "http://{mixpanel}"
  brevo:
    api_key: {api_key}
    base_url: "http://{brevo}/v3"
lists: {{ all_users: 15 }}
event_mapping:
  "Purchase": order_completed
  "Sign Up": customer_created
property_mapping:
  $email: email
  $first_name: FIRSTNAME
  $phone: SMS
  plan: PLAN_TYPE
  signup_date: SIGNUP_DATE
  total_revenue: LTV
privacy: {{ consent: none }}
server: {{ listen: {listen} }}
store: {store}
{demo}"#,
        token = text(&accounts.mixpanel.project_token),
        username = text(&accounts.mixpanel.service_account),
        secret = text(&accounts.mixpanel.service_secret),
        project_id = text(&accounts.mixpanel.project_id),
        api_key = text(&accounts.brevo.api_key),
        listen = text(&relay.listen),
        store = text(&format!("sqlite:{}", relay.store)),
        demo = if relay.for_the_demo { DEMO_STORE } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Weight, parse};

    #[test]
    fn what_is_printed_is_a_configuration_that_loads() {
        let mut accounts = SandboxConfig::default();
        accounts.mixpanel.service_secret = "with \"quotes\": #".replace(' ', "");
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let places = Places { mixpanel: at(1), brevo: at(2), control: at(3) };
        let relay = Relay { listen: "127.0.0.1:8080".into(), store: "data/sandbox.db".into(), for_the_demo: false };
        let text = configuration(&accounts, &places, &relay);
        let loaded = parse(&text, "sandbox", &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let account = loaded.config.mixpanel.service_account.unwrap();
        assert_eq!(account.secret.expose(), accounts.mixpanel.service_secret);
        assert_eq!(loaded.config.mixpanel.endpoints.export.as_str(), "http://127.0.0.1:1/");
        assert_eq!(loaded.config.brevo.unwrap().base_url.as_str(), "http://127.0.0.1:2/v3");
        assert!(loaded.notices.iter().all(|notice| notice.weight() == Weight::Note), "{:?}", loaded.notices);
    }
}
