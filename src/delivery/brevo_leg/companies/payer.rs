//! Paying for one company: the calls that it may take, from the first look to a definite answer.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tower::ServiceExt as _;

use super::compose::{Composed, NotPlaced, compose};
use super::making::Making;
use super::pace;
use crate::brevo::calls::Calls;
use crate::brevo::coerce::AttributeValue;
use crate::brevo::companies::attributes::{Attribute, CompanyAttributes, NewAttribute};
use crate::brevo::companies::{self as brevo, ChangeOutcome, CompanyId, CompanyWrite, CreateOutcome};
use crate::brevo::outcome::{self, ReadError, Refusal};
use crate::delivery::LegError;
use crate::delivery::status::LegStatus;
use crate::mapping::CompiledMapping;
use crate::mapping::group::attributes_of;
use crate::people::company::{self, rows};
use crate::people::company::{Company, Debt, Deletion, GroupId, Place, own_id};
use crate::store::{State, StoreError, Table, WriteBatch};
use crate::vendor::budget::{Budgets, Limit};
use crate::vendor::stack::Stack;
use crate::vendor::{Family, VendorAnswer, VendorRequest};

/// Between two looks at a budget of which companies have had their share.
const SHARE_RECHECK: Duration = Duration::from_secs(36);

const ACCOUNT: &[u8] = b"brevo/company_attributes";

/// Makes calls for companies, one after the other.
#[derive(Clone)]
pub struct Caller {
    pub calls: Calls,
    pub stack: Stack,
    pub budgets: Arc<Budgets>,
    /// Whose gate closes for companies too: by hand, or because Brevo is in trouble.
    pub status: LegStatus,
}

impl Caller {
    pub async fn call(&self, request: VendorRequest) -> Result<VendorAnswer, LegError> {
        while self.window().await.is_some_and(|(limit, left)| !pace::may_call(limit, left)) {
            tokio::time::sleep(SHARE_RECHECK).await;
        }
        self.status.gate().passed().await;
        Ok(self.stack.clone().oneshot(request).await?)
    }

    /// The limit in force for these calls, and what is left of it.
    pub async fn window(&self) -> Option<(Limit, u64)> {
        self.budgets.windows(Family::BrevoOther).await.into_iter().max_by_key(|(limit, _)| limit.span)
    }
}

/// What reading the account's company attributes found.
pub struct Account {
    /// `None`: the answer cannot be read.
    pub attributes: Option<CompanyAttributes>,
    pub refused: BTreeSet<String>,
    pub created: bool,
    pub window: Option<(Limit, u64)>,
}

/// What earlier processes learned.
pub async fn remembered(state: &Arc<dyn State>) -> Result<Option<CompanyAttributes>, StoreError> {
    let stored = state.get(Table::Vendors, vec![ACCOUNT.to_vec()]).await?.into_iter().next().flatten();
    // What cannot be read is learned again.
    Ok(stored.and_then(|value| serde_json::from_slice(&value).ok()))
}

pub fn remember(attributes: &CompanyAttributes, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let value = serde_json::to_vec(attributes).map_err(|e| StoreError::Failed(e.to_string()))?;
    batch.put(Table::Vendors, ACCOUNT, value);
    Ok(())
}

/// Reads the account's company attributes, after making `wanted`.
pub async fn read_account(caller: Caller, wanted: Vec<NewAttribute>) -> Result<Account, LegError> {
    let mut created = false;
    for attribute in &wanted {
        let answer = caller.call(caller.calls.create_company_attribute(attribute)).await?;
        created |= answer.status.is_success();
        if answer.status.is_success() {
            tracing::info!(
                label = attribute.label,
                kind = attribute.attribute_type,
                "company attribute created at Brevo"
            );
        } else {
            let status = answer.status.as_u16();
            tracing::warn!(label = attribute.label, status, "Brevo did not create a company attribute");
        }
    }
    let answer = caller.call(caller.calls.company_attributes()).await?;
    let attributes = match outcome::read::<Vec<Attribute>>(&answer) {
        Ok(attributes) => Some(CompanyAttributes::new(attributes)),
        Err(error) => {
            tracing::warn!(%error, "Brevo's company attributes cannot be read");
            None
        }
    };
    let lacks = |wanted: &NewAttribute| attributes.as_ref().is_none_or(|attributes| !attributes.has(&wanted.label));
    let refused = wanted.iter().filter(|wanted| lacks(wanted)).map(|wanted| wanted.label.clone()).collect();
    Ok(Account { attributes, refused, created, window: caller.window().await })
}

/// What became of a payment.
#[derive(Debug)]
pub struct Paid {
    pub end: End,
    /// What was learned of the company on the way, whatever the end.
    pub facts: Facts,
    pub not_placed: Vec<NotPlaced>,
    pub window: Option<(Limit, u64)>,
}

