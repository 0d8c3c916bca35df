//! Records as they stand in a request's text: one pass that borrows, keeping the raw text of the fields that the relay
//! reads and the places where it may edit. A span is found from a borrowed value's address relative to the text.

mod element;
mod event;
mod raw;
mod scan;
mod update;

pub use element::{Element, FromObject};
pub use event::{Event, Properties};
pub use raw::Raw;
pub use scan::{NotJson, Scanner};
pub use update::{Operator, Update};
