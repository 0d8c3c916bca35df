//! What the vendors tell of themselves. Nothing is changed there: even the question for the ID-merge mode is an import that
//! both modes refuse, each for a reason of its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::ask::{Keys, Terminal};
use super::{Arguments, InitError};
use crate::brevo::account::AccountModel;
use crate::brevo::wire::{AttributeList, List, ListPage};
use crate::cli::check::live::{Vendors, below};
use crate::config::{Brevo, IdentityMode, MixpanelEndpoints, Residency, ServiceAccount};
use crate::vendor::{Cost, Family, Priority, VendorRequest};

/// Brevo's largest page of lists, and how many of them are read (contract §4).
const LISTS_A_PAGE: usize = 50;
const LIST_PAGES: usize = 10;
/// Names that `/events/names` gives at most.
const EVENT_NAMES: &str = "255";

/// A profile property as it was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub profiles: usize,
    /// One value that was there, for guessing what it is.
    pub sample: Value,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Cohort {
    pub id: u64,
    pub name: String,
    #[serde(default)]
    pub count: u64,
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub residency: Option<Residency>,
    pub project_id: Option<String>,
    pub identity: Option<IdentityMode>,
    pub events: Vec<String>,
    pub properties: BTreeMap<String, Seen>,
    pub cohorts: Vec<Cohort>,
    pub brevo_company: Option<String>,
    pub account: AccountModel,
    pub lists: Vec<List>,
    /// What came out, a line each, for people.
    pub told: Vec<String>,
}

pub(super) async fn look(
    keys: &Keys,
    arguments: &Arguments,
    vendors: &Vendors,
    terminal: &Terminal,
) -> Result<Found, InitError> {
    let mut found = Found { identity: arguments.identity, residency: arguments.residency, ..Found::default() };
    match &keys.account {
        Some(account) => mixpanel(&mut found, account, keys, arguments, vendors, terminal).await?,
        None => {
            found.project_id.clone_from(&keys.project_id);
            found.told.push("Mixpanel: not asked without a service account".to_owned());
        }
    }
    if let Some(key) = &keys.brevo {
        let base = arguments.brevo_url.clone().unwrap_or_else(Brevo::default_base_url);
        let header = HeaderValue::from_str(key.value.expose())
            .map_err(|_| InitError::BrevoKey("it holds characters that a header cannot carry".to_owned()))?;
        brevo(&mut found, &base, header, vendors).await?;
    }
    Ok(found)
}

/// A question with an answer, or a line that says why there is none.
struct Asked<'a> {
    vendors: &'a Vendors,
    told: &'a mut Vec<String>,
}

impl Asked<'_> {
    async fn for_it(&mut self, what: &str, request: VendorRequest) -> Option<Value> {
        match self.vendors.send(request).await {
            Ok((status, body)) if status.is_success() && body.get("error").is_none() => Some(body),
            Ok((status, _)) => {
                self.told.push(format!("{what}: not read, the answer was {status}"));
                None
            }
            Err(error) => {
                self.told.push(format!("{what}: not read, {error}"));
                None
            }
        }
    }
}

async fn mixpanel(
    found: &mut Found,
    account: &ServiceAccount,
    keys: &Keys,
    arguments: &Arguments,
    vendors: &Vendors,
    terminal: &Terminal,
) -> Result<(), InitError> {
    let unknown = || InitError::UnknownAccount(account.username.clone());
    let header = HeaderValue::from_str(&account.basic()).map_err(|_| unknown())?;
    let (residency, endpoints, projects) = region(arguments, &header, vendors).await?.ok_or_else(unknown)?;
    let project = project(keys, &projects, terminal)?;
    found.told.push(format!("Mixpanel: project {project}, region {}", residency.label()));
    let client = Mixpanel { endpoints, header, project: project.clone() };
    if found.identity.is_none() {
        found.identity = client.identity(vendors).await;
        found.told.push(match found.identity {
            Some(mode) => format!("Mixpanel: the project's ID-merge mode is {}", mode.label()),
            None => "Mixpanel: did not tell the ID-merge mode; look at Project Settings, Identity Merge".to_owned(),
        });
    }
    (found.residency, found.project_id) = (Some(residency), Some(project));
    let mut asked = Asked { vendors, told: &mut found.told };
    let names = client.query(Method::GET, "/api/query/events/names", &[("type", "general"), ("limit", EVENT_NAMES)]);
    if let Some(names) = asked.for_it("Mixpanel's event names", names).await {
        found.events = serde_json::from_value(names).unwrap_or_default();
    }
    let profiles = client.query(Method::POST, "/api/query/engage", &[]);
    if let Some(profiles) = asked.for_it("Mixpanel's profile properties", profiles).await {
        found.properties = properties(&profiles);
    }
    let cohorts = client.query(Method::POST, "/api/query/cohorts/list", &[]);
    if let Some(cohorts) = asked.for_it("Mixpanel's cohorts", cohorts).await {
        let each = cohorts.as_array().into_iter().flatten();
        found.cohorts = each.filter_map(|cohort| Cohort::deserialize(cohort).ok()).collect();
    }
    found.told.push(format!(
        "Mixpanel: {} event names, {} profile properties, {} cohorts",
        found.events.len(),
        found.properties.len(),
        found.cohorts.len()
    ));
    Ok(())
}

