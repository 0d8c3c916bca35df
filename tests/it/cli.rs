//! The binary as a shell sees it: exit codes, and what goes to which stream.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

fn mixrelay(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.output().unwrap()
}

fn config(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_command_line_that_cannot_be_understood_exits_64() {
    for args in [&[][..], &["frobnicate"], &["check", "--frobnicate"], &["check", "--config"]] {
        let output = mixrelay(args, &[]);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(mixrelay(&["--help"], &[]).status.code(), Some(0));
    assert_eq!(mixrelay(&["--version"], &[]).status.code(), Some(0));
}

#[test]
fn a_configuration_that_is_wrong_exits_1_and_says_everything_at_once() {
    let file = config("connectors:\n  mixpanel:\n    project_token: t\n    data_residency: UK\nstor: sqlite:x\n");
    let path = file.path().to_str().unwrap();
    let output = mixrelay(&["check", "--offline", "--config", path], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "{path}:4: connectors.mixpanel.data_residency: \"UK\" is not known here; write US, EU or IN\n\
         {path}:5: stor: unknown key; did you mean `store`?\n"
    );
    assert_eq!(said, expected);
}

#[test]
fn a_configuration_that_is_not_there_exits_1() {
    let output = mixrelay(&["check", "--config", "no/such.yaml"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("no/such.yaml: cannot be read"));
}

#[test]
fn a_good_configuration_exits_0_and_shows_no_secret() {
    let file = config("event_mapping:\n  Purchase: order_completed\nlists: { at_risk: 17 }\n");
    let variables = [("MIXPANEL_TOKEN", "thetoken"), ("BREVO_API_KEY", "thesecretkey")];
    let output = mixrelay(&["check", "--offline", "--config", file.path().to_str().unwrap()], &variables);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("configuration ok") && said.contains("list at_risk has no cohort"), "{said}");
    assert!(!said.contains("thesecretkey"));
}

#[test]
fn a_log_filter_that_is_none_exits_1() {
    let output = mixrelay(&["check", "--offline"], &[("MIXRELAY_LOG", "a=b=c")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("MIXRELAY_LOG: not a log filter"));
}

/// A child that is killed when the test ends, however it ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
        Running(command.args(args).env_clear().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Standard output up to the first line that begins with `last`.
    fn said(&mut self, last: &str) -> String {
        let mut text = String::new();
        for line in BufReader::new(self.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            text.push_str(&line);
            text.push('\n');
            if line.starts_with(last) {
                break;
            }
        }
        text
    }
}

#[test]
fn the_sandbox_prints_a_configuration_whose_live_checks_all_work() {
    let any = "127.0.0.1:0";
    let mut sandbox = Running::start(&["sandbox", "--mixpanel", any, "--brevo", any, "--control", any]);
    let printed = sandbox.said("store:");
    let file = config(&printed);
    let output = mixrelay(&["check", "--config", file.path().to_str().unwrap()], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in [
        "ok       connectors.mixpanel.service_account: may use project 12345",
        "ok       connectors.brevo.api_key: accepted by Brevo",
        "ok       property_mapping.total_revenue: attribute LTV, float",
        "ok       lists.all_users: list 15",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let wrong = config(&printed.replace("xkeysib-sandbox", "xkeysib-other").replace("sandbox-secret", "other"));
    let output = mixrelay(&["check", "--config", wrong.path().to_str().unwrap()], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("\n  fails ").count(), 2, "{said}");
}

/// A configuration that keeps its store in `directory` and lets the system choose the port.
fn alone(directory: &std::path::Path, listen: &str) -> tempfile::NamedTempFile {
    config(&format!(
        "connectors: {{ mixpanel: {{ enabled: false, project_token: t }} }}\nserver: {{ listen: '{listen}' }}\n\
         store: 'sqlite:{}/relay.db'\nallow_volatile_store: true\n",
        directory.display()
    ))
}

#[test]
fn serve_listens_is_well_and_leaves_with_0_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let file = alone(directory.path(), "127.0.0.1:0");
    let mut relay = Running::start(&["serve", "--config", file.path().to_str().unwrap()]);
    let said: serde_json::Value = serde_json::from_str(&relay.said("{")).unwrap();
    let address = said["listening"].as_str().unwrap();

    let reached = alone(directory.path(), address);
    let health = ["health", "--config", reached.path().to_str().unwrap()];
    assert_eq!(mixrelay(&health, &[]).status.code(), Some(0));
    let second = mixrelay(&["serve", "--config", reached.path().to_str().unwrap()], &[]);
    assert_eq!(second.status.code(), Some(1), "the store and the port are taken");

    assert!(Command::new("kill").arg("-TERM").arg(relay.0.id().to_string()).status().unwrap().success());
    assert_eq!(relay.0.wait().unwrap().code(), Some(0));
    assert_eq!(mixrelay(&health, &[]).status.code(), Some(1), "nobody is there any more");
}

#[test]
fn serve_refuses_a_wrong_configuration_before_it_touches_anything() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("store: 'sqlite:{}/relay.db'\nlists: {{ all_users: none }}\n", directory.path().display());
    let file = config(&text);
    let output = mixrelay(&["serve", "--config", file.path().to_str().unwrap()], &[("MIXPANEL_TOKEN", "t")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "nothing listens");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is written");
    assert!(String::from_utf8(output.stderr).unwrap().contains("lists.all_users"));
}