#[derive(Debug, PartialEq)]
pub enum End {
    /// Brevo has it. `maybe_twice`: an attempt to make the company may have worked before the one that did.
    Done {
        maybe_twice: bool,
    },
    /// Nothing of it can be placed.
    NotPlaced,
    Refused(Refusal),
    /// Attributes have to be made first; the same again then.
    Missing(Vec<NewAttribute>),
    /// Somebody has deleted it at Brevo: it is made anew.
    Gone,
    /// The endpoint is not there.
    Misrouted(Refusal),
}

const DONE: End = End::Done { maybe_twice: false };

/// What is known now that was not before.
#[derive(Debug, Default)]
pub struct Facts {
    pub place: Option<Place>,
    /// What stood at Brevo before this payment in every mapped attribute, as Mixpanel would have it.
    pub base: Option<Map<String, Value>>,
    /// The id that is no group's any more.
    pub released: Option<CompanyId>,
}

/// One payment.
pub struct Payer {
    pub caller: Caller,
    pub state: Arc<dyn State>,
    pub account: CompanyAttributes,
    pub mapping: Arc<CompiledMapping>,
    pub may_create: bool,
    /// Attributes that Brevo would not make.
    pub refused: BTreeSet<String>,
    /// Ids that are some group's, whether the store says so yet or not.
    pub held: HashSet<CompanyId>,
    pub group: GroupId,
    pub company: Company,
    pub debt: Debt,
    pub facts: Facts,
}

/// What `held`, a company's attributes, say of the attributes that its group may fill.
pub fn base_of(
    group: &str,
    held: &Map<String, Value>,
    account: &CompanyAttributes,
    mapping: &CompiledMapping,
) -> Map<String, Value> {
    let target = mapping.group(&company::key(group));
    account.base(held, target.into_iter().flat_map(attributes_of))
}

/// Ends the payment early.
type Stop = Result<Option<End>, LegError>;

impl Payer {
    pub async fn pay(mut self) -> Result<Paid, LegError> {
        let mut not_placed = Vec::new();
        let end = self.run(&mut not_placed).await?;
        Ok(Paid { end, facts: self.facts, not_placed, window: self.caller.window().await })
    }

    async fn run(&mut self, not_placed: &mut Vec<NotPlaced>) -> Result<End, LegError> {
        // As the store may have it: after a crash it would not be looked for.
        let said_absent = self.company.place == Place::Absent;
        if let Some(deletion) = self.debt.delete.clone() {
            if let Some(end) = self.delete(&deletion).await? {
                return Ok(end);
            }
            if self.debt.attributes.is_empty() {
                return Ok(DONE);
            }
        }
        if let Some(end) = self.find().await? {
            return Ok(end);
        }
        let may_create = |attribute: &str| self.may_create && !self.refused.contains(attribute);
        let composed = compose(&self.group, &self.company, &self.debt, &self.account, may_create);
        not_placed.clone_from(&composed.not_placed);
        if !composed.missing.is_empty() {
            return Ok(End::Missing(composed.missing));
        }
        match self.company.place.clone() {
            // What is to be emptied is not even known at Brevo.
            Place::At { .. } if composed.is_empty() && composed.not_placed.is_empty() => Ok(DONE),
            Place::At { .. } if composed.is_empty() => Ok(End::NotPlaced),
            Place::At { id, .. } => self.update(&id, composed).await,
            Place::Unknown | Place::Absent => {
                if said_absent {
                    Making::One.note(&self.state).await?;
                }
                self.create(composed).await
            }
        }
    }

    fn learn(&mut self, place: Place) {
        self.company.place = place.clone();
        self.facts.place = Some(place);
    }

    async fn delete(&mut self, deletion: &Deletion) -> Stop {
        let id = match self.company.place.clone() {
            Place::At { id, .. } => id,
            Place::Absent => return Ok(None),
            Place::Unknown => {
                let name = deletion.name.clone().unwrap_or_else(|| own_id(&self.group));
                match self.look(&name).await? {
                    Ok(Some(found)) => found.id,
                    Ok(None) => {
                        self.learn(Place::Absent);
                        return Ok(None);
                    }
                    Err(end) => return Ok(Some(end)),
                }
            }
        };
        let answer = self.caller.call(self.caller.calls.delete_company(&id)).await?;
        match brevo::changed(&answer) {
            ChangeOutcome::Done(_) | ChangeOutcome::NotFound => {
                self.learn(Place::Absent);
                self.facts.released = Some(id);
                Ok(None)
            }
            ChangeOutcome::Invalid(refusal) => Ok(Some(End::Refused(refusal))),
            ChangeOutcome::Misrouted(refusal) => Ok(Some(End::Misrouted(refusal))),
        }
    }

