//! Configuration: one YAML file as plain data.
//!
//! [`load`] reads a file, [`parse`] a text; both give either a [`Config`] with what is worth saying about it, or every
//! problem of the file at once. Nothing in here touches the network, or the disk beyond that one file: files and hosts
//! that it names are opened by those who use them.
//!
//! From the outside in: `yaml` makes a tree, `interpolate` puts the environment in, `read` asks the tree for its keys
//! through `reader`, `values` says what a single value means. Invariants: a key that nobody asked for is a problem;
//! text that came from the environment or stands at a secret's key is in no message and in no `Debug` output.

mod endpoints;
mod error;
mod interpolate;
mod model;
mod notice;
mod read;
mod reader;
mod values;
mod yaml;

use std::path::Path;

pub use error::{Bad, BlockError, ConfigError, ConfigErrors, KeyHint, Problem, Remedy, SyntaxError, Wrong};
pub use model::*;
pub use notice::{About, Addition, Notice, Weight};
pub use values::is_private;

/// A valid configuration, and what to tell about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// By line; what has none comes last.
    pub notices: Vec<Notice>,
}

/// The keys of the configuration that make the mapping: they can be changed while the relay runs, and tried out.
pub const MAPPING_KEYS: [&str; 8] = [
    "event_mapping",
    "property_mapping",
    "group_mapping",
    "unmapped_events",
    "stale_after",
    "lists",
    "enrich",
    "mapping_tests",
];

/// Reads the file at `path`. `env` looks up one variable of the environment.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Ok(parse(&text, &path.display().to_string(), env)?)
}

/// Reads `text`; `source` is its name in errors.
pub fn parse(text: &str, source: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    let report = reader::Report::new(env);
    let config = match yaml::read(text) {
        Ok(mut tree) => {
            // Before the environment's values, which may be secrets, take their places.
            let words = reader::words(&tree, &MAPPING_KEYS);
            interpolate::resolve(&mut tree, &report);
            read::config(&tree, &report).map(|config| Config { mapping_words: words, ..config })
        }
        Err((line, error)) => {
            report.problem("", Some(line), Wrong::Syntax(error));
            None
        }
    };
    let (problems, notices) = report.finish();
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, notices }),
        _ => Err(ConfigErrors { source: source.to_owned(), problems }),
    }
}

/// A block of YAML as JSON, for whoever hands a part of a configuration on.
pub fn block(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, BlockError> {
    let tree = yaml::read(text).map_err(|(line, error)| BlockError::Syntax { line, error })?;
    reader::block(&tree).ok_or(BlockError::Shape)
}

#[cfg(test)]
mod tests;
