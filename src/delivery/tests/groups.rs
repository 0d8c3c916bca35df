//! Groups at Brevo, through the whole leg.

use serde_json::{Value, json};

use crate::config::{BrevoMode, GroupMapping, Sync};
use crate::delivery::testing::{Setup, TOKEN, World, eventually};
use crate::record::{Destination, Kind, Record};
use crate::settlement::SkipRule;

const BREVO: Destination = Destination::Brevo;

/// Groups of `company_id`: name, industry, revenue and tags, of which the account lacks the last.
pub(super) fn setup() -> Setup {
    let mut setup = Setup::brevo().with_all_users();
    setup.sync = Sync { groups: true, ..Sync::default() };
    let properties = [("industry", "industry"), ("arr", "revenue"), ("tags", "tags")];
    let group = GroupMapping {
        name: "$name".to_owned(),
        properties: properties.map(|(from, to)| (from.to_owned(), to.to_owned())).into(),
    };
    setup.mapping.groups.insert("company_id".to_owned(), group);
    setup
}

pub(super) fn group(world: &World, id: &str, operator: &str, operand: Value) -> Record {
    let body = json!({"$token": TOKEN, "$group_key": "company_id", "$group_id": id, operator: operand});
    world.record(Kind::Group, &body)
}

/// Attributes of all companies, by name.
pub(super) async fn companies(world: &World) -> Vec<Value> {
    let shown = world.show("/brevo/companies").await;
    let mut all: Vec<Value> =
        shown["companies"].as_array().unwrap().iter().map(|company| company["attributes"].clone()).collect();
    all.sort_by_key(|attributes| attributes["name"].to_string());
    all
}

pub(super) async fn seed(world: &World, companies: Value) {
    world.control("POST", "/brevo/seed", json!({ "companies": companies })).await;
}

#[tokio::test]
async fn a_group_becomes_a_company_and_follows_its_updates() {
    let world = World::new(setup()).await;
    let relay = world.relay().await;
    relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME", "industry": "Steel", "other": 1}))]).await;
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "ACME", "industry": "Steel"})]);
    relay
        .append(vec![
            group(&world, "a", "$set_once", json!({"industry": "Glass", "arr": "12.5"})),
            group(&world, "a", "$union", json!({"tags": ["x", "y"]})),
            group(&world, "a", "$remove", json!({"tags": "x"})),
            group(&world, "a", "$add", json!({"arr": 5})),
            group(&world, "b", "$union", json!({"tags": "z"})),
        ])
        .await;
    relay.settled().await;
    let acme = json!({"name": "ACME", "industry": "Steel", "revenue": 12.5, "tags": "y"});
    assert_eq!(companies(&world).await, [acme, json!({"name": "b", "tags": "z"})]);
    relay
        .append(vec![
            group(&world, "a", "$unset", json!(["industry"])),
            group(&world, "a", "$set", json!({"$name": "Acme Ltd"})),
            group(&world, "b", "$delete", json!("")),
        ])
        .await;
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "Acme Ltd", "revenue": 12.5, "tags": "y"})]);
    let tally = relay.tally(BREVO);
    assert_eq!((tally.delivered.group, tally.skipped[&SkipRule::NoMappedProperty]), (8, 1));
    relay.drain().await;
}

#[tokio::test]
async fn an_attribute_that_null_does_not_empty_is_emptied_the_other_way() {
    let world = World::new(setup()).await;
    world.switch(json!({"brevo": {"clear_by": "empty_string"}})).await;
    let relay = world.relay().await;
    relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME", "industry": "Steel"}))]).await;
    relay.settled().await;
    relay.append(vec![group(&world, "a", "$unset", json!(["industry"]))]).await;
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "ACME"})]);
    relay.drain().await;
}

/// CORE 5: what stood at Brevo before the relay is the base, and what no record touches stays.
#[tokio::test]
async fn a_company_from_before_the_relay_is_found_and_not_overwritten() {
    let world = World::new(setup()).await;
    seed(&world, json!([{"name": "ACME", "industry": "Steel", "revenue": 7, "domain": "acme.example"}])).await;
    let relay = world.relay().await;
    relay
        .append(vec![
            group(&world, "a", "$set", json!({"$name": "ACME"})),
            group(&world, "a", "$set_once", json!({"industry": "Glass", "tags": "t"})),
        ])
        .await;
    relay.settled().await;
    let expected = json!({"name": "ACME", "industry": "Steel", "revenue": 7, "domain": "acme.example", "tags": "t"});
    assert_eq!(companies(&world).await, std::slice::from_ref(&expected));
    // Two groups of one name are two companies.
    relay.append(vec![group(&world, "b", "$set", json!({"$name": "ACME", "industry": "Wood"}))]).await;
    relay.settled().await;
    let both = companies(&world).await;
    assert!(both.contains(&expected) && both.contains(&json!({"name": "ACME", "industry": "Wood"})), "{both:?}");
    relay.drain().await;
}

