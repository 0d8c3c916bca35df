//! What vendors push: any JSON is read or refused, and what is read becomes records that the other vendor takes.

use serde_json::Value;

use super::{first_line, one_of};
use crate::clock::UnixMillis;
use crate::config::IdentityMode;
use crate::mixpanel::validate::{self, Rules, Tokens};
use crate::mixpanel::wire::{Element, Event, Scanner};
use crate::mixpanel::{heads, keys};
use crate::record::{Destinations, Kind};
use crate::webhooks::brevo::push::{self, Push};
use crate::webhooks::brevo::records::{Naming, is_own_insert_id, records};
use crate::webhooks::mixpanel::page::Page;
use crate::webhooks::mixpanel::streamed;

const NOW: UnixMillis = UnixMillis(1_795_514_400_000);

/// First line: the project's kind, and whether the person is known, a digit each. The rest is the body of a push.
pub fn webhooks(data: &[u8]) {
    let (settings, body) = first_line(data);
    let mode = one_of([IdentityMode::Simplified, IdentityMode::Original], settings.first());
    let person = one_of([None, Some("u-1"), Some("$device:d")], settings.get(1)).map(Into::into);
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    cohorts(body.clone());
    streams(body.clone());
    let naming = Naming { token: "tok".to_owned(), mode, address_hidden: settings.get(2).is_some() };
    for push in push::items(body).into_iter().flatten().filter_map(|item| Push::read(item).ok()) {
        let made = records(&push, person.as_ref(), &naming, NOW);
        assert_eq!(made, records(&push, person.as_ref(), &naming, NOW), "a repetition is known again");
        for record in made {
            assert_eq!(record.destinations, Destinations::MIXPANEL, "nothing goes back where it came from");
            let text = std::str::from_utf8(&record.body).expect("JSON is UTF-8");
            if record.kind == Kind::Event {
                importable(text, mode);
                let body: Value = serde_json::from_str(text).expect("JSON");
                assert!(is_own_insert_id(body["properties"]["$insert_id"].as_str().expect("one was made")), "{text}");
            }
            assert!(!keys::ordered_keys(&record).is_empty(), "{text}");
        }
    }
}

/// Mixpanel takes it, by the rules that its strict import is documented with.
fn importable(text: &str, mode: IdentityMode) {
    let Ok(Element::Object(event)) = Scanner::whole::<Event<'_>>(text) else { panic!("no object: {text}") };
    let tokens = Tokens::new(vec!["tok".to_owned()], Vec::new());
    let judged = validate::event(&event, text.len(), Rules::ImportStrict, &tokens, None, mode, NOW);
    assert!(judged.is_ok(), "{judged:?}: {text}");
    assert!(heads::of_event(text.as_bytes()).is_some(), "{text}");
}

fn cohorts(mut body: Value) {
    if let Ok(page) = Page::read(&mut body, Some("12345")) {
        assert!(page.page >= 1 && page.pages >= page.page, "{page:?}");
        assert!(!page.session.is_empty());
    }
}

fn streams(body: Value) {
    let items = match body {
        Value::Array(items) => items,
        item => vec![item],
    };
    for event in items.into_iter().filter_map(|item| streamed::read(item, Some("12345"), "tok").ok()) {
        let text = event.body.to_string();
        let head = heads::of_event(text.as_bytes()).unwrap_or_else(|| panic!("no name or time: {text}"));
        assert!(!head.name.trim().is_empty() && !event.insert_id.is_empty());
        assert!(matches!(event.kind, Kind::Event | Kind::Identity));
        assert!(!keys::people(event.kind, text.as_bytes()).is_empty(), "{text}");
    }
}
