//! Contacts for members whom Brevo does not know: one import for many, single writes for few and for whom no import can
//! carry. Both put the contact into the list by themselves.

use std::collections::HashSet;
use std::time::Duration;

use super::changing::keys;
use super::collecting::note_unmatched;
use super::rows::{MEMBER, Mark, MemberRow, Rows};
use super::run::{Outcome, Run, Stage, Unmatched};
use super::worker::{Engine, StepError};
use crate::brevo::account::AccountModel;
use crate::brevo::coerce::Clearing;
use crate::brevo::import_body::ImportBody;
use crate::delivery::brevo_leg::{
    Composed, Imported, Importer, Payment, Samples, Write, Writer, compose, read_account, remembered_account,
};
use crate::people::blocklist::Blocked;
use crate::people::debt::Debt;
use crate::people::person::{Contact, Person};
use crate::people::roster::PersonId;
use crate::store::{Pair, WriteBatch};

/// Members looked at between two steps.
const PAGE: usize = 10_000;
/// From so many on, one import is better than as many single writes: as the leg has it.
const IMPORT_FROM: usize = 100;
/// Single writes between two notes of how far it is.
const WRITES: usize = 20;
/// The wait for a contact that is busy.
pub(super) const BUSY: Duration = Duration::from_secs(1);
/// Tries of one busy contact.
const TRIES: usize = 10;

/// A member who is to become a contact.
struct New {
    key: Vec<u8>,
    id: PersonId,
    write: Write,
}

