//! Contacts done right: shared identifiers, changed addresses, every attribute type.

use serde_json::{Value, json};

use crate::brevo::coerce::Unplaced;
use crate::brevo::outcome::IdentifierKind;
use crate::delivery::testing::{PATIENCE, Setup, World, eventually};
use crate::record::{Destination, EntryId};

const BREVO: Destination = Destination::Brevo;

/// Two people with one address: no event is lost, nobody is merged, the first keeps the contact's id, and it is counted.
#[tokio::test]
async fn two_people_with_one_address_lose_nothing() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let email = json!({"$email": "family@example.com"});
    for (n, id) in (0..).zip(["first", "second", "first", "second", "first"]) {
        relay.append(vec![world.set(id, email.clone()), world.purchase(id, n)]).await;
        relay.append(vec![world.set(id, json!({"plan": format!("{id}{n}")}))]).await;
        relay.settled().await;
    }
    let tally = relay.tally(BREVO);
    assert_eq!((tally.delivered.event, tally.conflicts.get(&IdentifierKind::Email)), (5, Some(&1)));
    assert_eq!(relay.report(BREVO).await.conflicts, 1);
    relay.drain().await;
    let counts = world.show("/brevo/counts").await;
    assert_eq!(counts["contacts"], 1, "{counts}");
    let contact = world.contact("family@example.com").await;
    assert_eq!(contact["attributes"]["EXT_ID"], "first");
    assert_eq!(contact["attributes"]["PLAN_TYPE"], "first4");
    let applied = world.brevo_events().await.into_iter().filter(|(_, outcome)| outcome == "applied").count();
    assert_eq!(applied, 5);
}

/// An event under way names the address that Brevo knew when it left, and Brevo drops without a word what names nobody:
/// the address is changed when it is back, and what comes next names the new one.
#[tokio::test]
async fn p2_an_address_is_not_changed_under_the_events_that_name_it() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    for (n, address) in [(0, "old"), (2, "new"), (4, "newer")] {
        relay.append(vec![world.set("u", json!({"$email": format!("{address}@example.com")}))]).await;
        relay.append(vec![world.purchase("u", n)]).await;
        relay.settled().await;
        world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "latency", "ms": 500})).await;
        relay.append(vec![world.purchase("u", n + 1)]).await;
        eventually("under way", async || world.show("/faults").await["faults"][0]["hits"] == 1).await;
    }
    relay.append(vec![world.set("u", json!({"$email": "newest@example.com"}))]).await;
    relay.settled().await;
    relay.drain().await;
    let expected: Vec<_> = (0..6).map(|n| (n, "applied".to_owned())).collect();
    assert_eq!(world.brevo_events().await, expected);
    assert_eq!(world.contact("u").await["email"], "newest@example.com");
}

/// Two people with one phone number: the second is a contact without it, and with it where they have nothing else.
#[tokio::test]
async fn two_people_with_one_phone_number_stay_two() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let phone = "+33612345678";
    relay
        .append(vec![world.set("a", json!({"$email": "a@example.com", "$phone": phone})), world.purchase("a", 1)])
        .await;
    relay.settled().await;
    relay
        .append(vec![world.set("b", json!({"$email": "b@example.com", "$phone": phone})), world.purchase("b", 2)])
        .await;
    relay.append(vec![world.set("c", json!({"$phone": phone})), world.purchase("c", 3)]).await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).conflicts, [(IdentifierKind::Sms, 2)].into());
    relay.drain().await;
    assert_eq!(world.show("/brevo/counts").await["contacts"], 2);
    let (a, b) = (world.contact("a").await, world.contact("b").await);
    assert_eq!((&a["email"], &a["attributes"]["SMS"]), (&json!("a@example.com"), &json!("33612345678")));
    assert_eq!((&b["email"], &b["attributes"]["SMS"]), (&json!("b@example.com"), &Value::Null));
    let applied = world.brevo_events().await.into_iter().filter(|(_, outcome)| outcome == "applied").count();
    assert_eq!(applied, 3);
}

/// Ids that another system has put there are left alone.
#[tokio::test]
async fn a_foreign_ext_id_stays() {
    let world = World::new(Setup::brevo()).await;
    world.control("POST", "/brevo/seed", json!({"contacts": [{"email": "u@example.com", "ext_id": "crm-7"}]})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "pro"})), world.purchase("u", 1)]).await;
    relay.settled().await;
    relay.drain().await;
    let contact = world.contact("crm-7").await;
    assert_eq!((&contact["email"], &contact["attributes"]["PLAN_TYPE"]), (&json!("u@example.com"), &json!("pro")));
    assert_eq!(world.brevo_events().await, [(1, "applied".to_owned())]);
}

