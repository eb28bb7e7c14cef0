//! SIGINT, SIGTERM and SIGHUP: what a command does before it ends.

use std::{future::pending, process::ExitCode};

use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// Runs a command to its end, or drops it at the first signal: what it started is stopped by its guards.
/// The exit code is then 128 and the signal's number, as a shell has it.
pub(super) async fn unless_interrupted(command: impl Future<Output = ExitCode>) -> ExitCode {
    let mut interrupts = match Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(error) => return super::could_not_run(&error),
    };
    tokio::select! {
        code = command => code,
        number = interrupts.next() => ExitCode::from(u8::try_from(128 + number).unwrap_or(1)),
    }
}

/// The signals that ask us to end.
pub(super) struct Interrupts {
    hangup: Signals,
    interrupt: Signals,
    terminate: Signals,
}

impl Interrupts {
    /// From now on these signals end nothing by themselves.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the next one.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            Some(()) = self.hangup.recv() => 1,
            Some(()) = self.interrupt.recv() => 2,
            Some(()) = self.terminate.recv() => 15,
            else => pending().await,
        }
    }
}
