//! The keeper: the one task that opens, checks and replaces links, and says whether there are any.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Object};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::errors::timed_out;
use super::identity;
use super::link::Link;
use super::links::{KEEPER_PATIENCE, Links, Phase, closed};
use crate::error::{CacheError, CacheErrorKind};

/// Role and incarnation are asked again this often.
const RECHECK_EVERY: Duration = Duration::from_secs(1);
/// What is down or suspect is tried again this often: well within "hits again 2 s after PING answers".
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// How often in a row connections that were closed at once are opened anew without a pause.
const AT_ONCE: u32 = 5;

impl Links {
    /// The keeper.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut recheck = Instant::now() + RECHECK_EVERY;
        let mut closed_again = 0;
        while !self.stop.is_cancelled() {
            let mut failure = self.replace_missing().await;
            let now = Instant::now();
            let due = now >= recheck;
            if due {
                recheck = now + RECHECK_EVERY;
            }
            let links = self.each();
            let to_check = links.iter().filter(|link| due || !link.is_usable());
            join_all(to_check.map(|link| self.check(link))).await;
            if self.drop_dead() {
                failure = self.replace_missing().await;
            }
            let (usable, hanging) = self.count();
            self.publish(match failure {
                _ if usable > 0 => Phase::Up,
                Some(error) => Phase::Down(error.kind(), error.to_string().into()),
                None if hanging > 0 => Phase::Up,
                // All were closed again since they were opened. That says nothing about the next, unless
                // it goes on.
                None if closed_again < AT_ONCE => {
                    closed_again += 1;
                    continue;
                }
                None => Phase::Down(
                    CacheErrorKind::Unreachable,
                    "Redis closes every connection as soon as it is used".into(),
                ),
            });
            closed_again = 0;
            let all_well = self.count().0 >= self.target.load(Ordering::Relaxed);
            let next = if all_well {
                recheck
            } else {
                recheck.min(Instant::now() + RETRY_EVERY)
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.look.notified() => {
                    // While Redis is down, what callers report must not turn into a storm of
                    // connection attempts.
                    if matches!(*self.phase.borrow(), Phase::Down(..)) {
                        sleep_until(next).await;
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Opens links until there are as many as there should be, or until one can't be.
    async fn replace_missing(&self) -> Option<CacheError> {
        self.drop_dead();
        let mut tried_again = false;
        loop {
            let missing = {
                let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
                live.len() < self.target.load(Ordering::Relaxed).min(self.size())
            };
            if !missing || self.stop.is_cancelled() {
                return None;
            }
            match timeout(KEEPER_PATIENCE * 2, self.pool.get()).await {
                Ok(Ok(link)) => {
                    self.live
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(link);
                    self.publish(Phase::Up);
                }
                // Cut off in the middle of connecting, or refused: once more at once, before requests
                // are told that Redis is down.
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

    /// Takes dead links out. True if there were any.
    fn drop_dead(&self) -> bool {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = live.len();
        for at in (0..before).rev() {
            if live[at].is_dead() {
                drop(Object::take(live.swap_remove(at)));
            }
        }
        let any = live.len() < before;
        if any && !live.iter().any(|link| link.is_usable()) {
            drop(live);
            self.publish(Phase::Connecting);
        }
        any
    }

    /// Asks who is there. In time: usable. Late: suspect. Not at all, or no master: dead.
    async fn check(&self, link: &Arc<Link>) {
        let mut connection = link.connection();
        let mut answer = std::pin::pin!(identity::ask(&mut connection));
        let asked = Instant::now();
        let answered = match timeout_at(asked + self.deadline, &mut answer).await {
            Ok(answered) => {
                link.set_suspect(answered.is_err());
                answered
            }
            Err(_) => {
                link.set_suspect(true);
                match timeout_at(asked + KEEPER_PATIENCE, answer).await {
                    Ok(answered) => answered,
                    Err(_) => return self.give_up(link),
                }
            }
        };
        match answered {
            Ok(identity) if identity.is_master => {
                link.set_identity(identity);
            }
            Ok(_) | Err(_) => self.give_up(link),
        }
    }

    /// Tells waiting callers. What that means for requests, the breaker says in the log.
    pub(super) fn publish(&self, new: Phase) {
        let old = self.phase.send_replace(new.clone());
        match (old, new) {
            (Phase::Down(..), Phase::Up) => tracing::debug!("there are connections to Redis again"),
            (Phase::Connecting | Phase::Up, Phase::Down(_, why)) => {
                tracing::debug!(%why, "there is no connection to Redis");
            }
            _ => {}
        }
    }
}
