//! How single values are written: pure functions from a scalar to what it means.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use url::{Host, Url};

use super::error::{Bad, Remedy};
use super::model::{Secret, SigningSecret, StoreEngine};
use super::yaml::Scalar;
use crate::brevo::names::{AttributeName, EventName};

type Parsed<T> = Result<T, Bad>;

pub(super) fn text(scalar: &Scalar) -> Parsed<String> {
    if scalar.text.trim().is_empty() {
        return Err(Bad::new("is empty", "a value, or leave the key out"));
    }
    Ok(scalar.text.clone())
}

/// A token or name that travels in a header or a query: printable, no blanks.
pub(super) fn word(scalar: &Scalar) -> Parsed<String> {
    let word = text(scalar)?;
    if word.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Bad::new("holds blanks", "it without them"));
    }
    Ok(word)
}

/// A secret that travels in a header.
pub(super) fn secret(scalar: &Scalar) -> Parsed<Secret> {
    let secret = text(scalar)?;
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Bad::new("holds blanks or characters that a header cannot carry", "it exactly as it was given"));
    }
    Ok(Secret::new(secret))
}

/// A secret of free form, such as a password.
pub(super) fn passphrase(scalar: &Scalar) -> Parsed<Secret> {
    text(scalar).map(Secret::new)
}

pub(super) fn path(scalar: &Scalar) -> Parsed<PathBuf> {
    text(scalar).map(PathBuf::from)
}

pub(super) fn boolean(scalar: &Scalar) -> Parsed<bool> {
    match scalar.text.as_str() {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        _ => Err(Bad::new("is neither true nor false", "true or false")),
    }
}

/// A whole number above zero.
pub(super) fn positive(scalar: &Scalar) -> Parsed<u64> {
    match scalar.text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Bad::new("is not a whole number above zero", "a number such as 15")),
    }
}

pub(super) fn duration(scalar: &Scalar) -> Parsed<Duration> {
    const WRITE: &str = "a number with its unit, such as 250ms, 90s, 15m, 72h or 30d";
    let bad = |why| Bad::new(why, WRITE);
    if scalar.text.parse::<f64>().is_ok() {
        return Err(bad("has no unit"));
    }
    let span: jiff::Span = scalar.text.trim().parse().map_err(|_| bad("is not a duration"))?;
    if span.is_negative() {
        return Err(bad("is negative"));
    }
    let whole = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| bad("counts in months or years, whose length varies"))?;
    whole.try_into().map_err(|_| bad("is negative"))
}

/// A zone by its name in the IANA's database.
pub(super) fn timezone(scalar: &Scalar) -> Parsed<TimeZone> {
    let why = "is no time zone that anybody knows";
    TimeZone::get(&text(scalar)?).map_err(|_| Bad::new(why, "its name, such as Europe/Berlin, America/New_York or UTC"))
}

/// A duration above zero.
pub(super) fn period(scalar: &Scalar) -> Parsed<Duration> {
    match duration(scalar)? {
        Duration::ZERO => Err(Bad::new("is no time at all", "a duration above zero, such as 1h")),
        period => Ok(period),
    }
}

/// How often something runs: a name or a duration of at least a minute.
pub(super) fn schedule(scalar: &Scalar) -> Parsed<Duration> {
    let hours = match scalar.text.as_str() {
        "hourly" => 1,
        "daily" => 24,
        "weekly" => 24 * 7,
        _ => {
            let write = "hourly, daily, weekly or a duration of a minute or more, such as 6h";
            let every = duration(scalar).map_err(|_| Bad::new("is not a schedule", write))?;
            if every < Duration::from_secs(60) {
                return Err(Bad::new("is too often", write));
            }
            return Ok(every);
        }
    };
    Ok(Duration::from_hours(hours))
}

pub(super) fn bytes(scalar: &Scalar) -> Parsed<u64> {
    let bad = || Bad::new("is not a size", "a number of bytes, or one with its unit, such as 64MiB or 2GiB");
    scalar.text.trim().parse().map(|size: bytesize::ByteSize| size.as_u64()).map_err(|_| bad())
}

/// 0 to 1, as `0.3` or `30%`.
pub(super) fn share(scalar: &Scalar) -> Parsed<f64> {
    let bad = || Bad::new("is not a share", "a number from 0 to 1, such as 0.3, or a percentage such as 30%");
    let text = scalar.text.trim();
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map_err(|_| bad())? / 100.0,
        None => text.parse::<f64>().map_err(|_| bad())?,
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(bad()) }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&Scalar) -> Parsed<T> {
    move |scalar| {
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&scalar.text));
        let names = || choices.iter().map(|(name, _)| (*name).to_owned()).collect();
        found.map(|(_, value)| *value).ok_or_else(|| Bad { why: "is not known here", write: Remedy::OneOf(names()) })
    }
}

