//! From the tree to [`Config`], one file for each part of it.

mod connectors;
mod mapping;
mod operations;
mod people;
mod rules;
mod server;

use super::model::Config;
use super::reader::{Report, Section};
use super::values;
use super::yaml::Node;

/// The configuration in `tree`. What is wrong goes to `report`; if anything does, the result is not to be used.
pub(super) fn config(tree: &Node, report: &Report<'_>) -> Option<Config> {
    let mut root = Section::root(tree, report)?;
    let mut connectors = root.section("connectors");
    let mut mixpanel_block = connectors.section("mixpanel");

    let lists = connectors::lists(&mut mixpanel_block, &mut root);
    let mixpanel = connectors::mixpanel(mixpanel_block, &mut root);
    let brevo = connectors::brevo(connectors.section("brevo"));
    connectors.finish();

    let cohorts = people::cohorts(&mut root, &lists);
    let mapping = mapping::mapping(&mut root, lists);
    connectors::warn_of_idle_lists(&mapping, &cohorts, report);
    let enrichment = people::enrichment(&mut root);
    let webhooks = people::webhooks(root.section("webhooks"));
    let privacy = operations::privacy(root.section("privacy"), report);
    let deletion = operations::deletion(&mut root);
    let retention = operations::retention(root.section("retention"));
    let parking = operations::parking(root.section("parking"));
    let when_full = operations::when_full(&mut root);
    let server = server::server(root.section("server"));
    let store = server::store(&mut root);
    let auth = server::auth(root.section("auth"));
    let alerts = operations::alerts(root.section("alerts"));
    let dedup_window = root.scalar("dedup_window", values::period).unwrap_or(Config::DEDUP_WINDOW);
    let sync_profiles_every = root.scalar("sync_profiles_every", values::schedule);
    root.finish();

    Some(Config {
        mixpanel: mixpanel?,
        brevo: brevo.ok()?,
        mapping,
        mapping_words: serde_json::Map::new(),
        privacy,
        server,
        store,
        auth,
        retention,
        parking,
        when_full,
        dedup_window,
        enrichment,
        cohorts,
        deletion,
        webhooks,
        alerts,
        sync_profiles_every,
    })
}
