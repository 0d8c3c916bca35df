//! Plays random histories: every one of them ends in a check of its own, by panic.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Plays `cases` of `histories`, or `LEGS_CASES` of them. The same ones every time, so that a failure is the change's; new
/// ones where a number is asked for.
pub fn play_all<S: Strategy>(cases: u32, histories: S, run: impl AsyncFn(S::Value)) {
    let more = std::env::var("LEGS_CASES").ok().and_then(|cases| cases.parse().ok());
    // Shrinking a history that takes seconds to play would take hours; the steps are printed whole.
    let config =
        Config { cases: more.unwrap_or(cases), max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = match more {
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        Some(_) => TestRunner::new(config),
    };
    let played = runner.run(&histories, |history| {
        runtime.block_on(run(history));
        Ok(())
    });
    if let Err(error) = played {
        panic!("{error}");
    }
}
