//! What is kept, for how long, and what is kept back: `privacy`, `retention`, `parking`, the deletion rules.

use crate::config::error::{Bad, Wrong};
use crate::config::model::{
    AlertWebhook, Alerts, Consent, Deletion, IpPolicy, OnConsentWithdrawn, OnGdprDeletion, OnProfileDelete, Parking,
    Privacy, PropertyPolicy, Retention, WhenFull,
};
use crate::config::notice::About;
use crate::config::reader::{Item, Report, Section};
use crate::config::values;

pub(super) fn privacy(mut block: Section<'_>, report: &Report<'_>) -> Privacy {
    let ip = [("keep", IpPolicy::Keep), ("truncate", IpPolicy::Truncate), ("drop", IpPolicy::Drop)];
    let withdrawn = [
        ("blocklist", OnConsentWithdrawn::Blocklist),
        ("remove_from_lists", OnConsentWithdrawn::RemoveFromLists),
        ("delete_contact", OnConsentWithdrawn::DeleteContact),
    ];
    let privacy = Privacy {
        ip: block.scalar("ip", values::choice(&ip)).unwrap_or_default(),
        hash_key: block.hidden("hash_key", values::passphrase),
        mixpanel: policy(block.section("mixpanel"), broken_at_mixpanel),
        brevo: policy(block.section("brevo"), broken_at_brevo),
        consent: consent(&mut block),
        on_consent_withdrawn: block.scalar("on_consent_withdrawn", values::choice(&withdrawn)).unwrap_or_default(),
    };
    let hashes = !privacy.mixpanel.hash.is_empty() || !privacy.brevo.hash.is_empty();
    if hashes && privacy.hash_key.is_none() {
        block.missing("hash_key", "a secret of your own, since `hash` needs it, such as \"${MIXRELAY_HASH_KEY}\"");
    }
    hidden_answer(&block, &privacy);
    if privacy.consent == Consent::Unchosen {
        report.notice("privacy.consent", None, About::ConsentNotChosen);
    }
    block.finish();
    privacy
}

/// The relay has to see the answer; Brevo is not sent it unless it is mapped.
fn hidden_answer(block: &Section<'_>, privacy: &Privacy) {
    let Consent::Required { property, .. } = &privacy.consent else { return };
    let PropertyPolicy { drop, hash, only } = &privacy.brevo;
    if drop.contains(property) || hash.contains(property) || !(only.is_empty() || only.contains(property)) {
        let write = "privacy.brevo so that it leaves this property as it is; Brevo gets it only where it is mapped";
        let bad = Bad::new("is kept from the part that has to read it", write);
        block.report().problem(block.path("consent.property"), None, Wrong::Value { shown: None, bad });
    }
}

/// `broken` says what the destination loses with a property.
fn policy(mut block: Section<'_>, broken: fn(&str, bool) -> Option<&'static str>) -> PropertyPolicy {
    let named = |hashed: bool| {
        move |item: Item<'_>| {
            let name = item.scalar(values::text)?;
            if let Some(what) = broken(&name, hashed) {
                item.notice(About::RuleBreaks { what });
            }
            Some(name)
        }
    };
    let drop = block.list("drop", named(false));
    let hash = block.list("hash", named(true));
    let only = block.list("only", |item| item.scalar(values::text));
    block.finish();
    PropertyPolicy { drop, hash, only }
}

fn broken_at_mixpanel(property: &str, hashed: bool) -> Option<&'static str> {
    Some(match (property, hashed) {
        ("token" | "$token", _) => "Mixpanel takes no record without the project's token",
        ("time", _) => "Mixpanel's import takes no event without its time",
        ("distinct_id" | "$distinct_id" | "$user_id" | "$device_id", true) => {
            "people go by their hashes at Mixpanel; hash distinct_id, $distinct_id, $user_id and $device_id alike, or \
             events and profiles of one person come apart"
        }
        ("distinct_id" | "$user_id" | "$device_id", false) => "Mixpanel cannot tell whose event it is",
        ("$distinct_id" | "$group_key" | "$group_id", _) => "Mixpanel cannot tell whose profile it is",
        ("$insert_id", true) => "Mixpanel's import takes ids of 36 characters, and a hash has 64",
        ("$insert_id", false) => "Mixpanel takes a repeated event for a second one",
        ("ip" | "$ip", _) => "Mixpanel computes no city, region and country",
        _ => return None,
    })
}

