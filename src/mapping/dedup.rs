//! What makes two records the same event (CORE 8).

use xxhash_rust::xxh3::Xxh3;

use super::event::EventView;

/// A key of the dedup window.
pub type DedupKey = [u8; 16];

/// Key of the dedup window: event, distinct_id, time and the record's own id. `None` for a record without an id of its
/// own: its resend is a second event, as it is at Mixpanel.
///
/// `$mp_event_id` goes before `$insert_id`: where an SDK sent only the former, the edge minted the latter, anew for a
/// resend.
pub fn dedup_key(view: &EventView<'_>) -> Option<DedupKey> {
    let own_id = view.mp_event_id.as_deref().or(view.insert_id.as_deref())?;
    let mut hash = hash_of(&[view.name.as_ref(), view.distinct_id.as_deref().unwrap_or_default(), own_id]);
    hash.update(&view.time.map_or(0, |time| time.0).to_le_bytes());
    Some(hash.digest128().to_be_bytes())
}

/// Key by which an event is known again in what Mixpanel gives back, by its stream or by an export: its name and the
/// `$insert_id` that Mixpanel was given. Mixpanel may have put another `distinct_id` into it by then (Mixpanel contract §6),
/// rounds times, and shows no `$mp_event_id`.
pub fn echo_key(view: &EventView<'_>) -> Option<DedupKey> {
    let hash = hash_of(&["echo", view.name.as_ref(), view.insert_id.as_deref()?]);
    Some(hash.digest128().to_be_bytes())
}

fn hash_of(parts: &[&str]) -> Xxh3 {
    let mut hash = Xxh3::new();
    for part in parts {
        // Lengths keep ("ab", "c") from being ("a", "bc").
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash
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
    fn an_echo_is_known_by_name_and_insert_id_whoever_it_is_of_by_then() {
        let key = |body: &str| echo_key(&EventView::parse(body.as_bytes()).unwrap());
        let sent = r#"{"event":"A","properties":{"distinct_id":"$device:d","time":1700000000123,"$insert_id":"i"},
            "$mp_metadata":{"$mp_event_id":"e"}}"#;
        let echo = r#"{"event":"A","properties":{"distinct_id":"u","time":1700000000,"$insert_id":"i"}}"#;
        assert!(key(sent).is_some());
        assert_eq!(key(echo), key(sent));
        assert_ne!(key(&echo.replace("\"i\"", "\"j\"")), key(sent));
        assert_ne!(key(&echo.replace("\"A\"", "\"B\"")), key(sent));
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
