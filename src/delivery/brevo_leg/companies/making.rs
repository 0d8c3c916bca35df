//! What a crash leaves in doubt: companies that were being made when the process ended may be there (contract §6 knows no
//! key of ours, so nothing at Brevo would refuse to make them twice).
//!
//! A note is written before the request and taken away in the write that settles what came of it. A start that finds one
//! takes no group's word that its company is absent: it is looked for again.

use std::sync::Arc;

use crate::brevo::identifiers::ProcessId;
use crate::people::company::{Place, rows};
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};

const KEY: &[u8] = b"brevo/companies_import";
/// Groups that are owed something, read at a time.
const PAGE: usize = 1_000;

/// What was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// One company.
    One,
    /// An import whose number no answer has told.
    Import,
    Process(ProcessId),
}

impl Making {
    fn text(self) -> String {
        match self {
            Making::One => "one".to_owned(),
            Making::Import => "starting".to_owned(),
            Making::Process(process) => process.0.to_string(),
        }
    }

    fn read(text: &[u8]) -> Self {
        match std::str::from_utf8(text) {
            Ok("one") => Making::One,
            text => {
                text.ok().and_then(|text| text.parse().ok()).map_or(Making::Import, |n| Making::Process(ProcessId(n)))
            }
        }
    }

    pub async fn note(self, state: &Arc<dyn State>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.put(Table::Vendors, KEY, self.text().into_bytes());
        write_when_there_is_room(state.as_ref(), batch).await
    }

    /// What an earlier process has left.
    pub async fn left(state: &Arc<dyn State>) -> Result<Option<Self>, StoreError> {
        let stored = state.get(Table::Vendors, vec![KEY.to_vec()]).await?.into_iter().next().flatten();
        Ok(stored.map(|text| Self::read(&text)))
    }

    /// With what came of it.
    pub fn settled(batch: &mut WriteBatch) {
        batch.delete(Table::Vendors, KEY);
    }
}

/// Whoever is owed something and counts as absent is to be looked for, if an earlier process may have made it. Before
/// any of them is in memory.
pub async fn doubt_absent(state: &Arc<dyn State>) -> Result<(), StoreError> {
    if Making::left(state).await?.is_none() {
        return Ok(());
    }
    let mut after = None;
    loop {
        let page = rows::owed(state, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let companies = rows::load(state, page.iter().map(|(group, _)| group.clone()).collect()).await?;
        let mut batch = WriteBatch::new();
        for ((group, mut company), (_, owed)) in companies.into_iter().zip(page) {
            if company.place == Place::Absent {
                company.place = Place::Unknown;
                rows::put(&group, &company, Some(owed), &mut batch)?;
            }
        }
        if !batch.is_empty() {
            write_when_there_is_room(state.as_ref(), batch).await?;
        }
    }
}
