//! A secret as what is compared: its hash, so that comparing takes the same time for any wrong guess of any length.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

#[derive(Clone)]
pub struct Hashed([u8; 32]);

impl Hashed {
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// For hashing it once more, with a key.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// In constant time. Whoever has several to compare with compares with all of them, or the time tells which one was
    /// near.
    pub fn matches(&self, other: &Hashed) -> Choice {
        self.0.ct_eq(&other.0)
    }
}
