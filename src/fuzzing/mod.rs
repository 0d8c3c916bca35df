//! What the fuzz targets of `fuzz/` check: one function for each door through which somebody else's bytes come.
//!
//! Built for tests and for cargo-fuzz only (`cfg(fuzzing)`), inside the crate so that no room has to open up for it. A
//! target is given any bytes and panics when an invariant does not hold; `cargo fuzz` looks for such bytes
//! (`make fuzz`), and the tests at the end replay what it has found so far, on stable.
//!
//! Inputs that need more than one part are written to be read by people: a first line of settings, then the rest.

mod answers;
mod configuration;
mod ingestion;
mod intake;
mod json;
mod paths;
mod signatures;
mod tables;
mod webhooks;

pub use answers::answers;
pub use configuration::configuration;
pub use ingestion::ingestion;
pub use intake::intake;
#[cfg(test)]
pub(crate) use json::assert_read_as_serde_does;
pub use json::json;
pub use paths::paths;
pub use signatures::signatures;
pub use tables::tables;
pub use webhooks::webhooks;

/// The first line and what stands behind it.
fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// One of `choices`: the one at the digit or letter that `byte` is, so that a corpus can be written by hand.
fn one_of<T: Copy, const N: usize>(choices: [T; N], byte: Option<&u8>) -> T {
    choices[byte.map_or(0, |byte| usize::from(byte.wrapping_sub(b'0'))) % N]
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    /// Every input that is kept for a target: the corpus, and what once failed.
    fn inputs(target: &str) -> Vec<PathBuf> {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let directories = ["corpus", "regressions"].map(|kept| fuzz.join(kept).join(target));
        let entries = directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn replay(target: &str, check: fn(&[u8])) {
        let inputs = inputs(target);
        assert!(inputs.len() >= 5, "{target}: {} inputs", inputs.len());
        check(b"");
        for input in inputs {
            let data = std::fs::read(&input).unwrap();
            let check = std::panic::AssertUnwindSafe(|| check(&data));
            assert!(std::panic::catch_unwind(check).is_ok(), "{}", input.display());
        }
    }

    macro_rules! replayed {
        ($($target:ident)*) => {
            $(#[test]
            fn $target() {
                replay(stringify!($target), super::$target);
            })*

            /// A target that nobody replays, or one that nobody fuzzes, would go unnoticed.
            #[test]
            fn every_target_is_replayed() {
                let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
                let entries = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
                let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                assert_eq!(names, [$(concat!(stringify!($target), ".rs")),*]);
                let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
                for target in [$(stringify!($target)),*] {
                    assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
                }
            }
        };
    }

    replayed! { answers configuration ingestion intake json paths signatures tables webhooks }
}
