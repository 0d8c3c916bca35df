//! Editing a record's text in place: replace spans and insert fragments, leave every other byte as it came.

use std::fmt::Write as _;
use std::ops::Range;

/// The edits of one record. Kept and cleared from record to record, so that a batch allocates once.
#[derive(Debug, Default)]
pub struct Edits {
    /// Spans of the request's text and what takes their place, as a span of `fragments`.
    list: Vec<(Range<usize>, Range<usize>)>,
    fragments: String,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn clear(&mut self) {
        self.list.clear();
        self.fragments.clear();
    }

    /// Replaces `span` by what `value` displays. Spans of one record must not overlap.
    pub fn replace(&mut self, span: Range<usize>, value: impl std::fmt::Display) {
        let start = self.fragments.len();
        let written = write!(self.fragments, "{value}");
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        self.list.push((span, start..self.fragments.len()));
    }

    /// Adds a member behind the last one of the object whose closing brace stands at `brace`; the object is not empty.
    /// `key` needs no escapes; `value` displays as JSON.
    pub fn append(&mut self, brace: usize, key: &str, value: impl std::fmt::Display) {
        self.replace(brace..brace, format_args!(",\"{key}\":{value}"));
    }

    /// Writes `text[record]` with the edits applied to the end of `out`.
    pub fn apply(&mut self, text: &str, record: Range<usize>, out: &mut Vec<u8>) {
        // Stable: several appends at one brace keep their order.
        self.list.sort_by_key(|(span, _)| span.start);
        let mut from = record.start;
        for (span, fragment) in &self.list {
            out.extend_from_slice(&text.as_bytes()[from..span.start]);
            out.extend_from_slice(&self.fragments.as_bytes()[fragment.clone()]);
            from = span.end;
        }
        out.extend_from_slice(&text.as_bytes()[from..record.end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_leave_other_bytes_alone() {
        let text = r#"[ {"a" : 1 , "b":"x"} ]"#;
        let record = 2..21;
        assert_eq!(&text[record.clone()], r#"{"a" : 1 , "b":"x"}"#);
        let mut edits = Edits::default();
        edits.append(20, "c", 3);
        edits.replace(17..20, "\"y\"");
        edits.append(20, "d", "\"z\"");
        edits.replace(9..10, 2);
        let mut out = b">".to_vec();
        edits.apply(text, record, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#">{"a" : 2 , "b":"y","c":3,"d":"z"}"#);
    }
}