#[tokio::test]
async fn a_group_that_is_deleted_and_comes_back_is_a_new_company() {
    let world = World::new(setup()).await;
    seed(&world, json!([{"name": "ACME", "industry": "Steel"}])).await;
    let relay = world.relay().await;
    relay
        .append(vec![
            group(&world, "a", "$set", json!({"$name": "ACME"})),
            group(&world, "a", "$delete", json!(null)),
            group(&world, "a", "$set_once", json!({"$name": "New", "industry": "Glass"})),
        ])
        .await;
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "New", "industry": "Glass"})]);
    assert_eq!(relay.tally(BREVO).delivered.group, 3);
    relay.drain().await;
}

#[tokio::test]
async fn a_company_that_somebody_deletes_at_brevo_is_made_anew_with_all_that_is_known() {
    let world = World::new(setup()).await;
    let relay = world.relay().await;
    relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME", "industry": "Steel"}))]).await;
    relay.settled().await;
    let gone = json!({"vendor": "brevo", "path_prefix": "/v3/companies/", "kind": "status", "status": 404, "times": 1,
        "body": {"code": "document_not_found", "message": "Company not found"}});
    world.faults(gone).await;
    relay.append(vec![group(&world, "a", "$set", json!({"arr": 3}))]).await;
    relay.settled().await;
    let all = companies(&world).await;
    assert!(all.contains(&json!({"name": "ACME", "industry": "Steel", "revenue": 3})), "{all:?}");
    relay.drain().await;
}

/// CORE 4, for groups: folded, killed before the call. And a call that was made and not written down is not made twice.
#[tokio::test]
async fn a_crash_at_any_moment_makes_one_company() {
    let world = World::new(setup()).await;
    let mut relay = world.relay().await;
    for n in 0..12_i64 {
        relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME", "arr": n}))]).await;
        tokio::time::sleep(std::time::Duration::from_millis(n.unsigned_abs() * 17 % 130)).await;
        relay.kill().await;
        relay = world.relay().await;
    }
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "ACME", "revenue": 11})]);
    assert_eq!(relay.tally(BREVO).delivered.group, 12);
    relay.drain().await;
}

/// An import tells nobody what it makes, and Brevo refuses none of it a second time.
#[tokio::test]
async fn a_crash_around_an_import_makes_no_company_twice() {
    // The answer never comes; or it has come, and the import is followed.
    for answered in [false, true] {
        let world = World::new(setup()).await;
        let relay = world.relay().await;
        if !answered {
            let lost = json!({"vendor": "brevo", "path_prefix": "/v3/companies/import", "kind": "black_hole", "when": "after"});
            world.faults(lost).await;
        }
        let name = |n: usize| json!({"$name": format!("Company {n}"), "industry": "Steel"});
        relay.append((0..30).map(|n| group(&world, &format!("g{n}"), "$set", name(n))).collect()).await;
        let path = if answered { "/v3/processes" } else { "/v3/companies/import" };
        eventually("an import under way", async || world.requests("brevo", path).await > 0).await;
        relay.kill().await;
        world.heal().await;

        let relay = world.relay().await;
        relay.settled().await;
        let names: Vec<_> = companies(&world).await.iter().map(|company| company["name"].clone()).collect();
        let mut expected: Vec<_> = (0..30).map(|n| json!(format!("Company {n}"))).collect();
        expected.sort_by_key(ToString::to_string);
        assert_eq!(names, expected, "answered: {answered}");
        assert_eq!(relay.tally(BREVO).delivered.group, 30);
        relay.drain().await;
    }
}

#[tokio::test]
async fn a_refused_company_is_one_dead_letter_and_holds_nobody_back() {
    let world = World::new(setup()).await;
    let refused = json!({"vendor": "brevo", "path_prefix": "/v3/companies", "method": "POST", "kind": "status",
        "status": 400, "times": 1, "body": {"code": "invalid_parameter", "message": "no"}});
    world.faults(refused).await;
    let relay = world.relay().await;
    relay
        .append(vec![
            group(&world, "a", "$set", json!({"$name": "ACME"})),
            group(&world, "a", "$set", json!({"industry": "Steel"})),
            group(&world, "b", "$set", json!({"$name": "Beta"})),
        ])
        .await;
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "Beta"})]);
    let letters = relay.dead_letters(BREVO).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(relay.skipped(BREVO, SkipRule::Superseded), 1);
    relay.drain().await;
}

