use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::*;
use crate::config;

fn calls() -> Calls {
    let text = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"7\"\n    \
                service_account: { username: u, secret: s }\n";
    Calls::new(&config::parse(text, "test", &|_| None).unwrap().config.mixpanel).unwrap()
}

fn answer(status: u16, body: &str) -> VendorAnswer {
    VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes()))
}

fn row(value: Value) -> Row {
    Row(value)
}

#[test]
fn each_question_has_a_budget_of_its_own() {
    let jql = calls().jql("function main() { return []; }").unwrap();
    assert_eq!(
        (jql.url.path(), jql.url.query(), jql.family),
        ("/api/query/jql", Some("project_id=7"), Family::MixpanelJql)
    );
    let form: Vec<_> = form_urlencoded::parse(&jql.body).into_owned().collect();
    assert_eq!(form, [("script".to_owned(), "function main() { return []; }".to_owned())]);
    let insights = calls().insights(42).unwrap();
    assert_eq!(insights.url.query(), Some("project_id=7&bookmark_id=42"));
    assert_eq!((insights.method, insights.family), (http::Method::GET, Family::MixpanelQuery));
    assert_eq!(jql.priority, Priority::Cohorts);
}

#[test]
fn an_answer_that_says_no_says_why() {
    for (status, body, expected) in [
        (200, "[]", None),
        (200, r#"{"headers":[],"series":{}}"#, None),
        (412, r#"{"error":"Uncaught exception ReferenceError"}"#, Some("(412): Uncaught exception ReferenceError")),
        (200, r#"{"error":"query too long"}"#, Some("answered 200: query too long")),
        (402, r#"{"error":"no API on this plan","request":"/x"}"#, Some("answered 402: no API on this plan")),
        (200, "<html>", Some("begins \"<html>\"")),
        (200, "[{\"a\":1}", Some("no JSON")),
        (200, "", Some("no JSON")),
    ] {
        let said = judged(&answer(status, body)).err().map(|error| error.to_string());
        match (&said, expected) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected), "{said}"),
            _ => panic!("{status} {body}: {said:?}"),
        }
    }
}

#[test]
fn a_column_is_found_however_the_script_has_nested_it() {
    for (value, name, expected) in [
        (json!({ "distinct_id": "u", "days": 3 }), "days", Some(json!(3))),
        (json!({ "key": ["u", "DE"], "value": 4 }), "value", Some(json!(4))),
        (json!({ "key": ["u", "DE"], "value": 4 }), "key.1", Some(json!("DE"))),
        (json!({ "key": ["u"], "value": { "days": 5, "n": [1, 2] } }), "days", Some(json!(5))),
        (json!({ "key": ["u"], "value": { "days": 5, "n": [1, 2] } }), "value.n.1", Some(json!(2))),
        (json!({ "distinct_id": "u", "properties": { "plan": "pro" } }), "plan", Some(json!("pro"))),
        (json!({ "a.b": 1, "a": { "b": 2 } }), "a.b", Some(json!(1))),
        (json!(["u", 7]), "1", Some(json!(7))),
        (json!({ "days": null }), "days", Some(Value::Null)),
        (json!({ "distinct_id": "u" }), "days", None),
        (json!("u"), "days", None),
    ] {
        assert_eq!(row(value.clone()).column(name).cloned(), expected, "{value} {name}");
    }
}

#[test]
fn who_a_row_is_about() {
    for (value, column, expected) in [
        (json!({ "distinct_id": "u" }), "distinct_id", Some("u")),
        (json!({ "$distinct_id": "u" }), "distinct_id", Some("u")),
        (json!({ "distinct_id": 12 }), "distinct_id", Some("12")),
        (json!({ "key": ["u", 1], "value": 2 }), "distinct_id", Some("u")),
        (json!({ "key": "u", "value": 2 }), "distinct_id", Some("u")),
        (json!({ "properties": { "email": "a@b.c" } }), "email", Some("a@b.c")),
        (json!(["u", 7]), "0", Some("u")),
        (json!({ "distinct_id": null }), "distinct_id", None),
        (json!({ "distinct_id": ["u"] }), "distinct_id", None),
        (json!({ "days": 3 }), "distinct_id", None),
        (json!(null), "distinct_id", None),
    ] {
        assert_eq!(row(value.clone()).id(column).as_deref(), expected, "{value} {column}");
    }
}

#[test]
fn a_script_answers_with_a_list_or_with_nothing_usable() {
    let body = br#"[{"distinct_id":"a"},["b"],7]"#;
    let rows = Rows::of_script(body).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows.some(1, 9), [row(json!(["b"])), row(json!(7))]);
    assert!(rows.some(3, 1).is_empty() && rows.some(9, 1).is_empty());
    for none in ["{}", "null", "[1", ""] {
        assert!(matches!(Rows::of_script(none.as_bytes()), Err(NoRows::Shape(_))), "{none}");
    }
}

