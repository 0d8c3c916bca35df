//! Groups of people and where their properties come from: `cohorts`, `datasets`, `lookup_tables`, `enrich`, `geoip`,
//! `webhooks`.

use std::collections::BTreeMap;

use crate::config::error::{Bad, Remedy};
use crate::config::model::{
    CohortSync, Cohorts, Dataset, DatasetQuestion, Enrichment, LookupColumns, LookupTable, SyncMode, WebhookLogin,
    Webhooks,
};
use crate::config::reader::{Item, Section};
use crate::config::values;
use crate::config::yaml::Scalar;

const MODES: [(&str, SyncMode); 3] =
    [("mirror", SyncMode::Mirror), ("add", SyncMode::Add), ("remove", SyncMode::Remove)];

const DAILY: std::time::Duration = std::time::Duration::from_hours(24);

pub(super) type Lists = BTreeMap<String, u64>;

pub(super) fn cohorts(root: &mut Section<'_>, lists: &Lists) -> Cohorts {
    let default = Cohorts::default();
    Cohorts {
        cohorts: root.list("cohorts", |item| cohort(item, lists)),
        datasets: datasets(root, lists),
        max_removal_share: root.scalar("max_removal_share", values::share).unwrap_or(default.max_removal_share),
    }
}

fn cohort(item: Item<'_>, lists: &Lists) -> Option<CohortSync> {
    let mut block = item.section()?;
    let id = block.scalar("id", values::positive);
    let list = block.scalar("list", |scalar| list_id(scalar, lists));
    let mode = block.scalar("mode", values::choice(&MODES)).unwrap_or_default();
    let every = block.scalar("schedule", values::schedule).unwrap_or(DAILY);
    if id.is_none() {
        block.missing("id", "the cohort's id at Mixpanel");
    }
    if list.is_none() {
        block.missing("list", "the name of one of `lists`, or a list's id at Brevo");
    }
    block.finish();
    Some(CohortSync { id: id?, list: list?, mode, every })
}

fn datasets(root: &mut Section<'_>, lists: &Lists) -> Vec<Dataset> {
    let mut names: Vec<String> = Vec::new();
    root.list("datasets", |item| {
        let dataset = dataset(item, lists, &names)?;
        names.push(dataset.name.clone());
        Some(dataset)
    })
}

/// `taken`: the names of those before it.
fn dataset(item: Item<'_>, lists: &Lists, taken: &[String]) -> Option<Dataset> {
    let mut block = item.section()?;
    let named = block.holds("name");
    let name = block.scalar("name", |scalar| {
        let name = values::dataset_name(scalar)?;
        if taken.contains(&name) { Err(Bad::new("is the name of another of `datasets`", "another")) } else { Ok(name) }
    });
    let (scripted, saved) = (block.holds("jql"), block.holds("insights"));
    let jql = block.scalar("jql", values::path).map(DatasetQuestion::Jql);
    let insights = block.scalar("insights", |scalar| match scripted {
        true => Err(Bad::new("stands beside `jql`", "one of the two")),
        false => values::positive(scalar).map(DatasetQuestion::Insights),
    });
    let every = block.scalar("schedule", values::schedule).unwrap_or(DAILY);
    let id = block.scalar("id", values::text).unwrap_or_else(|| "distinct_id".to_owned());
    let (has_attributes, has_list) = (block.holds("attributes"), block.holds("list"));
    let attributes = block.pairs("attributes").into_iter();
    let attributes = attributes.filter_map(|(column, item)| item.scalar(values::attribute).map(|to| (column, to)));
    let attributes = attributes.collect();
    let list = block.scalar("list", |scalar| list_id(scalar, lists));
    let mode = block.scalar("mode", values::choice(&MODES)).unwrap_or_default();
    if !named {
        block.missing("name", "a name of your choice");
    }
    if !scripted && !saved {
        block.missing("jql", "the file that holds the script, or a saved report's id as `insights`");
    }
    if !has_attributes && !has_list {
        block.missing("attributes", "a block of `column: ATTRIBUTE`, or a `list`");
    }
    block.finish();
    Some(Dataset { name: name?, question: jql.or(insights)?, every, id, attributes, list, mode })
}

