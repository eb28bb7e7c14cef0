//! `sessionctl sessions`, `revoke` and `erase`: what they show, and what they end on a running
//! node.

use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use serde_json::Value;
use session_layer::cache::DEFAULT_DEADLINE;
use session_layer::{Created, NewSession, Sessions, Visibility};
use session_testkit::proxy::{Proxy, Toxic};
use tokio::process::Command;

use crate::command::{Ran, run, sessionctl};
use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, login, until_hit};

/// The staleness bound D, and what a busy machine adds.
const BOUND: Duration = Duration::from_secs(2);

/// Returns the command with the variables of an application on these servers.
fn on(servers: &Servers, arguments: &[&str]) -> Command {
    let mut command = sessionctl();
    command
        .env("REDIS_URL", servers.redis.url())
        .env("DATABASE_URL", servers.database_url())
        .env("SESSION_CACHE_NAMESPACE", servers.namespace())
        .env("SESSION_DB_SCHEMA", servers.schema())
        .env("USER", "operator")
        .args(arguments);
    command
}

/// Runs a command that succeeds, and returns its JSON document.
async fn json(servers: &Servers, arguments: &[&str]) -> Result<Value, Failure> {
    let ran = run(on(servers, arguments).arg("--json")).await?;
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
    Ok(serde_json::from_str(&ran.stdout)?)
}

/// Runs a command that cannot run, and returns what it prints.
async fn rejected(servers: &Servers, arguments: &[&str]) -> Result<Ran, Failure> {
    let ran = run(&mut on(servers, arguments)).await?;
    assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
    Ok(ran)
}

/// Returns a node, and sessions of three users, the first of whom has two.
async fn three_users(servers: &Servers) -> Result<(Sessions, Vec<Created>), Failure> {
    let node = servers.sessions().await?;
    let mut created = Vec::new();
    for (user, label, address) in [
        ("alice", "phone", "203.0.113.7"),
        ("alice", "laptop", "198.51.100.1"),
        ("bob", "phone", "203.0.113.9"),
        ("eve", "tv", "2001:db8::1"),
    ] {
        let new = NewSession::new(user).label(label).ip(address.parse()?).user_agent("curl/8");
        created.push(node.create(new).await?);
    }
    Ok((node, created))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_and_counted_by_each_criterion() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    let id = created[3].session.id().to_string();
    for (criteria, expected) in [
        (&[][..], 4),
        (&["--user", "alice"], 2),
        (&["--user", "nobody"], 0),
        (&["--label", "phone"], 2),
        (&["--user", "alice", "--label", "phone"], 1),
        (&["--address", "203.0.113.0/24"], 2),
        (&["--address", "203.0.113.9"], 1),
        (&["--address", "2001:db8::/32"], 1),
        (&["--id", &id], 1),
        (&["--older-than", "1h"], 0),
        (&["--newer-than", "1h"], 4),
        (&["--idle-for", "1h"], 0),
    ] {
        let arguments = [&["sessions", "count"][..], criteria].concat();
        let counted = json(&servers, &arguments).await?;
        assert_eq!(counted["count"], expected, "{criteria:?}");
        let arguments = [&["sessions", "list"][..], criteria].concat();
        let listed = json(&servers, &arguments).await?;
        assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(expected), "{criteria:?}");
    }
    servers
        .sql("UPDATE sessions SET created_at = now() - interval '3 days' WHERE label = 'tv'")
        .await?;
    let old = json(&servers, &["sessions", "list", "--older-than", "2d"]).await?;
    assert_eq!(old["sessions"][0]["user"], "eve");
    let limited = json(&servers, &["sessions", "list", "--limit", "2"]).await?;
    assert_eq!(
        (limited["sessions"].as_array().map(Vec::len), &limited["more"]),
        (Some(2), &Value::Bool(true))
    );
    let text = run(&mut on(&servers, &["sessions", "list", "--user", "eve"])).await?;
    assert!(
        text.stdout.starts_with("SESSION") && text.stdout.contains("2001:db8::1"),
        "{}",
        text.stdout
    );

    let shown = json(&servers, &["sessions", "show", &id]).await?;
    assert_eq!(
        (&shown["user"], &shown["active"], &shown["userAgent"]),
        (&"eve".into(), &true.into(), &"curl/8".into())
    );
    let unknown = "00000000-0000-4000-8000-000000000000";
    let ran = run(&mut on(&servers, &["sessions", "show", unknown])).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains(unknown), "{}", ran.stderr);
    drop(node);
    Ok(())
}