/// Known to Brevo by our id under another address, of which this store knows nothing: the address changes, unless that
/// would resubscribe.
#[tokio::test]
async fn an_address_that_an_earlier_store_wrote_is_changed_or_kept() {
    for blocklisted in [false, true] {
        let world = World::new(Setup::brevo()).await;
        let before = json!({"email": "old@example.com", "ext_id": "u", "email_blacklisted": blocklisted});
        world.control("POST", "/brevo/seed", json!({"contacts": [before]})).await;
        let relay = world.relay().await;
        let set = json!({"$email": "new@example.com", "plan": "pro"});
        relay.append(vec![world.set("u", set), world.purchase("u", 1)]).await;
        relay.settled().await;
        assert_eq!(relay.report(BREVO).await.addresses_kept, u64::from(blocklisted));
        relay.drain().await;
        let contact = world.contact("u").await;
        let address = if blocklisted { "old@example.com" } else { "new@example.com" };
        assert_eq!((&contact["email"], &contact["emailBlacklisted"]), (&json!(address), &json!(blocklisted)));
        assert_eq!(contact["attributes"]["PLAN_TYPE"], "pro");
        assert_eq!(world.brevo_events().await, [(1, "applied".to_owned())]);
    }
}

/// The rows of the table under `## Values` in `docs/mapping.md`: type, value, what is sent.
fn documented() -> Vec<[String; 3]> {
    let page = include_str!("../../../docs/mapping.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Values")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| -> Vec<String> {
        row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    rows.map(|row| cells(row).try_into().unwrap()).collect()
}

/// Every row of the documented table, through the whole leg, against an account with an attribute of every type: what is
/// said to be sent is what the account holds, and what is said not to be placed is counted.
#[tokio::test]
async fn the_documented_coercions_are_what_brevo_ends_up_with() {
    let types = ["text", "date", "float", "boolean", "category", "multiple-choice"];
    let name = |kind: &str| format!("A_{}", kind.to_uppercase());
    let mut setup = Setup::brevo();
    for kind in types {
        setup.mapping.properties.insert(kind.to_owned(), name(kind));
    }
    setup.mapping.properties.insert("read-only".to_owned(), "A_OWNER".to_owned());
    let world = World::new(setup).await;
    let options = |kind: &str| match kind {
        "category" => json!(["Men", "Women"]),
        "multiple-choice" => json!(["India", "China"]),
        _ => json!([]),
    };
    let spec = |kind: &str| {
        let category = if kind == "category" { "category" } else { "normal" };
        json!({"name": name(kind), "category": category, "type": kind, "options": options(kind)})
    };
    let mut attributes: Vec<Value> = types.iter().map(|kind| spec(kind)).collect();
    attributes.push(json!({"name": "A_OWNER", "category": "normal", "type": "user"}));
    world.control("POST", "/brevo/seed", json!({"attributes": attributes})).await;
    let relay = world.relay().await;
    let rows = documented();
    let mut updates = Vec::new();
    for (n, [kind, value, _]) in rows.iter().enumerate() {
        let property = if kind == "phone" { "$phone" } else { kind.as_str() };
        let mut value: Value = serde_json::from_str(value).unwrap();
        // No two contacts can have one number.
        if let (Value::String(phone), "$phone") = (&mut value, property) {
            *phone = phone.replace("78", &n.to_string());
        }
        let set = json!({"$email": format!("row{n}@example.com"), property: value});
        updates.push(world.set(&format!("row{n}"), set));
    }
    relay.append(updates).await;
    relay.settled().await;
    let tally = relay.tally(BREVO);
    relay.drain().await;
    let mut refused = 0;
    for (n, [kind, value, sent]) in rows.iter().enumerate() {
        let contact = world.contact(&format!("row{n}")).await;
        let held = match kind.as_str() {
            "phone" => contact["attributes"]["SMS"].clone(),
            kind => contact["attributes"][name(kind)].clone(),
        };
        let sent = sent.replace('`', "");
        let expected = match sent.strip_prefix("not placed: ") {
            Some(reason) => {
                refused += u64::from(reason != "null");
                Value::Null
            }
            None => match (kind.as_str(), serde_json::from_str::<Value>(&sent).unwrap()) {
                // Brevo reads a label back as its number, a phone number without its plus, and an empty text as none.
                ("category", label) => json!(1 + u8::from(label == "Women")),
                ("phone", Value::String(phone)) => phone.trim_start_matches('+').replace("78", &n.to_string()).into(),
                ("text", Value::String(text)) if text.is_empty() => Value::Null,
                (_, sent) => sent,
            },
        };
        assert_eq!(held, expected, "{kind} from {value}: {contact}");
    }
    let counted: u64 = tally.not_placed.values().sum();
    assert!(counted >= refused, "{counted} of {refused} counted: {:?}", tally.not_placed);
    assert!(tally.not_placed.contains_key(&Unplaced::NoCountryCode), "{:?}", tally.not_placed);
}

/// Of a list that holds options and others, the options are placed and the others are counted.
#[tokio::test]
async fn what_is_left_out_of_a_multiple_choice_is_counted() {
    let mut setup = Setup::brevo();
    setup.mapping.properties.insert("likes".to_owned(), "INTERESTS".to_owned());
    let world = World::new(setup).await;
    let relay = world.relay().await;
    let set = json!({"$email": "u@example.com", "likes": ["news", "gossip", "Sales"]});
    relay.append(vec![world.set("u", set)]).await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).not_placed, [(Unplaced::UnknownOption, 1)].into());
    relay.drain().await;
    assert_eq!(world.contact("u").await["attributes"]["INTERESTS"], json!(["news", "sales"]));
}

