//! Which question a path asks, pure: short paths, the vendor's own and their old alias (contract §1, §9).
//!
//! Only plain paths pass: what climbs, hides or names another host never reaches a URL.

use std::time::Duration;

use crate::vendor::Family;

/// What is known of a query endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The vendor's path after `/api/query/`.
    pub name: &'static str,
    /// The metric label.
    pub label: &'static str,
    pub family: Family,
    /// How long an answer may be given again; zero: never.
    pub keep: Duration,
    /// Whether the same question asked by several at once may be one call.
    pub shared: bool,
}

const fn endpoint(name: &'static str, label: &'static str, keep_seconds: u64) -> Endpoint {
    Endpoint { name, label, family: Family::MixpanelQuery, keep: Duration::from_secs(keep_seconds), shared: true }
}

/// Reports are made of the last days and change slowly; lists of names and definitions more slowly still; profiles and
/// single activity feeds are looked at to see what has just happened.
pub const KNOWN: &[Endpoint] = &[
    endpoint("insights", "/api/query/insights", 300),
    endpoint("funnels", "/api/query/funnels", 300),
    endpoint("funnels/list", "/api/query/funnels/list", 600),
    endpoint("retention", "/api/query/retention", 300),
    endpoint("retention/addiction", "/api/query/retention/addiction", 300),
    endpoint("segmentation", "/api/query/segmentation", 300),
    endpoint("segmentation/numeric", "/api/query/segmentation/numeric", 300),
    endpoint("segmentation/sum", "/api/query/segmentation/sum", 300),
    endpoint("segmentation/average", "/api/query/segmentation/average", 300),
    endpoint("events", "/api/query/events", 300),
    endpoint("events/top", "/api/query/events/top", 300),
    endpoint("events/names", "/api/query/events/names", 600),
    endpoint("events/properties", "/api/query/events/properties", 300),
    endpoint("events/properties/top", "/api/query/events/properties/top", 600),
    endpoint("events/properties/values", "/api/query/events/properties/values", 600),
    endpoint("stream/query", "/api/query/stream/query", 30),
    endpoint("cohorts/list", "/api/query/cohorts/list", 300),
    endpoint("engage", "/api/query/engage", 30),
    Endpoint { family: Family::MixpanelJql, ..endpoint("jql", "/api/query/jql", 300) },
];

/// A query path that we do not know: passed through under the same budget, and never answered twice.
const UNKNOWN: Endpoint = Endpoint { shared: false, ..endpoint("", "/api/query/other", 0) };

/// The short path of a known endpoint. `/engage` itself is ingestion, so its query has a name of its own.
pub fn short(endpoint: &Endpoint) -> String {
    match endpoint.name {
        "engage" => "/engage/query".to_owned(),
        name => format!("/{name}"),
    }
}

/// A question's endpoint, and the path at the vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub endpoint: Endpoint,
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("no such query endpoint")]
    NotPlain,
    #[error("this is no query: it is reached at Mixpanel itself")]
    NoQuery,
}

/// Reads a request's path. `get`: the method only reads.
///
/// Under `/api/2.0/` the vendor's host also serves what is no query and writes (annotations, pipelines); whoever may read
/// through the relay's account may not write with it, so unknown paths there are read only, and pipelines not at all.
pub fn asked(path: &str, get: bool) -> Result<Asked, PathError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = path.strip_prefix('/').ok_or(PathError::NotPlain)?.split('/').collect();
    if !segments.iter().all(|segment| is_plain(segment)) {
        return Err(PathError::NotPlain);
    }
    let known = |name: &str| KNOWN.iter().find(|endpoint| endpoint.name == name).copied();
    let (prefix, name, endpoint) = match segments.as_slice() {
        ["api", prefix @ ("query" | "2.0"), rest @ ..] if !rest.is_empty() => {
            let name = rest.join("/");
            let endpoint = known(&name);
            if *prefix == "2.0" && endpoint.is_none() && (matches!(rest[0], "export" | "nessie") || !get) {
                return Err(PathError::NoQuery);
            }
            (*prefix, name, endpoint.unwrap_or(UNKNOWN))
        }
        ["engage", "query"] => ("query", "engage".to_owned(), known("engage").ok_or(PathError::NotPlain)?),
        rest => {
            let name = rest.join("/");
            let endpoint = known(&name).filter(|endpoint| endpoint.name != "engage").ok_or(PathError::NotPlain)?;
            ("query", name, endpoint)
        }
    };
    Ok(Asked { endpoint, path: format!("/api/{prefix}/{name}") })
}

fn is_plain(segment: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> String {
        asked(path, true).map_or_else(|error| format!("{error:?}"), |asked| asked.path)
    }

    #[test]
    fn every_known_endpoint_answers_under_three_names() {
        for endpoint in KNOWN {
            for (path, vendors) in [
                (short(endpoint), format!("/api/query/{}", endpoint.name)),
                (format!("{}/", short(endpoint)), format!("/api/query/{}", endpoint.name)),
                (format!("/api/query/{}", endpoint.name), format!("/api/query/{}", endpoint.name)),
                (format!("/api/2.0/{}/", endpoint.name), format!("/api/2.0/{}", endpoint.name)),
            ] {
                for get in [true, false] {
                    assert_eq!(asked(&path, get), Ok(Asked { endpoint: *endpoint, path: vendors.clone() }), "{path}");
                }
            }
        }
        assert_eq!(asked("/jql", false).unwrap().endpoint.family, Family::MixpanelJql);
        assert_eq!(asked("/insights", true).unwrap().endpoint.family, Family::MixpanelQuery);
    }

    #[test]
    fn ingestion_is_no_query() {
        assert_eq!(asked("/engage", true), Err(PathError::NotPlain));
        assert_eq!(asked("/track", true), Err(PathError::NotPlain));
    }

    #[test]
    fn an_unknown_query_passes_and_is_neither_kept_nor_shared() {
        let new = asked("/api/query/flows/v2", false).unwrap();
        assert_eq!(
            (new.path.as_str(), new.endpoint.keep, new.endpoint.shared),
            ("/api/query/flows/v2", Duration::ZERO, false)
        );
        assert_eq!(new.endpoint.family, Family::MixpanelQuery);
        assert_eq!(at("/api/2.0/annotations"), "/api/2.0/annotations");
        assert_eq!(asked("/api/2.0/annotations/create", false), Err(PathError::NoQuery), "a write with our account");
        assert_eq!(at("/api/2.0/nessie/pipeline/create"), "NoQuery");
        assert_eq!(at("/flows"), "NotPlain", "short paths are a closed list");
    }

    #[test]
    fn no_path_climbs_or_hides_anything() {
        for path in [
            "/api/query/../app/me",
            "/api/query/..%2fapp",
            "/api/query/%2e%2e/app",
            "/api/query//evil.example",
            "/api/query/a\\b",
            "/api/query/@evil.example",
            "/api/query/x:80",
            "/api/query/x?y",
            "/api/query/.hidden",
            "/api/query/",
            "/api/app/me",
            "/api/3.0/segmentation",
            "segmentation",
            "",
            "/",
        ] {
            assert_eq!(at(path), "NotPlain", "{path}");
        }
    }
}
