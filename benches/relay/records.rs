//! Requests as SDKs send them, rendered once: only counters of fixed width change from one to the next.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

/// People of the simulated project; ids are `user-000000` and up.
pub const PEOPLE: u64 = 2_000;

const ID_SLOT: &str = "@@@@@@@@@@@@";
const PERSON_SLOT: &str = "######";

/// Numbers of events, so that no two of a run have one `$insert_id`.
static NEXT_EVENT: AtomicU64 = AtomicU64::new(0);

/// A request with slots that are filled in place.
#[derive(Clone)]
pub struct Template {
    pub bytes: Vec<u8>,
    pub records: u64,
    slots: Vec<(usize, usize)>,
}

impl Template {
    /// `body` holds an id slot followed by a person slot, or the other way round, for each of `records`.
    fn new(head: &str, body: &[u8], records: u64) -> Self {
        let mut bytes = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        let ids = positions(&bytes, ID_SLOT.as_bytes());
        let people = positions(&bytes, PERSON_SLOT.as_bytes());
        Self { slots: ids.into_iter().zip(people).collect(), bytes, records }
    }

    /// The next request: every event gets a number of its own, and people come round in turn.
    pub fn next(&mut self) -> &[u8] {
        if !self.slots.is_empty() {
            let first = NEXT_EVENT.fetch_add(self.records, Ordering::Relaxed);
            for (number, (id, person)) in (first..).zip(&self.slots) {
                write_digits(&mut self.bytes[*id..id + ID_SLOT.len()], number);
                write_digits(&mut self.bytes[*person..person + PERSON_SLOT.len()], number % PEOPLE);
            }
        }
        &self.bytes
    }
}

/// The text of one event, as it stands in the journal.
pub fn event_numbered(number: u64) -> String {
    let width = ID_SLOT.len();
    event("Purchase", "")
        .replace(ID_SLOT, &format!("{number:0width$}"))
        .replace(PERSON_SLOT, &format!("{:06}", number % PEOPLE))
}

/// The `$insert_id` of the first event of this process.
pub fn first_insert_id() -> String {
    format!("bench-{}", "0".repeat(ID_SLOT.len()))
}

fn positions(text: &[u8], slot: &[u8]) -> Vec<usize> {
    text.windows(slot.len()).enumerate().filter(|(_, window)| *window == slot).map(|(at, _)| at).collect()
}

fn write_digits(slot: &mut [u8], mut number: u64) {
    for digit in slot.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

pub fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// An event with what a mobile SDK puts into every one; `event` is its name, `extra` further properties.
fn event(name: &str, extra: &str) -> String {
    format!(
        concat!(
            r#"{{"event":"{name}","properties":{{"token":"sandbox-token","time":{time},"distinct_id":"user-{person}","#,
            r#""$insert_id":"bench-{id}","$os":"iOS","$os_version":"18.1","$model":"iPhone15,2","#,
            r#""$manufacturer":"Apple","$app_version_string":"4.12.0","$app_build_number":"4120","#,
            r#""$lib_version":"4.3.0","mp_lib":"swift","$screen_width":393,"$screen_height":852,"$wifi":true,"#,
            r#""$carrier":"Example Mobile","amount":49.9,"currency":"EUR","items":3,"coupon":null{extra}}}}}"#
        ),
        name = name,
        time = now_seconds(),
        person = PERSON_SLOT,
        id = ID_SLOT,
        extra = extra,
    )
}

fn head(path: &str, headers: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: relay.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\
         Content-Type: application/json\r\n{headers}"
    )
}

/// `/track` with `count` mapped events.
pub fn track(count: usize) -> Template {
    let body = format!("[{}]", vec![event("Purchase", ""); count].join(","));
    Template::new(&head("/track?ip=1", ""), body.as_bytes(), count as u64)
}

/// `/track` with `count` events, of which every other one is mapped.
pub fn half_mapped(count: usize) -> Template {
    let names = ["Purchase", "Page View"].into_iter().cycle();
    let body = format!("[{}]", names.take(count).map(|name| event(name, "")).collect::<Vec<_>>().join(","));
    Template::new(&head("/track?ip=1", ""), body.as_bytes(), count as u64)
}

