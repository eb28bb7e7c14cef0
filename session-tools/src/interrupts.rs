//! The reaction of a command to SIGINT, SIGTERM and SIGHUP.

use std::{future::pending, process::ExitCode};

use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::Ended;

/// Runs a command until it ends or a signal arrives.
///
/// A signal drops the command, and its guards stop what it started. The exit code is then 128 plus
/// the signal's number, as in a shell.
///
/// # Errors
/// Those of the command.
pub async fn unless_interrupted(command: impl Future<Output = Ended>) -> Ended {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        ended = command => ended,
        number = interrupts.next() => Ok(ExitCode::from(u8::try_from(128 + number).unwrap_or(1))),
    }
}

/// The signals that request the end of the process.
#[derive(Debug)]
pub struct Interrupts {
    hangup: Signals,
    interrupt: Signals,
    terminate: Signals,
}

impl Interrupts {
    /// Starts to listen. From then on, these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Returns the number of the next signal.
    pub async fn next(&mut self) -> i32 {
        tokio::select! {
            Some(()) = self.hangup.recv() => 1,
            Some(()) = self.interrupt.recv() => 2,
            Some(()) = self.terminate.recv() => 15,
            else => pending().await,
        }
    }
}
