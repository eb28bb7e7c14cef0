//! The certificates of both servers expire while the service runs.

use std::time::Duration;

use session_testkit::backends::{Backend, Backends};
use session_testkit::wait;

use crate::harness::{Outcome, on};
use crate::judged::judged;
use crate::support::{roomy, until_connected};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificates_are_named_while_the_service_continues() -> Outcome {
    on(Backend::Native, |backend| async move {
        let own = Backends::builder().backend(backend).start().await?;
        let deployment = roomy().tls(true).start(own).await?;
        let node = deployment.subject().node(0).expect("a node");
        let limit = Duration::from_secs(60);
        let named = wait::until("the cause in the health document", limit, async || {
            let report = node.health().await;
            report.errors.iter().any(|error| error.contains("certificate has expired"))
        });
        let steps = ["certificate-expire@1+5"];
        let (judged, named) = tokio::join!(judged(&deployment, &steps, 18), named);
        let judged = judged?;
        named?;
        // Open connections to Postgres serve every request meanwhile.
        assert!(judged.availability.answered_with_neither > 100, "{judged}");
        assert_eq!(judged.availability.unavailable_with_neither, 0, "{judged}");
        // The renewed certificate needs no restart.
        until_connected(&node).await?;
        Ok(())
    })
    .await
}