impl Engine {
    /// Makes contacts of the next page's members who are not settled.
    pub(super) async fn create_some(&self, run: &mut Run) -> Result<(), StepError> {
        let Stage::Creating { after } = run.stage.clone() else { return Ok(()) };
        let id = run.id.clone();
        let rows = Rows { state: self.desk.state.as_ref(), run: &id };
        let page = rows.page(MEMBER, after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(self.desk.end(run, WriteBatch::new(), Outcome::Done, None).await?);
        };
        let next = Stage::Creating { after: Some(last.clone()) };
        let marks = rows.marks(&keys(&page)).await?;
        let open: Vec<Pair> =
            page.into_iter().zip(marks).filter(|(_, mark)| !mark.is_settled()).map(|(row, _)| row).collect();
        if !open.is_empty() {
            let mut new = self.compose(run, &rows, open).await?;
            self.import(run, &rows, &mut new).await?;
            while !new.is_empty() {
                let some = new.split_off(new.len().saturating_sub(WRITES));
                self.write_some(run, &rows, some).await?;
            }
        }
        run.stage = next;
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    /// What each is to be written as; whoever cannot be is settled.
    async fn compose(&self, run: &mut Run, rows: &Rows<'_>, open: Vec<Pair>) -> Result<Vec<New>, StepError> {
        let (account, _) = self.account().await?;
        let mut members = Vec::with_capacity(open.len());
        for (_, value) in &open {
            members.push(MemberRow::read(value)?);
        }
        let erased = self.resolver.tombstones.now();
        let mut batch = WriteBatch::new();
        let mut new = Vec::new();
        let named: Vec<String> = members.iter().map(|member| member.person.clone()).collect();
        let people = self.resolver.to_write(members).await?;
        for (((key, _), named), (id, person)) in open.into_iter().zip(named).zip(people) {
            match person {
                Ok(person) => {
                    let Some(mut write) = self.as_new(run, &id, person, &account) else { continue };
                    let Person { email, phone, .. } = &write.person;
                    write.blocklisted = Blocked {
                        email: email.as_ref().is_some_and(|email| erased.keeps_blocklisted(email.as_str())),
                        sms: phone.as_ref().is_some_and(|phone| erased.keeps_blocklisted(&phone.to_string())),
                    };
                    new.push(New { key, id, write });
                }
                Err(why) => {
                    rows.put_mark(&key, Mark::DONE, &mut batch);
                    note_unmatched(run, rows, &named, why, None, &erased, &mut batch)?;
                }
            }
        }
        self.desk.save(run, batch).await?;
        Ok(new)
    }

    /// As a contact that Brevo has not confirmed: everything that is known, and the list. Attributes that the account lacks
    /// are the leg's to create.
    fn as_new(&self, run: &Run, id: &PersonId, mut person: Person, account: &AccountModel) -> Option<Write> {
        person.contact = Contact::Unknown;
        let mapping = self.resolver.mapping();
        let (rules, lists) = (&mapping.attribute_rules, [run.order.list]);
        match compose(id, &person, &Debt::nothing(), account, rules, false, &lists) {
            Composed::Write(write, _) => Some(*write),
            // Neither comes of a person without a contact where nothing is to be created.
            Composed::Nothing(_) | Composed::Missing(_) => None,
        }
    }

    /// The account as the leg has last read it, else as it is now.
    async fn account(&self) -> Result<(AccountModel, Option<Clearing>), StepError> {
        let brevo = self.brevo()?;
        let (account, clearing) = remembered_account(&self.desk.state).await?;
        let account = match account {
            Some(account) => account,
            None => {
                let read = read_account(brevo.stack.clone(), brevo.calls.clone(), Vec::new()).await;
                read.map_err(StepError::of_leg)?.account.unwrap_or_default()
            }
        };
        Ok((account, clearing))
    }

    /// Takes everyone whom an import can carry out of `new`, if they are many.
    async fn import(&self, run: &mut Run, rows: &Rows<'_>, new: &mut Vec<New>) -> Result<(), StepError> {
        let brevo = self.brevo()?;
        let importer =
            Importer::beside(brevo.calls.clone(), brevo.stack.clone(), self.desk.state.clone(), brevo.imports.clone());
        // An import merges whoever shares an address.
        let mut addresses = HashSet::new();
        let (mut many, mut single): (Vec<New>, Vec<New>) = std::mem::take(new)
            .into_iter()
            .partition(|new| new.write.importable() && addresses.insert(new.write.person.email.clone()));
        while many.len() >= IMPORT_FROM {
            let (mut body, mut samples) = (ImportBody::new(&[run.order.list]), Samples::default());
            let fit = many.iter().take_while(|new| body.push(&new.write.import()));
            fit.for_each(|new| samples.see(&new.write));
            let left = many.split_off(body.len());
            let imported = importer.run(body, samples).await.map_err(StepError::of_leg)?;
            let done = std::mem::replace(&mut many, left);
            if !matches!(imported, Imported::Done { .. }) {
                single.extend(done);
                continue;
            }
            let mut batch = WriteBatch::new();
            done.iter().for_each(|new| rows.put_mark(&new.key, Mark::DONE, &mut batch));
            run.counts.added += done.len() as u64;
            run.counts.created += done.len() as u64;
            self.desk.save(run, batch).await?;
        }
        *new = single;
        new.append(&mut many);
        Ok(())
    }

    async fn write_some(&self, run: &mut Run, rows: &Rows<'_>, new: Vec<New>) -> Result<(), StepError> {
        let brevo = self.brevo()?;
        let (_, clearing) = self.account().await?;
        let writer = Writer { calls: brevo.calls.clone(), stack: brevo.stack.clone(), clearing };
        let mut batch = WriteBatch::new();
        for New { key, id, write } in new {
            // Erased while it waited its turn.
            let erased = self.resolver.tombstones.now();
            if erased.covers_id(&id) {
                rows.put_mark(&key, Mark::DONE, &mut batch);
                note_unmatched(run, rows, &id, Unmatched::Erased, None, &erased, &mut batch)?;
                continue;
            }
            drop(erased);
            match self.write_one(&writer, &id, write).await? {
                Ok(()) => {
                    run.counts.added += 1;
                    run.counts.created += 1;
                }
                Err(said) => {
                    let erased = self.resolver.tombstones.now();
                    note_unmatched(run, rows, &id, Unmatched::Refused, Some(said), &erased, &mut batch)?;
                }
            }
            rows.put_mark(&key, Mark::DONE, &mut batch);
        }
        Ok(self.desk.save(run, batch).await?)
    }

    /// `Err`: Brevo's words.
    async fn write_one(&self, writer: &Writer, id: &str, write: Write) -> Result<Result<(), String>, StepError> {
        for _ in 0..TRIES {
            match writer.pay(id, write.clone()).await.map_err(StepError::of_leg)? {
                Payment::Paid { .. } => return Ok(Ok(())),
                Payment::Refused(refusal) => return Ok(Err(refusal.to_string())),
                Payment::Misrouted(refusal) => return Err(StepError::Refused(refusal.to_string())),
                Payment::TooEarly | Payment::Gone | Payment::Withdrawn(_) => {}
            }
            tokio::time::sleep(BUSY).await;
        }
        Ok(Err("the contact is busy".to_owned()))
    }
}
