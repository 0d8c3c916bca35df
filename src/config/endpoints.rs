//! The vendors' own hosts.

use url::Url;

use super::model::{Brevo, MixpanelEndpoints, Residency};

impl MixpanelEndpoints {
    /// The hosts of one region (contract §1). The static files have the same host everywhere.
    pub fn of(residency: Residency) -> Self {
        let [ingestion, query, export] = match residency {
            Residency::Us => ["https://api.mixpanel.com", "https://mixpanel.com", "https://data.mixpanel.com"],
            Residency::Eu => ["https://api-eu.mixpanel.com", "https://eu.mixpanel.com", "https://data-eu.mixpanel.com"],
            Residency::In => ["https://api-in.mixpanel.com", "https://in.mixpanel.com", "https://data-in.mixpanel.com"],
        };
        Self {
            ingestion: fixed(ingestion),
            query: fixed(query),
            app: fixed(query),
            export: fixed(export),
            cdn: fixed("https://cdn.mxpnl.com"),
        }
    }
}

impl Brevo {
    pub fn default_base_url() -> Url {
        fixed("https://api.brevo.com/v3")
    }
}

fn fixed(url: &'static str) -> Url {
    Url::parse(url).expect("every caller passes a literal that the tests parse")
}
