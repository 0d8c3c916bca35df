//! `mixrelay cohorts`: the running relay's cohorts and runs, asked of its admin API.

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
/// Width of the bar.
const BAR: usize = 30;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the project's cohorts, what a run of each costs, and which lists they fill. Costs one query.
    List,
    /// Bring a cohort into a list now, and show how far it is.
    Sync(Sync),
}

#[derive(Debug, clap::Args)]
pub(super) struct Sync {
    /// The cohort's id at Mixpanel; without it every cohort of the configuration.
    cohort: Option<u64>,
    /// The list's id at Brevo, or a name under `lists`; without it where the configuration has the cohort.
    #[arg(long)]
    list: Option<String>,
    /// `mirror`, `add` or `remove`; without it as the configuration has it, else `mirror`.
    #[arg(long, value_parser = ["mirror", "add", "remove"])]
    mode: Option<String>,
    /// Go past the brake on mass removal.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CohortsError {
    #[error("the configuration has no such cohort: name its list with --list")]
    NoList,
    #[error("the configuration has no cohorts: name one, and its list with --list")]
    Nothing,
}

pub(super) fn run(path: &Path, command: &Command) -> Result<ExitCode, Failure> {
    admin::with(path, async |relay, config| match command {
        Command::List => list(relay).await,
        Command::Sync(sync) => follow_all(relay, orders(sync, &config.cohorts)?).await,
    })
}