    /// Makes sure that the company's place and every value that is owed are known.
    async fn find(&mut self) -> Stop {
        let held = match self.company.place.clone() {
            Place::Absent => Map::new(),
            Place::At { .. } if !self.company.needs_base(&self.debt) => return Ok(None),
            Place::At { id, ours } => {
                let answer = self.caller.call(self.caller.calls.company(&id)).await?;
                match brevo::company(&answer) {
                    Ok(Some(found)) => {
                        self.learn(Place::At { id, ours });
                        found.attributes
                    }
                    Ok(None) => return Ok(Some(self.gone(id))),
                    Err(error) => return Ok(Some(unread(error))),
                }
            }
            Place::Unknown => {
                let name = self.company.name_without_base().unwrap_or_else(|| own_id(&self.group));
                match self.look(&name).await? {
                    Ok(Some(found)) => {
                        self.learn(Place::At { id: found.id, ours: false });
                        found.attributes
                    }
                    Ok(None) => {
                        self.learn(Place::Absent);
                        Map::new()
                    }
                    Err(end) => return Ok(Some(end)),
                }
            }
        };
        let base = base_of(&self.group, &held, &self.account, &self.mapping);
        self.company.take_base(&base);
        self.facts.base = Some(base);
        Ok(None)
    }

    /// The oldest company of this name that is no group's yet.
    async fn look(&self, name: &str) -> Result<Result<Option<brevo::Company>, End>, LegError> {
        let answer = self.caller.call(self.caller.calls.companies_named(name)).await?;
        let found = match brevo::page(&answer) {
            Ok(found) => found,
            Err(error) => return Ok(Err(unread(error))),
        };
        // A filter that the vendor does not know would be no filter.
        let found: Vec<_> = found.into_iter().filter(|company| company.name() == Some(name)).collect();
        let claimed = rows::claimed(&self.state, found.iter().map(|company| company.id.clone()).collect()).await?;
        let free = |company: &brevo::Company| !claimed.contains_key(&company.id) && !self.held.contains(&company.id);
        Ok(Ok(found.into_iter().find(free)))
    }

    fn gone(&mut self, id: CompanyId) -> End {
        self.learn(Place::Absent);
        self.facts.released = Some(id);
        End::Gone
    }

    async fn create(&mut self, composed: Composed) -> Result<End, LegError> {
        // Nothing to empty in a company that is about to be made.
        let mut write = composed.write;
        write.attributes.retain(|name, _| !composed.clear.contains(name));
        let answer = self.caller.call(self.caller.calls.create_company(&write)).await?;
        Ok(match brevo::created(&answer) {
            CreateOutcome::Created(id) => {
                self.learn(Place::At { id, ours: true });
                End::Done { maybe_twice: answer.doubtful > 0 }
            }
            CreateOutcome::Invalid(refusal) => End::Refused(refusal),
            CreateOutcome::Misrouted(refusal) => {
                // A success that does not say what was made: it is looked for before another is.
                if (200..300).contains(&refusal.status) {
                    self.learn(Place::Unknown);
                }
                End::Misrouted(refusal)
            }
        })
    }

    /// Whether null or an empty text empties an attribute is not documented: null is tried, the answer shows the company,
    /// and what still stands there is tried the other way.
    async fn update(&mut self, id: &CompanyId, composed: Composed) -> Result<End, LegError> {
        let answer = self.caller.call(self.caller.calls.update_company(id, &composed.write)).await?;
        let now = match brevo::changed(&answer) {
            ChangeOutcome::Done(now) => now.unwrap_or_default(),
            ChangeOutcome::NotFound => return Ok(self.gone(id.clone())),
            ChangeOutcome::Invalid(refusal) => return Ok(End::Refused(refusal)),
            ChangeOutcome::Misrouted(refusal) => return Ok(End::Misrouted(refusal)),
        };
        let filled = |name: &String| now.get(name).is_some_and(|value| !value.is_null() && value != "");
        let left = composed.clear.into_iter().filter(filled);
        let attributes: std::collections::BTreeMap<_, _> =
            left.map(|name| (name, AttributeValue::Text(String::new()))).collect();
        if !attributes.is_empty() {
            let write = CompanyWrite { attributes, ..CompanyWrite::default() };
            // An answer that refuses this says that the attribute cannot be emptied; everything else is done.
            self.caller.call(self.caller.calls.update_company(id, &write)).await?;
        }
        Ok(DONE)
    }
}

/// An answer to a question is either no answer of Brevo's or a refusal of it; neither says anything of the company.
fn unread(error: ReadError) -> End {
    match error {
        ReadError::Refused(refusal) | ReadError::NotFound(refusal) => End::Misrouted(refusal),
        ReadError::Unreadable(error) => {
            End::Misrouted(Refusal { status: 200, code: String::new(), message: error.to_string() })
        }
    }
}
