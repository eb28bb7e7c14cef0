//! The command line. It has no settings, because they are environment variables.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

const USAGE: &str = "\
An axum app whose routes are guarded by session-layer.

Usage: quickstart

It serves on ADDR:
  GET    /                    a page: log in, who am I, my sessions, health
  POST   /login               user=NAME, as a form or JSON
  GET    /me, /sessions       for a valid session
  DELETE /sessions/ID         ends one of the user's sessions
  POST   /logout, /logout-everywhere
  GET    /api/health/redis, /livez, /readyz
and on ADMIN_ADDR, which must not be public:
  GET    /mode, /metrics
  PUT    /mode                {\"mode\":\"bypass\"} switches the cache off, {\"mode\":\"on\"} on

Environment variables. An empty one counts as not set.
  ADDR              the address of the app [default: 127.0.0.1:3000]
  ADMIN_ADDR        the address for administrators [default: 127.0.0.1:3001]
  SECURE_COOKIES    true: cookies for HTTPS only, named __Host-session [default: false]
  DATABASE_URL      postgres://… or sqlite:PATH [default: sqlite:session-layer.db]
  REDIS_URL         redis://… or rediss://…, with postgres:// [default: a cache in this process]
  SESSION_…, DATABASE_…, REDIS_…     docs/configuration.md has them all
  OTEL_EXPORTER_OTLP_ENDPOINT        exports traces, see docs/tracing.md
  RUST_LOG                           the log's filter, such as session_layer=debug

Examples:
  quickstart
  ADDR=0.0.0.0:8080 DATABASE_URL=postgres://app@db/app REDIS_URL=redis://cache quickstart
";

/// Returns the exit code of a process that must not start: for `--help` 0, and for any other
/// argument 2.
pub(crate) fn only_usage(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let argument = arguments.next()?;
    // A closed output is no reason to fail.
    if argument == "--help" || argument == "-h" {
        let _ = std::io::stdout().write_all(USAGE.as_bytes());
        return Some(ExitCode::SUCCESS);
    }
    let _ = writeln!(
        std::io::stderr(),
        "quickstart: unknown argument {argument:?}. Its settings are environment variables, which \
         quickstart --help lists"
    );
    Some(ExitCode::from(2))
}