/// `/track` with one event of the given property, to be recognised on arrival.
pub fn marked(number: usize) -> Template {
    let body = format!("[{}]", event("Purchase", &format!(r#","mark":{number}"#)));
    Template::new(&head("/track?ip=1", ""), body.as_bytes(), 1)
}

/// A caller's request for the export of a day.
pub fn export() -> String {
    format!(
        "GET /export?from_date=2026-01-01&to_date=2026-01-01 HTTP/1.1\r\nHost: relay.example.com\r\n{}Accept: */*\r\n\r\n",
        credentials()
    )
}

/// So many lines of it.
pub fn exported(lines: usize) -> String {
    let mut random = fastrand::Rng::with_seed(5);
    (0..lines).map(|_| page_view(&mut random) + "\n").collect()
}

/// Basic credentials of the sandbox's service account.
fn credentials() -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode("sandbox-sa:sandbox-secret");
    format!("Authorization: Basic {text}\r\n")
}

const IMPORT: &str = "/import?strict=1&project_id=12345";

/// `/import` bodies of 2,000 events, gzipped, with the variety of a day's page views; as requests and as bare bodies.
pub fn imports(bodies: usize) -> Vec<(Template, Vec<u8>)> {
    let mut random = fastrand::Rng::with_seed(11);
    let head = head(IMPORT, &format!("{}Content-Encoding: gzip\r\n", credentials()));
    let mut body = || {
        let events: Vec<_> = (0..2_000).map(|_| page_view(&mut random)).collect();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
        gzip.write_all(format!("[{}]", events.join(",")).as_bytes()).and_then(|()| gzip.finish())
    };
    let with_template = |body: Vec<u8>| (Template::new(&head, &body, 2_000), body);
    (0..bodies).filter_map(|_| body().ok()).map(with_template).collect()
}

/// A browser's page view: ids, times, addresses and sizes differ from one to the next, names of things come from lists.
fn page_view(random: &mut fastrand::Rng) -> String {
    let time = jiff::Timestamp::now().as_millisecond() - i64::from(random.u32(..86_400_000));
    let (browser, version) = (["Chrome", "Safari", "Firefox", "Edge"][random.usize(..4)], random.u8(100..131));
    let system = ["Windows", "Mac OS X", "iOS", "Android", "Linux"][random.usize(..5)];
    let (width, height) = [(1920, 1080), (1440, 900), (390, 844), (2560, 1440)][random.usize(..4)];
    let (user, device, session, id) = (random.u32(..200_000), random.u128(..), random.u64(..), random.u128(..));
    let (section, page, referrer) = (random.u8(..40), random.u32(..5_000), random.u16(..800));
    let (plan, seconds, price) = (["free", "pro", "team"][random.usize(..3)], random.u16(..900), random.u32(..100_000));
    format!(
        concat!(
            r#"{{"event":"Page View","properties":{{"token":"sandbox-token","time":{time},"distinct_id":"user-{user}","#,
            r#""$device_id":"{device:032x}","$user_id":"user-{user}","$insert_id":"{id:032x}","$browser":"{browser}","#,
            r#""$browser_version":{version},"$os":"{system}","$screen_width":{width},"$screen_height":{height},"#,
            r#""$current_url":"https://shop.example.com/section-{section}/product-{page}?session={session:016x}","#,
            r#""$referrer":"https://search.example.org/find?q=thing-{referrer}","mp_lib":"web","$lib_version":"2.56.0","#,
            r#""plan":"{plan}","seconds_on_page":{seconds},"price":{price}.99,"currency":"EUR","in_stock":true}}}}"#
        ),
        time = time,
        user = user,
        device = device,
        id = id,
        browser = browser,
        version = version,
        system = system,
        width = width,
        height = height,
        section = section,
        page = page,
        session = session,
        referrer = referrer,
        plan = plan,
        seconds = seconds,
        price = price,
    )
}

/// A plain `/import` of about eight megabytes that hardly compress: what fills a journal quickly.
pub fn filler() -> Template {
    let mut random = fastrand::Rng::with_seed(7);
    let events: Vec<_> = (0..2_000)
        .map(|number| {
            let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(3_600).collect();
            let event = event("Filler", &format!(r#","noise":"{noise}""#));
            event.replace(ID_SLOT, &format!("f{number:011}")).replace(PERSON_SLOT, &format!("{:06}", number % PEOPLE))
        })
        .collect();
    Template::new(&head(IMPORT, &credentials()), format!("[{}]", events.join(",")).as_bytes(), 2_000)
}

/// One `/engage` that makes `people` known by their email; `round` changes their values.
pub fn engage(people: std::ops::Range<u64>, round: usize) -> Template {
    let update = |person: u64| {
        format!(
            concat!(
                r#"{{"$token":"sandbox-token","$distinct_id":"user-{person:06}","$set":{{"#,
                r#""$email":"user-{person:06}@example.com","$first_name":"Name {person}","plan":"plan-{round}","#,
                r#""total_revenue":{revenue}}}}}"#
            ),
            person = person,
            round = round,
            revenue = round * 10,
        )
    };
    let count = people.end - people.start;
    let body = format!("[{}]", people.map(update).collect::<Vec<_>>().join(","));
    Template::new(&head("/engage?ip=0", ""), body.as_bytes(), count)
}

/// One of so many people loses an attribute. No import empties one at Brevo, so that each of them is a call.
const ONE_LOSES: u64 = 500;

/// What `person` is told by the `round`-th update. The first sets everything; later ones take every operator in turn.
fn operator(person: u64, round: u64) -> String {
    if round == 0 {
        return format!(
            concat!(
                r#""$set":{{"$email":"user-{person:06}@example.com","$first_name":"Name {person}","plan":["basic","old"],"#,
                r#""total_revenue":10,"signup_date":"2026-01-02"}}"#
            ),
            person = person
        );
    }
    if loses_name(person, 2) && round == 1 {
        return r#""$unset":["$first_name"]"#.to_owned();
    }
    match (person + round) % 5 {
        0 => format!(r#""$add":{{"total_revenue":{round}}}"#),
        1 => format!(r#""$append":{{"plan":"extra-{round}"}}"#),
        2 => r#""$union":{"plan":["basic","team"]}"#.to_owned(),
        3 => r#""$remove":{"plan":"old"}"#.to_owned(),
        _ => format!(r#""$set_once":{{"signup_date":"2026-02-02"}},"$set":{{"total_revenue":{}}}"#, round * 100),
    }
}

/// What `person`'s revenue is after so many updates.
pub fn revenue(person: u64, rounds: u64) -> f64 {
    let mut revenue = 10;
    for round in (1..rounds).filter(|round| *round > 1 || !loses_name(person, 2)) {
        match (person + round) % 5 {
            0 => revenue += round,
            4 => revenue = round * 100,
            _ => {}
        }
    }
    revenue as f64
}

/// Whether `person`'s name has been taken away after so many updates.
pub fn loses_name(person: u64, rounds: u64) -> bool {
    rounds > 1 && person.is_multiple_of(ONE_LOSES)
}

/// One `/engage` with the `round`-th update of each of `people`.
pub fn operators(people: std::ops::Range<u64>, round: u64) -> Template {
    let count = people.end - people.start;
    let update = |person: u64| {
        format!(r#"{{"$token":"sandbox-token","$distinct_id":"user-{person:06}",{}}}"#, operator(person, round))
    };
    let body = format!("[{}]", people.map(update).collect::<Vec<_>>().join(","));
    Template::new(&head("/engage?ip=0", ""), body.as_bytes(), count)
}

/// `/track` with one mapped event for each of `people`.
pub fn track_of(people: &[u64], round: u64) -> Template {
    let one = |person: &u64| {
        let event = event("Purchase", &format!(r#","round":{round}"#));
        event.replace(ID_SLOT, &format!("c{round:05}{person:06}")).replace(PERSON_SLOT, &format!("{person:06}"))
    };
    let body = format!("[{}]", people.iter().map(one).collect::<Vec<_>>().join(","));
    Template::new(&head("/track?ip=0", ""), body.as_bytes(), people.len() as u64)
}
