//! The search for the master: the answer that more than half of the sentinels give. If fewer
//! answer, they must agree.
//!
//! A sentinel that was cut off from the others names the former master. The majority does not.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::RedisConnectionInfo;
use tokio::net::lookup_host;
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
        let addresses = expand(&sentinels.addresses, Instant::now() + limit / 2).await;
        let total = addresses.len();
        let mut asked: FuturesUnordered<_> =
            (addresses.iter()).map(|at| self.ask(at, &sentinels.service, &login, limit)).collect();
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
        // The rest did not answer. Those that did decide, if they agree.
        match (unanimous(&answers), failed) {
            (Some(master), _) => Ok(master),
            (None, Some(error)) if answers.is_empty() => Err(error),
            _ => {
                let is_unknown = answers.iter().all(Option::is_none);
                Err(failure::no_master(sentinels, is_unknown))
            }
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
            Ok(answer) => Ok(answer.map(|(host, port)| Address::Tcp { host, port, ip: None })),
            Err(error) => Err(failure::sentinel(at, error).of_sentinel()),
        }
    }
}

/// Returns the address that more than half of `total` sentinels name.
fn elect(answers: &[Answer], total: usize) -> Option<Address> {
    let votes = |address: &Address| answers.iter().flatten().filter(|it| *it == address).count();
    answers.iter().flatten().find(|address| votes(address) * 2 > total).cloned()
}

/// Returns the address that every answer names.
fn unanimous(answers: &[Answer]) -> Option<Address> {
    let first = answers.first()?;
    first.clone().filter(|_| answers.iter().all(|answer| answer == first))
}

/// Returns the addresses of all sentinels, each once. A name stands for each of its addresses. A
/// name with one address of each family stands for one sentinel, which has both.
async fn expand(names: &[Address], deadline: Instant) -> Vec<Address> {
    let mut all: Vec<Address> = Vec::new();
    for one in
        join_all(names.iter().map(|name| look_up(name, deadline))).await.into_iter().flatten()
    {
        if !all.iter().any(|known| known.is_same_place(&one)) {
            all.push(one);
        }
    }
    all
}

async fn look_up(name: &Address, deadline: Instant) -> Vec<Address> {
    let Address::Tcp { host, port, .. } = name else { return vec![name.clone()] };
    let found = within(deadline, lookup_host((host.as_str(), *port))).await;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = found
        .and_then(Result::ok)
        .into_iter()
        .flatten()
        .map(|at| at.ip())
        .partition(IpAddr::is_ipv4);
    let ips = match (v4.len(), v6.len()) {
        // An attempt to connect reports the failed look-up.
        (0, 0) | (1, 1) => return vec![name.clone()],
        (v4_len, v6_len) if v4_len >= v6_len => v4,
        _ => v6,
    };
    let of = |ip| Address::Tcp { host: host.clone(), port: *port, ip: Some(ip) };
    ips.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(host: &str) -> Answer {
        Some(Address::tcp(&format!("{host}:6379")))
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

    #[test]
    fn fewer_sentinels_decide_only_if_they_agree() {
        let (old, new) = (master("old"), master("new"));
        for (answers, named) in [
            (vec![], None),
            (vec![new.clone()], new.clone()),
            (vec![new.clone(), new.clone()], new.clone()),
            (vec![new.clone(), new.clone(), old], None),
            (vec![None, new], None),
            (vec![None, None], None),
        ] {
            assert_eq!(unanimous(&answers), named, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn each_sentinel_is_asked_once() {
        let names = ["127.0.0.1:1", "[::1]:1", "127.0.0.1:1", "127.0.0.1:2"].map(Address::tcp);
        let soon = Instant::now() + Duration::from_secs(5);
        let places: Vec<_> = expand(&names, soon).await.iter().map(ToString::to_string).collect();
        assert_eq!(places, ["127.0.0.1:1", "[::1]:1", "127.0.0.1:2"]);
    }
}
