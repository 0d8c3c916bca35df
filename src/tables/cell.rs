//! What a cell means, as Mixpanel reads it (contract §7).

use serde_json::value::RawValue;

/// The cell as JSON: a number, `true` or `false`, a list, or text; `None` for an empty one, which is undefined.
///
/// An RFC 3339 time stays text: that is how times travel in JSON, and an attribute of type date is made from it later.
pub fn json(text: &str) -> Option<Box<RawValue>> {
    if text.is_empty() {
        return None;
    }
    let as_it_stands = matches!(text, "true" | "false") || is_number(text) || is_list(text);
    let json =
        if as_it_stands { RawValue::from_string(text.to_owned()) } else { serde_json::value::to_raw_value(text) };
    json.ok()
}

fn is_number(text: &str) -> bool {
    // serde_json forgives white space around a value; a cell with any is text.
    text.as_bytes().last().is_some_and(u8::is_ascii_digit)
        && text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

fn is_list(text: &str) -> bool {
    text.starts_with('[') && text.ends_with(']') && serde_json::from_str::<Vec<serde_json::Value>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_have_the_vendors_types() {
        for (cell, expected) in [
            ("", None),
            ("42", Some("42")),
            ("-1.50", Some("-1.50")),
            ("1e3", Some("1e3")),
            ("true", Some("true")),
            ("false", Some("false")),
            (r#"["a","b"]"#, Some(r#"["a","b"]"#)),
            ("2024-05-01T10:00:00Z", Some(r#""2024-05-01T10:00:00Z""#)),
            ("007", Some(r#""007""#)),
            (" 42", Some(r#"" 42""#)),
            ("1e999", Some(r#""1e999""#)),
            ("True", Some(r#""True""#)),
            ("[open", Some(r#""[open""#)),
            ("say \"hi\"", Some(r#""say \"hi\"""#)),
            ("null", Some(r#""null""#)),
        ] {
            assert_eq!(super::json(cell).as_deref().map(|raw| raw.get()), expected, "{cell}");
        }
    }
}
