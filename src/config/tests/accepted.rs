use std::path::PathBuf;
use std::time::Duration;

use super::super::*;
use super::{COMPLETE, PUBLISHED, environment, loaded};

/// The top-level block of `text` that begins with `key:`.
fn block(text: &str, key: &str) -> String {
    let start = format!("{key}:");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let mut out: Vec<&str> = lines.next().into_iter().collect();
    out.extend(lines.take_while(|line| line.starts_with([' ', '#'])));
    assert!(!out.is_empty(), "no block {key}");
    out.join("\n")
}

fn abouts(loaded: &Loaded) -> Vec<(&str, &About)> {
    loaded.notices.iter().map(|notice| (notice.key.as_str(), &notice.about)).collect()
}

#[test]
fn the_published_file_works_verbatim() {
    let Loaded { config, .. } = loaded(PUBLISHED);
    assert!(config.mixpanel.enabled);
    assert_eq!(config.mixpanel.residency, Residency::Us);
    assert_eq!(config.mixpanel.identity, IdentityMode::Simplified);
    assert_eq!(config.mixpanel.project_id.as_deref(), Some("12345"));
    assert_eq!(config.mixpanel.sync, Sync { events: true, profiles: true, cohorts: true, groups: false });
    assert_eq!(config.mapping.lists["at_risk"], 17);
    assert_eq!(config.mapping.events["Sign Up"], "customer_created".into());
    assert_eq!(config.mapping.properties["$email"], "email");
    assert_eq!(config.mapping.properties["total_revenue"], "LTV");
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.server.cors_origins, CorsOrigins::Any);
    assert_eq!(config.store.engine, StoreEngine::Sqlite(PathBuf::from("data/mixrelay.db")));
    assert_eq!(config.auth.admin_token.unwrap().expose(), "adminfromenv");
    let brevo = config.brevo.unwrap();
    assert_eq!(brevo.api_key.expose(), "xkeysib-fromenv");
    assert_eq!(brevo.base_url.as_str(), "https://api.brevo.com/v3");
    assert_eq!(brevo.mode, BrevoMode::Live);
}

#[test]
fn the_environment_wins_over_the_documentations_placeholders() {
    let loaded = loaded(PUBLISHED);
    assert_eq!(loaded.config.mixpanel.project_tokens, ["tokenfromenv"]);
    assert_eq!(loaded.config.mixpanel.service_account.as_ref().unwrap().username, "userfromenv");
    let told = abouts(&loaded);
    let used = |variable| About::Placeholder { variable: Some(variable) };
    assert!(told.contains(&("connectors.mixpanel.project_token", &used("MIXPANEL_TOKEN"))));
    assert!(told.contains(&("connectors.mixpanel.service_account.username", &used("MIXPANEL_SA_USER"))));
}

#[test]
fn a_placeholder_with_nothing_to_replace_it_stands_and_is_told() {
    let only = |name: &str| environment(name).filter(|_| !matches!(name, "MIXPANEL_TOKEN" | "MIXPANEL_SA_USER"));
    let loaded = parse(PUBLISHED, "mixrelay.yaml", &only).unwrap();
    assert_eq!(loaded.config.mixpanel.project_tokens, ["your-project-token"]);
    assert_eq!(loaded.config.mixpanel.service_account.as_ref().unwrap().username, "...");
    let placeholders: Vec<_> =
        loaded.notices.iter().filter(|n| n.about == About::Placeholder { variable: None }).collect();
    assert_eq!(placeholders.len(), 2);
    assert!(placeholders.iter().all(|notice| notice.weight() == Weight::Warning));
    assert_eq!(placeholders[0].line, Some(4));
}

#[test]
fn every_published_block_works_alone() {
    for key in ["connectors", "event_mapping", "property_mapping", "server", "store", "auth"] {
        let Loaded { config, .. } = loaded(&block(PUBLISHED, key));
        assert_eq!(config.mixpanel.project_tokens, ["tokenfromenv"], "{key}");
        let account = config.mixpanel.service_account.unwrap();
        assert_eq!((account.username.as_str(), account.secret.expose()), ("userfromenv", "secretfromenv"), "{key}");
        assert_eq!(config.brevo.unwrap().api_key.expose(), "xkeysib-fromenv", "{key}");
    }
    let Loaded { config, .. } = loaded("");
    assert_eq!(config.mixpanel.project_id.as_deref(), Some("777"));
    assert_eq!(config.mapping.stale_after, Duration::from_secs(72 * 3600));
}

#[test]
fn lists_and_sync_may_stand_beside_event_mapping() {
    let text = "lists: { all_users: 15 }\nsync: { groups: true, events: false }\nevent_mapping:\n  Purchase: bought\n";
    let loaded = loaded(text);
    assert_eq!(loaded.config.mapping.lists["all_users"], 15);
    assert!(loaded.config.mixpanel.sync.groups && !loaded.config.mixpanel.sync.events);
    assert!(loaded.config.mixpanel.sync.profiles);
    assert!(!abouts(&loaded).iter().any(|(key, _)| *key == "sync.groups"));
}

