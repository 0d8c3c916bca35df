//! Whole legs against both vendors' sandbox, killed and started again: the traces of the core, each by name, and the
//! vendors' answers, row by row. The sum of promise P2 is checked at the end of every one of them, by
//! [`super::testing::Relay::drain`].

mod bases;
mod brevo_answers;
mod consent;
mod consent_random;
mod contacts;
mod core;
mod deletion;
mod everything;
mod forgetting;
mod full_disk;
mod group_hours;
mod groups;
mod histories;
mod history;
mod identity;
mod imports;
mod interleavings;
mod lists;
mod mixpanel_answers;
mod operators;
mod pulls;
mod random;
mod random_identity;
mod replays;
mod waiting;
