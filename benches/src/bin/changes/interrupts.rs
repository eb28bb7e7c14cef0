//! The end of a run by SIGINT, SIGTERM or SIGHUP.

use std::{future::pending, io, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

/// Runs this to its end, or drops it at the first signal, so that guards stop nodes and servers.
/// After a signal the exit code is 128 plus its number, as in a shell.
pub(crate) async fn unless_interrupted(
    run: impl Future<Output = ExitCode>,
) -> io::Result<ExitCode> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupted = async {
        tokio::select! {
            Some(()) = hangup.recv() => 129,
            Some(()) = interrupt.recv() => 130,
            Some(()) = terminate.recv() => 143,
            else => pending().await,
        }
    };
    Ok(tokio::select! {
        code = run => code,
        code = interrupted => ExitCode::from(code),
    })
}
