//! `${NAME}` from the environment, and keys that are written twice: both are checked over the whole tree at once.

use super::error::Wrong;
use super::reader::Report;
use super::yaml::{Key, Node, Value};

/// Replaces every `${NAME}` in every scalar. Keys, and a `$` that no brace follows, stay as they are. What a variable
/// holds is not looked at again.
pub(super) fn resolve(tree: &mut Node, report: &Report<'_>) {
    walk(tree, "", report);
}

fn walk(node: &mut Node, path: &str, report: &Report<'_>) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(scalar) => match substituted(&scalar.text, report) {
            Ok(None) => {}
            Ok(Some(text)) => {
                scalar.text = text;
                // `port: ${PORT}` is a number as if it stood there, so `quoted` stays as it was.
                scalar.from_env = true;
            }
            Err(wrongs) => {
                for wrong in wrongs {
                    report.problem(path, Some(node.line), wrong);
                }
                // Already on record; the key's own check would only say it again.
                node.value = Value::Null;
            }
        },
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{path}[{index}]"), report);
            }
        }
        Value::Map(entries) => {
            drop_duplicates(entries, path, report);
            for (key, value) in entries {
                walk(value, &joined(path, &key.text), report);
            }
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn drop_duplicates(entries: &mut Vec<(Key, Node)>, path: &str, report: &Report<'_>) {
    let mut first = std::collections::HashMap::new();
    entries.retain(|(key, _)| match first.get(&key.text) {
        None => {
            first.insert(key.text.clone(), key.line);
            true
        }
        Some(&line) => {
            report.problem(joined(path, &key.text), Some(key.line), Wrong::DuplicateKey { first: line });
            false
        }
    });
}

/// `None` when nothing was there to replace.
fn substituted(text: &str, report: &Report<'_>) -> Result<Option<String>, Vec<Wrong>> {
    let mut out = String::with_capacity(text.len());
    let mut wrongs = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let end = after.find('}').filter(|&end| is_variable_name(&after[..end]));
        let Some(end) = end else {
            wrongs.push(Wrong::BadReference);
            rest = after;
            continue;
        };
        let name = &after[..end];
        match (report.env)(name) {
            Some(value) => out.push_str(&value),
            None => wrongs.push(Wrong::MissingVariable { name: name.to_owned() }),
        }
        rest = &after[end + 1..];
    }
    if !wrongs.is_empty() {
        return Err(wrongs);
    }
    if rest.len() == text.len() {
        return Ok(None);
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
