//! `/track`, one event a request, against nginx and against a bare axum handler.

use std::net::SocketAddr;
use std::time::Duration;

use super::Failure;
use super::load::{self, Outcome, Shape};
use super::nginx::Nginx;
use super::peers::Axum;
use super::processes::{Relay, both_settled, cpu_of, scratch};
use super::records::{self, Template};
use super::report::{Aim, Report, median, milliseconds, thousands};

const ROUNDS: usize = 5;
const SHAPE: Shape = Shape { connections: 256, duration: Duration::from_secs(3), pace: None };
const WARM_UP: Shape = Shape { duration: Duration::from_secs(1), ..SHAPE };

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let directory = scratch("accept-")?;
    let relay = Relay::alone(directory.path())?;
    let (nginx, axum) = (Nginx::start()?, Axum::start()?);
    let templates = [records::track(1)];
    for address in [nginx.address, axum.address, relay.address] {
        load::run(address, &templates, WARM_UP)?.all_taken()?;
    }
    let mut rounds = Vec::new();
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let through_nginx = measure(nginx.address, &templates)?;
        let before = [relay.process.cpu(), cpu_of("self")];
        let through_relay = measure(relay.address, &templates)?;
        let used = [relay.process.cpu() - before[0], cpu_of("self") - before[1]];
        costs.push(used.map(|used| used.as_secs_f64() * 1e6 / through_relay.answered as f64));
        rounds.push([through_nginx, through_relay, measure(axum.address, &templates)?]);
    }
    let rates = |server: usize| median(&rounds.iter().map(|round| round[server].rate()).collect::<Vec<_>>());
    let ratios = |peer: usize| rounds.iter().map(|round| round[1].rate() / round[peer].rate()).collect::<Vec<_>>();
    let relay_rate = thousands(rates(1));
    let measure = "`/track`, one event a request, 256 connections, durable";
    report.row(
        measure,
        relay_rate.clone(),
        format!("nginx proxy {}", thousands(rates(0))),
        ratios(0),
        Aim::AtLeast(1.5),
    );
    report.row("same", relay_rate, format!("axum {}", thousands(rates(2))), ratios(2), Aim::AtLeast(0.6));
    for (server, name) in ["nginx", "relay", "axum"].into_iter().enumerate() {
        let of = |figure: fn(&Outcome) -> f64| {
            milliseconds(median(&rounds.iter().map(|round| figure(&round[server])).collect::<Vec<_>>()))
        };
        report.note(format!("{name} at 256 connections: p50 {}, p99 {}", of(Outcome::p50), of(Outcome::p99)));
    }
    let cost = |of: usize| median(&costs.iter().map(|cost| cost[of]).collect::<Vec<_>>());
    report.note(format!("processor time a request: relay {:.1} µs, load generator {:.1} µs", cost(0), cost(1)));
    report.note(format!("relay after the /track rounds: {}", relay.process.resident()));
    relay.wait_until(Duration::from_secs(30), both_settled)?;
    Ok(())
}

fn measure(address: SocketAddr, templates: &[Template]) -> Result<Outcome, Failure> {
    load::run(address, templates, SHAPE)?.all_taken()
}
