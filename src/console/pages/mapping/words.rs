//! A mapping as a block of YAML, as it stands in the configuration file.

use serde_json::{Map, Value};

/// Blocks of keys down to what is a single value or a list; these are written as JSON, which is YAML too.
pub fn written(block: &Map<String, Value>) -> String {
    let mut text = String::new();
    write(&mut text, block, 0);
    text
}

fn write(text: &mut String, block: &Map<String, Value>, depth: usize) {
    for (key, value) in block {
        text.push_str(&"  ".repeat(depth));
        text.push_str(&self::key(key));
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                write(text, inner, depth + 1);
            }
            value => {
                text.push(' ');
                text.push_str(&value.to_string());
                text.push('\n');
            }
        }
    }
}

fn key(key: &str) -> String {
    let plain = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '$')
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
        && !matches!(
            key.to_ascii_lowercase().as_str(),
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
        );
    if plain { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config;

    #[test]
    fn a_mapping_reads_as_in_the_file() {
        let block = json!({
            "event_mapping": { "Purchase": "order_completed", "Sign Up": { "event": "x", "when": ["a", 1] } },
            "lists": {}, "stale_after": "72h",
        });
        let text = "event_mapping:\n  Purchase: \"order_completed\"\n  \"Sign Up\":\n    event: \"x\"\n    when: [\"a\",1]\n\
                    lists: {}\nstale_after: \"72h\"\n";
        assert_eq!(written(block.as_object().unwrap()), text);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(keys in proptest::collection::vec("\\PC{1,12}", 1..6), value in "\\PC{0,20}") {
            let inner: Map<String, Value> = keys.iter().map(|key| (key.clone(), json!(value))).collect();
            let block = Map::from_iter([("event_mapping".to_owned(), Value::Object(inner))]);
            prop_assert_eq!(config::block(&written(&block)).unwrap(), block);
        }
    }
}
