//! Much of something: connections, and bytes that are few on the wire.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::harness::http::{FORM, GZIP, JSON, gzip};
use crate::harness::raw::Raw;
use crate::harness::records::event;
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox};

const MIB: u64 = 1 << 20;
/// What P10 promises, in whatever trouble.
const RESIDENT: u64 = 256 * MIB;

/// Ten thousand callers that say nothing, or have said all that they wanted: each costs a socket and a few kilobytes.
#[tokio::test]
async fn ten_thousand_idle_connections_cost_little() {
    let sandbox = Sandbox::start_alone().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    // The relay is under the same limit as this process, and needs descriptors of its own.
    let descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
    let wanted = 10_000.min(descriptors.saturating_sub(500));
    let mut idle = Vec::with_capacity(wanted);
    for n in 0..wanted {
        let mut connection = Raw::connect(relay.address()).await.unwrap();
        if n % 10 == 0 {
            connection.write("GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n").await.unwrap();
        }
        idle.push(connection);
    }
    for n in 0..20 {
        relay.take("/track", &json!([event("E", "d", &format!("beside-{n}"))])).await;
    }
    sandbox.mixpanel_has_events(20, PATIENCE).await;
    let peak = relay.process().peak_resident();
    println!("{} MiB resident at most beside {wanted} idle connections", peak / MIB);
    assert!(peak < RESIDENT, "{} MiB resident with {wanted} idle connections", peak / MIB);
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every door that inflates, with every encoding that it takes.
#[tokio::test]
async fn a_bomb_is_put_out_at_every_door() {
    let sandbox = Sandbox::start_alone().await;
    let webhooks = json!({ "brevo": { "token": "brevo-token" }, "mixpanel": { "username": "u", "password": "p" } });
    let lookup = json!({ "sizes": { "id": "11111111-1111-4111-8111-111111111111" } });
    let tweaks =
        json!({ "webhooks": webhooks, "lookup_tables": lookup, "auth": { "api_keys": ["reader-key-0123456789"] } });
    let mut relay = Relay::start(&sandbox, tweaks).await;
    let zeros = vec![b' '; 200 << 20];
    let (gzipped, deflated) = (gzip(&zeros), deflate(&zeros));
    // A bomb in a bomb, and one that is many: each member costs a window.
    let twice = gzip(&gzipped);
    let members = gzip(b" ").repeat(100_000);
    drop(zeros);
    let encoded = [
        ("gzip", &gzipped),
        ("x-gzip", &gzipped),
        ("deflate", &deflated),
        // Not announced: the first bytes say it.
        ("identity", &gzipped),
        ("gzip", &twice),
        ("gzip", &members),
        ("gzip, gzip", &twice),
        ("br", &gzipped),
    ];
    const BREVO: (&str, &str) = ("authorization", "Bearer brevo-token");
    const MIXPANEL: (&str, &str) = ("authorization", "Bearer p");
    const READER: (&str, &str) = ("authorization", "Bearer reader-key-0123456789");
    for (encoding, bomb) in encoded {
        let coded = ("content-encoding", encoding);
        for (path, kind, key) in [
            ("/track?ip=1", JSON, ("x-none", "")),
            ("/track?ip=1", FORM, ("x-none", "")),
            ("/engage", JSON, ("x-none", "")),
            ("/groups", JSON, ("x-none", "")),
            ("/import", JSON, SERVICE_ACCOUNT),
            ("/webhooks/brevo", JSON, BREVO),
            ("/webhooks/mixpanel/events", JSON, MIXPANEL),
            ("/webhooks/mixpanel/cohorts", JSON, MIXPANEL),
            ("/jql", FORM, READER),
        ] {
            let answer = relay.post(path, &[kind, coded, key], bomb.clone()).await;
            let refused = matches!(answer.status, 400 | 413 | 429 | 503)
                || answer.body == "0"
                || answer.body.ends_with("\"status\":0}");
            assert!(refused, "{path} {encoding}: {answer:?}");
        }
    }
    let table = relay
        .send(
            "PUT",
            "/lookup-tables/11111111-1111-4111-8111-111111111111",
            &[("content-type", "text/csv"), GZIP, SERVICE_ACCOUNT],
            gzipped,
        )
        .await;
    assert!((400..500).contains(&table.status), "{table:?}");
    assert_eq!(relay.metrics().await.sum("mixrelay_records_accepted_total", &[]), 0.0);
    relay.take("/track", &json!([event("E", "d", "after")])).await;
    let peak = relay.process().peak_resident();
    println!("{} MiB resident at most", peak / MIB);
    assert!(peak < RESIDENT, "{} MiB resident under the bombs", peak / MIB);
}
