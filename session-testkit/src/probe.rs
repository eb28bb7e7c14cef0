//! A probe of whether a middleware keeps Tower's rules, for authors of a [`Layer`].
//!
//! The probe wraps a strict inner service with the layer. That service is ready only if it was
//! polled, counts its readiness slots, and fails on demand. Its future is pending several times, so
//! that it can be dropped at each await. The middleware's use of it shows whether it keeps the
//! [`Rule`]s.
//!
//! ```
//! use session_testkit::probe::{self, Probe};
//! use tower::timeout::TimeoutLayer;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), probe::RulesBroken> {
//! let layer = TimeoutLayer::new(std::time::Duration::from_secs(30));
//! let report = Probe::new(layer, || "a request", || "a response").run().await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! Requests and responses may have any type. With `http`, the two functions make a `Request<B>` and
//! a `Response<B>` with any body. The middleware's future may be boxed or a named type. Its error
//! may be the inner service's own, or made from it.
//!
//! [`assert_auto_traits`] checks at compile time what the compiler can prove:
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
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests;

use std::{error::Error, fmt, sync::Arc};

use tower::{Layer, Service};

pub use self::inner::{Inner, InnerError};
pub use self::rule::{Report, Rule, RulesBroken, Violation};

type BoxError = Box<dyn Error + Send + Sync>;
type Make<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// A probe of a middleware with requests `Req`, around an [`Inner`] service that responds `Res`.
#[must_use]
pub struct Probe<L, Req, Res> {
    layer: L,
    /// The first request passes. The middleware may respond to the others itself.
    requests: Vec<Make<Req>>,
    answer: Make<Res>,
}

impl<L, Req, Res> Probe<L, Req, Res> {
    /// Creates a probe of this layer. `request` makes a request that reaches the inner service, and
    /// `answer` makes that service's response.
    pub fn new(
        layer: L,
        request: impl Fn() -> Req + Send + Sync + 'static,
        answer: impl Fn() -> Res + Send + Sync + 'static,
    ) -> Self {
        Self { layer, requests: vec![Arc::new(request)], answer: Arc::new(answer) }
    }

    /// Adds another kind of request, to which the middleware may respond itself. Defaults to none.
    pub fn also(mut self, request: impl Fn() -> Req + Send + Sync + 'static) -> Self {
        self.requests.push(Arc::new(request));
        self
    }

    /// Runs the probe. It needs a Tokio runtime with time. It takes moments, or a few seconds if
    /// something hangs.
    ///
    /// # Errors
    ///
    /// [`RulesBroken`] names each broken rule, and how it was broken.
    pub async fn run(self) -> Result<Report, RulesBroken>
    where
        L: Layer<Inner<Res>>,
        L::Service: Service<Req> + Clone,
        <L::Service as Service<Req>>::Error: Into<BoxError>,
        Res: Send + 'static,
    {
        let (report, violations) = steps::take(&self).await;
        if violations.is_empty() { Ok(report) } else { Err(RulesBroken { violations }) }
    }
}

impl<L: fmt::Debug, Req, Res> fmt::Debug for Probe<L, Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("layer", &self.layer)
            .field("requests", &self.requests.len())
            .finish_non_exhaustive()
    }
}

/// Compiles only if servers such as axum and hyper can use the layer. The layer and its service
/// must be `Clone`, `Send` and `Sync`, and the future `Send`, around an inner service with the same
/// traits.
pub const fn assert_auto_traits<L, Req, Res>()
where
    Res: Send + 'static,
    L: Layer<Inner<Res>> + Clone + Send + Sync + 'static,
    L::Service: Service<Req> + Clone + Send + Sync + 'static,
    <L::Service as Service<Req>>::Future: Send + 'static,
    <L::Service as Service<Req>>::Error: Send + Sync + 'static,
{
}