/// `0.0.0.0:8080`, `[::]:8080`, `localhost:8080`, or `:8080` for every IPv4 address of the machine.
pub(super) fn listen(scalar: &Scalar) -> Parsed<SocketAddr> {
    let text = scalar.text.trim();
    let port = |port: &str| port.parse::<u16>().ok();
    let address = if let Some(rest) = text.strip_prefix(':') {
        port(rest).map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    } else if let Some(rest) = text.strip_prefix("localhost:") {
        port(rest).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    } else {
        text.parse().ok()
    };
    address.ok_or_else(|| Bad::new("is not an address to listen on", "0.0.0.0:8080, 127.0.0.1:8080 or :8080"))
}

/// A network, or a single address as the network that holds only it.
pub(super) fn network(scalar: &Scalar) -> Parsed<IpNet> {
    let text = scalar.text.trim();
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .or_else(|_| single())
        .map_err(|_| Bad::new("is not a network", "an address range such as 10.0.0.0/8, or a single address"))
}

/// A base URL without a trailing slash, https unless the host is this machine.
pub(super) fn base_url(scalar: &Scalar) -> Parsed<Url> {
    const WRITE: &str = "a URL such as https://relay.example.com";
    let mut url = Url::parse(scalar.text.trim()).map_err(|_| Bad::new("is not a URL", WRITE))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Bad::new("holds a login", "it without one"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Bad::new("holds a query or a fragment", "it without one"));
    }
    match is_private(&url) {
        Some(true) => {}
        Some(false) => return Err(Bad::new("would send secrets and people's data in the clear", "it with https://")),
        None => return Err(Bad::new("is neither https nor http", WRITE)),
    }
    let trimmed = url.path().trim_end_matches('/').to_owned();
    url.set_path(&trimmed);
    Ok(url)
}

/// Where the relay posts to: https unless the host is this machine.
pub(super) fn webhook_url(scalar: &Scalar) -> Parsed<Url> {
    const WRITE: &str = "a URL such as https://alerts.example.com/mixrelay";
    let url = Url::parse(scalar.text.trim()).map_err(|_| Bad::new("is not a URL", WRITE))?;
    match is_private(&url) {
        Some(true) => Ok(url),
        Some(false) => Err(Bad::new("would send alerts in the clear", "it with https://")),
        None => Err(Bad::new("is neither https nor http", WRITE)),
    }
}

/// Brevo's base URL, with the version in its path.
pub(super) fn brevo_url(scalar: &Scalar) -> Parsed<Url> {
    let url = base_url(scalar)?;
    if url.host_str() == Some("api.brevo.com") && url.path() != "/v3" {
        return Err(Bad::new("is not Brevo's API", "https://api.brevo.com/v3"));
    }
    Ok(url)
}

