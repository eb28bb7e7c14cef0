//! Nothing is left: not after a panic, not after a SIGKILL of the owner, also where servers stand
//! still at that moment. The owner is this very binary, started once more as a child.

mod owner;

use std::{env, io::Read as _, os::unix::process::ExitStatusExt as _, time::Duration};

use rustix::process::Signal;
use session_testkit::backends::{Backend, Backends};

use self::owner::{Owner, containers, kill, kill_supervisors, seen};
use crate::harness::{Outcome, on_each_backend};

/// In the child's environment: a backend and what to do once its servers run.
const CHILD: &str = "SESSION_TESTKIT_TEST_CHILD";

/// The line that the child prints once its servers run. libtest begins a line before it.
const READY: &str = "\nready";

/// The promise.
const GONE: Duration = Duration::from_secs(2);

/// What this binary does as a child, told by the variable [`CHILD`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other tests run it, in a process of its own"]
async fn child() -> Outcome {
    let task = env::var(CHILD)?;
    let (backend, end) = task.split_once(' ').ok_or("a backend and what to do")?;
    let backends = Backends::builder().backend(backend.parse()?).start().await?;
    let paused = match end {
        "pause" => Some((backends.redis().pause().await?, backends.postgres().pause().await?)),
        _ => None,
    };
    println!("{READY}");
    assert!(end != "panic", "as told");
    match end {
        "drop" => {}
        "drop when told" => drop(std::io::stdin().read_to_end(&mut Vec::new())),
        _ => std::future::pending::<()>().await,
    }
    drop(paused);
    Ok(())
}

on_each_backend!(when_dropped);
async fn when_dropped(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "drop")?;
    owner.ready()?;
    assert!(owner.child.wait()?.success());
    let left = owner.left(&owner.traces().await).await;
    assert_eq!(left, "", "a drop returned too early");
    Ok(())
}

on_each_backend!(after_a_panic_which_prints_the_logs);
async fn after_a_panic_which_prints_the_logs(backend: Backend) -> Outcome {
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

on_each_backend!(after_sigkill);
async fn after_sigkill(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "wait")?;
    owner.ready()?;
    let traces = owner.traces().await;
    seen(&owner, &traces).await;
    owner.child.kill()?;
    owner.leaves_nothing(&traces).await
}

on_each_backend!(after_sigkill_while_paused);
async fn after_sigkill_while_paused(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "pause")?;
    owner.ready()?;
    let traces = owner.traces().await;
    seen(&owner, &traces).await;
    owner.child.kill()?;
    owner.leaves_nothing(&traces).await
}

on_each_backend!(after_sigterm);
async fn after_sigterm(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "wait")?;
    owner.ready()?;
    let traces = owner.traces().await;
    kill(owner.child.id().try_into()?, Signal::TERM);
    assert_eq!(owner.child.wait()?.signal(), Some(15));
    owner.leaves_nothing(&traces).await
}

on_each_backend!(after_sigkill_in_the_middle_of_a_fault_run);
async fn after_sigkill_in_the_middle_of_a_fault_run(backend: Backend) -> Outcome {
    let mut owner = Owner::faults(backend)?;
    let traces = owner.traces().await;
    seen(&owner, &traces).await;
    owner.child.kill()?;
    owner.leaves_nothing(&traces).await
}

on_each_backend!(after_sigterm_in_the_middle_of_a_fault_run);
async fn after_sigterm_in_the_middle_of_a_fault_run(backend: Backend) -> Outcome {
    let mut owner = Owner::faults(backend)?;
    let traces = owner.traces().await;
    seen(&owner, &traces).await;
    kill(owner.child.id().try_into()?, Signal::TERM);
    assert_eq!(owner.child.wait()?.code(), Some(128 + 15));
    owner.leaves_nothing(&traces).await
}

on_each_backend!(when_dropped_though_the_supervisors_are_dead);
async fn when_dropped_though_the_supervisors_are_dead(backend: Backend) -> Outcome {
    let mut owner = Owner::spawn(backend, "drop when told")?;
    owner.ready()?;
    let traces = owner.traces().await;
    seen(&owner, &traces).await;
    kill_supervisors(&traces);
    drop(owner.child.stdin.take());
    assert!(owner.child.wait()?.success());
    assert_eq!(owner.left(&traces).await, "");
    Ok(())
}

on_each_backend!(at_the_next_start_though_all_were_killed);
/// Containers are swept by the next process that starts some. (Native servers whose supervisor was
/// killed together with the owner stay: nobody is left who could tell them from a developer's own.)
async fn at_the_next_start_though_all_were_killed(backend: Backend) -> Outcome {
    if backend == Backend::Native {
        return Ok(());
    }
    let mut owner = Owner::spawn(backend, "wait")?;
    owner.ready()?;
    let traces = owner.traces().await;
    kill_supervisors(&traces);
    owner.child.kill()?;
    owner.child.wait()?;
    // Other tests may be sweeping at the same time, so nothing is said of the meantime.
    let mut next = Owner::spawn(backend, "drop")?;
    next.ready()?;
    assert_eq!(containers(owner.child.id()).await, Vec::<String>::new());
    next.child.wait()?;
    Ok(())
}

on_each_backend!(after_sigkill_while_starting);
/// At several moments of the start: no gap between a server's birth and the supervisor's care.
async fn after_sigkill_while_starting(backend: Backend) -> Outcome {
    let mut killed = Vec::new();
    for step in 0..8_u64 {
        let mut owner = Owner::spawn(backend, "wait")?;
        // Not a wait for something, but the moment itself.
        tokio::time::sleep(Duration::from_millis(40 * step)).await;
        let mut traces = owner.traces().await;
        if backend == Backend::Docker {
            // Only supervisors: one whose container never came keeps looking for some seconds.
            traces.processes.clear();
        }
        owner.child.kill()?;
        owner.child.wait()?;
        killed.push((owner, traces, tokio::time::Instant::now()));
    }
    for (owner, traces, at) in killed {
        // The engine may still be making the container: looked at when the promise falls due, for
        // "nothing there" a moment after the kill says nothing.
        tokio::time::sleep_until(at + GONE).await;
        assert_eq!(owner.left(&traces).await, "");
    }
    Ok(())
}
