//! Callers, vendors and browsers that mean harm. docs/security.md says which threat each test stands for.

mod console;
mod http1;
mod http2;
mod many;
mod paths;
mod vendors;
