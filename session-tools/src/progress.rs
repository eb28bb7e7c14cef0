//! The progress bar on standard error, shown only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar with the current activity. It disappears when dropped.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Creates the bar, and shows it if standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        // The target is hidden if standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {msg}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Shows an activity without progress, before the total is known.
    pub fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// Shows an activity that begins after `done` of `total` parts.
    pub fn at(&self, what: &str, done: u32, total: u32) {
        if self.0.length().is_none() {
            self.0.set_style(style("{spinner} [{bar:24}] {pos}/{len} {msg} ({elapsed})"));
        }
        self.0.set_length(total.into());
        self.0.set_position(done.into());
        self.say(what);
    }

    /// Prints above the bar.
    pub fn above(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.0.finish_and_clear();
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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
