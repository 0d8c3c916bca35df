use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::brevo::coerce::AttributeValue;
use crate::brevo::identifiers::{ContactId, Email, FolderId, Phone};
use crate::brevo::names::{AttributeName, EventName};
use crate::brevo::wire::{Attributes, EventIdentifiers, ImportContact};

fn calls() -> Calls {
    Calls { base: Url::parse("https://api.brevo.com/v3").unwrap(), api_key: HeaderValue::from_static("xkeysib-secret") }
}

/// Method, path with query, endpoint label, family and body of a request.
fn seen(request: &VendorRequest) -> (String, &'static str, Family, Value) {
    assert_eq!(request.headers["api-key"], "xkeysib-secret");
    let query = request.url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let line = format!("{} {}{query}", request.method, request.url.path());
    let body = if request.body.is_empty() { Value::Null } else { serde_json::from_slice(&request.body).unwrap() };
    (line, request.endpoint, request.family, body)
}

fn event(size: usize) -> Event {
    let properties = json!({"x": "y".repeat(size)}).to_string();
    Event {
        event_name: EventName::sanitised("order_completed"),
        identifiers: EventIdentifiers { ext_id: Some("u".to_owned()), ..Default::default() },
        event_date: "2024-01-24T17:39:57.000Z".to_owned(),
        event_properties: Some(serde_json::value::RawValue::from_string(properties).unwrap()),
    }
}

#[test]
fn requests_are_as_the_contract_has_them() {
    let calls = calls();
    let email = Email::parse("Ada+1@example.com").unwrap();
    let phone = Phone::parse("+33612345678").unwrap();
    let name = AttributeName::parse("PLAN_TYPE").unwrap();
    let attributes: Attributes = [(name.clone(), AttributeValue::Text("pro".to_owned()))].into();
    let upsert = ContactUpsert {
        email: Some(email.clone()),
        ext_id: Some("u/1".to_owned()),
        attributes: attributes.clone(),
        list_ids: vec![ListId(15)],
        update_enabled: true,
        email_blacklisted: None,
        sms_blacklisted: None,
    };
    let update = ContactUpdate { attributes, unlink_list_ids: vec![ListId(3)], ..Default::default() };
    let attribute = AttributeToCreate::for_value(&name, &json!(1)).unwrap();
    let rows = [
        (
            calls.event(&event(1)),
            "POST /v3/events",
            "/events",
            Family::BrevoEvents,
            json!({"event_name": "order_completed", "identifiers": {"ext_id": "u"},
                "event_date": "2024-01-24T17:39:57.000Z", "event_properties": {"x": "y"}}),
        ),
        (
            calls.upsert_contact(&upsert),
            "POST /v3/contacts",
            "/contacts",
            Family::BrevoContacts,
            json!({"email": "ada+1@example.com", "ext_id": "u/1", "attributes": {"PLAN_TYPE": "pro"},
                "listIds": [15], "updateEnabled": true}),
        ),
        (
            calls.update_contact(ContactRef::ExtId("u/1 ?"), &update),
            "PUT /v3/contacts/u%2F1%20%3F?identifierType=ext_id",
            "/contacts/{identifier}",
            Family::BrevoContacts,
            json!({"attributes": {"PLAN_TYPE": "pro"}, "unlinkListIds": [3]}),
        ),
        (
            calls.contact(ContactRef::Email(&email)),
            "GET /v3/contacts/ada%2B1%40example.com?identifierType=email_id",
            "/contacts/{identifier}",
            Family::BrevoContacts,
            Value::Null,
        ),
        (
            calls.contact(ContactRef::Phone(&phone)),
            "GET /v3/contacts/33612345678?identifierType=phone_id",
            "/contacts/{identifier}",
            Family::BrevoContacts,
            Value::Null,
        ),
        (
            calls.contact(ContactRef::Id(ContactId(7))),
            "GET /v3/contacts/7?identifierType=contact_id",
            "/contacts/{identifier}",
            Family::BrevoContacts,
            Value::Null,
        ),
        (
            calls.process(ProcessId(78)),
            "GET /v3/processes/78",
            "/processes/{processId}",
            Family::BrevoOther,
            Value::Null,
        ),
        (calls.processes(), "GET /v3/processes?limit=10&sort=desc", "/processes", Family::BrevoOther, Value::Null),
        (calls.attributes(), "GET /v3/contacts/attributes", "/contacts/attributes", Family::BrevoContacts, Value::Null),
        (
            calls.create_attribute(&attribute),
            "POST /v3/contacts/attributes/normal/PLAN_TYPE",
            "/contacts/attributes/{category}/{name}",
            Family::BrevoContacts,
            json!({"type": "float"}),
        ),
        (
            calls.lists(50),
            "GET /v3/contacts/lists?limit=50&offset=50&sort=asc",
            "/contacts/lists",
            Family::BrevoContacts,
            Value::Null,
        ),
        (
            calls.list(ListId(15)),
            "GET /v3/contacts/lists/15",
            "/contacts/lists/{listId}",
            Family::BrevoContacts,
            Value::Null,
        ),
        (
            calls.create_list(&NewList { name: "All", folder_id: FolderId(2) }),
            "POST /v3/contacts/lists",
            "/contacts/lists",
            Family::BrevoContacts,
            json!({"name": "All", "folderId": 2}),
        ),
        (
            calls.folders(0),
            "GET /v3/contacts/folders?limit=50&offset=0&sort=asc",
            "/contacts/folders",
            Family::BrevoContacts,
            Value::Null,
        ),
        (
            calls.create_folder(&NewFolder { name: "Mixrelay" }),
            "POST /v3/contacts/folders",
            "/contacts/folders",
            Family::BrevoContacts,
            json!({"name": "Mixrelay"}),
        ),
        (calls.account(), "GET /v3/account", "/account", Family::BrevoOther, Value::Null),
        (calls.probe(), "GET /v3/contacts/lists?limit=1", "/contacts/lists", Family::BrevoContacts, Value::Null),
    ];
    for (request, line, label, family, body) in rows {
        assert_eq!(seen(&request), (line.to_owned(), label, family, body));
    }
}

