//! The differences between Redis and Postgres. All other code is shared.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use session_layer::server_url::{ServerKind, ServerUrl};

use super::{error::Cause, native::Folder};

/// A program with its arguments.
pub(super) type Program = (PathBuf, Vec<String>);

/// Returns the program that fills a data directory before the server's first start, if one is
/// needed.
pub(super) type Prepare<'a> = &'a (dyn Fn(&Path) -> Option<Program> + Sync);

/// A kind of server: [`Redis`](super::Redis) or [`Postgres`](super::Postgres). It is the ways to
/// find, start and ping such a server.
///
/// The items have types of private modules, therefore no other crate can add a kind.
pub trait Kind: fmt::Debug + Send + Sync + Sized + 'static {
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
    /// The environment variable with the image of containers.
    const IMAGE_VARIABLE: &'static str;
    /// The repository of images that `images/build.sh` builds. The highest tag is preferred.
    const OWN_IMAGE: &'static str;
    /// Official images. The first present one is used, else the first that can be pulled.
    const OFFICIAL_IMAGES: &'static [&'static str];
    /// The port inside a container.
    const PORT: u16;
    /// The signal that stops it properly without waiting for its clients.
    const STOP: Signal;
    /// The variables in a container's environment.
    const ENVIRONMENT: &'static [(&'static str, &'static str)];
    /// The accounts for native servers if we are root, in order of preference.
    const ACCOUNTS: &'static [&'static str];

    /// Returns the URL of a started server.
    fn url(address: &str) -> String;
    /// Checks that the server responds (PING, SELECT 1).
    fn ping(url: &ServerUrl) -> impl Future<Output = Result<(), Cause>> + Send;
    /// Finds the program.
    ///
    /// # Errors
    /// The reason why there is none.
    fn find() -> Result<PathBuf, String>;
    /// Returns the program and the arguments that must run once before the server (initdb).
    fn prepare(server: &Path, data: &Path) -> Option<Program>;
    /// Returns the arguments of a native server with this program.
    fn arguments(server: &Path, folder: &Folder, port: u16, extra: &[String]) -> Vec<String>;
    /// Returns the command of a container of this image.
    fn command(image: &str, extra: &[String]) -> Vec<String>;
}
