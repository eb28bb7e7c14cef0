//! A node in a separate process, so that its memory can be measured. It is a `Sessions` that takes
//! orders on standard input and reports on standard output.
//!
//! The process ends when its standard input does. The kernel closes that however the measuring
//! process ends.

mod figures;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use session_layer::store::PostgresStore;
use session_layer::{RevokeTarget, Sessions, Validation, cache::RedisCache};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    sync::{mpsc, watch::Sender},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use self::figures::Figures;
use crate::{
    error::{Doing as _, Error},
    moment::Moment,
    names::{Kind, Names, Who},
    protocol::{Bounds, FromNode, Order, Reply, Revoked, Settings, Visibility},
};

/// The interval at which one of the sessions that stay valid is validated.
const KEEP: Duration = Duration::from_millis(10);
/// The interval at which the figures are sampled.
const SAMPLE: Duration = Duration::from_millis(10);
/// The interval at which the node reads its health document.
const HEALTH: Duration = Duration::from_secs(1);
/// The number of validations after which Redis should have an entry of a session.
const WARM: u32 = 3;
/// The time between them, because the fill runs after the response.
const BETWEEN: Duration = Duration::from_millis(30);
/// The deadline of the node's shutdown.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs a node until standard input ends.
pub(crate) async fn main() -> Result<(), Error> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut next = async || lines.next_line().await.doing(|| "read the next order");
    let first = next().await?;
    let first = first.ok_or_else(|| Error::new("read the settings: standard input is empty"))?;
    let settings: Settings = serde_json::from_str(&first).doing(|| "understand the settings")?;
    let (reports, written) = mpsc::unbounded_channel();
    let node = Arc::new(Node::new(&settings, reports)?);

    let mut tasks = JoinSet::new();
    tasks.spawn(write(written));
    tasks.spawn(Arc::clone(&node).keep_validating(settings.kept));
    tasks.spawn(Arc::clone(&node).keep_sampling());
    tasks.spawn(Arc::clone(&node).keep_reading_health());
    while let Some(line) = next().await? {
        let order = serde_json::from_str(&line).doing(|| "understand an order")?;
        node.obey(order);
    }
    tasks.shutdown().await;
    // The measuring process may have ended, and the servers with it.
    let _late = node.sessions.shutdown(SHUTDOWN).await;
    Ok(())
}

/// Writes reports until the other end is closed.
async fn write(mut reports: mpsc::UnboundedReceiver<FromNode>) {
    let mut out = tokio::io::stdout();
    while let Some(report) = reports.recv().await {
        let Ok(mut line) = serde_json::to_vec(&report) else {
            return;
        };
        line.push(b'\n');
        if out.write_all(&line).await.is_err() || out.flush().await.is_err() {
            return;
        }
    }
}

struct Node {
    sessions: Sessions,
    names: Names,
    poll: Duration,
    reports: mpsc::UnboundedSender<FromNode>,
    figures: Mutex<Figures>,
    watched: Mutex<HashMap<Who, Sender<Option<Bounds>>>>,
    /// The sessions that were reported as invalid.
    invalid: Mutex<Vec<Who>>,
}

impl Node {
    /// Sets up a node. It needs no server yet, because connections are opened in the background.
    fn new(settings: &Settings, reports: mpsc::UnboundedSender<FromNode>) -> Result<Self, Error> {
        let store = PostgresStore::builder(&settings.database_url)
            .schema(&settings.schema)
            .build()
            .doing(|| "set up the store")?;
        let cache = RedisCache::builder(&settings.redis_url)
            .namespace(&settings.namespace)
            .build()
            .doing(|| "set up the cache")?;
        Ok(Self {
            sessions: Sessions::builder(cache, store).build().doing(|| "set up the node")?,
            names: Names::new(settings.seed),
            poll: settings.poll,
            reports,
            figures: Mutex::new(Figures::new(Moment::now())),
            watched: Mutex::default(),
            invalid: Mutex::default(),
        })
    }

