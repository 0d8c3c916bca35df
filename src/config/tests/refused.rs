use proptest::prelude::*;

use super::super::*;
use crate::mapping::CompiledMapping;

use super::{COMPLETE, PUBLISHED, environment, error, errors};

#[test]
fn an_unknown_key_names_its_place_and_the_nearest_known_key() {
    assert_eq!(
        error("event_mapping: {}\nconnectors:\n  mixpanel:\n    data_residence: US\n"),
        "mixrelay.yaml:4: connectors.mixpanel.data_residence: unknown key; did you mean `data_residency`?"
    );
    assert_eq!(error("evnt_mapping: {}"), "mixrelay.yaml:1: evnt_mapping: unknown key; did you mean `event_mapping`?");
    assert_eq!(
        error("cohorts:\n  - { id: 1, list: 3, shedule: daily }\n"),
        "mixrelay.yaml:2: cohorts[0].shedule: unknown key; did you mean `schedule`?"
    );
}

#[test]
fn a_known_key_at_the_wrong_place_is_told_where_it_belongs() {
    assert_eq!(
        error("project_token: abc"),
        "mixrelay.yaml:1: project_token: unknown key; did you mean `connectors.mixpanel.project_token`?"
    );
    let said = error("connectors: { brevo: { zzzzzzzzzzzz: 1 } }");
    assert!(said.contains("the known keys here are ") && said.contains("api_key"), "{said}");
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_lines() {
    let said = errors(
        "server:\n  listen: nonsense\nstale_after: 72\nstore: mysql:x\nconnectors:\n  mixpanel:\n    data_residency: UK\n",
    )
    .to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "mixrelay.yaml:2: server.listen: \"nonsense\" is not an address to listen on; write 0.0.0.0:8080, 127.0.0.1:8080 or :8080",
            "mixrelay.yaml:3: stale_after: \"72\" has no unit; write a number with its unit, such as 250ms, 90s, 15m, 72h or 30d",
            "mixrelay.yaml:4: store: \"mysql:x\" names no store; write sqlite:PATH, such as sqlite:data/mixrelay.db",
            "mixrelay.yaml:7: connectors.mixpanel.data_residency: \"UK\" is not known here; write US, EU or IN",
        ]
    );
}

#[test]
fn a_missing_variable_is_named_once_with_its_key() {
    assert_eq!(
        error("connectors:\n  brevo:\n    api_key: \"${NOWHERE}\"\n"),
        "mixrelay.yaml:3: connectors.brevo.api_key: the environment variable NOWHERE is not set; set it, or write the value here"
    );
    let said = error("lists: { all_users: '${1X}' }");
    assert!(said.contains("lists.all_users: `${` begins a reference that is not one"), "{said}");
    let both = errors("auth: { api_keys: ['${NOPE}-${NADA}'] }").to_string();
    assert!(both.contains("auth.api_keys[0]") && both.contains("NOPE") && both.contains("NADA"), "{both}");
}

#[test]
fn what_must_be_there_is_asked_for() {
    let nothing = |_: &str| None;
    let said = parse("", "mixrelay.yaml", &nothing).unwrap_err().to_string();
    assert_eq!(
        said,
        "mixrelay.yaml: connectors.mixpanel.project_token: is missing; write the project's token, or set MIXPANEL_TOKEN"
    );
    let text =
        "connectors: { mixpanel: { project_token: t, service_account: { username: u } }, brevo: { mode: live } }";
    let said = parse(text, "mixrelay.yaml", &nothing).unwrap_err().to_string();
    assert!(said.contains("service_account.secret: is missing; write the service account's secret"), "{said}");
    assert!(said.contains("connectors.brevo.api_key: is missing"), "{said}");
    let text = "connectors: { mixpanel: { project_token: t, service_account: { username: u, secret: s } } }";
    let said = parse(text, "mixrelay.yaml", &nothing).unwrap_err().to_string();
    assert!(said.contains("project_id: is missing"), "{said}");
}

#[test]
fn an_empty_variable_is_not_a_secret() {
    let env = |name: &str| if name == "MIXRELAY_ADMIN_TOKEN" { Some(String::new()) } else { environment(name) };
    let said = parse("auth: { admin_token: '${MIXRELAY_ADMIN_TOKEN}' }", "mixrelay.yaml", &env).unwrap_err();
    assert!(said.to_string().contains("auth.admin_token: is empty"), "{said}");
}

