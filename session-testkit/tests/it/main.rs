//! All tests that need servers, as one binary; `harness.rs` says how to add to them.

mod backends;
mod check;
mod foreign;
mod gone;
mod harness;
mod proxy;
mod run;
mod skips;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(child) = gone::child() {
        return child;
    }
    harness::main(|registry| {
        registry.theme("backends", backends::tests);
        registry.theme("check", check::tests);
        registry.theme("foreign", foreign::tests);
        registry.theme("gone", gone::tests);
        registry.theme("proxy", proxy::tests);
        registry.theme("run", run::tests);
        registry.theme("skips", skips::tests);
    })
}
