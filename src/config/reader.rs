//! Reading a tree block by block: every block knows its path, hands out its keys one by one, and reports what is left.
//!
//! All problems of a file are collected, so that one run shows them all. A reader that gets `None` for a key goes on
//! with the default; if that was because of a problem, the problem is on record and the result will not be used.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::error::{Bad, KeyHint, Problem, Wrong};
use super::notice::{About, Notice};
use super::values;
use super::yaml::{Key, Node, Scalar, Value};

/// Collects what is found while a tree is read.
pub(super) struct Report<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<Problem>>,
    notices: RefCell<Vec<Notice>>,
    /// Every key that was asked for: block pattern → key. `[]` stands for a list's items, `*` for keys of free choice.
    known: RefCell<BTreeMap<String, BTreeSet<&'static str>>>,
    leftovers: RefCell<Vec<Leftover>>,
}

/// A key that nobody asked for.
struct Leftover {
    block: Path,
    key: String,
    line: usize,
}

impl<'a> Report<'a> {
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            env,
            problems: RefCell::default(),
            notices: RefCell::default(),
            known: RefCell::default(),
            leftovers: RefCell::default(),
        }
    }

    /// A variable of the environment; an empty one counts as not set.
    pub fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.trim().is_empty())
    }

    pub fn problem(&self, key: impl Into<String>, line: Option<usize>, wrong: Wrong) {
        self.problems.borrow_mut().push(Problem { key: key.into(), line, wrong });
    }

    /// Nothing more is said of a place where something is wrong already, such as a missing variable.
    fn problem_once(&self, key: String, line: Option<usize>, wrong: Wrong) {
        let known = self.problems.borrow().iter().any(|problem| problem.key == key);
        if !known {
            self.problem(key, line, wrong);
        }
    }

    pub fn notice(&self, key: impl Into<String>, line: Option<usize>, about: About) {
        self.notices.borrow_mut().push(Notice { key: key.into(), line, about });
    }

    /// Everything found, by line; what has none comes last.
    pub fn finish(self) -> (Vec<Problem>, Vec<Notice>) {
        let known = self.known.into_inner();
        let mut problems = self.problems.into_inner();
        for Leftover { block, key, line } in self.leftovers.into_inner() {
            let hint = hint(&known, &block.pattern, &key);
            problems.push(Problem { key: block.join(&key).shown, line: Some(line), wrong: Wrong::UnknownKey { hint } });
        }
        let mut notices = self.notices.into_inner();
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        notices.sort_by_key(|notice| notice.line.unwrap_or(usize::MAX));
        (problems, notices)
    }

    /// Full patterns of all keys that were asked for, `cohorts[].id`.
    #[cfg(test)]
    pub fn known_keys(&self) -> Vec<String> {
        let known = self.known.borrow();
        known.iter().flat_map(|(block, keys)| keys.iter().map(|key| joined(block, key))).collect()
    }
}

fn hint(known: &BTreeMap<String, BTreeSet<&'static str>>, block: &str, key: &str) -> KeyHint {
    let mut here: Vec<&str> = known.get(block).into_iter().flatten().copied().collect();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&candidate.to_lowercase(), &key.to_lowercase());
    here.sort_by_key(|candidate| distance(candidate));
    if let Some(nearest) = here.first()
        && distance(nearest) <= (key.chars().count() / 3).max(2)
    {
        return KeyHint::Nearest((*nearest).to_owned());
    }
    let elsewhere = known.iter().find(|(_, keys)| keys.contains(key));
    match elsewhere {
        Some((place, _)) => KeyHint::Elsewhere(joined(place, key)),
        None => KeyHint::Known(here.into_iter().map(str::to_owned).collect()),
    }
}

fn joined(block: &str, key: &str) -> String {
    if block.is_empty() { key.to_owned() } else { format!("{block}.{key}") }
}

#[derive(Clone, Debug, Default)]
struct Path {
    /// As in `cohorts[2].id`.
    shown: String,
    /// As in `cohorts[].id`.
    pattern: String,
}

impl Path {
    fn join(&self, key: &str) -> Path {
        Path { shown: joined(&self.shown, key), pattern: joined(&self.pattern, key) }
    }

    fn free(&self, key: &str) -> Path {
        Path { shown: joined(&self.shown, key), pattern: joined(&self.pattern, "*") }
    }

    fn item(&self, index: usize) -> Path {
        Path { shown: format!("{}[{index}]", self.shown), pattern: format!("{}[]", self.pattern) }
    }
}

/// A block whose keys are known by name.
pub(super) struct Section<'a> {
    path: Path,
    /// `None` for a block that is not in the file.
    line: Option<usize>,
    entries: Vec<&'a (Key, Node)>,
    report: &'a Report<'a>,
}

