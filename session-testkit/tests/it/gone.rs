//! Nothing is left: not after a panic, not after a SIGKILL of the rig, also where servers stand
//! still at that moment. The rig is this very binary, started once more as a child.

mod rig;

use std::{
    env, io::Read as _, os::unix::process::ExitStatusExt as _, process::ExitCode, time::Duration,
};

use rustix::process::Signal;
use session_testkit::backends::{Backend, Backends};

use self::rig::{Rig, containers, kill, kill_supervisors, seen};
use crate::harness::{Outcome, Registry};

/// In the child's environment: a backend and what to do once its servers run.
const CHILD: &str = "SESSION_TESTKIT_TEST_CHILD";

/// The promise.
const GONE: Duration = Duration::from_secs(2);

pub(crate) fn tests(reg: &mut Registry) {
    reg.each_backend("when_dropped", dropped);
    reg.each_backend("after_a_panic_which_prints_the_logs", panicked);
    reg.each_backend("after_sigkill", killed);
    reg.each_backend("after_sigkill_while_paused", killed_while_paused);
    reg.each_backend("after_sigterm", terminated);
    reg.each_backend("after_sigkill_in_the_middle_of_a_fault_run", faults_killed);
    reg.each_backend(
        "after_sigterm_in_the_middle_of_a_fault_run",
        faults_terminated,
    );
    reg.each_backend("after_sigkill_while_starting", killed_while_starting);
    reg.each_backend(
        "when_dropped_though_the_supervisors_are_dead",
        supervisors_dead,
    );
    reg.each_backend("at_the_next_start_though_all_were_killed", swept);
}

/// What this binary does as a child.
pub(crate) fn child() -> Option<ExitCode> {
    let task = env::var(CHILD).ok()?;
    let (backend, end) = task.split_once(' ')?;
    let backend: Backend = backend.parse().ok()?;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let backends = Backends::builder()
            .backend(backend)
            .start()
            .await
            .expect("servers");
        let paused = match end {
            "pause" => Some((
                backends.redis().pause().await.expect("a pause"),
                backends.postgres().pause().await.expect("a pause"),
            )),
            _ => None,
        };
        println!("ready");
        assert!(end != "panic", "as told");
        match end {
            "drop" => {}
            "drop when told" => drop(std::io::stdin().read_to_end(&mut Vec::new())),
            _ => std::future::pending::<()>().await,
        }
        drop(paused);
    });
    Some(ExitCode::SUCCESS)
}

async fn dropped(backend: Backend) -> Outcome {
    let mut rig = Rig::spawn(backend, "drop")?;
    rig.ready()?;
    assert!(rig.child.wait()?.success());
    let left = rig.left(&rig.traces().await).await;
    assert_eq!(left, "", "a drop returned too early");
    Ok(())
}

async fn panicked(backend: Backend) -> Outcome {
    let mut rig = Rig::spawn(backend, "panic")?;
    rig.ready()?;
    let mut text = String::new();
    rig.child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut text)?;
    assert!(!rig.child.wait()?.success());
    assert!(
        text.contains("last lines of Redis") && text.contains("eady to accept connections"),
        "{text}"
    );
    assert!(text.contains("last lines of Postgres"), "{text}");
    assert_eq!(rig.left(&rig.traces().await).await, "");
    Ok(())
}

async fn killed(backend: Backend) -> Outcome {
    let mut rig = Rig::spawn(backend, "wait")?;
    rig.ready()?;
    let traces = rig.traces().await;
    seen(&rig, &traces).await;
    rig.child.kill()?;
    rig.leaves_nothing(&traces).await
}

async fn killed_while_paused(backend: Backend) -> Outcome {
    let mut rig = Rig::spawn(backend, "pause")?;
    rig.ready()?;
    let traces = rig.traces().await;
    seen(&rig, &traces).await;
    rig.child.kill()?;
    rig.leaves_nothing(&traces).await
}

async fn terminated(backend: Backend) -> Outcome {
    let mut rig = Rig::spawn(backend, "wait")?;
    rig.ready()?;
    let traces = rig.traces().await;
    kill(rig.child.id().try_into()?, Signal::TERM);
    assert_eq!(rig.child.wait()?.signal(), Some(15));
    rig.leaves_nothing(&traces).await
}

async fn faults_killed(backend: Backend) -> Outcome {
    let mut rig = Rig::faults(backend)?;
    let traces = rig.traces().await;
    seen(&rig, &traces).await;
    rig.child.kill()?;
    rig.leaves_nothing(&traces).await
}

async fn faults_terminated(backend: Backend) -> Outcome {
    let mut rig = Rig::faults(backend)?;
    let traces = rig.traces().await;
    seen(&rig, &traces).await;
    kill(rig.child.id().try_into()?, Signal::TERM);
    assert_eq!(rig.child.wait()?.code(), Some(128 + 15));
    rig.leaves_nothing(&traces).await
}

async fn supervisors_dead(backend: Backend) -> Outcome {
    let mut rig = Rig::spawn(backend, "drop when told")?;
    rig.ready()?;
    let traces = rig.traces().await;
    seen(&rig, &traces).await;
    kill_supervisors(&traces);
    drop(rig.child.stdin.take());
    assert!(rig.child.wait()?.success());
    assert_eq!(rig.left(&traces).await, "");
    Ok(())
}

/// Containers are swept by the next process that starts some. (Native servers whose supervisor was
/// killed together with the rig stay: nobody is left who could tell them from a developer's own.)
async fn swept(backend: Backend) -> Outcome {
    if backend == Backend::Native {
        return Ok(());
    }
    let mut rig = Rig::spawn(backend, "wait")?;
    rig.ready()?;
    let traces = rig.traces().await;
    kill_supervisors(&traces);
    rig.child.kill()?;
    rig.child.wait()?;
    // Other tests may be sweeping at the same time, so nothing is said of the meantime.
    let mut next = Rig::spawn(backend, "drop")?;
    next.ready()?;
    assert_eq!(containers(rig.child.id()).await, Vec::<String>::new());
    next.child.wait()?;
    Ok(())
}

/// At several moments of the start: no gap between a server's birth and the supervisor's care.
async fn killed_while_starting(backend: Backend) -> Outcome {
    let mut killed = Vec::new();
    for step in 0..8_u64 {
        let mut rig = Rig::spawn(backend, "wait")?;
        // Not a wait for something, but the moment itself.
        tokio::time::sleep(Duration::from_millis(40 * step)).await;
        let mut traces = rig.traces().await;
        if backend == Backend::Docker {
            // Only supervisors: one whose container never came keeps looking for some seconds.
            traces.processes.clear();
        }
        rig.child.kill()?;
        rig.child.wait()?;
        killed.push((rig, traces, tokio::time::Instant::now()));
    }
    for (rig, traces, at) in killed {
        // The engine may still be making the container: looked at when the promise falls due, for
        // "nothing there" a moment after the kill says nothing.
        tokio::time::sleep_until(at + GONE).await;
        assert_eq!(rig.left(&traces).await, "");
    }
    Ok(())
}
