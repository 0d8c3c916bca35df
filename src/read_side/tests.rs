//! Hours of callers in simulated time, as they see it: whole requests against the router.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::{ReadSide, router};
use crate::clock::{Clock as _, SharedClock, UnixMillis};
use crate::config::{self, Config, CorsOrigins};
use crate::delivery::testing::ShiftedClock;
use crate::edge::auth::Keys;
use crate::sandbox::{Sandbox, SandboxConfig};
use crate::simulation::{Direct, HeldState, SimulatedClock};
use crate::store::sqlite::{self, OpenOptions};
use crate::store::testing;
use crate::vendor::budget::Budgets;

const KEY: &str = "reader-key-0123456789";
const HOUR: Duration = Duration::from_secs(3600);
/// By which the relay makes an hour longer, since calls may reach the vendor closer together than they left.
const MARGIN: Duration = Duration::from_secs(5);
const QUERIES: usize = 60;
const QUESTIONS: usize = 20;

/// What outlives a process: the store's directory, the vendor, the clock, which can be set.
struct World {
    directory: TempDir,
    config: Config,
    clock: Arc<ShiftedClock>,
    /// That no hand sets.
    time: Arc<SimulatedClock>,
    vendor: Direct,
}

impl World {
    async fn new() -> Self {
        // Tests of one process race to install it; whoever is second finds it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let yaml = format!(
            "connectors: {{ mixpanel: {{ project_token: sandbox-token, project_id: '12345', service_account: \
             {{ username: sandbox-sa, secret: sandbox-secret }} }} }}\nauth: {{ api_keys: ['{KEY}'] }}\n\
             privacy: {{ consent: none }}\n"
        );
        let config = match config::parse(&yaml, "test.yaml", &|_| None) {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("{errors}"),
        };
        let directory = testing::directory();
        let time = SimulatedClock::new();
        let sandbox = Sandbox::new(SandboxConfig::default(), time.clone());
        let vendor = Direct::new(sandbox, time.clone());
        let answering = json!({ "mixpanel": { "query_duration_ms": 400 } });
        assert_eq!(vendor.control("PUT", "/switches", &answering).await.0, 200);
        Self { directory, config, clock: ShiftedClock::of(time.clone()), time, vendor }
    }

    /// A process on the store. Whoever has an earlier one's router must have let go of it.
    async fn process(&self) -> Router {
        let path = self.directory.path().join("m.db");
        let clock: SharedClock = self.clock.clone();
        let opening = clock.clone();
        let open = move || {
            sqlite::open(OpenOptions {
                path: path.clone(),
                min_free: Some(1),
                allow_volatile: true,
                clock: opening.clone(),
            })
        };
        // The writers of an earlier process may be about to end.
        let opened = move || {
            let wait = |_: &_| std::thread::sleep(Duration::from_millis(20));
            (0..200).find_map(|_| open().inspect_err(wait).ok()).expect("the earlier process has ended")
        };
        let store = tokio::task::spawn_blocking(opened).await.unwrap();
        let budgets = Arc::new(Budgets::open(Arc::new(HeldState(store.state)), clock.clone()).await.unwrap());
        let mut desk = ReadSide::new(&self.config, Keys::new(&self.config), budgets, clock).unwrap();
        desk.upstream.direct = Some(self.vendor.clone());
        router(Arc::new(desk), &CorsOrigins::Any)
    }

    /// When the vendor was asked; it has refused nothing, and no hour has more than its due.
    fn asked(&self) -> Vec<UnixMillis> {
        let asked = self.vendor.asked();
        assert!(asked.iter().all(|asked| asked.status == 200), "{asked:?}");
        let times: Vec<UnixMillis> = asked.iter().map(|asked| asked.at).collect();
        for window in times.windows(QUERIES + 1) {
            let took = window[QUERIES].since(window[0]);
            assert!(took >= HOUR, "{} queries within {took:?}", QUERIES + 1);
        }
        times
    }
}

enum Answer {
    /// Its age in seconds.
    Given(u64),
    Later(Duration),
}

