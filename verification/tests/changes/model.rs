//! Random sequences of all operations, beside a model of a few sessions. Two nodes on real servers
//! must return exactly what the model returns. A sequence that fails is shrunk and printed.
//!
//! `MODEL_SEED` replays a run, which prints its seed, or is `fresh`. Defaults to 1.

mod reference;
mod subject;

use std::env;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine as _, StateMachineTest as _};
use tokio::runtime::Handle;

use self::reference::{Reference, Step};
use self::subject::{Harness, Subject};
use crate::harness::{Failure, Outcome};
use crate::mutants::Mistake;
use crate::support::Servers;

/// The number of sequences, and the maximum number of steps in each.
const CASES: u32 = 8;
const STEPS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_agree_with_the_model() -> Outcome {
    if let Some(steps) = counterexample(None).await? {
        panic!("session-layer differs from the model:\n{steps:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_never_unlinks_is_caught() -> Outcome {
    let steps = counterexample(Some(Mistake::NeverUnlinks)).await?;
    let steps = steps.expect("a node that never unlinks serves ended sessions");
    eprintln!("caught by {steps:#?}");
    // It needs an entry, a change of its session, and a validation.
    assert!(steps.len() <= 8, "it was not shrunk");
    Ok(())
}

/// Returns the shortest sequence found that differs.
async fn counterexample(mistake: Option<Mistake>) -> Result<Option<Vec<Step>>, Failure> {
    let seed = seed();
    eprintln!("seed {seed} (MODEL_SEED={seed} replays this run)");
    let harness = Arc::new(Harness {
        servers: Servers::own_redis().await?,
        runtime: Handle::current(),
        mistake,
    });
    // The sequences run one after the other on a thread that may block.
    let found = tokio::task::spawn_blocking(move || {
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            max_shrink_iters: 60,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &spread(seed));
        let mut runner = TestRunner::new_with_rng(config.clone(), rng);
        let sequences = Reference::sequential_strategy(1..STEPS);
        let run = runner.run(&sequences, |(mut reference, steps, seen)| {
            reference.harness = Some(Arc::clone(&harness));
            Subject::test_sequential(config.clone(), reference, steps, seen);
            Ok(())
        });
        match run {
            Ok(()) => None,
            Err(TestError::Fail(why, (_, steps, _))) => {
                eprintln!("{why}");
                Some(steps)
            }
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
    });
    Ok(found.await?)
}

fn seed() -> u64 {
    match env::var("MODEL_SEED").as_deref() {
        Ok("fresh") => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()))
        }
        Ok(number) => number.parse().expect("MODEL_SEED is a number, or `fresh`"),
        Err(_) => 1,
    }
}

fn spread(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes
}