/// Returns a node, with a persistent session and one that ends with the browser for each of two
/// users.
async fn both_kinds(servers: &Servers) -> Result<(Sessions, Vec<Created>), Failure> {
    let node = servers.sessions().await?;
    let mut created = Vec::new();
    for user in ["alice", "bob"] {
        for persistent in [true, false] {
            created.push(node.create(NewSession::new(user).persistent(persistent)).await?);
        }
    }
    Ok((node, created))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kind_selects_by_whether_the_cookie_outlives_the_browser() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = both_kinds(&servers).await?;
    for (kind, persistent) in [("persistent", true), ("browser", false)] {
        let of_kind = ["--kind", kind];
        let counted = json(&servers, &[&["sessions", "count"][..], &of_kind].concat()).await?;
        assert_eq!(counted["count"], 2, "{kind}");
        let of_alice = ["sessions", "list", "--user", "alice", "--kind", kind];
        let listed = json(&servers, &of_alice).await?;
        assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(1), "{kind}");
        assert_eq!(listed["sessions"][0]["persistent"], persistent, "{kind}");
    }
    let remembered = created[0].session.id().to_string();
    let other = ["sessions", "count", "--id", &remembered, "--kind", "browser"];
    assert_eq!(json(&servers, &other).await?["count"], 0);
    drop(node);
    Ok(())
}

// A user together with a kind must not raise the epoch, which would end the other kind too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_by_kind_shows_what_it_selects_and_ends_no_other() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = both_kinds(&servers).await?;
    for (arguments, preview, expected) in [
        (
            &["--user", "alice", "--kind", "persistent"][..],
            "1 session of kind persistent (the cookie outlives the browser) to end",
            ["invalid", "valid", "valid", "valid"],
        ),
        (
            &["--kind", "browser"],
            "2 sessions of kind browser (the cookie ends with the browser) to end",
            ["invalid", "invalid", "valid", "invalid"],
        ),
    ] {
        let revoke = [&["revoke"][..], arguments].concat();
        let asked = rejected(&servers, &revoke).await?;
        assert!(asked.stdout.contains(preview), "no `{preview}` in\n{}", asked.stdout);
        let ran = run(on(&servers, &revoke).arg("--yes")).await?;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        session_testkit::wait::until("the rejections", SOON, async || {
            let mut found = Vec::new();
            for session in &created {
                found.push(ask(&node, session).await);
            }
            found == expected
        })
        .await?;
    }
    Ok(())
}

