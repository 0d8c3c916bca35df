//! `mixrelay demo`: the whole relay between five SDKs' traffic and both simulated vendors.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::http::Client;

fn demo(directory: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    command.arg("demo").args(["--listen", "127.0.0.1:0"]).args(more).current_dir(directory).env_clear();
    command
}

/// What the README shows of the demo.
fn published() -> &'static str {
    let readme = include_str!("../../README.md");
    let from = readme.split_once("```text\n").unwrap().1;
    from.split_once("```").unwrap().0
}

#[test]
fn everything_that_the_demo_sends_arrives_and_adds_up() {
    let directory = tempfile::tempdir().unwrap();
    for run in ["first", "second, over what the first has left"] {
        let output = demo(directory.path(), &["--once"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let logged = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{run}: {said}{logged}");
        assert_eq!(said.matches("  adds up\n").count(), 2, "{said}");
        assert!(said.contains("Every record that was answered with success is accounted for."), "{said}");
        assert!(said.contains(published()), "the README shows something else than {said}");
        assert_eq!(logged, "", "nothing to warn about");
        // Not a terminal: no colours. And it fits a hundred columns.
        assert!(!said.contains('\x1b'));
        let widest = said.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{widest} columns");
    }
}

/// Ended on every path.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Every member of `answer` is one of the schema's in `openapi.yaml`, all the way down.
fn is_documented(schema: &str, answer: &Value) {
    fn compare(document: &Value, schema: &Value, answer: &Value, place: &str) {
        if let Some(target) = schema["$ref"].as_str() {
            let target = document.pointer(target.trim_start_matches('#')).unwrap();
            return compare(document, target, answer, place);
        }
        for (key, member) in answer.as_object().into_iter().flatten() {
            let place = format!("{place}.{key}");
            let known = schema["properties"].get(key).unwrap_or_else(|| panic!("openapi.yaml lacks {place}"));
            compare(document, known, member, &place);
        }
        for item in answer.as_array().into_iter().flatten() {
            compare(document, &schema["items"], item, place);
        }
    }
    let document: Value = serde_saphyr::from_str(include_str!("../../openapi.yaml")).unwrap();
    compare(&document, &document["components"]["schemas"][schema], answer, schema);
}

#[tokio::test]
async fn the_demo_stays_up_at_the_addresses_it_names_until_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running(demo(directory.path(), &[]).stdout(Stdio::piped()).spawn().unwrap());
    let out = BufReader::new(running.0.stdout.take().unwrap());
    let mut urls = Vec::new();
    for line in out.lines() {
        let line = line.unwrap();
        urls.extend(line.split([' ', '\'']).filter(|word| word.starts_with("http://")).map(str::to_owned));
        if line.contains("Ctrl-C ends it") {
            break;
        }
    }
    let token = std::fs::read_to_string(directory.path().join("data/demo/admin-token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let client = Client::new();
    let event = br#"data=[{"event":"Purchase","properties":{"token":"sandbox-token","distinct_id":"ada"}}]"#;
    for url in &urls {
        let url = url.trim_end_matches(':');
        let answer = if url.contains("/track") {
            client.send("POST", url, &[("content-type", "application/x-www-form-urlencoded")], event.to_vec()).await
        } else {
            client.send("GET", url, &[("authorization", &bearer)], Vec::new()).await
        };
        let answer = answer.unwrap().ok();
        if url.ends_with("/v1/status") {
            is_documented("Status", &answer.json());
        }
    }
    let second = demo(directory.path(), &["--once"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("another demo runs here"));

    assert!(Command::new("kill").arg("-INT").arg(running.0.id().to_string()).status().unwrap().success());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}
