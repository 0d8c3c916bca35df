//! Keys that are read and checked, and that this version does not act on. `check` and `serve` name each that is set.
//! The row goes when the room that acts on the key arrives. Keys of which only some values are idle say so where they
//! are read.

const IDLE: &[(&str, &str)] = &[("datasets", "no data set is run")];

/// What happens instead, for a key of `pattern` (as in `cohorts[].id`) that is not acted on.
pub(super) fn meanwhile(pattern: &str) -> Option<&'static str> {
    IDLE.iter().find(|(key, _)| *key == pattern).map(|(_, meanwhile)| *meanwhile)
}
