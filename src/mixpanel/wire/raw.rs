//! A value as it stands in a request's text.

use std::ops::Range;

use serde_json::value::RawValue;

/// A value's JSON text, borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The JSON text, without surrounding white space.
    pub fn text(self) -> &'a str {
        self.0
    }

    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// The string's value when this is a JSON string. Borrowed unless it has escapes.
    pub fn as_str(self) -> Option<std::borrow::Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(std::borrow::Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(self.0).ok().map(std::borrow::Cow::Owned)
    }

    /// Neither `null` nor a string of nothing but white space.
    pub fn is_present(self) -> bool {
        !self.is_null() && self.as_str().is_none_or(|text| !text.trim().is_empty())
    }

    /// Where the value stands in `text`, which must be the text it was parsed from.
    pub fn span(self, text: &str) -> Range<usize> {
        let start = (self.0.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        start..start + self.0.len()
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Raw(raw.get())
    }
}
