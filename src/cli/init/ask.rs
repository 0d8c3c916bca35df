//! The keys: from the environment, else from whoever sits at the terminal.

use std::io::{self, BufRead as _, Write as _};

use super::{Arguments, InitError};
use crate::config::{Secret, ServiceAccount};

/// A key, and whether the file can refer to a variable instead of holding it.
pub(super) struct Key {
    pub value: Secret,
    pub variable: Option<&'static str>,
}

pub(super) struct Keys {
    /// Public by nature: it is in every app.
    pub token: String,
    pub account: Option<ServiceAccount>,
    pub account_secret: Option<Key>,
    pub project_id: Option<String>,
    pub brevo: Option<Key>,
}

/// Whoever sits there, or nobody.
pub(super) struct Terminal {
    there: bool,
}

impl Terminal {
    pub fn new(there: bool) -> Self {
        Self { there }
    }

    /// One line; `None` for an empty one, and when nobody is there.
    pub fn line(&self, question: &str) -> Result<Option<String>, InitError> {
        if !self.there {
            return Ok(None);
        }
        let mut out = io::stderr();
        write!(out, "{question}: ").and_then(|()| out.flush()).map_err(InitError::Terminal)?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(InitError::Terminal)?;
        Ok(Some(line.trim().to_owned()).filter(|line| !line.is_empty()))
    }

    /// One line that is not shown while it is typed.
    fn hidden(&self, question: &str) -> Result<Option<Secret>, InitError> {
        if !self.there {
            return Ok(None);
        }
        let typed = rpassword::prompt_password(format!("{question} (not shown): ")).map_err(InitError::Terminal)?;
        Ok(Some(typed.trim().to_owned()).filter(|typed| !typed.is_empty()).map(Secret::new))
    }
}

/// `env` gives a variable's value when it is set and not empty.
pub(super) fn keys(
    terminal: &Terminal,
    arguments: &Arguments,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Keys, InitError> {
    let missing = |what, variable| InitError::Missing { what, variable };
    let line = |variable: &'static str, question: &str| match env(variable) {
        Some(value) => Ok(Some(value)),
        None => terminal.line(question),
    };
    let key = |variable: &'static str, question: &str| match env(variable) {
        Some(value) => Ok(Some(Key { value: Secret::new(value), variable: Some(variable) })),
        None => Ok(terminal.hidden(question)?.map(|value| Key { value, variable: None })),
    };
    let token = line("MIXPANEL_TOKEN", "Mixpanel project token (Project Settings, Access Keys)")?
        .ok_or_else(|| missing("the project token", "MIXPANEL_TOKEN"))?;
    let username = line("MIXPANEL_SA_USER", "Mixpanel service account, its name (empty: go without)")?;
    let account_secret = match &username {
        None => None,
        Some(_) => Some(
            key("MIXPANEL_SA_SECRET", "Its secret")?
                .ok_or_else(|| missing("the service account's secret", "MIXPANEL_SA_SECRET"))?,
        ),
    };
    let account = username
        .zip(account_secret.as_ref())
        .map(|(username, secret)| ServiceAccount { username, secret: secret.value.clone() });
    let project_id = arguments.project_id.clone().or_else(|| env("MIXPANEL_PROJECT_ID"));
    let brevo = key("BREVO_API_KEY", "Brevo API key (empty: go without)")?;
    Ok(Keys { token, account, account_secret, project_id, brevo })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Arguments {
        Arguments { residency: None, identity: None, project_id: None, mixpanel_url: None, brevo_url: None }
    }

    #[test]
    fn without_a_terminal_what_is_missing_is_named_with_its_variable() {
        let nobody = Terminal::new(false);
        let asked = |set: &'static [(&str, &str)]| {
            let env = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            keys(&nobody, &arguments(), &env)
        };
        let said = |set| asked(set).err().unwrap().to_string();
        assert!(said(&[]).contains("MIXPANEL_TOKEN"));
        assert!(said(&[("MIXPANEL_TOKEN", "t"), ("MIXPANEL_SA_USER", "u")]).contains("MIXPANEL_SA_SECRET"));
        let keys = asked(&[("MIXPANEL_TOKEN", "t"), ("BREVO_API_KEY", "k"), ("MIXPANEL_PROJECT_ID", "7")]).unwrap();
        assert!(keys.account.is_none());
        assert_eq!(keys.brevo.unwrap().variable, Some("BREVO_API_KEY"));
        assert_eq!(keys.project_id.as_deref(), Some("7"));
    }
}