#[test]
fn the_key_is_never_printed() {
    let config = config::Brevo { api_key: config::Secret::new("xkeysib-1"), ..config_with_defaults() };
    let request = Calls::new(&config).unwrap().account();
    assert!(!format!("{request:?}").contains("xkeysib"));
    let config = config::Brevo { api_key: config::Secret::new("bad\nkey"), ..config_with_defaults() };
    assert_eq!(Calls::new(&config).unwrap_err(), BadApiKey);
}

fn config_with_defaults() -> config::Brevo {
    config::Brevo {
        api_key: config::Secret::new(""),
        base_url: Url::parse("https://api.brevo.com/v3").unwrap(),
        mode: config::BrevoMode::Live,
        pilot_emails: Vec::new(),
        create_attributes: true,
    }
}

#[test]
fn list_changes_go_150_a_call() {
    let ids: Vec<_> = (0..301).map(ContactId).collect();
    let packed = calls().add_to_list(ListId(15), &ListMembers::Ids(ids));
    let sizes: Vec<_> = packed.iter().map(|call| call.range.len()).collect();
    assert_eq!(sizes, [150, 150, 1]);
    let (line, label, _, body) = seen(&packed[2].request);
    assert_eq!(line, "POST /v3/contacts/lists/15/contacts/add");
    assert_eq!(label, "/contacts/lists/{listId}/contacts/add");
    assert_eq!(body, json!({"ids": [300]}));

    let members = ListMembers::Emails(vec![Email::parse("A@b.co").unwrap()]);
    let packed = calls().remove_from_list(ListId(15), &members);
    let (line, _, _, body) = seen(&packed[0].request);
    assert_eq!(line, "POST /v3/contacts/lists/15/contacts/remove");
    assert_eq!(body, json!({"emails": ["a@b.co"]}));

    let packed = calls().add_to_list(ListId(15), &ListMembers::ExtIds(vec!["u".to_owned()]));
    assert_eq!(seen(&packed[0].request).3, json!({"extIds": ["u"]}));
    assert!(calls().add_to_list(ListId(15), &ListMembers::Ids(vec![])).is_empty());
}

#[test]
fn an_import_names_its_lists_and_mails_nobody() {
    let mut import = ImportBody::new(&[ListId(15)]);
    let contact = ImportContact { email: Some(Email::parse("a@b.co").unwrap()), attributes: Default::default() };
    assert!(import.push(&contact) && import.push(&contact));
    let request = calls().import(import);
    let (line, _, family, body) = seen(&request);
    assert_eq!((line.as_str(), family), ("POST /v3/contacts/import", Family::BrevoContacts));
    assert_eq!((request.cost.calls, request.cost.records), (1, 2));
    assert_eq!(body["jsonBody"][1]["email"], "a@b.co");
    assert_eq!(body["listIds"], json!([15]));
    assert_eq!(body["disableNotification"], true);
    assert_eq!(body["emptyContactsAttributes"], false);
    assert_eq!(body["updateExistingContacts"], true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn event_batches_never_exceed_the_limits(sizes in prop::collection::vec(0usize..49_000, 0..450)) {
        let events: Vec<_> = sizes.iter().map(|size| event(*size)).collect();
        let mut next = 0;
        for PackedCall { range, request } in calls().events(&events) {
            prop_assert_eq!(range.start, next);
            next = range.end;
            prop_assert!(range.len() <= MAX_BATCH_EVENTS && request.body.len() <= MAX_BATCH_BYTES);
            prop_assert_eq!(request.cost.records, range.len() as u64);
            let (line, _, family, body) = seen(&request);
            prop_assert_eq!((line.as_str(), family), ("POST /v3/events/batch", Family::BrevoEventsBatch));
            let lengths = body["events"].as_array().unwrap().iter().map(|e| e["event_properties"]["x"].as_str().unwrap().len());
            prop_assert_eq!(lengths.collect::<Vec<_>>(), &sizes[range]);
        }
        prop_assert_eq!(next, events.len());
    }
}
