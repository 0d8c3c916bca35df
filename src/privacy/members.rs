//! The members of a JSON object with the text that each stands in.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed as _, MapAccess};
use serde_json::value::RawValue;

use crate::mixpanel::wire::{Element, ElementSeed, FromObject, Raw};

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Debug, Default)]
struct Read<'a>(Vec<(Cow<'a, str>, Raw<'a>)>);

impl<'de> FromObject<'de> for Read<'de> {
    fn read_fields<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            self.0.push((name, Raw::from(map.next_value::<&'de RawValue>()?)));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Member<'a> {
    pub name: Cow<'a, str>,
    pub value: Raw<'a>,
    /// From behind the comma or brace before it to the end of its value.
    pub span: Range<usize>,
}

impl Member<'_> {
    /// The member's text up to its value.
    pub fn head<'t>(&self, text: &'t str) -> &'t str {
        &text[self.span.start..self.value.span(text).start]
    }

    pub fn whole<'t>(&self, text: &'t str) -> &'t str {
        &text[self.span.clone()]
    }
}

/// The members of the object `text`, in its order; a name may occur twice. `Ok(None)`: a JSON value of another kind.
pub(super) fn members(text: &str) -> Result<Option<Vec<Member<'_>>>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Element::Object(Read(read)) = ElementSeed::<Read<'_>>::default().deserialize(&mut deserializer)? else {
        return Ok(None);
    };
    let mut from = text.find('{').map_or(0, |at| at + 1);
    let mut members = Vec::with_capacity(read.len());
    for (name, value) in read {
        let end = value.span(text).end;
        members.push(Member { name, value, span: from..end });
        // Only white space stands between a value and the comma behind it, because the text has been parsed.
        from = end + text[end..].find(',').map_or(0, |at| at + 1);
    }
    Ok(Some(members))
}
