//! What a walk over a call's JSON makes of its elements.

use std::borrow::Cow;

use super::raw::Raw;
use super::scan::{NotJson, Scanner};

/// One element of a call's array, or one line of NDJSON.
#[derive(Clone, Debug)]
pub enum Element<T> {
    Object(T),
    /// A JSON value of another kind, or a line that is not JSON.
    Other,
}

/// A record type that can be read from a JSON object, member by member.
pub trait FromObject<'t>: Default {
    /// A member, of which the key has been read; `scanner` stands before its value and has to be brought behind it.
    fn member(&mut self, key: Cow<'t, str>, scanner: &mut Scanner<'t>) -> Result<(), NotJson>;

    /// The end: the object's whole text, from brace to brace.
    fn ends(&mut self, whole: Raw<'t>);
}
