//! `mixrelay trace`: what became of records, asked of the running relay; one JSON object a line, newest first.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::Failure;
use super::admin;

/// Pages that are asked for at most: each may cost the relay a read of 64 MiB.
const PAGES: usize = 100;

#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Arguments {
    /// The event's $insert_id.
    #[arg(long)]
    insert_id: Option<String>,
    /// Any distinct_id of the person.
    #[arg(long)]
    distinct_id: Option<String>,
    /// The person's address.
    #[arg(long)]
    email: Option<String>,
}

impl Arguments {
    fn query(&self) -> String {
        let fields = [("insert_id", &self.insert_id), ("distinct_id", &self.distinct_id), ("email", &self.email)];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
    }
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    admin::with(path, async |relay, _| {
        let (mut cursor, mut found) = (String::new(), false);
        for _ in 0..PAGES {
            let page = relay.get(&format!("/v1/trace?{}{cursor}", arguments.query())).await?;
            let mut out = std::io::stdout().lock();
            for item in page["items"].as_array().into_iter().flatten() {
                found = true;
                writeln!(out, "{item}").map_err(Failure::Output)?;
            }
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        if !found {
            eprintln!("nothing of it is in the journal any more, or it never came");
        }
        Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
