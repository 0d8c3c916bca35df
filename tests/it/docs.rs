//! The documentation holds together: what it links to, and the files that the architecture names, are there.

use std::path::{Path, PathBuf};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for directory in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages
}

#[test]
fn every_relative_link_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if !link.contains("://") && !link.starts_with('#') {
                let target = page.parent().unwrap().join(link.split('#').next().unwrap());
                assert!(target.exists(), "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn the_architecture_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs") && word.contains('/'));
    for name in named {
        let places = ["", "src", "src/delivery", "tests/it"].map(|place| root.join(place).join(name));
        assert!(places.iter().any(|path| path.exists()), "docs/architecture.md: {name}");
    }
}

fn sources(directory: &Path, all: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// The words in backquotes in the last column of the tables of a section.
fn tests_named_in(page: &str, section: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let section = text.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let tests = section.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once("| ")).map(|(_, tests)| tests);
    tests
        .flat_map(|tests| tests.split('`').skip(1).step_by(2))
        .filter(|word| word.bytes().all(is_name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_tests_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    ["src", "tests"].iter().for_each(|directory| sources(&root.join(directory), &mut all));
    for (page, section, at_least) in
        [("docs/architecture.md", "Where each trace", 30), ("docs/security.md", "Threats", 50)]
    {
        let names = tests_named_in(page, section);
        for name in &names {
            assert!(all.contains(&format!("fn {name}(")), "{page}: no test {name}");
        }
        assert!(names.len() > at_least, "{page}: {names:?}");
    }
}

/// As much of `make audit` as the lock file shows by itself.
#[test]
fn the_lock_file_holds_to_deny_toml() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let deny = read("deny.toml");
    let quoted = |line: &str, behind: &str| {
        line.split_once(behind).and_then(|(_, rest)| rest.split('"').nth(1)).map(str::to_owned)
    };
    let banned: Vec<String> = deny.lines().filter_map(|line| quoted(line, "{ crate = ")).collect();
    assert!(banned.len() >= 6, "{banned:?}");
    let registry = deny.lines().find_map(|line| quoted(line, "allow-registry = [")).unwrap();
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock = read(lock);
        for package in lock.split("[[package]]").skip(1) {
            let value = |key: &str| package.lines().find_map(|line| quoted(line, &format!("{key} = ")));
            let name = value("name").unwrap();
            assert!(!banned.contains(&name), "{name} is banned by deny.toml");
            match value("source") {
                Some(source) => assert_eq!(source, format!("registry+{registry}"), "{name}"),
                None => assert!(name.starts_with("mixrelay"), "{name} is of no registry"),
            }
            assert!(value("source").is_none() || value("checksum").is_some(), "{name} has no checksum");
        }
    }
}

/// `==` on a secret ends at the first byte that differs, and says by its time how far a guess was right.
#[test]
fn no_secret_is_compared_byte_by_byte() {
    let mut code = String::new();
    for room in
        ["admin", "alerts", "brevo", "cohorts", "console", "edge", "erasure", "mixpanel", "read_side", "webhooks"]
    {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut code);
    }
    assert!(code.contains(".expose()"));
    for line in code.lines().filter(|line| line.contains("expose()")) {
        assert!(!line.contains("==") && !line.contains("!="), "{line}");
    }
}
