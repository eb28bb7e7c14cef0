//! The supervisor: the task that opens and replaces links, and publishes whether there are any. A
//! second task per link checks it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool::managed::{self, Object};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::connect::SUPERVISOR_TIMEOUT;
use super::errors::timed_out;
use super::identity;
use super::link::Link;
use super::links::{Links, OPENING_TIMEOUT, Phase, closed};
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::lock::{read, write};

/// The interval at which role and incarnation are read again.
const RECHECK_EVERY: Duration = Duration::from_secs(1);
/// The retry interval of a link that is down or suspect. It leaves a margin for the promise that
/// hits resume 2 s after Redis responds to PING.
const RETRY_LINKS_EVERY: Duration = Duration::from_millis(200);

/// The number of times in a row that connections closed at once are reopened without a pause.
const AT_ONCE: u32 = 5;

impl Links {
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut closed_again = 0;
        while !self.stop.is_cancelled() {
            let failure = self.replace_missing().await;
            let (usable, hanging) = self.count();
            self.publish(match failure {
                _ if usable > 0 => Phase::Up,
                Some(error) => Phase::Down(error),
                None if hanging > 0 => Phase::Up,
                // The server closed every new link. The next attempt may succeed.
                None if closed_again < AT_ONCE => {
                    closed_again += 1;
                    continue;
                }
                None => Phase::Down(CacheError::new(
                    CacheErrorKind::Unreachable,
                    "Redis closes every connection at its first use: check its log and maxclients",
                )),
            });
            closed_again = 0;
            let all_well = self.count().0 >= self.target.load(Ordering::Relaxed);
            let pause = if all_well { RECHECK_EVERY } else { RETRY_LINKS_EVERY };
            let next = Instant::now() + pause;
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.look.notified() => {
                    // While Redis is down, reports must not cause a storm of attempts.
                    if matches!(*self.phase.borrow(), Phase::Down(_)) {
                        sleep_until(next).await;
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Checks one link and renews its credential until it closes. Each link has its own task.
    /// Therefore no hanging link and no connect delays the check of another link.
    async fn watch(self: Arc<Self>, link: Arc<Link>) {
        tokio::select! {
            () = self.check_often(&link) => {}
            () = self.renew(&link) => {}
        }
    }

    /// Checks one link each second, and sooner while it is suspect, until it closes.
    async fn check_often(&self, link: &Arc<Link>) {
        while !link.is_closed() {
            let pause = if link.is_usable() { RECHECK_EVERY } else { RETRY_LINKS_EVERY };
            let next = Instant::now() + pause;
            tokio::select! {
                () = sleep_until(next) => {}
                () = link.reported() => {}
                () = self.stop.cancelled() => return,
            }
            let was_usable = link.is_usable();
            tokio::select! {
                () = self.check(link) => {}
                () = self.stop.cancelled() => return,
            }
            if link.is_usable() != was_usable {
                self.look.notify_one();
            }
        }
    }

    /// Opens links up to the desired number. Returns the error of the first that fails.
    async fn replace_missing(self: &Arc<Self>) -> Option<CacheError> {
        self.remove_closed();
        let mut tried_again = false;
        loop {
            let missing = {
                let live = read(&self.live);
                live.len() < self.target.load(Ordering::Relaxed).min(self.size())
            };
            if !missing || self.stop.is_cancelled() {
                return None;
            }
            match timeout(OPENING_TIMEOUT, self.pool.get()).await {
                Ok(Ok(link)) => {
                    tokio::spawn(Arc::clone(self).watch(Arc::clone(&link)));
                    self.add(link);
                    self.publish(Phase::Up);
                    tried_again = false;
                }
                // The connection was cut or refused. One immediate retry precedes the report to
                // requests that Redis is down.
                Ok(Err(managed::PoolError::Backend(error)))
                    if !tried_again && error.kind() == CacheErrorKind::Unreachable =>
                {
                    tried_again = true;
                }
                Ok(Err(managed::PoolError::Backend(error))) => return Some(error),
                Ok(Err(managed::PoolError::Timeout(_))) | Err(_) => return Some(timed_out()),
                Ok(Err(_)) => return Some(closed()),
            }
        }
    }

    /// Removes closed links.
    fn remove_closed(&self) {
        let mut live = write(&self.live);
        let before = live.len();
        for at in (0..before).rev() {
            if live[at].is_closed() {
                drop(Object::take(live.swap_remove(at)));
            }
        }
        if live.len() < before && !live.iter().any(|link| link.is_usable()) {
            drop(live);
            self.publish(Phase::Connecting);
        }
    }

    /// Checks the identity of the server. A reply in time makes the link usable, and a late reply
    /// makes it suspect. No reply, or a server that is not the master, closes it.
    async fn check(&self, link: &Arc<Link>) {
        let mut connection = link.connection();
        let mut answer = std::pin::pin!(link.run(identity::read(&mut connection)));
        let asked = Instant::now();
        let answered = match timeout_at(asked + self.deadline, &mut answer).await {
            Ok(answered) => {
                // An error closes the link below. It is not suspect before, because callers that
                // find only suspect links fail at once.
                if answered.is_ok() {
                    link.set_suspect(false);
                }
                answered
            }
            Err(_) => {
                link.set_suspect(true);
                match timeout_at(asked + SUPERVISOR_TIMEOUT, answer).await {
                    Ok(answered) => answered,
                    Err(_) => return self.close_link(link),
                }
            }
        };
        match answered {
            Ok(identity) if identity.is_master => {
                link.set_identity(identity);
                self.settle();
            }
            Ok(_) | Err(_) => self.close_link(link),
        }
    }

    /// Publishes the phase to waiting callers. The breaker logs its effect on requests.
    pub(super) fn publish(&self, new: Phase) {
        let old = self.phase.send_replace(new.clone());
        match (old, new) {
            (Phase::Down(_), Phase::Up) => tracing::debug!("connections to Redis are open again"),
            (Phase::Connecting | Phase::Up, Phase::Down(why)) => {
                tracing::debug!(%why, "no connection to Redis is open");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{LazyLock, Mutex};

    use redis::RedisConnectionInfo;
    use redis::aio::MultiplexedConnection;
    use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, duplex};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cache::redis::command::CommandFailure;
    use crate::cache::redis::connect::{Access, Connected, Connector, OpenConnection, Used};
    use crate::cache::redis::link::Borrowed;
    use crate::model::credentials::{BoxFuture, Credential, Credentials, CredentialsError};

    const SERVER: &str = "run_id:aaa\r\n";
    const REPLICATION: &str = "role:master\r\nmaster_replid:rrr\r\n";

    /// Serves a server's replies to INFO and records the times of the queries, or never replies.
    async fn serve(
        stream: impl AsyncRead + AsyncWrite + Unpin,
        answers: bool,
        asked: Arc<Mutex<Vec<Instant>>>,
    ) {
        let mut stream = BufReader::new(stream);
        while let Some(command) = command(&mut stream).await {
            let answer = match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["INFO", "server"] => {
                    asked.lock().unwrap().push(Instant::now());
                    answers.then_some(SERVER)
                }
                ["INFO", "replication"] => answers.then_some(REPLICATION),
                _ => Some("OK"),
            };
            if let Some(answer) = answer {
                let answer = format!("${}\r\n{answer}\r\n", answer.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    async fn command(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<String>> {
        let words = number(stream).await?;
        let mut command = Vec::new();
        for _ in 0..words {
            let mut word = vec![0; number(stream).await? + 2];
            stream.read_exact(&mut word).await.ok()?;
            command.push(String::from_utf8(word).unwrap().trim_end().to_owned());
        }
        Some(command)
    }

    /// Reads the number after `*` or `$`.
    async fn number(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<usize> {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        line.trim_end().get(1..)?.parse().ok()
    }

    async fn link(answers: bool) -> (Arc<Link>, Arc<Mutex<Vec<Instant>>>) {
        link_with(answers, None).await
    }

    async fn link_with(answers: bool, used: Option<Used>) -> (Arc<Link>, Arc<Mutex<Vec<Instant>>>) {
        let asked = Arc::default();
        let (commands, driver) = connect(answers, Arc::clone(&asked)).await;
        (link_over(OpenConnection::new(commands, driver), used), asked)
    }

    fn link_over(connection: OpenConnection, used: Option<Used>) -> Arc<Link> {
        let identity = identity::parse(SERVER, REPLICATION);
        Arc::new(Link::new(Connected { connection, identity, used }))
    }

    async fn connect(
        answers: bool,
        asked: Arc<Mutex<Vec<Instant>>>,
    ) -> (MultiplexedConnection, impl Future<Output = ()> + Send + 'static) {
        let (ours, theirs) = duplex(4096);
        tokio::spawn(serve(theirs, answers, asked));
        static INFO: LazyLock<RedisConnectionInfo> = LazyLock::new(RedisConnectionInfo::default);
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        MultiplexedConnection::new_with_config(&INFO, ours, config).await.unwrap()
    }

    fn links() -> Arc<Links> {
        links_with(Access::default())
    }

    fn links_with(access: Access) -> Arc<Links> {
        links_to("redis://127.0.0.1:1", access)
    }

    fn links_to(url: &str, access: Access) -> Arc<Links> {
        let connector = Connector::new(url.parse(), access).unwrap();
        Links::closed(connector, Box::default(), 2, Duration::from_millis(50)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_link_does_not_delay_checks_of_another() {
        let links = links();
        let (good, asked) = link(true).await;
        let (hangs, _) = link(false).await;
        for link in [&good, &hangs] {
            tokio::spawn(Arc::clone(&links).watch(Arc::clone(link)));
        }
        let began = Instant::now();
        tokio::time::sleep(RECHECK_EVERY * 5 + RECHECK_EVERY / 2).await;
        let after: Vec<_> = asked.lock().unwrap().iter().map(|at| *at - began).collect();
        let due: Vec<_> = (1..=5).map(|second| RECHECK_EVERY * second).collect();
        // The clock of a paused runtime has a resolution of one millisecond.
        let late = |(asked, due): (&Duration, &Duration)| *asked > *due + Duration::from_millis(20);
        assert!(after.len() == 5 && !after.iter().zip(&due).any(late), "{after:?}");
        assert!(good.is_usable() && hangs.is_closed());
    }

    // The library loses a command that is sent while the connection ends.
    #[tokio::test(start_paused = true)]
    async fn lost_command_fails_at_once() {
        // The channel of the commands is not read again, but still exists.
        let (commands, _driver) = connect(true, Arc::default()).await;
        let link = Borrowed::new(link_over(OpenConnection::new(commands, async {}), None));
        let began = Instant::now();
        let mut connection = link.0.connection();
        let ping = async move { redis::cmd("PING").exec_async(&mut connection).await };
        let failure = links().run_on(&link, began + RECHECK_EVERY, ping).await.err().unwrap();
        assert!(matches!(failure, CommandFailure::Lost(_)), "{:?}", failure.into_error());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(link.0.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn panic_of_credentials_keeps_link_checked_and_is_reported() {
        struct Panics;
        impl Credentials for Panics {
            fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>> {
                panic!("for the test")
            }
            fn changed<'a>(&'a self, _: &'a Credential) -> BoxFuture<'a, ()> {
                Box::pin(async { panic!("for the test") })
            }
        }
        let credentials: Option<Arc<dyn Credentials>> = Some(Arc::new(Panics));
        let links = links_with(Access { credentials, ..Access::default() });
        let credential = Credential::new("s3cret").valid_for(RECHECK_EVERY * 2);
        let used = Used { credential, since: Instant::now() };
        let (link, asked) = link_with(true, Some(used)).await;
        tokio::spawn(Arc::clone(&links).watch(Arc::clone(&link)));
        tokio::time::sleep(RECHECK_EVERY * 5 + RECHECK_EVERY / 2).await;
        assert_eq!(asked.lock().unwrap().len(), 5);
        let problem = link.credentials_problem().unwrap();
        assert!(problem.contains("could not be renewed: their source panicked"), "{problem}");
    }

    // A `changed` that returns at once asks for a renewal each time.
    #[tokio::test(start_paused = true)]
    async fn hasty_source_is_called_once_a_second() {
        #[derive(Default)]
        struct Hasty(AtomicUsize);
        impl Credentials for Hasty {
            fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>> {
                self.0.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { Ok(Credential::new("s3cret")) })
            }
            fn changed<'a>(&'a self, _: &'a Credential) -> BoxFuture<'a, ()> {
                Box::pin(async {})
            }
        }
        let hasty = Arc::new(Hasty::default());
        let credentials: Option<Arc<dyn Credentials>> = Some(hasty.clone());
        let links = links_with(Access { credentials, ..Access::default() });
        let used = Used { credential: Credential::new("s3cret"), since: Instant::now() };
        let (link, _) = link_with(true, Some(used)).await;
        tokio::spawn(Arc::clone(&links).watch(link));
        tokio::time::sleep(RECHECK_EVERY * 3 + RECHECK_EVERY / 2).await;
        assert_eq!(hasty.0.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn reported_link_is_checked_at_once() {
        let links = links();
        let (link, asked) = link(true).await;
        tokio::spawn(Arc::clone(&links).watch(Arc::clone(&link)));
        tokio::time::sleep(RECHECK_EVERY / 2).await;
        links.suspect(&link);
        assert!(!link.is_usable());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(link.is_usable());
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    /// Starts a server that closes some of the first connections at once. After each of them it
    /// gets another connection, which finds out what it speaks, and closes that one too.
    async fn server_that_closes(closes: &'static [bool]) -> Arc<Links> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for closes in closes.iter().copied().chain(std::iter::repeat(false)) {
                let (stream, _) = listener.accept().await.unwrap();
                if closes {
                    drop(stream);
                    let _closed = listener.accept().await.unwrap();
                } else {
                    tokio::spawn(serve(stream, true, Arc::default()));
                }
            }
        });
        links_to(&url, Access::default())
    }

    #[tokio::test]
    async fn each_link_has_one_immediate_retry() {
        let links = server_that_closes(&[true, false, true, false]).await;
        let failure = links.replace_missing().await;
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!(links.count(), (2, 0));

        let links = server_that_closes(&[false, true, true]).await;
        assert!(links.replace_missing().await.is_some());
    }

    // Otherwise a look-up over the first link after an outage would serve no hit.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn found_link_leads_to_a_settled_cache() {
        const ROUNDS: usize = 200_000;
        let links = server_that_closes(&[]).await;
        let mut link = Some(links.pool.get().await.unwrap());
        // Odd while the link is removed.
        let round = Arc::new(AtomicUsize::new(0));
        let looking = tokio::task::spawn_blocking({
            let (links, round) = (Arc::clone(&links), Arc::clone(&round));
            move || {
                let unsettled = || links.least_busy().is_some() && links.settled().is_none();
                loop {
                    let begun = round.load(Ordering::SeqCst);
                    if unsettled() && begun % 2 == 0 && round.load(Ordering::SeqCst) == begun {
                        return false;
                    }
                    if begun == ROUNDS {
                        return true;
                    }
                }
            }
        });
        while round.load(Ordering::SeqCst) < ROUNDS {
            links.add(link.take().unwrap());
            round.fetch_add(1, Ordering::SeqCst);
            link = write(&links.live).pop();
            links.settle();
            round.fetch_add(1, Ordering::SeqCst);
        }
        assert!(looking.await.unwrap());
    }
}
