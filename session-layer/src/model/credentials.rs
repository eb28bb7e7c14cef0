//! Credentials that change: passwords in files, and tokens that expire.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The interval at which a password file is read to find out whether it has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time after which a credential is renewed.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "Redis uses it"))]
const SOONEST: Duration = Duration::from_millis(100);

/// A boxed future, as the methods of [`Credentials`] return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A source of credentials for a server.
///
/// It is called for new connections. A connection to Redis whose credential ends is authenticated
/// again with a new one before that. Postgres ends no open connection. An `async` closure that
/// returns a [`Credential`] is a source:
///
/// ```
/// use std::time::Duration;
/// use session_layer::connect::{Credential, Credentials, CredentialsError};
///
/// fn from_vault() -> impl Credentials {
///     || async {
///         let token = "…"; // ask the provider
///         Ok::<_, CredentialsError>(
///             Credential::new(token).user("app").valid_for(Duration::from_secs(900)),
///         )
///     }
/// }
/// # let _ = from_vault();
/// ```
pub trait Credentials: Send + Sync + 'static {
    /// Returns the credential to use now. It may take a second.
    fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>>;

    /// Waits until another credential than `used` should be used, although `used` has not ended.
    /// Defaults to never.
    fn changed<'a>(&'a self, _used: &'a Credential) -> BoxFuture<'a, ()> {
        Box::pin(pending())
    }
}

impl<F, R> Credentials for F
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Credential, CredentialsError>> + Send + 'static,
{
    fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>> {
        Box::pin(self())
    }
}

/// Fetches a credential within this limit. A source that panics has no credential.
#[cfg_attr(
    not(any(feature = "redis", feature = "postgres")),
    allow(dead_code, reason = "the servers use it")
)]
pub(crate) async fn fetch(
    source: &dyn Credentials,
    limit: Duration,
) -> Result<Credential, CredentialsError> {
    // The method may panic before it returns a future.
    let call = AssertUnwindSafe(async { source.current().await }).catch_unwind();
    match timeout(limit, call).await {
        Ok(Ok(fetched)) => fetched,
        Ok(Err(_panic)) => Err(CredentialsError::new("their source panicked, see the log")),
        Err(_elapsed) => Err(CredentialsError::new("their source did not respond in time")),
    }
}

/// Waits until another credential than `used` should be used. A source that panics never changes.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "Redis uses it"))]
pub(crate) async fn changed(source: &dyn Credentials, used: &Credential) {
    static LOGGED: Once = Once::new();
    let call = AssertUnwindSafe(async { source.changed(used).await }).catch_unwind();
    if call.await.is_err() {
        LOGGED.call_once(|| {
            tracing::error!(
                "Credentials::changed panicked: open connections use another credential only once \
                 their own ends. Correct it, and restart"
            );
        });
        pending::<()>().await;
    }
}

/// A password, perhaps with its user and with the time for which it is valid.
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Credential {
    user: Option<String>,
    password: Zeroizing<String>,
    valid_for: Option<Duration>,
}

impl Credential {
    /// Creates a credential with the user of the URL. It does not expire.
    pub fn new(password: impl Into<String>) -> Self {
        Self { user: None, password: Zeroizing::new(password.into()), valid_for: None }
    }

    /// Sets the user. Defaults to the user of the URL.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets how long the credential is valid from now on. After three quarters of that time,
    /// connections are authenticated with a new one. Defaults to forever.
    pub fn valid_for(mut self, span: Duration) -> Self {
        self.valid_for = Some(span);
        self
    }

    /// Returns whether both are the same for a server.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.user == other.user && self.password == other.password
    }
}

#[cfg_attr(
    not(any(feature = "redis", feature = "postgres")),
    allow(dead_code, reason = "the servers use them")
)]
impl Credential {
    pub(crate) fn user_name(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn secret(&self) -> &str {
        &self.password
    }

    /// Returns after which time a new credential is fetched.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "Redis renews them"))]
    pub(crate) fn renew_after(&self) -> Option<Duration> {
        self.valid_for.map(|span| (span / 4 * 3).max(SOONEST))
    }
}

impl fmt::Debug for Credential {
    /// Formats no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("valid_for", &self.valid_for).finish_non_exhaustive()
    }
}

