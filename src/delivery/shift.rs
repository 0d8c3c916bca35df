//! A leg's shifts: it works until somebody needs what it holds, ends in order, and begins anew from its checkpoint.
//!
//! An erasure takes a person's rows away and counts them (CORE 12). A leg that went on meanwhile would write them back, from
//! its roster, its queues or a call that waits at a closed gate. A start from the checkpoint is what a leg does after every
//! stop, so everything that it held in memory is known to be made again from what is stored, and nothing else.

use std::future::Future;
use std::pin::pin;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Asks one leg to stand back.
#[derive(Clone)]
pub struct Shift {
    requests: mpsc::Sender<oneshot::Sender<StoodBack>>,
}

/// The leg has stopped, and everything that it knew is written down. It begins anew when this is dropped.
pub struct StoodBack {
    _back: oneshot::Sender<()>,
}

/// The leg's side of a [`Shift`].
pub struct Requests(mpsc::Receiver<oneshot::Sender<StoodBack>>);

/// Erasures are done one at a time; a second request waits its turn.
const WAITING: usize = 1;

pub fn shift() -> (Shift, Requests) {
    let (requests, receiver) = mpsc::channel(WAITING);
    (Shift { requests }, Requests(receiver))
}

impl Shift {
    /// Resolves once the leg has stopped; `None` when it will not run again, for the process is ending.
    pub async fn stand_back(&self) -> Option<StoodBack> {
        let (reply, stood_back) = oneshot::channel();
        self.requests.send(reply).await.ok()?;
        stood_back.await.ok()
    }
}

/// Runs the leg that `begin` makes, again after every time that it stood back, until `shutdown` or an error. `begin` is
/// given the signal that ends that one shift.
pub async fn run<E, Leg, Begun>(
    mut requests: Requests,
    shutdown: CancellationToken,
    mut begin: impl FnMut(CancellationToken) -> Begun,
) -> Result<(), E>
where
    Begun: Future<Output = Result<Leg, E>>,
    Leg: Future<Output = Result<(), E>>,
{
    loop {
        let over = shutdown.child_token();
        let mut leg = pin!(begin(over.clone()).await?);
        let reply = tokio::select! {
            ended = &mut leg => return ended,
            // Without anyone left to ask, the leg goes on by itself.
            Some(reply) = requests.0.recv() => reply,
        };
        over.cancel();
        leg.await?;
        if shutdown.is_cancelled() {
            return Ok(());
        }
        let (back, returned) = oneshot::channel();
        // Whoever asked may be gone already.
        drop(reply.send(StoodBack { _back: back }));
        tokio::select! {
            _ = returned => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Debug)]
    struct Never;

    #[tokio::test]
    async fn a_leg_stands_back_and_begins_anew() {
        let (shift, requests) = shift();
        let shutdown = CancellationToken::new();
        let (begun, running) = (Cell::new(0), Cell::new(false));
        let leg = |over: CancellationToken| {
            begun.set(begun.get() + 1);
            running.set(true);
            let running = &running;
            async move {
                Ok::<_, Never>(async move {
                    over.cancelled().await;
                    running.set(false);
                    Ok(())
                })
            }
        };
        let asks = async {
            let away = shift.stand_back().await.unwrap();
            assert_eq!((begun.get(), running.get()), (1, false));
            tokio::task::yield_now().await;
            assert!(!running.get(), "it waits for its rows");
            drop(away);
            drop(shift.stand_back().await.unwrap());
            assert_eq!(begun.get(), 2);
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(run(requests, shutdown.clone(), leg), asks);
        ended.unwrap();
        assert!(shift.stand_back().await.is_none());
    }
}
