//! A node from the measuring process' view: its process, its orders and its replies.

use std::{env, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::{
    NODE_ARGUMENT,
    error::{Doing as _, Error},
    memory::{self, Memory},
    moment::Moment,
    protocol::{FromNode, Invalid, Order, Reply, Report, Revoked, Settings},
};

/// The deadline of a reply without waiting.
const SOON: Duration = Duration::from_secs(60);
/// The deadline of a reply after the first hit or a read of the journal.
const LONG: Duration = Duration::from_secs(5 * 60);
/// The deadline of the process' end.
const END: Duration = Duration::from_secs(10);

/// A node in a separate process, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its index among the nodes, from 0.
    place: usize,
    pid: u32,
    namespace: String,
    started: Moment,
    orders: mpsc::UnboundedSender<Order>,
    replies: Mutex<mpsc::UnboundedReceiver<Reply>>,
    child: Child,
}

impl Node {
    /// Starts a node. Sessions that it finds invalid go to `invalid`, with the node's index.
    pub(crate) async fn start(
        place: usize,
        settings: &Settings,
        invalid: mpsc::UnboundedSender<(usize, Invalid)>,
    ) -> Result<Self, Error> {
        let starting = || format!("start node {}", place + 1);
        let program = env::current_exe().doing(starting)?;
        let started = Moment::now();
        let mut child = Command::new(program)
            .arg(NODE_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C reaches only the measuring process, whose end closes this standard input.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .doing(starting)?;
        let pid = child.id().ok_or_else(|| Error::new(starting()))?;
        let stdin = child.stdin.take().ok_or_else(|| Error::new(starting()))?;
        let stdout = child.stdout.take().ok_or_else(|| Error::new(starting()))?;

        let (orders, given) = mpsc::unbounded_channel();
        let (replied, replies) = mpsc::unbounded_channel();
        let first = line(settings).doing(starting)?;
        tokio::spawn(write(stdin, first, given));
        tokio::spawn(read(stdout, place, replied, invalid));
        Ok(Self {
            place,
            pid,
            namespace: settings.namespace.clone(),
            started,
            orders,
            replies: Mutex::new(replies),
            child,
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("node {}", self.place + 1)
    }

    /// Returns the prefix of the node's keys in Redis.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn started(&self) -> Moment {
        self.started
    }

    pub(crate) fn memory(&self) -> Result<Memory, Error> {
        memory::of(self.pid).doing(|| format!("read the memory of {}", self.name()))
    }

    /// Sends an order without a reply. If the node has ended, the next order with a reply fails.
    pub(crate) fn order(&self, order: Order) {
        let _ended = self.orders.send(order);
    }

    /// Returns D.
    pub(crate) async fn staleness_bound(&self) -> Result<Duration, Error> {
        match self.ask(Order::StalenessBound, SOON).await? {
            Reply::StalenessBound(bound) => Ok(bound),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the node has served an entry from Redis. Returns when the first was observed.
    pub(crate) async fn first_hit(&self) -> Result<Moment, Error> {
        self.moment(Order::FirstHit).await
    }

    /// Waits until a read of the journal has succeeded that began after this moment.
    pub(crate) async fn catch_up(&self, after: Moment) -> Result<Moment, Error> {
        self.moment(Order::CatchUp(after)).await
    }

    async fn moment(&self, order: Order) -> Result<Moment, Error> {
        match self.ask(order, LONG).await? {
            Reply::At(at) => Ok(at),
            other => Err(self.unexpected(&other)),
        }
    }

    pub(crate) async fn revoke_all(&self, user: &str) -> Result<Revoked, Error> {
        match self.ask(Order::RevokeAll(user.to_owned()), SOON).await? {
            Reply::Revoked(revoked) => Ok(revoked),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Validates the sessions again that the node reported as invalid. Returns how many are valid.
    pub(crate) async fn recheck(&self) -> Result<u64, Error> {
        match self.ask(Order::Recheck, LONG).await? {
            Reply::LetIn(sessions) => Ok(sessions),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Returns the node's figures since the last mark.
    pub(crate) async fn report(&self) -> Result<Report, Error> {
        match self.ask(Order::Report, SOON).await? {
            Reply::Report(report) => Ok(*report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends an order and waits for its reply. There is one such order at a time.
    async fn ask(&self, order: Order, deadline: Duration) -> Result<Reply, Error> {
        let mut replies = self.replies.lock().await;
        let doing = format!("get a reply of {} to {order:?}", self.name());
        self.order(order);
        match timeout(deadline, replies.recv()).await {
            Ok(Some(Reply::Failed(why))) => Err(Error::because(doing, why)),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Error::because(doing, "the process has ended")),
            Err(late) => Err(Error::because(doing, late)),
        }
    }

    fn unexpected(&self, reply: &Reply) -> Error {
        let why = format!("{reply:?} is the reply to another order");
        Error::because(format!("understand {}", self.name()), why)
    }

    /// Stops the node normally.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        let stopping = || format!("stop node {}", self.place + 1);
        let Self { orders, mut child, .. } = self;
        // This closes the node's standard input.
        drop(orders);
        let status = timeout(END, child.wait()).await;
        let status = status.doing(stopping)?.doing(stopping)?;
        if !status.success() {
            return Err(Error::because(stopping(), status.to_string()));
        }
        Ok(())
    }
}

fn line(message: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes the settings, then the orders. The next reply detects a node that has ended.
async fn write(
    mut stdin: ChildStdin,
    settings: Vec<u8>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    if stdin.write_all(&settings).await.is_err() {
        return;
    }
    while let Some(order) = orders.recv().await {
        let Ok(line) = line(&order) else { return };
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Reads the node's reports until it ends.
async fn read(
    stdout: ChildStdout,
    place: usize,
    replies: mpsc::UnboundedSender<Reply>,
    invalid: mpsc::UnboundedSender<(usize, Invalid)>,
) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let sent = match serde_json::from_str(&line) {
            Ok(FromNode::Invalid(one)) => invalid.send((place, one)).is_ok(),
            Ok(FromNode::Reply(reply)) => replies.send(reply).is_ok(),
            Err(error) => replies.send(Reply::Failed(error.to_string())).is_ok(),
        };
        if !sent {
            return;
        }
    }
}