fn broken_at_brevo(property: &str, hashed: bool) -> Option<&'static str> {
    Some(match (property, hashed) {
        ("distinct_id" | "$distinct_id" | "$user_id" | "$device_id", true) => {
            "people go by their hashes at Brevo; hash distinct_id, $distinct_id, $user_id and $device_id alike, or events \
             miss their contacts"
        }
        ("distinct_id" | "$distinct_id" | "$user_id" | "$device_id", false) => {
            "the relay cannot tell whose record it is"
        }
        ("$insert_id", _) => "a repeated event reaches Brevo twice",
        ("time", _) => "an event's time is taken to be its arrival",
        ("$email" | "$phone", _) => "Brevo cannot address people by it",
        _ => return None,
    })
}

/// `none`, or the property that says yes and the value that means it.
fn consent(block: &mut Section<'_>) -> Consent {
    let Some(item) = block.take("consent") else { return Consent::Unchosen };
    if !item.is_block() {
        return item.scalar(values::choice(&[("none", ())])).map_or(Consent::Unchosen, |()| Consent::NotNeeded);
    }
    let Some(mut rule) = item.section() else { return Consent::Unchosen };
    let property = rule.scalar("property", values::text);
    let value = rule.scalar("value", values::json).unwrap_or(serde_json::Value::Bool(true));
    if property.is_none() {
        rule.missing("property", "the profile property that holds the answer");
    }
    rule.finish();
    property.map_or(Consent::Unchosen, |property| Consent::Required { property, value })
}

pub(super) fn deletion(root: &mut Section<'_>) -> Deletion {
    let on_profile_delete = [
        ("keep", OnProfileDelete::Keep),
        ("remove_from_lists", OnProfileDelete::RemoveFromLists),
        ("delete_contact", OnProfileDelete::DeleteContact),
    ];
    let on_gdpr_deletion = [("delete_contact", OnGdprDeletion::DeleteContact), ("keep", OnGdprDeletion::Keep)];
    Deletion {
        on_profile_delete: root.scalar("on_profile_delete", values::choice(&on_profile_delete)).unwrap_or_default(),
        on_gdpr_deletion: root.scalar("on_gdpr_deletion", values::choice(&on_gdpr_deletion)).unwrap_or_default(),
    }
}

pub(super) fn retention(mut block: Section<'_>) -> Retention {
    let default = Retention::default();
    let retention = Retention {
        history: block.scalar("history", values::duration).unwrap_or(default.history),
        history_bytes: block.scalar("history_bytes", values::bytes).unwrap_or(default.history_bytes),
        dead_letters: block.scalar("dead_letters", values::period).unwrap_or(default.dead_letters),
        dead_letter_bytes: block.scalar("dead_letter_bytes", values::bytes).unwrap_or(default.dead_letter_bytes),
        runs: block.scalar("runs", values::period).unwrap_or(default.runs),
        unseen_people: block.scalar("unseen_people", values::period).unwrap_or(default.unseen_people),
        tombstones: block.scalar("tombstones", values::period).unwrap_or(default.tombstones),
    };
    block.finish();
    retention
}

pub(super) fn alerts(mut block: Section<'_>) -> Alerts {
    let default = Alerts::default();
    let alerts = Alerts {
        behind_after: block.scalar("behind_after", values::period).unwrap_or(default.behind_after),
        webhooks: block.list("webhooks", alert_webhook),
    };
    block.finish();
    alerts
}

fn alert_webhook(item: Item<'_>) -> Option<AlertWebhook> {
    let mut block = item.section()?;
    // The path of such a URL is often the key to it.
    let url = block.hidden("url", values::webhook_url);
    let secret = block.hidden("secret", values::signing_secret);
    for (key, absent, write) in [
        ("url", url.is_none(), "where alerts are posted to, such as \"https://alerts.example.com/mixrelay\""),
        ("secret", secret.is_none(), "whsec_ followed by the base64 of 24 to 64 random bytes"),
    ] {
        if absent {
            block.missing(key, write);
        }
    }
    block.finish();
    Some(AlertWebhook { url: url?, secret: secret? })
}

pub(super) fn parking(mut block: Section<'_>) -> Parking {
    let default = Parking::default();
    let parking = Parking {
        max_age: block.scalar("max_age", values::period).unwrap_or(default.max_age),
        max_records: block.scalar("max_records", values::positive).unwrap_or(default.max_records),
        max_bytes: block.scalar("max_bytes", values::bytes).unwrap_or(default.max_bytes),
    };
    block.finish();
    parking
}

pub(super) fn when_full(root: &mut Section<'_>) -> WhenFull {
    let choices =
        [("refuse", WhenFull::Refuse), ("skip_mixpanel", WhenFull::SkipMixpanel), ("skip_brevo", WhenFull::SkipBrevo)];
    let Some(item) = root.take("when_full") else { return WhenFull::default() };
    item.scalar(values::choice(&choices)).unwrap_or_default()
}
