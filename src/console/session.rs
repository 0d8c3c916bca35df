//! Who is logged in, kept in the cookie itself.
//!
//! A session names its token by a keyed hash, so that a token taken out of the configuration ends its sessions, and ends
//! by itself after [`LASTS`]. The key is made anew by each process: a restart logs everybody out, and no secret for it lies on
//! the disk.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use http::header::COOKIE;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::admin::auth::{AdminAuth, Caller};
use crate::clock::{SharedClock, UnixMillis};
use crate::config::Role;
use crate::hashed::Hashed;

/// How long a session lasts from its login.
const LASTS: Duration = Duration::from_secs(12 * 3600);
const COOKIE_NAME: &str = "mixrelay_session";
/// End (8, big-endian milliseconds), nonce (16), hash of the token (32).
const CLAIMS: usize = 56;
const MAC: usize = 32;

/// Somebody who is logged in.
#[derive(Clone)]
pub struct Session {
    pub caller: Caller,
    /// Every form of this session carries it; no other site can know it.
    pub csrf: String,
}

#[derive(Clone)]
pub struct Sessions {
    auth: AdminAuth,
    clock: SharedClock,
    key: Arc<[u8; 32]>,
}

impl Sessions {
    pub fn new(auth: AdminAuth, clock: SharedClock) -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { auth, clock, key: Arc::new(key) })
    }

    /// The cookie of a new session; `None` for a token that nobody has. `secure` where the page came over TLS.
    pub fn begin(&self, token: &str, secure: bool) -> Result<Option<String>, getrandom::Error> {
        if self.auth.caller(token).is_none() {
            return Ok(None);
        }
        let mut claims = [0; CLAIMS];
        claims[..8].copy_from_slice(&(self.clock.now() + LASTS).0.to_be_bytes());
        getrandom::fill(&mut claims[8..24])?;
        claims[24..].copy_from_slice(&self.keyed("token", Hashed::of(token).bytes()));
        let mac = self.keyed("session", &claims);
        let value = URL_SAFE_NO_PAD.encode([&claims[..], &mac[..]].concat());
        Ok(Some(cookie(&value, LASTS.as_secs(), secure)))
    }

    /// The cookie that ends a session.
    pub fn end(secure: bool) -> String {
        cookie("", 0, secure)
    }

    /// Whose request this is.
    pub fn of(&self, headers: &HeaderMap) -> Option<Session> {
        let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split("; ")).filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
        let bytes = URL_SAFE_NO_PAD.decode(value).ok().filter(|bytes| bytes.len() == CLAIMS + MAC)?;
        let (claims, mac) = bytes.split_at(CLAIMS);
        if !bool::from(self.keyed("session", claims).ct_eq(mac)) {
            return None;
        }
        let ends = UnixMillis(u64::from_be_bytes(claims[..8].try_into().ok()?));
        if ends <= self.clock.now() {
            return None;
        }
        let caller = self.auth.matching(|token| self.keyed("token", token.bytes()).ct_eq(&claims[24..]))?;
        Some(Session { caller, csrf: URL_SAFE_NO_PAD.encode(self.keyed("csrf", claims)) })
    }

    fn keyed(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.key).expect("a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }
}

impl Session {
    /// Whether they may see personal data as it is, and change what can be changed back.
    pub fn operates(&self) -> bool {
        self.caller.role >= Role::Operator
    }

    /// The API's `masked`, for a page that is to show personal data when `unmask` says so.
    pub fn masked(&self, unmask: bool) -> &'static str {
        if unmask && self.operates() { "false" } else { "true" }
    }

    /// Whether a form came from a page of this session.
    pub fn owns(&self, csrf: &str) -> bool {
        bool::from(self.csrf.as_bytes().ct_eq(csrf.as_bytes()))
    }
}

fn cookie(value: &str, seconds: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Path=/console; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}