#[test]
fn the_complete_file_loads_into_the_model() {
    let Loaded { config, .. } = loaded(COMPLETE);
    assert_eq!(config.brevo.as_ref().unwrap().pilot_emails, ["*@example.com"]);
    assert_eq!(config.mapping.groups["company_id"].properties["industry"], "industry");
    assert_eq!(config.enrichment.lookup_tables["products"].file, Some(PathBuf::from("products.csv")));
    assert_eq!(config.enrichment.columns[0].columns["category"], "product_category");
    assert_eq!(config.enrichment.geoip, Some(PathBuf::from("city.mmdb")));
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(config.cohorts.cohorts, [CohortSync { id: 12345, list: 16, mode: SyncMode::Mirror, every: day }]);
    assert_eq!(config.cohorts.datasets[0].list, Some(17));
    assert_eq!(config.cohorts.datasets[0].attributes["days"], "DAYS_AWAY");
    assert!((config.cohorts.max_removal_share - 0.3).abs() < f64::EPSILON);
    assert_eq!(config.privacy.hash_key.unwrap().expose(), "keyfromenv");
    assert_eq!(config.privacy.consent, Consent::Required { property: "marketing_ok".into(), value: true.into() });
    assert_eq!(config.retention.dead_letters, day * 30);
    assert_eq!(config.retention.history_bytes, 2 << 30);
    assert_eq!(config.retention.tombstones, day * 400);
    assert_eq!(config.sync_profiles_every, Some(Duration::from_secs(3600)));
    assert_eq!(config.webhooks.mixpanel.unwrap().password.expose(), "p");
    assert_eq!(config.webhooks.brevo.unwrap().expose(), "t");
    assert_eq!(config.parking.max_age, day * 7);
    assert_eq!(config.store.min_free, Some(1 << 30));
    assert_eq!(config.server.path_prefix.as_deref(), Some("/m"));
    assert_eq!(config.server.admin_listen.unwrap().to_string(), "127.0.0.1:9090");
    assert_eq!(config.server.tls.unwrap().cert, PathBuf::from("c.pem"));
    assert_eq!(config.auth.tokens[0].role, Role::Viewer);
    assert_eq!(config.auth.api_keys[0].expose(), "keyfromenv");
    assert_eq!(config.mixpanel.oauth_token.unwrap().expose(), "oauthfromenv");
}

#[test]
fn a_list_without_a_cohort_is_named_with_the_block_to_add() {
    let loaded = loaded(PUBLISHED);
    let about = |list: &str| About::ListWithoutCohort { list: list.to_owned() };
    let notice = loaded.notices.iter().find(|notice| notice.about == about("at_risk")).unwrap();
    assert_eq!(notice.to_string(), "lists: list at_risk has no cohort, so nothing fills it");
    let added = format!("{PUBLISHED}{}\n", notice.addition().unwrap());
    let after = super::loaded(&added);
    assert!(after.notices.iter().all(|notice| notice.about != about("at_risk")));
    assert!(after.notices.iter().any(|notice| notice.about == about("engaged_users")));
    assert!(after.notices.iter().all(|notice| notice.about != about("all_users")));
}

#[test]
fn the_consent_notice_ends_with_either_choice() {
    let consent = |text: &str| loaded(text).notices.into_iter().find(|notice| notice.about == About::ConsentNotChosen);
    let notice = consent("").unwrap();
    assert!(consent(&notice.addition().unwrap().to_string()).is_none());
    assert!(consent("privacy: { consent: none }").is_none());
}

#[test]
fn mapped_properties_that_nothing_fills_are_told() {
    let loaded = loaded("property_mapping: { $city: CITY, $email: E-Mail, email: e-mail, phone: sms }");
    assert!(abouts(&loaded).contains(&("property_mapping.$city", &About::NothingFills)));
    let filled = self::loaded("property_mapping: { $city: CITY }\ngeoip: city.mmdb");
    assert!(!abouts(&filled).contains(&("property_mapping.$city", &About::NothingFills)));
    assert_eq!(loaded.config.mapping.properties["phone"], "SMS");
}

#[test]
fn hosts_follow_the_region_and_endpoints_replace_them() {
    let text = "connectors: { mixpanel: { data_residency: EU, endpoints: { query: 'http://127.0.0.1:9/x/' } } }";
    let endpoints = loaded(text).config.mixpanel.endpoints;
    assert_eq!(endpoints.ingestion.as_str(), "https://api-eu.mixpanel.com/");
    assert_eq!(endpoints.app.as_str(), "https://eu.mixpanel.com/");
    assert_eq!(endpoints.export.as_str(), "https://data-eu.mixpanel.com/");
    assert_eq!(endpoints.cdn.as_str(), "https://cdn.mxpnl.com/");
    assert_eq!(endpoints.query.as_str(), "http://127.0.0.1:9/x");
    for residency in [Residency::Us, Residency::In] {
        assert!(MixpanelEndpoints::of(residency).ingestion.host_str().unwrap().ends_with(".mixpanel.com"));
    }
}

