//! The part of the configuration that is about people as groups: tables, cohorts, deletions, the vendors' pushes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Secret;

/// Where properties come from that the records themselves do not carry.
#[derive(Clone, Debug, Default)]
pub struct Enrichment {
    /// Name used in `columns` rules → where the table is.
    pub lookup_tables: BTreeMap<String, LookupTable>,
    pub columns: Vec<LookupColumns>,
    /// A city database; fills `$city`, `$region` and `$country_code` for Brevo.
    pub geoip: Option<PathBuf>,
}

/// At least one of the two is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupTable {
    /// The table's id at Mixpanel.
    pub id: Option<String>,
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupColumns {
    /// The property whose value is looked up.
    pub property: String,
    pub table: String,
    /// Column of the table → property that it fills.
    pub columns: BTreeMap<String, String>,
}

/// Which groups of people are kept in which Brevo lists.
#[derive(Clone, Debug)]
pub struct Cohorts {
    pub cohorts: Vec<CohortSync>,
    pub datasets: Vec<Dataset>,
    /// A mirror that would remove more than this share (0 to 1) of a list stops and asks.
    pub max_removal_share: f64,
}

impl Default for Cohorts {
    fn default() -> Self {
        Self { cohorts: Vec::new(), datasets: Vec::new(), max_removal_share: 0.3 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CohortSync {
    /// The cohort's id at Mixpanel.
    pub id: u64,
    /// The list's id at Brevo.
    pub list: u64,
    pub mode: SyncMode,
    pub every: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// The list becomes exactly the cohort.
    #[default]
    Mirror,
    /// Members are only added.
    Add,
    /// Members are taken out, and nobody is added.
    Remove,
}

/// What a question to Mixpanel says of people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Letters, digits, `-` and `_`; of no other data set.
    pub name: String,
    pub question: DatasetQuestion,
    pub every: Duration,
    /// The column that holds the `distinct_id`.
    pub id: String,
    /// Column → Brevo attribute, no other's but `email` and `SMS`.
    pub attributes: BTreeMap<String, String>,
    pub list: Option<u64>,
    pub mode: SyncMode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetQuestion {
    /// The file of a JQL script.
    Jql(PathBuf),
    /// A saved Insights report, by its id (`bookmark_id`).
    Insights(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub on_profile_delete: OnProfileDelete,
    pub on_gdpr_deletion: OnGdprDeletion,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnProfileDelete {
    #[default]
    Keep,
    RemoveFromLists,
    DeleteContact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGdprDeletion {
    #[default]
    DeleteContact,
    Keep,
}

/// What the vendors' pushes must carry; a webhook without it here is not served.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    pub mixpanel: Option<WebhookLogin>,
    pub brevo: Option<Secret>,
}

#[derive(Clone, Debug)]
pub struct WebhookLogin {
    pub username: String,
    pub password: Secret,
}
