//! What each configured cohort costs in queries, whether the project has it, and which lists two groups would fight over.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::Value;

use super::live::{Finding, Vendors};
use crate::cohorts::estimate::{PUSH_FROM, QUERIES_AN_HOUR, queries};
use crate::config::{CohortSync, Config, SyncMode};
use crate::mixpanel::calls::Calls;

const COHORTS: &str = "cohorts";

pub(super) async fn check(config: &Config, vendors: &Vendors) -> Vec<Finding> {
    let planned = &config.cohorts.cohorts;
    if planned.is_empty() {
        return Vec::new();
    }
    let mut findings = rivals(planned);
    if !config.mixpanel.sync.cohorts {
        findings.push(Finding::doubtful(COHORTS, "sync.cohorts is false: none of them is brought anywhere"));
        return findings;
    }
    let request = Calls::new(&config.mixpanel).ok().and_then(|calls| calls.cohorts());
    let Some(request) = request else {
        findings.push(Finding::fails(COHORTS, "asking for members takes a service_account and its project_id"));
        return findings;
    };
    match vendors.send(request).await {
        Ok((StatusCode::OK, Value::Array(known))) => findings.extend(planned.iter().map(|plan| cost(plan, &known))),
        Ok((status, _)) => findings.push(Finding::doubtful(COHORTS, format!("not tested: Mixpanel answered {status}"))),
        Err(error) => findings.push(Finding::doubtful(COHORTS, format!("not tested: {error}"))),
    }
    findings
}

/// A mirror takes out whoever another group has put into the same list.
fn rivals(planned: &[CohortSync]) -> Vec<Finding> {
    let mut lists: BTreeMap<u64, Vec<&CohortSync>> = BTreeMap::new();
    planned.iter().for_each(|plan| lists.entry(plan.list).or_default().push(plan));
    let fought_over = |(list, plans): (u64, Vec<&CohortSync>)| {
        let mirrored = plans.len() > 1 && plans.iter().any(|plan| plan.mode == SyncMode::Mirror);
        mirrored.then(|| {
            let ids: Vec<String> = plans.iter().map(|plan| plan.id.to_string()).collect();
            let ids = ids.join(" and ");
            Finding::fails(
                COHORTS,
                format!("list {list} is to be a mirror and gets cohorts {ids}, which would undo each other"),
            )
        })
    };
    lists.into_iter().filter_map(fought_over).collect()
}

/// What a run of the cohort costs of the hour's queries.
fn cost(plan: &CohortSync, known: &[Value]) -> Finding {
    let subject = format!("cohorts: {}", plan.id);
    let Some(cohort) = known.iter().find(|cohort| cohort["id"].as_u64() == Some(plan.id)) else {
        return Finding::fails(subject, "the project has no such cohort");
    };
    let people = cohort["count"].as_u64().unwrap_or(0);
    let (cost, name) = (queries(people), cohort["name"].as_str().unwrap_or_default());
    let said = format!("{name}, {people} people: {cost} of the {QUERIES_AN_HOUR} queries an hour for each run");
    if cost < PUSH_FROM {
        return Finding::works(subject, said);
    }
    Finding::doubtful(subject, format!("{said}; let Mixpanel push it instead, which costs none (docs/cohorts.md)"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::live::Verdict;
    use super::*;

    fn plan(id: u64, list: u64, mode: SyncMode) -> CohortSync {
        CohortSync { id, list, mode, every: Duration::from_hours(24) }
    }

    #[test]
    fn large_cohorts_are_better_pushed() {
        let known =
            [json!({ "id": 1, "name": "Few", "count": 900 }), json!({ "id": 2, "name": "Many", "count": 50_000 })];
        let said = |id| cost(&plan(id, 16, SyncMode::Mirror), &known);
        assert_eq!(said(1), Finding::works("cohorts: 1", "Few, 900 people: 2 of the 60 queries an hour for each run"));
        assert_eq!(said(2).verdict, Verdict::Doubtful);
        assert!(said(2).said.contains("51 of the 60"), "{:?}", said(2));
        assert_eq!(said(3).verdict, Verdict::Fails);
    }

    #[test]
    fn two_mirrors_of_one_list_fail() {
        assert_eq!(rivals(&[plan(1, 16, SyncMode::Mirror), plan(2, 17, SyncMode::Mirror)]), []);
        assert_eq!(rivals(&[plan(1, 16, SyncMode::Add), plan(2, 16, SyncMode::Add)]), []);
        let found = rivals(&[plan(1, 16, SyncMode::Add), plan(2, 16, SyncMode::Mirror)]);
        assert!(found.len() == 1 && found[0].said.contains("1 and 2"), "{found:?}");
    }
}
