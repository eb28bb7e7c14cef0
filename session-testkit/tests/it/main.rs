//! All tests that need servers, as one binary; `harness.rs` says how to add to them.

mod adapter_mutants;
mod backends;
mod bench;
mod bounds;
mod breaker;
mod changes;
mod check;
mod command;
mod conformance;
mod cookies;
mod crash;
mod deployment;
mod embedded;
mod examples;
mod fault_runs;
mod faults;
mod foreign;
mod forgetful;
mod gone;
mod harness;
mod http;
mod hyper_example;
mod incarnation;
mod journal;
mod load;
mod logged;
mod logins;
mod model;
mod observe;
mod outages;
mod proxy;
mod quickstart;
mod readme;
mod refusals;
mod rls;
mod run;
mod sealed;
mod served;
mod skips;
mod stale_fill;
mod support;
mod validate;
mod verify;

#[path = "../mutants/mod.rs"]
mod mutants;

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
        registry.theme("faults", faults::tests);
        registry.theme("deployment", deployment::tests);
        registry.theme("observe", observe::tests);
        registry.theme("fault_runs", fault_runs::tests);
        registry.theme("validate", validate::tests);
        registry.theme("changes", changes::tests);
        registry.theme("cookies", cookies::tests);
        registry.theme("crash", crash::tests);
        registry.theme("stale_fill", stale_fill::tests);
        registry.theme("adapter_mutants", adapter_mutants::tests);
        registry.theme("model", model::tests);
        registry.theme("outages", outages::tests);
        registry.theme("breaker", breaker::tests);
        registry.theme("logged", logged::tests);
        registry.theme("load", load::tests);
        registry.theme("incarnation", incarnation::tests);
        registry.theme("sealed", sealed::tests);
        registry.theme("served", served::tests);
        registry.theme("refusals", refusals::tests);
        registry.theme("journal", journal::tests);
        registry.theme("bounds", bounds::tests);
        registry.theme("logins", logins::tests);
        registry.theme("rls", rls::tests);
        registry.theme("embedded", embedded::tests);
        registry.theme("conformance", conformance::tests);
        registry.theme("run", run::tests);
        registry.theme("readme", readme::tests);
        registry.theme("bench", bench::tests);
        registry.theme("verify", verify::tests);
        registry.theme("skips", skips::tests);
        registry.theme("quickstart", quickstart::tests);
        registry.theme("hyper_example", hyper_example::tests);
    })
}
