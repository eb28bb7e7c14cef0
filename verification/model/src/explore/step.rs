//! What may happen next in a state.

use std::fmt;

/// One thing that may happen.
pub(crate) struct Step<S> {
    pub(crate) to: S,
    pub(crate) label: Label,
    /// The promises that it breaks.
    pub(crate) broken: u32,
    /// The marks that it reaches. A run in which nothing interesting happens proves nothing.
    pub(crate) reached: u32,
    /// It is a fault of the environment. A state must heal without one.
    pub(crate) fault: bool,
}

impl<S> Step<S> {
    pub(crate) fn fault(&mut self) -> &mut Self {
        self.fault = true;
        self
    }

    pub(crate) fn breaks(&mut self, promises: u32) -> &mut Self {
        self.broken |= promises;
        self
    }

    pub(crate) fn reaches(&mut self, marks: u32) -> &mut Self {
        self.reached |= marks;
        self
    }
}

/// Everything that may happen next.
pub(crate) struct Steps<S>(Vec<Step<S>>);

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Self(Vec::with_capacity(64))
    }
}

impl<S> Steps<S> {
    /// Adds a step.
    pub(crate) fn go(&mut self, to: S, label: impl Into<Label>) -> &mut Step<S> {
        self.0.push(Step { to, label: label.into(), broken: 0, reached: 0, fault: false });
        self.0.last_mut().expect("just pushed")
    }

    pub(crate) fn cleared(&mut self) -> &mut Self {
        self.0.clear();
        self
    }

    pub(crate) fn all(&self) -> &[Step<S>] {
        assert!(self.0.len() <= 256, "the rank of a step is a byte");
        &self.0
    }

    pub(crate) fn all_mut(&mut self) -> &mut [Step<S>] {
        &mut self.0
    }
}

/// A line of a trace. `{n}` in its text stands for the number, and `{s}` for the letter.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    text: &'static str,
    number: u8,
    letter: char,
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self { text, number: 0, letter: '?' }
    }
}

impl From<(&'static str, u8)> for Label {
    fn from((text, number): (&'static str, u8)) -> Self {
        Self { text, number, letter: '?' }
    }
}

impl From<(&'static str, char)> for Label {
    fn from((text, letter): (&'static str, char)) -> Self {
        Self { text, number: 0, letter }
    }
}

impl From<(&'static str, u8, char)> for Label {
    fn from((text, number, letter): (&'static str, u8, char)) -> Self {
        Self { text, number, letter }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.replace("{n}", &self.number.to_string());
        f.write_str(&text.replace("{s}", &self.letter.to_string()))
    }
}
