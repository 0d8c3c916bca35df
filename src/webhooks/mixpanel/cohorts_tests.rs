use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cohorts::{Run, Stage};
use crate::config::SyncMode;
use crate::webhooks::testing::Webhooks;

const PATH: &str = "/webhooks/mixpanel/cohorts";
const BASIC: &str = "Basic dTpw"; // u:p
const CONFIG: &str = "webhooks: { mixpanel: { username: u, password: p } }\nlists: { engaged: 16, at_risk: 17 }\n\
    property_mapping: { $email: email }\ncohorts: [{ id: 77, list: engaged, mode: mirror }]\n";

/// A page that brings the people `first..first + 2`.
fn page(action: &str, session: &str, page: u32, pages: u32) -> Value {
    let member = |n: u32| json!({ "mixpanel_distinct_id": format!("u{n}"), "email": format!("u{n}@example.com") });
    json!({ "action": action, "parameters": {
        "mixpanel_project_id": "1", "mixpanel_cohort_id": "77", "mixpanel_cohort_name": "Engaged",
        "mixpanel_session_id": session, "page_info": { "total_pages": pages, "page_count": page },
        "members": [member(page * 2), member(page * 2 + 1)],
    }})
}

async fn push(webhooks: &Webhooks, body: &Value) {
    let (status, answer) = webhooks.post(PATH, BASIC, body.to_string()).await;
    assert_eq!((status, answer), (200, json!({ "action": body["action"], "status": "success" })));
}

/// Oldest first.
async fn runs(webhooks: &Webhooks) -> Vec<Run> {
    let mut runs = webhooks.lists.list(None, 100).await.unwrap();
    runs.reverse();
    runs
}

#[tokio::test]
async fn each_action_becomes_a_run_of_its_mode() {
    let webhooks = Webhooks::new(CONFIG).await;
    for (action, mode) in
        [("members", SyncMode::Mirror), ("add_members", SyncMode::Add), ("remove_members", SyncMode::Remove)]
    {
        push(&webhooks, &page(action, "s", 1, 1)).await;
        let run = runs(&webhooks).await.pop().unwrap();
        assert_eq!((run.order.mode, run.order.list.0, run.counts.members), (mode, 16, 2));
        assert!(matches!(run.stage, Stage::Reading { .. }), "{:?}", run.stage);
    }
    let mut nobody = page("add_members", "t", 1, 1);
    nobody["parameters"]["members"] = json!([]);
    push(&webhooks, &nobody).await;
    assert_eq!(runs(&webhooks).await.len(), 3, "a difference that is none begins nothing");
}

#[tokio::test]
async fn what_mixpanel_has_to_put_right_is_told_apart_from_what_it_has_not() {
    let webhooks = Webhooks::new(CONFIG).await;
    let answer = async |authorization: &str, body: &str| {
        let (status, answer) = webhooks.post(PATH, authorization, body.to_owned()).await;
        assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failure"), &json!(status)));
        assert!(answer["error"]["message"].is_string());
        status
    };
    assert_eq!(answer("Basic eDp5", "{}").await, 401);
    assert_eq!(answer(BASIC, "{").await, 400);
    assert_eq!(answer(BASIC, "{}").await, 400);
    let mut unknown = page("members", "s", 1, 1);
    unknown["parameters"]["mixpanel_cohort_id"] = json!("78");
    unknown["parameters"]["mixpanel_cohort_name"] = json!("Nobody's list");
    assert_eq!(answer(BASIC, &unknown.to_string()).await, 429);
    unknown["parameters"]["mixpanel_cohort_name"] = json!("At Risk");
    push(&webhooks, &unknown).await;
    assert_eq!(runs(&webhooks).await[0].order.list.0, 17);
}

/// One step of a history of pushes.
#[derive(Clone, Debug)]
enum Step {
    Page(u32),
    Restart,
}

fn history(pages: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![8 => (1..=pages).prop_map(Step::Page), 1 => Just(Step::Restart)];
    proptest::collection::vec(step, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever order, repeats, gaps and restarts: the run begins with the last page that was missing, with everybody once.
    #[test]
    fn a_session_is_whole_when_all_of_its_pages_are(
        (pages, steps) in (1u32..6).prop_flat_map(|pages| (Just(pages), history(pages))),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut webhooks = Webhooks::new(CONFIG).await;
            let mut seen = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Restart => webhooks.restart().await,
                    Step::Page(number) => {
                        push(&webhooks, &page("members", "s", number, pages)).await;
                        seen.insert(number);
                    }
                }
                let runs = runs(&webhooks).await;
                assert_eq!(runs.len(), usize::from(!seen.is_empty()));
                let Some(run) = runs.first() else { continue };
                let whole = seen.len() == pages as usize;
                assert_eq!(matches!(run.stage, Stage::Reading { .. }), whole, "{seen:?} of {pages}: {:?}", run.stage);
                assert_eq!(run.counts.members, 2 * seen.len() as u64);
            }
        });
    }
}
