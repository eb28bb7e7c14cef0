//! Servers leave nothing: after a drop, a panic, or a SIGKILL of their owner, also while they are
//! paused. The owner is this binary, started as a child.

mod owner;

use std::{env, io::Read as _, os::unix::process::ExitStatusExt as _, time::Duration};

use rustix::process::Signal;
use session_testkit::backends::{Backend, Backends};

use self::owner::{Owner, containers, kill, kill_supervisors, seen};
use crate::harness::{Outcome, on_each_backend};

/// The variable with the child's task: a backend, and the action once its servers run.
const CHILD: &str = "SESSION_TESTKIT_TEST_CHILD";

/// The line that the child prints once its servers run. libtest has begun a line before.
const READY: &str = "\nready";

/// How long the engine may take to create a container whose owner was killed meanwhile.
const CREATED: Duration = Duration::from_secs(2);

/// Performs the task in the variable [`CHILD`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other tests run it as a child"]
async fn child() -> Outcome {
    let task = env::var(CHILD)?;
    let (backend, end) = task.split_once(' ').ok_or("a backend and an action")?;
    let backends = Backends::builder().backend(backend.parse()?).start().await?;
    let paused = match end {
        "pause" => Some((backends.redis().pause().await?, backends.postgres().pause().await?)),
        _ => None,
    };
    println!("{READY}");
    assert!(end != "panic", "injected panic");
    match end {
        "drop" => {}
        "drop at end of input" => drop(std::io::stdin().read_to_end(&mut Vec::new())),
        _ => std::future::pending::<()>().await,
    }
    drop(paused);
    Ok(())
}

on_each_backend!(dropped_servers_leave_nothing);
async fn dropped_servers_leave_nothing(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "drop")?;
    owner.ready()?;
    assert!(owner.child.wait()?.success());
    let left = owner.left(&owner.traces().await).await;
    assert_eq!(left, "", "a drop returned before the end");
    Ok(())
}

on_each_backend!(panic_prints_the_logs_and_leaves_nothing);
async fn panic_prints_the_logs_and_leaves_nothing(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "panic")?;
    owner.ready()?;
    let mut text = String::new();
    owner.child.stderr.take().expect("a pipe").read_to_string(&mut text)?;
    assert!(!owner.child.wait()?.success());
    assert!(
        text.contains("last lines of Redis") && text.contains("eady to accept connections"),
        "{text}"
    );
    assert!(text.contains("last lines of Postgres"), "{text}");
    assert_eq!(owner.left(&owner.traces().await).await, "");
    Ok(())
}

on_each_backend!(sigkill_leaves_nothing);
async fn sigkill_leaves_nothing(backend: Backend) -> Outcome {
    for task in ["wait", "pause"] {
        let mut owner = Owner::spawn(backend, task)?;
        owner.ready()?;
        let traces = owner.traces().await;
        seen(&owner, &traces).await;
        owner.child.kill()?;
        owner.leaves_nothing(&traces).await?;
    }
    Ok(())
}

on_each_backend!(sigterm_leaves_nothing);
async fn sigterm_leaves_nothing(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "wait")?;
    owner.ready()?;
    let traces = owner.traces().await;
    kill(owner.child.id().try_into()?, Signal::TERM);
    assert_eq!(owner.child.wait()?.signal(), Some(15));
    owner.leaves_nothing(&traces).await
}

on_each_backend!(signal_during_a_fault_run_leaves_nothing);
async fn signal_during_a_fault_run_leaves_nothing(backend: Backend) -> Outcome {
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(128 + 15))] {
        let mut owner = Owner::faults(backend)?;
        let traces = owner.traces().await;
        seen(&owner, &traces).await;
        kill(owner.child.id().try_into()?, signal);
        assert_eq!(owner.child.wait()?.code(), code);
        owner.leaves_nothing(&traces).await?;
    }
    Ok(())
}

on_each_backend!(dropped_servers_without_supervisors_leave_nothing);
async fn dropped_servers_without_supervisors_leave_nothing(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "drop at end of input")?;
    owner.ready()?;
    let traces = owner.traces().await;
    seen(&owner, &traces).await;
    kill_supervisors(&traces);
    drop(owner.child.stdin.take());
    assert!(owner.child.wait()?.success());
    assert_eq!(owner.left(&traces).await, "");
    Ok(())
}

on_each_backend!(next_start_removes_abandoned_containers);
/// Kills the owner with its supervisors. The next process that starts containers removes theirs.
/// Native servers remain, because they cannot be distinguished from a developer's.
async fn next_start_removes_abandoned_containers(backend: Backend) -> Outcome {
    if backend == Backend::Native {
        return Ok(());
    }
    let mut owner = Owner::spawn(backend, "wait")?;
    owner.ready()?;
    let traces = owner.traces().await;
    kill_supervisors(&traces);
    owner.child.kill()?;
    owner.child.wait()?;
    // Other tests may remove them before.
    let mut next = Owner::spawn(backend, "drop")?;
    next.ready()?;
    assert_eq!(containers(owner.child.id()).await, Vec::<String>::new());
    next.child.wait()?;
    Ok(())
}

on_each_backend!(sigkill_during_the_start_leaves_nothing);
/// Kills the owner at several moments of the start, because a supervisor must not miss a server.
async fn sigkill_during_the_start_leaves_nothing(backend: Backend) -> Outcome {
    let mut killed = Vec::new();
    for step in 0..8_u64 {
        let mut owner = Owner::spawn(backend, "wait")?;
        // The moment of the kill.
        tokio::time::sleep(Duration::from_millis(40 * step)).await;
        let mut traces = owner.traces().await;
        if backend == Backend::Docker {
            // A supervisor without a container searches for it for some seconds.
            traces.processes.clear();
        }
        owner.child.kill()?;
        owner.child.wait()?;
        killed.push((owner, traces, tokio::time::Instant::now()));
    }
    for (owner, traces, at) in killed {
        // The engine may still create a container after the kill.
        tokio::time::sleep_until(at + CREATED).await;
        owner.leaves_nothing(&traces).await?;
    }
    Ok(())
}
