//! The progress on standard error: a bar on a terminal, otherwise a line from time to time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// How often a line appears where there is no terminal, such as in a log.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// A progress bar with the current activity. It disappears when dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    /// For how many times [`BETWEEN_LINES`] a line was printed.
    printed: AtomicU64,
}

impl Bar {
    /// Creates the bar. If standard error is no terminal, a line every 10 s takes its place.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {msg}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, printed: AtomicU64::new(0) }
    }

    /// Shows an activity without progress, before the total is known.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Shows an activity that begins after `done` of `total` parts.
    pub fn at(&self, what: &str, done: u32, total: u32) {
        if self.bar.is_hidden() {
            if is_due(self.bar.elapsed(), &self.printed) {
                output::complain(format_args!("{what}: {done} of {total}"));
            }
            return;
        }
        if self.bar.length().is_none() {
            self.bar.set_style(style("{spinner} [{bar:24}] {pos}/{len} {msg} ({elapsed})"));
        }
        self.bar.set_length(total.into());
        self.bar.set_position(done.into());
        self.say(what);
    }

    /// Prints above the bar.
    pub fn above(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Returns whether a line is due after this time, at most once per [`BETWEEN_LINES`].
fn is_due(elapsed: Duration, printed: &AtomicU64) -> bool {
    let due = elapsed.as_secs() / BETWEEN_LINES.as_secs();
    printed.fetch_max(due, Ordering::Relaxed) < due
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_due_once_every_ten_seconds() {
        let printed = AtomicU64::new(0);
        let due: Vec<u64> = (0..60)
            .flat_map(|second| [second, second])
            .filter(|second| *second < 25 || *second > 44)
            .filter(|second| is_due(Duration::from_secs(*second), &printed))
            .collect();
        assert_eq!(due, [10, 20, 45, 50]);
    }
}