async fn ask(app: &Router, question: &str, prefer: &str) -> Answer {
    let request = Request::get(format!("/segmentation?event={question}&from_date=2026-02-01&to_date=2026-02-02"))
        .header("authorization", format!("Bearer {KEY}"))
        .header("prefer", prefer);
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let number = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match response.status() {
        StatusCode::OK => Answer::Given(number("age").unwrap()),
        StatusCode::TOO_MANY_REQUESTS => Answer::Later(Duration::from_secs(number("retry-after").unwrap())),
        other => panic!("{question}: {other}"),
    }
}

/// Asks until there is an answer, coming back when told to. How often it had to: a place that was free then may have gone
/// to somebody who came back at the same moment.
async fn until_answered(app: &Router, question: &str, prefer: &str) -> usize {
    let (first, mut refusals) = (Instant::now(), 0);
    loop {
        match ask(app, question, prefer).await {
            Answer::Given(_) => return refusals,
            Answer::Later(wait) => {
                assert!(wait <= HOUR + MARGIN, "{wait:?}");
                assert!(first.elapsed() < HOUR * 2, "{question}: not answered by the times that it was told");
                refusals += 1;
                sleep(wait).await;
            }
        }
    }
}

/// 200 callers ask 20 questions, each of them every ten minutes: more than the hour's sixty, since an answer is
/// good for five minutes. Everybody is answered, or told when to come back and answered then. The clock is set forward and
/// back meanwhile, and the process ends in the middle, with the clock set forward before the next one begins.
#[tokio::test(start_paused = true)]
async fn two_hundred_callers_of_an_hour_are_answered_by_sixty_calls_whatever_the_clock_does() {
    let world = World::new().await;
    let (mut answered, mut refused) = (0, 0);
    for (half, jumps) in [(0, [7_200_000, -14_400_000]), (1, [-3_600_000, 10_800_000])] {
        let app = world.process().await;
        let mut callers = JoinSet::new();
        for caller in 0..200_u64 {
            let app = app.clone();
            callers.spawn(async move {
                let mut refusals = 0;
                for turn in 0..3 {
                    // Spread over the ten minutes.
                    sleep(Duration::from_millis(if turn == 0 { caller * 2_993 } else { 600_000 })).await;
                    let question = format!("Event{}", caller % QUESTIONS as u64);
                    let prefer = if caller % 2 == 0 { "wait=60" } else { "wait=0" };
                    refusals += until_answered(&app, &question, prefer).await;
                }
                refusals
            });
        }
        for jump in jumps {
            sleep(Duration::from_secs(700)).await;
            world.clock.shift(jump);
        }
        while let Some(caller) = callers.join_next().await {
            answered += 3;
            refused += caller.unwrap();
        }
        drop(app);
        world.clock.shift(9_000_000 * (1 - half));
    }
    let asked = world.asked();
    println!(
        "{answered} answers by {} calls in {:?}; {refused} refusals",
        asked.len(),
        world.time.now().since(asked[0])
    );
    assert_eq!(answered, 2 * 200 * 3);
    assert!(refused > 0, "the hour was never used up");
}

/// What a refusal says is true: not before then, and then.
#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_there_is_a_place_again() {
    let world = World::new().await;
    let app = world.process().await;
    let begun = world.time.now();
    let mut wait = None;
    for n in 0..=QUERIES {
        if let Answer::Later(later) = ask(&app, &format!("Other{n}"), "wait=0").await {
            wait = Some(later);
            break;
        }
        sleep(Duration::from_secs(20)).await;
    }
    let wait = wait.expect("no hour holds more");
    // The first place is free an hour after the first call.
    let told = world.time.now().since(begun) + wait;
    assert!(told >= HOUR && told <= HOUR + MARGIN + Duration::from_secs(1), "{told:?}");
    sleep(wait.saturating_sub(Duration::from_secs(3))).await;
    assert!(matches!(ask(&app, "Early", "wait=0").await, Answer::Later(_)));
    sleep(Duration::from_secs(4)).await;
    assert!(matches!(ask(&app, "InTime", "wait=0").await, Answer::Given(0)));
    // Somebody who waits gets the next one, twenty seconds later.
    assert!(matches!(ask(&app, "Patient", "wait=30").await, Answer::Given(0)));
    world.asked();
}
