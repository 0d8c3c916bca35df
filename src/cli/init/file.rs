//! The file's text: pure. Everything that came from a vendor or a person is written as a JSON string, which YAML reads the
//! same, or as a comment without line breaks.

use serde_json::json;

use super::Arguments;
use super::ask::{Key, Keys};
use super::found::Found;
use super::propose::{Pair, Proposal};
use crate::clock::UnixMillis;
use crate::config::{IdentityMode, Residency};

/// Longest text of a vendor's in a comment.
const SHOWN: usize = 60;

pub(super) fn render(
    keys: &Keys,
    arguments: &Arguments,
    found: &Found,
    proposal: &Proposal,
    now: UnixMillis,
) -> String {
    let mut out = head(keys, now);
    out.push_str(&connectors(keys, arguments, found));
    out.push_str(
        "\n# Mixpanel event: its name at Brevo. An event that is not here is skipped, and counted.\nevent_mapping:",
    );
    out.push_str(&pairs(&proposal.events));
    out.push_str(
        "\n# Mixpanel profile property: Brevo attribute. What is not here stays at Mixpanel.\nproperty_mapping:",
    );
    out.push_str(&pairs(&proposal.properties));
    out.push_str(&lists(found, proposal));
    out.push_str(&privacy(proposal));
    out.push_str(REST);
    out
}

fn text(value: &str) -> String {
    json!(value).to_string()
}

