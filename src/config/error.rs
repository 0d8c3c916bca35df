//! What can be wrong with a configuration, told with the place and the remedy.

use std::fmt;
use std::path::PathBuf;

pub use super::yaml::SyntaxError;

/// Why [`super::block`] gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("line {line}: {error}")]
    Syntax { line: usize, error: SyntaxError },
    #[error("this is no block of keys, such as event_mapping: and what follows it")]
    Shape,
}

/// Why [`super::load`] gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {source}; name the file with --config, or copy mixrelay.example.yaml there", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

/// Everything that is wrong with one file, in the order of its lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name, as the operator gave it.
    pub source: String,
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.source)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {problem}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong. Its text never holds a secret, nor anything that came from the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path; empty for the file as a whole.
    pub key: String,
    /// Counted from 1; `None` when nothing in the file says it (a missing key, a value from the environment).
    pub line: Option<usize>,
    pub wrong: Wrong,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.wrong)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("{0}")]
    Syntax(SyntaxError),
    #[error("unknown key; {hint}")]
    UnknownKey { hint: KeyHint },
    #[error("written twice, first on line {first}; keep one")]
    DuplicateKey { first: usize },
    #[error("is missing; write {write}")]
    Missing { write: &'static str },
    #[error("the environment variable {name} is not set; set it, or write the value here")]
    MissingVariable { name: String },
    #[error("`${{` begins a reference that is not one; write ${{NAME}} with the name of an environment variable")]
    BadReference,
    #[error(
        "the attribute {attribute} has another type or format at {other}; write the same at both, or name another attribute"
    )]
    TwoRules { attribute: String, other: String },
    #[error("is {found}; write {write}")]
    Shape { found: &'static str, write: &'static str },
    /// `shown` is the value where it may be shown.
    #[error("{}{bad}", shown.as_ref().map(|value| format!("{value:?} ")).unwrap_or_default())]
    Value { shown: Option<String>, bad: Bad },
}

/// What would have been a known key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyHint {
    /// The known key of the same block that looks most like it.
    Nearest(String),
    /// The dotted path where a key of this name is known.
    Elsewhere(String),
    /// The known keys of the block, nearest first.
    Known(Vec<String>),
}

impl fmt::Display for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyHint::Nearest(key) => write!(f, "did you mean `{key}`?"),
            KeyHint::Elsewhere(path) => write!(f, "did you mean `{path}`?"),
            KeyHint::Known(keys) if keys.is_empty() => f.write_str("nothing is known here"),
            KeyHint::Known(keys) => write!(f, "the known keys here are {}", keys.join(", ")),
        }
    }
}

/// What is wrong with a value, and what to write instead, without the value itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; write {write}")]
pub struct Bad {
    pub why: &'static str,
    pub write: Remedy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    Text(&'static str),
    /// Made from the value: shown only where the value may be.
    Proposal {
        made: String,
        otherwise: &'static str,
    },
    OneOf(Vec<String>),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::Text(text) => f.write_str(text),
            Remedy::Proposal { made, .. } => f.write_str(made),
            Remedy::OneOf(choices) => match choices.split_last() {
                None => f.write_str("nothing"),
                Some((only, [])) => f.write_str(only),
                Some((last, rest)) => write!(f, "{} or {last}", rest.join(", ")),
            },
        }
    }
}

impl Bad {
    pub(super) fn new(why: &'static str, write: &'static str) -> Self {
        Self { why, write: Remedy::Text(write) }
    }

    /// The same without what was made from the value.
    pub(super) fn redacted(self) -> Self {
        match self.write {
            Remedy::Proposal { otherwise, .. } => Self { why: self.why, write: Remedy::Text(otherwise) },
            write => Self { why: self.why, write },
        }
    }
}
