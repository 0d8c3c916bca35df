//! The data set's people as members of its list: the lists' desk takes them in pages, and its run does the rest, with the
//! brake of a mirror.

use std::time::Duration;

use tokio::time::Instant;

use super::comparing::{MEMBERS, as_properties};
use super::definition::Definition;
use super::kept::Found;
use super::run::{ListCounts, Outcome, Run, Stage};
use super::worker::{Engine, StepError};
use crate::brevo::identifiers::ListId;
use crate::cohorts::{self, Member, Order, Push, Source};
use crate::store::WriteBatch;

/// Between two notes of how far the list's run is.
const LOOK: Duration = Duration::from_secs(5);

impl Engine {
    /// Hands the next page of members over.
    pub(super) async fn hand_members_over(&self, run: &mut Run, definition: &Definition) -> Result<(), StepError> {
        let Stage::Members { page, pages, after } = run.stage.clone() else { return Ok(()) };
        let (parts, dataset) = (&self.desk.parts, &definition.dataset);
        let id = run.id.clone();
        let people = self.desk.rows(&id).people(after.as_deref(), MEMBERS as usize).await?;
        let mapping = (parts.resolver.mapping)();
        let member = |found: &Found| Member {
            distinct_id: found.id.clone(),
            properties: as_properties(&mapping, &dataset.name, found),
        };
        let order = Order {
            source: Source::Dataset { name: dataset.name.clone(), run: run.id.clone() },
            list: ListId(dataset.list.unwrap_or_default()),
            mode: dataset.mode,
            force: run.force,
            of_a_mirror: false,
            dry_run: run.dry_run,
            trigger: run.trigger,
        };
        let members = people.iter().map(|(_, found)| member(found)).collect();
        let name = Some(format!("data set {}", dataset.name));
        let list_run = parts.lists.push(Push { order, name, page, pages, members }).await?;
        run.stage = if page == pages {
            Stage::Listing { run: list_run.id }
        } else {
            let after = people.last().map(|(key, _)| key.clone()).or(after);
            Stage::Members { page: page + 1, pages, after }
        };
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    /// Waits for the list's run, which goes on by itself whatever becomes of this one.
    pub(super) async fn follow_list(&self, run: &mut Run) -> Result<(), StepError> {
        let Stage::Listing { run: list_run } = run.stage.clone() else { return Ok(()) };
        let list_run =
            self.desk.parts.lists.wait(&list_run, Instant::now() + LOOK).await?.ok_or(StepError::ListGone)?;
        run.list = Some(ListCounts::of(&list_run));
        let Some(ended) = list_run.ended() else { return Ok(self.desk.save(run, WriteBatch::new()).await?) };
        let (outcome, why) = match ended.outcome {
            cohorts::Outcome::Done | cohorts::Outcome::Observed => (Outcome::Done, None),
            cohorts::Outcome::Stopped => (Outcome::Stopped, ended.why.clone()),
            cohorts::Outcome::Failed | cohorts::Outcome::Replaced => (Outcome::Failed, ended.why.clone()),
        };
        Ok(self.desk.end(run, outcome, why).await?)
    }
}
