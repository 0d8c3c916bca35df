//! Words that mean something of their own to Mixpanel: ids that stand for nobody, events that say who someone is.

/// Values that `/import` takes neither as a `distinct_id` nor as an `$insert_id` (contract §3), lower-cased.
const NOBODY: [&str; 17] = [
    "00000000-0000-0000-0000-000000000000",
    "anon",
    "anonymous",
    "nil",
    "none",
    "null",
    "n/a",
    "na",
    "undefined",
    "unknown",
    "<nil>",
    "0",
    "-1",
    "true",
    "false",
    "[]",
    "{}",
];
/// The longest of them.
const LONGEST: usize = 36;

/// Whether an id stands for nobody, white space around it and case apart. As a person it would gather everyone whose app
/// has the same bug. The empty text is not among them: events may have it (contract §3).
pub fn names_nobody(id: &str) -> bool {
    let id = id.trim();
    id.len() <= LONGEST && NOBODY.iter().any(|nobody| nobody.eq_ignore_ascii_case(id))
}

/// The events that link ids (contract §6).
pub fn is_identity_event(name: &str) -> bool {
    matches!(name, "$identify" | "$create_alias" | "$merge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_nobody_are_known_in_any_spelling() {
        for id in NOBODY {
            assert!(names_nobody(id) && names_nobody(&format!(" {} ", id.to_uppercase())), "{id}");
            assert!(id.len() <= LONGEST);
        }
        for id in ["", "u1", "nobody", "00", "00000000-0000-0000-0000-000000000001"] {
            assert!(!names_nobody(id), "{id}");
        }
    }
}
