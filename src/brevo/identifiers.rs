//! What Brevo knows a contact by: email address, phone number, contact id, the relay's own id.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a contact in the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContactId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListId(pub u64);

/// Whether a contact is to be in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    In,
    Out,
}

impl Membership {
    /// The last part of the path that brings it about (contract §4.2).
    pub fn verb(self) -> &'static str {
        match self {
            Membership::In => "add",
            Membership::Out => "remove",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FolderId(pub u64);

/// An asynchronous job of Brevo's (an import, an export).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

/// A lower-cased email address. Brevo stores addresses in lower case and compares list members case-sensitively
/// (contract §3.2, §4.2), so no other spelling may leave the relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Email(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an email address")]
pub struct NotAnEmail;

impl Email {
    /// Longest address that SMTP can carry.
    const MAX: usize = 254;
    const MAX_LOCAL: usize = 64;

    /// Checks the shape `local@label.label` and lower-cases it. Quoted local parts and address literals are refused:
    /// no marketing tool mails them.
    pub fn parse(raw: &str) -> Result<Self, NotAnEmail> {
        let address = raw.trim().to_lowercase();
        let (local, domain) = address.rsplit_once('@').ok_or(NotAnEmail)?;
        let ok = address.len() <= Self::MAX
            && (1..=Self::MAX_LOCAL).contains(&local.len())
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && local.chars().all(is_local_char)
            && domain.contains('.')
            && domain.split('.').all(is_domain_label);
        if ok { Ok(Self(address)) } else { Err(NotAnEmail) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_local_char(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !"\"(),:;<>@[\\]".contains(c)
}

fn is_domain_label(label: &str) -> bool {
    let end_ok = |c: Option<char>| c.is_some_and(|c| c != '-');
    end_ok(label.chars().next())
        && end_ok(label.chars().next_back())
        && label.chars().all(|c| c.is_alphanumeric() || c == '-')
}

impl TryFrom<String> for Email {
    type Error = NotAnEmail;
    fn try_from(raw: String) -> Result<Self, NotAnEmail> {
        Self::parse(&raw)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A phone number with its country code. Written as `+` and digits, which is the one of Brevo's accepted forms that
/// cannot be taken for a national number; Brevo reads back the digits alone (contract §3.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Phone {
    digits: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPhone {
    /// `0612345678`, `4155550123`: guessing a country would call strangers.
    #[error("the phone number has no country code (write +33612345678 or 0033612345678)")]
    NoCountryCode,
    #[error("not a phone number")]
    Malformed,
}

impl Phone {
    /// Takes `+33 6 12 34 56 78`, `0033612345678`, `+44 (0)20 7946 0958`. Bare digits have no country code that could be
    /// told from a national number.
    pub fn parse(raw: &str) -> Result<Self, NotAPhone> {
        let compact: String = raw
            .trim()
            .replace("(0)", "")
            .chars()
            .filter(|c| !c.is_whitespace() && !matches!(c, '-' | '.' | '/' | '(' | ')' | '\u{2010}'..='\u{2015}'))
            .collect();
        let (digits, international) = match compact.strip_prefix('+').or_else(|| compact.strip_prefix("00")) {
            Some(rest) => (rest, true),
            None => (compact.as_str(), false),
        };
        // E.164: at most 15 digits with the country code; the shortest numbers in use have 7.
        if !(7..=15).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotAPhone::Malformed);
        }
        if !international || digits.starts_with('0') {
            return Err(NotAPhone::NoCountryCode);
        }
        Ok(Self { digits: digits.to_owned() })
    }

    /// Without the plus, as Brevo reads numbers back.
    pub fn digits(&self) -> &str {
        &self.digits
    }
}

impl TryFrom<String> for Phone {
    type Error = NotAPhone;
    fn try_from(raw: String) -> Result<Self, NotAPhone> {
        Self::parse(&raw)
    }
}

impl From<Phone> for String {
    fn from(phone: Phone) -> String {
        phone.to_string()
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", self.digits)
    }
}

/// How a call addresses one contact; names its `identifierType` (contract §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactRef<'a> {
    Id(ContactId),
    ExtId(&'a str),
    Email(&'a Email),
    Phone(&'a Phone),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn emails_are_checked_and_lower_cased() {
        for (raw, expected) in [
            ("Ada@Example.COM", Some("ada@example.com")),
            (" a.b+c@mail.example.org ", Some("a.b+c@mail.example.org")),
            ("ÄDA@exämple.de", Some("äda@exämple.de")),
            ("ada", None),
            ("ada@localhost", None),
            ("@example.com", None),
            ("a b@example.com", None),
            ("a@b@example.com", None),
            ("a@-example.com", None),
            ("a@example..com", None),
            (".a@example.com", None),
            ("a,b@example.com", None),
            ("undefined", None),
            ("", None),
        ] {
            assert_eq!(Email::parse(raw).ok().as_ref().map(Email::as_str), expected, "{raw}");
        }
        assert!(Email::parse(&format!("{}@example.com", "a".repeat(65))).is_err());
    }

    #[test]
    fn phones_need_a_country_code() {
        for (raw, expected) in [
            ("+33612345678", Ok("33612345678")),
            ("+33 6 12-34.56/78", Ok("33612345678")),
            ("0033612345678", Ok("33612345678")),
            ("+44 (0)20 7946 0958", Ok("442079460958")),
            ("+1 (415) 555-0123", Ok("14155550123")),
            ("0612345678", Err(NotAPhone::NoCountryCode)),
            ("4155550123", Err(NotAPhone::NoCountryCode)),
            ("+0612345678", Err(NotAPhone::NoCountryCode)),
            ("+33", Err(NotAPhone::Malformed)),
            ("+331234567890123456", Err(NotAPhone::Malformed)),
            ("+33612x5678", Err(NotAPhone::Malformed)),
            ("call me", Err(NotAPhone::Malformed)),
        ] {
            assert_eq!(Phone::parse(raw).as_ref().map(Phone::digits).map_err(|e| *e), expected, "{raw}");
        }
    }

    #[test]
    fn identifiers_survive_being_stored() {
        let phone = Phone::parse("0033612345678").unwrap();
        let stored = serde_json::to_string(&phone).unwrap();
        assert_eq!(stored, r#""+33612345678""#);
        assert_eq!(serde_json::from_str::<Phone>(&stored).unwrap(), phone);
        assert!(serde_json::from_str::<Email>(r#""nobody""#).is_err());
    }

    proptest! {
        #[test]
        fn a_parsed_identifier_parses_to_itself(raw in any::<String>(), digits in "[+0-9() -]{0,24}") {
            if let Ok(email) = Email::parse(&raw) {
                prop_assert_eq!(Email::parse(email.as_str()), Ok(email));
            }
            if let Ok(phone) = Phone::parse(&digits) {
                prop_assert_eq!(Phone::parse(&phone.to_string()), Ok(phone));
            }
        }
    }
}
