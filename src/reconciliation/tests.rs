//! Against vendors that answer what a test says.

use std::collections::VecDeque;
use std::sync::Mutex as StdMutex;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::clock::{ManualClock, UnixMillis};
use crate::config;
use crate::delivery::day_book::DayBook;
use crate::record::Destination;
use crate::record::{EntryId, Epoch, Position};
use crate::store::testing;
use crate::vendor::budget::Budgets;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack::Stack;
use crate::vendor::{TransportError, VendorAnswer, VendorRequest};
use crate::{brevo, mixpanel};

/// 2026-11-20T00:00:00Z
const MIDNIGHT: u64 = 1_795_132_800_000;
const HOUR: u64 = 3_600_000;
const DAY: &str = "2026-11-20";

/// A vendor that answers one after the other, and notes what it was asked.
#[derive(Clone, Default)]
struct Vendor {
    answers: Arc<StdMutex<VecDeque<(u16, Value)>>>,
    asked: Arc<StdMutex<Vec<String>>>,
}

impl Vendor {
    fn answering(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        Self { answers: Arc::new(StdMutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    fn stack(&self) -> Stack {
        let vendor = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: VendorRequest| {
            vendor.asked.lock().unwrap().push(request.url.to_string());
            let (status, body) = vendor.answers.lock().unwrap().pop_front().expect("asked too often");
            let body = Bytes::from(body.to_string());
            let answer = VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), body);
            async move { Ok::<_, TransportError>(answer) }
        }))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

struct Rig {
    reconciler: Arc<Reconciler>,
    clock: Arc<ManualClock>,
    state: Arc<dyn State>,
    _directory: TempDir,
}

async fn rig(mixpanel: &Vendor, brevo: &Vendor, delivered: [&[(&str, u64)]; 2]) -> Rig {
    let directory = testing::directory();
    let clock = ManualClock::at(UnixMillis(MIDNIGHT + 30 * HOUR));
    let store = testing::open(&directory, clock.clone());
    let state: Arc<dyn State> = store.state.clone();
    let mut batch = WriteBatch::new();
    for (destination, events) in Destination::ALL.into_iter().zip(delivered) {
        let mut book = DayBook::open(destination, TimeZone::UTC, 0);
        for (name, count) in events {
            for n in 0..*count {
                book.count(name, UnixMillis(MIDNIGHT + n), UnixMillis(MIDNIGHT + n), &mut batch);
            }
        }
        book.write(&mut batch);
    }
    state.write(batch).await.unwrap();
    let text = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"7\"\n    \
                service_account: { username: u, secret: s }\n  brevo: { api_key: k }\n";
    let config = config::parse(text, "test", &|_| None).unwrap().config;
    let leg = |destination| {
        let start = Position { epoch: Epoch(1), entry: EntryId::FIRST, index: 0 };
        LegStatus::new(destination, store.journal.clone(), clock.clone(), Arc::new(SharedGate::default()), start)
    };
    let budgets = Arc::new(Budgets::open(state.clone(), clock.clone()).await.unwrap());
    let reconciler = Reconciler::new(Parts {
        state: state.clone(),
        clock: clock.clone(),
        timezone: TimeZone::UTC,
        mixpanel: Some(MixpanelSide {
            calls: mixpanel::calls::Calls::new(&config.mixpanel).unwrap(),
            attempt: mixpanel.stack(),
            budgets,
        }),
        brevo: Some(BrevoSide {
            calls: brevo::calls::Calls::new(config.brevo.as_ref().unwrap()).unwrap(),
            attempt: brevo.stack(),
        }),
        legs: Destination::ALL.map(leg).to_vec(),
    });
    Rig { reconciler, clock, state, _directory: directory }
}

fn day() -> Date {
    DAY.parse().unwrap()
}

fn counted(values: &[(&str, u64)]) -> Value {
    let values: serde_json::Map<_, _> =
        values.iter().map(|(name, n)| ((*name).to_owned(), json!({ DAY: n }))).collect();
    json!({ "data": { "series": [DAY], "values": values }, "legend_size": 1 })
}

fn at_brevo(name: &str, at: u64) -> Value {
    json!({ "contact_id": 1, "event_name": name, "event_date": UnixMillis(at).to_string(), "event_properties": {} })
}

fn codes(side: &Comparison) -> Vec<Value> {
    side.causes.iter().map(|cause| json!(cause.code)).collect()
}

#[tokio::test]
async fn both_sides_are_laid_side_by_side() {
    let mixpanel = Vendor::answering([(200, counted(&[("a", 5), ("b", 9)]))]);
    // An hour before the day, two of it, an hour after it, and one of a name that the relay has not sent.
    let times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 24 * HOUR - 1, MIDNIGHT + 24 * HOUR];
    let mut events: Vec<_> = times.map(|at| at_brevo("order", at)).into();
    events.push(at_brevo("else", MIDNIGHT));
    let brevo = Vendor::answering([(200, json!({ "events": events, "count": 5 }))]);
    let rig = rig(&mixpanel, &brevo, [&[("a", 6), ("b", 7), ("c", 1)], &[("order", 2)]]).await;

