//! How `check` prints what it found: one line each, what is wrong told apart at the left.

use std::collections::BTreeMap;

use super::live::{Finding, Verdict};
use crate::config::{Addition, Notice, Weight};
use crate::mapping::Mismatch;

pub(super) fn configuration(source: &str, notices: &[Notice]) -> String {
    let mut out = format!("{source}: configuration ok\n");
    for notice in notices {
        let weight = match notice.weight() {
            Weight::Note => "note",
            Weight::Warning => "warning",
        };
        let place = notice.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        line(&mut out, weight, &format!("{}{place}: {}", notice.key, notice.about));
    }
    out.push_str(&additions(notices));
    out
}

/// What the notices would have added, as one piece of YAML to copy.
fn additions(notices: &[Notice]) -> String {
    let mut blocks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Addition { block, line } in notices.iter().filter_map(Notice::addition) {
        blocks.entry(block).or_default().push(line);
    }
    if blocks.is_empty() {
        return String::new();
    }
    let mut out = String::from("to settle this, add what you want of\n");
    for (block, lines) in blocks {
        out.push_str(&format!("    {block}:\n"));
        out.extend(lines.iter().map(|line| format!("      {line}\n")));
    }
    out
}

/// Mapping tests, with what each expected and got where that differs.
pub(super) fn examples(examples: &[(&str, Vec<Mismatch>)]) -> String {
    if examples.is_empty() {
        return String::new();
    }
    let mut out = String::from("mapping tests:\n");
    for (name, mismatches) in examples {
        line(&mut out, if mismatches.is_empty() { "ok" } else { "fails" }, name);
        for Mismatch { what, expected, actual } in mismatches {
            if expected.is_null() {
                line(&mut out, "", &format!("  {what}: {actual}"));
            } else {
                line(&mut out, "", &format!("  {what}: expected {expected}"));
                line(&mut out, "", &format!("  {what}: actual   {actual}"));
            }
        }
    }
    out
}

/// Empty without any.
pub(super) fn tables(findings: &[Finding]) -> String {
    if findings.is_empty() { String::new() } else { found("for enrichment:\n", findings) }
}

/// Empty without any.
pub(super) fn server(findings: &[Finding]) -> String {
    if findings.is_empty() { String::new() } else { found("for listening:\n", findings) }
}

pub(super) fn findings(findings: &[Finding]) -> String {
    found("at the vendors:\n", findings)
}

fn found(title: &str, findings: &[Finding]) -> String {
    let mut out = String::from(title);
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Works => "ok",
            Verdict::Doubtful => "warning",
            Verdict::Fails => "fails",
        };
        line(&mut out, verdict, &format!("{}: {}", finding.subject, finding.said));
    }
    out
}

fn line(out: &mut String, label: &str, text: &str) {
    out.push_str(&format!("  {label:<8} {text}\n"));
}
