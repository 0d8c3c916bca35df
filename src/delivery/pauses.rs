//! Pauses made by hand, kept with the store: whoever holds a destination back means it until they say otherwise, and a
//! restart is not them saying so.

use std::sync::Arc;

use crate::record::Destination;
use crate::store::{State, StoreError, Table, WriteBatch};

fn row(destination: Destination) -> Vec<u8> {
    format!("paused/{}", destination.label()).into_bytes()
}

/// Writes down that somebody has paused the destination, or resumed it. To be called before the gate is moved: a pause
/// that was answered with success has to hold through a crash.
pub async fn remember(state: &Arc<dyn State>, destination: Destination, paused: bool) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    if paused {
        batch.put(Table::Meta, row(destination), "by_hand");
    } else {
        batch.delete(Table::Meta, row(destination));
    }
    state.write(batch).await
}

/// Whether somebody has paused the destination, in this process or an earlier one.
pub async fn remembered(state: &Arc<dyn State>, destination: Destination) -> Result<bool, StoreError> {
    let found = state.get(Table::Meta, vec![row(destination)]).await?;
    Ok(found.into_iter().flatten().next().is_some())
}