#[test]
fn a_report_becomes_a_row_for_each_person() {
    let report = json!({
        "computed_at": "2026-11-25T00:00:00", "date_range": {}, "headers": ["$metric", "$distinct_id"],
        "series": {
            "Orders": { "$overall": { "all": 9 }, "a": { "all": 4 }, "b": { "2026-11-01": 1, "2026-11-02": 5 } },
            "Visits": { "a": 7, "c": { "$overall": { "all": 2 } } },
        },
    });
    let body = report.to_string();
    let rows = Rows::of_report(body.as_bytes()).unwrap().some(0, 9);
    let told: Vec<_> =
        rows.iter().map(|row| (row.id("distinct_id").unwrap(), row.column("Orders"), row.column("Visits"))).collect();
    assert_eq!(
        told,
        [
            ("a".to_owned(), Some(&json!(4)), Some(&json!(7))),
            ("b".to_owned(), Some(&json!(5)), None),
            ("c".to_owned(), None, Some(&json!(2))),
        ]
    );
    let one =
        json!({ "headers": ["$event", "$distinct_id", "plan"], "series": { "X": { "a": { "pro": 1 } } } }).to_string();
    let rows = Rows::of_report(one.as_bytes()).unwrap().some(0, 9);
    assert_eq!((rows[0].column("value"), rows[0].column("plan")), (Some(&json!(1)), Some(&json!("pro"))));
}

#[test]
fn a_report_of_another_shape_is_refused() {
    for (report, expected) in [
        (json!({ "headers": ["$event"], "series": { "X": { "2026-11-01": 1 } } }), NoRows::NoBreakdown),
        (json!({ "headers": [], "series": {} }), NoRows::NoBreakdown),
    ] {
        assert_eq!(Rows::of_report(report.to_string().as_bytes()).err(), Some(expected));
    }
    for report in [
        json!({ "headers": ["$event", "$distinct_id"], "series": { "X": 7 } }),
        json!({ "headers": ["$event", "$distinct_id", "plan"], "series": { "X": { "a": 1 } } }),
        json!({ "series": {} }),
        json!([]),
    ] {
        assert!(matches!(Rows::of_report(report.to_string().as_bytes()), Err(NoRows::Shape(_))), "{report}");
    }
}

#[test]
fn rows_are_bounded() {
    let body = format!("[{}]", vec!["0"; MAX_ROWS + 1].join(","));
    assert_eq!(Rows::of_script(body.as_bytes()).err(), Some(NoRows::TooMany(MAX_ROWS + 1)));
}

proptest::proptest! {
    #[test]
    fn whatever_a_row_is_it_is_read_without_harm(text in "[\\[\\]{}\",:a-c0-9.nul]{0,60}", name in "[a-c0-9.]{0,8}") {
        if let Ok(rows) = Rows::of_script(text.as_bytes()) {
            for row in rows.some(0, rows.len()) {
                drop((row.column(&name).cloned(), row.id(&name), row.columns()));
            }
        }
        drop(Rows::of_report(text.as_bytes()).map(|rows| rows.len()));
    }
}
