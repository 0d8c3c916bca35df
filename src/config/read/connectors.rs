//! `connectors`, and what may stand beside it: `sync`, `lists`, `other_tokens`.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::config::error::Bad;
use crate::config::model::{
    Brevo, BrevoMode, Cohorts, IdentityMode, Mapping, Mixpanel, MixpanelEndpoints, Residency, ServiceAccount, Sync,
};
use crate::config::notice::About;
use crate::config::reader::{Report, Section};
use crate::config::values;

/// A problem that is on record already.
pub(super) struct Recorded;

pub(super) fn mixpanel(mut block: Section<'_>, root: &mut Section<'_>) -> Option<Mixpanel> {
    let enabled = block.scalar("enabled", values::boolean).unwrap_or(true);
    let project_tokens = project_tokens(&mut block);
    let service_account = service_account(block.section("service_account"));
    let oauth_token = block.hidden("oauth_token", values::secret);
    let oauth_pass_through = block.scalar("oauth_pass_through", values::boolean).unwrap_or(false);
    let project_id = block.scalar_or_variable("project_id", "MIXPANEL_PROJECT_ID", values::word);
    if (service_account.is_some() || oauth_token.is_some() || oauth_pass_through) && project_id.is_none() {
        block.missing("project_id", "the project's number, which /import needs, or set MIXPANEL_PROJECT_ID");
    }
    let residency = values::choice(&[("US", Residency::Us), ("EU", Residency::Eu), ("IN", Residency::In)]);
    let residency = block.scalar("data_residency", residency).unwrap_or(Residency::Us);
    let timezone = block.scalar("timezone", values::timezone).unwrap_or(TimeZone::UTC);
    let identity = [("simplified", IdentityMode::Simplified), ("original", IdentityMode::Original)];
    let identity = block.scalar("identity", values::choice(&identity)).unwrap_or(IdentityMode::Simplified);
    let sync = sync(block.section("sync"), root.section("sync"));
    let endpoints = endpoints(residency, block.section("endpoints"));
    block.finish();
    let forward_tokens = other_tokens(root);
    Some(Mixpanel {
        enabled,
        project_tokens: project_tokens?,
        service_account,
        oauth_token,
        oauth_pass_through,
        project_id,
        residency,
        timezone,
        identity,
        sync,
        endpoints,
        forward_tokens,
    })
}

/// One token or a list of them. `None`: there is none, which is on record.
fn project_tokens(block: &mut Section<'_>) -> Option<Vec<String>> {
    const WRITE: &str = "the project's token, or set MIXPANEL_TOKEN";
    if !block.holds_list("project_token") {
        let token = block.scalar_or_variable("project_token", "MIXPANEL_TOKEN", values::word);
        if token.is_none() {
            block.missing("project_token", WRITE);
        }
        return token.map(|token| vec![token]);
    }
    let tokens = block.list("project_token", |item| {
        item.warn_of_placeholder();
        item.hidden(values::word)
    });
    if tokens.is_empty() {
        block.missing("project_token", WRITE);
        return None;
    }
    Some(tokens)
}

fn service_account(mut block: Section<'_>) -> Option<ServiceAccount> {
    let username = block.scalar_or_variable("username", "MIXPANEL_SA_USER", values::word);
    let secret = block.scalar_or_variable("secret", "MIXPANEL_SA_SECRET", values::secret);
    let wanted = block.exists() || username.is_some() || secret.is_some();
    if wanted && username.is_none() {
        block.missing("username", "the service account's name, or set MIXPANEL_SA_USER");
    }
    if wanted && secret.is_none() {
        block.missing("secret", "the service account's secret, or set MIXPANEL_SA_SECRET");
    }
    block.finish();
    Some(ServiceAccount { username: username?, secret: secret? })
}

/// The block may stand at either place, or in parts at both.
fn sync(inner: Section<'_>, outer: Section<'_>) -> Sync {
    let mut sync = Sync::default();
    for mut block in [inner, outer] {
        for (key, value) in [
            ("events", &mut sync.events),
            ("profiles", &mut sync.profiles),
            ("cohorts", &mut sync.cohorts),
            ("groups", &mut sync.groups),
        ] {
            *value = block.scalar(key, values::boolean).unwrap_or(*value);
        }
        block.finish();
    }
    sync
}

