//! `mixrelay backfill`: asks the running relay for a backfill and follows it. Ending the command does not end the backfill.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::Failure;
use super::admin::{self, Admin};

/// Between two looks, for the eyes.
const LOOK: Duration = Duration::from_secs(1);
/// Between two plain lines at least, unless it has ended.
const LINES: u32 = 10;
const BAR: u64 = 30;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Profiles into contacts; with days, only those last seen on them.
    Profiles(Range),
    /// Events that happened before this relay delivered. Old ones set nothing off unless asked.
    Events(Events),
    /// Follow a backfill, or list all.
    Show { id: Option<String> },
    /// End a backfill; what it has brought stays.
    Cancel { id: String },
}

#[derive(Debug, Args)]
struct Range {
    /// The first day, yyyy-mm-dd.
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// The last day.
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// Say what would be brought, and bring nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Events {
    #[command(flatten)]
    range: Range,
    /// Only events of this name; may be given more than once.
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
    /// Let old events set off automations, after their counts have been shown.
    #[arg(long)]
    trigger_automations: bool,
    /// Do not ask whether to go on after the counts.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BackfillError {
    #[error("the backfill {id} failed: {why}")]
    Failed { id: String, why: String },
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    admin::with(path, async |relay, _| {
        act(relay, arguments).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn begin(relay: &Admin, question: &Value) -> Result<Value, Failure> {
    Ok(relay.send(Method::POST, "/v1/backfills", question).await?)
}

/// Shows how the backfill goes until it has ended.
async fn follow(relay: &Admin, mut run: Value) -> Result<Value, Failure> {
    let id = run["id"].as_str().unwrap_or_default().to_owned();
    let mut out = std::io::stdout();
    let bar = out.is_terminal();
    let mut looks = 0;
    loop {
        let running = run["state"] == "running";
        if bar {
            write!(out, "\r\x1b[2K{}", line(&run, true)).map_err(Failure::Output)?;
            if !running {
                writeln!(out).map_err(Failure::Output)?;
            }
            out.flush().map_err(Failure::Output)?;
        } else if looks % LINES == 0 || !running {
            writeln!(out, "{}", line(&run, false)).map_err(Failure::Output)?;
        }
        if !running {
            break;
        }
        looks += 1;
        tokio::time::sleep(LOOK).await;
        run = relay.get(&format!("/v1/backfills/{id}")).await?;
    }
    summary(&run, &mut out).map_err(Failure::Output)?;
    match run["failure"].as_str() {
        Some(why) => Err(BackfillError::Failed { id, why: why.to_owned() }.into()),
        None => Ok(run),
    }
}

async fn act(relay: &Admin, arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.what {
        What::Profiles(range) => {
            let run = begin(relay, &question("profiles", range)).await?;
            follow(relay, run).await?;
        }
        What::Events(events) => bring_events(relay, events).await?,
        What::Show { id: Some(id) } => {
            let run = relay.get(&format!("/v1/backfills/{id}")).await?;
            follow(relay, run).await?;
        }
        What::Show { id: None } => {
            let all = relay.get("/v1/backfills").await?;
            let mut out = std::io::stdout();
            for run in all["items"].as_array().into_iter().flatten() {
                writeln!(out, "{}  {}", run["started_at"].as_str().unwrap_or_default(), line(run, false))
                    .map_err(Failure::Output)?;
            }
        }
        What::Cancel { id } => {
            relay.send(Method::POST, &format!("/v1/backfills/{id}/cancel"), &json!({})).await?;
            println!("{id} is called off");
        }
    }
    Ok(())
}

/// Events that may set something off are counted and shown first.
async fn bring_events(relay: &Admin, events: &Events) -> Result<(), Failure> {
    let mut asked = question("events", &events.range);
    asked["events"] = json!(events.event);
    asked["trigger_automations"] = json!(events.trigger_automations);
    if events.trigger_automations && !events.range.dry_run {
        let mut dry = asked.clone();
        dry["dry_run"] = json!(true);
        let shown = follow(relay, begin(relay, &dry).await?).await?;
        if !(events.yes || agreed().map_err(Failure::Output)?) {
            println!("nothing was sent");
            return Ok(());
        }
        asked["after"] = shown["id"].clone();
    }
    follow(relay, begin(relay, &asked).await?).await?;
    Ok(())
}

fn agreed() -> std::io::Result<bool> {
    print!("Send these events, and let them set off automations? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn question(what: &str, range: &Range) -> Value {
    let mut question = json!({ "what": what, "dry_run": range.dry_run });
    for (name, day) in [("from", &range.from), ("to", &range.to)] {
        if let Some(day) = day {
            question[name] = json!(day);
        }
    }
    question
}

/// How a backfill stands, in one line.
fn line(run: &Value, bar: bool) -> String {
    let progress = &run["progress"];
    let (done, unit) = (progress["done"].as_u64().unwrap_or(0), progress["unit"].as_str().unwrap_or_default());
    let state = run["state"].as_str().unwrap_or_default();
    let dry = if run["dry_run"] == true { " (dry run)" } else { "" };
    let mut line = match progress["total"].as_u64() {
        Some(total) if bar => {
            let filled = usize::try_from((done * BAR).checked_div(total).unwrap_or(BAR).min(BAR)).unwrap_or(0);
            format!("[{:<30}] {done} of {total} {unit}", "#".repeat(filled))
        }
        Some(total) => format!("{}: {done} of {total} {unit}", run["id"].as_str().unwrap_or_default()),
        None => format!("{}: {done} {unit}", run["id"].as_str().unwrap_or_default()),
    };
    line.push_str(&format!(", {} fed, {state}{dry}", run["fed"]));
    if let Some(seconds) = run["estimate_seconds"].as_u64().filter(|_| state == "running") {
        line.push_str(&format!(", about {} left", span(seconds)));
    }
    line
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

/// What a backfill that has ended has counted.
fn summary(run: &Value, out: &mut impl std::io::Write) -> std::io::Result<()> {
    let would = if run["dry_run"] == true { "would be sent" } else { "sent" };
    if run["what"] == "profiles" {
        let (read, new) = (&run["read"], &run["new_people"]);
        writeln!(out, "of {read} profiles read, {new} are of people whom the relay does not know yet")?;
    }
    for (name, counts) in run["by_event"].as_object().into_iter().flatten() {
        let (sent, stale) = (&counts["sent"], &counts["stale"]);
        let (own, not) = (&counts["own_delivery"], &counts["not_mapped"]);
        writeln!(out, "{name}: {sent} {would}, {stale} too old, {own} delivered by this relay, {not} not mapped")?;
    }
    if run["may_have_passed_over"] == true {
        writeln!(out, "Mixpanel's order changed on the way: run it again to be sure that nobody was passed over")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let run = json!({
            "id": "r1", "state": "running", "dry_run": false, "fed": 500, "estimate_seconds": 9_000,
            "progress": { "done": 1_000, "total": 2_000, "unit": "profiles" },
        });
        assert_eq!(line(&run, false), "r1: 1000 of 2000 profiles, 500 fed, running, about 2 h left");
        assert!(line(&run, true).starts_with("[###############               ] 1000 of 2000"));
        let empty = json!({
            "id": "r", "state": "done", "dry_run": true, "fed": 0,
            "progress": { "done": 0, "total": 0, "unit": "days" },
        });
        assert_eq!(line(&empty, false), "r: 0 of 0 days, 0 fed, done (dry run)");
        assert!(line(&empty, true).starts_with("[##############################]"));
    }

    #[test]
    fn a_summary_names_every_event() {
        let counts = json!({ "sent": 3, "stale": 2, "own_delivery": 1, "not_mapped": 0 });
        let run = json!({ "what": "events", "dry_run": true, "by_event": { "Purchase": counts } });
        let mut out = Vec::new();
        summary(&run, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "Purchase: 3 would be sent, 2 too old, 1 delivered by this relay, 0 not mapped\n");
    }
}
