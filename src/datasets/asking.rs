//! The question, and the answer's rows by person.

use bytes::Bytes;
use serde_json::Map;

use super::definition::Definition;
use super::kept::{Found, PERSON, UNMATCHED};
use super::run::{Run, Stage};
use super::worker::{Engine, StepError};
use crate::cohorts::Unmatched;
use crate::config::DatasetQuestion;
use crate::feed::Draft;
use crate::mapping::{CompiledMapping, ProfileView};
use crate::mixpanel::reports::{self, Row, Rows};
use crate::mixpanel::reserved::names_nobody;
use crate::people::lookup;
use crate::people::roster::PersonId;
use crate::record::Kind;
use crate::store::WriteBatch;
use crate::telemetry;

/// Rows taken between two writes.
const AT_ONCE: usize = 1_000;

impl Engine {
    /// Asks Mixpanel, and keeps what it answers. All of it or, after a crash, nothing: then it is asked again.
    pub(super) async fn ask(&self, run: &mut Run, definition: &Definition) -> Result<(), StepError> {
        let mixpanel = self.desk.parts.mixpanel.as_ref().ok_or(StepError::NoServiceAccount)?;
        let request = definition.request(&mixpanel.calls).ok_or(StepError::NoServiceAccount)?;
        run.begin_anew();
        // Before the call: one that is made again after a crash is another one.
        run.counts.queries += 1;
        self.desk.save(run, WriteBatch::new()).await?;
        let id = run.id.clone();
        for section in [PERSON, UNMATCHED] {
            self.desk.rows(&id).forget(section).await?;
        }
        let answer = mixpanel.ask(request).await?;
        reports::judged(&answer)?;
        let rows = match definition.dataset.question {
            DatasetQuestion::Jql(_) => Rows::of_script(&answer.body)?,
            DatasetQuestion::Insights(_) => Rows::of_report(&answer.body)?,
        };
        telemetry::pulled("dataset_rows", rows.len() as u64);
        run.counts.rows = rows.len() as u64;
        let mut named = false;
        for from in (0..rows.len()).step_by(AT_ONCE) {
            named |= self.keep(run, definition, &rows.some(from, AT_ONCE)).await?;
        }
        if let (false, Some(first)) = (named, rows.some(0, 1).first()) {
            return Err(StepError::NoIds { column: definition.dataset.id.clone(), seen: first.columns() });
        }
        run.stage = Stage::Comparing { after: None };
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    /// Keeps some rows; whether any of them says whom it is about.
    async fn keep(&self, run: &mut Run, definition: &Definition, rows: &[Row]) -> Result<bool, StepError> {
        let (parts, dataset) = (&self.desk.parts, &definition.dataset);
        let mapping = (parts.resolver.mapping)();
        let (mut named, mut people) = (false, Vec::new());
        for row in rows {
            let id = row.id(&dataset.id);
            named |= id.is_some();
            let mut columns = Map::new();
            for column in dataset.attributes.keys() {
                if let Some(value) = row.column(column) {
                    *run.counts.columns.entry(column.clone()).or_default() += 1;
                    columns.insert(column.clone(), value.clone());
                }
            }
            let somebody = id.filter(|id| !id.trim().is_empty() && !names_nobody(id));
            let person = somebody.and_then(|id| Some((at_brevo(&mapping, &dataset.name, &id)?, id)));
            match person {
                Some((person, id)) => people.push((person, Found { id, own: false, columns })),
                None => run.note_unmatched(Unmatched::NoId),
            }
        }
        let ids: Vec<PersonId> = people.iter().map(|(person, _)| person.clone()).collect();
        let canonical = lookup::current(&parts.state, &ids).await?;
        // Held until the rows are written: whoever is erased after this finds them there.
        let erased = parts.resolver.tombstones.now();
        let mut kept = Vec::with_capacity(people.len());
        for ((person, found), (canonical, _)) in people.into_iter().zip(canonical) {
            let gone = [found.id.as_str(), &person, &canonical].iter().any(|id| erased.covers_id(id));
            if gone {
                run.note_unmatched(Unmatched::Erased);
            } else {
                kept.push((canonical.to_string(), Found { own: person == canonical, ..found }));
            }
        }
        let (id, mut batch, count) = (run.id.clone(), WriteBatch::new(), kept.len() as u64);
        let repeated = self.desk.rows(&id).put_people(kept, &mut batch).await?;
        run.counts.repeated += repeated;
        run.counts.people += count - repeated;
        // The stage is still that of before: this answer is not whole yet.
        self.desk.save(run, batch).await?;
        drop(erased);
        Ok(named)
    }
}

/// The id that stands for `id` on the way to Brevo: where the privacy rules hash ids, another. `None`: they leave nothing.
pub(super) fn at_brevo(mapping: &CompiledMapping, dataset: &str, id: &str) -> Option<PersonId> {
    let visible: Bytes = mapping.visible(Kind::Profile, &Draft::row(dataset, id, &Map::new()).body).ok().flatten()?;
    let view = ProfileView::parse(&visible).ok()?;
    Some(PersonId::from(view.distinct_id.as_deref()?))
}
