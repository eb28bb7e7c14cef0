//! `sessionctl report`: the page of a deployment that works, and the cause of one that does not.

use std::time::Duration;

use serde_json::Value;
use session_testkit::{
    backends::Backends,
    proxy::{Proxy, Toxic},
};
use tokio::process::Command;

use crate::command::{Ran, run, sessionctl};
use crate::harness::{Failure, Outcome, default_backend};
use crate::support::{Servers, cache_within, login, until_hit};

/// Returns a short report of these servers.
fn report(redis_url: &str, database_url: &str) -> Command {
    let mut command = sessionctl();
    command.args(["report", "--requests", "200", "--sessions", "50", "--phase", "1s", "--json"]);
    command.args(["--redis-url", redis_url, "--database-url", database_url]);
    command
}

/// Returns the document, and the reasons as one text.
fn document(ran: &Ran) -> Result<(Value, String), Failure> {
    let document: Value = serde_json::from_str(&ran.stdout)?;
    let reasons = document["reasons"].to_string();
    Ok((document, reasons))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_servers_are_measured_through_an_outage() -> Outcome {
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    let folder = tempfile::tempdir()?;
    let (html, markdown) = (folder.path().join("r.html"), folder.path().join("r.md"));
    let mut command = report(servers.redis.url(), servers.database_url());
    command
        .env("SESSION_CACHE_NAMESPACE", servers.namespace())
        .env("SESSION_DB_SCHEMA", servers.schema())
        .arg("--html")
        .arg(&html)
        .arg("--markdown")
        .arg(&markdown);
    let ran = run(&mut command).await?;
    let (document, reasons) = document(&ran)?;
    // Goals of latency may be missed on a busy machine, and nothing else.
    assert!([0, 1].contains(&ran.code), "{reasons}");
    assert_eq!(document["checks"]["ok"], true, "{reasons}");
    let measured = &document["measured"];
    for name in ["postgresAlone", "withCache", "hit", "miss"] {
        assert!(measured["latencies"][name]["count"].as_u64() > Some(0), "{name}: {measured}");
    }
    let outage = &measured["outage"];
    assert_eq!(outage["how"], "cut off behind a proxy");
    // On a busy machine Redis may be too slow to be used again within the run, and the report says
    // so.
    match outage["hitsAgainMs"].as_u64() {
        None => assert!(reasons.contains("Redis was not used again after its return"), "{reasons}"),
        again => assert!(again > outage["upMs"].as_u64(), "{outage}"),
    }
    let samples = outage["samples"].as_array().map_or(&[][..], Vec::as_slice);
    let away = samples.iter().filter(|sample| {
        let at = sample["atMs"].as_u64();
        // A quarter of a second is a sample.
        at > outage["downMs"].as_u64().map(|at| at + 250) && at < outage["upMs"].as_u64()
    });
    assert!(away.clone().count() > 0 && away.clone().all(|it| it["hitRate"] == 0.0), "{outage}");
    let page = std::fs::read_to_string(html)?;
    assert_eq!(page.matches("<svg").count(), 3, "{page}");
    assert!(page.contains("prefers-color-scheme:dark"), "{page}");
    for outside in ["http-equiv", "<script", "<link", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(std::fs::read_to_string(markdown)?.contains("## Before and after"));
    drop(node);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_is_the_named_cause() -> Outcome {
    let servers = Servers::own_redis_with(&["--maxmemory", "1kb"]).await?;
    servers.store().await?;
    let mut command = report(servers.redis.url(), servers.database_url());
    command.env("SESSION_DB_SCHEMA", servers.schema());
    let ran = run(&mut command).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let (document, reasons) = document(&ran)?;
    assert_eq!(document["verdict"], "failed");
    assert!(reasons.contains("OOM") && reasons.contains("raise maxmemory"), "{reasons}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_redis_is_the_named_cause() -> Outcome {
    let servers = Servers::shared().await?;
    servers.store().await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let _slow = proxy.inject(Toxic::latency(Duration::from_millis(15), Duration::ZERO));
    let mut command = report(&proxy.url(servers.redis.url()), servers.database_url());
    command.env("SESSION_DB_SCHEMA", servers.schema());
    let ran = run(&mut command).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let (_, reasons) = document(&ran)?;
    assert!(reasons.contains("Redis is slow: a PING takes"), "{reasons}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_the_key_does_not_open_are_the_named_cause() -> Outcome {
    const KEYS: [&str; 3] = [
        "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "b:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "a:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ];
    let servers = Servers::shared().await?;
    let sealed = session_layer::cache::RedisCache::builder(servers.redis.url())
        .namespace(servers.namespace())
        .deadline(Duration::from_millis(500))
        .encryption_keys(KEYS[0].parse()?)
        .build()?;
    let node = crate::support::built(sealed, servers.store().await?);
    until_hit(&node, &login(&node, "alice").await?).await?;
    for (key, code, part) in [
        (KEYS[0], 0, "1 of the application's entries were read and open"),
        (KEYS[1], 1, "sealed with a key that SESSION_CACHE_KEY lacks"),
        (KEYS[2], 1, "sealed with another key"),
        ("", 1, "sealed with a key that SESSION_CACHE_KEY lacks"),
    ] {
        let mut command = sessionctl();
        command
            .arg("check")
            .env("REDIS_URL", servers.redis.url())
            .env("DATABASE_URL", servers.database_url())
            .env("SESSION_CACHE_NAMESPACE", servers.namespace())
            .env("SESSION_DB_SCHEMA", servers.schema())
            .env("SESSION_CACHE_KEY", key);
        let ran = run(&mut command).await?;
        assert_eq!(ran.code, code, "{key}");
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
    let plain = cache_within(Duration::from_millis(500), servers.redis.url(), &servers.sandbox)?;
    let node = crate::support::built(plain, servers.store().await?);
    until_hit(&node, &login(&node, "bob").await?).await?;
    let mut command = report(servers.redis.url(), servers.database_url());
    command
        .env("SESSION_CACHE_NAMESPACE", servers.namespace())
        .env("SESSION_DB_SCHEMA", servers.schema())
        .env("SESSION_CACHE_KEY", KEYS[0]);
    let ran = run(&mut command).await?;
    let (_, reasons) = document(&ran)?;
    assert_eq!(ran.code, 1);
    assert!(reasons.contains("not sealed, although SESSION_CACHE_KEY is set"), "{reasons}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_url_is_the_named_cause_and_nothing_is_measured() -> Outcome {
    let servers = Servers::shared().await?;
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for (url, cause) in [
        (format!("redis://{address}"), "refused"),
        (servers.redis.url().replace("redis://", "http://"), "not usable"),
    ] {
        let ran = run(&mut report(&url, servers.database_url())).await?;
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let (document, reasons) = document(&ran)?;
        assert!(document["measured"].is_null(), "{document}");
        assert!(reasons.contains(cause), "{reasons}");
    }
    Ok(())
}

/// The environment may be that of production, and the report makes load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_alone_makes_no_load_without_yes() -> Outcome {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let redis = format!("redis://u:s3cret@{address}");
    let postgres = format!("postgres://u:s3cret@{address}/app");
    for flags in [&[][..], &["--redis-url", &redis]] {
        let mut command = sessionctl();
        command.args(["report", "--json"]).args(flags);
        let ran = run(command.env("REDIS_URL", &redis).env("DATABASE_URL", &postgres)).await?;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        let target = format!("redis://{address} and postgres://{address}");
        assert!(ran.stderr.contains(&target) && ran.stderr.contains("--yes"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("s3cret"), "{}", ran.stderr);
    }
    let mut command = sessionctl();
    command.args(["report", "--json", "--yes"]);
    let ran = run(command.env("REDIS_URL", &redis).env("DATABASE_URL", &postgres)).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let (document, reasons) = document(&ran)?;
    assert!(document["measured"].is_null(), "{document}");
    assert!(reasons.contains("refused"), "{reasons}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_or_a_bad_number_cannot_be_reported() -> Outcome {
    let backends = Backends::builder().backend(default_backend().await?);
    let redis = backends.start_redis().await?;
    let mut command = sessionctl();
    let ran = run(command.args(["report", "--json", "--redis-url", redis.url()])).await?;
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("name both servers"), "{}", ran.stdout);
    let mut command = sessionctl();
    let ran = run(command.args(["report", "--requests", "0"])).await?;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--requests"), "{}", ran.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_of_sqlite_cannot_be_measured() -> Outcome {
    for by_environment in [true, false] {
        let mut command = sessionctl();
        command.arg("report");
        let name = if by_environment {
            command.env("DATABASE_URL", "sqlite:hunter2.db");
            "DATABASE_URL"
        } else {
            command.args(["--database-url", "sqlite:hunter2.db"]);
            "--database-url"
        };
        let ran = run(&mut command).await?;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(&format!("{name} is sqlite:, a file")), "{}", ran.stderr);
        assert!(!ran.stderr.contains("--yes") && !ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    Ok(())
}