impl<'a> Section<'a> {
    /// The whole file. `None`: it is something else than a block of keys, which is now on record.
    pub fn root(tree: &'a Node, report: &'a Report<'a>) -> Option<Self> {
        Item { path: Path::default(), node: tree, report }.section()
    }

    pub fn report(&self) -> &'a Report<'a> {
        self.report
    }

    /// The dotted path of one of this block's keys.
    pub fn path(&self, key: &str) -> String {
        self.path.join(key).shown
    }

    pub fn exists(&self) -> bool {
        self.line.is_some()
    }

    /// Whether `key` has a value.
    pub fn holds(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, node)| known.text == key && !matches!(node.value, Value::Null))
    }

    /// Whether `key` has several values.
    pub fn holds_list(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, node)| known.text == key && matches!(node.value, Value::List(_)))
    }

    /// The value of `key`, unless it is absent or null (`key:` with nothing behind it).
    pub fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.report.known.borrow_mut().entry(self.path.pattern.clone()).or_default().insert(key);
        let at = self.entries.iter().position(|(known, _)| known.text == key)?;
        let (_, node) = self.entries.remove(at);
        if matches!(node.value, Value::Null) {
            return None;
        }
        Some(Item { path: self.path.join(key), node, report: self.report })
    }

    /// The block at `key`; an empty one when it is absent.
    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        let absent = Section { path: self.path.join(key), line: None, entries: Vec::new(), report: self.report };
        self.take(key).and_then(|item| item.section()).unwrap_or(absent)
    }

    /// The scalar at `key`, read by `parse`.
    pub fn scalar<T>(&mut self, key: &'static str, parse: impl Fn(&Scalar) -> Result<T, Bad>) -> Option<T> {
        self.take(key)?.scalar(parse)
    }

    /// Like [`Self::scalar`] for what must never be shown.
    pub fn hidden<T>(&mut self, key: &'static str, parse: impl Fn(&Scalar) -> Result<T, Bad>) -> Option<T> {
        let item = self.take(key)?;
        item.warn_of_placeholder();
        item.hidden(parse)
    }

    /// The scalar at `key`, or else what the variable holds. The variable also wins over a placeholder of the
    /// documentation, so that a pasted block works with nothing but the environment beside it.
    pub fn scalar_or_variable<T>(
        &mut self,
        key: &'static str,
        variable: &'static str,
        parse: impl Fn(&Scalar) -> Result<T, Bad>,
    ) -> Option<T> {
        let item = self.take(key);
        let placeholder = item.as_ref().is_some_and(Item::is_placeholder);
        let fallback = self.report.variable(variable).filter(|_| placeholder || item.is_none());
        if placeholder && let Some(item) = &item {
            item.notice(About::Placeholder { variable: fallback.as_ref().map(|_| variable) });
        }
        match (fallback, item) {
            (Some(value), _) => self.variable(key, variable, value, parse),
            (None, Some(item)) => item.hidden(parse),
            (None, None) => None,
        }
    }

    fn variable<T>(
        &self,
        key: &str,
        variable: &str,
        value: String,
        parse: impl Fn(&Scalar) -> Result<T, Bad>,
    ) -> Option<T> {
        let scalar = Scalar { text: value, quoted: true, from_env: true };
        let place = || format!("{} (from {variable})", self.path(key));
        let refused = |bad: Bad| {
            self.report.problem(place(), None, Wrong::Value { shown: None, bad: bad.redacted() });
        };
        parse(&scalar).map_err(refused).ok()
    }

    /// Every item of the list at `key`, read by `read`; those with problems are left out.
    pub fn list<T>(&mut self, key: &'static str, read: impl FnMut(Item<'a>) -> Option<T>) -> Vec<T> {
        let items = self.take(key).and_then(|item| item.list("a list, [..]")).unwrap_or_default();
        items.into_iter().filter_map(read).collect()
    }

    /// Every pair of the block at `key`, whose keys are of free choice.
    pub fn pairs(&mut self, key: &'static str) -> Vec<(String, Item<'a>)> {
        self.take(key).and_then(|item| item.pairs()).unwrap_or_default()
    }

    /// Puts on record that `key` should be there.
    pub fn missing(&self, key: &str, write: &'static str) {
        self.report.problem_once(self.path(key), self.line, Wrong::Missing { write });
    }

    /// Reports every key that was not taken.
    pub fn finish(self) {
        let leftovers = self.entries.into_iter().map(|(key, _)| Leftover {
            block: self.path.clone(),
            key: key.text.clone(),
            line: key.line,
        });
        self.report.leftovers.borrow_mut().extend(leftovers);
    }
}

/// One value and its place.
pub(super) struct Item<'a> {
    path: Path,
    node: &'a Node,
    report: &'a Report<'a>,
}

impl<'a> Item<'a> {
    pub fn path(&self) -> &str {
        &self.path.shown
    }

