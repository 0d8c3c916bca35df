//! `make bench`: the relay measured against its peers, always as ratios within one run, with the load generator and the
//! peers on the same machine. `docs/performance.md` says what each row measures and what limits it.
//!
//! Every server is a process of its own: `mixrelay serve`, `mixrelay sandbox`, nginx, and this binary again as the axum
//! peer. Servers that are compared take turns (ABAB), a ratio is taken within each round, and the median of the rounds
//! is the result. The whole run is bounded in count and time.

mod accept;
mod brevo_calls;
mod delivery;
mod freshness;
mod history;
mod http;
mod import;
mod instructions;
mod latency;
mod load;
mod nginx;
mod peers;
mod processes;
mod records;
mod report;

use std::time::Instant;

use report::Report;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // Cargo passes `--bench`; the axum peer is this binary started by itself.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if arguments.first().is_some_and(|first| first == peers::AXUM) {
        return peers::serve_axum();
    }
    match arguments.first().map(String::as_str) {
        Some(peers::INFLATE) => return peers::inflate_and_read_some(arguments.get(1).ok_or("how many?")?.parse()?),
        Some("instructions") => return instructions::run(),
        _ => {}
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    let started = Instant::now();
    let mut report = Report::new();
    if wanted("accept") {
        accept::run(&mut report)?;
    }
    if wanted("import") {
        import::run(&mut report)?;
    }
    if wanted("delivery") {
        delivery::run(&mut report)?;
    }
    if wanted("latency") {
        latency::run(&mut report)?;
    }
    if wanted("freshness") {
        freshness::run(&mut report)?;
    }
    if wanted("brevo_calls") {
        brevo_calls::run(&mut report)?;
    }
    if wanted("history") {
        history::run(&mut report)?;
    }
    report.print(started.elapsed());
    Ok(())
}
