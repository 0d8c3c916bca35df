//! Addresses and numbers whose contact was blocklisted when it was deleted: whoever brings one of them back is created
//! blocklisted, for nobody is ever resubscribed. Kept as keyed hashes among the tombstones, for as long as those.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::SharedClock;
use crate::privacy::{Mark, Tombstone, Tombstones};
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};

/// First byte of the row's key.
pub const ROW: u8 = b'a';

/// Which of a contact's channels are to stay shut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    pub email: bool,
    pub sms: bool,
}

impl Blocked {
    pub fn any(self) -> bool {
        self.email || self.sms
    }
}

#[derive(Clone)]
pub struct Blocklist {
    pub state: Arc<dyn State>,
    pub tombstones: Arc<Tombstones>,
    pub clock: SharedClock,
}

impl Blocklist {
    /// Once this returns, contacts of these `addresses` (lower case) and numbers (with their plus) come back blocklisted,
    /// also after a crash.
    pub async fn remember(&self, addresses: &[String]) -> Result<(), StoreError> {
        let erased = self.tombstones.now();
        let marks: BTreeSet<Mark> = addresses.iter().map(|address| erased.of_address(address)).collect();
        drop(erased);
        if marks.is_empty() {
            return Ok(());
        }
        let value = serde_json::to_vec(&Tombstone { since: self.clock.now() })
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        let mut batch = WriteBatch::new();
        for Mark(hash) in &marks {
            let mut key = vec![ROW];
            key.extend_from_slice(hash);
            batch.put(Table::Tombstones, key, value.clone());
        }
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        self.tombstones.replace(|_, blocklisted| blocklisted.extend(marks));
        Ok(())
    }
}
