//! What is logged, kept to be searched.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// More than this is not kept.
const MOST: usize = 64 * 1024 * 1024;

/// Keeps what is logged, as the writer of a `tracing-subscriber` layer. Cheap to clone; all clones are one.
///
/// ```
/// use session_testkit::observe::Logs;
/// use tracing_subscriber::{Layer as _, filter::LevelFilter, fmt, layer::SubscriberExt as _};
///
/// let logs = Logs::default();
/// let layer = fmt::layer().with_ansi(false).with_writer(logs.clone()).with_filter(LevelFilter::TRACE);
/// tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
///     tracing::info!(user = "ann", "logged in");
/// });
/// assert!(String::from_utf8(logs.text())?.contains("logged in user=\"ann\""));
/// # Ok::<_, std::string::FromUtf8Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// What was logged so far; of more than 64 MiB the first.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets it.
    pub fn clear(&self) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.clear();
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() < MOST {
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