/// An account that may not use companies keeps its contacts and events going.
#[tokio::test]
async fn companies_that_are_forbidden_hold_back_nobody_else() {
    let world = World::new(setup()).await;
    world
        .faults(json!({"vendor": "brevo", "path_prefix": "/v3/crm", "kind": "status", "status": 403,
        "body": {"code": "permission_denied", "message": "no"}}))
        .await;
    let relay = world.relay().await;
    relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME"}))]).await;
    eventually("forbidden", async || world.requests("brevo", "/v3/crm/attributes/companies").await > 0).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
    let report = relay.until(BREVO, "done but for the group", |report| report.backlog == 1).await;
    assert_eq!(report.delivered, 2);
    relay.drain().await;
}

#[tokio::test]
async fn groups_can_be_off_observed_or_unmapped() {
    for (groups, mode, rule) in [
        (false, BrevoMode::Live, SkipRule::GroupsOff),
        (true, BrevoMode::Observe, SkipRule::Observed),
        (true, BrevoMode::Pilot, SkipRule::NotInPilot),
    ] {
        let mut setup = Setup { mode, ..setup() };
        setup.sync.groups = groups;
        let world = World::new(setup).await;
        let relay = world.relay().await;
        relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME"}))]).await;
        relay.settled().await;
        assert_eq!(relay.skipped(BREVO, rule), 1, "{}", rule.label());
        assert_eq!(world.requests("brevo", "/v3/companies").await, 0);
        relay.drain().await;
    }
}

fn in_group(world: &World, person: &str, n: i64, groups: Value) -> Record {
    let mut event = world.event("Purchase", person, n);
    let mut body: Value = serde_json::from_slice(&event.body).unwrap();
    body["properties"]["company_id"] = groups;
    event.body = body.to_string().into();
    event
}

/// The people linked to the company of this name, by the part of their address before the `@`.
pub(super) async fn members(world: &World, company: &str) -> Vec<String> {
    let shown = world.show("/brevo/companies").await;
    let all = shown["companies"].as_array().unwrap();
    let Some(company) = all.iter().find(|one| one["attributes"]["name"] == company) else { return Vec::new() };
    let contacts = world.show("/brevo/contacts?limit=1000").await;
    let address = |id: &Value| {
        let contact = contacts["contacts"].as_array().unwrap().iter().find(|contact| contact["id"] == *id).unwrap();
        contact["email"].as_str().unwrap().split('@').next().unwrap().to_owned()
    };
    let mut members: Vec<String> = company["linkedContactsIds"].as_array().unwrap().iter().map(address).collect();
    members.sort();
    members
}

pub(super) fn known(world: &World, person: &str) -> Record {
    world.set(person, json!({"$email": format!("{person}@example.com")}))
}

async fn until_members(world: &World, company: &str, expected: &[&str]) {
    eventually(&format!("{expected:?} in {company}"), async || members(world, company).await == expected).await;
}

#[tokio::test]
async fn people_are_linked_and_unlinked_as_their_events_and_profiles_say() {
    let world = World::new(setup()).await;
    // One that was there before, and a contact that the relay has not made.
    world.control("POST", "/brevo/seed", json!({"contacts": [{"email": "eve@example.com", "ext_id": "eve"}]})).await;
    let relay = world.relay().await;
    relay
        .append(vec![
            group(&world, "a", "$set", json!({"$name": "ACME"})),
            group(&world, "b", "$set", json!({"$name": "Beta"})),
            known(&world, "ada"),
            known(&world, "bob"),
            known(&world, "eve"),
            in_group(&world, "ada", 1, json!(["a", "b"])),
            world.set("bob", json!({"company_id": "a"})),
            in_group(&world, "eve", 2, json!("a")),
        ])
        .await;
    until_members(&world, "ACME", &["ada", "bob", "eve"]).await;
    until_members(&world, "Beta", &["ada"]).await;
    relay.settled().await;
    relay
        .append(vec![
            world.set("ada", json!({"company_id": ["b"]})),
            world.update("bob", "$remove", json!({"company_id": "a"})),
            world.update("eve", "$union", json!({"company_id": ["b"]})),
            in_group(&world, "ada", 3, json!("b")),
        ])
        .await;
    until_members(&world, "ACME", &["eve"]).await;
    until_members(&world, "Beta", &["ada", "eve"]).await;
    relay.settled().await;
    relay.drain().await;
}