type Projects = BTreeMap<String, Option<String>>;

/// The region that knows the account, its hosts, and the projects that the account may use there: id and name.
async fn region(
    arguments: &Arguments,
    header: &HeaderValue,
    vendors: &Vendors,
) -> Result<Option<(Residency, MixpanelEndpoints, Projects)>, InitError> {
    let places: Vec<_> = match (&arguments.mixpanel_url, arguments.residency) {
        (Some(url), residency) => vec![(residency.unwrap_or(Residency::Us), everywhere(url))],
        (None, Some(residency)) => vec![(residency, MixpanelEndpoints::of(residency))],
        (None, None) => Residency::ALL.into_iter().map(|each| (each, MixpanelEndpoints::of(each))).collect(),
    };
    let mut silent = None;
    for (residency, endpoints) in places {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, header.clone())]);
        match vendors.get(&endpoints.app, "/api/app/me/", None, headers, Family::MixpanelApp).await {
            Ok((StatusCode::OK, body)) => {
                let projects = body["results"]["projects"].as_object().cloned().unwrap_or_default();
                let named = |(id, project): (String, Value)| (id, project["name"].as_str().map(str::to_owned));
                if !projects.is_empty() {
                    return Ok(Some((residency, endpoints, projects.into_iter().map(named).collect())));
                }
            }
            Ok(_) => {}
            Err(error) => silent = Some(error),
        }
    }
    // A region that could not be asked may be the one.
    silent.map_or(Ok(None), |error| Err(InitError::Mixpanel(error)))
}

pub(super) fn everywhere(url: &Url) -> MixpanelEndpoints {
    let [ingestion, query, app, export, cdn] = std::array::from_fn(|_| url.clone());
    MixpanelEndpoints { ingestion, query, app, export, cdn }
}

fn project(keys: &Keys, projects: &Projects, terminal: &Terminal) -> Result<String, InitError> {
    let shown = |(id, name): (&String, &Option<String>)| match name {
        Some(name) => format!("{id} ({name})"),
        None => id.clone(),
    };
    let may = || projects.iter().map(shown).collect::<Vec<_>>();
    let chosen = match (&keys.project_id, projects.len()) {
        (Some(id), _) => Some(id.clone()),
        (None, 1) => projects.keys().next().cloned(),
        (None, _) => terminal.line(&format!("Which project? {}", may().join(", ")))?,
    };
    let chosen = chosen.ok_or_else(|| InitError::WhichProject(may()))?;
    if projects.contains_key(&chosen) {
        Ok(chosen)
    } else {
        Err(InitError::OtherProject { project: chosen, may: may() })
    }
}

struct Mixpanel {
    endpoints: MixpanelEndpoints,
    header: HeaderValue,
    project: String,
}

impl Mixpanel {
    fn query(&self, method: Method, path: &'static str, params: &[(&str, &str)]) -> VendorRequest {
        let mut url = below(&self.endpoints.query, path, None);
        url.query_pairs_mut().append_pair("project_id", &self.project).extend_pairs(params);
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request(method, url, path, Family::MixpanelQuery, [(AUTHORIZATION, self.header.clone()), (CONTENT_TYPE, form)])
    }