/// The vendor's hosts (contract §1), each of which `endpoints` may replace.
fn endpoints(residency: Residency, mut block: Section<'_>) -> MixpanelEndpoints {
    let mut endpoints = MixpanelEndpoints::of(residency);
    for (key, endpoint) in [
        ("ingestion", &mut endpoints.ingestion),
        ("query", &mut endpoints.query),
        ("app", &mut endpoints.app),
        ("export", &mut endpoints.export),
        ("cdn", &mut endpoints.cdn),
    ] {
        if let Some(url) = block.scalar(key, values::base_url) {
            *endpoint = url;
        }
    }
    block.finish();
    endpoints
}

/// `reject`, or `forward: [token, ...]`.
fn other_tokens(root: &mut Section<'_>) -> Vec<String> {
    let Some(item) = root.take("other_tokens") else { return Vec::new() };
    if !item.is_block() {
        let bad = Bad::new("is not known here", "reject, or a block `forward: [token, ...]`");
        let reject = |text: &str| if text == "reject" { Ok(()) } else { Err(bad.clone()) };
        item.hidden(|scalar| reject(&scalar.text));
        return Vec::new();
    }
    let Some(mut block) = item.section() else { return Vec::new() };
    let tokens = block.list("forward", |item| item.hidden(values::word));
    block.finish();
    tokens
}

/// `connectors.mixpanel.lists` and `lists`, as one.
pub(super) fn lists(block: &mut Section<'_>, root: &mut Section<'_>) -> BTreeMap<String, u64> {
    let mut lists: BTreeMap<String, u64> = BTreeMap::new();
    for (name, item) in block.pairs("lists").into_iter().chain(root.pairs("lists")) {
        let Some(id) = item.scalar(values::positive) else { continue };
        match lists.get(&name) {
            Some(known) if *known != id => {
                item.bad(Bad::new(
                    "is not the id that the other `lists` block has for this list",
                    "it in one of the two",
                ));
            }
            _ => {
                lists.insert(name, id);
            }
        }
    }
    lists
}

/// Everybody goes to `all_users`; every other list needs something that fills it.
pub(super) fn warn_of_idle_lists(mapping: &Mapping, cohorts: &Cohorts, report: &Report<'_>) {
    let filled = |id: u64| {
        cohorts.cohorts.iter().any(|cohort| cohort.list == id)
            || cohorts.datasets.iter().any(|dataset| dataset.list == Some(id))
            || mapping.events.values().any(|rule| rule.lists.contains_key(&id))
    };
    for (list, id) in &mapping.lists {
        if list != "all_users" && !filled(*id) {
            report.notice("lists", None, About::ListWithoutCohort { list: list.clone() });
        }
    }
}

/// `Ok(None)`: there is no key anywhere, and no block that would need one.
pub(super) fn brevo(mut block: Section<'_>) -> Result<Option<Brevo>, Recorded> {
    let api_key = block.scalar_or_variable("api_key", "BREVO_API_KEY", values::secret);
    let base_url = block.scalar("base_url", values::brevo_url).unwrap_or_else(Brevo::default_base_url);
    let modes = [("observe", BrevoMode::Observe), ("pilot", BrevoMode::Pilot), ("live", BrevoMode::Live)];
    let mode = block.scalar("mode", values::choice(&modes)).unwrap_or(BrevoMode::Live);
    let pilot_emails = block.list("pilot_emails", |item| item.scalar(values::email_pattern));
    let create_attributes = block.scalar("create_attributes", values::boolean).unwrap_or(true);
    warn_of_pilot(&block, mode, &pilot_emails);
    let Some(api_key) = api_key else {
        if block.exists() {
            block.missing("api_key", "the account's API key, or set BREVO_API_KEY");
            block.finish();
            return Err(Recorded);
        }
        block.report().notice("connectors.brevo", None, About::NoBrevo);
        return Ok(None);
    };
    block.finish();
    Ok(Some(Brevo { api_key, base_url, mode, pilot_emails, create_attributes }))
}

fn warn_of_pilot(block: &Section<'_>, mode: BrevoMode, pilot_emails: &[String]) {
    let about = match (mode, pilot_emails.is_empty()) {
        (BrevoMode::Pilot, true) => About::PilotWithoutEmails,
        (BrevoMode::Live | BrevoMode::Observe, false) => About::EmailsWithoutPilot,
        _ => return,
    };
    block.report().notice(block.path("pilot_emails"), None, about);
}
