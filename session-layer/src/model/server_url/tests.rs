//! Tests of which URLs are accepted and which are rejected. No test output may repeat a password.

use std::error::Error;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<ServerUrl, ServerUrlError> {
    text.parse()
}

/// The forms of a URL with a password at `{}`.
const FORMS: [&str; 33] = [
    "{}",
    ":{}@h:6379",
    "u:{}@h/db",
    "//u:{}@h/db",
    "redis:{}@h",
    "redis:/:{}@h",
    "redis://{}@h",
    "redis://:{}@h",
    "redis://:{}@h:6379/0",
    "redis://:{}/x@h:6379",
    "redis://u:1{}@h:6379",
    "redis://:{}@h:notaport",
    "redis://h/{}",
    "redis://h?protocol={}",
    "redis://h/0?{}=1",
    "redis://h#{}",
    "rediss://u:{}@h:6379/1#insecure",
    "valkey://:{}@h",
    "redis+sentinel://u:{}@h1,h2:1/service/0",
    "redis+sentinel://h1/{}",
    "redis+cluster://u:{}@h1,h2:1",
    "unix:///run/redis.sock?pass={}",
    "postgres://{}@h/db",
    "postgres://u:{}@h/db",
    "postgres://u:{}@[::1]:5432/db?sslmode=require",
    "postgresql://u:{}@h1,h2/db",
    "postgresql://u:1{}@h/db",
    "postgres:///db?host=h&user=u&password={}",
    "postgres://h/db?pasword={}",
    "postgres://h/db?{}",
    "postgres://h/db?sslmode={}",
    "postgres://h/db?port={}",
    "mysql://u:{}@h/db",
];

/// Generates passwords that no error text and no URL contains by chance. They have reserved
/// characters, raw and percent-encoded.
fn passwords() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "[QXZJ]{4}",
        2 => prop::sample::select(vec![
            "/", "?", "#", "@", ":", "[", "]", "%", "&", "=", "+", " ", ",", ";", "!", "$", "\\",
            "\n", "é", "%2F", "%3f", "%23", "%40", "%3A", "%25", "%20", "%zz", "%ff",
        ]).prop_map(str::to_owned),
    ];
    let parts = prop::collection::vec(part, 0..6);
    ("[qxzj0-9]{3}", parts).prop_map(|(begins, parts)| format!("Q{begins}{}ZQ", parts.concat()))
}

/// Returns the pieces of a password that must not be printed. It may be cut at a reserved
/// character, or decoded.
fn pieces(password: &str) -> Vec<String> {
    let cut = password.split(|c: char| !c.is_ascii_alphanumeric());
    let whole = [password.to_owned()].into_iter();
    let long = cut.filter(|piece| piece.len() >= 4).map(str::to_owned);
    whole.chain(long).collect()
}

fn assert_hidden(shown: &str, password: &str, form: &str) {
    for piece in pieces(password) {
        assert!(!shown.contains(&piece), "{form}: {password:?} in {shown}");
    }
}

fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    text
}

/// Returns the output of the builders of this URL and of what they build, or their errors.
#[cfg(all(feature = "postgres", feature = "redis"))]
fn shown_by_builders(url: &str) -> Vec<String> {
    use crate::cache::RedisCache;
    use crate::store::PostgresStore;

    // Background tasks are accepted and never run.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let _entered = runtime.enter();
    let store = PostgresStore::builder(url);
    let cache = RedisCache::builder(url);
    let mut shown = vec![format!("{store:?} {cache:?}")];
    shown.push(match store.build() {
        Ok(store) => format!("{store:?}"),
        Err(error) => whole(&error),
    });
    shown.push(match cache.build() {
        Ok(cache) => format!("{cache:?}"),
        Err(error) => whole(&error),
    });
    shown
}

#[cfg(not(all(feature = "postgres", feature = "redis")))]
fn shown_by_builders(_url: &str) -> Vec<String> {
    Vec::new()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn password_in_any_form_is_never_shown(password in passwords()) {
        for form in FORMS {
            let text = form.replace("{}", &password);
            let shown = match parse(&text) {
                Ok(url) => format!("{url} {url:?} {url:#?} {:?}", url.address()),
                Err(error) => whole(&error),
            };
            assert_hidden(&shown, &password, form);
            for shown in shown_by_builders(&text) {
                assert_hidden(&shown, &password, form);
            }
        }
    }

    #[test]
    fn encoded_password_is_read_back(password in "\\PC{1,20}") {
        let mut url = Url::parse("redis://h:6379/0").unwrap();
        // `set_password` takes a percent sign for the beginning of an escape.
        url.set_password(Some(&password.replace('%', "%25"))).unwrap();
        let parsed = parse(url.as_str()).unwrap();
        prop_assert_eq!(parsed.to_string(), "redis://h:6379");
        #[cfg(feature = "redis")]
        {
            use redis::IntoConnectionInfo as _;
            let info = parsed.expose().clone().into_connection_info().unwrap();
            prop_assert_eq!(info.redis_settings().password(), Some(password.as_str()));
        }
    }
}

