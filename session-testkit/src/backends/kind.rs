//! The differences between Redis and Postgres. All other code is shared.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
};

use session_layer::server_url::{ServerKind, ServerUrl};

use super::{
    error::Cause,
    native::{Folder, Program},
};

/// A kind of server: [`Redis`](super::Redis) or [`Postgres`](super::Postgres).
pub trait Kind: Recipe {}
impl<K: Recipe> Kind for K {}

/// The ways to find, start and ping a kind of server.
///
/// Its module is private, therefore no other crate can add a kind.
pub trait Recipe: fmt::Debug + Send + Sync + Sized + 'static {
    /// The usual name.
    const NAME: &'static str;
    /// The kind of server that its URLs name.
    const KIND: ServerKind;
    /// An example of a URL.
    const EXAMPLE: &'static str;
    /// The environment variable with the URL of a given server.
    const URL_VARIABLE: &'static str;
    /// The command that helps if no server is available.
    const HELP: &'static str;
    /// The images to look for.
    const IMAGES: Images;
    /// The port inside a container.
    const PORT: u16;
    /// The signal that stops it properly without waiting for its clients.
    const STOP: Stop;
    /// The variables in a container's environment.
    const ENVIRONMENT: &'static [(&'static str, &'static str)];
    /// The accounts for native servers if we are root, in order of preference.
    const ACCOUNTS: &'static [&'static str];

    /// Returns the URL of a started server.
    fn url(address: &str) -> String;
    /// Checks that the server responds (PING, SELECT 1).
    fn ping(url: &ServerUrl) -> impl Future<Output = Result<(), Cause>> + Send;
    /// Finds the program. The error is the reason why there is none.
    fn find() -> Result<Program, String>;
    /// Returns the program and the arguments that must run once before the server (initdb).
    fn prepare(program: &Program, data: &Path) -> Option<(PathBuf, Vec<String>)>;
    /// Returns the arguments of a native server.
    fn arguments(folder: &Folder, port: u16, extra: &[String]) -> Vec<String>;
    /// Returns the command of a container.
    fn command(extra: &[String]) -> Vec<String>;
}

/// The images of a kind, in order of preference.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    /// The repository of images that `images/build.sh` builds. The highest tag is used.
    pub local: &'static str,
    /// Official images. The first present one is used, else the first that can be pulled.
    pub official: &'static [&'static str],
}

/// A signal that stops a server.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// SIGTERM: the shutdown of Redis.
    Terminate,
    /// SIGINT: Postgres' "fast" shutdown. SIGTERM would wait for every client to leave.
    Interrupt,
    /// SIGQUIT: Postgres' "immediate" shutdown, which flushes nothing.
    Quit,
}
