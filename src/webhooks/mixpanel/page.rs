//! One page of a cohort sync, as Mixpanel pushes it (Mixpanel contract §12.1), and what it asks of lists. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::brevo::identifiers::ListId;
use crate::cohorts::Member;
use crate::config::{CohortSync, SyncMode};

/// The list that everybody joins; no cohort's, whatever it is called.
const ALL_USERS: &str = "all_users";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The whole cohort: what the list holds beside it goes.
    Members,
    AddMembers,
    RemoveMembers,
}

impl Action {
    fn read(word: &str) -> Option<Self> {
        match word {
            "members" => Some(Action::Members),
            "add_members" => Some(Action::AddMembers),
            "remove_members" => Some(Action::RemoveMembers),
            _ => None,
        }
    }

    /// Whether it changes mirrors alone ([`change`]).
    pub fn is_of_mirrors(self) -> bool {
        self == Action::RemoveMembers
    }
}

/// Why a body is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPage {
    Action,
    Parameters,
    Cohort,
    Session,
    OtherProject,
}

impl NoPage {
    /// What is wrong with the body.
    pub fn words(self) -> &'static str {
        match self {
            NoPage::Action => "has an action that is none of members, add_members, remove_members",
            NoPage::Parameters => "has no parameters",
            NoPage::Cohort => "has a mixpanel_cohort_id that is no number",
            NoPage::Session => "has no mixpanel_session_id",
            NoPage::OtherProject => "is of another project: mixpanel_project_id is not the one of this relay",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub action: Action,
    pub cohort: u64,
    pub name: Option<String>,
    pub session: String,
    /// From 1.
    pub page: u32,
    pub pages: u32,
    pub members: Vec<Member>,
}

impl Page {
    /// `project_id`: the relay's own, if it is known.
    pub fn read(body: &mut Value, project_id: Option<&str>) -> Result<Self, NoPage> {
        let action = body["action"].as_str().and_then(Action::read).ok_or(NoPage::Action)?;
        let Value::Object(parameters) = body["parameters"].take() else { return Err(NoPage::Parameters) };
        let mut parameters = parameters;
        let mut text = |name: &str| parameters.remove(name).as_ref().and_then(text);
        if let (Some(theirs), Some(ours)) = (text("mixpanel_project_id"), project_id)
            && theirs != ours
        {
            return Err(NoPage::OtherProject);
        }
        let cohort = text("mixpanel_cohort_id").and_then(|id| id.parse().ok()).ok_or(NoPage::Cohort)?;
        let session = text("mixpanel_session_id").ok_or(NoPage::Session)?;
        let name = text("mixpanel_cohort_name");
        let info = parameters.remove("page_info").unwrap_or_default();
        // A sync of nobody may say that there are no pages.
        let number = |name: &str| self::text(&info[name]).and_then(|number| number.parse().ok()).unwrap_or(1).max(1);
        let page = number("page_count");
        let members = match parameters.remove("members") {
            Some(Value::Array(members)) => members.into_iter().map(member).collect(),
            _ => Vec::new(),
        };
        Ok(Self { action, cohort, name, session, page, pages: number("total_pages").max(page), members })
    }

    /// A difference that is none: nothing has to be begun for it.
    pub fn is_empty_difference(&self) -> bool {
        self.action != Action::Members && self.pages == 1 && self.members.is_empty()
    }

