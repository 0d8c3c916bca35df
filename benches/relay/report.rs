//! What a run prints: the table, the figures beside it, and how loaded the machine was.

use std::time::Duration;

/// What a row's figure has to be.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

struct Row {
    measure: String,
    relay: String,
    against: String,
    figures: Vec<f64>,
    aim: Aim,
    /// What the aim asks besides the figure.
    condition: Option<(String, bool)>,
}

pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    pub fn new() -> Self {
        println!("load average at the start: {}", load_average());
        Self { rows: Vec::new(), notes: Vec::new() }
    }

    /// A row of the table. `figures` are the ratios of the rounds, of which the median counts.
    pub fn row(&mut self, measure: &str, relay: String, against: String, figures: Vec<f64>, aim: Aim) -> &mut Self {
        let measure = format!("{measure} (load {})", load_average());
        println!("{measure}: {relay} against {against}: {}", spread(&figures));
        self.rows.push(Row { measure, relay, against, figures, aim, condition: None });
        self
    }

    /// What the last row's aim asks besides its figure.
    pub fn and(&mut self, condition: String, met: bool) {
        println!("  {condition}: {}", yes_no(met));
        if let Some(row) = self.rows.last_mut() {
            row.condition = Some((condition, met));
        }
    }

    pub fn note(&mut self, note: String) {
        println!("  {note}");
        self.notes.push(note);
    }

    pub fn print(&self, took: Duration) {
        println!("\n| measure | relay | against | ratio: median (min-max) | aim | met |\n|---|---|---|---|---|---|");
        for row in &self.rows {
            let Row { measure, relay, against, figures, aim, condition } = row;
            let figure = median(figures);
            let (aim, mut met) = match aim {
                Aim::AtLeast(least) => (format!("at least {least}"), figure >= *least),
                Aim::AtMost(most) => (format!("at most {most}"), figure <= *most),
            };
            let mut beside = String::new();
            if let Some((condition, holds)) = condition {
                met &= holds;
                beside = format!("; {condition}");
            }
            println!("| {measure} | {relay} | {against} | {}{beside} | {aim} | {} |", spread(figures), yes_no(met));
        }
        println!();
        for note in &self.notes {
            println!("- {note}");
        }
        println!("- the run took {} s; load average at its end: {}", took.as_secs(), load_average());
    }
}

fn yes_no(met: bool) -> &'static str {
    if met { "yes" } else { "no" }
}

fn spread(figures: &[f64]) -> String {
    let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.3} ({lowest:.3}-{highest:.3})", median(figures))
}

/// The upper median; zero of nothing.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// A percentile (0 to 1) of unsorted values; zero of nothing.
pub fn percentile(values: &[u32], share: f64) -> u32 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

pub fn milliseconds(micros: f64) -> String {
    format!("{:.2} ms", micros / 1000.0)
}

pub fn thousands(rate: f64) -> String {
    format!("{:.1} k/s", rate / 1000.0)
}

/// Of the last minute, as the system counts it.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
