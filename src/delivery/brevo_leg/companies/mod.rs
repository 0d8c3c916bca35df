//! Companies: what Brevo is owed for Mixpanel's groups, and the few calls an hour that pay for it.
//!
//! ```text
//! group record ─► fold into its company ─► debt ─► line, oldest first ─┬─ payer: look for it, make it, change it, delete it
//!                                                                     └─ import: many at once, when the line is long
//! a person's groups ─► links, once Brevo has contact and company ─► link-unlink, one call for all of a company's
//! ```
//!
//! Everything here has 100 calls an hour (contract §1.3), so it has its own line, its own gate and one call at a time;
//! contacts and events never wait for it. While a call waits for its turn, further records join the debts in the line.
//!
//! Invariants:
//! * a record leaves the ledger in the same write as the debt that it became ([`Companies::put_changes`]);
//! * a company id is one group's; what a lookup finds is taken only when nobody has it;
//! * a debt is settled by Brevo's answer alone;
//! * no company is made that a crash may have cut off the making of, before it has been looked for ([`making`]).

mod compose;
mod directory;
mod import;
mod links;
mod making;
mod pace;
mod payer;
mod paying;
mod shelved;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::import::Imported;
use self::links::{LinksOwed, LinksPaid};
use self::payer::Paid;
use super::Parts;
use crate::brevo::companies::CompanyId;
use crate::brevo::companies::attributes::{CompanyAttributes, NewAttribute};
use crate::clock::UnixMillis;
use crate::delivery::LegError;
use crate::delivery::books::{Books, Item};
use crate::delivery::history::Outcome;
use crate::delivery::status::GroupsOwed;
use crate::mapping::{CompiledMapping, GroupDecision, GroupOp, GroupView, map_group};
use crate::people::company::rows::{self, Owed};
use crate::people::company::{self, Company, Debt, GroupId, Place, group_id};
use crate::people::roster::{self, PersonId};
use crate::record::Record;
use crate::settlement::SkipRule;
use crate::store::{State, StoreError, WriteBatch};
use crate::vendor::budget::Limit;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack::Stack;

pub(super) use self::payer::Account;

/// Companies kept in memory. One with a handful of attributes takes about half a kilobyte.
const CAPACITY: usize = 10_000;

/// How calls for companies go out.
pub struct CompanyVendor {
    pub stack: Stack,
    /// Theirs alone: an account that may not use companies must not hold its contacts back.
    pub gate: Arc<SharedGate>,
}

/// Work for companies that has come back.
pub(super) enum Back {
    Loaded(Vec<(GroupId, Company)>),
    Account(Account),
    Paid(GroupId, Box<Paid>),
    Links {
        group: GroupId,
        companies: Vec<(GroupId, Company)>,
        people: Vec<PersonId>,
        loaded: Vec<(PersonId, roster::Resident)>,
    },
    LinksPaid(GroupId, Box<LinksPaid>),
    Imported(Imported),
}

/// A company in memory.
#[derive(Debug, Default)]
struct Resident {
    company: Company,
    /// Covered by the call under way; owed again when it fails.
    paying: Option<Debt>,
}

impl Resident {
    /// Everything that is owed, whether a call is under way for it or not.
    fn owed(&self) -> Option<Debt> {
        company::join(self.paying.clone(), self.company.debt.clone())
    }
}

pub(super) struct Companies {
    residents: HashMap<GroupId, Resident>,
    dirty: BTreeSet<GroupId>,
    /// Groups that are owed something, in memory or not.
    owed: HashMap<GroupId, Owed>,
    /// The same, oldest record first.
    line: BTreeSet<(UnixMillis, GroupId)>,
    records: u64,
    /// Companies that are owed links.
    links: BTreeMap<GroupId, LinksOwed>,
    /// Whose links went last: every company has its turn.
    linked_last: Option<GroupId>,
    /// Links have the next turn; they and the line take turns.
    links_next: bool,
    /// The page with the last rows that were settled: before it is durable they would be read again.
    links_page: u64,

    /// The page with what came of the last making.
    settled_page: u64,

