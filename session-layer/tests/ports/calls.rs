//! The calls of a port, and the one that breaks its contract.

use std::sync::Mutex;

/// The way in which a call breaks its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Hangs,
    Panics,
}

/// The calls so far, and the call that is broken for a number of times.
#[derive(Default)]
pub(crate) struct Calls {
    made: Mutex<Vec<&'static str>>,
    broken: Mutex<Option<(&'static str, How, usize)>>,
}

impl Calls {
    pub(crate) fn made(&self) -> Vec<&'static str> {
        self.made.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.made.lock().unwrap().iter().filter(|made| **made == call).count()
    }

    pub(crate) fn break_next(&self, call: &'static str, how: How, times: usize) {
        *self.broken.lock().unwrap() = Some((call, how, times));
    }

    pub(crate) fn repair(&self) {
        *self.broken.lock().unwrap() = None;
    }

    pub(crate) fn record(&self, call: &'static str) {
        self.made.lock().unwrap().push(call);
    }

    /// Records the call. It hangs or panics if it is the broken one.
    pub(crate) async fn begin(&self, call: &'static str) {
        self.record(call);
        let broken = match &mut *self.broken.lock().unwrap() {
            Some((broken, how, times)) if *broken == call && *times > 0 => {
                *times -= 1;
                Some(*how)
            }
            _ => None,
        };
        match broken {
            Some(How::Hangs) => std::future::pending().await,
            Some(How::Panics) => panic!("the test makes {call} panic"),
            None => {}
        }
    }
}
