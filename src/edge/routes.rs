//! The edge's routes, as one table: the router is built from it, and a test holds it against `openapi.yaml`.

use crate::mixpanel::Api;

/// Where a passed-through call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// Session replay.
    Record,
    Flags,
    Settings,
    Decide,
    /// The SDK's files; `None` keeps the path, `Some` names the file on the vendor's side.
    Library(Option<&'static str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Methods {
    Get,
    Post,
    GetPost,
}

impl Methods {
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Methods::Get => &["get"],
            Methods::Post => &["post"],
            Methods::GetPost => &["get", "post"],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Ingest(Api),
    Pass(Upstream),
    Welcome,
    Health,
    Ready,
    OpenApi,
    /// The same for people to read.
    Docs,
}

#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The router's and the document's path, without a trailing slash; it is the `route` label of metrics too.
    pub path: &'static str,
    pub methods: Methods,
    pub endpoint: Endpoint,
    /// Also served with a trailing slash (never by a redirect) and under the configured path prefix.
    pub for_apps: bool,
}

const fn app(path: &'static str, methods: Methods, endpoint: Endpoint) -> Route {
    Route { path, methods, endpoint, for_apps: true }
}

const fn own(path: &'static str, endpoint: Endpoint) -> Route {
    Route { path, methods: Methods::Get, endpoint, for_apps: false }
}

/// The SDK's default library, as loaders name it on the vendor's CDN.
const MINIFIED: Upstream = Upstream::Library(Some("/libs/mixpanel-2-latest.min.js"));
const UNMINIFIED: Upstream = Upstream::Library(Some("/libs/mixpanel-2-latest.js"));
const SAME_FILE: Upstream = Upstream::Library(None);

pub const ROUTES: &[Route] = &[
    app("/track", Methods::GetPost, Endpoint::Ingest(Api::Track)),
    app("/engage", Methods::GetPost, Endpoint::Ingest(Api::Engage)),
    app("/groups", Methods::GetPost, Endpoint::Ingest(Api::Groups)),
    app("/import", Methods::GetPost, Endpoint::Ingest(Api::Import)),
    app("/record", Methods::Post, Endpoint::Pass(Upstream::Record)),
    app("/flags", Methods::GetPost, Endpoint::Pass(Upstream::Flags)),
    app("/flags/{*rest}", Methods::GetPost, Endpoint::Pass(Upstream::Flags)),
    app("/settings", Methods::GetPost, Endpoint::Pass(Upstream::Settings)),
    app("/decide", Methods::GetPost, Endpoint::Pass(Upstream::Decide)),
    app("/lib.min.js", Methods::Get, Endpoint::Pass(MINIFIED)),
    app("/lib.js", Methods::Get, Endpoint::Pass(UNMINIFIED)),
    app("/libs/{*file}", Methods::Get, Endpoint::Pass(SAME_FILE)),
    own("/", Endpoint::Welcome),
    own("/healthz", Endpoint::Health),
    own("/readyz", Endpoint::Ready),
    own("/openapi.yaml", Endpoint::OpenApi),
    own("/docs", Endpoint::Docs),
];
