//! Forgetting people who were not heard of for `retention.unseen_people`, some at a time.
//!
//! Whoever is owed something, waits, or is in an open withdrawal is kept until that is over. Who is heard of again is new
//! here: their values are unknown and read again where something needs them, and their contact at Brevo is found by the
//! id or the address, as anybody's from before the relay.

use super::{BrevoLeg, Done};
use crate::people::roster::{self, PersonId, Resident};
use crate::people::unseen::{self, Day};

/// People looked at at a time.
const ROWS: usize = 500;

/// Who has not been heard of for long, by the day.
pub(super) struct Unseen {
    rows: Vec<(Day, PersonId)>,
    people: Vec<(PersonId, Resident)>,
}

impl BrevoLeg {
    pub(super) fn today(&self) -> Day {
        Day::of(self.parts.clock.now())
    }

    pub(super) fn look_for_unseen(&mut self) {
        if self.looking_for_unseen {
            return;
        }
        self.looking_for_unseen = true;
        let state = self.parts.state.clone();
        let day = Day::of(self.parts.clock.now() - self.parts.settings.unseen_people);
        let after = self.unseen_after.take();
        self.spawn(Box::pin(async move {
            let rows = unseen::before(&state, day, after.as_ref(), ROWS).await?;
            let people = roster::load(&state, rows.iter().map(|(_, id)| id.clone()).collect()).await?;
            Ok(Done::Unseen(Unseen { rows, people }))
        }));
    }

    pub(super) fn take_unseen(&mut self, unseen: Unseen) {
        self.looking_for_unseen = false;
        // Nothing of theirs is gone on with: a merged id would be listed anew by a person who is just being forgotten.
        self.roster.take_in(unseen.people);
        let full = unseen.rows.len() == ROWS;
        // Whoever has to stay is not met again before everybody else was.
        self.unseen_after = unseen.rows.last().filter(|_| full).cloned();
        let mut forgotten = 0;
        for (day, id) in unseen.rows {
            let busy = self.queues.contains_key(&id) || self.held.contains(&id) || self.bases.holds(&id);
            forgotten += usize::from(self.roster.forget_unseen(&id, day, busy));
        }
        if forgotten > 0 {
            tracing::info!(people = forgotten, "forgotten: nothing was heard of them for retention.unseen_people");
            self.bases.has_forgotten();
        }
        // Once these are gone from the store, or the same would be found again.
        self.more_unseen = full || forgotten > 0;
    }
}