/// The answer that would have told of the contact is lost in a crash, and a value is taken away meanwhile. The relay takes
/// the contact for new, and empties it all the same, whichever way the account empties.
#[tokio::test]
async fn core4_what_is_taken_away_behind_a_lost_answer_does_not_stay() {
    for clear_by in ["empty_string", "null"] {
        let world = World::new(Setup::brevo()).await;
        world.switch(json!({"brevo": {"clear_by": clear_by}})).await;
        let lost = json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole", "when": "after"});
        let relay = world.relay().await;
        relay.append(vec![world.set("first", json!({"$email": "first@example.com"}))]).await;
        relay.settled().await;
        world.faults(lost).await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "a", "name": "U"}))]).await;
        eventually("made", async || !world.contact("u").await.is_null()).await;
        relay.append(vec![world.update("u", "$unset", json!(["plan"]))]).await;
        let mut cursor = relay.leg(BREVO).status.durable_cursor();
        let folded = cursor.wait_for(|at| (at.entry, at.index) >= (EntryId(3), 1));
        tokio::time::timeout(PATIENCE, folded).await.unwrap().unwrap();
        relay.kill().await;
        world.heal().await;
        let relay = world.relay().await;
        relay.settled().await;
        relay.drain().await;
        let contact = world.contact("u").await;
        assert!(is_empty(&contact["attributes"]["PLAN_TYPE"]), "{clear_by}: {contact}");
        assert_eq!(contact["attributes"]["FIRSTNAME"], "U");
    }
}

/// A contact from before the relay loses what an app has taken away, and keeps what is only known to be absent at Mixpanel.
#[tokio::test]
async fn core5_a_contact_of_before_loses_what_was_unset_and_nothing_else() {
    let world = World::new(Setup::both()).await;
    let contact = json!({"email": "u@example.com", "attributes": {"FIRSTNAME": "Before", "PLAN_TYPE": "old"}});
    world.control("POST", "/brevo/seed", json!({"contacts": [contact]})).await;
    let profile = json!({"distinct_id": "u", "properties": {"$email": "u@example.com", "total_revenue": 5}});
    world.control("POST", "/mixpanel/seed", json!({"profiles": [profile]})).await;
    let relay = world.relay().await;
    relay.append(vec![world.update("u", "$unset", json!(["plan"]))]).await;
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 10}))]).await;
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
    relay.drain().await;
    let attributes = world.contact("u@example.com").await["attributes"].clone();
    assert_eq!((&attributes["FIRSTNAME"], &attributes["LTV"]), (&json!("Before"), &json!(15)), "{attributes}");
    assert!(is_empty(&attributes["PLAN_TYPE"]), "{attributes}");
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || *value == json!("")
}
