//! The Brevo leg: journal → wishes → people → calls → settled records.
//!
//! One task owns people, queues and books; calls run beside it and come back as messages. The way of a record:
//!
//! ```text
//! read ─► intake (what does it ask for?) ─► load its person ─┬─ profile: fold ─► debt ─► paying ─► contact write or import
//!                                                            └─ event: queue (after the debt) ─► sending ─► event call
//! nobody to address yet: shelf ─► released in order when identity arrives
//! a link between ids: a barrier for both, then one person
//! ```
//!
//! Invariants:
//! * an event goes out only after every payment that it depends on ([`queue`]), and events of one person one call at a
//!   time;
//! * what leaves the ledger for a debt or a shelf is written in the same transaction as the checkpoint that says so;
//! * rows of a shelf are read only when the page that wrote them is durable.

mod account;
mod again;
mod attributes;
mod base_sources;
mod bases;
mod beginning;
mod companies;
mod compose;
mod consent;
mod contacts;
mod debtors;
mod deleting;
mod event_calls;
mod filling;
mod forecast;
mod forgetting;
mod importing;
mod imports;
mod intake;
mod lines;
mod listing;
mod merging;
mod pages;
mod paying;
mod queue;
mod receiving;
mod sending;
mod shelving;
mod window;
mod withdrawing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, OptionFuture};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub use self::account::{read as read_account, remembered as remembered_account};
use self::base_sources::Asked;
pub use self::base_sources::{BaseSource, MixpanelBases, SETTLE, unchanged_at_mixpanel};
use self::bases::{Bases, Waiting};
pub use self::beginning::delivers_since;
use self::companies::Companies;
pub use self::companies::{CompanyVendor, group_of};
pub use self::compose::{Composed, Write, address, compose};
pub use self::contacts::{Payment, Writer};
use self::debtors::{Debtors, Search, Since};
use self::event_calls::Sent;
pub use self::forecast::{Forecast, ForecastReport};
use self::importing::Importing;
pub use self::imports::{ImportTurn, Imported, Importer, Samples};
use self::lines::{Line, Lines, UnderWay};
use self::listing::{ListCall, Listed};
use self::queue::{PersonQueue, Queued};
pub use self::receiving::in_pilot;
use self::receiving::{Loaded, MAX_INDEBTED, MAX_PEOPLE, MAX_WAITING};
use self::sending::Gathering;
use self::shelving::{Overdue, Passed, Scan};
use self::window::Window;
use super::LegError;
use super::books::Books;
use super::checkpoint::Writing;
use super::dead_letters::old;
use super::dead_letters::replay::Replays;
use super::source::Source;
use super::status::LegStatus;
use crate::brevo::account::AccountModel;
use crate::brevo::calls::Calls;
use crate::brevo::coerce::{Clearing, Unplaced};
use crate::brevo::identifiers::ListId;
use crate::brevo::names::AttributeName;
use crate::brevo::outcome;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::{BrevoMode, IdentityMode, OnConsentWithdrawn, Parking};
use crate::mapping::CompiledMapping;
use crate::people::roster::{PersonId, Resident, Roster};
use crate::people::shelf::{self, Parked};
use crate::people::unseen::Day;
use crate::record::{Destination, EntryId, Position};
use crate::store::{Journal, State, StoreError};
use crate::vendor::budget::Budgets;
use crate::vendor::stack::Stack;
use crate::vendor::verdict::PauseCause;
use crate::vendor::{Note, Verdict};

/// How often progress is written down. What was sent since the last time may be sent again after a crash (P5).
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// How often shelves are looked at for records that have waited too long.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
/// How often the account's attributes are read again: people add them by hand.
const READ_ACCOUNT_EVERY: Duration = Duration::from_secs(600);

/// First wait after an answer that says that an endpoint is not there; doubles up to a minute.
const MISROUTED: Duration = Duration::from_secs(1);

/// What the leg is made of.
pub struct Parts {
    pub journal: Arc<dyn Journal>,
    pub state: Arc<dyn State>,
    pub source: Source,
    pub books: Books,
    pub status: LegStatus,
    /// `None`: not configured; every record is skipped, rule `disabled`.
    pub vendor: Option<VendorParts>,
    /// Where values are read that profile operators need.
    pub bases: BaseSource,
    pub mapping: Arc<CompiledMapping>,
    pub clock: SharedClock,
    /// Filled while the mode is `observe`.
    pub forecast: Arc<Forecast>,
    pub settings: Settings,
}