/// The reason why there is no credential now. The message contains no secret.
#[derive(Debug, Clone)]
pub struct CredentialsError {
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl CredentialsError {
    /// Creates an error. `message` states what happened and what to do, and contains no secret.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for CredentialsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A file that contains a password. It is read for new connections. For Redis it is read again once
/// a second, and a new password authenticates the open connections as well.
#[derive(Clone)]
pub struct PasswordFile {
    path: PathBuf,
    user: Option<String>,
}

impl PasswordFile {
    /// Names the file. White space around the password is ignored, such as the line end.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), user: None }
    }

    /// Sets the user. Defaults to the user of the URL.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Reads the file on a thread for blocking calls, because its volume may hang.
    async fn read(&self) -> Result<Credential, CredentialsError> {
        let file = self.clone();
        let read = spawn_blocking(move || file.read_now()).await;
        read.unwrap_or_else(|_ended| Err(CredentialsError::new("the runtime is ending")))
    }

    fn read_now(&self) -> Result<Credential, CredentialsError> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| {
            // The path is not repeated, because it may be a password in the wrong variable.
            CredentialsError::new(format!("the password file cannot be read ({error})"))
                .with_source(error)
        })?;
        let text = Zeroizing::new(text);
        match text.trim() {
            "" => Err(CredentialsError::new("the password file is empty")),
            password => Ok(Credential { user: self.user.clone(), ..Credential::new(password) }),
        }
    }
}

impl fmt::Debug for PasswordFile {
    /// Formats no path, because it may be a password in the wrong variable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile").finish_non_exhaustive()
    }
}

impl Credentials for PasswordFile {
    fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>> {
        Box::pin(self.read())
    }

    fn changed<'a>(&'a self, used: &'a Credential) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                // An unreadable file changes nothing for an authenticated connection.
                if self.read().await.is_ok_and(|read| !read.is_same(used)) {
                    return;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter2";

    #[test]
    fn credential_is_renewed_after_three_quarters_of_its_time() {
        let of = |span: Option<Duration>| {
            let credential = Credential::new(SECRET);
            span.map_or(credential.clone(), |span| credential.valid_for(span)).renew_after()
        };
        assert_eq!(of(None), None);
        let seconds = Duration::from_secs;
        assert_eq!(of(Some(seconds(900))), Some(seconds(675)));
        assert_eq!(of(Some(Duration::ZERO)), Some(SOONEST));
        assert!(of(Some(Duration::MAX)).is_some());
    }

    #[test]
    fn secrets_are_not_formatted() {
        let credential = Credential::new(SECRET).user(SECRET);
        assert!(!format!("{credential:?}").contains(SECRET));
        let file = PasswordFile::new(SECRET).user(SECRET);
        let error = file.read_now().unwrap_err();
        assert!(!format!("{file:?} {error} {error:?}").contains(SECRET), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn panic_and_elapsed_limit_are_errors_of_the_source() {
        struct PanickingSource;
        impl Credentials for PanickingSource {
            fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>> {
                panic!("for the test")
            }
            fn changed<'a>(&'a self, _: &'a Credential) -> BoxFuture<'a, ()> {
                panic!("for the test")
            }
        }
        let limit = Duration::from_secs(1);
        let error = fetch(&PanickingSource, limit).await.unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        let error = fetch(&pending::<Result<Credential, CredentialsError>>, limit).await;
        assert!(error.unwrap_err().to_string().contains("in time"));
        let used = Credential::new(SECRET);
        assert!(timeout(limit, changed(&PanickingSource, &used)).await.is_err());
    }

    #[tokio::test]
    async fn closure_is_a_source() {
        let source = || async { Ok(Credential::new(SECRET)) };
        assert_eq!(source.current().await.unwrap().secret(), SECRET);
    }
}
