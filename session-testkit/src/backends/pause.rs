//! The guard of a server that stands still.

use std::sync::Arc;

use super::{
    error::{BackendError, chain},
    server::{Host, Shared},
};
use crate::wait;

/// A server stands still until this guard is dropped.
///
/// Dropping it heals at once: when `drop` returns, the server goes on.
#[derive(Debug)]
#[must_use = "the server goes on as soon as the guard is dropped"]
pub struct PauseGuard {
    paused: Option<Arc<Shared>>,
}

impl PauseGuard {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            paused: Some(shared),
        }
    }

    /// Lets the server go on; unlike a drop, says so if that fails.
    ///
    /// # Errors
    ///
    /// [`BackendError::Docker`] if the engine refuses.
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
            // It may have been killed meanwhile: then there is nothing to resume.
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
