//! The options of an ingestion call, which SDKs put into the query, the form body, or both (contract §4).

use std::borrow::Cow;

/// Longest `callback` that is answered as such.
const MAX_CALLBACK: usize = 128;

/// What the caller said about its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpOption {
    /// `ip=1`: the requester is the person.
    Requester,
    /// `ip=0`: the requester is a server; no geography from its address.
    Nobody,
    #[default]
    Unsaid,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// 0, 1 or 2.
    pub verbose: u8,
    pub ip: IpOption,
    pub img: bool,
    /// A function name that is safe to put into a script.
    pub callback: Option<String>,
    pub strict: bool,
    pub project_id: Option<String>,
    /// The legacy credential of `/import` (contract §2).
    pub api_key: Option<String>,
}

impl Options {
    /// Takes in one parameter. An option that has been set before keeps its first value, so the query goes first.
    pub fn set(&mut self, key: &str, value: &str) {
        match key {
            "verbose" if self.verbose == 0 => {
                self.verbose = match value {
                    "1" | "true" => 1,
                    "2" => 2,
                    _ => 0,
                }
            }
            "ip" if self.ip == IpOption::Unsaid => {
                self.ip = match value {
                    "1" | "true" => IpOption::Requester,
                    "0" | "false" => IpOption::Nobody,
                    _ => IpOption::Unsaid,
                }
            }
            "img" => self.img |= value == "1",
            "strict" => self.strict |= value == "1" || value == "true",
            "callback" if self.callback.is_none() => self.callback = safe_callback(value).map(str::to_owned),
            "project_id" if self.project_id.is_none() && !value.is_empty() => self.project_id = Some(value.to_owned()),
            "api_key" if self.api_key.is_none() && !value.is_empty() => self.api_key = Some(value.to_owned()),
            _ => {}
        }
    }
}

/// A callback is a path of names and subscripts, as mixpanel-js makes them (`mixpanel._jsc["a1"]`): no parentheses, no
/// operators, nothing that runs by itself.
fn safe_callback(name: &str) -> Option<&str> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_$.[]\"'".contains(&byte);
    (!name.is_empty() && name.len() <= MAX_CALLBACK && name.bytes().all(safe)).then_some(name)
}

/// The pairs of a query or form, still encoded. Only the first `=` of a pair separates: base64 brings its own.
pub fn pairs(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    encoded.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[pair.len()..]),
        }
    })
}

/// A form component as text: `+` is a space, percent escapes are bytes, bad UTF-8 is replaced.
pub fn text(component: &[u8]) -> Cow<'_, str> {
    if !component.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return String::from_utf8_lossy(component);
    }
    let spaced: Vec<u8> = component.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_encoding::percent_decode(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_wins_over_the_form() {
        let mut options = Options::default();
        for (key, value) in [("ip", "0"), ("verbose", "2"), ("ip", "1"), ("verbose", "1"), ("strict", "1")] {
            options.set(key, value);
        }
        assert_eq!((options.ip, options.verbose, options.strict), (IpOption::Nobody, 2, true));
    }

    #[test]
    fn a_callback_that_could_run_is_not_one() {
        assert_eq!(safe_callback(r#"mixpanel._jsc["a1"]"#), Some(r#"mixpanel._jsc["a1"]"#));
        for hostile in ["alert(1)//", "a;b", "<script>", "a`b`", "", &"a".repeat(129)] {
            assert_eq!(safe_callback(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn components_decode() {
        assert_eq!(text(b"a+b%20c%2B"), "a b c+");
        let all: Vec<_> = pairs(b"data=YQ==&&verbose=1&flag").collect();
        assert_eq!(all, [(&b"data"[..], &b"YQ=="[..]), (b"verbose", b"1"), (b"flag", b"")]);
    }
}
