//! Paths that callers choose: what goes to a vendor stays on the configured host and under the path that was meant.

use url::Url;

use super::{first_line, one_of};
use crate::edge::passthrough;
use crate::edge::routes::Upstream;
use crate::mixpanel::calls::join;
use crate::read_side::paths::asked;

/// First line: a digit for the base URL. The rest is the path, then after a question mark the query.
pub fn paths(data: &[u8]) {
    let (settings, rest) = first_line(data);
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let base = one_of(["https://vendor.example", "https://vendor.example:8443/up/"], settings.first());
    let base = Url::parse(base).expect("one of the above");
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    for get in [true, false] {
        if let Ok(asked) = asked(path, get) {
            let url = join(&base, &asked.path);
            stays(&base, &url);
            let below = url.path().strip_prefix(base.path().trim_end_matches('/')).expect("behind the base's own path");
            assert!(below.starts_with("/api/query/") || below.starts_with("/api/2.0/"), "{url}");
            assert_eq!(below, asked.path, "nothing is taken away or decoded");
        }
    }
    // What the router hands over has been read as a URI before.
    let Ok(uri) = rest.parse::<http::Uri>() else { return };
    if !uri.path().starts_with('/') {
        return;
    }
    for upstream in [Upstream::Flags, Upstream::Library(None), Upstream::Library(Some("/libs/file.js"))] {
        if let Some(url) = passthrough::target(&base, "/m", upstream, uri.path(), query) {
            stays(&base, &url);
            assert!(url.path().starts_with(base.path().trim_end_matches('/')), "{url}");
            assert!(!url.path().split('/').any(|segment| segment == ".." || segment == "."), "{url}");
        }
    }
}

fn stays(base: &Url, url: &Url) {
    assert_eq!((base.scheme(), base.host(), base.port()), (url.scheme(), url.host(), url.port()), "{url}");
    assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None), "{url}");
}