    /// Executes an order, in a separate task if that takes time.
    fn obey(self: &Arc<Self>, order: Order) {
        let node = Arc::clone(self);
        match order {
            Order::Mark => {
                let metrics = self.sessions.metrics();
                locked(&self.figures).mark(Moment::now(), &metrics);
            }
            Order::Ended(who, bounds) => self.ended(who, bounds),
            Order::Watch(who) => {
                let bounds = self.watched(who);
                tokio::spawn(node.watch(who, bounds));
            }
            Order::Warm(sessions) => {
                tokio::spawn(node.warm(sessions));
            }
            with_reply => {
                tokio::spawn(async move {
                    let reply = node.reply(with_reply).await;
                    node.report(FromNode::Reply(reply));
                });
            }
        }
    }

    async fn reply(&self, order: Order) -> Reply {
        match order {
            Order::StalenessBound => match self.sessions.health().await.journal {
                Some(journal) => Reply::StalenessBound(Duration::from_millis(journal.within_ms)),
                None => Reply::Failed("the node reads no journal".to_owned()),
            },
            Order::FirstHit => loop {
                if let Some(at) = locked(&self.figures).first_hit() {
                    break Reply::At(at);
                }
                sleep(SAMPLE).await;
            },
            Order::CatchUp(after) => loop {
                let (now, age) = (Moment::now(), self.sessions.metrics().journal_age);
                if age.is_some_and(|age| now.minus(age) > after) {
                    break Reply::At(now);
                }
                sleep(SAMPLE).await;
            },
            Order::RevokeAll(user) => self.revoke_all(&user).await,
            Order::Recheck => Reply::LetIn(self.recheck().await),
            Order::Report => {
                // A short run may not have read a health document yet.
                let health = self.sessions.health().await;
                let metrics = self.sessions.metrics();
                let mut figures = locked(&self.figures);
                figures.health(&health);
                Reply::Report(Box::new(figures.report(Moment::now(), &metrics)))
            }
            Order::Warm(_) | Order::Watch(_) | Order::Ended(..) | Order::Mark => {
                Reply::Failed("this order has no reply".to_owned())
            }
        }
    }

    async fn revoke_all(&self, user: &str) -> Reply {
        let began = Moment::now();
        let revoked = self.sessions.revoke(RevokeTarget::user(user)).await;
        let at = Moment::now();
        let revoked = match revoked {
            Ok(revoked) => revoked,
            Err(error) => return Reply::Failed(error.to_string()),
        };
        let visibility = match revoked.visibility {
            session_layer::Visibility::Nothing => Visibility::Nothing,
            session_layer::Visibility::Propagated => Visibility::Propagated,
            session_layer::Visibility::Committed { within, at_most } => {
                Visibility::Committed { within, at_most }
            }
            unknown => return Reply::Failed(format!("the visibility {unknown:?} is unknown here")),
        };
        Reply::Revoked(Revoked { at, took: at.since(began), count: revoked.value, visibility })
    }

    async fn warm(self: Arc<Self>, sessions: Vec<Who>) {
        for _ in 0..WARM {
            for who in &sessions {
                let _only_for_the_copy = self.sessions.validate(&self.names.token(*who)).await;
            }
            sleep(BETWEEN).await;
        }
    }

    /// Validates the sessions that stay valid, one after the other.
    async fn keep_validating(self: Arc<Self>, kept: u64) {
        let mut turn = interval(KEEP);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for n in (0..kept).cycle() {
            turn.tick().await;
            let token = self.names.token(Who { kind: Kind::Kept, n });
            if matches!(self.sessions.validate(&token).await, Validation::Invalid) {
                locked(&self.figures).refused();
            }
        }
    }

    async fn keep_sampling(self: Arc<Self>) {
        let mut turn = interval(SAMPLE);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let metrics = self.sessions.metrics();
            locked(&self.figures).sample(Moment::now(), &metrics);
        }
    }

    async fn keep_reading_health(self: Arc<Self>) {
        let mut turn = interval(HEALTH);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let health = self.sessions.health().await;
            locked(&self.figures).health(&health);
        }
    }

    fn report(&self, report: FromNode) {
        // If the writer has ended, standard input ends as well.
        let _unread = self.reports.send(report);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
