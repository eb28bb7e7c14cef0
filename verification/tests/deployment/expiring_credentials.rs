//! Tokens that expire while connections are open, for both servers.

use session_testkit::backends::Backends;

use crate::harness::{Outcome, default_backend};
use crate::judged::judged;
use crate::support::roomy;

// Redis closes the connections of a token that has expired, and Postgres refuses new ones with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiring_tokens_cost_no_request() -> Outcome {
    let own = Backends::builder().backend(default_backend().await?).start().await?;
    let deployment = roomy().tokens(true).start(own).await?;
    let judged = judged(&deployment, &["credentials-expire@1+11"], 18).await?;
    assert_eq!(judged.availability.unavailable_with_postgres, 0, "{judged}");
    assert!(judged.availability.answered_with_postgres > 500, "{judged}");
    // Each was authenticated with the next token before its own expired.
    assert_eq!(deployment.tokens().map(|tokens| tokens.closed()), Some(0), "{judged}");
    Ok(())
}
