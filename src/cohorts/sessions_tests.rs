//! Sessions side by side: every order of their pages, with repeats, gaps, restarts and runs that end in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::tests::{desk, directory, people, store};
use super::*;
use crate::brevo::identifiers::ListId;
use crate::config::SyncMode;
use crate::store::WriteBatch;

/// Cohort, mode and pages of each session that may come.
type Sessions = [(u64, SyncMode, u32)];

fn page_of(sessions: &Sessions, session: usize, page: u32) -> Push {
    let (cohort, mode, pages) = sessions[session];
    let order = Order {
        source: Source::Pushed { id: cohort, session: format!("s{session}") },
        list: ListId(cohort),
        mode,
        force: false,
        of_a_mirror: false,
        dry_run: false,
        trigger: Trigger::Webhook,
    };
    let members = people(&[&format!("s{session}p{page}")]);
    Push { order, name: None, page, pages, members }
}

#[derive(Clone, Debug)]
enum Step {
    Page(usize, u32),
    /// The process is another one.
    Restart,
    /// The oldest run that can be worked on comes to its end.
    Work,
    Clean,
}

/// What has happened, and what must come of it.
#[derive(Default)]
struct Told {
    /// Sessions, as their first pages came.
    born: Vec<usize>,
    came: BTreeMap<usize, BTreeSet<u32>>,
    /// When the last page that a session lacked was there.
    whole_at: BTreeMap<usize, usize>,
    /// Applied so far, in order.
    applied: Vec<usize>,
}

impl Told {
    fn take(&mut self, sessions: &Sessions, at: usize, session: usize, page: u32) {
        if !self.born.contains(&session) {
            self.born.push(session);
        }
        let came = self.came.entry(session).or_default();
        came.insert(page);
        if came.len() == sessions[session].2 as usize {
            self.whole_at.entry(session).or_insert(at);
        }
    }

    fn birth(&self, session: usize) -> usize {
        self.born.iter().position(|born| *born == session).unwrap()
    }

    /// Whether a full copy of the same cohort that was begun later was whole before this session was.
    fn is_superseded(&self, sessions: &Sessions, session: usize) -> bool {
        let whole = self.whole_at.get(&session).copied().unwrap_or(usize::MAX);
        self.born.iter().any(|later| {
            let (cohort, mode, _) = sessions[*later];
            let copy = cohort == sessions[session].0 && mode == SyncMode::Mirror;
            copy && self.birth(*later) > self.birth(session) && self.whole_at.get(later).is_some_and(|at| *at < whole)
        })
    }

    /// What each run has to be, oldest first.
    fn check(&self, sessions: &Sessions, runs: &[Run]) {
        assert_eq!(runs.len(), self.born.len(), "each session is begun once");
        for (session, run) in self.born.iter().copied().zip(runs) {
            assert_eq!(run.order, page_of(sessions, session, 1).order);
            let state = match &run.stage {
                Stage::Receiving { .. } => "receiving",
                Stage::Ended(ended) => ended.outcome.label(),
                _ => "whole",
            };
            let expected = match () {
                () if self.is_superseded(sessions, session) => "replaced",
                () if self.applied.contains(&session) => "done",
                () if self.whole_at.contains_key(&session) => "whole",
                () => "receiving",
            };
            assert_eq!(state, expected, "session {session}");
            if expected != "replaced" {
                assert_eq!(run.counts.members, self.came[&session].len() as u64, "everybody once");
            }
        }
    }
}

async fn play(sessions: &Sessions, steps: Vec<Step>) {
    let directory = directory();
    let held = store(&directory);
    let mut at_work = desk(&held, true).await;
    let mut told = Told::default();
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Page(session, page) => {
                at_work.push(page_of(sessions, session, page)).await.unwrap();
                told.take(sessions, at, session, page);
            }
            Step::Restart => at_work = desk(&held, true).await,
            Step::Work => {
                let Some((id, _)) = at_work.workable().await.into_iter().next() else { continue };
                let mut run = at_work.get(&id).await.unwrap().unwrap();
                at_work.end(&mut run, WriteBatch::new(), Outcome::Done, None).await.unwrap();
                at_work.ended(&id).await.unwrap();
                let Source::Pushed { session, .. } = &run.order.source else { panic!("{run:?}") };
                told.applied.push(session[1..].parse().unwrap());
            }
            Step::Clean => at_work.clean().await.unwrap(),
        }
        let mut runs = at_work.list(None, 100).await.unwrap();
        runs.reverse();
        told.check(sessions, &runs);
    }
    // A list never goes back to an older copy.
    for cohort in sessions.iter().map(|(cohort, ..)| *cohort) {
        let copy = |session: &&usize| sessions[**session].0 == cohort && sessions[**session].1 == SyncMode::Mirror;
        let births: Vec<usize> = told.applied.iter().filter(copy).map(|session| told.birth(*session)).collect();
        assert!(births.is_sorted(), "{births:?}");
    }
}

