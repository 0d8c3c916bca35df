//! Groups at Brevo, through the whole leg.

use serde_json::{Value, json};

use crate::config::{BrevoMode, GroupMapping, Sync};
use crate::delivery::testing::{Setup, TOKEN, World, eventually};
use crate::record::{Destination, Kind, Record};
use crate::settlement::SkipRule;

const BREVO: Destination = Destination::Brevo;

/// Groups of `company_id`: name, industry, revenue and tags, of which the account lacks the last.
fn setup() -> Setup {
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

fn group(world: &World, id: &str, operator: &str, operand: Value) -> Record {
    let body = json!({"$token": TOKEN, "$group_key": "company_id", "$group_id": id, operator: operand});
    world.record(Kind::Group, &body)
}

/// Attributes of all companies, by name.
async fn companies(world: &World) -> Vec<Value> {
    let shown = world.show("/brevo/companies").await;
    let mut all: Vec<Value> =
        shown["companies"].as_array().unwrap().iter().map(|company| company["attributes"].clone()).collect();
    all.sort_by_key(|attributes| attributes["name"].to_string());
    all
}

async fn seed(world: &World, companies: Value) {
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
