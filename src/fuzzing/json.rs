//! The walker of `mixpanel::wire` against serde_json, which checks the same grammar in another way.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::mixpanel::wire::{Element, FromObject, NotJson, Raw, Scanner};

/// Every member of an object in order, with how deep its value nests, and the object's whole text.
#[derive(Debug, Default)]
struct Members<'t>(Vec<(String, &'t str, usize)>, &'t str);

impl<'t> FromObject<'t> for Members<'t> {
    fn member(&mut self, key: Cow<'t, str>, scanner: &mut Scanner<'t>) -> Result<(), NotJson> {
        let (value, depth) = scanner.value()?;
        self.0.push((key.into_owned(), value.text(), depth));
        Ok(())
    }

    fn ends(&mut self, whole: Raw<'t>) {
        self.1 = whole.text();
    }
}

/// The texts of an object's members as serde_json reads them, in order and with repetitions; none for a value of another
/// kind.
pub(super) fn members(text: &str) -> Result<Option<Vec<(String, &str)>>, serde_json::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<(String, &'de str)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                members.push((key, value.get()));
            }
            Ok(members)
        }
    }
    if !text.trim_start_matches([' ', '\n', '\r', '\t']).starts_with('{') {
        return serde_json::from_str::<&RawValue>(text).map(|_| None);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = serde::Deserializer::deserialize_map(&mut deserializer, Visitor)?;
    deserializer.end().map(|()| Some(members))
}

/// How deep arrays and objects nest in a JSON value: brackets outside strings.
fn depth(json: &str) -> usize {
    let (mut open, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' if !quoted => open -= 1,
            _ => {}
        }
    }
    deepest
}

/// Both readers take the same texts, and find the same members in them.
pub(crate) fn assert_read_as_serde_does(text: &str) {
    let ours = Scanner::whole::<Members<'_>>(text);
    match members(text) {
        Err(error) => assert!(ours.is_err(), "{text}: {error}"),
        Ok(None) => assert!(matches!(ours, Ok(Element::Other)), "{text}"),
        Ok(Some(theirs)) => {
            let Ok(Element::Object(Members(members, whole))) = ours else { panic!("refused: {text}") };
            assert_eq!(members.iter().map(|(key, value, _)| (key.clone(), *value)).collect::<Vec<_>>(), theirs);
            assert_eq!(whole, text.trim_matches([' ', '\n', '\r', '\t']));
            for (_, value, deep) in members {
                assert_eq!(deep, depth(value), "{value}");
            }
        }
    }
}

/// Any text: an object and its members, or an array and its elements.
pub fn json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_read_as_serde_does(text);
    if !text.starts_with('[') {
        return;
    }
    let mut ours = Vec::new();
    let mut scanner = Scanner::new(text);
    let walked = scanner.elements(|element: Element<Members<'_>>| {
        ours.push(match element {
            Element::Object(Members(_, whole)) => Some(whole),
            Element::Other => None,
        });
        Ok::<_, NotJson>(())
    });
    let walked = walked.and_then(|()| scanner.end());
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(theirs) => {
            walked.expect("an array for serde_json is one for the walker");
            let objects = theirs.iter().map(|raw| Some(raw.get()).filter(|text| text.starts_with('{')));
            assert!(ours.iter().copied().eq(objects), "{text}");
        }
        // A key that is no text (`"\ud800"`) is an error to the walker alone: serde_json passes over keys unread here.
        Err(error) => assert!(walked.is_err(), "{text}: {error}"),
    }
}
