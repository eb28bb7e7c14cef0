//! What is different between Redis and Postgres; everything else is written once, for both.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
};

use super::{
    error::Cause,
    native::{Folder, Program},
};

/// A kind of server: [`Redis`](super::Redis) or [`Postgres`](super::Postgres).
pub trait Kind: Recipe {}
impl<K: Recipe> Kind for K {}

/// How a kind of server is found, started and asked whether it is ready.
///
/// Public only in name (its module is not), so that no other crate can add a kind.
pub trait Recipe: fmt::Debug + Send + Sync + Sized + 'static {
    /// As people call it.
    const NAME: &'static str;
    /// What its URLs begin with.
    const SCHEMES: &'static [&'static str];
    /// A URL of one.
    const EXAMPLE: &'static str;
    /// The environment variable with the URL of a given server.
    const URL_VARIABLE: &'static str;
    /// The command that helps where no server is to be had.
    const HELP: &'static str;
    /// Which images to look for.
    const IMAGES: Images;
    /// The port inside a container.
    const PORT: u16;
    /// The signal that ends it in good order without waiting for its clients.
    const STOP: Stop;
    /// What is set in a container's environment.
    const ENVIRONMENT: &'static [(&'static str, &'static str)];
    /// Accounts to run it under when we are root, best first.
    const ACCOUNTS: &'static [&'static str];

    /// The URL of a server that we started.
    fn url(address: &str) -> String;
    /// Whether it answers (PING, SELECT 1).
    fn ping(url: &str) -> impl Future<Output = Result<(), Cause>> + Send;
    /// Finds the program, or says why there is none.
    fn find() -> Result<Program, String>;
    /// What has to run once before the server can (initdb): program and arguments.
    fn prepare(program: &Program, data: &Path) -> Option<(PathBuf, Vec<String>)>;
    /// The arguments of a native server.
    fn arguments(folder: &Folder, port: u16, extra: &[String]) -> Vec<String>;
    /// The command of a container.
    fn command(extra: &[String]) -> Vec<String>;
}

/// The images of a kind, in the order in which they are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    /// The repository of those that `images/build.sh` makes; its highest tag is taken.
    pub local: &'static str,
    /// Official ones: the first that is there, else the first that can be pulled.
    pub official: &'static [&'static str],
}

/// A signal to end a server with.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGINT: Postgres' "fast" shutdown (SIGTERM waits for every client to leave).
    Interrupt,
    /// SIGQUIT: Postgres' "immediate" shutdown, which flushes nothing.
    Quit,
}
