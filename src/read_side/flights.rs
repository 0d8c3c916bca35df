//! Single flight: a question that is being asked is not asked a second time.
//!
//! Whoever comes first leads: it waits for the budget, and then the call runs as a task of its own, so that a caller who
//! hangs up neither wastes a call that is paid for nor leaves those behind it without an answer. Everybody else follows.
//! A flight that ends on any path, a panic included, is off the board: the next to ask leads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::{Key, Whole};

/// How a flight ended for those who follow.
#[derive(Clone, Debug)]
pub enum Landing {
    Answer(Arc<Whole>),
    /// The budget had no place, or the vendor said so.
    Refused,
    /// The answer is too long to be held for others: each asks for itself.
    TooLong,
}

/// Where a flight is.
#[derive(Clone, Debug)]
enum Stage {
    /// Its leader waits for a place in the budget.
    Waiting,
    Asking,
    Landed(Landing),
}

type Waiting = HashMap<Key, watch::Receiver<Stage>>;
type Board = Mutex<Waiting>;

#[derive(Debug, Default)]
pub struct Flights(Arc<Board>);

#[derive(Debug)]
pub enum Turn {
    Lead(Flight),
    Follow(Follower),
}

fn lock(board: &Board) -> MutexGuard<'_, Waiting> {
    // Whole between statements; a panic elsewhere does not spoil it.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flights {
    pub fn join(&self, key: Key) -> Turn {
        let mut board = lock(&self.0);
        if let Some(stage) = board.get(&key) {
            return Turn::Follow(Follower(stage.clone()));
        }
        let (stage, receiver) = watch::channel(Stage::Waiting);
        board.insert(key, receiver);
        Turn::Lead(Flight { key, board: self.0.clone(), stage })
    }
}

/// The right to ask, and the duty to say how it ended.
#[derive(Debug)]
pub struct Flight {
    key: Key,
    board: Arc<Board>,
    stage: watch::Sender<Stage>,
}

impl Flight {
    /// There is a place: those who follow wait for the answer from now on, whatever their patience.
    pub fn takes_off(&self) {
        self.stage.send_replace(Stage::Asking);
    }

    pub fn land(self, landing: Landing) {
        // Off the board first, or one who joins in between would follow a flight that is over; it would still be told.
        lock(&self.board).remove(&self.key);
        self.stage.send_replace(Stage::Landed(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !matches!(*self.stage.borrow(), Stage::Landed(_)) {
            lock(&self.board).remove(&self.key);
        }
    }
}

#[derive(Debug)]
pub struct Follower(watch::Receiver<Stage>);

impl Follower {
    /// `None`: the flight ended without an answer, and somebody has to lead again. A flight that waits for its place is
    /// not waited for beyond `deadline`.
    pub async fn landed(mut self, deadline: Instant) -> Option<Landing> {
        let taking_off = self.0.wait_for(|stage| !matches!(stage, Stage::Waiting));
        match tokio::time::timeout_at(deadline, taking_off).await {
            Err(_elapsed) => return Some(Landing::Refused),
            Ok(Err(_gone)) => return None,
            Ok(Ok(_)) => {}
        }
        match &*self.0.wait_for(|stage| matches!(stage, Stage::Landed(_))).await.ok()? {
            Stage::Landed(landing) => Some(landing.clone()),
            Stage::Waiting | Stage::Asking => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;

    fn lead(flights: &Flights) -> Flight {
        match flights.join(Key([1; 32])) {
            Turn::Lead(flight) => flight,
            Turn::Follow(_) => panic!("somebody leads already"),
        }
    }

    fn follow(flights: &Flights) -> Follower {
        match flights.join(Key([1; 32])) {
            Turn::Follow(follower) => follower,
            Turn::Lead(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn followers_get_the_leaders_answer() {
        let flights = Flights::default();
        let flight = lead(&flights);
        let followers = [follow(&flights), follow(&flights)];
        let answer = Whole {
            status: StatusCode::BAD_REQUEST,
            content_type: None,
            content_disposition: None,
            body: Bytes::from_static(b"no"),
        };
        flight.takes_off();
        flight.land(Landing::Answer(Arc::new(answer)));
        for follower in followers {
            assert!(
                matches!(follower.landed(Instant::now()).await, Some(Landing::Answer(answer)) if answer.body == "no")
            );
        }
        lead(&flights);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_for_a_place_than_they_like() {
        let flights = Flights::default();
        let flight = lead(&flights);
        let start = Instant::now();
        let deadline = start + std::time::Duration::from_secs(3);
        assert!(matches!(follow(&flights).landed(deadline).await, Some(Landing::Refused)));
        assert_eq!(start.elapsed().as_secs(), 3);
        drop(flight);
    }

    #[tokio::test]
    async fn a_leader_that_is_gone_leaves_the_lead_to_others() {
        let flights = Flights::default();
        let flight = lead(&flights);
        let follower = follow(&flights);
        drop(flight);
        assert!(follower.landed(Instant::now()).await.is_none());
        lead(&flights);
    }
}
