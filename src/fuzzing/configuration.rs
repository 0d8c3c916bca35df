//! The configuration file: any text is a configuration or a list of what is wrong with it, and neither shows a value of
//! the environment, which may be a secret.

use crate::config;

/// Long enough that no file has it by chance.
const SECRET: &str = "kE7-hidden-Zq41";

pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A block that somebody tries out.
    if let Ok(block) = config::block(text) {
        serde_json::to_string(&block).expect("a block is JSON");
    }
    if text.contains(SECRET) {
        return;
    }
    match config::parse(text, "fuzz.yaml", &|_| Some(SECRET.to_owned())) {
        Ok(loaded) => {
            for notice in &loaded.notices {
                hides(&notice.to_string());
            }
            // The same text, the same configuration.
            assert!(config::parse(text, "fuzz.yaml", &|_| Some(SECRET.to_owned())).is_ok());
        }
        Err(errors) => {
            assert!(!errors.problems.is_empty());
            hides(&errors.to_string());
        }
    }
    // Nothing in the environment: an error that names the variable, or no need of one.
    if let Err(errors) = config::parse(text, "fuzz.yaml", &|_| None) {
        assert!(!errors.to_string().is_empty());
    }
}

fn hides(said: &str) {
    assert!(!said.contains(SECRET), "{said}");
}
