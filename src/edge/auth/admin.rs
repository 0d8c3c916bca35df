//! The admin token: configured, or made at first start in a 0600 file beside the store.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::Hashed;
use crate::config::{Config, Secret, StoreEngine};
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

/// What admin routes ask of callers.
#[derive(Clone)]
pub struct AdminAuth {
    token: Hashed,
}

impl AdminAuth {
    pub fn new(token: &Secret) -> Self {
        Self { token: Hashed::of(token.expose()) }
    }

    /// Whether the headers carry `Authorization: Bearer <admin token>`.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|v| v.split_once(' '));
        let Some((scheme, token)) = bearer else { return false };
        scheme.eq_ignore_ascii_case("bearer") && self.token.matches(&Hashed::of(token.trim())).into()
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

/// The layer for admin routes: `axum::middleware::from_fn_with_state(AdminAuth, require_admin)`.
pub async fn require_admin(State(auth): State<AdminAuth>, request: Request, next: Next) -> Response {
    if auth.allows(request.headers()) {
        return next.run(request).await;
    }
    let error = AdminErrorBody {
        code: "unauthorized",
        message: "this route needs the admin token",
        hint: "send Authorization: Bearer <token>; without auth.admin_token the token is in the file admin-token beside \
               the store",
    };
    let mut response = answer::json(StatusCode::UNAUTHORIZED, &AdminError { error }).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
