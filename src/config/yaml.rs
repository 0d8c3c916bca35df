//! YAML text as a tree that remembers its lines and how each scalar was written.
//!
//! The tree keeps scalars as the text that stands in the file. What `12e4` or `no` means is decided by whoever asks for
//! a number or a name, so a project token never turns into a float on the way. Owns the bounds on what a file may hold;
//! knows nothing of keys and their meaning.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag, options};

const MAX_TEXT_BYTES: usize = 4 << 20;
/// Aliases count with everything that they stand for, so that a small file cannot become a large tree.
const MAX_NODES: usize = 100_000;
/// Bytes of all texts; those of the file, and as many again by its aliases.
const MAX_TREE_BYTES: usize = 2 * MAX_TEXT_BYTES;
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Counted from 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// Quoted scalars are text, whatever they look like.
    pub quoted: bool,
    /// Part of the text came from the environment: it may be a secret, whatever key it stands at.
    pub from_env: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub text: String,
    pub line: usize,
}

/// Why a text is not a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    #[error("this is not valid YAML: {0}")]
    Scan(String),
    #[error("the file is larger than {} MiB", MAX_TEXT_BYTES >> 20)]
    TooLong,
    #[error("the file holds more than {MAX_NODES} values")]
    TooMany,
    #[error("with all that its aliases stand for, the file is larger than {} MiB", MAX_TREE_BYTES >> 20)]
    TooMuch,
    #[error("values are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("the file holds more than one YAML document")]
    ManyDocuments,
    #[error("a key must be plain text")]
    ComplexKey,
    #[error("YAML tags such as `!name` mean nothing here")]
    Tag,
    #[error("the alias stands inside of what it refers to")]
    RecursiveAlias,
}

/// A syntax error and its line, counted from 1.
pub(super) type Located = (usize, SyntaxError);

