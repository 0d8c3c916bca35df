//! What of all that was found to map, and to what: pure. Whatever is not certain becomes a comment in the file, so that
//! nobody's data goes anywhere on a guess.

use std::collections::BTreeSet;

use serde_json::Value;

use super::found::{Found, Seen};
use crate::brevo::account::AttributeKind;
use crate::brevo::names::{AttributeName, EventName};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub from: String,
    pub to: String,
    /// False: proposed in a comment only.
    pub active: bool,
    pub remark: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Proposal {
    pub events: Vec<Pair>,
    pub properties: Vec<Pair>,
    /// A list's id at Brevo, with a name to use for it in the file.
    pub lists: Vec<(String, u64, String)>,
    /// A yes-or-no property that looks like consent.
    pub consent: Option<String>,
}

/// Events under whatever name an app gives them, without blanks and case, and what they are commonly called at Brevo.
const EVENTS: [(&str, &[&str]); 3] = [
    (
        "order_completed",
        &["purchase", "purchased", "ordercompleted", "orderplaced", "checkoutcompleted", "completedpurchase"],
    ),
    ("customer_created", &["signup", "signedup", "registered", "registration", "accountcreated", "usersignedup"]),
    ("cart_updated", &["addtocart", "addedtocart", "productadded", "cartupdated"]),
];

/// Properties whose attribute has another name. The first rows are Mixpanel's own names, which every SDK sends.
const PROPERTIES: [(&str, &str); 7] = [
    ("$email", "email"),
    ("$first_name", "FIRSTNAME"),
    ("$last_name", "LASTNAME"),
    ("$phone", "SMS"),
    ("plan", "PLAN_TYPE"),
    ("signup_date", "SIGNUP_DATE"),
    ("total_revenue", "LTV"),
];
/// Mixpanel computes these; no SDK sends them.
const COMPUTED: [(&str, &str); 3] = [("$city", "CITY"), ("$region", "REGION"), ("$country_code", "COUNTRY_CODE")];

const CONSENT: [&str; 6] = ["marketingok", "marketingoptin", "marketingconsent", "emailoptin", "optin", "newsletter"];