    attributes: Option<CompanyAttributes>,
    /// When the account's attributes were read by this process.
    read_at: Option<Instant>,
    /// Attributes to be made first.
    wanted: Vec<NewAttribute>,
    /// Those that Brevo would not make; they are not asked for again by this process.
    refused: BTreeSet<String>,
    reported: BTreeSet<(String, &'static str)>,

    /// Groups that an import or a reading of the account has not served: they are paid for by themselves.
    alone: BTreeSet<GroupId>,
    /// An earlier process's import has been looked after.
    import_awaited: bool,
    /// When the last import was made up: what was owed before and still is, no import can carry.
    imported_at: UnixMillis,
    /// Payments that those have before the next import.
    ones_next: u32,

    /// Something is under way; what comes in meanwhile joins the line.
    busy: bool,
    /// Nothing goes out before.
    next_at: Instant,
    /// Calls in a row that met no endpoint.
    misrouted: u32,
    /// When the companies' own gate is opened again to see whether the account allows them by now.
    retry_pause_at: Option<Instant>,
    calls_per_hour: u64,
}

impl Companies {
    /// Reads which groups earlier processes left owed, and what was learned of the account.
    pub async fn open(parts: &mut Parts) -> Result<Self, LegError> {
        making::doubt_absent(&parts.state).await?;
        let mut companies = Self::owed_at_start(&parts.state).await?;
        shelved::release(parts, &mut companies).await?;
        Ok(companies)
    }

    async fn owed_at_start(state: &Arc<dyn State>) -> Result<Self, StoreError> {
        let mut companies = Self {
            residents: HashMap::new(),
            dirty: BTreeSet::new(),
            owed: HashMap::new(),
            line: BTreeSet::new(),
            records: 0,
            links: BTreeMap::new(),
            linked_last: None,
            links_next: false,
            links_page: 0,
            settled_page: 0,
            attributes: payer::remembered(state).await?,
            read_at: None,
            wanted: Vec::new(),
            refused: BTreeSet::new(),
            reported: BTreeSet::new(),
            alone: BTreeSet::new(),
            import_awaited: false,
            imported_at: UnixMillis::default(),
            ones_next: 0,
            busy: false,
            next_at: Instant::now(),
            misrouted: 0,
            retry_pause_at: None,
            calls_per_hour: 100,
        };
        let mut after = None;
        loop {
            let page = rows::owed(state, after.as_ref(), 2_000).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (group, owed) in page {
                companies.count(&group, Some(owed));
            }
        }
        let mut after = None;
        loop {
            let page = rows::linked_groups(state, &mut after, 2_000).await?;
            if page.is_empty() {
                return Ok(companies);
            }
            for group in page {
                companies.count_links(&group, 1);
            }
        }
    }

    /// Whether something is under way that people in memory are needed for.
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Those of `groups` that are not in memory, each once.
    pub fn missing<'a>(&self, groups: impl Iterator<Item = &'a GroupId>) -> Vec<GroupId> {
        let missing: BTreeSet<_> = groups.filter(|group| !self.residents.contains_key(*group)).cloned().collect();
        missing.into_iter().collect()
    }

    /// Takes in what was read. Whatever is in memory already is newer.
    pub fn take_in(&mut self, loaded: Vec<(GroupId, Company)>) {
        for (group, company) in loaded {
            self.residents.entry(group).or_insert(Resident { company, paying: None });
        }
    }

    /// Folds a record of a group that is in memory; the ledger has done with it.
    pub fn take(&mut self, group: &GroupId, item: &Item, ops: Vec<GroupOp>, books: &mut Books) {
        books.hand_over(item.ticket, Outcome::Owed);
        // Folded before a crash: what is owed for it is in the company's debt already.
        self.edit(group, |resident| resident.company.fold(item.position, item.record.received_at, ops));
    }

    /// A group record that is sent again: its company's present values of what it touches are owed.
    pub(super) fn take_again(&mut self, group: &GroupId, item: &Item, ops: &[GroupOp], books: &mut Books) {
        let write = item.again.as_ref().and_then(|again| again.write.as_ref());
        let touched: BTreeSet<String> = match write {
            Some(write) => write.attributes.clone(),
            None => ops.iter().filter_map(GroupOp::attribute).map(str::to_owned).collect(),
        };
        let deletes = write.is_some_and(|write| write.deletion) || ops.iter().any(|op| matches!(op, GroupOp::Delete));
        books.hand_over(item.ticket, Outcome::Owed);
        self.edit(group, |resident| {
            resident.company.owe_again(item.position, item.record.received_at, touched, deletes);
        });
    }

