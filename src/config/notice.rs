//! What `check` and `serve` say about a configuration that is valid.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Dotted path.
    pub key: String,
    /// Counted from 1; `None` when it is about something that is not in the file.
    pub line: Option<usize>,
    pub about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Worth knowing.
    Note,
    /// Will most likely not do what was meant.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A value is still the one from the documentation; with `variable`, that variable's value is used instead.
    Placeholder {
        variable: Option<&'static str>,
    },
    /// No cohort or data set fills this list.
    ListWithoutCohort {
        list: String,
    },
    /// Nobody decided whether people are asked before Brevo gets them.
    ConsentNotChosen,
    /// Mixpanel computes this property, no SDK sends it, and nothing that is configured fills it.
    NothingFills,
    /// A privacy rule takes away what the destination works with.
    RuleBreaks {
        what: &'static str,
    },
    /// Two properties are mapped to one attribute: the later update wins.
    SameTarget {
        other: String,
    },
    /// No Brevo key anywhere: nothing is sent to Brevo.
    NoBrevo,
    /// `pilot` without any `pilot_emails`, or those without `pilot`.
    PilotWithoutEmails,
    EmailsWithoutPilot,
}

impl Notice {
    pub fn weight(&self) -> Weight {
        match self.about {
            About::Placeholder { variable: None }
            | About::ConsentNotChosen
            | About::RuleBreaks { .. }
            | About::NothingFills
            | About::SameTarget { .. }
            | About::NoBrevo
            | About::PilotWithoutEmails => Weight::Warning,
            About::Placeholder { variable: Some(_) } | About::ListWithoutCohort { .. } | About::EmailsWithoutPilot => {
                Weight::Note
            }
        }
    }

    /// What to add to the file, where that is the remedy.
    pub fn addition(&self) -> Option<Addition> {
        match &self.about {
            About::ListWithoutCohort { list } => Some(Addition {
                block: "cohorts",
                line: format!(
                    "- {{ id: 12345, list: {list}, mode: mirror, schedule: daily }}   # id: the cohort's at Mixpanel"
                ),
            }),
            About::ConsentNotChosen => Some(Addition {
                block: "privacy",
                line: "consent: { property: marketing_ok, value: true }   # or: consent: none".to_owned(),
            }),
            _ => None,
        }
    }
}

/// One line of YAML and the block that it goes into. Two with the same block go under one head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    pub block: &'static str,
    pub line: String,
}

impl fmt::Display for Addition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:\n  {}", self.block, self.line)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.about)
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::Placeholder { variable: Some(name) } => {
                write!(f, "still holds the documentation's placeholder; {name} from the environment is used instead")
            }
            About::Placeholder { variable: None } => {
                f.write_str("still holds the documentation's placeholder; write your own value")
            }
            About::ListWithoutCohort { list } => write!(f, "list {list} has no cohort, so nothing fills it"),
            About::ConsentNotChosen => f.write_str(
                "no choice yet whether Brevo gets only people who agreed; until then everybody is sent who is mapped",
            ),
            About::NothingFills => f.write_str(
                "Mixpanel computes this property and no SDK sends it; nothing configured fills it, so the attribute stays empty",
            ),
            About::RuleBreaks { what } => write!(f, "without this property as it came, {what}"),
            About::SameTarget { other } => {
                write!(f, "is mapped to the same attribute as {other}; the later update of the two wins")
            }
            About::NoBrevo => {
                f.write_str("no api_key in the file and no BREVO_API_KEY in the environment: nothing is sent to Brevo")
            }
            About::PilotWithoutEmails => f.write_str("mode is pilot and pilot_emails is empty: nothing is sent to Brevo"),
            About::EmailsWithoutPilot => f.write_str("only read with mode: pilot"),
        }
    }
}