    /// An identity event fails a whole strict import in a simplified project, and the answer says why (contract §3). This
    /// one has no time besides, so that an original project refuses it too: nothing is stored in either.
    async fn identity(&self, vendors: &Vendors) -> Option<IdentityMode> {
        const PATH: &str = "/import";
        let mut url = below(&self.endpoints.ingestion, PATH, None);
        url.query_pairs_mut().append_pair("strict", "1").append_pair("project_id", &self.project);
        let headers =
            [(AUTHORIZATION, self.header.clone()), (CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let event = json!([{ "event": "$identify", "properties": {
            "distinct_id": "mixrelay-init", "$identified_id": "mixrelay-init", "$insert_id": "mixrelay-init",
        } }]);
        let mut asking = request(Method::POST, url, PATH, Family::MixpanelIngestion, headers);
        asking.body = Bytes::from(event.to_string());
        let (status, body) = vendors.send(asking).await.ok()?;
        let failed = body["failed_records"].as_array().filter(|_| status == StatusCode::BAD_REQUEST)?;
        let whole = |record: &Value| record.as_str().is_some_and(|text| text.contains("simplified"));
        let single = |record: &Value| record["field"].as_str().is_some_and(|field| field.contains("time"));
        if failed.iter().any(whole) {
            Some(IdentityMode::Simplified)
        } else {
            failed.iter().any(single).then_some(IdentityMode::Original)
        }
    }
}

fn request(
    method: Method,
    url: Url,
    endpoint: &'static str,
    family: Family,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> VendorRequest {
    let headers = headers.into_iter().map(|(name, mut value)| {
        value.set_sensitive(name != CONTENT_TYPE);
        (name, value)
    });
    let headers = HeaderMap::from_iter(headers);
    VendorRequest {
        method,
        url,
        headers,
        body: Bytes::new(),
        endpoint,
        family,
        priority: Priority::Live,
        cost: Cost::CALL,
        note: None,
    }
}

/// Every property of one page of profiles.
fn properties(page: &Value) -> BTreeMap<String, Seen> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let profiles = page["results"].as_array().into_iter().flatten();
    for (name, value) in profiles.filter_map(|profile| profile["$properties"].as_object()).flatten() {
        let property = seen.entry(name.clone()).or_default();
        property.profiles += 1;
        if property.sample.is_null() {
            property.sample = value.clone();
        }
    }
    seen
}

async fn brevo(found: &mut Found, base: &Url, key: HeaderValue, vendors: &Vendors) -> Result<(), InitError> {
    let get = |path: &'static str, family, params: &[(&str, String)]| {
        let mut url = below(base, path, None);
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        request(Method::GET, url, path, family, [(HeaderName::from_static("api-key"), key.clone())])
    };
    match vendors.send(get("/account", Family::BrevoOther, &[])).await {
        Ok((StatusCode::OK, body)) => found.brevo_company = body["companyName"].as_str().map(str::to_owned),
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, body)) => {
            return Err(InitError::BrevoKey(crate::cli::check::refusal(&body)));
        }
        Ok((status, _)) => found.told.push(format!("Brevo's account: not read, the answer was {status}")),
        Err(error) => found.told.push(format!("Brevo's account: not read, {error}")),
    }
    let mut asked = Asked { vendors, told: &mut found.told };
    let attributes = asked.for_it("Brevo's attributes", get("/contacts/attributes", Family::BrevoContacts, &[])).await;
    let attributes = attributes.and_then(|body| serde_json::from_value::<AttributeList>(body).ok());
    for page in 0..LIST_PAGES {
        let params = [("limit", LISTS_A_PAGE.to_string()), ("offset", (page * LISTS_A_PAGE).to_string())];
        let body = asked.for_it("Brevo's lists", get("/contacts/lists", Family::BrevoContacts, &params)).await;
        let Some(read) = body.and_then(|body| serde_json::from_value::<ListPage>(body).ok()) else { break };
        let last = read.lists.len() < LISTS_A_PAGE;
        found.lists.extend(read.lists);
        if last {
            break;
        }
    }
    if let Some(attributes) = attributes {
        found.account = AccountModel::new(&attributes, []);
    }
    let company = found.brevo_company.as_deref().unwrap_or("an account without a name");
    let (attributes, lists) = (found.account.attributes.len(), found.lists.len());
    found.told.push(format!("Brevo: {company}, {attributes} attributes, {lists} lists"));
    Ok(())
}
