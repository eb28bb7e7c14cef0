//! Does a middleware keep Tower's rules? For whoever writes a [`Layer`].
//!
//! The layer is put around an inner service that is picky: it is ready only where it was polled, counts
//! the readiness slots it gave out, fails on demand, and leaves its future pending for a while, so that
//! it can be dropped at each await. What the middleware does to it shows whether it keeps the [`Rule`]s.
//!
//! ```
//! use session_testkit::probe::{self, Probe};
//! use tower::timeout::TimeoutLayer;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), probe::RulesBroken> {
//! let layer = TimeoutLayer::new(std::time::Duration::from_secs(30));
//! let report = Probe::new(layer, || "a request", || "an answer").run().await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! Requests and answers are of any type: with `http` they are a `Request<B>` and a `Response<B>` of any
//! body, made by the two functions. The middleware's future may be boxed or have a name, and its error may
//! be the inner service's own or one made of it.
//!
//! What the compiler can tell is asserted at compile time, by [`assert_auto_traits`]:
//!
//! ```
//! use session_testkit::probe;
//! use tower::timeout::TimeoutLayer;
//!
//! const _: () = probe::assert_auto_traits::<TimeoutLayer, &str, &str>();
//! ```

mod inner;
mod rule;
mod steps;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;

use std::{error::Error, fmt, sync::Arc};

use tower::{Layer, Service};

pub use self::inner::{Inner, InnerError, InnerFuture};
pub use self::rule::{Report, Rule, RulesBroken, Violation};

type BoxError = Box<dyn Error + Send + Sync>;
type Make<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// Probes a middleware with requests `Req`, around an [`Inner`] service that answers with `Res`.
#[must_use]
pub struct Probe<L, Req, Res> {
    layer: L,
    /// The first passes; the others may be answered by the middleware itself.
    requests: Vec<Make<Req>>,
    answer: Make<Res>,
    allowed: Vec<Rule>,
}

impl<L, Req, Res> Probe<L, Req, Res> {
    /// A probe of this layer. `request` makes a request that reaches the inner service, `answer` what
    /// that answers with.
    pub fn new(
        layer: L,
        request: impl Fn() -> Req + Send + Sync + 'static,
        answer: impl Fn() -> Res + Send + Sync + 'static,
    ) -> Self {
        Self {
            layer,
            requests: vec![Arc::new(request)],
            answer: Arc::new(answer),
            allowed: Vec::new(),
        }
    }

    /// Another kind of request, which may also be one that the middleware answers by itself. Defaults to
    /// none.
    pub fn also(mut self, request: impl Fn() -> Req + Send + Sync + 'static) -> Self {
        self.requests.push(Arc::new(request));
        self
    }

    /// Lets the middleware break a rule, for one whose purpose that is: a load shedder has no
    /// [`Backpressure`](Rule::Backpressure). Defaults to none.
    pub fn allowing(mut self, rule: Rule) -> Self {
        self.allowed.push(rule);
        self
    }

    /// Probes it. This needs a Tokio runtime with time, and takes moments; where something hangs, some
    /// seconds.
    ///
    /// # Errors
    ///
    /// [`RulesBroken`] names each rule that was broken, and how.
    pub async fn run(self) -> Result<Report, RulesBroken>
    where
        L: Layer<Inner<Res>>,
        L::Service: Service<Req> + Clone,
        <L::Service as Service<Req>>::Error: Into<BoxError>,
        Res: Send + 'static,
    {
        let allowed = self.allowed.clone();
        let (mut report, mut violations) = steps::take(&self).await;
        violations.retain(|violation| !allowed.contains(&violation.rule));
        if violations.is_empty() {
            report.allowed = allowed;
            return Ok(report);
        }
        Err(RulesBroken { violations })
    }
}

impl<L: fmt::Debug, Req, Res> fmt::Debug for Probe<L, Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("layer", &self.layer)
            .field("requests", &self.requests.len())
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

/// Compiles only if servers can use the layer: it and its service are `Clone`, `Send` and `Sync`, and
/// the future is `Send`, around an inner service of which the same is true. It is what axum and hyper
/// ask for.
///
/// A future that holds an `Rc` is none:
///
/// ```compile_fail
/// use std::{future::Future, pin::Pin, rc::Rc, task::{Context, Poll}};
/// use session_testkit::probe;
/// use tower::{Layer, Service};
///
/// #[derive(Clone)]
/// struct Local<S = ()>(S);
/// impl<S> Layer<S> for Local {
///     type Service = Local<S>;
///     fn layer(&self, inner: S) -> Local<S> { Local(inner) }
/// }
/// impl<R, S: Service<R>> Service<R> for Local<S>
/// where
///     S::Future: 'static,
/// {
///     type Response = S::Response;
///     type Error = S::Error;
///     type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>>>>;
///     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> { self.0.poll_ready(cx) }
///     fn call(&mut self, request: R) -> Self::Future { Box::pin(self.0.call(request)) }
/// }
///
/// const _: () = probe::assert_auto_traits::<Local, &str, &str>();
/// ```
pub const fn assert_auto_traits<L, Req, Res>()
where
    Res: Send + 'static,
    L: Layer<Inner<Res>> + Clone + Send + Sync + 'static,
    L::Service: Service<Req> + Clone + Send + Sync + 'static,
    <L::Service as Service<Req>>::Future: Send + 'static,
    <L::Service as Service<Req>>::Error: Send + Sync + 'static,
{
}
