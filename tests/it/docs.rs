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

#[test]
fn the_traces_of_the_core_are_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Where each trace")).unwrap();
    let mut all = String::new();
    ["src", "tests"].iter().for_each(|directory| sources(&root.join(directory), &mut all));
    let tests = section.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once("| ")).map(|(_, tests)| tests);
    let names: Vec<&str> = tests.flat_map(|tests| tests.split('`').skip(1).step_by(2)).collect();
    for name in &names {
        assert!(all.contains(&format!("fn {name}(")), "docs/architecture.md: no test {name}");
    }
    assert!(names.len() > 30, "{names:?}");
}