// The session is served from Redis, and the node rejects it within the bound that the tool states.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_ends_sessions_on_a_running_node_and_keeps_who_and_why() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    for session in &created {
        until_hit(&node, session).await?;
    }
    let revoke = ["revoke", "--address", "203.0.113.0/24", "--actor", "ops: bob", "--reason"];
    let ended = json(&servers, &[&revoke[..], &["stolen", "--yes"]].concat()).await?;
    let returned = Instant::now();
    assert_eq!(ended["count"], 2, "{ended}");
    let within = match ended["revoked"].as_str() {
        Some("propagated") => Duration::ZERO,
        Some("committed") => Duration::from_millis(ended["withinMs"].as_u64().unwrap_or(u64::MAX)),
        other => panic!("{other:?}"),
    };
    assert!(within <= BOUND, "{ended}");
    tokio::time::sleep_until((returned + within).into()).await;
    let mut words = Vec::new();
    for session in &created {
        words.push(ask(&node, session).await);
    }
    assert_eq!(words, ["invalid", "valid", "invalid", "valid"]);

    let shown = json(&servers, &["sessions", "show", &created[0].session.id().to_string()]).await?;
    assert_eq!(
        (&shown["active"], &shown["endedBy"], &shown["endedReason"]),
        (&false.into(), &"ops: bob".into(), &"stolen".into())
    );
    let again = json(&servers, &[&revoke[..], &["stolen", "--yes"]].concat()).await?;
    assert_eq!((&again["count"], &again["revoked"]), (&0.into(), &"nothing".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_of_a_user_ends_all_of_them_and_no_others() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    let ended = json(&servers, &["sessions", "revoke", "--user", "alice", "--yes"]).await?;
    assert_eq!(ended["count"], 2, "{ended}");
    tokio::time::sleep(BOUND).await;
    let mut words = Vec::new();
    for session in &created {
        words.push(ask(&node, session).await);
    }
    assert_eq!(words, ["invalid", "invalid", "valid", "valid"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_revoke_all_continues_when_it_is_run_again() -> Outcome {
    const REVOKE_ALL: [&str; 5] = ["revoke", "--all", "--reason", "key leaked", "--yes"];
    const OF_THE_TOOL: &str = "SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL AND \
                               ended_by = 'operator' AND ended_reason = 'key leaked'";
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    let kept = login(&node, "alice").await?;
    until_hit(&node, &kept).await?;
    servers
        .sql(
            "INSERT INTO sessions (token_digest, user_id, expires_at, revoked_at, ended_by) \
             SELECT sha256(convert_to(n::text, 'UTF8')), 'user ' || n % 700, \
               now() + interval '1 hour', CASE WHEN n <= 1000 THEN now() END, \
               CASE WHEN n <= 1000 THEN 'before' END FROM generate_series(1, 6200) n",
        )
        .await?;
    let mut operator = servers.operator().await?;
    let mut first = on(&servers, &REVOKE_ALL).spawn()?;
    session_testkit::wait::until("a batch", SOON, async || {
        let marked = sqlx::query_scalar::<_, i64>(OF_THE_TOOL).fetch_one(&mut operator).await;
        marked.is_ok_and(|marked| marked > 0)
    })
    .await?;
    first.kill().await?;

    let ended = json(&servers, &REVOKE_ALL).await?;
    assert!((1..5201).contains(&ended["count"].as_u64().unwrap_or_default()), "{ended}");
    tokio::time::sleep(BOUND).await;
    assert_eq!(ask(&node, &kept).await, "invalid");
    let marked: i64 = sqlx::query_scalar(OF_THE_TOOL).fetch_one(&mut operator).await?;
    assert_eq!(marked, 5201, "those that had ended before keep who ended them");
    let after = login(&node, "alice").await?;
    assert_eq!(ask(&node, &after).await, "valid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_a_trigger_keeps_from_ending_are_named() -> Outcome {
    let servers = Servers::shared().await?;
    let _created = three_users(&servers).await?;
    servers
        .sql(
            "CREATE FUNCTION keep_alive() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN NEW.revoked_at := NULL; RETURN NEW; END'",
        )
        .await?;
    servers
        .sql(
            "CREATE TRIGGER keep_alive BEFORE UPDATE ON sessions FOR EACH ROW \
             EXECUTE FUNCTION keep_alive()",
        )
        .await?;
    let ran = run(&mut on(&servers, &["revoke", "--all", "--reason", "test", "--yes"])).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("does a trigger of your own change"), "{}", ran.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erase_leaves_no_row_with_an_address_and_ends_the_sessions() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    for session in &created[..2] {
        until_hit(&node, session).await?;
    }
    let _ended_before = node.revoke(created[1].session.id()).await?;
    let erased = json(&servers, &["erase", "alice", "--yes"]).await?;
    assert_eq!(erased["erased"], 2, "{erased}");
    tokio::time::sleep(BOUND).await;
    assert_eq!(ask(&node, &created[0]).await, "invalid");
    assert_eq!(ask(&node, &created[2]).await, "valid");
    let mut operator = servers.operator().await?;
    let rows = "SELECT (SELECT count(*) FROM sessions WHERE user_id = 'alice'), \
                (SELECT count(*) FROM session_users WHERE user_id = 'alice' AND epoch > 0)";
    let rows: (i64, i64) = sqlx::query_as(rows).fetch_one(&mut operator).await?;
    assert_eq!(rows, (0, 1), "the epoch stays for logins in progress");
    let again = login(&node, "alice").await?;
    assert_eq!(ask(&node, &again).await, "valid");
    Ok(())
}

// A login that began before the erasure must not be let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_in_progress_does_not_survive_an_erasure() -> Outcome {
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    login(&node, "alice").await?;
    let in_progress = node.begin_login().await?;
    let erased = node.erase_user("alice").await?;
    assert_eq!(erased.value, 1);
    // An earlier call may have deleted rows whose entries are cached, so none is `Propagated`.
    let again = node.erase_user("alice").await?;
    for erased in [erased, again] {
        let visibility = erased.visibility;
        assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    }
    let late = in_progress.create(NewSession::new("alice")).await;
    assert!(matches!(late, Err(session_layer::Error::LoginSuperseded)), "{late:?}");
    Ok(())
}

/// Returns whether Redis has an entry of the user bob in the application's namespace.
async fn has_entry(servers: &Servers) -> Result<bool, Failure> {
    let digest = "SELECT translate(encode(token_digest, 'base64'), '+/=', '-_') FROM sessions \
                  WHERE user_id = 'bob'";
    let mut operator = servers.operator().await?;
    let digest: String = sqlx::query_scalar(digest).fetch_one(&mut operator).await?;
    let mut redis = servers.redis.connect().await?;
    let pattern = format!("{}*{digest}*", servers.namespace());
    Ok(redis.scan_match::<_, String>(pattern).await?.next_item().await.is_some())
}

// The environment of the tool is not the application's. With the flags, it removes the entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_flags_are_used_and_printed() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    until_hit(&node, &created[2]).await?;
    // Only the tool is left to remove the entry.
    let _late = node.shutdown(SOON).await;
    assert!(has_entry(&servers).await?, "there is an entry to remove");
    let namespace = servers.namespace().to_owned();
    let mut command = on(&servers, &["revoke", "--user", "bob", "--yes", "--json"]);
    command
        .env("SESSION_CACHE_NAMESPACE", "of-another-application")
        .env("SESSION_DB_SCHEMA", "missing")
        .args(["--namespace", &namespace, "--schema", servers.schema()])
        .args(["--ttl", "60", "--journal-interval", "250ms", "--policy", "fail-closed"])
        .arg("--cache-replicated");
    let ran = run(&mut command).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout)?;
    // A replica that is promoted may bring the entry back.
    assert_eq!(document["revoked"], "committed", "{document}");
    let settings = serde_json::json!({
        "namespace": &namespace, "schema": servers.schema(), "ttl": 60,
        "policy": "fail-closed", "journalIntervalMs": 250, "cacheReplicated": true,
    });
    assert_eq!(document["settings"], settings);
    let line = format!("namespace {namespace}, schema {}, TTL 60 s", servers.schema());
    assert!(ran.stderr.contains(&line), "no `{line}` in\n{}", ran.stderr);
    assert!(!has_entry(&servers).await?, "the entry is still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_one_document_also_if_nothing_or_not_all_was_done() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    for (arguments, count) in [
        (&["revoke", "--user", "alice", "--json"][..], "count"),
        (&["erase", "alice", "--json"], "erased"),
    ] {
        let ran = rejected(&servers, arguments).await?;
        let document: Value = serde_json::from_str(&ran.stdout)?;
        let found = (&document["complete"], &document[count], &document["revoked"]);
        assert_eq!(found, (&false.into(), &0.into(), &"nothing".into()), "{document}");
    }
    assert_eq!(ask(&node, &created[0]).await, "valid");
    servers.sql("ALTER FUNCTION erase_sessions RENAME TO erase_sessions_away").await?;
    let ran = run(&mut on(&servers, &["erase", "alice", "--yes", "--json"])).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!((&document["complete"], &document["erased"]), (&false.into(), &Value::Null));
    assert!(document["error"].is_string(), "{document}");
    Ok(())
}

// A client chooses its user agent and label, and could move the cursor of the terminal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_of_a_client_moves_no_cursor() -> Outcome {
    const TEXT: &str = "a\u{1b}[2J\nb\u{9b}c";
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    let new = NewSession::new(TEXT).label(TEXT).user_agent(TEXT);
    let id = node.create(new).await?.session.id().to_string();
    for (arguments, lines) in [
        (&["sessions", "list"][..], Some(2)),
        (&["sessions", "show", &id], None),
        (&["sessions", "list", "--json"], None),
        (&["erase", TEXT, "--yes"], None),
    ] {
        let ran = run(&mut on(&servers, arguments)).await?;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let printed = ran.stdout.clone() + &ran.stderr;
        assert!(!printed.contains(|it: char| it.is_control() && it != '\n'), "{printed:?}");
        assert!(lines.is_none_or(|lines| ran.stdout.lines().count() == lines), "{printed:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_explained_and_changes_nothing() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, created) = three_users(&servers).await?;
    for (arguments, named) in [
        (&["revoke"][..], "--all"),
        (&["revoke", "--all", "--user", "alice", "--yes"], "--all"),
        (&["revoke", "--all"], "--yes"),
        (&["erase", "alice"], "--yes"),
        (&["erase", "", "--yes"], "USER"),
        (&["sessions", "list", "--id", "7"], "UUID"),
        (&["sessions", "list", "--older-than", "7"], "30d"),
        (&["sessions", "list", "--address", "10.0.0.0/33"], "10.1.0.0/16"),
        (&["sessions", "list", "--limit", "0"], "--limit"),
        (&["sessions", "list", "--kind", "remembered"], "persistent, browser"),
        (&["sessions", "list", "--database-url", "sqlite:app.db"], "sqlite"),
        (&["sessions", "list", "--database-url", ""], "DATABASE_URL"),
        (&["revoke", "--all", "--yes", "--redis-url", ""], "REDIS_URL"),
        (&["sessions", "list", "--schema", "missing"], "migrat"),
        (&["revoke", "--all", "--yes", "--ttl", "0"], "1 to 86400"),
        (&["erase", "alice", "--yes", "--policy", "open"], "fail-closed"),
        (&["erase", "alice", "--yes", "--journal-interval", "1ms"], "--journal-interval"),
    ] {
        let ran = rejected(&servers, arguments).await?;
        assert!(ran.stderr.contains(named), "{arguments:?}: no `{named}` in\n{}", ran.stderr);
    }
    let reason = "a".repeat(201);
    let ran = run(&mut on(&servers, &["revoke", "--all", "--yes", "--reason", &reason])).await?;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("200"), "{}", ran.stderr);
    for session in &created {
        assert_eq!(ask(&node, session).await, "valid");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_that_is_only_committed_states_why() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, _) = three_users(&servers).await?;
    for arguments in [&["revoke", "--user", "alice", "--yes"][..], &["erase", "bob", "--yes"]] {
        let mut command = on(&servers, arguments);
        let ran = run(command.env("REDIS_URL", "redis://127.0.0.1:1")).await?;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stdout.contains("committed: nodes that reach Postgres"), "{}", ran.stdout);
        assert!(ran.stdout.contains("why: Redis is not connected"), "{}", ran.stdout);
    }
    let ended = json(&servers, &["revoke", "--user", "eve", "--yes"]).await?;
    let is_committed = ended["revoked"] == "committed";
    assert_eq!(ended["why"].is_string(), is_committed, "{ended}");
    drop(node);
    Ok(())
}

// One batch of thousands would decide about all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_that_redis_acknowledges_late_is_propagated() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, _) = three_users(&servers).await?;
    let proxy = Proxy::start(servers.redis.address()).await?;
    let mut command = on(&servers, &["revoke", "--all", "--yes", "--json"]);
    command.env("REDIS_URL", proxy.url(servers.redis.url()));
    let held = proxy.inject(Toxic::hold_from("UNLINK"));
    let acknowledged_late = async {
        held.touched().await;
        tokio::time::sleep(4 * DEFAULT_DEADLINE).await;
        drop(held);
    };
    let (ran, ()) = tokio::join!(run(&mut command), acknowledged_late);
    let ended: Value = serde_json::from_str(&ran?.stdout)?;
    assert_eq!((&ended["count"], &ended["revoked"]), (&4.into(), &"propagated".into()), "{ended}");
    drop(node);
    Ok(())
}
