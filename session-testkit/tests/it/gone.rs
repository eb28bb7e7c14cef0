//! Nothing is left: not after a panic, not after a SIGKILL of the rig, also where servers stand
//! still at that moment. The rig is this very binary, started once more as a child.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use session_testkit::{
    backends::{Backend, Backends},
    wait,
};
use testcontainers::{
    bollard::query_parameters::ListContainersOptionsBuilder, core::client::docker_client_instance,
};

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

/// A rig in a process of its own, whose folders are in one of ours.
struct Rig {
    child: Child,
    folder: tempfile::TempDir,
    backend: Backend,
}

impl Rig {
    /// Starts it; it starts its servers meanwhile.
    fn spawn(backend: Backend, end: &str) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        // The servers run under another account when we are root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let child = Command::new(env::current_exe()?)
            .env(CHILD, format!("{backend} {end}"))
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            child,
            folder,
            backend,
        })
    }

    /// The command `session-testkit faults`, in the place of a child of ours; answers when its load has begun.
    fn faults(backend: Backend) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_session-testkit"))
            .args(["faults", "--rate", "20", "--secs", "60"])
            // Redis stands still when the rig is killed.
            .args(["--fault", "redis-pause@0+50"])
            .env("SESSION_TESTKIT_BACKEND", backend.to_string())
            .env_remove("SESSION_TESTKIT_REDIS_URL")
            .env_remove("SESSION_TESTKIT_DATABASE_URL")
            .env("RUST_LOG", "session_testkit=info")
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut text = String::new();
        while !text.contains("workload begins") {
            assert_ne!(errors.read_line(&mut text)?, 0, "{text}");
        }
        // Else it would end by writing to a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Ok(Self {
            child,
            folder,
            backend,
        })
    }

    /// Waits until its servers run.
    fn ready(&mut self) -> std::io::Result<()> {
        let mut line = String::new();
        let out = self.child.stdout.as_mut().expect("a pipe");
        BufReader::new(out).read_line(&mut line)?;
        assert_eq!(line, "ready\n", "the child did not start its servers");
        Ok(())
    }

    /// All that it has started, by what can be seen from outside.
    async fn traces(&self) -> Traces {
        Traces {
            processes: descendants(self.child.id()),
            segments: segments(self.folder.path()),
        }
    }

    /// Waits until nothing is left of it; the clock runs from now.
    async fn leaves_nothing(&self, traces: &Traces) -> Outcome {
        let begin = Instant::now();
        let mut left = String::new();
        let gone = wait::until("everything to be gone", GONE, async || {
            left = self.left(traces).await;
            left.is_empty()
        });
        let gone = gone.await;
        assert!(gone.is_ok(), "left after {GONE:?}: {left}");
        eprintln!("{}: all gone after {:?}", self.backend, begin.elapsed());
        Ok(())
    }

    async fn left(&self, traces: &Traces) -> String {
        let mut left = Vec::new();
        for (pid, name) in &traces.processes {
            if alive(*pid) {
                left.push(format!("process {pid} ({name})"));
            }
        }
        for entry in fs::read_dir(self.folder.path()).expect("the folder") {
            left.push(format!(
                "folder {}",
                entry.expect("an entry").path().display()
            ));
        }
        let shared = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        for line in shared.lines() {
            let id = line.split_whitespace().nth(1).unwrap_or_default();
            if traces.segments.iter().any(|segment| segment == id) {
                left.push(format!("shared memory {id}"));
            }
        }
        if self.backend == Backend::Docker {
            left.extend(containers(self.child.id()).await);
        }
        left.join(", ")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _over = self.child.kill();
        let _reaped = self.child.wait();
    }
}

struct Traces {
    processes: HashMap<i32, String>,
    segments: Vec<String>,
}

/// The ids of the System V segments that Postgres notes in the seventh line of its pid file.
fn segments(folder: &Path) -> Vec<String> {
    let servers = fs::read_dir(folder)
        .expect("the folder")
        .filter_map(Result::ok);
    let pid_files = servers
        .filter_map(|entry| fs::read_to_string(entry.path().join("data/postmaster.pid")).ok());
    pid_files
        .filter_map(|text| Some(text.lines().nth(6)?.split_whitespace().nth(1)?.to_owned()))
        .collect()
}

/// PID to (parent, name).
fn processes() -> HashMap<i32, (i32, String)> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            // "PID (NAME) STATE PARENT …"; one that waits to be reaped is gone for us.
            let (head, rest) = stat.rsplit_once(") ")?;
            let (pid, name) = head.split_once(" (")?;
            let mut rest = rest.split(' ');
            let state = rest.next()?;
            let parent = rest.next()?.parse().ok()?;
            (state != "Z").then_some(())?;
            Some((pid.parse().ok()?, (parent, name.to_owned())))
        })
        .collect()
}

fn alive(pid: i32) -> bool {
    processes().contains_key(&pid)
}

fn descendants(of: u32) -> HashMap<i32, String> {
    let all = processes();
    let of = i32::try_from(of).expect("a pid");
    let descends = |mut pid: i32| {
        while let Some((parent, _)) = all.get(&pid) {
            if *parent == of {
                return true;
            }
            pid = *parent;
        }
        false
    };
    let found = all.iter().filter(|(pid, _)| descends(**pid));
    found.map(|(pid, (_, name))| (*pid, name.clone())).collect()
}

async fn containers(owner: u32) -> Vec<String> {
    let engine = docker_client_instance().await.expect("the engine");
    let filters = HashMap::from([("label", vec![format!("session-testkit.owner={owner}")])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let found = engine.list_containers(Some(options)).await.expect("a list");
    found
        .into_iter()
        .map(|one| format!("container {:?}", one.names))
        .collect()
}

/// The servers were seen, so that their absence means something.
async fn seen(rig: &Rig, traces: &Traces) {
    match rig.backend {
        Backend::Native => {
            let has = |name: &str| traces.processes.values().any(|it| it.starts_with(name));
            assert!(
                has("redis-server") || has("valkey-server"),
                "{:?}",
                traces.processes
            );
            assert!(has("postgres"), "{:?}", traces.processes);
            assert_eq!(traces.segments.len(), 1);
        }
        Backend::Docker => assert_eq!(containers(rig.child.id()).await.len(), 2),
    }
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

fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, signal).expect("a living process");
}

/// The rig's shells; its servers have become something else.
fn kill_supervisors(traces: &Traces) {
    let shells = traces.processes.iter().filter(|(_, name)| *name == "sh");
    let killed = shells.map(|(pid, _)| kill(*pid, Signal::KILL)).count();
    assert_eq!(killed, 2);
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
