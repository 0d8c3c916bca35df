//! The door: logging in and out, sessions, forged requests, and what every answer says to the browser.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use maud::{Markup, html};
use serde::Deserialize;

use super::Console;
use super::frame;
use super::session::{Session, Sessions};
use crate::edge::OverTls;

/// Longest form that is read of somebody who is logged in: records and mappings are pasted whole.
const MAX_FORM: usize = 1 << 20;
/// The same of anybody, for a token.
const MAX_LOGIN: usize = 64 << 10;
/// How long a form may take to arrive.
const FORM_TIME: Duration = Duration::from_secs(30);
/// Nothing from elsewhere, no script or style that is written into a page, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The fields of a form that was sent.
#[derive(Clone, Default)]
pub struct Form(Arc<BTreeMap<String, Vec<String>>>);

impl Form {
    fn read(body: &[u8]) -> Self {
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body).into_owned() {
            fields.entry(name).or_default().push(value);
        }
        Self(Arc::new(fields))
    }

    /// A field's text, empty when it was not sent; of several of one name the last.
    pub fn get(&self, name: &str) -> &str {
        self.all(name).last().map_or("", String::as_str)
    }

    /// Every field of a name.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A form's bytes; `None` for one that is longer than `most`, breaks off or does not end: anybody may begin one, and it
/// holds a connection.
async fn read(body: Body, most: usize) -> Option<Bytes> {
    let whole = tokio::time::timeout(FORM_TIME, Limited::new(body, most).collect()).await.ok()?;
    whole.ok().map(|whole| whole.to_bytes())
}

/// Lets a request through with its [`Session`] and, for a POST, the [`Form`] that a page of this session sent.
pub async fn require_session(State(console): State<Console>, request: Request, next: Next) -> Response {
    let Some(session) = console.sessions.of(request.headers()) else {
        return logged_out(&request);
    };
    let (mut parts, mut body) = request.into_parts();
    if parts.method == Method::POST {
        let Some(bytes) = read(body, MAX_FORM).await else {
            return refused(
                &session,
                StatusCode::PAYLOAD_TOO_LARGE,
                "This form is too large, or did not arrive whole.",
            );
        };
        let form = Form::read(&bytes);
        if !session.owns(form.get("csrf")) {
            let why = "This form did not come from a page of this session. Load the page again.";
            return refused(&session, StatusCode::FORBIDDEN, why);
        }
        parts.extensions.insert(form);
        body = Body::empty();
    }
    parts.extensions.insert(session);
    next.run(Request::from_parts(parts, body)).await
}

fn logged_out(request: &Request) -> Response {
    let path = request.uri().path();
    if request.method() != Method::GET || request.headers().contains_key(frame::FRAGMENT) {
        return (StatusCode::UNAUTHORIZED, "log in").into_response();
    }
    let next: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
    Redirect::to(&format!("/console/login?next={next}")).into_response()
}

fn refused(session: &Session, status: StatusCode, why: &str) -> Response {
    (status, frame::page(session, "Refused", "", html! { p .bad { (why) } })).into_response()
}

#[derive(Deserialize)]
pub struct After {
    next: Option<String>,
}

pub async fn login_page(Query(query): Query<After>) -> Markup {
    login_form(query.next.as_deref().unwrap_or_default(), None)
}

fn login_form(next: &str, problem: Option<&str>) -> Markup {
    frame::bare(
        "Log in",
        html! {
            main #content .login {
                h1 { "Mixrelay" }
                form method="post" action="/console/login" {
                    @if let Some(problem) = problem { p .bad role="alert" { (problem) } }
                    input type="hidden" name="next" value=(next);
                    label for="token" { "Token" }
                    input #token type="password" name="token" autocomplete="current-password" required autofocus;
                    button type="submit" { "Log in" }
                }
                p .hint {
                    "The admin token, or one of " code { "auth.tokens" } ". Without " code { "auth.admin_token" }
                    " in the configuration the token is in the file " code { "admin-token" } " beside the store."
                }
            }
        },
    )
}

pub async fn login(State(console): State<Console>, request: Request) -> Response {
    let secure = came_over_tls(request.headers(), request.extensions());
    let Some(bytes) = read(request.into_body(), MAX_LOGIN).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let form = Form::read(&bytes);
    match console.sessions.begin(form.get("token").trim(), secure) {
        Ok(Some(cookie)) => with_cookie(cookie, Redirect::to(inside(form.get("next")))),
        Ok(None) => {
            tracing::warn!("a login to the console was refused");
            let page = login_form(form.get("next"), Some("Nobody has this token."));
            (StatusCode::FORBIDDEN, page).into_response()
        }
        Err(error) => {
            let page = login_form("", Some(&format!("No session can be made: {error}")));
            (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
        }
    }
}

pub async fn logout(Extension(_): Extension<Session>, request: Request) -> Response {
    let secure = came_over_tls(request.headers(), request.extensions());
    with_cookie(Sessions::end(secure), Redirect::to("/console/login"))
}

/// Only a page of the console is gone to after a login.
fn inside(next: &str) -> &str {
    let page = next.strip_prefix("/console").is_some_and(|rest| {
        let plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte));
        plain && !rest.contains("//") && (rest.is_empty() || rest.starts_with('/'))
    });
    if page && next != "/console/login" { next } else { "/console" }
}

/// Whether the browser speaks TLS, with this relay or with a proxy in front: a cookie marked so is never sent over anything
/// else. Who lies here in a header harms nobody but himself.
fn came_over_tls(headers: &HeaderMap, extensions: &Extensions) -> bool {
    let told = headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    told || extensions.get::<OverTls>().is_some()
}

fn with_cookie(cookie: String, to: Redirect) -> Response {
    let mut response = to.into_response();
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// What every answer of the console says to the browser.
pub async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
