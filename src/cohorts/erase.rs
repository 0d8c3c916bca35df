//! What runs know of a person, taken away.

use std::sync::Arc;

use super::rows::Rows;
use super::run::{Held, RUN, Run};
use crate::store::{KeyRange, State, StoreError, Table, Walk, WriteBatch};

/// Runs read at once.
const PAGE: usize = 500;

/// Adds to `batch` what takes away all that runs know of `ids`.
pub async fn take(state: &Arc<dyn State>, ids: &[String], batch: &mut WriteBatch) -> Result<(), StoreError> {
    let mut walk = Walk::new(state.as_ref(), Table::CohortRuns, KeyRange::prefix([RUN]), PAGE);
    while let Some(rows) = walk.next().await? {
        for (_, value) in rows {
            let run = Run::read(&value)?;
            if run.held() == Held::Nothing {
                continue;
            }
            let rows = Rows { state: state.as_ref(), run: &run.id };
            rows.take(ids, batch).await?;
        }
    }
    Ok(())
}
