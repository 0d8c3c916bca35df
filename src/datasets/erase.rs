//! What runs know of a person, taken away.

use std::sync::Arc;

use super::desk;
use super::kept::Rows;
use super::run::Held;
use crate::store::{State, StoreError, WriteBatch};

/// Adds to `batch` what takes away all that runs know of `ids`.
pub async fn take(state: &Arc<dyn State>, ids: &[String], batch: &mut WriteBatch) -> Result<(), StoreError> {
    for run in desk::runs(state).await? {
        if run.held != Held::Nothing {
            let rows = Rows { state: state.as_ref(), run: &run.id };
            ids.iter().for_each(|id| rows.take(id, batch));
        }
    }
    Ok(())
}
