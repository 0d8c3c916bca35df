//! What each data set costs in queries, whether its script can be read, and which lists it would fight over.

use std::collections::BTreeMap;

use super::live::Finding;
use crate::config::{Config, Dataset, DatasetQuestion, SyncMode};
use crate::datasets::Definition;
use crate::mixpanel::calls::Calls;

const DATASETS: &str = "datasets";

/// Asks nobody: a script's answer takes minutes, and a dry run says more.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let planned = &config.cohorts.datasets;
    if planned.is_empty() {
        return Vec::new();
    }
    let mut findings = rivals(config);
    if config.brevo.is_none() {
        findings.push(Finding::doubtful(DATASETS, "there is no Brevo to bring them to: none of them is run"));
    }
    if !Calls::new(&config.mixpanel).is_ok_and(|calls| calls.can_query()) {
        findings.push(Finding::fails(DATASETS, "asking takes a service_account and its project_id"));
    }
    if !config.mixpanel.sync.cohorts && planned.iter().any(|dataset| dataset.list.is_some()) {
        findings.push(Finding::fails(DATASETS, "sync.cohorts is false, so no list is changed: their runs would fail"));
    }
    if !config.mixpanel.sync.profiles && planned.iter().any(|dataset| !dataset.attributes.is_empty()) {
        findings.push(Finding::doubtful(DATASETS, "sync.profiles is false, so no attribute is changed"));
    }
    findings.extend(planned.iter().map(one));
    findings
}

fn one(dataset: &Dataset) -> Finding {
    let subject = format!("{DATASETS}: {}", dataset.name);
    let question = match dataset.question {
        DatasetQuestion::Jql(_) => "of the 60 JQL queries",
        DatasetQuestion::Insights(_) => "of the 60 queries",
    };
    let runs = 24.0 * 3600.0 / dataset.every.as_secs_f64();
    match Definition::read(dataset) {
        Ok(_) => Finding::works(
            subject,
            format!("1 {question} an hour for each run, {} runs a day; a dry run shows the rest", rounded(runs)),
        ),
        Err(error) => Finding::fails(subject, error.to_string()),
    }
}

/// Whole where it is one, else as much of it as tells.
fn rounded(number: f64) -> String {
    if number.fract().abs() < 0.05 { format!("{number:.0}") } else { format!("{number:.1}") }
}

/// A mirror takes out whoever something else has put into the same list.
fn rivals(config: &Config) -> Vec<Finding> {
    let mut lists: BTreeMap<u64, Vec<(String, SyncMode)>> = BTreeMap::new();
    for dataset in &config.cohorts.datasets {
        if let Some(list) = dataset.list {
            lists.entry(list).or_default().push((format!("data set {}", dataset.name), dataset.mode));
        }
    }
    for cohort in &config.cohorts.cohorts {
        // Cohorts among themselves are looked at where they are.
        if let Some(plans) = lists.get_mut(&cohort.list) {
            plans.push((format!("cohort {}", cohort.id), cohort.mode));
        }
    }
    let fought_over = |(list, plans): (u64, Vec<(String, SyncMode)>)| {
        let mirrored = plans.len() > 1 && plans.iter().any(|(_, mode)| *mode == SyncMode::Mirror);
        let names: Vec<String> = plans.into_iter().map(|(name, _)| name).collect();
        let said =
            format!("list {list} is to be a mirror and gets {}, which would undo each other", names.join(" and "));
        mirrored.then(|| Finding::fails(DATASETS, said))
    };
    lists.into_iter().filter_map(fought_over).collect()
}

#[cfg(test)]
mod tests {
    use super::super::live::Verdict;
    use super::*;

    const BASE: &str = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"1\"\n    \
                        service_account: { username: u, secret: s }\n  brevo: { api_key: k }\n";

    fn config(rest: &str) -> Config {
        crate::config::parse(&format!("{BASE}{rest}"), "test", &|_| None).unwrap().config
    }

    #[test]
    fn a_report_costs_a_query_and_a_script_must_be_there() {
        let found = check(&config(
            "datasets:\n  - { name: scores, insights: 7, schedule: 8h, attributes: { value: SCORE } }\n  \
             - { name: away, jql: no-such-file.js, attributes: { days: DAYS } }\n",
        ));
        let expected = "1 of the 60 queries an hour for each run, 3 runs a day; a dry run shows the rest";
        assert_eq!(found[0], Finding::works("datasets: scores", expected));
        assert_eq!((found[1].verdict, found[1].subject.as_str()), (Verdict::Fails, "datasets: away"));
        assert!(found[1].said.contains("no-such-file.js"), "{found:?}");
        assert_eq!(check(&config("")), []);
    }

    #[test]
    fn a_mirror_that_something_else_fills_fails() {
        let of = |cohort: &str| {
            check(&config(&format!("{cohort}datasets:\n  - {{ name: a, insights: 7, list: 16, mode: mirror }}\n")))
        };
        assert!(of("").iter().all(|finding| finding.verdict == Verdict::Works));
        let found = of("cohorts: [{ id: 5, list: 16, mode: add }]\n");
        assert!(found[0].verdict == Verdict::Fails && found[0].said.contains("data set a and cohort 5"), "{found:?}");
    }

    #[test]
    fn what_is_switched_off_is_told() {
        let found = check(&config("sync: { cohorts: false }\ndatasets:\n  - { name: a, insights: 7, list: 16 }\n"));
        assert!(found[0].verdict == Verdict::Fails && found[0].said.contains("sync.cohorts"), "{found:?}");
    }
}