/// Whether an import that the relay has begun may still be running at Brevo: it would make contacts again.
pub async fn import_runs(state: &Arc<dyn State>) -> Result<bool, StoreError> {
    imports::left_running(state).await
}

pub struct VendorParts {
    pub calls: Calls,
    pub stack: Stack,
    pub probe: Stack,
    pub budgets: Arc<Budgets>,
    pub companies: CompanyVendor,
    pub imports: ImportTurn,
}

/// What the configuration says about this destination.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mode: BrevoMode,
    /// `*@domain` or whole addresses, lower case.
    pub pilot_emails: Vec<String>,
    pub create_attributes: bool,
    pub on_consent_withdrawn: OnConsentWithdrawn,
    pub identity: IdentityMode,
    pub dedup_window: Duration,
    /// Mixpanel's event stream is taken, and brings back what was sent to Mixpanel.
    pub echoes: bool,
    pub parking: Parking,
    pub max_dead_letter_bytes: u64,
    pub keep_dead_letters: Duration,
    pub unseen_people: Duration,
}

/// Work that has come back.
enum Done {
    Loaded(Loaded),
    Debtors(Debtors),
    Payment(PersonId, Payment),
    Imported {
        imported: Imported,
        rest: Duration,
    },
    Members(Vec<(PersonId, Resident)>),
    EarlierImport,
    Account(account::Read),
    Events {
        line: Line,
        events: Vec<(PersonId, Queued)>,
        sent: Sent,
        doubtful: u32,
        note: Note,
        batches_left: Option<u64>,
    },
    Listed(ListCall, Vec<Listed>),
    Shelf(PersonId, Vec<Parked>, Scan),
    Moved(PersonId, Vec<Parked>, Scan),
    Overdue(Overdue),
    Unseen(forgetting::Unseen),
    Companies(companies::Back),
    Waiting(Waiting),
    Bases(Asked),
}

type Work = BoxFuture<'static, Result<Done, LegError>>;

pub struct BrevoLeg {
    parts: Parts,
    roster: Roster,
    queues: HashMap<PersonId, PersonQueue>,
    window: Window,
    bases: Bases,
    companies: Companies,
    replays: Replays,

    /// Who is owed something that a call could pay, in the order of asking; those first whom somebody waits for.
    to_pay: Lines,
    /// Those of them whom no import carries; they take turns with the others.
    to_pay_singly: Lines,
    singly_next: bool,
    /// Who has events that could go out, likewise.
    ready: Lines,
    /// Whose lists are to be changed, in the order of asking.
    to_list: VecDeque<PersonId>,
    /// The last entry that an earlier process has settled a record of. Until it has been read again, unsettled records that
    /// stand in front of what is on shelves may still come, and no shelf is released.
    replay_through: Option<EntryId>,
    /// Whose shelf is to be read once a checkpoint page is durable.
    releases: VecDeque<(u64, PersonId)>,
    /// Merged ids of which something may be moved to their survivors.
    to_join: VecDeque<PersonId>,
    /// Whose shelf is to be read, in order to be moved, once a checkpoint page is durable.
    moves: VecDeque<(u64, PersonId)>,
    moves_under_way: usize,
    /// Whose busy contact is asked for again when.
    later: BinaryHeap<Reverse<(Instant, PersonId)>>,
    search: Search,
    importing: Importing,
    /// Who may be in an import that an earlier process left running, and that does not say who is in it: it would overwrite
    /// what they were paid meanwhile with older values, so they wait for its end (CORE 11).
    held: HashSet<PersonId>,

