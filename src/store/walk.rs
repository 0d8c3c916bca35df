//! A range of a table from its beginning to its end, some pairs at a time.

use super::{KeyRange, Pair, State, StoreError, Table};

/// Reads on behind what it has read, whatever is written or deleted meanwhile: a pair that stands there throughout comes once.
pub struct Walk<'a> {
    state: &'a dyn State,
    table: Table,
    /// What is still to be read; `None` at the end.
    rest: Option<KeyRange>,
    page: usize,
}

impl<'a> Walk<'a> {
    /// `page` pairs are read at once.
    pub fn new(state: &'a dyn State, table: Table, range: KeyRange, page: usize) -> Self {
        Self { state, table, rest: Some(range), page }
    }

    /// The next pairs in key order, at least one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Pair>>, StoreError> {
        let Some(range) = self.rest.take() else { return Ok(None) };
        let pairs = self.state.scan(self.table, range.clone(), self.page).await?;
        let Some((last, _)) = pairs.last() else { return Ok(None) };
        if pairs.len() >= self.page {
            self.rest = Some(range.after(last.clone()));
        }
        Ok(Some(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::WriteBatch;
    use crate::store::testing;

    #[tokio::test]
    async fn every_pair_comes_once_whatever_the_page() {
        let (_directory, state) = testing::state();
        let mut batch = WriteBatch::new();
        let keys: Vec<Vec<u8>> =
            (0_u8..9).map(|n| vec![b'k', n / 3, n % 3]).chain([vec![b'k', 1], vec![b'l']]).collect();
        keys.iter().for_each(|key| batch.put(Table::Meta, key.clone(), "x"));
        state.write(batch).await.unwrap();
        let mut expected: Vec<_> = keys.into_iter().filter(|key| key[0] == b'k').collect();
        expected.sort();
        for page in [1, 2, 5, 10, 100] {
            let mut walk = Walk::new(state.as_ref(), Table::Meta, KeyRange::prefix("k"), page);
            let mut found = Vec::new();
            while let Some(pairs) = walk.next().await.unwrap() {
                assert!(!pairs.is_empty() && pairs.len() <= page);
                found.extend(pairs.into_iter().map(|(key, _)| key));
            }
            assert_eq!(found, expected, "{page}");
        }
    }
}
