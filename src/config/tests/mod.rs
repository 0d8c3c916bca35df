//! Whole files in, configuration or problems out.

mod accepted;
mod documented;
mod refused;

use super::{ConfigErrors, Loaded, parse};

const PUBLISHED: &str = include_str!("fixtures/published.yaml");
const COMPLETE: &str = include_str!("fixtures/complete.yaml");

/// The environment that the documentation asks for.
const ENVIRONMENT: [(&str, &str); 9] = [
    ("BREVO_API_KEY", "xkeysib-fromenv"),
    ("MIXPANEL_TOKEN", "tokenfromenv"),
    ("MIXPANEL_SA_USER", "userfromenv"),
    ("MIXPANEL_SA_SECRET", "secretfromenv"),
    ("MIXPANEL_PROJECT_ID", "777"),
    ("MIXRELAY_ADMIN_TOKEN", "adminfromenv"),
    ("MIXPANEL_OAUTH", "oauthfromenv"),
    ("KEY", "keyfromenv"),
    ("T", "tfromenv"),
];

fn environment(name: &str) -> Option<String> {
    ENVIRONMENT.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn loaded(text: &str) -> Loaded {
    parse(text, "mixrelay.yaml", &environment).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> ConfigErrors {
    match parse(text, "mixrelay.yaml", &environment) {
        Ok(_) => panic!("should not be accepted:\n{text}"),
        Err(errors) => errors,
    }
}

/// The one line that is said about `text`.
fn error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.problems.len(), 1, "{errors}");
    errors.to_string()
}