    under_way: JoinSet<Result<Done, LegError>>,
    /// Calls back the event calls under way.
    recall: CancellationToken,
    /// When the first event came that was this relay's own to deliver.
    delivers_since: Option<UnixMillis>,
    /// Entries below it are skipped: the disk was full.
    given_up: EntryId,
    payments_under_way: UnderWay,
    events_under_way: UnderWay,
    listings_under_way: usize,
    /// Records are being loaded; the last page that was durable when that began.
    receiving: Option<u64>,
    looking_for_overdue: bool,
    looking_for_unseen: bool,
    more_unseen: bool,
    /// Where the next look for people who were not heard of goes on.
    unseen_after: Option<(Day, PersonId)>,
    more_overdue: bool,
    /// Where the look for overdue rows goes on.
    overdue_after: Option<Position>,
    overdue_passed: Passed,
    releases_under_way: usize,
    gathering: Gathering,
    /// Reads of shelves under way, by when they began: what they bring back may have been taken off meanwhile.
    scans: BTreeMap<u64, usize>,

    account: Option<AccountModel>,
    account_under_way: bool,
    /// Payments wait until new attributes have settled.
    account_ready_at: Instant,
    /// Attributes that Brevo would not create; they are not asked for again by this process.
    refused_attributes: BTreeSet<AttributeName>,
    reported: BTreeSet<(String, Unplaced)>,
    clearing: Option<Clearing>,

    /// Calls of `/events/batch` that may go out at once; `None`: as many as of single events.
    batches_left: Option<u64>,

    /// Calls in a row that met no endpoint.
    misrouted_payments: u32,
    misrouted_events: u32,

    parked: u64,
    parked_bytes: u64,
    owed: u64,
    /// The oldest record of each debt.
    owed_since: Since,
    /// The oldest event of everyone whose lists are to be changed.
    listed_since: Since,
    /// Lists of which a refusal was reported.
    refused_lists: BTreeSet<ListId>,
    /// Events in queues.
    waiting: usize,

    /// The checkpoint page that is being filled, and the last that is durable.
    page: u64,
    durable_page: u64,
    /// Positions taken off shelves on pages that are not durable yet: a scan may still find them.
    unshelved: HashMap<Position, u64>,
    writing: Option<Writing<(u64, Position)>>,
    probing: Option<BoxFuture<'static, bool>>,
    /// A look for dead letters that have been kept long enough.
    purging: Option<BoxFuture<'static, Result<old::Looked, StoreError>>>,
}

impl BrevoLeg {
    /// Reads what earlier processes left: what was learned of the account, who is owed something, what is parked.
    pub async fn open(mut parts: Parts) -> Result<Self, LegError> {
        let (account, clearing) = account::remembered(&parts.state).await?;
        let companies = Companies::open(&mut parts).await?;
        let (parked, parked_bytes) = shelf::totals(&parts.state).await?;
        let window = Window::new(parts.settings.dedup_window, parts.settings.echoes);
        let bases = Bases::open(&parts).await?;
        let delivers_since = delivers_since(&parts.state).await?;
        let replay_through = parts.books.settled_through().map(|position| position.entry);
        let replays = Replays::new(parts.state.clone(), Destination::Brevo);
        let mut leg = Self {
            parts,
            replays,
            replay_through,
            roster: Roster::default(),
            queues: HashMap::new(),
            window,
            bases,
            companies,
            to_pay: Lines::default(),
            to_pay_singly: Lines::default(),
            singly_next: false,
            ready: Lines::default(),
            to_list: VecDeque::new(),
            releases: VecDeque::new(),
            to_join: VecDeque::new(),
            moves: VecDeque::new(),
            moves_under_way: 0,
            later: BinaryHeap::new(),
            search: Search::default(),
            importing: Importing::new(),
            held: HashSet::new(),
            under_way: JoinSet::new(),
            recall: CancellationToken::new(),
            delivers_since,
            given_up: EntryId::FIRST,
            payments_under_way: UnderWay::default(),
            events_under_way: UnderWay::default(),
            listings_under_way: 0,
            receiving: None,
            looking_for_overdue: false,
            looking_for_unseen: false,
            more_unseen: false,
            unseen_after: None,
            more_overdue: false,
            overdue_after: None,
            overdue_passed: Passed::default(),
            releases_under_way: 0,
            gathering: Gathering::default(),
            scans: BTreeMap::new(),
            account,
            account_under_way: false,
            account_ready_at: Instant::now(),
            refused_attributes: BTreeSet::new(),
            reported: BTreeSet::new(),
            clearing,
            batches_left: None,
            misrouted_payments: 0,
            misrouted_events: 0,
            parked,
            parked_bytes,
            owed: 0,
            owed_since: Since::default(),
            listed_since: Since::default(),
            refused_lists: BTreeSet::new(),
            waiting: 0,
            page: 1,
            durable_page: 0,
            unshelved: HashMap::new(),
            writing: None,
            probing: None,
            purging: None,
        };
        leg.find_debts().await?;
        // Before anyone can ask: what an earlier process left owed is backlog from the first moment on (P2).
        leg.publish();
        Ok(leg)
    }