#[test]
fn several_tokens_and_tokens_of_other_projects() {
    let text = "connectors: { mixpanel: { project_token: [new, old] } }\nother_tokens: { forward: [theirs, 12e4] }";
    let mixpanel = loaded(text).config.mixpanel;
    assert_eq!(mixpanel.project_tokens, ["new", "old"]);
    assert_eq!(mixpanel.forward_tokens, ["theirs", "12e4"]);
}

#[test]
fn values_in_all_their_forms() {
    let text = "
server:
  listen: ':9000'
  trusted_proxies: [10.1.2.3/8, 192.168.0.1, '2001:db8::/32']
  cors_origins: [https://WWW.Example.com, 'http://localhost:3000/']
  path_prefix: m/
stale_after: 1h30m
max_removal_share: 25%
store_min_free: 64MiB
dedup_window: 250ms
connectors: { brevo: { mode: pilot, pilot_emails: [Ann@Example.COM], create_attributes: false } }
auth: { signing_secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw] }
privacy: { consent: { property: ok, value: '1' } }
";
    let Loaded { config, .. } = loaded(text);
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:9000");
    let proxies: Vec<String> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "192.168.0.1/32", "2001:db8::/32"]);
    let origins = vec!["https://www.example.com".to_owned(), "http://localhost:3000".to_owned()];
    assert_eq!(config.server.cors_origins, CorsOrigins::Only(origins));
    assert_eq!(config.server.path_prefix.as_deref(), Some("/m"));
    assert_eq!(config.mapping.stale_after, Duration::from_secs(5400));
    assert!((config.cohorts.max_removal_share - 0.25).abs() < f64::EPSILON);
    assert_eq!(config.store.min_free, Some(64 << 20));
    assert_eq!(config.dedup_window, Duration::from_millis(250));
    assert_eq!(config.brevo.unwrap().pilot_emails, ["ann@example.com"]);
    assert_eq!(config.auth.signing_secrets[0].0.len(), 24);
    assert_eq!(config.privacy.consent, Consent::Required { property: "ok".into(), value: "1".into() });
}

#[test]
fn an_empty_key_is_as_good_as_none() {
    let Loaded { config, .. } = loaded("lists:\nevent_mapping: ~\nconnectors:\n  mixpanel:\n  brevo:\n");
    assert!(config.mapping.events.is_empty());
    assert!(config.brevo.is_some(), "BREVO_API_KEY is in the environment");
}

#[test]
fn without_any_brevo_key_there_is_no_brevo() {
    let only_token = |name: &str| (name == "MIXPANEL_TOKEN").then(|| "t".to_owned());
    let loaded = parse("", "mixrelay.yaml", &only_token).unwrap();
    assert!(loaded.config.brevo.is_none() && loaded.config.mixpanel.service_account.is_none());
    assert!(loaded.notices.iter().any(|notice| notice.about == About::NoBrevo));
}

#[test]
fn references_are_replaced_once_and_dollars_stay() {
    let env = |name: &str| match name {
        "MIXPANEL_TOKEN" => Some("t".to_owned()),
        "A" => Some("${B}".to_owned()),
        "PORT" => Some("81".to_owned()),
        _ => None,
    };
    let text = "server: { listen: ':${PORT}' }\nproperty_mapping: { $email: email }\n\
                group_mapping: { $c: { name: $$n$ } }\nprivacy: { hash_key: 'x${A}y' }\n";
    let Loaded { config, .. } = parse(text, "mixrelay.yaml", &env).unwrap();
    assert_eq!(config.privacy.hash_key.unwrap().expose(), "x${B}y");
    assert_eq!(config.mapping.groups["$c"].name, "$$n$");
    assert_eq!(config.server.listen.port(), 81);
}

#[test]
fn secrets_are_in_no_debug_output() {
    let mut text = COMPLETE.to_owned();
    text.push_str("  admin_token: adminliteral\n  signing_secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]\n");
    let loaded = loaded(&text);
    let shown = format!("{loaded:?}");
    for secret in
        ["xkeysib-fromenv", "secretfromenv", "oauthfromenv", "keyfromenv", "tfromenv", "adminliteral", "49, 242"]
    {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

#[test]
fn check_says_what_a_privacy_rule_breaks() {
    let text = "connectors: { mixpanel: { project_token: t } }\nprivacy:\n  hash_key: k\n  \
                mixpanel: { drop: [card, time], hash: [$insert_id], only: [token] }\n  brevo: { hash: [$email] }\n";
    let broken: Vec<_> =
        loaded(text).notices.into_iter().filter(|n| matches!(n.about, About::RuleBreaks { .. })).collect();
    let keys: Vec<&str> = broken.iter().map(|notice| notice.key.as_str()).collect();
    assert_eq!(keys, ["privacy.mixpanel.drop[1]", "privacy.mixpanel.hash[0]", "privacy.brevo.hash[0]"]);
}
