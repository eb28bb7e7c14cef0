//! All tests that need servers, as one binary; `harness.rs` says how to add to them.

mod backends;
mod harness;
mod http;
mod proxy;
mod quickstart;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main(|registry| {
        registry.theme("backends", backends::tests);
        registry.theme("proxy", proxy::tests);
        registry.theme("quickstart", quickstart::tests);
    })
}
