//! What a data set asks, and what is to be done with the answer: the configuration's block and the script that it names.

use std::io;
use std::path::PathBuf;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::config::{Dataset, DatasetQuestion};
use crate::mixpanel::calls::Calls;
use crate::vendor::{Family, VendorRequest};

/// Longest script that is read.
const MAX_SCRIPT: usize = 256 << 10;

/// Why a data set cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("the script {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the script {} is longer than {} KiB", .0.display(), MAX_SCRIPT >> 10)]
    TooLong(PathBuf),
    #[error("the script {} is not UTF-8", .0.display())]
    NotText(PathBuf),
    #[error("the script {} is empty", .0.display())]
    Empty(PathBuf),
}

/// A data set as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub dataset: Dataset,
    /// The text of the script, where there is one.
    script: Option<String>,
}

impl Definition {
    /// Reads the script.
    pub fn read(dataset: &Dataset) -> Result<Self, DefinitionError> {
        let script = match &dataset.question {
            DatasetQuestion::Jql(path) => Some(script(path)?),
            DatasetQuestion::Insights(_) => None,
        };
        Ok(Self { dataset: dataset.clone(), script })
    }

    /// As [`Definition::read`], off the workers.
    pub async fn load(dataset: &Dataset) -> Result<Self, DefinitionError> {
        let dataset = dataset.clone();
        let path = match &dataset.question {
            DatasetQuestion::Jql(path) => path.clone(),
            DatasetQuestion::Insights(_) => PathBuf::new(),
        };
        let read = tokio::task::spawn_blocking(move || Self::read(&dataset)).await;
        read.unwrap_or_else(|died| Err(DefinitionError::Unreadable { path, source: io::Error::other(died) }))
    }

    /// Changes with everything that a run does, and with nothing else: the schedule and the name are left out.
    pub fn fingerprint(&self) -> String {
        let Dataset { name: _, question, every: _, id, attributes, list, mode } = &self.dataset;
        let question = match (question, &self.script) {
            (DatasetQuestion::Insights(bookmark), _) => json!({ "insights": bookmark }),
            (DatasetQuestion::Jql(_), script) => json!({ "jql": script }),
        };
        let whole = json!({
            "question": question, "id": id, "attributes": attributes, "list": list, "mode": list.map(|_| mode),
        });
        let hash = Sha256::digest(whole.to_string());
        hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The question; `None` without a service account.
    pub fn request(&self, calls: &Calls) -> Option<VendorRequest> {
        match &self.dataset.question {
            DatasetQuestion::Jql(_) => calls.jql(self.script.as_deref().unwrap_or_default()),
            DatasetQuestion::Insights(bookmark) => calls.insights(*bookmark),
        }
    }
}

/// The limit that a question counts against.
pub fn family(question: &DatasetQuestion) -> Family {
    match question {
        DatasetQuestion::Jql(_) => Family::MixpanelJql,
        DatasetQuestion::Insights(_) => Family::MixpanelQuery,
    }
}

fn script(path: &PathBuf) -> Result<String, DefinitionError> {
    let unreadable = |source| DefinitionError::Unreadable { path: path.clone(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let most = MAX_SCRIPT as u64 + 1;
    io::Read::read_to_end(&mut io::Read::take(file, most), &mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_SCRIPT {
        return Err(DefinitionError::TooLong(path.clone()));
    }
    let text = String::from_utf8(bytes).map_err(|_| DefinitionError::NotText(path.clone()))?;
    if text.trim().is_empty() { Err(DefinitionError::Empty(path.clone())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::SyncMode;

    fn dataset(path: PathBuf) -> Dataset {
        Dataset {
            name: "dormant".to_owned(),
            question: DatasetQuestion::Jql(path),
            every: Duration::from_hours(24),
            id: "distinct_id".to_owned(),
            attributes: [("days".to_owned(), "DAYS_AWAY".to_owned())].into(),
            list: None,
            mode: SyncMode::Mirror,
        }
    }

    #[test]
    fn a_definition_is_another_when_anything_is_that_a_run_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dormant.js");
        std::fs::write(&path, "function main() { return People(); }").unwrap();
        let first = Definition::read(&dataset(path.clone())).unwrap().fingerprint();
        let of = |change: fn(&mut Dataset)| {
            let mut dataset = dataset(path.clone());
            change(&mut dataset);
            Definition::read(&dataset).unwrap().fingerprint()
        };
        let same: [fn(&mut Dataset); 3] = [
            |dataset| dataset.name = "other".to_owned(),
            |dataset| dataset.every = Duration::from_hours(1),
            // Without a list there is no mode.
            |dataset| dataset.mode = SyncMode::Add,
        ];
        same.iter().for_each(|change| assert_eq!(of(*change), first));
        let others: [fn(&mut Dataset); 4] = [
            |dataset| dataset.id = "user".to_owned(),
            |dataset| dataset.list = Some(17),
            |dataset| drop(dataset.attributes.insert("n".to_owned(), "N".to_owned())),
            |dataset| dataset.question = DatasetQuestion::Insights(7),
        ];
        others.iter().for_each(|change| assert_ne!(of(*change), first));
        std::fs::write(&path, "function main() { return []; }").unwrap();
        assert_ne!(Definition::read(&dataset(path)).unwrap().fingerprint(), first);
    }

    #[test]
    fn a_script_that_cannot_be_used_is_told_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.js");
        let said = || Definition::read(&dataset(path.clone())).unwrap_err().to_string();
        assert!(said().contains("cannot be read"), "{}", said());
        for (bytes, words) in [
            (b" \n".to_vec(), "is empty"),
            (vec![0xff], "not UTF-8"),
            (vec![b'x'; MAX_SCRIPT + 1], "longer than 256 KiB"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(said().contains(words) && said().contains("x.js"), "{}", said());
        }
    }
}
