//! `mixrelay datasets`: the running relay's data sets and their runs, asked of its admin API.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::Failure;
use super::admin::{self, Admin};

/// Between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the configuration's data sets, whether their definitions are confirmed, and their last runs.
    List,
    /// Show what a data set would change, and after a yes change it; from then on its schedule does.
    Run(Run),
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The data set's name.
    name: String,
    /// Show what would change, and change nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Go past the brake on mass removal.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the configuration has no data set {0}")]
pub(super) struct NoSuch(String);

pub(super) fn run(path: &Path, command: &Command) -> Result<ExitCode, Failure> {
    admin::with(path, async |relay, _| match command {
        Command::List => list(relay).await,
        Command::Run(run) => run_one(relay, run).await,
    })
}

async fn datasets(relay: &Admin) -> Result<Vec<Value>, Failure> {
    let mut known = relay.get("/v1/datasets").await?;
    Ok(known["datasets"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

async fn list(relay: &Admin) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    for dataset in datasets(relay).await? {
        out.write_all(about(&dataset).as_bytes()).map_err(Failure::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn about(dataset: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let standing = match (&dataset["problem"], dataset["confirmed"].as_bool()) {
        (Value::String(problem), _) => problem.clone(),
        (_, Some(true)) => format!("confirmed {}", text(&dataset["confirmed_at"])),
        _ => "not confirmed: its schedule shows what it would change, and changes nothing".to_owned(),
    };
    let last = match &dataset["last_run"] {
        Value::Null => "not run yet".to_owned(),
        run => format!("last {}: {}", text(&run["asked_at"]), told(run)),
    };
    let name = text(&dataset["name"]);
    format!("{name}: {standing}\n    {last}\n    next {}\n", text(&dataset["next_at"]))
}

async fn run_one(relay: &Admin, run: &Run) -> Result<ExitCode, Failure> {
    let known = datasets(relay).await?;
    let Some(dataset) = known.iter().find(|dataset| dataset["name"] == run.name.as_str()) else {
        return Err(NoSuch(run.name.clone()).into());
    };
    if run.dry_run || dataset["confirmed"] != true {
        let shown = follow(relay, begin(relay, run, true).await?).await?;
        if run.dry_run || shown["status"] != "done" {
            return Ok(code(&shown));
        }
        if !(run.yes || agreed(&run.name).map_err(Failure::Output)?) {
            println!("nothing was changed");
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(code(&follow(relay, begin(relay, run, false).await?).await?))
}

fn code(run: &Value) -> ExitCode {
    if run["status"] == "done" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agreed(name: &str) -> std::io::Result<bool> {
    print!("Change it, now and whenever {name} is due? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn begin(relay: &Admin, run: &Run, dry_run: bool) -> Result<Value, Failure> {
    let order = json!({ "dry_run": dry_run, "force": run.force });
    Ok(relay.send(Method::POST, &format!("/v1/datasets/{}/run", run.name), &order).await?)
}

/// Shows a run to its end: a line that changes on a terminal, elsewhere a line for each stage.
async fn follow(relay: &Admin, mut run: Value) -> Result<Value, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let id = run["id"].as_str().unwrap_or_default().to_owned();
    let mut shown = Value::Null;
    while run["status"] == "running" {
        if terminal {
            eprint!("\r{}\x1b[K", step(&run));
        } else if shown != run["stage"] {
            eprintln!("{}", step(&run));
            shown = run["stage"].clone();
        }
        tokio::time::sleep(LOOK_EVERY).await;
        run = relay.get(&format!("/v1/datasets/runs/{id}")).await?;
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    print!("{}", ended(&run));
    Ok(run)
}

fn step(run: &Value) -> String {
    let (name, stage) = (run["dataset"].as_str().unwrap_or_default(), run["stage"].as_str().unwrap_or_default());
    let looked_at = run["matched"].as_u64().unwrap_or(0) + unmatched(run);
    format!("{name}: {stage}, {} rows, {looked_at} of {} people looked at", run["rows"], run["people"])
}

fn unmatched(run: &Value) -> u64 {
    run["unmatched"].as_object().map_or(0, |by_reason| by_reason.values().filter_map(Value::as_u64).sum())
}

/// How the run ended, in one line.
fn told(run: &Value) -> String {
    let dry = if run["dry_run"] == true { " (dry run)" } else { "" };
    let status = run["status"].as_str().unwrap_or_default();
    match run["why"].as_str() {
        Some(why) => format!("{status}{dry}: {why}"),
        None => format!("{status}{dry}, {} of {} people changed", run["changed"], run["people"]),
    }
}

/// The run's report.
fn ended(run: &Value) -> String {
    let mut text = format!("{}: {}\n", run["dataset"].as_str().unwrap_or_default(), told(run));
    let dry = run["dry_run"] == true;
    let mut line = |said: String| text.push_str(&format!("    {said}\n"));
    let (rows, people, repeated) = (&run["rows"], &run["people"], &run["repeated"]);
    line(format!("{rows} rows about {people} people, {repeated} repeated"));
    line(format!("{} people matched, {} not{}", run["matched"], unmatched(run), reasons(&run["unmatched"])));
    let would = if dry { "would change" } else { "changed" };
    for (attribute, people) in run["attributes"].as_object().into_iter().flatten() {
        line(format!("{attribute} {would} for {people}"));
    }
    let list = &run["list"];
    if list.is_object() {
        let (in_it, before) = (&list["already_in"], &list["before"]);
        line(match dry {
            true => {
                format!("list: {} would come, {} would go, {in_it} of {before} stay", list["to_add"], list["to_remove"])
            }
            false => {
                format!("list: {} added, {} removed, {in_it} of {before} were in it", list["added"], list["removed"])
            }
        });
    }
    let costs = &run["costs"];
    let (queries, writes, calls) = (&costs["queries"], &costs["contact_writes"], &costs["list_calls"]);
    line(format!("costs at most: {queries} queries, {writes} contact writes, {calls} list calls"));
    text
}

fn reasons(unmatched: &Value) -> String {
    let each = unmatched.as_object().into_iter().flatten().map(|(why, people)| format!("{why} {people}"));
    let each: Vec<String> = each.collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(dry_run: bool) -> Value {
        json!({
            "id": "r", "dataset": "dormant", "status": "done", "why": null, "dry_run": dry_run, "stage": "ended", "rows": 9,
            "people": 8, "repeated": 1, "matched": 6, "unmatched": { "no_address": 2 }, "changed": 5,
            "attributes": { "DAYS_AWAY": 5 }, "asked_at": "2026-01-02T03:04:05Z",
            "list": { "already_in": 3, "before": 4, "to_add": 2, "to_remove": 1, "added": 0, "removed": 0 },
            "costs": { "queries": 1, "contact_writes": 5, "list_calls": 3 },
        })
    }

    #[test]
    fn a_dry_run_is_told_as_what_would_be() {
        let expected = "dormant: done (dry run), 5 of 8 people changed\n    9 rows about 8 people, 1 repeated\n    \
                        6 people matched, 2 not (no_address 2)\n    DAYS_AWAY would change for 5\n    \
                        list: 2 would come, 1 would go, 3 of 4 stay\n    \
                        costs at most: 1 queries, 5 contact writes, 3 list calls\n";
        assert_eq!(ended(&done(true)), expected);
        assert!(ended(&done(false)).contains("DAYS_AWAY changed for 5\n"), "{}", ended(&done(false)));
    }

    #[test]
    fn a_data_set_says_whether_its_schedule_writes() {
        let mut dataset = json!({
            "name": "dormant", "problem": null, "confirmed": false, "next_at": "n", "last_run": null,
        });
        assert!(about(&dataset).starts_with("dormant: not confirmed"), "{}", about(&dataset));
        (dataset["confirmed"], dataset["confirmed_at"], dataset["last_run"]) = (json!(true), json!("c"), done(false));
        assert_eq!(
            about(&dataset),
            "dormant: confirmed c\n    last 2026-01-02T03:04:05Z: done, 5 of 8 people changed\n    next n\n"
        );
        dataset["problem"] = json!("the script x.js is empty");
        assert!(about(&dataset).starts_with("dormant: the script x.js is empty\n"));
    }
}
