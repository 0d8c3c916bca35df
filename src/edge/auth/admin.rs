//! The admin token: configured, or made at first start in a 0600 file beside the store.

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
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;

use super::Hashed;
use crate::config::{Config, NamedToken, Role, Secret, StoreEngine};
use crate::edge::answer;

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

/// What admin routes ask of callers: the admin token, or a named one with its role.
#[derive(Clone)]
pub struct AdminAuth {
    tokens: Arc<[(Hashed, Role)]>,
}

impl AdminAuth {
    pub fn new(admin: &Secret, named: &[NamedToken]) -> Self {
        let admin = std::iter::once((Hashed::of(admin.expose()), Role::Admin));
        let named = named.iter().map(|named| (Hashed::of(named.token.expose()), named.role));
        Self { tokens: admin.chain(named).collect() }
    }

    /// The role that `Authorization: Bearer <token>` gives its caller. Every token is compared, so that the time does
    /// not tell which one was near.
    pub fn role(&self, headers: &HeaderMap) -> Option<Role> {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let presented = Hashed::of(token.trim());
        self.tokens.iter().fold(None, |found, (token, role)| {
            let matches = bool::from(token.matches(&presented));
            if matches { found.max(Some(*role)) } else { found }
        })
    }
}

/// Looking takes a viewer, deleting an admin, everything else an operator.
fn needed(method: &Method) -> Role {
    match *method {
        Method::GET | Method::HEAD => Role::Viewer,
        Method::DELETE => Role::Admin,
        _ => Role::Operator,
    }
}

#[derive(Serialize)]
struct AdminError {
    error: AdminErrorBody,
}

#[derive(Serialize)]
struct AdminErrorBody {
    code: &'static str,
    message: &'static str,
    hint: &'static str,
}

/// The layer for admin routes: `axum::middleware::from_fn_with_state(AdminAuth, require_admin)`. Lets a request through
/// when its token's role is enough for its method, with the [`Role`] in its extensions.
pub async fn require_admin(State(auth): State<AdminAuth>, mut request: Request, next: Next) -> Response {
    let role = auth.role(request.headers());
    match role {
        Some(role) if role >= needed(request.method()) => {
            request.extensions_mut().insert(role);
            next.run(request).await
        }
        Some(_) => refusal(
            StatusCode::FORBIDDEN,
            AdminErrorBody {
                code: "forbidden",
                message: "this token's role does not allow that",
                hint: "use a token with the role operator or admin (auth.tokens), or the admin token",
            },
        ),
        None => {
            let mut response = refusal(
                StatusCode::UNAUTHORIZED,
                AdminErrorBody {
                    code: "unauthorized",
                    message: "this route needs the admin token",
                    hint: "send Authorization: Bearer <token>; without auth.admin_token the token is in the file \
                           admin-token beside the store",
                },
            );
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

fn refusal(status: StatusCode, error: AdminErrorBody) -> Response {
    answer::json(status, &AdminError { error }).into_response()
}
