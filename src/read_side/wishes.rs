//! What a caller says about waiting and about kept answers: `Prefer`, `Cache-Control`. Pure.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

/// The longest that a caller is let wait for a place.
pub const MAX_WAIT: Duration = Duration::from_secs(120);
/// How long one waits who says nothing: for a running query to end, not for the next hour.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    pub wait: Duration,
    /// Whether `wait` is what the caller asked for.
    pub wait_was_asked: bool,
    /// Oldest answer that will do; `None`: whatever is kept.
    pub max_age: Option<Duration>,
    /// Whether the answer may be kept for others.
    pub store: bool,
}

impl Wishes {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut wishes = Self { wait: DEFAULT_WAIT, wait_was_asked: false, max_age: None, store: true };
        for (name, value) in directives(headers, "prefer") {
            if let ("wait", Ok(seconds)) = (name.as_str(), value.parse()) {
                wishes.wait = Duration::from_secs(seconds).min(MAX_WAIT);
                wishes.wait_was_asked = true;
            }
        }
        let cache_control = directives(headers, CACHE_CONTROL.as_str());
        // Of old: only counts where there is no Cache-Control.
        if cache_control.is_empty() && directives(headers, PRAGMA.as_str()).iter().any(|(name, _)| name == "no-cache") {
            wishes.max_age = Some(Duration::ZERO);
        }
        for (name, value) in cache_control {
            match name.as_str() {
                "no-cache" => wishes.max_age = Some(Duration::ZERO),
                "no-store" => (wishes.max_age, wishes.store) = (Some(Duration::ZERO), false),
                "max-age" => {
                    let asked = Duration::from_secs(value.parse().unwrap_or(0));
                    wishes.max_age = Some(wishes.max_age.map_or(asked, |other| other.min(asked)));
                }
                _ => {}
            }
        }
        wishes
    }
}

/// `name[=value]` elements of a header that is a list; names in lower case, values without quotes.
fn directives(headers: &HeaderMap, header: &str) -> Vec<(String, String)> {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    let elements =
        values.flat_map(|value| value.split([',', ';'])).map(str::trim).filter(|element| !element.is_empty());
    elements
        .map(|element| {
            let (name, value) = element.split_once('=').unwrap_or((element, ""));
            (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(headers: &[(&'static str, &'static str)]) -> Wishes {
        Wishes::of(&headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect())
    }

    #[test]
    fn a_wait_is_bounded() {
        assert_eq!(wishes(&[("prefer", "respond-async, wait=10")]).wait, Duration::from_secs(10));
        assert_eq!(wishes(&[("prefer", "wait=99999")]).wait, MAX_WAIT);
        assert_eq!(wishes(&[("prefer", "wait=soon")]).wait, DEFAULT_WAIT);
        assert_eq!(
            wishes(&[("prefer", "wait=0")]),
            Wishes { wait: Duration::ZERO, wait_was_asked: true, ..wishes(&[]) }
        );
    }

    #[test]
    fn cache_directives_are_heard() {
        assert_eq!(wishes(&[]).max_age, None);
        assert_eq!(wishes(&[("cache-control", "no-cache")]).max_age, Some(Duration::ZERO));
        assert_eq!(wishes(&[("pragma", "no-cache")]).max_age, Some(Duration::ZERO));
        assert_eq!(wishes(&[("cache-control", "Max-Age=30")]).max_age, Some(Duration::from_secs(30)));
        assert!(!wishes(&[("cache-control", "no-store")]).store);
    }
}
