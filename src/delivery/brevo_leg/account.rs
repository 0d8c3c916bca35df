//! What the leg knows of the Brevo account: attributes with their types, and how attributes are emptied. Read from Brevo,
//! kept with the store, so that a start while Brevo is away goes on with what was known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tower::ServiceExt as _;

use super::LegError;
use crate::brevo::account::{AccountModel, AttributeToCreate};
use crate::brevo::calls::Calls;
use crate::brevo::coerce::Clearing;
use crate::brevo::names::AttributeName;
use crate::brevo::outcome::{self, AttributeOutcome};
use crate::brevo::wire::AttributeList;
use crate::store::{State, StoreError, Table, WriteBatch};
use crate::vendor::stack::Stack;

/// Values sent right after an attribute was made may be dropped (contract §5: one integrator waits 3 s).
pub const SETTLING: Duration = Duration::from_millis(3_500);

const ACCOUNT: &[u8] = b"brevo/account";
const CLEARING: &[u8] = b"brevo/clearing";

/// What earlier processes learned.
pub async fn remembered(state: &Arc<dyn State>) -> Result<(Option<AccountModel>, Option<Clearing>), StoreError> {
    let mut values = state.get(Table::Vendors, vec![ACCOUNT.to_vec(), CLEARING.to_vec()]).await?.into_iter();
    // What cannot be read is learned again.
    let account = values.next().flatten().and_then(|value| serde_json::from_slice(&value).ok());
    let clearing = values.next().flatten().and_then(|value| serde_json::from_slice(&value).ok());
    Ok((account, clearing))
}

pub fn remember_account(account: &AccountModel, batch: &mut WriteBatch) -> Result<(), StoreError> {
    put(ACCOUNT, account, batch)
}

pub fn remember_clearing(clearing: Clearing, batch: &mut WriteBatch) -> Result<(), StoreError> {
    put(CLEARING, &clearing, batch)
}

fn put(key: &[u8], value: &impl serde::Serialize, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let value = serde_json::to_vec(value).map_err(|e| StoreError::Failed(e.to_string()))?;
    batch.put(Table::Vendors, key, value);
    Ok(())
}

/// What reading the account found.
#[derive(Debug)]
pub struct Read {
    /// `None`: the answer cannot be read.
    pub account: Option<AccountModel>,
    /// Wanted attributes that could not be created: asking again for each value would cost a call each time.
    pub refused: BTreeSet<AttributeName>,
    /// Whether an attribute was created.
    pub created: bool,
}

/// Reads the account, after creating `wanted`.
pub async fn read(stack: Stack, calls: Calls, wanted: Vec<AttributeToCreate>) -> Result<Read, LegError> {
    let mut created = Vec::new();
    for attribute in &wanted {
        let answer = stack.clone().oneshot(calls.create_attribute(attribute)).await?;
        match outcome::attribute_created(&answer) {
            AttributeOutcome::Created => {
                tracing::info!(attribute = %attribute.name, kind = attribute.kind.label(), "attribute created at Brevo");
                created.push(attribute);
            }
            AttributeOutcome::ReadAgain(refusal) => {
                let (status, code) = (refusal.status, &refusal.code);
                tracing::warn!(attribute = %attribute.name, status, code, "Brevo did not create an attribute");
            }
        }
    }
    let answer = stack.oneshot(calls.attributes()).await?;
    let list: AttributeList = match outcome::read(&answer) {
        Ok(list) => list,
        Err(error) => {
            tracing::warn!(%error, "Brevo's attributes cannot be read");
            let refused = wanted.iter().map(|attribute| attribute.name.clone()).collect();
            return Ok(Read { account: None, refused, created: !created.is_empty() });
        }
    };
    let mut account = AccountModel::new(&list, []);
    for attribute in &created {
        // A list that lags behind must not make a new attribute look refused.
        account.attributes.entry(attribute.name.clone()).or_insert_with(|| attribute.kind.kind());
    }
    let refused = account.missing(wanted.iter().map(|attribute| &attribute.name)).into_iter().collect();
    Ok(Read { account: Some(account), refused, created: !created.is_empty() })
}