    /// Changes a company that is in memory, and everything that follows from it.
    fn edit<T>(&mut self, group: &GroupId, change: impl FnOnce(&mut Resident) -> T) -> T {
        let resident = self.residents.entry(group.clone()).or_default();
        let changed = change(resident);
        let owed = resident.owed().map(|debt| Owed { oldest: debt.oldest, records: debt.records });
        self.dirty.insert(group.clone());
        self.count(group, owed);
        changed
    }

    fn count(&mut self, group: &GroupId, owed: Option<Owed>) {
        let before = match owed {
            Some(owed) => self.owed.insert(group.clone(), owed),
            None => self.owed.remove(group),
        };
        if let Some(before) = before {
            self.records -= before.records;
            self.line.remove(&(before.oldest, group.clone()));
        }
        if let Some(owed) = owed {
            self.records += owed.records;
            self.line.insert((owed.oldest, group.clone()));
        }
    }

    /// Adds the rows of every company that has changed since the last call.
    pub fn put_changes(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        for group in std::mem::take(&mut self.dirty) {
            let Some(resident) = self.residents.get(&group) else { continue };
            let mut stored = resident.company.clone();
            stored.debt = resident.owed();
            rows::put(&group, &stored, self.owed.get(&group).copied(), batch)?;
        }
        Ok(())
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Makes room when there are too many. Rows of changes must be written by then, and nothing on the way from the store.
    pub fn let_go(&mut self) {
        if self.residents.len() > CAPACITY && !self.busy {
            let dirty = &self.dirty;
            self.residents.retain(|group, _| dirty.contains(group));
        }
    }

    /// Company ids that groups in memory have: their rows may not be in the store yet.
    fn held_ids(&self) -> HashSet<CompanyId> {
        let id = |resident: &Resident| match &resident.company.place {
            Place::At { id, .. } => Some(id.clone()),
            Place::Unknown | Place::Absent => None,
        };
        self.residents.values().filter_map(id).collect()
    }

    pub fn standing(&self) -> GroupsOwed {
        GroupsOwed {
            groups: self.line.len() as u64,
            records: self.records,
            oldest: self.line.first().map(|(oldest, _)| *oldest),
            links: self.links.values().map(|links| links.people).sum(),
            calls: self.line_calls(),
            calls_per_hour: self.calls_per_hour,
        }
    }

    /// When there is something to look at again, if nothing happens before.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let waits = !self.line.is_empty() || self.links_ready() > 0;
        let next = (!self.busy && waits && self.next_at > now).then_some(self.next_at);
        [next, self.retry_pause_at].into_iter().flatten().min()
    }

    /// The present limit of these calls, as the last call found it.
    fn learn_limit(&mut self, window: Option<(Limit, u64)>) {
        let Some((limit, left)) = window else { return };
        self.calls_per_hour = limit.amount.saturating_mul(3600) / limit.span.as_secs().clamp(1, 3600);
        self.next_at = Instant::now() + pace::linger(limit, left);
    }
}

/// What a group record asks for.
#[derive(Debug)]
pub(super) enum GroupWish {
    Change { group: GroupId, ops: Vec<GroupOp> },
    Skip(SkipRule),
    Unreadable(String),
}

/// Which group the record updates, whatever it does there.
pub fn group_of(record: &Record) -> Option<GroupId> {
    let view = GroupView::parse(&record.body).ok()?;
    Some(group_id(&view.group_key?, &view.group_id?))
}

pub(super) fn group_wish(record: &Record, mapping: &CompiledMapping) -> GroupWish {
    let view = match GroupView::parse(&record.body) {
        Ok(view) => view,
        Err(error) => return GroupWish::Unreadable(error.to_string()),
    };
    match (map_group(&view, mapping), view.group_key, view.group_id) {
        (GroupDecision::Skip(rule), ..) => GroupWish::Skip(rule),
        (GroupDecision::Change(ops), Some(key), Some(id)) => GroupWish::Change { group: group_id(&key, &id), ops },
        (GroupDecision::Change(_), ..) => GroupWish::Skip(SkipRule::NoPerson),
    }
}

/// First wait after an answer that says that an endpoint is not there; doubles up to [`MAX_HOLD`].
const FIRST_HOLD: Duration = Duration::from_secs(36);
const MAX_HOLD: Duration = Duration::from_secs(3600);

impl Companies {
    fn hold(&mut self) {
        self.misrouted = self.misrouted.saturating_add(1);
        let wait = FIRST_HOLD.saturating_mul(1 << (self.misrouted - 1).min(7)).min(MAX_HOLD);
        self.next_at = Instant::now() + wait;
    }
}