#[test]
fn printed_url_is_scheme_host_and_port() {
    for (text, shown) in [
        ("redis://h", "redis://h:6379"),
        (" REDISS://u:p@h:7/2\n", "rediss://h:7"),
        ("redis://u:p@ss@h/1", "redis://h:6379"),
        ("postgres://u:p%2F%40@db.internal/app", "postgres://db.internal:5432"),
        ("postgresql://[::1]:7/app", "postgresql://[::1]:7"),
        ("postgres://h/app?host=other&port=9", "postgres://other:9"),
        ("postgres:///app?hostaddr=::1", "postgres://[::1]:5432"),
        ("postgres:///app?host=/run/postgres", "postgres://(local socket)"),
        ("postgres://app@/app?host=/cloudsql/p:r:i", "postgres://(local socket)"),
        ("postgres://app:pw@/app?sslmode=disable&host=/run/pg", "postgres://(local socket)"),
        ("postgres://%2Frun%2Fpostgres/app", "postgres://(local socket)"),
        ("postgres://", "postgres://(local socket)"),
        ("postgres://u:p@a,b:7/app", "postgres://a:5432,b:7"),
        ("unix:///run/redis.sock", "unix://(local socket)"),
        ("redis+sentinel://h/main", "redis+sentinel://h:26379"),
        ("redis+cluster://h", "redis+cluster://h:6379"),
        ("rediss+cluster://u:p@a:7,[::1],c/0", "rediss+cluster://a:7,[::1]:6379,c:6379"),
        (
            "REDISS+sentinel://u:p@a,[::1]:7,10.0.0.1/main/2",
            "rediss+sentinel://a:26379,[::1]:7,10.0.0.1:26379",
        ),
    ] {
        assert_eq!(parse(text).unwrap().to_string(), shown, "{text}");
    }
}

#[test]
fn whole_text_is_read_back_with_all_hosts() {
    for text in [
        "postgres://u:p@a,b:7,[::1]:5432/app?target_session_attrs=any",
        "redis+sentinel://u:p@a,b/main/2",
        "redis://h/1",
        "postgres:///app?host=/run/postgres",
        "redis+unix:///run/redis.sock",
    ] {
        let url = parse(text).unwrap();
        assert!(parse(&url.expose_all()).unwrap() == url, "{text}: {}", url.expose_all());
    }
}

#[test]
fn rejected_url_gives_the_reason_and_what_to_do() {
    for (text, reason) in [
        ("h:6379", "SCHEME://HOST"),
        ("redis:h", "SCHEME://HOST"),
        ("mysql://h", "scheme"),
        ("redis://:S3cret/x@h:6379", "%2F"),
        ("redis://:12/34@h:6379", "%2F"),
        ("postgres://u:12/34@h/db", "%2F"),
        ("postgres://u:12?34@h/db", "%3F"),
        ("postgres://u:12#34@h/db", "%23"),
        ("redis://h:port", "port"),
        ("redis://h:70000", "port"),
        ("redis://", "host"),
        ("redis://:6379", "host"),
        ("redis://a b", "white space"),
        ("redis://h$", "host"),
        ("redis://h/first", "number of a Redis database"),
        ("redis://h?protocol=4", "2 nor 3"),
        ("redis://0.0.0.0", "wildcard"),
        ("redis://[::]", "wildcard"),
        ("redis://h#insecure", "%23"),
        ("rediss://h#insecure", "REDIS_TLS_INSECURE"),
        ("redis+sentinel://a,b", "SERVICE"),
        ("redis+sentinel://a,b/se%20vice", "SERVICE"),
        ("redis+sentinel://a,b/main/x", "database"),
        ("redis+sentinel://a,,b/main", "host"),
        ("redis+sentinel://a,b:port/main", "port"),
        ("redis+cluster://a,b/1", "database 0 only"),
        ("redis+cluster://a,b/x", "number of a Redis database"),
        ("redis+cluster://a,,b", "host"),
        ("redis://a,b", "several hosts"),
        ("redis://h1,h2/0", "several hosts"),
        ("postgres://h1,h2/db?port=7", "`hostaddr`"),
        ("postgres://h1,h2:x/db", "port"),
        ("postgres://h1,/db", "host"),
        ("postgres://h1,h2/db?target_session_attrs=standby", "read-write or primary"),
        ("postgres://h/db?connect_timeout=3", "`connect_timeout` is not supported"),
        ("postgres://h/db?pasword=x", "unknown parameter: the known ones"),
        ("postgres://h/db?sslmode=on", "verify-full"),
        ("postgres://h/db?sslmode=verify-ca", "set verify-full"),
        ("postgres://h/db?sslmode=require&ssl-mode=disable", "twice"),
        ("postgres://u@%2Frun%2Fpg,h/db", "socket"),
        ("postgres://h/db?host=a,b", "`host`"),
        ("postgres://h/db?hostaddr=h", "`hostaddr`"),
        ("postgres://h/db?port=x", "`port`"),
        ("postgres://h/db?statement-cache-capacity=x", "not a number"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}
