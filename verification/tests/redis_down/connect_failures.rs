//! Redis cannot be connected to. Health, errors and the log name the cause.

use session_layer::cache::{ConnectCause, ConnectError, RedisCache};
use session_testkit::backends::Backend;
use session_testkit::wait;
use time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::certificates::{self, Ca};
use crate::harness::{Failure, Outcome, on};
use crate::support::{SOON, Servers, ask, login};

async fn failure(url: &str) -> Result<ConnectError, Failure> {
    let limit = std::time::Duration::from_secs(1);
    let failed = RedisCache::builder(url).connect(limit).await;
    Ok(failed.expect_err("this server cannot be used"))
}

/// Asserts that the health document and the errors of requests have these words of the cause.
async fn assert_reported(servers: &Servers, url: &str, words: &[&str]) -> Outcome {
    let sessions = servers.sessions_at(url).await?;
    let alice = login(&sessions, "alice").await?;
    wait::until(format!("health with {words:?}"), SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        let report = sessions.health().await;
        assert!(!report.redis.connected);
        let errors = report.errors.join("\n");
        assert!(!errors.contains("s3cret"), "{errors}");
        // Requests of the first second may have waited in vain.
        let recent = sessions.recent_errors().join("\n");
        words.iter().all(|word| errors.contains(word) && recent.contains(word))
    })
    .await?;
    sessions.shutdown(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cause_of_a_failed_connect_reaches_health() -> Outcome {
    on(Backend::Native, |_| async {
        let servers = Servers::shared().await?;
        let ca = Ca::new()?;
        let (redis, tls_port) =
            certificates::redis(&ca, &ca.issue("localhost", Duration::days(1))?, "no").await?;
        let port = redis.address().rsplit(':').next().unwrap_or_default();
        let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        for (url, cause, words) in [
            (format!("redis://u:s3cret@{closed}"), ConnectCause::Refused, ["refused", "running"]),
            (
                format!("rediss://u:s3cret@localhost:{tls_port}"),
                ConnectCause::Certificate,
                ["unknown CA", "REDIS_TLS_CA_FILE"],
            ),
            (
                format!("redis://u:s3cret@localhost:{tls_port}"),
                ConnectCause::Protocol,
                ["expects TLS", "rediss://"],
            ),
            (
                format!("rediss://u:s3cret@localhost:{port}"),
                ConnectCause::Protocol,
                ["speaks plain Redis", "redis://"],
            ),
            (
                format!("redis://u:s3cret@localhost:{port}"),
                ConnectCause::Authentication,
                ["WRONGPASS", "user and password"],
            ),
        ] {
            let error = failure(&url).await?;
            assert_eq!(error.cause(), cause, "{error}");
            assert!(std::error::Error::source(&error).is_some(), "{error}");
            assert_reported(&servers, &url, &words).await?;
        }
        Ok(())
    })
    .await
}

// These refuse clients before they read a command, or are no Redis at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_other_servers_are_named() -> Outcome {
    for (reply, cause, why) in [
        (
            &b"-DENIED Redis is running in protected mode because\r\n"[..],
            ConnectCause::Rejected,
            "protected mode",
        ),
        (b"-ERR max number of clients reached\r\n", ConnectCause::Rejected, "limit of clients"),
        (
            b"-ERR unknown command 'AUTH', with args beginning with: 'u' 's3cret' \r\n",
            ConnectCause::Rejected,
            "'AUTH'",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectCause::Protocol, "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ConnectCause::Protocol, "protocol of Redis"),
        (b"", ConnectCause::Network, "closed the connection"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://u:s3cret@{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _gone = stream.write_all(reply).await;
                let _gone = stream.shutdown().await;
            }
        });
        let error = failure(&url).await?;
        assert_eq!(error.cause(), cause, "{error}");
        assert!(error.why().contains(why), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        server.abort();
    }
    // A listener that accepts and stays silent.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    for scheme in ["redis", "rediss"] {
        let error = failure(&format!("{scheme}://{}", silent.local_addr()?)).await?;
        assert_eq!(error.cause(), ConnectCause::TimedOut, "{error}");
    }
    Ok(())
}