/// A list by its name in `lists`, or by its id at Brevo.
pub(super) fn list_id(scalar: &Scalar, lists: &Lists) -> Result<u64, Bad> {
    if let Some(id) = lists.get(&scalar.text) {
        return Ok(*id);
    }
    let mut choices: Vec<String> = lists.keys().cloned().collect();
    choices.push("a list's id at Brevo".to_owned());
    values::positive(scalar).map_err(|_| Bad { why: "is not one of `lists`", write: Remedy::OneOf(choices) })
}

pub(super) fn enrichment(root: &mut Section<'_>) -> Enrichment {
    let mut lookup_tables: BTreeMap<String, LookupTable> = BTreeMap::new();
    for (name, item) in root.pairs("lookup_tables") {
        if let Some(table) = lookup_table(item, &lookup_tables) {
            lookup_tables.insert(name, table);
        }
    }
    let columns = root.list("enrich", |item| lookup_columns(item, &lookup_tables));
    Enrichment { columns, geoip: root.scalar("geoip", values::path), lookup_tables }
}

fn lookup_table(item: Item<'_>, others: &BTreeMap<String, LookupTable>) -> Option<LookupTable> {
    let mut block = item.section()?;
    let somewhere = block.holds("id") || block.holds("file");
    let id = block.scalar("id", |scalar| {
        let id = values::text(scalar)?;
        let taken = others.values().any(|other| other.id.as_ref() == Some(&id));
        if taken { Err(Bad::new("is the id of another of `lookup_tables`", "each table once")) } else { Ok(id) }
    });
    let file = block.scalar("file", values::path);
    if !somewhere {
        block.missing("file", "a CSV file, or the table's `id` at Mixpanel");
    }
    block.finish();
    Some(LookupTable { id, file })
}

fn lookup_columns(item: Item<'_>, tables: &BTreeMap<String, LookupTable>) -> Option<LookupColumns> {
    let mut block = item.section()?;
    let property = block.scalar("property", values::text);
    let known = |scalar: &Scalar| {
        let names = || tables.keys().cloned().collect();
        if tables.contains_key(&scalar.text) {
            return Ok(scalar.text.clone());
        }
        Err(Bad { why: "is not one of `lookup_tables`", write: Remedy::OneOf(names()) })
    };
    let table = block.scalar("table", known);
    let columns = block.pairs("columns").into_iter();
    let columns: BTreeMap<String, String> =
        columns.filter_map(|(column, item)| item.scalar(values::text).map(|to| (column, to))).collect();
    for (key, absent, write) in [
        ("property", property.is_none(), "the property whose value is looked up"),
        ("table", table.is_none(), "the name of one of `lookup_tables`"),
        ("columns", columns.is_empty(), "a block of `column: property`"),
    ] {
        if absent {
            block.missing(key, write);
        }
    }
    block.finish();
    Some(LookupColumns { property: property?, table: table?, columns })
}

pub(super) fn webhooks(mut block: Section<'_>) -> Webhooks {
    let mut login = block.section("mixpanel");
    let username = login.scalar("username", values::word);
    let password = login.hidden("password", values::passphrase);
    if login.exists() && username.is_none() {
        login.missing("username", "the name that Mixpanel sends");
    }
    if login.exists() && password.is_none() {
        login.missing("password", "the password that Mixpanel sends");
    }
    login.finish();
    let mut sender = block.section("brevo");
    let token = sender.hidden("token", values::secret);
    if sender.exists() && token.is_none() {
        sender.missing("token", "the token that Brevo sends");
    }
    sender.finish();
    block.finish();
    let mixpanel = username.zip(password).map(|(username, password)| WebhookLogin { username, password });
    Webhooks { mixpanel, brevo: token }
}