    let report = rig.reconciler.compare(day()).await.unwrap();
    let [at_mixpanel, at_brevo] = &report.destinations[..] else { panic!("{report:?}") };
    let lines: Vec<_> =
        at_mixpanel.events.iter().map(|line| (line.name.as_str(), line.delivered, line.counted)).collect();
    assert_eq!(lines, [("b", 7, Some(9)), ("a", 6, Some(5)), ("c", 1, Some(0))]);
    assert_eq!((at_mixpanel.delivered, at_mixpanel.counted, at_mixpanel.missing()), (14, Some(14), Some(2)));
    assert_eq!(codes(at_mixpanel), [json!("resent"), json!("deleted"), json!("not_by_this_relay")]);
    assert_eq!((at_brevo.delivered, at_brevo.counted, at_brevo.missing()), (2, Some(2), Some(0)));
    assert_eq!(codes(at_brevo), [] as [Value; 0]);
    let asked = mixpanel.asked();
    assert!(asked.len() == 1 && asked[0].contains("event=%5B%22b%22%2C%22a%22%2C%22c%22%5D"), "{asked:?}");
    assert_eq!(rig.reconciler.reports().await.unwrap(), [report]);
}

#[tokio::test]
async fn nobody_is_asked_about_a_day_on_which_nothing_was_delivered() {
    let (mixpanel, brevo) = (Vendor::default(), Vendor::default());
    let rig = rig(&mixpanel, &brevo, [&[], &[]]).await;
    let report = rig.reconciler.compare(day()).await.unwrap();
    for side in &report.destinations {
        assert_eq!((side.delivered, side.counted, side.not_counted.as_deref()), (0, Some(0), None));
    }
}

#[tokio::test]
async fn a_vendor_that_does_not_answer_leaves_no_number() {
    let mixpanel = Vendor::answering([(429, json!({ "error": "Query rate limit exceeded" }))]);
    let brevo = Vendor::answering([(403, json!({ "message": "no" }))]);
    let rig = rig(&mixpanel, &brevo, [&[("a", 1)], &[("order", 2)]]).await;
    let report = rig.reconciler.compare(day()).await.unwrap();
    for (side, why) in report.destinations.iter().zip(["limit", "403"]) {
        assert_eq!((side.counted, side.missing(), side.events[0].counted), (None, None, None));
        assert!(side.not_counted.as_ref().unwrap().contains(why), "{side:?}");
    }
}

#[tokio::test]
async fn brevos_pages_are_read_to_the_end_or_not_counted() {
    let full = || json!({ "events": vec![at_brevo("order", MIDNIGHT); brevo::events::PAGE] });
    let last = json!({ "events": [at_brevo("order", MIDNIGHT)] });
    let brevo = Vendor::answering([(200, full()), (200, last)]);
    let rig_of_two = rig(&Vendor::default(), &brevo, [&[], &[("order", 3)]]).await;
    let report = rig_of_two.reconciler.compare(day()).await.unwrap();
    assert_eq!(report.destinations[1].counted, Some(brevo::events::PAGE as u64 + 1));
    assert!(brevo.asked()[1].contains("offset=2000"), "{:?}", brevo.asked());

    let endless = Vendor::answering(std::iter::repeat_with(|| (200, full())).take(20));
    let rig_of_many = rig(&Vendor::default(), &endless, [&[], &[("order", 3)]]).await;
    let report = rig_of_many.reconciler.compare(day()).await.unwrap();
    assert!(report.destinations[1].not_counted.as_ref().unwrap().contains("more than 40000"), "{report:?}");
}

#[tokio::test]
async fn days_that_are_not_over_or_long_gone_are_refused_and_old_ones_forgotten() {
    let rig = rig(&Vendor::default(), &Vendor::default(), [&[], &[]]).await;
    let compare = async |day: &str| rig.reconciler.compare(day.parse().unwrap()).await;
    assert!(matches!(compare("2026-11-21").await, Err(CompareError::NotOver { .. })));
    assert!(matches!(compare("2026-10-11").await, Err(CompareError::TooOld { .. })));
    compare(DAY).await.unwrap();
    rig.clock.advance(day_book::KEPT);
    compare("2026-12-30").await.unwrap();
    let kept: Vec<_> = rig.reconciler.reports().await.unwrap().iter().map(|report| report.day.to_string()).collect();
    assert_eq!(kept, ["2026-12-30"]);
    let rows = rig.state.scan(Table::Days, KeyRange::all(), 10).await.unwrap();
    assert_eq!(rows.len(), 1);
}
