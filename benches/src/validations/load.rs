//! The closed loop, and the sessions that it asks for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::Zipf;
use session_layer::TokenDigest;
use tokio::task::JoinSet;

use crate::Error;

/// The order in which sessions are asked for repeats after this many calls.
const ORDER: usize = 1 << 20;

/// The sessions, and the order in which they are asked for.
#[derive(Debug)]
pub struct Load {
    /// The tokens of the sessions.
    pub tokens: Vec<String>,
    /// The data of each session, a JSON string.
    pub data: String,
    order: Arc<[u32]>,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Calls per second.
    pub rate: f64,
    /// CPU time of this process per call, in microseconds.
    pub cpu_us: f64,
}

/// A service or a bare command that one caller calls. Clones share connections.
pub trait Subject: Clone + Send + 'static {
    /// Validates the session with this number, which is valid.
    fn call(&mut self, session: usize) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A subject as a row of the table.
pub struct Row {
    /// The name of the row.
    pub name: &'static str,
    /// The names of the rows whose rates are divided in the column of ratios.
    pub ratio: Option<[&'static str; 2]>,
    subject: Box<dyn Measurable>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Row {
    /// Creates a row without a ratio.
    pub fn new(name: &'static str, subject: impl Subject) -> Self {
        Self { name, ratio: None, subject: Box::new(subject) }
    }

    /// Shows the rate of the first row divided by that of the second.
    #[must_use]
    pub fn ratio(self, of: &'static str, to: &'static str) -> Self {
        Self { ratio: Some([of, to]), ..self }
    }

    /// Lets this many callers call the subject for a time.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn measure(
        &self,
        load: &Load,
        callers: usize,
        span: Duration,
    ) -> Result<Measured, Error> {
        self.subject.measure(load, callers, span).await
    }
}

/// [`Subject`] as a trait object. A call is still a static one.
trait Measurable {
    fn measure<'a>(
        &'a self,
        load: &'a Load,
        callers: usize,
        span: Duration,
    ) -> LocalBoxFuture<'a, Result<Measured, Error>>;
}

impl<S: Subject> Measurable for S {
    fn measure<'a>(
        &'a self,
        load: &'a Load,
        callers: usize,
        span: Duration,
    ) -> LocalBoxFuture<'a, Result<Measured, Error>> {
        Box::pin(load.measure(self, callers, span))
    }
}

impl Load {
    /// Creates this many sessions with this many bytes of data each.
    ///
    /// # Panics
    /// Never: Zipf's law accepts every number of sessions.
    #[must_use]
    pub fn new(sessions: u32, data: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(1);
        let zipf = Zipf::new(f64::from(sessions.max(1)), 1.0).expect("one session or more");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to N")]
        let order = (0..ORDER).map(|_| rng.sample::<f64, _>(zipf) as u32 - 1).collect();
        let tokens = (0..sessions).map(token).collect();
        Self { tokens, data: format!("\"{}\"", "d".repeat(data.saturating_sub(2))), order }
    }

    async fn measure<S: Subject>(
        &self,
        subject: &S,
        callers: usize,
        span: Duration,
    ) -> Result<Measured, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (cpu, began) = (cpu_time()?, Instant::now());
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (stop, order) = (Arc::clone(&stop), Arc::clone(&self.order));
            let mut subject = subject.clone();
            tasks.spawn(async move {
                let mut calls = 0_u64;
                let mut at = caller * (ORDER / 1024) % ORDER;
                while !stop.load(Ordering::Relaxed) {
                    subject.call(order[at] as usize).await?;
                    at = (at + 1) % ORDER;
                    calls += 1;
                }
                Ok::<_, Error>(calls)
            });
        }
        tokio::time::sleep(span).await;
        stop.store(true, Ordering::Relaxed);
        let mut calls = 0;
        while let Some(ended) = tasks.join_next().await {
            calls += ended??;
        }
        let (cpu, took) = (cpu_time()? - cpu, began.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 calls")]
        let calls = calls.max(1) as f64;
        Ok(Measured { rate: calls / took.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / calls })
    }
}

/// Returns token number `n`: 43 characters, the last of which has its low bits clear.
fn token(n: u32) -> String {
    use std::fmt::Write as _;
    let mut token = String::with_capacity(43);
    for byte in &TokenDigest::of(&n.to_string()).as_bytes()[..21] {
        let _ = write!(token, "{byte:02x}");
    }
    token.push('A');
    token
}

/// Returns the CPU time that this process has used.
///
/// # Errors
/// If `/proc/self/stat` cannot be read.
pub fn cpu_time() -> Result<Duration, Error> {
    cpu_time_of("self")
}

/// Returns the CPU time that the process with this id has used.
///
/// # Errors
/// If its `stat` in `/proc` cannot be read.
pub fn cpu_time_of(process: &str) -> Result<Duration, Error> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("`stat` in /proc has another form")?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}
