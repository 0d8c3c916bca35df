//! `mixrelay dead-letters`: asks the running relay's admin API, page after page.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Failure;
use super::admin::{self, Admin};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// One line for each letter.
    List(Filter),
    /// A letter with its record and the vendor's answer.
    Show { id: String },
    /// Send letters again, through today's mapping.
    Replay(Replay),
    /// Let letters go for good. Needs the admin token.
    Purge(Which),
    /// All letters with their records, one JSON object a line.
    Export(Filter),
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Filter {
    /// mixpanel or brevo.
    #[arg(long)]
    destination: Option<String>,
    /// rejected, too_large or unreadable.
    #[arg(long)]
    reason: Option<String>,
    /// Died at or after it: RFC 3339, or Unix milliseconds.
    #[arg(long)]
    since: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Which {
    /// Ids of letters, as `list` shows them.
    ids: Vec<String>,
    /// All letters, or all that the filter picks.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    which: Which,
    /// Send profile updates to Mixpanel though a later one of the same profile has arrived there.
    #[arg(long)]
    force: bool,
    /// Send events to Brevo however old they are: its automations fire on them.
    #[arg(long)]
    trigger_automations: bool,
}

pub(super) fn run(path: &Path, command: &Command) -> Result<ExitCode, Failure> {
    admin::with(path, async |relay, _| match command {
        Command::List(filter) => list(relay, filter).await,
        Command::Show { id } => show(relay, id).await,
        Command::Replay(replay) => send_again(relay, replay).await,
        Command::Purge(which) => purge(relay, which).await,
        Command::Export(filter) => export(relay, filter).await,
    })
}

impl Filter {
    fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields = [("destination", &self.destination), ("reason", &self.reason), ("since", &self.since)];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    fn query(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(self.fields()).finish()
    }
}

impl Which {
    /// The order's body; `None` when nobody said which letters.
    fn body(&self) -> Option<Value> {
        let filtered = self.filter.fields().next().is_some();
        match (self.ids.is_empty(), self.all || filtered) {
            (false, false) => Some(json!({ "ids": self.ids, "dry_run": self.dry_run })),
            (true, true) => {
                let filter: serde_json::Map<_, _> =
                    self.filter.fields().map(|(name, value)| (name.to_owned(), value.into())).collect();
                Some(json!({ "filter": filter, "dry_run": self.dry_run }))
            }
            _ => None,
        }
    }
}

async fn list(admin: &Admin, filter: &Filter) -> Result<ExitCode, Failure> {
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/v1/dead-letters?{}{cursor}", filter.query())).await?;
        let mut out = std::io::stdout().lock();
        for letter in page["items"].as_array().into_iter().flatten() {
            let text = |name: &str| letter[name].as_str().unwrap_or_default().replace(['\n', '\r'], " ");
            let answer: String = text("answer").chars().take(100).collect();
            writeln!(out, "{}  {}  {}  {}  {answer}", text("id"), text("died_at"), text("kind"), text("reason"))
                .map_err(Failure::Output)?;
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

async fn show(admin: &Admin, id: &str) -> Result<ExitCode, Failure> {
    let order = json!({ "ids": [id], "dry_run": true });
    let answer = admin.send(reqwest::Method::POST, "/v1/dead-letters/replay", &order).await?;
    match answer["items"].get(0) {
        Some(letter) => {
            writeln!(std::io::stdout(), "{letter:#}").map_err(Failure::Output)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            eprintln!("{id} is not held");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn send_again(admin: &Admin, replay: &Replay) -> Result<ExitCode, Failure> {
    let Some(mut order) = replay.which.body() else { return Ok(nobody_said()) };
    order["force"] = replay.force.into();
    order["trigger_automations"] = replay.trigger_automations.into();
    let (mut sent, mut by_name, mut held_back) = (0, std::collections::BTreeMap::new(), serde_json::Map::new());
    loop {
        let answer = admin.send(reqwest::Method::POST, "/v1/dead-letters/replay", &order).await?;
        sent += answer["replayed"].as_u64().unwrap_or(0);
        for (name, count) in answer["by_name"].as_object().into_iter().flatten() {
            *by_name.entry(name.clone()).or_insert(0) += count.as_u64().unwrap_or(0);
        }
        held_back.extend(answer["held_back"].as_object().cloned().unwrap_or_default());
        let Some(next) = answer["next"].as_str() else { break };
        order["cursor"] = next.into();
    }
    let mut out = std::io::stdout().lock();
    let done = if replay.which.dry_run { "would be sent again" } else { "are sent again" };
    let mut told = writeln!(out, "{sent} {done}");
    for (name, count) in by_name {
        told = told.and_then(|()| writeln!(out, "  {name}: {count}"));
    }
    if !held_back.is_empty() {
        let why = "stay: a later update of their profile has reached Mixpanel, or may have; --force sends them";
        told = told.and_then(|()| writeln!(out, "{} {why}", held_back.len()));
    }
    for id in held_back.keys() {
        told = told.and_then(|()| writeln!(out, "  {id}"));
    }
    told.map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

async fn purge(admin: &Admin, which: &Which) -> Result<ExitCode, Failure> {
    let Some(mut order) = which.body() else { return Ok(nobody_said()) };
    let mut purged = 0;
    loop {
        let answer = admin.send(reqwest::Method::DELETE, "/v1/dead-letters", &order).await?;
        purged += answer["purged"].as_u64().unwrap_or(0);
        let Some(next) = answer["next"].as_str() else { break };
        order["cursor"] = next.into();
    }
    let done = if which.dry_run { "would be purged" } else { "purged" };
    writeln!(std::io::stdout(), "{purged} {done}").map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

async fn export(admin: &Admin, filter: &Filter) -> Result<ExitCode, Failure> {
    let path = format!("/v1/dead-letters/export?{}", filter.query());
    admin.copy(&path, &mut std::io::stdout().lock()).await?;
    Ok(ExitCode::SUCCESS)
}

fn nobody_said() -> ExitCode {
    eprintln!("which letters? Name their ids, or give --all or a filter");
    ExitCode::from(super::USAGE)
}