/// On one line, and short.
fn comment(value: &str) -> String {
    let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn head(keys: &Keys, now: UnixMillis) -> String {
    let holds_keys = [&keys.account_secret, &keys.brevo].into_iter().flatten().any(|key| key.variable.is_none());
    let secrets = match holds_keys {
        true => {
            "# It holds keys, and only its owner can read it: keep it so, or write ${NAME} for a variable instead.\n"
        }
        false => "# Keys are taken from the environment.\n",
    };
    format!(
        "# Made by `mixrelay init` at {now}. Every setting is described in docs/configuration.md.\n{secrets}#\n\
         #   mixrelay check    what would fail, and what is left idle\n\
         #   mixrelay serve    then set the host of your Mixpanel SDKs to the relay\n#\n\
         # In observe mode everything reaches Mixpanel, and Brevo is sent nothing: the records it would get are counted as\n\
         # skipped, rule `observed`; the console says what live would cost. Then set connectors.brevo.mode to pilot, and to live.\n\n"
    )
}

fn key(key: &Key) -> String {
    match key.variable {
        Some(name) => text(&format!("${{{name}}}")),
        None => text(key.value.expose()),
    }
}

fn connectors(keys: &Keys, arguments: &Arguments, found: &Found) -> String {
    let mut out = String::from("connectors:\n  mixpanel:\n");
    out.push_str(&format!("    project_token: {}\n", text(&keys.token)));
    match (&keys.account, &keys.account_secret) {
        (Some(account), Some(secret)) => {
            let username = text(&account.username);
            out.push_str(&format!("    service_account: {{ username: {username}, secret: {} }}\n", key(secret)));
        }
        _ => out.push_str(
            "    # Without one, events go out through /track, which takes nothing older than 5 days.\n    \
             #service_account: { username: name, secret: \"${MIXPANEL_SA_SECRET}\" }\n",
        ),
    }
    match &found.project_id {
        Some(id) => out.push_str(&format!("    project_id: {}\n", text(id))),
        None => out.push_str("    #project_id: \"12345\"\n"),
    }
    let residency = found.residency.unwrap_or(Residency::Us).label();
    let told = if found.residency.is_some() { "" } else { "   # not found out: US, EU or IN" };
    out.push_str(&format!("    data_residency: {residency}{told}\n"));
    let identity = found.identity.unwrap_or(IdentityMode::Simplified).label();
    let told = match found.identity {
        Some(_) => "",
        None => "   # not found out: Project Settings, Identity Merge; simplified or original",
    };
    out.push_str(&format!("    identity: {identity}{told}\n"));
    if let Some(url) = &arguments.mixpanel_url {
        let url = text(url.as_str().trim_end_matches('/'));
        out.push_str("    endpoints:\n");
        for name in ["ingestion", "query", "app", "export", "cdn"] {
            out.push_str(&format!("      {name}: {url}\n"));
        }
    }
    match &keys.brevo {
        None => out.push_str("  # Nothing goes to Brevo without a key.\n  #brevo: { api_key: \"${BREVO_API_KEY}\" }\n"),
        Some(brevo) => {
            let company = found.brevo_company.as_deref().map(|name| format!("   # {}", comment(name)));
            out.push_str(&format!("  brevo:\n    api_key: {}{}\n", key(brevo), company.unwrap_or_default()));
            if let Some(url) = &arguments.brevo_url {
                out.push_str(&format!("    base_url: {}\n", text(url.as_str().trim_end_matches('/'))));
            }
            out.push_str(
                "    mode: observe   # pilot: only pilot_emails; live: everybody\n    \
                 #pilot_emails: [\"*@example.com\"]\n    create_attributes: true   # when live, make mapped attributes that are missing\n",
            );
        }
    }
    out
}

fn pairs(pairs: &[Pair]) -> String {
    let mut out = if pairs.iter().any(|pair| pair.active) { "\n".to_owned() } else { " {}\n".to_owned() };
    for pair in pairs {
        let mark = if pair.active { "  " } else { "  #" };
        let remark = pair.remark.as_deref().map(|remark| format!("   # {}", comment(remark))).unwrap_or_default();
        out.push_str(&format!("{mark}{}: {}{remark}\n", text(&pair.from), text(&pair.to)));
    }
    out
}

fn lists(found: &Found, proposal: &Proposal) -> String {
    let mut out =
        String::from("\n# Lists at Brevo. Everybody whom Brevo gets joins the one that is called all_users here.\n");
    out.push_str("#lists:\n");
    for (name, id, title) in &proposal.lists {
        out.push_str(&format!("#  {name}: {id}   # {}\n", comment(title)));
    }
    out.push_str("\n# Cohorts at Mixpanel, to be kept in lists: mirror makes the list the cohort, add only adds, remove only takes out.\n#cohorts:\n");
    for cohort in &found.cohorts {
        let (id, count, name) = (cohort.id, cohort.count, comment(&cohort.name));
        out.push_str(&format!(
            "#  - {{ id: {id}, list: 16, mode: mirror, schedule: daily }}   # {name}, {count} people\n"
        ));
    }
    out
}

fn privacy(proposal: &Proposal) -> String {
    let property = proposal.consent.as_deref().unwrap_or("marketing_ok");
    let seen = match proposal.consent {
        Some(_) => "such a property is in use",
        None => "or: consent: none",
    };
    format!(
        "\n# Whether Brevo gets only people who agreed. Until one is chosen everybody is sent who is mapped.\n#privacy:\n#  \
         consent: {{ property: {}, value: true }}   # {seen}\n",
        text(property)
    )
}

const REST: &str = "
# Where the relay listens, and where it keeps what is not delivered yet.
#server: { listen: \"0.0.0.0:8080\", admin_listen: \"127.0.0.1:9090\" }
#store: \"sqlite:data/mixrelay.db\"
# Without it an admin token is made at the first start, in a file beside the store.
#auth: { admin_token: \"${MIXRELAY_ADMIN_TOKEN}\" }
";

#[cfg(test)]
mod tests {
    use super::super::found::Cohort;
    use super::*;
    use crate::brevo::identifiers::ListId;
    use crate::brevo::wire::List;
    use crate::config::{BrevoMode, Secret, parse};

    #[test]
    fn what_is_written_loads_whatever_the_vendors_names_hold() {
        let nasty = "a \"quoted\": name #\n- ${HOME} [x";
        let keys = Keys {
            token: "t".to_owned(),
            account: None,
            account_secret: None,
            project_id: None,
            brevo: Some(Key { value: Secret::new("typed-in"), variable: None }),
        };
        let arguments = Arguments {
            residency: None,
            identity: None,
            project_id: None,
            mixpanel_url: Some("http://127.0.0.1:1".parse().unwrap()),
            brevo_url: Some("http://127.0.0.1:2/v3/".parse().unwrap()),
        };
        let mut found = Found {
            events: vec![nasty.to_owned(), "Purchase".to_owned()],
            cohorts: vec![Cohort { id: 1, name: nasty.to_owned(), count: 2 }],
            lists: vec![List { id: ListId(3), name: nasty.to_owned(), folder_id: None, unique_subscribers: 0 }],
            brevo_company: Some(nasty.to_owned()),
            ..Found::default()
        };
        found.properties.insert(nasty.to_owned(), Default::default());
        let proposal = super::super::propose::propose(&found);
        let text = render(&keys, &arguments, &found, &proposal, UnixMillis(1_700_000_000_000));
        let config = parse(&text, "x", &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{text}")).config;
        let brevo = config.brevo.unwrap();
        assert_eq!((brevo.mode, brevo.base_url.as_str()), (BrevoMode::Observe, "http://127.0.0.1:2/v3"));
        assert_eq!(config.mapping.events.keys().collect::<Vec<_>>(), ["Purchase"]);

        // With every proposal in use, it still loads: what is commented out is not broken either.
        let in_use = |line: &str| match line.trim_start().strip_prefix("#\"") {
            Some(rest) => format!("  \"{rest}"),
            None => line.to_owned(),
        };
        let all: String = text.lines().map(|line| in_use(line) + "\n").collect();
        let config = parse(&all, "x", &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{all}")).config;
        assert!(config.mapping.events.contains_key(nasty));
    }
}
