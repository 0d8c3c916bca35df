//! Names as Brevo takes them: events, event property keys, contact attributes.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Longest event name and event property key (contract §2.1).
pub const MAX_NAME: usize = 255;

/// Longest attribute name that the relay uses. Brevo's own limit is not documented; 50 is known to work (contract §5).
pub const MAX_ATTRIBUTE_NAME: usize = 50;

/// The name of a custom event: 1 to 255 of `[A-Za-z0-9_-]` (contract §2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EventName(String);

impl EventName {
    /// The nearest name that Brevo takes: `Sign Up` becomes `Sign_Up`. A name of which no character
    /// can stay (`购买`) becomes `event_` and a hash of it, the same every time.
    pub fn sanitised(raw: &str) -> Self {
        Self(sanitise(raw, "event").into_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The nearest event property key that Brevo takes. Different keys may meet in one name: callers resolve that.
pub fn sanitised_key(raw: &str) -> Cow<'_, str> {
    sanitise(raw, "property")
}

/// A key for `raw` that does not meet another's: the sanitised one with a hash of the original behind it.
pub fn distinguished_key(raw: &str, attempt: u64) -> String {
    let hash = xxh3_64(raw.as_bytes()).wrapping_add(attempt) & 0xffff_ffff;
    let mut key = sanitised_key(raw).into_owned();
    key.truncate(MAX_NAME - 9);
    key.push_str(&format!("_{hash:08x}"));
    key
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Replaces every run of other characters by one `_`, none at either end, and cuts at [`MAX_NAME`]; where nothing is
/// left, `fallback` and a hash of `raw` stand for it.
fn sanitise<'a>(raw: &'a str, fallback: &str) -> Cow<'a, str> {
    if !raw.is_empty() && raw.len() <= MAX_NAME && raw.chars().all(is_name_char) {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len().min(MAX_NAME));
    let mut gap = false;
    for c in raw.chars() {
        if !is_name_char(c) {
            gap = true;
            continue;
        }
        if gap && !out.is_empty() {
            out.push('_');
        }
        gap = false;
        out.push(c);
        if out.len() >= MAX_NAME {
            break;
        }
    }
    out.truncate(MAX_NAME);
    if out.is_empty() {
        out = format!("{fallback}_{:016x}", xxh3_64(raw.as_bytes()));
    }
    Cow::Owned(out)
}

/// In front of names that are kept back; no attribute's name has it.
const KEPT_BACK: char = '?';

/// The name of a contact attribute, upper case: 1 to 50 of `[A-Z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AttributeName(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeNameError {
    #[error("an attribute name cannot be empty")]
    Empty,
    #[error("an attribute name has at most {MAX_ATTRIBUTE_NAME} characters")]
    TooLong,
    #[error("an attribute name is made of letters, digits, `_` and `-`; `{0}` is none of them")]
    Character(char),
}

impl AttributeName {
    /// Upper-cases `raw`, since Brevo matches attribute names in upper case only (contract §3.1).
    pub fn parse(raw: &str) -> Result<Self, AttributeNameError> {
        let name = raw.trim();
        if name.is_empty() {
            return Err(AttributeNameError::Empty);
        }
        if name.chars().count() > MAX_ATTRIBUTE_NAME {
            return Err(AttributeNameError::TooLong);
        }
        match name.chars().find(|c| !is_name_char(*c)) {
            Some(other) => Err(AttributeNameError::Character(other)),
            None => Ok(Self(name.to_ascii_uppercase())),
        }
    }

    /// `SMS`: the phone number, which is an attribute and an identifier at once.
    pub fn sms() -> Self {
        Self("SMS".to_owned())
    }

    /// `EMAIL`: only written to change the address of a contact that is addressed otherwise (contract §3.2).
    pub fn email() -> Self {
        Self("EMAIL".to_owned())
    }

    /// A place among a person's values for the profile property `property`, which Brevo is never sent.
    pub fn kept_back(property: &str) -> Self {
        Self(format!("{KEPT_BACK}{property}"))
    }

    /// Whether the value is the relay's own affair: no attribute of an account is called so.
    pub fn is_kept_back(&self) -> bool {
        self.0.starts_with(KEPT_BACK)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Attributes that hold a phone number under their own name and must be unique in the account (contract §3.2).
    pub fn is_phone(&self) -> bool {
        matches!(self.0.as_str(), "SMS" | "WHATSAPP" | "LANDLINE_NUMBER")
    }

    /// Attributes that Brevo keeps itself (contract §5).
    pub fn is_reserved(&self) -> bool {
        matches!(self.0.as_str(), "EXT_ID" | "ADDED_TIME" | "MODIFIED_TIME")
    }
}

impl TryFrom<String> for AttributeName {
    type Error = AttributeNameError;
    fn try_from(raw: String) -> Result<Self, Self::Error> {
        if raw.starts_with(KEPT_BACK) { Ok(Self(raw)) } else { Self::parse(&raw) }
    }
}

impl fmt::Display for AttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn event_names_keep_what_brevo_takes() {
        for (raw, expected) in [
            ("Purchase", "Purchase"),
            ("Sign Up", "Sign_Up"),
            ("$session_start", "session_start"),
            ("Prix (€)", "Prix"),
            ("a.b - c", "a_b_-_c"),
            ("_kept_", "_kept_"),
            ("  two  gaps ", "two_gaps"),
        ] {
            assert_eq!(EventName::sanitised(raw).as_str(), expected, "{raw}");
        }
        assert!(EventName::sanitised("购买").as_str().starts_with("event_"));
        assert_ne!(EventName::sanitised("购买"), EventName::sanitised("支付"));
        assert!(EventName::sanitised("").as_str().starts_with("event_"));
    }

    #[test]
    fn attribute_names_are_upper_cased_and_checked() {
        assert_eq!(AttributeName::parse("plan_type").map(|n| n.to_string()), Ok("PLAN_TYPE".to_owned()));
        assert_eq!(AttributeName::parse("DOUBLE_OPT-IN").map(|n| n.to_string()), Ok("DOUBLE_OPT-IN".to_owned()));
        assert_eq!(AttributeName::parse(" "), Err(AttributeNameError::Empty));
        assert_eq!(AttributeName::parse("PLAN TYPE"), Err(AttributeNameError::Character(' ')));
        assert_eq!(AttributeName::parse(&"A".repeat(51)), Err(AttributeNameError::TooLong));
    }

    #[test]
    fn a_name_that_is_kept_back_is_no_attributes_and_survives_being_stored() {
        let name = AttributeName::kept_back("marketing ok");
        assert!(name.is_kept_back() && AttributeName::parse(name.as_str()).is_err());
        let stored = serde_json::to_string(&name).unwrap();
        assert_eq!(serde_json::from_str::<AttributeName>(&stored).unwrap(), name);
        assert!(!AttributeName::sms().is_kept_back());
    }

    proptest! {
        #[test]
        fn sanitised_names_are_valid_and_stable(raw in any::<String>(), attempt in any::<u64>()) {
            let once = sanitised_key(&raw).into_owned();
            for name in [once.clone(), EventName::sanitised(&raw).0, distinguished_key(&raw, attempt)] {
                prop_assert!(!name.is_empty() && name.len() <= MAX_NAME);
                prop_assert!(name.chars().all(is_name_char));
            }
            prop_assert_eq!(sanitised_key(&once).into_owned(), once);
        }

        #[test]
        fn names_that_brevo_takes_are_left_alone(raw in "[A-Za-z0-9_-]{1,255}") {
            prop_assert!(matches!(sanitised_key(&raw), Cow::Borrowed(same) if same == raw));
        }
    }
}