    /// The lists that the page is for, and what becomes of each: those of the cohort's entries under `cohorts`; without one,
    /// a list under `lists` that is called as the cohort is. `None`: the cohort has no list.
    pub fn targets(&self, cohorts: &[CohortSync], lists: &BTreeMap<String, u64>) -> Option<Vec<(ListId, SyncMode)>> {
        let mut configured: Vec<(ListId, SyncMode)> =
            cohorts.iter().filter(|sync| sync.id == self.cohort).map(|sync| (ListId(sync.list), sync.mode)).collect();
        if configured.is_empty() {
            let name = plain(self.name.as_deref()?);
            let named = lists.iter().find(|(list, _)| *list != ALL_USERS && plain(list) == name);
            configured.push(named.map(|(_, id)| (ListId(*id), SyncMode::Mirror))?);
        }
        Some(configured.into_iter().filter_map(|(list, mode)| Some((list, change(self.action, mode)?))).collect())
    }
}

/// What a push does to a list of a mode.
fn change(action: Action, mode: SyncMode) -> Option<SyncMode> {
    match (mode, action) {
        (SyncMode::Mirror, Action::Members) => Some(SyncMode::Mirror),
        (SyncMode::Mirror | SyncMode::Add, Action::AddMembers) | (SyncMode::Add, Action::Members) => {
            Some(SyncMode::Add)
        }
        (SyncMode::Mirror, Action::RemoveMembers) | (SyncMode::Remove, Action::Members | Action::AddMembers) => {
            Some(SyncMode::Remove)
        }
        // Who leaves the cohort stays in a list that only grows, and out of one that only shrinks.
        (SyncMode::Add | SyncMode::Remove, Action::RemoveMembers) => None,
    }
}

/// `At risk` and `at_risk` are one name.
fn plain(name: &str) -> String {
    name.trim().to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

/// Mixpanel's names of profile properties for those that a member has in other words.
fn member(member: Value) -> Member {
    let Value::Object(mut given) = member else { return Member::default() };
    let distinct_id = given.remove("mixpanel_distinct_id").as_ref().and_then(text).unwrap_or_default();
    let mut properties = Map::new();
    for (name, value) in given {
        let own = match name.as_str() {
            "email" => Some("$email"),
            "first_name" => Some("$first_name"),
            "last_name" => Some("$last_name"),
            "phone" | "phone_number" => Some("$phone"),
            _ => None,
        };
        if value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()) {
            continue;
        }
        if let Some(own) = own {
            properties.insert(own.to_owned(), value.clone());
        }
        properties.insert(name, value);
    }
    Member { distinct_id, properties }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn body() -> Value {
        json!({"action": "members", "parameters": {
            "mixpanel_project_id": "12345", "mixpanel_cohort_id": "77", "mixpanel_cohort_name": "At risk",
            "mixpanel_cohort_description": "", "mixpanel_session_id": "s-1",
            "page_info": {"total_pages": 3, "page_count": 2},
            "members": [{"mixpanel_distinct_id": "u", "email": "u@example.com", "first_name": "U", "last_name": "",
                "phone_number": "+33612345678", "plan": "pro"}, {"mixpanel_distinct_id": 7}],
        }})
    }

    #[test]
    fn a_page_is_read() {
        let page = Page::read(&mut body(), Some("12345")).unwrap();
        assert_eq!((page.action, page.cohort, page.page, page.pages), (Action::Members, 77, 2, 3));
        assert_eq!((page.name.as_deref(), page.session.as_str()), (Some("At risk"), "s-1"));
        let properties = json!({"$email": "u@example.com", "email": "u@example.com", "$first_name": "U",
            "first_name": "U", "$phone": "+33612345678", "phone_number": "+33612345678", "plan": "pro"});
        assert_eq!(Value::Object(page.members[0].properties.clone()), properties);
        assert_eq!((page.members[0].distinct_id.as_str(), page.members[1].distinct_id.as_str()), ("u", "7"));
    }

    #[test]
    fn what_is_no_page_says_why() {
        for (place, value, expected) in [
            ("/action", json!("everyone"), NoPage::Action),
            ("/parameters", json!(null), NoPage::Parameters),
            ("/parameters/mixpanel_cohort_id", json!("x"), NoPage::Cohort),
            ("/parameters/mixpanel_session_id", json!(""), NoPage::Session),
            ("/parameters/mixpanel_project_id", json!("999"), NoPage::OtherProject),
        ] {
            let mut body = body();
            *body.pointer_mut(place).unwrap() = value;
            assert_eq!(Page::read(&mut body, Some("12345")), Err(expected), "{place}");
        }
    }

    #[test]
    fn a_sync_of_nobody_is_a_page_too() {
        let mut body = body();
        body["parameters"]["page_info"] = json!({"total_pages": 0, "page_count": 0});
        body["parameters"]["members"] = json!([]);
        let mut difference = body.clone();
        difference["action"] = json!("add_members");
        let page = Page::read(&mut body, None).unwrap();
        assert_eq!((page.page, page.pages, page.is_empty_difference()), (1, 1, false));
        assert!(Page::read(&mut difference, None).unwrap().is_empty_difference());
    }

    #[test]
    fn a_cohorts_entries_go_before_a_list_of_its_name() {
        let page = |action: &str| {
            let mut body = body();
            body["action"] = json!(action);
            Page::read(&mut body, None).unwrap()
        };
        let entry = |list, mode| CohortSync { id: 77, list, mode, every: Duration::from_hours(24) };
        let lists = BTreeMap::from([("all_users".to_owned(), 15), ("at_risk".to_owned(), 17)]);
        let named = |action| page(action).targets(&[], &lists).unwrap();
        assert_eq!(named("members"), [(ListId(17), SyncMode::Mirror)]);
        assert_eq!(named("add_members"), [(ListId(17), SyncMode::Add)]);
        assert_eq!(named("remove_members"), [(ListId(17), SyncMode::Remove)]);
        let entries = [entry(16, SyncMode::Mirror), entry(18, SyncMode::Add), entry(19, SyncMode::Remove)];
        let configured = |action| page(action).targets(&entries, &lists).unwrap();
        let at = |list, mode| (ListId(list), mode);
        assert_eq!(configured("members"), [at(16, SyncMode::Mirror), at(18, SyncMode::Add), at(19, SyncMode::Remove)]);
        assert_eq!(configured("add_members"), [at(16, SyncMode::Add), at(18, SyncMode::Add), at(19, SyncMode::Remove)]);
        assert_eq!(configured("remove_members"), [at(16, SyncMode::Remove)]);
        assert_eq!(page("members").targets(&[], &BTreeMap::from([("all_users".to_owned(), 15)])), None);
    }
}
