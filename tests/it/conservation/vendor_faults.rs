//! What a vendor may do: be slow, silent or gone, refuse, limit, lie, and do the work without saying so.

use serde_json::{Value, json};

use crate::harness::Sandbox;

/// For so long an import waits, and works, at most. The relay looks 2, 6, 14 and 30 seconds after it was made.
const LATE_MS: u64 = 6_000;

/// What was done to the vendors.
#[derive(Default)]
pub struct Strike {
    rules: Vec<Value>,
    /// Faults after which a call may have had its effect without anybody's knowing.
    pub doubts: u64,
    /// Faults by which Mixpanel refuses events that are all right.
    pub refusals: u64,
}

impl Strike {
    pub fn what(&self) -> String {
        Value::from(self.rules.clone()).to_string()
    }
}

/// Strikes one vendor, or both, until healed.
pub async fn strike(dice: &mut fastrand::Rng, sandbox: &Sandbox) -> Strike {
    let vendors: &[&str] = dice.choice([&["mixpanel"][..], &["brevo"], &["mixpanel", "brevo"]].iter()).unwrap();
    let mut strike = Strike::default();
    for vendor in vendors {
        let drawn = draw(dice, vendor);
        strike.doubts += u64::from(drawn.doubtful);
        strike.refusals += u64::from(drawn.refuses);
        strike.rules.extend(drawn.rules.into_iter().map(|rule| Sandbox::fault(vendor, drawn.path, rule)));
    }
    sandbox.faults(json!(strike.rules)).await;
    strike
}

/// From now on imports at Brevo wait long, take long, and end in one way or another. What was done, in words.
pub async fn imports_end_badly(dice: &mut fastrand::Rng, sandbox: &Sandbox) -> String {
    let end = dice.choice(["completed", "cancelled", "failed", "cut_short"]).unwrap();
    let (queued, processing) = (dice.u64(..LATE_MS), dice.u64(..LATE_MS));
    let switches = json!({ "import_queued_ms": queued, "import_processing_ms": processing, "import_end": end });
    let how = format!("imports at Brevo: {switches}");
    sandbox.switch(json!({ "brevo": switches })).await;
    how
}

/// Those that are made from now on; the others end as they were to.
pub async fn imports_end_well(sandbox: &Sandbox) {
    let switches = json!({ "import_queued_ms": 500, "import_processing_ms": 1_000, "import_end": "completed" });
    sandbox.switch(json!({ "brevo": switches })).await;
}

struct VendorFault {
    rules: Vec<Value>,
    path: &'static str,
    doubtful: bool,
    refuses: bool,
}

fn draw(dice: &mut fastrand::Rng, vendor: &str) -> VendorFault {
    let after = dice.bool();
    let when = if after { "after" } else { "before" };
    let status = *dice.choice([408, 500, 502, 503, 504].iter()).unwrap();
    let limited = match vendor {
        "brevo" => json!({ "kind": "status", "status": 429, "headers": { "x-sib-ratelimit-reset": "1" } }),
        _ => json!({ "kind": "status", "status": 429, "headers": { "retry-after": "1" } }),
    };
    let one = |rule, doubtful| VendorFault { rules: vec![rule], path: "", doubtful, refuses: false };
    match dice.u8(..11) {
        0 => one(json!({ "kind": "latency", "ms": dice.u64(50..1_200) }), false),
        1 => one(json!({ "kind": "status", "status": status, "when": when }), after),
        2 => one(limited, false),
        3 => one(json!({ "kind": "reset", "when": when }), after),
        4 => one(json!({ "kind": "black_hole", "when": when, "times": 3 }), after),
        5 => one(json!({ "kind": "break_off", "after_bytes": 3 }), true),
        6 => one(json!({ "kind": "slow", "chunk": 5, "every_ms": 40 }), false),
        7 => one(json!({ "kind": "garbage", "when": when }), after),
        8 => one(json!({ "kind": "status", "status": 401 }), false),
        // The first answers fail in one way, the next in another: a vendor that comes and goes.
        9 => {
            let mut flap = |kind: Value| {
                let mut rule = kind;
                rule["times"] = dice.u64(1..4).into();
                rule
            };
            let rules = vec![
                flap(json!({ "kind": "reset" })),
                flap(json!({ "kind": "slow", "chunk": 64, "every_ms": 5 })),
                flap(limited),
                flap(json!({ "kind": "slow", "chunk": 64, "every_ms": 5 })),
                flap(json!({ "kind": "status", "status": status, "when": when })),
            ];
            VendorFault { rules, path: "", doubtful: after, refuses: false }
        }
        // A refusal where Mixpanel says it; Brevo never does, so there it is no answer at all.
        _ => {
            let rules = vec![json!({ "kind": "error_in_ok", "when": when })];
            let path = if vendor == "mixpanel" { "/import" } else { "" };
            VendorFault { rules, path, doubtful: after, refuses: vendor == "mixpanel" }
        }
    }
}
