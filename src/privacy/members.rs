//! The members of a JSON object with the text that each stands in.

use std::borrow::Cow;
use std::ops::Range;

use crate::mixpanel::wire::{Element, FromObject, NotJson, Raw, Scanner};

#[derive(Debug, Default)]
struct Read<'a>(Vec<(Cow<'a, str>, Raw<'a>)>);

impl<'t> FromObject<'t> for Read<'t> {
    fn member(&mut self, key: Cow<'t, str>, scanner: &mut Scanner<'t>) -> Result<(), NotJson> {
        let (value, _) = scanner.value()?;
        self.0.push((key, value));
        Ok(())
    }

    fn ends(&mut self, _: Raw<'t>) {}
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
pub(super) fn members(text: &str) -> Result<Option<Vec<Member<'_>>>, NotJson> {
    let Element::Object(Read(read)) = Scanner::new(text).element()? else { return Ok(None) };
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