/// Whether nobody on the way can read what goes there: https, or http to this machine. `None` for any other scheme.
pub fn is_private(url: &Url) -> Option<bool> {
    match url.scheme() {
        "https" => Some(true),
        "http" => Some(is_loopback(url)),
        _ => None,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `scheme://host[:port]`, lower-cased; `None` for `*`.
pub(super) fn cors_origin(scalar: &Scalar) -> Parsed<Option<String>> {
    const WRITE: &str = "https://www.example.com, without a path, or \"*\" for all";
    let text = scalar.text.trim().trim_end_matches('/').to_ascii_lowercase();
    if text == "*" {
        return Ok(None);
    }
    let bad = || Bad::new("is not an origin", WRITE);
    let url = Url::parse(&text).map_err(|_| bad())?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    // Browsers leave default ports out, and so does this form.
    let origin = url.origin().ascii_serialization();
    if bare && matches!(url.scheme(), "http" | "https") { Ok(Some(origin)) } else { Err(bad()) }
}

/// A path prefix with a leading slash and without a trailing one.
pub(super) fn path_prefix(scalar: &Scalar) -> Parsed<String> {
    let bare = scalar.text.trim().trim_matches('/');
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    if bare.is_empty() || !bare.split('/').all(|part| !part.is_empty() && part.chars().all(legal)) {
        return Err(Bad::new("is not a path", "letters, digits, - and _ behind a slash, such as /m"));
    }
    let first = bare.split('/').next().unwrap_or(bare);
    if RESERVED_PATHS.contains(&first) {
        return Err(Bad::new("is a path of the relay itself", "another one, such as /m"));
    }
    Ok(format!("/{bare}"))
}

/// First path parts that the relay or the vendor's API already use (DESIGN 2.1).
pub(super) const RESERVED_PATHS: [&str; 27] = [
    "api",
    "cohorts",
    "console",
    "decide",
    "docs",
    "engage",
    "export",
    "flags",
    "funnels",
    "groups",
    "healthz",
    "import",
    "insights",
    "jql",
    "lib.js",
    "lib.min.js",
    "libs",
    "lookup-tables",
    "metrics",
    "openapi.yaml",
    "readyz",
    "record",
    "retention",
    "segmentation",
    "settings",
    "track",
    "v1",
];

pub(super) fn store_engine(scalar: &Scalar) -> Parsed<StoreEngine> {
    const WRITE: &str = "sqlite:PATH, such as sqlite:data/mixrelay.db";
    if scalar.text.starts_with("nats:") {
        return Err(Bad::new("names a store that this version does not have", WRITE));
    }
    let path = scalar.text.strip_prefix("sqlite:").ok_or_else(|| Bad::new("names no store", WRITE))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains('?') || path == ":memory:" {
        return Err(Bad::new("names no file", WRITE));
    }
    Ok(StoreEngine::Sqlite(PathBuf::from(path)))
}

/// `whsec_` and the base64 of 24 to 64 bytes (Standard Webhooks).
pub(super) fn signing_secret(scalar: &Scalar) -> Parsed<SigningSecret> {
    let bad = |why| Bad::new(why, "whsec_ followed by the base64 of 24 to 64 random bytes");
    let encoded = scalar.text.trim().strip_prefix("whsec_").ok_or_else(|| bad("does not begin with whsec_"))?;
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&alphabet::STANDARD, config);
    let key = engine.decode(encoded).map_err(|_| bad("is not base64 behind whsec_"))?;
    if (24..=64).contains(&key.len()) { Ok(SigningSecret(key)) } else { Err(bad("is too short or too long")) }
}

/// `*@example.com` or a whole address, lower-cased.
pub(super) fn email_pattern(scalar: &Scalar) -> Parsed<String> {
    let pattern = scalar.text.trim().to_lowercase();
    let well_formed = pattern.split_once('@').is_some_and(|(local, domain)| {
        !domain.is_empty()
            && !domain.contains(['@', '*'])
            && (local == "*" || (!local.is_empty() && !local.contains('*')))
            && !pattern.contains(char::is_whitespace)
    });
    if well_formed {
        return Ok(pattern);
    }
    Err(Bad::new("is not an address", "a whole address, or \"*@example.com\" for everybody of a domain"))
}

/// An event's name at Brevo, which must be a legal one: a silent repair would surprise whoever looks for it there.
pub(super) fn event_name(scalar: &Scalar) -> Parsed<String> {
    let otherwise = "1 to 255 letters, digits, _ and -";
    let near = EventName::sanitised(&scalar.text);
    if near.as_str() == scalar.text {
        return Ok(scalar.text.clone());
    }
    let has_name_char = scalar.text.chars().any(|c| c.is_ascii_alphanumeric());
    let write = match has_name_char {
        true => Remedy::Proposal { made: near.as_str().to_owned(), otherwise },
        false => Remedy::Text(otherwise),
    };
    Err(Bad { why: "is not a name that Brevo takes", write })
}

/// An attribute's name at Brevo, upper case as Brevo matches it; `email` is the identifier.
pub(super) fn attribute(scalar: &Scalar) -> Parsed<String> {
    let otherwise = "1 to 50 letters, digits, _ and -";
    let illegal = |_| {
        let near = EventName::sanitised(&scalar.text).as_str().to_ascii_uppercase();
        let write = match AttributeName::parse(&near) {
            Ok(name) if scalar.text.chars().any(|c| c.is_ascii_alphanumeric()) => {
                Remedy::Proposal { made: name.as_str().to_owned(), otherwise }
            }
            _ => Remedy::Text(otherwise),
        };
        Bad { why: "is not a name that Brevo takes", write }
    };
    let name = AttributeName::parse(&scalar.text).map_err(illegal)?;
    if name.is_reserved() {
        return Err(Bad::new("is an attribute that Brevo or the relay fills itself", "another attribute"));
    }
    Ok(if name.as_str() == "EMAIL" { "email".to_owned() } else { name.as_str().to_owned() })
}

/// An attribute of a company, by its internal name (Brevo contract §6).
pub(super) fn company_attribute(scalar: &Scalar) -> Parsed<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !scalar.text.is_empty() && scalar.text.chars().all(legal) {
        return Ok(scalar.text.clone());
    }
    Err(Bad::new("is not a company attribute's internal name", "letters, digits, _ and -, such as industry"))
}

/// A name that is part of a path.
pub(super) fn dataset_name(scalar: &Scalar) -> Parsed<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = &scalar.text;
    match name.as_str() {
        "runs" => Err(Bad::new("is a path of the relay itself", "another name")),
        _ if (1..=64).contains(&name.len()) && name.chars().all(legal) => Ok(name.clone()),
        _ => Err(Bad::new("is not a name for a data set", "up to 64 letters, digits, _ and -")),
    }
}

/// A value as YAML means it: true, 12 and "12" are three different ones.
pub(super) fn json(scalar: &Scalar) -> Parsed<serde_json::Value> {
    if !scalar.quoted {
        if let Ok(value) = boolean(scalar) {
            return Ok(value.into());
        }
        if let Ok(number) = scalar.text.parse::<serde_json::Number>() {
            return Ok(number.into());
        }
    }
    text(scalar).map(Into::into)
}

/// Values that the documentation holds in place of real ones.
pub(super) fn is_placeholder(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    let bracketed = value.starts_with('<') && value.ends_with('>');
    let filler = ["your-", "your_", "changeme", "change-me", "replace-me", "..."];
    value == "…" || bracketed || filler.iter().any(|filler| value.contains(filler))
}