    /// Runs until `shutdown`, then waits up to `drain` for calls under way and writes a last checkpoint.
    pub async fn run(mut self, shutdown: CancellationToken, drain: Duration) -> Result<(), LegError> {
        let mut checkpoints = tokio::time::interval(CHECKPOINT_EVERY);
        checkpoints.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut expiries = tokio::time::interval(EXPIRE_EVERY);
        expiries.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut accounts = tokio::time::interval(READ_ACCOUNT_EVERY);
        accounts.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut purges = tokio::time::interval(old::LOOK_EVERY);
        let mut given_up = self.parts.status.given_up();
        self.await_earlier_import();
        self.check_dead_letters();
        loop {
            if self.roster.is_crowded() {
                // Here, where nothing that has just ended has begun anew.
                self.let_go();
            }
            if self.may_write() && self.page_is_full() {
                self.checkpoint()?;
            }
            // Of before: a moment that passes while things are started must not be taken for one that was seen.
            let now = Instant::now();
            self.start_what_can_start();
            self.publish();
            let retry_at = self.later.peek().map(|Reverse((at, _))| *at);
            // Nothing that is due can start while the leg is held back; the checkpoint's end wakes it.
            let goes_on = !self.is_held_back();
            let look_at = self.bases.look_at().filter(|_| self.sends() && goes_on);
            let settled_at = (self.account_ready_at > now).then_some(self.account_ready_at);
            let companies_at = self.companies.wake_at(now).filter(|_| goes_on);
            let gate = self.parts.status.gate();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(done) = self.under_way.join_next() => self.take_back(done??)?,
                entries = self.parts.source.read(), if self.may_receive() => self.receive(entries?)?,
                letters = self.replays.next(), if self.may_receive() && self.parts.books.may_admit_again() => {
                    let items = self.parts.books.admit_again(letters?);
                    self.receive_items(items)?;
                }
                Some(written) = OptionFuture::from(self.writing.as_mut()) => {
                    self.writing = None;
                    self.written(written?);
                }
                Some(healthy) = OptionFuture::from(self.probing.as_mut()) => {
                    self.probing = None;
                    if healthy { gate.probe_succeeded() } else { gate.probe_failed() }
                }
                Some(looked) = OptionFuture::from(self.purging.as_mut()) => {
                    self.purging = None;
                    self.parts.books.purge(&looked?);
                    let fits = self.parts.books.dead_bytes() <= self.parts.settings.max_dead_letter_bytes;
                    if fits && gate.paused() == Some(PauseCause::DeadLettersFull) {
                        gate.resume();
                    }
                }
                _ = purges.tick(), if self.purging.is_none() => self.purging = Some(self.look_for_old_letters()),
                () = gate.probe_due(), if self.probing.is_none() && self.parts.vendor.is_some() => {
                    self.probing = self.probe();
                }
                Ok(()) = given_up.changed() => {
                    let below = *given_up.borrow_and_update();
                    self.give_up(below);
                }
                () = until(retry_at) => self.retry_busy(),
                () = until(settled_at) => {}
                () = until(companies_at) => {}
                () = until(look_at) => {}
                () = std::future::ready(()), if goes_on && self.importing.goes_on() => {}
                _ = checkpoints.tick(), if self.may_write() => self.checkpoint()?,
                _ = expiries.tick() => {
                    self.look_for_overdue();
                    self.look_for_unseen();
                    if self.account.is_none() {
                        self.refresh_account();
                    }
                }
                _ = accounts.tick() => self.refresh_account(),
            }
        }
        self.drain(drain).await
    }

    /// Whether anything goes out at all.
    fn sends(&self) -> bool {
        self.parts.vendor.is_some() && self.parts.settings.mode != BrevoMode::Observe
    }

    fn start_what_can_start(&mut self) {
        if self.is_held_back() {
            return;
        }
        self.search_debts();
        self.start_joins();
        self.start_releases();
        self.go_on_with_import();
        self.start_payments();
        self.start_events();
        self.start_listings();
        self.start_companies();
        self.start_bases();
    }

    /// How many calls of a kind may be under way, of `open` while the destination takes them. At a closed gate one stands
    /// and waits; what would be written into more of them is better written when they can go, and into fewer (P8).
    fn at_once(&self, open: usize) -> usize {
        if self.parts.status.gate().lets_pass() { open } else { 1 }
    }

    fn may_receive(&self) -> bool {
        let room = self.waiting < MAX_WAITING && self.queues.len() < MAX_PEOPLE && !self.owes_too_many();
        let given_up = self.parts.source.next_entry() < self.given_up;
        let may_hold = !self.is_held_back() && self.parts.books.has_room();
        self.receiving.is_none() && (room || given_up) && self.may_load() && may_hold
    }

    /// Where a mode lets Brevo have few or none, what was owed before waits for another one, and nobody waits for that.
    fn owes_too_many(&self) -> bool {
        self.parts.settings.mode == BrevoMode::Live && self.owed_since.people() >= MAX_INDEBTED
    }

    fn spawn(&mut self, work: Work) {
        self.under_way.spawn(work);
    }

    fn take_back(&mut self, done: Done) -> Result<(), LegError> {
        match done {
            Done::Loaded(loaded) => self.apply(loaded)?,
            Done::Debtors(debtors) => self.take_debtors(debtors),
            Done::Payment(id, payment) => self.settle_payment(&id, payment)?,
            Done::Imported { imported, rest } => self.import_ended(imported, rest),
            Done::Members(people) => self.take_members(people),
            Done::EarlierImport => self.earlier_import_ended(),
            Done::Account(read) => self.take_account(read)?,
            Done::Events { line, events, sent, doubtful, note, batches_left } => {
                self.batches_left = batches_left;
                self.events_under_way.end(line);
                self.settle_events(events, sent, doubtful, note)?;
            }
            Done::Listed(call, listed) => self.settle_listing(call, listed),
            Done::Shelf(id, rows, scan) => self.take_from_shelf(&id, rows, scan)?,
            Done::Moved(id, rows, scan) => self.take_moved(&id, rows, scan),
            Done::Overdue(overdue) => self.expire(overdue),
            Done::Unseen(unseen) => self.take_unseen(unseen),
            Done::Companies(back) => self.take_back_companies(back)?,
            Done::Waiting(waiting) => self.take_waiting(waiting),
            Done::Bases(asked) => self.take_asked(asked),
        }
        Ok(())
    }

    fn look_for_old_letters(&self) -> BoxFuture<'static, Result<old::Looked, StoreError>> {
        let before = self.parts.clock.now() - self.parts.settings.keep_dead_letters;
        self.parts.books.look_for_old_letters(&self.parts.state, before)
    }

    fn probe(&self) -> Option<BoxFuture<'static, bool>> {
        let vendor = self.parts.vendor.as_ref()?;
        let probing = vendor.probe.clone().oneshot(vendor.calls.probe());
        Some(Box::pin(async move { probing.await.is_ok_and(|answer| outcome::judge(&answer) == Verdict::Definite) }))
    }

    /// Holds the destination after an answer that says that an endpoint is not there, `times` in a row. The gate cannot
    /// count them: to it the answer was a definite one.
    fn hold(&self, refusal: &str, times: u32) {
        tracing::warn!(refusal, times, "Brevo does not know an endpoint: check connectors.brevo.base_url");
        let wait = MISROUTED.saturating_mul(1 << times.saturating_sub(1).min(6)).min(Duration::from_secs(60));
        self.parts.status.gate().record(Verdict::RateLimited { after: Some(wait) });
    }

    fn check_dead_letters(&self) {
        if self.parts.books.dead_bytes() > self.parts.settings.max_dead_letter_bytes {
            self.parts.status.gate().pause(PauseCause::DeadLettersFull);
        }
    }
}

/// Sleeps until `at`; for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