#[test]
fn names_that_brevo_would_refuse_come_with_a_proposal() {
    assert_eq!(
        error("event_mapping:\n  Purchase: \"order completed!\"\n"),
        "mixrelay.yaml:2: event_mapping.Purchase: \"order completed!\" is not a name that Brevo takes; write order_completed"
    );
    assert!(error("property_mapping: { plan: 'Plan Type' }").ends_with("write PLAN_TYPE"));
    assert!(error("property_mapping: { plan: '€' }").ends_with("write 1 to 50 letters, digits, _ and -"));
    assert!(error("property_mapping: { id: ext_id }").contains("fills itself"));
}

#[test]
fn rules_name_what_is_wrong_and_what_to_write() {
    let event = |rule: &str| error(&format!("event_mapping:\n  A: {rule}\n"));
    for (rule, said) in [
        ("{ name: a, nme: a }", "event_mapping.A.nme: unknown key; did you mean `name`?"),
        ("{ when: {} }", "event_mapping.A.name: is missing; write the event's name at Brevo"),
        ("{ name: a, when: { x: { abov: 1 } } }", "event_mapping.A.when.x.abov: unknown key; did you mean `above`?"),
        ("{ name: a, when: { x: { above: ten } } }", "\"ten\" is not a number; write a number such as 10 or 9.5"),
        ("{ name: a, rename: { x: 'a b' } }", "is not a name that Brevo takes; write a_b"),
        ("{ name: a, rename: { x: z, y: z } }", "is the new name of another property too; write another name"),
        (
            "{ name: a, constants: { 'a b': 1 } }",
            "event_mapping.A.constants.a b: is not a name that Brevo takes; write",
        ),
        ("{ name: a, rename: { x: z }, constants: { z: 1 } }", "constants.z: is the new name of a property too"),
        ("{ name: a, stale_after: 5 }", "event_mapping.A.stale_after: \"5\" has no unit"),
        ("{ name: a, add_to_lists: nobody }", "is not one of `lists`; write a list's id at Brevo"),
        ("{ name: a, add_to_lists: [7], remove_from_lists: 7 }", "\"7\" is one of add_to_lists too; write it in one"),
        ("[a]", "event_mapping.A: is a list; write a single value"),
    ] {
        let got = event(rule);
        assert!(got.contains(said), "{rule}: {got}");
    }
    let everybody = error("lists: { all_users: 15 }\nevent_mapping: { A: { name: a, remove_from_lists: all_users } }");
    assert!(everybody.contains("is the list that everybody joins with every write; write another list"), "{everybody}");
    let property = |rule: &str| error(&format!("property_mapping:\n  a: {rule}\n"));
    for (rule, said) in [
        ("{ type: date }", "property_mapping.a.attribute: is missing; write the attribute's name at Brevo"),
        ("{ attribute: A, typ: date }", "property_mapping.a.typ: unknown key; did you mean `type`?"),
        ("{ attribute: A, type: number }", "is not known here; write text, date, float or boolean"),
        ("{ attribute: A, type: category }", "has options that only Brevo knows"),
        ("{ attribute: A, format: '%d' }", "write DD/MM/YYYY, MM/DD/YYYY, YYYY.MM.DD, 1,234.56"),
        ("{ attribute: A, type: float, format: DD/MM/YYYY }", "and the type is another; write type: date"),
        ("{ attribute: email, type: text }", "property_mapping.a.type: \"text\" says nothing about an identifier"),
    ] {
        let got = property(rule);
        assert!(got.contains(said), "{rule}: {got}");
    }
    let two = error("property_mapping:\n  a: { attribute: X, type: text }\n  b: x\n");
    assert!(two.contains("property_mapping.b: the attribute X has another type or format at a;"), "{two}");
    let test = |test: &str| errors(&format!("mapping_tests:\n  - {test}\n")).to_string();
    assert!(test("{ name: n, given: { event: A } }").contains("mapping_tests[0].expect: is missing"));
    assert!(
        test("{ name: n, given: A, expect: { event: a } }").contains("mapping_tests[0].given: \"A\" is not a record")
    );
    assert!(test("{ name: n, given: { event: A }, expect: { skiped: stale } }").contains("did you mean `skipped`?"));
    assert!(test("{ name: n, given: { event: A }, expect: { skipped: old } }").contains("stale"));
}