pub(super) fn propose(found: &Found) -> Proposal {
    Proposal {
        events: events(&found.events),
        properties: properties(found),
        lists: lists(found),
        consent: consent(found),
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Names that Mixpanel or its SDKs made up are not the app's own.
fn is_apps_own(name: &str) -> bool {
    !name.starts_with('$') && !name.starts_with("mp_") && !name.trim().is_empty()
}

fn events(names: &[String]) -> Vec<Pair> {
    let own = names.iter().filter(|name| is_apps_own(name));
    own.map(|name| {
        let known = EVENTS.iter().find(|(_, names)| names.contains(&plain(name).as_str()));
        let sanitised = || EventName::sanitised(name).as_str().to_ascii_lowercase();
        let to = known.map_or_else(sanitised, |(to, _)| (*to).to_owned());
        Pair { from: name.clone(), to, active: known.is_some(), remark: None }
    })
    .collect()
}

fn properties(found: &Found) -> Vec<Pair> {
    let mut taken = BTreeSet::new();
    let email = Pair { from: "$email".to_owned(), to: "email".to_owned(), active: true, remark: None };
    let known = PROPERTIES[1..].iter().filter_map(|(from, to)| {
        // Mixpanel's own names are worth a row even where no profile has them yet.
        let there = found.properties.contains_key(*from);
        (there || from.starts_with('$')).then_some((*from, *to))
    });
    let mut pairs = vec![email];
    for (from, to) in known {
        let at_brevo = AttributeName::parse(to).is_ok_and(|name| writable(found, &name));
        pairs.push(pair(found, from, to, at_brevo, &mut taken));
    }
    let rest = found.properties.keys().filter(|name| is_apps_own(name));
    for name in rest.filter(|name| PROPERTIES.iter().all(|(from, _)| from != *name)) {
        let same = found.account.attributes.keys().find(|known| plain(known.as_str()) == plain(name));
        match same.filter(|known| writable(found, known) && !taken.contains(known.as_str())) {
            Some(known) => pairs.push(pair(found, name, known.as_str(), true, &mut taken)),
            None => pairs.extend(new_attribute(name).map(|to| pair(found, name, &to, false, &mut taken))),
        }
    }
    let computed = COMPUTED.iter().filter(|(from, _)| found.properties.contains_key(*from));
    pairs.extend(computed.map(|(from, to)| Pair {
        from: (*from).to_owned(),
        to: (*to).to_owned(),
        active: false,
        remark: Some("computed by Mixpanel: needs geoip, or sync_profiles_every".to_owned()),
    }));
    pairs
}

fn pair(found: &Found, from: &str, to: &str, active: bool, taken: &mut BTreeSet<String>) -> Pair {
    let active = active && taken.insert(to.to_owned());
    let remark = match (active, AttributeName::parse(to).ok().and_then(|name| found.account.kind(&name).cloned())) {
        (_, Some(kind)) => Some(kind.label().to_owned()),
        (_, None) => found.properties.get(from).map(|seen| format!("not at Brevo yet; {}", described(seen))),
    };
    Pair { from: from.to_owned(), to: to.to_owned(), active, remark }
}

/// What the values look like. No value of anybody's is shown: the file gets passed around.
fn described(seen: &Seen) -> &'static str {
    match &seen.sample {
        Value::Bool(_) => "true or false",
        Value::Number(_) => "numbers",
        Value::String(text) if looks_like_a_date(text) => "dates",
        Value::String(_) => "text",
        Value::Array(_) => "lists",
        Value::Object(_) => "objects",
        Value::Null => "empty",
    }
}

/// `2026-11-25`, whatever follows.
fn looks_like_a_date(text: &str) -> bool {
    let form = |(at, c): (usize, char)| if matches!(at, 4 | 7) { c == '-' } else { c.is_ascii_digit() };
    text.chars().count() >= 10 && text.chars().take(10).enumerate().all(form)
}

fn writable(found: &Found, name: &AttributeName) -> bool {
    let fixed = matches!(found.account.kind(name), None | Some(AttributeKind::ReadOnly));
    !fixed && !name.is_reserved() && name.as_str() != "EMAIL"
}

/// A legal name for an attribute that the account does not have.
fn new_attribute(property: &str) -> Option<String> {
    let name = AttributeName::parse(EventName::sanitised(property).as_str()).ok()?;
    (!name.is_reserved() && name.as_str() != "EMAIL").then(|| name.as_str().to_owned())
}

fn lists(found: &Found) -> Vec<(String, u64, String)> {
    let mut names = BTreeSet::new();
    let named = found.lists.iter().map(|list| {
        let id = list.id.0;
        let name = EventName::sanitised(&list.name).as_str().to_ascii_lowercase();
        let name = if names.insert(name.clone()) { name } else { format!("{name}_{id}") };
        (name, id, list.name.clone())
    });
    named.collect()
}

fn consent(found: &Found) -> Option<String> {
    let asked = |(name, seen): &(&String, &Seen)| seen.sample.is_boolean() && CONSENT.contains(&plain(name).as_str());
    found.properties.iter().find(asked).map(|(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::brevo::account::AccountModel;

    pub fn found() -> Found {
        let attributes = [("PLAN_TYPE", AttributeKind::Text), ("FAVOURITE_TEAM", AttributeKind::Text)];
        let seen = |sample| Seen { profiles: 1, sample };
        Found {
            events: ["Sign Up", "$identify", "mp_x", "Song Played", "purchase"].map(str::to_owned).to_vec(),
            properties: [
                ("plan", json!("pro")),
                ("favouriteTeam", json!("x")),
                ("favourite_team", json!("x")),
                ("born", json!("1990-01-02")),
                ("$city", json!("Paris")),
                ("marketing_ok", json!(true)),
                ("EXT_ID", json!(1)),
            ]
            .map(|(name, sample)| (name.to_owned(), seen(sample)))
            .into(),
            account: AccountModel {
                attributes: attributes.map(|(name, kind)| (AttributeName::parse(name).unwrap(), kind)).into(),
                ..AccountModel::default()
            },
            ..Found::default()
        }
    }

    #[test]
    fn only_what_is_certain_is_mapped() {
        let proposal = propose(&found());
        let active = |pairs: &[Pair]| {
            let mapped = pairs.iter().filter(|pair| pair.active);
            mapped.map(|pair| format!("{}→{}", pair.from, pair.to)).collect::<Vec<_>>()
        };
        assert_eq!(active(&proposal.events), ["Sign Up→customer_created", "purchase→order_completed"]);
        assert_eq!(
            active(&proposal.properties),
            ["$email→email", "$phone→SMS", "plan→PLAN_TYPE", "favouriteTeam→FAVOURITE_TEAM"]
        );
        let named = |name: &str| proposal.properties.iter().find(|pair| pair.from == name);
        assert_eq!(named("born").unwrap().remark.as_deref(), Some("not at Brevo yet; dates"));
        assert!(!named("favourite_team").unwrap().active, "one attribute for one property");
        assert!(named("$city").unwrap().remark.as_deref().unwrap().contains("geoip"));
        assert!(named("EXT_ID").is_none(), "a name that Brevo keeps for itself is not proposed");
        assert_eq!(proposal.consent.as_deref(), Some("marketing_ok"));
        assert!(proposal.events.iter().all(|pair| !pair.from.starts_with('$')));
    }
}
