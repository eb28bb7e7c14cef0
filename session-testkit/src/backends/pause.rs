//! The guard of a paused server.

use std::sync::Arc;

use super::{
    error::{BackendError, chain},
    server::{Host, Shared},
};
use crate::wait;

/// A guard that keeps a server paused.
///
/// When `drop` returns, the server runs again.
#[derive(Debug)]
#[must_use = "the server resumes as soon as the guard is dropped"]
pub struct PauseGuard {
    paused: Option<Arc<Shared>>,
}

impl PauseGuard {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { paused: Some(shared) }
    }

    /// Resumes the server. Unlike a drop, it returns an error if that fails.
    ///
    /// # Errors
    /// [`BackendError::Docker`] if the engine can't resume it.
    pub async fn resume(mut self) -> Result<(), BackendError> {
        match self.paused.take() {
            Some(shared) => resume(&shared).await,
            None => Ok(()),
        }
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        let Some(shared) = self.paused.take() else {
            return;
        };
        if let Some(Err(error)) = wait::blocking(resume(&shared)) {
            // If the server was killed meanwhile, there is nothing to resume.
            tracing::debug!(error = chain(&error), "could not resume");
        }
    }
}

async fn resume(shared: &Shared) -> Result<(), BackendError> {
    match &shared.host {
        Host::External => Ok(()),
        Host::Docker(container) => container.resume().await,
        Host::Native(process) => {
            process.resume();
            Ok(())
        }
    }
}