#[test]
fn the_answer_to_the_consent_rule_cannot_be_hidden() {
    for hidden in ["drop: [ok]", "hash: [ok]", "only: [plan]"] {
        let said = error(&format!("privacy: {{ hash_key: k, brevo: {{ {hidden} }}, consent: {{ property: ok }} }}"));
        assert!(said.contains("privacy.consent.property: is kept from the part that has to read it"), "{said}");
    }
}

#[test]
fn shapes_are_checked() {
    for (text, said) in [
        ("connectors: []", "connectors: is a list; write a block of keys"),
        ("store: { a: 1 }", "store: is a block of keys; write a single value"),
        ("auth: { api_keys: one }", "auth.api_keys: is a single value; write a list, [..]"),
        ("event_mapping: [a]", "event_mapping: is a list; write a block of `name: value`"),
        ("event_mapping: { a: }", "event_mapping.a: is empty; write a single value"),
        ("[1, 2]", "is a list; write a block of keys"),
        ("just text", "is a single value; write a block of keys"),
        ("server: { listen: ':1' }\nserver: {}", "mixrelay.yaml:2: server: written twice, first on line 1; keep one"),
        ("a: b\n c: d", "mixrelay.yaml:2: this is not valid YAML"),
    ] {
        let got = error(text);
        assert!(got.contains(said), "{text:?} gave {got:?}");
    }
}

#[test]
fn values_that_are_not_what_they_should_be() {
    for (text, said) in [
        ("allow_volatile_store: yes", "is neither true nor false"),
        ("lists: { all_users: 0 }", "is not a whole number above zero"),
        ("lists: { all_users: fifteen }", "is not a whole number above zero"),
        ("stale_after: soon", "is not a duration"),
        ("stale_after: 2mo", "months or years"),
        ("stale_after: -1h", "is negative"),
        ("stale_after: 0s", "no time at all"),
        ("sync_profiles_every: 1s", "is too often"),
        ("store_min_free: 1 parsec", "is not a size"),
        ("max_removal_share: 1.5", "is not a share"),
        ("max_removal_share: NaN", "is not a share"),
        ("server: { listen: '8080' }", "is not an address"),
        ("server: { trusted_proxies: [example.com] }", "is not a network"),
        ("server: { cors_origins: ['*', 'https://a.example'] }", "already stands for every origin"),
        ("server: { cors_origins: ['https://a.example/path'] }", "is not an origin"),
        ("server: { path_prefix: / }", "is not a path"),
        ("server: { path_prefix: /track }", "is a path of the relay itself"),
        ("connectors: { brevo: { base_url: 'http://api.brevo.com/v3' } }", "in the clear"),
        ("connectors: { brevo: { base_url: 'https://api.brevo.com' } }", "write https://api.brevo.com/v3"),
        ("connectors: { mixpanel: { endpoints: { app: 'ftp://x' } } }", "neither https nor http"),
        ("connectors: { mixpanel: { endpoints: { app: 'https://x/?a=b' } } }", "a query or a fragment"),
        ("connectors: { brevo: { pilot_emails: ['*'] } }", "is not an address"),
        ("other_tokens: forward", "a block `forward: [token, ...]`"),
        ("store: nats://host:4222/mixrelay", "a store that this version does not have"),
        ("store: 'sqlite:'", "names no file"),
        ("privacy: { consent: sometimes }", "write none"),
        ("privacy: { brevo: { hash: [a] } }", "privacy.hash_key: is missing"),
        ("cohorts: [{ id: 1, list: nobody }]", "is not one of `lists`"),
        ("datasets: [{ jql: a.js, list: 3 }]", "datasets[0].name: is missing"),
        ("datasets: [{ name: a, list: 3 }]", "datasets[0].jql: is missing"),
        ("datasets: [{ name: a, jql: a.js }]", "datasets[0].attributes: is missing"),
        ("datasets: [{ name: a, jql: a.js, insights: 7, list: 3 }]", "stands beside `jql`"),
        ("datasets: [{ name: runs, jql: a.js, list: 3 }]", "is a path of the relay itself"),
        ("datasets: [{ name: 'a b', jql: a.js, list: 3 }]", "is not a name for a data set"),
        (
            "datasets: [{ name: a, jql: a.js, list: 3 }, { name: a, jql: b.js, list: 4 }]",
            "the name of another of `datasets`",
        ),
        ("enrich: [{ property: p, table: t, columns: { a: b } }]", "is not one of `lookup_tables`"),
        ("lookup_tables: { a: { id: x }, b: { id: x } }", "is the id of another of `lookup_tables`"),
        ("lists: { a: 1 }\nconnectors: { mixpanel: { lists: { a: 2 } } }", "the other `lists` block"),
        ("auth: { tokens: [{ name: x, role: king, token: t }] }", "write viewer, operator or admin"),
        ("webhooks: { brevo: {} }", "webhooks.brevo.token: is missing"),
    ] {
        let got = error(text);
        assert!(got.contains(said), "{text:?} gave {got:?}");
    }
}

