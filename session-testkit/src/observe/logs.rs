//! A buffer for log lines, which can be searched.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The log lines of a `tracing-subscriber` layer, which writes to it. All clones share one buffer.
///
/// ```
/// use session_testkit::observe::Logs;
/// use tracing_subscriber::{Layer as _, filter::LevelFilter, fmt, layer::SubscriberExt as _};
///
/// let logs = Logs::default();
/// let layer = fmt::layer().with_ansi(false).with_writer(logs.clone());
/// let layer = layer.with_filter(LevelFilter::TRACE);
/// tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
///     tracing::info!(user = "ann", "logged in");
/// });
/// assert!(String::from_utf8(logs.text())?.contains("logged in user=\"ann\""));
/// # Ok::<_, std::string::FromUtf8Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Returns the lines so far, the first 64 MiB at most.
    pub fn text(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deletes all lines.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() < MAX_BYTES {
            text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
