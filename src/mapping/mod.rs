//! Mixpanel record → what Brevo needs of it: pure functions.
//!
//! Owns the reading of a record's body as far as Brevo is concerned ([`event`], [`profile`], [`group`]), the configured mapping in
//! a form that answers quickly ([`CompiledMapping`]), and the decisions: what is sent, under which name, with which
//! properties, and what is skipped by which rule. `docs/mapping.md` is the same for users.
//!
//! Must not know: the store, the network, the clock, who a distinct_id is. Times are passed in.
//!
//! Invariants:
//!
//! * A decision depends on the record and the mapping alone: a replay decides as the first reading did.
//! * A record that is skipped costs one borrowed pass over its bytes and no copies.
//! * Nothing that Brevo would refuse for its form (name, key, size) is in a mapped event.

pub mod compiled;
pub mod dedup;
pub mod enrich;
pub mod event;
pub mod fields;
pub mod group;
pub mod membership;
pub mod operation;
pub mod preview;
pub mod profile;
pub mod properties;
pub mod rule;
pub mod testing;

pub use compiled::{AttributeRules, CompiledMapping, ConsentRule, MappingError, Target};
pub use dedup::{DedupKey, dedup_key, echo_key};
pub use enrich::{Enricher, Place, Sources};
pub use event::{EventDecision, EventView, MappedEvent, map_event};
pub use fields::Unreadable;
pub use group::{GroupDecision, GroupOp, map_group};
pub use operation::{Assignment, Change, Operation};
pub use preview::{Came, preview, preview_again};
pub use profile::{
    DATASET, GroupView, Operator, ProfileChange, ProfileDecision, ProfileView, dataset_of, map_profile, map_row,
};
pub use testing::{Mismatch, run_test};
