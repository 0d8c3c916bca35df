//! What makes two records the same event (CORE 8).

use xxhash_rust::xxh3::Xxh3;

use super::event::EventView;

/// Key of the dedup window: event, distinct_id, time and the record's own id. `None` for a record without an id of its
/// own: its resend is a second event, as it is at Mixpanel.
///
/// `$mp_event_id` goes before `$insert_id`: where an SDK sent only the former, the edge minted the latter, anew for a
/// resend.
pub fn dedup_key(view: &EventView<'_>) -> Option<[u8; 16]> {
    let own_id = view.mp_event_id.as_deref().or(view.insert_id.as_deref())?;
    let mut hash = Xxh3::new();
    for part in [view.name.as_ref(), view.distinct_id.as_deref().unwrap_or_default(), own_id] {
        // Lengths keep ("ab", "c") from being ("a", "bc").
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(&view.time.map_or(0, |time| time.0).to_le_bytes());
    Some(hash.digest128().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(body: &str) -> Option<[u8; 16]> {
        dedup_key(&EventView::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn a_resend_is_known_by_all_four_and_by_nothing_else() {
        let first = key(r#"{"event":"A","properties":{"distinct_id":"u","time":1700000000,"$insert_id":"i","x":1}}"#);
        assert!(first.is_some());
        let resend = r#"{"event":"A","properties":{"x":2,"$insert_id":"i","time":1700000000000,"distinct_id":"u"}}"#;
        assert_eq!(key(resend), first);
        for other in [
            r#"{"event":"B","properties":{"distinct_id":"u","time":1700000000,"$insert_id":"i"}}"#,
            r#"{"event":"A","properties":{"distinct_id":"v","time":1700000000,"$insert_id":"i"}}"#,
            r#"{"event":"A","properties":{"distinct_id":"u","time":1700000001,"$insert_id":"i"}}"#,
            r#"{"event":"A","properties":{"distinct_id":"u","time":1700000000,"$insert_id":"j"}}"#,
            r#"{"event":"Au","properties":{"distinct_id":"","time":1700000000,"$insert_id":"i"}}"#,
        ] {
            assert_ne!(key(other), first, "{other}");
        }
    }

    #[test]
    fn without_an_id_of_its_own_there_is_no_key() {
        assert_eq!(key(r#"{"event":"A","properties":{"distinct_id":"u","time":1700000000}}"#), None);
    }

    #[test]
    fn a_minted_insert_id_does_not_hide_the_sdks_event_id() {
        let sent = |insert_id: &str| {
            key(&format!(
                r#"{{"event":"A","properties":{{"distinct_id":"u","time":1,"$insert_id":"{insert_id}"}},"$mp_metadata":{{"$mp_event_id":"e"}}}}"#
            ))
        };
        assert_eq!(sent("minted-1"), sent("minted-2"));
    }
}