async fn list(relay: &Admin) -> Result<ExitCode, Failure> {
    let known = relay.get("/v1/cohorts").await?;
    let mut out = std::io::stdout().lock();
    for cohort in known["cohorts"].as_array().into_iter().flatten() {
        out.write_all(about(cohort).as_bytes()).map_err(Failure::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn about(cohort: &Value) -> String {
    let name = cohort["name"].as_str().unwrap_or_default();
    let mut text =
        format!("{:>10}  {name}: {} people, {} queries a run", cohort["id"], cohort["count"], cohort["queries"]);
    if cohort["betterPushed"] == true {
        text.push_str(", better pushed by Mixpanel's cohort sync");
    }
    text.push('\n');
    for target in cohort["targets"].as_array().into_iter().flatten() {
        let mode = target["syncMode"].as_str().unwrap_or_default();
        let last = match &target["lastRun"] {
            Value::Null => "not run yet".to_owned(),
            run => format!(
                "last {}, {}",
                run["status"].as_str().unwrap_or_default(),
                run["askedAt"].as_str().unwrap_or_default()
            ),
        };
        text.push_str(&format!("{:>12}{mode} into list {}: {last}\n", "", target["listId"]));
    }
    text
}

/// What is asked for, one order for each run.
fn orders(sync: &Sync, cohorts: &crate::config::Cohorts) -> Result<Vec<Value>, CohortsError> {
    let order = |cohort: u64, list: Value, mode: Value| {
        let mode = sync.mode.as_ref().map_or(mode, |mode| json!(mode));
        json!({ "cohortId": cohort, "targetList": list, "syncMode": mode, "force": sync.force })
    };
    if let (Some(cohort), Some(list)) = (sync.cohort, &sync.list) {
        return Ok(vec![order(cohort, json!(list), json!("mirror"))]);
    }
    let planned: Vec<Value> = cohorts
        .cohorts
        .iter()
        .filter(|planned| sync.cohort.is_none_or(|cohort| planned.id == cohort))
        .map(|planned| order(planned.id, json!(planned.list), json!(planned.mode)))
        .collect();
    match (planned.is_empty(), sync.cohort) {
        (true, Some(_)) => Err(CohortsError::NoList),
        (true, None) => Err(CohortsError::Nothing),
        (false, _) => Ok(planned),
    }
}

async fn follow_all(relay: &Admin, orders: Vec<Value>) -> Result<ExitCode, Failure> {
    let mut all_done = true;
    for order in orders {
        let run = relay.send(Method::POST, "/v1/cohorts/runs", &order).await?;
        all_done &= follow(relay, run).await?;
    }
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows a run to its end: a bar on a terminal, elsewhere a line for each stage. True when it has done what it should.
async fn follow(relay: &Admin, mut run: Value) -> Result<bool, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let id = run["runId"].as_str().unwrap_or_default().to_owned();
    let mut told = Value::Null;
    while run["status"] == "running" {
        if terminal {
            eprint!("\r{}\x1b[K", bar(&run));
        } else if told != run["stage"] {
            eprintln!("{}", step(&run));
            told = run["stage"].clone();
        }
        tokio::time::sleep(LOOK_EVERY).await;
        run = relay.get(&format!("/v1/cohorts/runs/{id}")).await?;
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    println!("{}", ended(&run));
    Ok(run["status"] == "done" || run["status"] == "observed")
}

fn step(run: &Value) -> String {
    let name = run["cohortName"].as_str().unwrap_or_default();
    let stage = run["stage"].as_str().unwrap_or_default();
    format!("{name} into list {}: {stage}, about {} s left", run["listId"], run["estimateSeconds"])
}

/// How much is behind the run, in parts of the whole that follow from its counts.
fn bar(run: &Value) -> String {
    let number = |name: &str| run[name].as_u64().unwrap_or(0);
    let people = number("membersExpected").max(number("membersCount")).max(1);
    let share = match run["stage"].as_str().unwrap_or_default() {
        "receiving" | "collecting" => number("membersCount") as f64 / people as f64 * 0.4,
        "reading" | "looking_up" => 0.5,
        _ => {
            let all = (people + number("toRemove")).max(1);
            0.5 + (number("alreadyInList") + number("added") + number("removed")) as f64 / all as f64 * 0.5
        }
    };
    let full = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
    format!("[{}{}] {}", "#".repeat(full), ".".repeat(BAR - full), step(run))
}

fn ended(run: &Value) -> String {
    let name = run["cohortName"].as_str().unwrap_or_default();
    let (status, list) = (run["status"].as_str().unwrap_or_default(), &run["listId"]);
    if let Some(why) = run["why"].as_str() {
        return format!("{name} into list {list}: {status}: {why}");
    }
    let unmatched: u64 =
        run["unmatched"].as_object().map_or(0, |unmatched| unmatched.values().filter_map(Value::as_u64).sum());
    format!(
        "{name} into list {list}: {status}; {} members, {} there already, {} added, {} removed, {unmatched} not matched",
        run["membersCount"], run["alreadyInList"], run["added"], run["removed"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CohortSync, Cohorts, SyncMode};

    fn sync(cohort: Option<u64>, list: Option<&str>) -> Sync {
        Sync { cohort, list: list.map(str::to_owned), mode: None, force: false }
    }

    #[test]
    fn a_cohort_goes_where_it_is_told_or_where_it_is_planned() {
        let planned = CohortSync { id: 7, list: 16, mode: SyncMode::Add, every: Duration::from_hours(1) };
        let cohorts = Cohorts { cohorts: vec![planned], ..Cohorts::default() };
        let expected = json!({ "cohortId": 7, "targetList": 16, "syncMode": "add", "force": false });
        assert_eq!(orders(&sync(None, None), &cohorts).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(orders(&sync(Some(7), None), &cohorts).unwrap(), [expected]);
        let told = orders(&sync(Some(8), Some("engaged")), &cohorts).unwrap();
        assert_eq!((&told[0]["targetList"], &told[0]["syncMode"]), (&json!("engaged"), &json!("mirror")));
        assert!(matches!(orders(&sync(Some(8), None), &cohorts), Err(CohortsError::NoList)));
        assert!(matches!(orders(&sync(None, None), &Cohorts::default()), Err(CohortsError::Nothing)));
    }

    #[test]
    fn a_run_is_shown_in_words() {
        let run = json!({
            "cohortName": "Few", "listId": 16, "stage": "adding", "estimateSeconds": 3, "membersCount": 10, "toRemove": 0,
            "alreadyInList": 5, "added": 0, "removed": 0, "status": "done", "unmatched": { "no_address": 2 },
        });
        assert_eq!(bar(&run), "[######################........] Few into list 16: adding, about 3 s left");
        assert_eq!(
            ended(&run),
            "Few into list 16: done; 10 members, 5 there already, 0 added, 0 removed, 2 not matched"
        );
    }
}