/// The tree of `text`; [`Value::Null`] for an empty file.
pub(super) fn read(text: &str) -> Result<Node, Located> {
    if text.len() > MAX_TEXT_BYTES {
        return Err((1, SyntaxError::TooLong));
    }
    let options = options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH, emit_comments: false };
    let mut tree = Tree::default();
    for step in Parser::new_from_str_with_options(text, options) {
        let (event, span) = step.map_err(|error: ScanError| located(&error))?;
        let line = span.start.line().max(1);
        tree.take(event, span).map_err(|error| (line, error))?;
    }
    Ok(tree.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

fn located(error: &ScanError) -> Located {
    (error.marker().line().max(1), SyntaxError::Scan(error.info()))
}

/// A collection whose end has not been seen.
struct Open {
    line: usize,
    anchor: usize,
    children: Children,
}

enum Children {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Option<Key> },
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    documents: usize,
    nodes: usize,
    /// Of all texts in the tree and of those that are kept for aliases.
    bytes: usize,
    root: Option<Node>,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = span.start.line().max(1);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 { Err(SyntaxError::ManyDocuments) } else { Ok(()) }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain || scalar_tag_quotes(tag.as_ref())?;
                self.place(Node { line, value: scalar(text.into_owned(), quoted) }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.as_ref(), "seq")?;
                self.begin(Open { line, anchor, children: Children::List(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.as_ref(), "map")?;
                self.begin(Open { line, anchor, children: Children::Map { entries: Vec::new(), key: None } })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let node = self.anchors.get(&id).ok_or(SyntaxError::RecursiveAlias)?;
                let weight = weight(node);
                if self.open.len() + weight.depth > MAX_DEPTH {
                    return Err(SyntaxError::TooDeep);
                }
                let node = Node { line, value: node.value.clone() };
                self.add(weight)?;
                self.place(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), SyntaxError> {
        if let Some(Open { children: Children::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(SyntaxError::ComplexKey);
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError::TooDeep);
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.children {
            Children::List(items) => Value::List(items),
            Children::Map { entries, .. } => Value::Map(entries),
        };
        self.place(Node { line: open.line, value }, open.anchor)
    }

    fn add(&mut self, weight: Weight) -> Result<(), SyntaxError> {
        self.nodes += weight.nodes;
        self.bytes += weight.bytes;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::TooMany);
        }
        if self.bytes > MAX_TREE_BYTES { Err(SyntaxError::TooMuch) } else { Ok(()) }
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::TooMany);
        }
        if anchor != 0 {
            // An anchored node is kept a second time.
            self.add(weight(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.children) {
            None => self.root = Some(node),
            Some(Children::List(items)) => items.push(node),
            Some(Children::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(as_key(node)?),
            },
        }
        Ok(())
    }
}

fn as_key(node: Node) -> Result<Key, SyntaxError> {
    match node.value {
        Value::Scalar(scalar) => Ok(Key { text: scalar.text, line: node.line }),
        Value::Null | Value::List(_) | Value::Map(_) => Err(SyntaxError::ComplexKey),
    }
}

fn scalar(text: String, quoted: bool) -> Value {
    if !quoted && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar(Scalar { text, quoted, from_env: false })
}

/// `!!str 12` is text; the other tags of the core schema say what the reader of the key decides anyway.
fn scalar_tag_quotes(tag: Option<&Cow<'_, Tag>>) -> Result<bool, SyntaxError> {
    match tag.map(|tag| tag.core_suffix()) {
        None => Ok(false),
        Some(Some("str")) => Ok(true),
        Some(Some("bool" | "int" | "float" | "null")) => Ok(false),
        Some(_) => Err(SyntaxError::Tag),
    }
}

fn refuse_tag(tag: Option<&Cow<'_, Tag>>, allowed: &str) -> Result<(), SyntaxError> {
    match tag.map(|tag| tag.core_suffix()) {
        None => Ok(()),
        Some(Some(suffix)) if suffix == allowed => Ok(()),
        Some(_) => Err(SyntaxError::Tag),
    }
}

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Weight {
    /// A collection around what was weighed so far.
    fn with(self, inner: Weight) -> Self {
        let depth = self.depth.max(inner.depth + 1);
        Self { nodes: self.nodes + inner.nodes, bytes: self.bytes + inner.bytes, depth }
    }
}

/// By recursion: the depth is bounded, since the tree was built here.
fn weight(node: &Node) -> Weight {
    match &node.value {
        Value::Null => Weight { nodes: 1, ..Weight::default() },
        Value::Scalar(scalar) => Weight { nodes: 1, bytes: scalar.text.len(), depth: 0 },
        Value::List(items) => items.iter().map(weight).fold(Weight { nodes: 1, bytes: 0, depth: 1 }, Weight::with),
        Value::Map(entries) => entries.iter().fold(Weight { nodes: 1, bytes: 0, depth: 1 }, |all, (key, value)| {
            let all = all.with(weight(value));
            Weight { bytes: all.bytes + key.text.len(), ..all }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(node: &Node) -> &[(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("not a map: {other:?}"),
        }
    }

    #[test]
    fn scalars_keep_their_text_and_lines() {
        let node = read("a: 12e4\n\nb: '007'\nc: ~\n").unwrap();
        let entries = map(&node);
        let lines: Vec<_> = entries.iter().map(|(key, _)| (key.text.as_str(), key.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 3), ("c", 4)]);
        assert!(matches!(&entries[0].1.value, Value::Scalar(s) if s.text == "12e4" && !s.quoted));
        assert!(matches!(&entries[1].1.value, Value::Scalar(s) if s.text == "007" && s.quoted));
        assert!(matches!(entries[2].1.value, Value::Null));
    }

    #[test]
    fn aliases_are_copies() {
        let node = read("a: &x [1, 2]\nb: *x\n").unwrap();
        assert!(matches!(&map(&node)[1].1.value, Value::List(items) if items.len() == 2));
    }

    #[test]
    fn a_small_file_cannot_become_a_large_tree() {
        let mut text = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let previous = level - 1;
            let aliases = vec![format!("*l{previous}"); 10].join(", ");
            text.push_str(&format!("l{level}: &l{level} [{aliases}]\n"));
        }
        assert_eq!(read(&text).unwrap_err().1, SyntaxError::TooMany);
    }

    /// The number of values alone says little: one of them may be a megabyte.
    #[test]
    fn a_long_text_cannot_be_multiplied() {
        let long = "x".repeat(512 << 10);
        let with = |aliases: usize| format!("a: &a {long}\nb: [{}]\n", vec!["*a"; aliases].join(", "));
        assert!(read(&with(10)).is_ok());
        assert_eq!(read(&with(20_000)).unwrap_err().1, SyntaxError::TooMuch);
        // Keys are texts too; YAML has them no longer than a kilobyte.
        let keys: String = (0..300).map(|n| format!("  {n:0>1000}: 1\n")).collect();
        let key = format!("a: &a\n{keys}b: [{}]\n", vec!["*a"; 40].join(", "));
        assert_eq!(read(&key).unwrap_err().1, SyntaxError::TooMuch);
    }

    /// Whoever walks the tree does so by recursion.
    #[test]
    fn aliases_nest_no_deeper_than_other_values() {
        let mut text = String::from("l0: &l0 [[[[[[[[[[x]]]]]]]]]]\n");
        for level in 1..=6 {
            let previous = level - 1;
            text.push_str(&format!("l{level}: &l{level} [[[[[[[[[[*l{previous}]]]]]]]]]]\n"));
        }
        assert_eq!(read(&text).unwrap_err(), (7, SyntaxError::TooDeep));
        assert!(read(text.split_inclusive("\n").take(6).collect::<String>().as_str()).is_ok());
    }

    #[test]
    fn what_the_tree_refuses() {
        assert_eq!(read("a: 1\n---\nb: 2\n").unwrap_err(), (2, SyntaxError::ManyDocuments));
        assert_eq!(read("? [a]\n: 1\n").unwrap_err().1, SyntaxError::ComplexKey);
        assert_eq!(read("a: !secret x\n").unwrap_err().1, SyntaxError::Tag);
        assert_eq!(read("a: &x [*x]\n").unwrap_err().1, SyntaxError::RecursiveAlias);
        assert!(matches!(read("a: b\n  c: d\n").unwrap_err(), (2, SyntaxError::Scan(_))));
        assert!(read(&"[".repeat(1000)).is_err());
    }
}
