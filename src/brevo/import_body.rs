//! The body of one import, written row by row: whoever composes it need not hold its people (contract §3.6).

use super::identifiers::ListId;
use super::limits::MAX_IMPORT_BYTES;
use super::pack::write_json;
use super::wire::ImportContact;

const HEAD: &[u8] = b"{\"jsonBody\":[";

/// Contacts that exist are updated, nothing is emptied, and nobody is mailed about it.
#[derive(Debug)]
pub struct ImportBody {
    body: Vec<u8>,
    tail: Vec<u8>,
    rows: usize,
    row: Vec<u8>,
}

impl ImportBody {
    /// `lists` must not be empty: Brevo wants one.
    pub fn new(lists: &[ListId]) -> Self {
        let mut tail = br#"],"listIds":"#.to_vec();
        write_json(&mut tail, lists);
        tail.extend_from_slice(
            br#","updateExistingContacts":true,"emptyContactsAttributes":false,"disableNotification":true}"#,
        );
        // All of it at once: growing, it would be there twice. What is not written to takes no memory.
        let mut body = Vec::with_capacity(MAX_IMPORT_BYTES);
        body.extend_from_slice(HEAD);
        Self { body, tail, rows: 0, row: Vec::new() }
    }

    /// False when it is full, and `contact` is not in it. One that is too large by itself travels alone: only Brevo can
    /// refuse it, and the refusal costs nobody else.
    pub fn push(&mut self, contact: &ImportContact) -> bool {
        self.row.clear();
        write_json(&mut self.row, contact);
        let full = self.body.len() + 1 + self.row.len() + self.tail.len() > MAX_IMPORT_BYTES;
        if self.rows > 0 && full {
            return false;
        }
        if self.rows > 0 {
            self.body.push(b',');
        }
        self.body.extend_from_slice(&self.row);
        self.rows += 1;
        true
    }

    /// Contacts in it.
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn into_json(mut self) -> Vec<u8> {
        self.body.extend_from_slice(&self.tail);
        self.body
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::brevo::coerce::AttributeValue;
    use crate::brevo::identifiers::Email;

    fn contact(n: usize, text: usize) -> ImportContact {
        ImportContact {
            email: Some(Email::parse(&format!("u{n}@example.com")).unwrap()),
            attributes: [("PLAN".to_owned(), AttributeValue::Text("x".repeat(text)))].into(),
        }
    }

    #[test]
    fn a_body_is_full_at_the_advised_size_and_holds_every_row_that_was_taken() {
        let mut body = ImportBody::new(&[ListId(15)]);
        let taken = (0..).take_while(|n| body.push(&contact(*n, 1_000_000))).count();
        assert_eq!((taken, body.len()), (7, 7));
        assert!(body.push(&contact(7, 10)), "what is smaller may still fit");
        let json = body.into_json();
        assert!(json.len() <= MAX_IMPORT_BYTES);
        let json: Value = serde_json::from_slice(&json).unwrap();
        let rows = json["jsonBody"].as_array().unwrap();
        assert_eq!(rows.len(), 8);
        assert_eq!(rows[7]["email"], "u7@example.com");
        assert_eq!(json["listIds"], serde_json::json!([15]));
    }

    #[test]
    fn a_row_that_is_too_large_travels_alone() {
        let mut body = ImportBody::new(&[ListId(15)]);
        assert!(body.push(&contact(0, MAX_IMPORT_BYTES)));
        assert!(!body.push(&contact(1, 1)));
    }
}
