//! A value as it stands in a request's text, and the braces around it.

use std::ops::Range;

use serde_json::value::RawValue;

/// A value's JSON text, borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
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

/// Address of the byte after the last value read in an object: where the search for its closing brace begins.
pub(super) type EndAddress = usize;

pub(super) fn end_address(raw: Raw<'_>) -> EndAddress {
    raw.0.as_ptr() as usize + raw.0.len()
}

/// The first `}` at or after `from`; only white space stands between, because the text has been parsed.
pub(super) fn closing_brace(text: &str, from: EndAddress) -> Option<usize> {
    let from = from.wrapping_sub(text.as_ptr() as usize);
    let rest = text.as_bytes().get(from..)?;
    rest.iter().position(|byte| *byte == b'}').map(|at| from + at)
}

/// The opening brace of the object whose first value starts at `value`: back over the colon and the key. A key's opening
/// quote is the nearest one that no backslash precedes.
pub(super) fn opening_brace(text: &str, value: usize) -> Option<usize> {
    let bytes = text.as_bytes().get(..value)?;
    let colon = bytes.iter().rposition(|byte| *byte == b':')?;
    let mut quote = bytes[..colon].iter().rposition(|byte| *byte == b'"')?;
    loop {
        quote = bytes[..quote].iter().rposition(|byte| *byte == b'"')?;
        if quote == 0 || bytes[quote - 1] != b'\\' {
            break;
        }
    }
    bytes[..quote].iter().rposition(|byte| *byte == b'{')
}

/// How deep arrays and objects nest in a value's text: 0 for a scalar, 1 for `{}`.
pub(super) fn depth(raw: Raw<'_>) -> usize {
    if !raw.0.starts_with(['{', '[']) {
        return 0;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in raw.0.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let of = |text: &'static str| depth(Raw(text));
        assert_eq!(of("1"), 0);
        assert_eq!(of("{}"), 1);
        assert_eq!(of(r#"[{"a":"]]]]\"[["},[]]"#), 2);
    }
}