    pub fn line(&self) -> usize {
        self.node.line
    }

    pub fn is_block(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether the documentation's placeholder is still there.
    pub fn is_placeholder(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if values::is_placeholder(&scalar.text))
    }

    pub fn warn_of_placeholder(&self) {
        if self.is_placeholder() {
            self.notice(About::Placeholder { variable: None });
        }
    }

    pub fn notice(&self, about: About) {
        self.report.notice(self.path(), Some(self.line()), about);
    }

    pub fn wrong(&self, wrong: Wrong) {
        self.report.problem_once(self.path.shown.clone(), Some(self.line()), wrong);
    }

    /// Puts on record that the key, one of free choice, is not a good one.
    pub fn bad_key(&self, bad: Bad) {
        self.wrong(Wrong::Value { shown: None, bad });
    }

    /// Puts on record that the value is not a good one.
    pub fn bad(&self, bad: Bad) {
        let shown = match &self.node.value {
            Value::Scalar(scalar) if !scalar.from_env && !may_hold_login(&scalar.text) => Some(shortened(&scalar.text)),
            _ => None,
        };
        let bad = if shown.is_some() { bad } else { bad.redacted() };
        self.wrong(Wrong::Value { shown, bad });
    }

    pub fn scalar<T>(&self, parse: impl Fn(&Scalar) -> Result<T, Bad>) -> Option<T> {
        let scalar = self.as_scalar()?;
        parse(scalar).map_err(|bad| self.bad(bad)).ok()
    }

    /// The value as JSON, blocks and lists with all that is in them.
    pub fn json(&self) -> serde_json::Value {
        json(self.node)
    }

    /// A list's items, or the one that stands in its place.
    pub fn one_or_many(self) -> Vec<Item<'a>> {
        match &self.node.value {
            Value::List(_) => self.list("a list, [..]").unwrap_or_default(),
            _ => vec![self],
        }
    }

    pub fn hidden<T>(&self, parse: impl Fn(&Scalar) -> Result<T, Bad>) -> Option<T> {
        let scalar = self.as_scalar()?;
        parse(scalar).map_err(|bad| self.wrong(Wrong::Value { shown: None, bad: bad.redacted() })).ok()
    }

    fn as_scalar(&self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => {
                self.wrong(Wrong::Shape { found: self.found(), write: "a single value" });
                None
            }
        }
    }

    pub fn section(self) -> Option<Section<'a>> {
        let entries: Vec<&(Key, Node)> = match &self.node.value {
            Value::Map(entries) => entries.iter().collect(),
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::List(_) => {
                self.wrong(Wrong::Shape { found: self.found(), write: "a block of keys" });
                return None;
            }
        };
        Some(Section { path: self.path, line: Some(self.node.line), entries, report: self.report })
    }

    pub fn list(self, write: &'static str) -> Option<Vec<Item<'a>>> {
        let Value::List(items) = &self.node.value else {
            self.wrong(Wrong::Shape { found: self.found(), write });
            return None;
        };
        let items = items.iter().enumerate();
        Some(items.map(|(at, node)| Item { path: self.path.item(at), node, report: self.report }).collect())
    }

    pub fn pairs(self) -> Option<Vec<(String, Item<'a>)>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong(Wrong::Shape { found: self.found(), write: "a block of `name: value`" });
            return None;
        };
        let pair = |(key, node): &'a (Key, Node)| {
            (key.text.clone(), Item { path: self.path.free(&key.text), node, report: self.report })
        };
        Some(entries.iter().map(pair).collect())
    }

    fn found(&self) -> &'static str {
        match self.node.value {
            Value::Null => "empty",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a block of keys",
        }
    }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        // Only an empty text is no value to `values::json`, and here it is one.
        Value::Scalar(scalar) => values::json(scalar).unwrap_or_else(|_| scalar.text.clone().into()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|(key, node)| (key.text.clone(), json(node))).collect(),
    }
}

/// A block of keys as JSON; `None` for anything else. Nothing at all is a block without keys.
pub(super) fn block(node: &Node) -> Option<serde_json::Map<String, serde_json::Value>> {
    match &node.value {
        Value::Null => Some(serde_json::Map::new()),
        Value::Map(entries) => Some(entries.iter().map(|(key, node)| (key.text.clone(), json(node))).collect()),
        Value::Scalar(_) | Value::List(_) => None,
    }
}

/// What stands at `keys`, at the top of a configuration.
pub(super) fn words(tree: &Node, keys: &[&str]) -> serde_json::Map<String, serde_json::Value> {
    let mut words = block(tree).unwrap_or_default();
    words.retain(|key, _| keys.contains(&key.as_str()));
    words
}

/// `https://user:password@host`.
fn may_hold_login(text: &str) -> bool {
    text.contains("//") && text.contains('@')
}

/// Values in messages stay readable.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
