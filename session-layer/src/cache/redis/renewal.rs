//! The renewal of credentials. A connection is authenticated again before its credential ends, or
//! once another one is in place.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connect::{CREDENTIALS_TIMEOUT, SUPERVISOR_TIMEOUT, Used};
use super::errors::classify;
use super::identity::is_lost;
use super::link::Link;
use super::links::Links;
use crate::model::credentials::{Credentials, changed, fetch};

/// The pause after a failed renewal, and the shortest time between renewals that
/// [`Credentials::changed`] asks for.
const RETRY_EVERY: Duration = Duration::from_secs(1);

impl Links {
    /// Renews the credential of a link whenever it is due. Never ends.
    pub(super) async fn renew(&self, link: &Arc<Link>) {
        let credentials = self.pool.manager().connector.credentials();
        let (Some(credentials), Some(mut used)) = (credentials, link.used()) else {
            return pending().await;
        };
        let mut earliest = Instant::now();
        loop {
            let due = async {
                match used.due() {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = changed_from(earliest, credentials, &used) => {}
            }
            earliest = Instant::now() + RETRY_EVERY;
            match self.authenticate(link, credentials, &used).await {
                Ok(renewed) => {
                    link.set_credentials_problem(None);
                    used = renewed;
                }
                Err(problem) => {
                    if self.credentials_problem().is_none() {
                        tracing::warn!("{problem}");
                    }
                    link.set_credentials_problem(Some(problem));
                    sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    /// Fetches a credential and sends it, if it is another one than before.
    async fn authenticate(
        &self,
        link: &Arc<Link>,
        credentials: &dyn Credentials,
        used: &Used,
    ) -> Result<Used, Arc<str>> {
        let problem = |why: String| -> Arc<str> {
            format!("the credentials for Redis could not be renewed: {why}").into()
        };
        let since = Instant::now();
        let fetched = fetch(credentials, CREDENTIALS_TIMEOUT).await;
        let fetched = fetched.map_err(|error| problem(error.to_string()))?;
        let renewed = Used { credential: fetched, since };
        if renewed.credential.is_same(&used.credential) {
            return Ok(renewed);
        }
        let mut command = redis::cmd("AUTH");
        if let Some(user) = self.pool.manager().connector.user_of(&renewed.credential) {
            command.arg(user);
        }
        command.arg(renewed.credential.secret());
        let mut connection = link.connection();
        match timeout(SUPERVISOR_TIMEOUT, command.exec_async(&mut connection)).await {
            Ok(Ok(())) => Ok(renewed),
            Ok(Err(error)) => {
                if is_lost(&error) {
                    self.close_link(link);
                }
                Err(problem(classify(error).to_string()))
            }
            Err(_elapsed) => Err(problem("AUTH got no reply in time".to_owned())),
        }
    }
}

/// Waits until another credential should be used, but not before `earliest`. A source whose
/// `changed` returns at once must not be called without a pause.
async fn changed_from(earliest: Instant, credentials: &dyn Credentials, used: &Used) {
    changed(credentials, &used.credential).await;
    sleep_until(earliest).await;
}
