//! Who may use the admin API: the admin token (configured, or made at first start in a 0600 file beside the store) and
//! named ones with their roles.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method};
use subtle::Choice;

use super::answers::AdminError;
use super::sight::Sight;
use crate::config::{Config, NamedToken, Role, Secret, StoreEngine};
use crate::hashed::Hashed;

/// Name of the token's file, beside the store's.
const FILE_NAME: &str = "admin-token";
/// Longest token file that is read.
const MAX_FILE: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    #[error("cannot read or make the admin token file {}: {source}; or set auth.admin_token", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the admin token file {} is empty: delete it, or set auth.admin_token", path.display())]
    Empty { path: PathBuf },
    #[error("the system has no randomness to give: {0}")]
    Random(getrandom::Error),
}

/// The configured admin token, else the one in the file beside the store, which is made when absent.
pub fn admin_token(config: &Config) -> Result<Secret, AdminTokenError> {
    if let Some(token) = &config.auth.admin_token {
        return Ok(token.clone());
    }
    let StoreEngine::Sqlite(store) = &config.store.engine;
    let path = store.parent().unwrap_or_else(|| Path::new("")).join(FILE_NAME);
    match make(&path)? {
        Some(token) => Ok(token),
        None => read(&path),
    }
}

/// Makes the file with a new token; `None` when there is one already. `create_new` decides between two starts at once.
fn make(path: &Path) -> Result<Option<Secret>, AdminTokenError> {
    let at = |source| AdminTokenError::File { path: path.to_owned(), source };
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(AdminTokenError::Random)?;
    let token = URL_SAFE_NO_PAD.encode(random);
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(at(error)),
    };
    file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
    Ok(Some(Secret::new(token)))
}

fn read(path: &Path) -> Result<Secret, AdminTokenError> {
    let at = |source| AdminTokenError::File { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(at)?.take(MAX_FILE).read_to_string(&mut text).map_err(at)?;
    match text.trim() {
        "" => Err(AdminTokenError::Empty { path: path.to_owned() }),
        token => Ok(Secret::new(token)),
    }
}

/// Someone whom a token lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's name in the configuration, `admin` for the admin token. What the audit log writes down.
    pub name: Arc<str>,
    pub role: Role,
}

/// What admin routes ask of callers: the admin token, or a named one with its role.
#[derive(Clone)]
pub struct AdminAuth {
    tokens: Arc<[(Hashed, Caller)]>,
}

impl AdminAuth {
    pub fn new(admin: &Secret, named: &[NamedToken]) -> Self {
        let known = |token: &Secret, name: &str, role| (Hashed::of(token.expose()), Caller { name: name.into(), role });
        let admin = std::iter::once(known(admin, "admin", Role::Admin));
        let named = named.iter().map(|named| known(&named.token, &named.name, named.role));
        Self { tokens: admin.chain(named).collect() }
    }

    /// Whom a token stands for. Every token is compared, so that the time does not tell which one was near; of several
    /// with the same text the one with the highest role counts.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let presented = Hashed::of(token);
        self.matching(|known| known.matches(&presented))
    }

    /// The same for whatever can be told from a token's hash, such as a session that names its token.
    pub fn matching(&self, is: impl Fn(&Hashed) -> Choice) -> Option<Caller> {
        let found = self.tokens.iter().fold(None::<&Caller>, |found, (token, caller)| {
            let better = found.is_none_or(|found| found.role < caller.role);
            if bool::from(is(token)) && better { Some(caller) } else { found }
        });
        found.cloned()
    }

    /// Whom `Authorization: Bearer <token>` stands for.
    fn bearer(&self, headers: &HeaderMap) -> Option<Caller> {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| self.caller(token.trim()))?
    }
}

/// Looking takes a viewer, whatever the method; deleting an admin, everything else an operator.
fn needed(method: &Method, path: &str) -> Role {
    match *method {
        Method::GET | Method::HEAD => Role::Viewer,
        Method::POST if path == super::PREVIEW => Role::Viewer,
        Method::DELETE => Role::Admin,
        _ => Role::Operator,
    }
}

/// The layer that asks who calls: `axum::middleware::from_fn_with_state(AdminAuth, authenticate)`. Lets a request through
/// with its [`Caller`] in its extensions.
pub async fn authenticate(State(auth): State<AdminAuth>, mut request: Request, next: Next) -> Response {
    let Some(caller) = auth.bearer(request.headers()) else {
        let mut response = AdminError::unauthorized().into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The layer that asks whether the [`Caller`] may: its role must be enough for the method. Lets a request through with what
/// the caller may see, a [`Sight`], in its extensions.
pub async fn authorize(mut request: Request, next: Next) -> Response {
    let sight = match request.extensions().get::<Caller>() {
        Some(caller) if caller.role >= needed(request.method(), request.uri().path()) => {
            Sight::of(caller, request.uri())
        }
        Some(_) => Err(AdminError::forbidden()),
        None => Err(AdminError::unauthorized()),
    };
    match sight {
        Ok(sight) => {
            request.extensions_mut().insert(sight);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_token_is_made_once_and_only_for_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("mixrelay.db");
        let text =
            format!("connectors: {{ mixpanel: {{ project_token: t }} }}\nstore: \"sqlite:{}\"\n", store.display());
        let config = crate::config::parse(&text, "test", &|_| None).unwrap().config;
        let made = admin_token(&config).unwrap();
        assert_eq!(admin_token(&config).unwrap(), made);
        let file = dir.path().join("admin-token");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::write(&file, "\n").unwrap();
        assert!(matches!(admin_token(&config), Err(AdminTokenError::Empty { .. })));
    }

    #[tokio::test]
    async fn a_role_allows_what_its_name_says() {
        use axum::body::Body;
        use axum::routing::get;
        use tower::ServiceExt as _;

        let named = |role, token| NamedToken { name: "n".to_owned(), role, token: Secret::new(token) };
        let tokens = [named(Role::Viewer, "v"), named(Role::Operator, "o")];
        let auth = AdminAuth::new(&Secret::new("a"), &tokens);
        let handler = || async { "ok" };
        let app: axum::Router = axum::Router::new()
            .route("/", get(handler).post(handler).delete(handler))
            .layer(axum::middleware::from_fn(authorize))
            .layer(axum::middleware::from_fn_with_state(auth, authenticate));
        for (token, expected) in [
            ("Bearer v", [200, 403, 403]),
            ("Bearer o", [200, 200, 403]),
            ("bearer a", [200, 200, 200]),
            ("Bearer x", [401, 401, 401]),
            ("Basic YTo=", [401, 401, 401]),
            ("a", [401, 401, 401]),
        ] {
            for (method, status) in ["GET", "POST", "DELETE"].into_iter().zip(expected) {
                let request = http::Request::builder().method(method).uri("/").header(AUTHORIZATION, token);
                let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status(), status, "{method} {token}");
            }
        }
    }
}