/// Two full copies and a difference of one cohort, and a full copy of another.
fn sessions() -> impl Strategy<Value = [(u64, SyncMode, u32); 4]> {
    let pages = || 1u32..4;
    (pages(), pages(), pages(), pages()).prop_map(|(a, b, c, d)| {
        [(7, SyncMode::Mirror, a), (7, SyncMode::Mirror, b), (7, SyncMode::Add, c), (8, SyncMode::Mirror, d)]
    })
}

fn history(sessions: &Sessions) -> impl Strategy<Value = Vec<Step>> + use<> {
    let pages: Vec<u32> = sessions.iter().map(|(_, _, pages)| *pages).collect();
    let page = (0..pages.len()).prop_flat_map(move |session| {
        (Just(session), 1..=pages[session]).prop_map(|(session, page)| Step::Page(session, page))
    });
    let step = prop_oneof![12 => page, 1 => Just(Step::Restart), 2 => Just(Step::Work), 1 => Just(Step::Clean)];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sessions_side_by_side_are_each_whole_by_themselves(
        (sessions, steps) in sessions().prop_flat_map(|sessions| (Just(sessions), history(&sessions))),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(&sessions, steps));
    }
}

const COPIES: [(u64, SyncMode, u32); 2] = [(7, SyncMode::Mirror, 2), (7, SyncMode::Mirror, 2)];

/// Neither takes the other's place by beginning.
#[tokio::test]
async fn two_full_copies_in_turns_both_come_to_their_end() {
    let page = |session, page| Step::Page(session, page);
    play(&COPIES, vec![page(0, 1), page(1, 1), page(0, 2), Step::Work, page(1, 2), Step::Work, page(0, 1), page(0, 2)])
        .await;
}

/// The older one is answered, and left out.
#[tokio::test]
async fn an_older_copy_that_is_whole_after_a_newer_one_changes_nothing() {
    let page = |session, page| Step::Page(session, page);
    play(
        &COPIES,
        vec![page(0, 2), page(1, 2), page(1, 1), page(0, 1), Step::Work, page(0, 1), page(0, 2), Step::Clean],
    )
    .await;
}

#[tokio::test]
async fn a_session_that_failed_is_begun_anew() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let mut run = desk.push(page_of(&COPIES, 0, 1)).await.unwrap();
    run = desk.push(page_of(&COPIES, 0, 2)).await.unwrap_or(run);
    desk.end(&mut run, WriteBatch::new(), Outcome::Failed, None).await.unwrap();
    let again = desk.push(page_of(&COPIES, 0, 1)).await.unwrap();
    assert_ne!(again.id, run.id);
    assert!(matches!(again.stage, Stage::Receiving { .. }), "{again:?}");
}

#[tokio::test]
async fn a_dry_run_takes_nobodys_place() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    desk.push(page_of(&COPIES, 0, 1)).await.unwrap();
    for page in [1, 2] {
        let mut dry = page_of(&COPIES, 1, page);
        dry.order.dry_run = true;
        desk.push(dry).await.unwrap();
    }
    let run = desk.push(page_of(&COPIES, 0, 2)).await.unwrap();
    assert!(matches!(run.stage, Stage::Reading { .. }), "{run:?}");
    // Nor is it the last one, though it was begun later, or the answer to whoever asks for a real one.
    assert_eq!(desk.last_of(&run.order).await.unwrap().map(|last| last.id), Some(run.id.clone()));
    let mut dry = page_of(&COPIES, 1, 1).order;
    dry.dry_run = true;
    assert_ne!(desk.ask(dry).await.unwrap().id, run.id);
}

/// They take room on the disk.
#[tokio::test]
async fn only_so_many_sessions_are_unfinished_at_a_time() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let many: Vec<_> = (0..10).map(|_| (7, SyncMode::Mirror, 2)).collect();
    for session in 0..many.len() {
        desk.push(page_of(&many, session, 1)).await.unwrap();
    }
    let runs = desk.list(None, 100).await.unwrap();
    let replaced = |run: &Run| run.ended().is_some_and(|ended| ended.outcome == Outcome::Replaced);
    assert_eq!(runs.iter().map(replaced).collect::<Vec<_>>(), [[false; 4].as_slice(), &[true; 6]].concat());
}