#[test]
fn no_prefix_can_hide_a_route() {
    for route in crate::edge::routes::ROUTES {
        let first = route.path.trim_start_matches('/').split('/').next().unwrap();
        assert!(first.is_empty() || values::RESERVED_PATHS.contains(&first), "{first} is not reserved");
    }
}

#[test]
fn no_message_repeats_a_secret() {
    let hidden = "sup3rs3cr3t value";
    for text in [
        format!("connectors: {{ brevo: {{ api_key: '{hidden}' }} }}"),
        format!("connectors: {{ mixpanel: {{ service_account: {{ username: u, secret: '{hidden}' }} }} }}"),
        format!("connectors: {{ mixpanel: {{ service_account: '{hidden}' }} }}"),
        format!("connectors: {{ mixpanel: {{ endpoints: {{ app: 'https://u:{hidden}@h' }} }} }}"),
        format!("auth: {{ admin_token: '{hidden}' }}"),
        format!("auth: {{ admin_tokn: '{hidden}' }}"),
        format!("auth: {{ signing_secrets: ['{hidden}', 'whsec_{hidden}'] }}"),
        format!("auth: {{ api_keys: '{hidden}' }}"),
        format!("store: 'nats://u:{hidden}@host/x'"),
        format!("auth: {{ admin_token: '{hidden}\n"),
    ] {
        let said = errors(&text).to_string();
        assert!(!said.contains("sup3rs3cr3t"), "{said}");
    }
}

#[test]
fn no_message_repeats_what_the_environment_held() {
    for text in [
        "stale_after: '${KEY}'",
        "event_mapping: { Purchase: 'x ${KEY}' }",
        "store: '${KEY}'",
        "lists: { all_users: '${KEY}' }",
        "server: { listen: '${KEY}', cors_origins: ['${KEY}'] }",
    ] {
        let said = errors(text).to_string();
        assert!(!said.contains("keyfromenv"), "{said}");
    }
}

#[test]
fn a_bad_variable_is_named_without_its_value() {
    let env = |name: &str| if name == "BREVO_API_KEY" { Some("two words".to_owned()) } else { environment(name) };
    let said = parse("", "mixrelay.yaml", &env).unwrap_err().to_string();
    assert!(said.contains("connectors.brevo.api_key (from BREVO_API_KEY)") && !said.contains("two words"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let said = load(std::path::Path::new("no/such/mixrelay.yaml"), &environment).unwrap_err().to_string();
    assert!(said.starts_with("no/such/mixrelay.yaml: cannot be read: ") && said.contains("--config"), "{said}");
}

/// Texts that look like configuration: published lines, shuffled and damaged.
fn nearly_configuration() -> impl Strategy<Value = String> {
    let lines: Vec<String> = PUBLISHED.lines().chain(COMPLETE.lines()).map(str::to_owned).collect();
    let line = (proptest::sample::select(lines), any::<prop::sample::Index>(), "[\\[\\]{}:&*!|>'\"$ ~\\-#a\n]?")
        .prop_map(|(mut line, at, junk)| {
            let at = at.index(line.len() + 1);
            if line.is_char_boundary(at) {
                line.insert_str(at, &junk);
            }
            line
        });
    proptest::collection::vec(line, 0..30).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,200}") {
        if let Err(errors) = parse(&text, "x", &environment) {
            prop_assert!(errors.to_string().starts_with("x:"));
        }
    }

    #[test]
    fn reading_damaged_files_never_panics_and_always_says_why(text in nearly_configuration()) {
        match parse(&text, "x", &environment) {
            // What is loaded, the mapping can use.
            Ok(Loaded { config, .. }) => {
                prop_assert!(CompiledMapping::compile(&config.mapping, config.mixpanel.sync).is_ok());
            }
            Err(errors) => {
                prop_assert!(!errors.problems.is_empty());
                prop_assert!(!errors.to_string().contains("fromenv"));
            }
        }
    }
}
