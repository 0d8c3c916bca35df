//! The two accounts that the sandbox pretends to hold.

use serde::{Deserialize, Serialize};

use super::switches::{IdentityMode, Switches, Tier};

/// What a sandbox starts with. The default is a usable pair of accounts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    pub mixpanel: MixpanelAccount,
    pub brevo: BrevoAccount,
    pub switches: Switches,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixpanelAccount {
    pub project_token: String,
    pub project_id: String,
    /// Basic user and secret of a service account with the Admin role.
    pub service_account: String,
    pub service_secret: String,
    /// The project secret of old clients: Basic user, empty password.
    pub project_secret: String,
    /// Personal OAuth token, for GDPR calls.
    pub oauth_token: String,
    pub identity: IdentityMode,
    /// Ids of the lookup tables that exist; Mixpanel creates them in its UI only.
    pub lookup_tables: Vec<String>,
}

impl Default for MixpanelAccount {
    fn default() -> Self {
        Self {
            project_token: "sandbox-token".into(),
            project_id: "12345".into(),
            service_account: "sandbox-sa".into(),
            service_secret: "sandbox-secret".into(),
            project_secret: "sandbox-project-secret".into(),
            oauth_token: "sandbox-oauth".into(),
            identity: IdentityMode::Simplified,
            lookup_tables: vec!["7b9a3e1c-0f52-4c39-9d2e-5a1d1f3b8c77".into()],
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrevoAccount {
    pub api_key: String,
    pub tier: Tier,
    /// Ids of the lists that exist at the start, all in one folder.
    pub lists: Vec<i64>,
    pub attributes: Vec<AttributeSpec>,
}

/// A contact attribute as `GET /contacts/attributes` describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeSpec {
    pub name: String,
    /// `normal`, `category`, `transactional`, `calculated` or `global`.
    pub category: String,
    /// `text`, `date`, `float`, `boolean`, `category`, `multiple-choice`, `id` or `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The labels of a category attribute (valued 1, 2, ...) or the options of a multiple-choice one.
    #[serde(default)]
    pub options: Vec<String>,
}

impl AttributeSpec {
    pub fn new(name: &str, category: &str, kind: &str, options: &[&str]) -> Self {
        Self {
            name: name.into(),
            category: category.into(),
            kind: kind.into(),
            options: options.iter().map(|&option| option.into()).collect(),
        }
    }
}

impl Default for BrevoAccount {
    fn default() -> Self {
        let text = |name| AttributeSpec::new(name, "normal", "text", &[]);
        Self {
            api_key: "xkeysib-sandbox".into(),
            tier: Tier::General,
            lists: vec![15, 16, 17],
            attributes: vec![
                text("FIRSTNAME"),
                text("LASTNAME"),
                text("SMS"),
                text("WHATSAPP"),
                text("LANDLINE_NUMBER"),
                text("EXT_ID"),
                text("PLAN_TYPE"),
                AttributeSpec::new("SIGNUP_DATE", "normal", "date", &[]),
                AttributeSpec::new("LTV", "normal", "float", &[]),
                AttributeSpec::new("IS_CUSTOMER", "normal", "boolean", &[]),
                AttributeSpec::new("SEGMENT", "category", "category", &["free", "paid", "enterprise"]),
                AttributeSpec::new("INTERESTS", "normal", "multiple-choice", &["news", "sales", "product"]),
                AttributeSpec::new("ORDER_ID", "transactional", "id", &[]),
            ],
        }
    }
}
