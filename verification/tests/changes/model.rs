//! Random sequences of everything that can be asked, against a model of a few sessions: two nodes
//! on real servers must answer exactly what the model says. A sequence that fails is shrunk and
//! printed.
//!
//! `MODEL_SEED` replays a run (it prints its seed), or is `fresh`; without it the seed is 1.

mod reference;
mod subject;

use std::env;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine as _, StateMachineTest as _};
use session_testkit::backends::Backends;
use tokio::runtime::Handle;

use self::reference::{Reference, Step};
use self::subject::{Rig, Subject};
use crate::harness::{Failure, Outcome, shared};
use crate::mutants::Mistake;
use crate::support::OwnRedis;

/// Sequences, and steps in each at most.
const CASES: u32 = 8;
const STEPS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_answer_as_the_model_says() -> Outcome {
    let backends = shared().await?;
    if let Some(steps) = counterexample(&backends, None).await? {
        panic!("session-layer does not do what the model says:\n{steps:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_unlinks_is_caught() -> Outcome {
    let backends = shared().await?;
    let steps = counterexample(&backends, Some(Mistake::NeverUnlinks)).await?;
    let steps = steps.expect("a node that never unlinks serves what has ended");
    eprintln!("caught by {steps:#?}");
    // A copy has to come about, its session to change, and somebody to look.
    assert!(steps.len() <= 8, "it was not shrunk");
    Ok(())
}

/// The shortest sequence found that goes wrong.
async fn counterexample(
    backends: &Arc<Backends>,
    mistake: Option<Mistake>,
) -> Result<Option<Vec<Step>>, Failure> {
    let seed = seed();
    eprintln!("seed {seed} (MODEL_SEED={seed} replays this run)");
    let rig = Arc::new(Rig {
        redis: OwnRedis::start(backends).await?,
        backends: Arc::clone(backends),
        runtime: Handle::current(),
        mistake,
    });
    // The sequences are run one after the other, on a thread that may block.
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
            reference.rig = Some(Arc::clone(&rig));
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
