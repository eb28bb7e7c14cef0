//! The search for the master: the answer that more than half of the sentinels give.
//!
//! A sentinel that was cut off from the others names the former master. The majority does not.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::RedisConnectionInfo;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::failure::{self, ConnectError};
use super::{Address, Connector, within};

/// The sentinels of a service, and its name.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sentinels {
    pub(super) addresses: Vec<Address>,
    pub(super) service: String,
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the master of the sentinels")?;
        self.addresses.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

impl fmt::Debug for Sentinels {
    /// Formats no service, because no part of a URL's path is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sentinels").field(&self.addresses).finish()
    }
}

/// The answer of one sentinel: the address of the master, or that it does not know the service.
type Answer = Option<Address>;

impl Connector {
    /// Asks all sentinels at once, and returns the master that most of them name.
    pub(super) async fn find_master(
        &self,
        sentinels: &Sentinels,
        limit: Duration,
    ) -> Result<Address, ConnectError> {
        let login = OnceCell::new();
        let total = sentinels.addresses.len();
        let mut asked: FuturesUnordered<_> = (sentinels.addresses.iter())
            .map(|at| self.ask(at, &sentinels.service, &login, limit))
            .collect();
        let (mut answers, mut failed) = (Vec::new(), None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => failed = failed.or(Some(error)),
            }
            if let Some(master) = elect(&answers, total) {
                return Ok(master);
            }
        }
        // The rest did not answer. Those that did decide.
        match (elect(&answers, answers.len()), failed) {
            (Some(master), _) => Ok(master),
            (None, Some(error)) if answers.is_empty() => Err(error),
            _ => Err(failure::no_master(sentinels, answers.contains(&None))),
        }
    }

    async fn sentinel_login(&self) -> Result<RedisConnectionInfo, ConnectError> {
        let login = RedisConnectionInfo::default();
        let Some(source) = &self.sentinel_credentials else { return Ok(login) };
        let used = self.fetch(&**source).await.map_err(ConnectError::of_sentinel)?;
        let login = login.set_password(used.credential.secret());
        Ok(match used.credential.user_name() {
            Some(user) => login.set_username(user),
            None => login,
        })
    }

    async fn ask(
        &self,
        at: &Address,
        service: &str,
        login: &OnceCell<Result<RedisConnectionInfo, ConnectError>>,
        limit: Duration,
    ) -> Result<Answer, ConnectError> {
        let stream = self.open(at, Instant::now() + limit).await?;
        let login = login.get_or_init(|| self.sentinel_login()).await;
        let login = login.as_ref().map_err(Clone::clone)?;
        let deadline = Instant::now() + limit;
        let opened = self.authenticate(at, login, stream, deadline).await;
        let connection = opened.map_err(ConnectError::of_sentinel)?;
        let mut sentinel = connection.commands.clone();
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(service);
        let answer = within(deadline, command.query_async::<Option<(String, u16)>>(&mut sentinel));
        let answer = answer.await.ok_or_else(|| failure::timed_out(at, "SENTINEL"))?;
        match answer {
            Ok(answer) => Ok(answer.map(|(host, port)| Address::Tcp { host, port })),
            Err(error) => Err(failure::sentinel(at, error).of_sentinel()),
        }
    }
}

/// Returns the address that more than half of `total` sentinels name.
fn elect(answers: &[Answer], total: usize) -> Option<Address> {
    let votes = |address: &Address| answers.iter().flatten().filter(|it| *it == address).count();
    answers.iter().flatten().find(|address| votes(address) * 2 > total).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(host: &str) -> Answer {
        Some(Address::Tcp { host: host.to_owned(), port: 6379 })
    }

    #[test]
    fn majority_of_all_sentinels_decides() {
        let (old, new) = (master("old"), master("new"));
        for (answers, total, elected) in [
            (vec![], 3, None),
            (vec![new.clone()], 1, new.clone()),
            (vec![old.clone()], 3, None),
            (vec![old.clone(), new.clone()], 3, None),
            (vec![old.clone(), new.clone(), new.clone()], 3, new.clone()),
            (vec![new.clone(), new.clone()], 3, new.clone()),
            (vec![new.clone(), new.clone()], 4, None),
            (vec![None, None, new.clone()], 3, None),
            (vec![None, new.clone(), new.clone()], 3, new.clone()),
        ] {
            assert_eq!(elect(&answers, total), elected, "{answers:?} of {total}");
        }
    }
}
