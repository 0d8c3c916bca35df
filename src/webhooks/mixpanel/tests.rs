use serde_json::json;

use crate::record::{Destinations, Kind, Origin, Record};
use crate::webhooks::testing::Webhooks;

const PATH: &str = "/webhooks/mixpanel/events";
const BASIC: &str = "Basic dTpw"; // u:p

async fn served() -> Webhooks {
    Webhooks::new("webhooks: { mixpanel: { username: u, password: p } }").await
}

fn event(name: &str, insert_id: &str) -> serde_json::Value {
    json!({"event": name, "time": 1_795_500_000, "distinct_id": "ada", "insert_id": insert_id})
}

#[tokio::test]
async fn a_batch_is_stored_for_brevo_before_it_is_answered() {
    let webhooks = served().await;
    let batch = json!([event("Purchase", "a"), event("$identify", "b"), {"event": "x"}]);
    let (status, answer) = webhooks.post(PATH, BASIC, batch.to_string()).await;
    assert_eq!((status, &answer["stored"], &answer["refused"][0]["index"]), (200, &json!(2), &json!(2)));
    let records = webhooks.records().await;
    assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [Kind::Event, Kind::Identity]);
    for record in &records {
        assert_eq!((record.origin, record.destinations), (Origin::MixpanelStream, Destinations::BREVO));
    }
    // As a token, and under a name of its own, for forms that offer only one of these.
    assert_eq!(webhooks.post(PATH, "Bearer p", "[]").await.0, 200);
}

#[tokio::test]
async fn what_came_from_brevo_does_not_come_back_to_it() {
    let webhooks = served().await;
    let own = event("Brevo Email Opened", "brevo-40990dd54868a19c9b1570f2f20915");
    let (status, answer) = webhooks.post(PATH, BASIC, json!([own]).to_string()).await;
    assert_eq!((status, &answer["stored"], &answer["echoes"]), (200, &json!(0), &json!(1)));
    assert!(webhooks.records().await.is_empty());
}

#[tokio::test]
async fn a_template_that_does_not_work_is_told_so() {
    let webhooks = served().await;
    for body in ["", "{", "\"x\"", r#"[{"event": , "time": 1}]"#, r#"[{"event":"A"}]"#] {
        let (status, answer) = webhooks.post(PATH, BASIC, body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    assert_eq!(webhooks.post(PATH, "Basic eDp5", "[]").await.0, 401);
    assert_eq!(Webhooks::new("").await.post(PATH, BASIC, "[]").await.0, 404);
}

#[tokio::test]
async fn an_erased_persons_event_leaves_its_place_alone() {
    let webhooks = served().await;
    let mark = webhooks.tombstones.now().of_id("ada");
    webhooks.tombstones.replace(|ids, _| {
        ids.insert(mark);
    });
    assert_eq!(webhooks.post(PATH, BASIC, json!([event("Purchase", "a")]).to_string()).await.0, 200);
    assert!(webhooks.records().await.iter().all(Record::is_erased));
}