/// What is said of a visitor is said of whoever they turn out to be; until then there is nobody to link.
#[tokio::test]
async fn a_visitors_group_is_their_own_once_they_are_known() {
    let world = World::new(setup()).await;
    let relay = world.relay().await;
    let mut visit = in_group(&world, "$device:x", 1, json!("a"));
    let mut body: Value = serde_json::from_slice(&visit.body).unwrap();
    body["properties"] = json!({"$device_id": "x", "distinct_id": "$device:x", "company_id": "a", "$insert_id": "n1",
        "time": world.clock_seconds()});
    visit.body = body.to_string().into();
    relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME"})), visit]).await;
    eventually("a company", async || companies(&world).await.len() == 1).await;
    let mut sign_up = world.event("Sign Up", "ada", 2);
    let mut body: Value = serde_json::from_slice(&sign_up.body).unwrap();
    body["properties"]["$device_id"] = "x".into();
    sign_up.body = body.to_string().into();
    relay.append(vec![sign_up, known(&world, "ada")]).await;
    until_members(&world, "ACME", &["ada"]).await;
    relay.drain().await;
}

#[tokio::test]
async fn links_of_many_people_are_few_calls_and_survive_crashes() {
    let world = World::new(setup()).await;
    let mut relay = world.relay().await;
    relay.append(vec![group(&world, "a", "$set", json!({"$name": "ACME"}))]).await;
    let names: Vec<String> = (0..40).map(|n| format!("p{n:02}")).collect();
    for chunk in names.chunks(10) {
        let records = chunk.iter().flat_map(|name| [known(&world, name), in_group(&world, name, 1, json!("a"))]);
        relay.append(records.collect()).await;
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        relay.kill().await;
        relay = world.relay().await;
    }
    let expected: Vec<&str> = names.iter().map(String::as_str).collect();
    until_members(&world, "ACME", &expected).await;
    relay.settled().await;
    let company = world.show("/brevo/companies").await["companies"][0]["id"].as_str().unwrap().to_owned();
    let calls = world.requests("brevo", &format!("/v3/companies/link-unlink/{company}")).await;
    assert!(calls <= 15, "{calls} calls for 40 links over 5 processes");
    relay.drain().await;
}

/// What a version before companies has put on shelves becomes what is owed.
#[tokio::test]
async fn group_records_on_shelves_of_an_older_version_are_taken_off() {
    use crate::people::person::Person;
    use crate::people::shelf;
    use crate::record::{EntryId, Epoch, Position};
    use crate::store::{State as _, Table, WriteBatch};

    let world = World::new(setup()).await;
    let relay = world.relay().await;
    let records = vec![
        group(&world, "a", "$set", json!({"$name": "ACME", "industry": "Steel"})),
        group(&world, "a", "$set", json!({"industry": "Glass"})),
    ];
    // Counted as accepted, and handed over by a checkpoint that never was.
    relay.append(records.clone()).await;
    relay.settled().await;
    let state = relay.store.state.clone();
    relay.drain().await;
    drop(state);
    world.control("POST", "/reset", Value::Null).await;

    let relay = world.relay().await;
    let mut batch = WriteBatch::new();
    let shelf_name = "\u{1}group company_id old";
    let mut person: Value = serde_json::to_value(Person::default()).unwrap();
    person["shelf"] = json!({"records": 2});
    batch.put(Table::People, shelf_name.as_bytes(), person.to_string().into_bytes());
    for (index, operand) in [(0, json!({"$name": "Old", "industry": "Steel"})), (1, json!({"industry": "Glass"}))] {
        let position = Position { epoch: Epoch(1), entry: EntryId(1), index };
        shelf::put(shelf_name, position, &group(&world, "old", "$set", operand), &mut batch);
    }
    relay.store.state.write(batch).await.unwrap();
    relay.kill().await;

    let relay = world.relay().await;
    relay.settled().await;
    assert_eq!(companies(&world).await, [json!({"name": "Old", "industry": "Glass"})]);
    assert_eq!(relay.tally(BREVO).delivered.group, 4);
    let report = relay.report(BREVO).await;
    assert_eq!(report.parked, 0);
    relay.kill().await;
}
