//! The URL of a Redis or Postgres server. It is parsed once, and never printed with its secrets.
//!
//! Both client libraries read URLs with the `url` crate, and so does this module. It also rejects
//! each URL in which the end of the password is uncertain. Such a password would be taken for a
//! host or a parameter, and printed as such.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Position, Url};

/// The URL of a Redis or a Postgres server.
///
/// `Debug` and `Display` show the scheme, the host and the port. They never show a user, a
/// password, a path or a parameter.
///
/// ```
/// use session_layer::server_url::ServerUrl;
///
/// # fn main() -> Result<(), session_layer::error::ServerUrlError> {
/// let url: ServerUrl = "postgres://app:s3cret@db.internal/app?sslmode=require".parse()?;
/// assert_eq!(url.to_string(), "postgres://db.internal:5432");
/// # Ok(()) }
/// ```
///
/// The characters `/`, `?`, `#` and white space must be percent-encoded in a user and a password.
/// For Postgres, a URL with a parameter that this crate does not use is rejected, because a setting
/// without effect would go unnoticed. For Redis, the client library ignores unknown parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(
    /// Of several hosts, sentinels or nodes of a cluster, it names the first.
    Url,
    /// `HOST:PORT` of the others.
    Vec<String>,
);

/// The server that a [`ServerUrl`] leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerKind {
    /// `postgres://` or `postgresql://`.
    Postgres,
    /// `redis://` or `rediss://`, and the schemes of Valkey, of Unix sockets, of sentinels and of
    /// clusters.
    Redis,
}

/// The reason why a text is not a usable [`ServerUrl`]. It repeats no part of the text, because all
/// of it may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServerUrlError(Cow<'static, str>);

const NO_URL: &str = "it does not have the form SCHEME://HOST";
const BLANK: &str = "it contains white space or a control character, which must be percent-encoded";
const UNCLEAR: &str = "it has an `@` behind the host, so it is uncertain where the password ends: \
     write `/` as %2F, `?` as %3F, `#` as %23 and `@` as %40 in the user, the password and the \
     parameters";
const NO_HOST: &str = "its host or port cannot be read: the port is a number up to 65535, an IPv6 \
     address is in brackets, and a password has `/` as %2F, `?` as %3F and `#` as %23";
const SEVERAL_HOSTS: &str = "it names several hosts, which is not supported: name one";
const HOST_TWICE: &str = "it names several hosts, and a parameter names another: remove `host`, \
     `hostaddr` and `port` from the parameters";
const FOLDER_OF_SEVERAL: &str = "it names several hosts, and the first is the folder of a socket: \
     a socket cannot be one of several";
const PARAMETER_TWICE: &str = "it has a parameter twice, so it is uncertain which one counts";
/// Why `sslmode=verify-ca` is refused.
pub(crate) const VERIFY_CA: &str = "its `sslmode` is verify-ca, which would accept any certificate \
     of a public CA, because the driver trusts the CAs of the system beside the one that is set: \
     set verify-full";
pub(crate) const ATTRS: &str = "its parameter `target_session_attrs` is not any, read-write or \
     primary: only a primary can decide whether a session is valid";
/// The parameter by which libpq demands that the password proves the server's certificate. The host
/// of the certificate is verified instead.
pub(crate) const CHANNEL_BINDING: &str = "channel_binding";
/// The parameter with which providers mark the URL of a pooler.
pub(crate) const PGBOUNCER: &str = "pgbouncer";
/// The parameters that providers write into URLs, and that sqlx does not know.
#[cfg(feature = "postgres")]
pub(crate) const UNKNOWN_TO_SQLX: [&str; 4] =
    [TARGET_SESSION_ATTRS, CHANNEL_BINDING, PGBOUNCER, "gssencmode"];
/// The parameter that selects one of several Postgres servers.
pub(crate) const TARGET_SESSION_ATTRS: &str = "target_session_attrs";
const FRAGMENT: &str = "it has a `#`, which must be written as %23";
const INSECURE: &str = "it ends with `#insecure`, which is not supported: remove that. To accept any \
     certificate, set REDIS_TLS_INSECURE=true (TlsSettings::insecure). To trust a CA of your own, \
     set REDIS_TLS_CA_FILE";
const NO_SUCH_DATABASE: &str =
    "it names a database, and a cluster has the database 0 only: remove it";
const NO_DATABASE: &str = "its path is not the number of a Redis database";
const NO_SERVICE: &str = "it names no service: write redis+sentinel://HOST,HOST/SERVICE, with \
     letters, digits and `.-_` in the name";
const NO_PROTOCOL: &str = "its parameter `protocol` is neither 2 nor 3";
const WILDCARD: &str = "its host is a wildcard address, which clients cannot connect to";
const UNKNOWN_PARAMETER: &str = "it has an unknown parameter: the known ones are sslmode, \
     sslrootcert, sslcert, sslkey, host, hostaddr, port, dbname, user, password, application_name, \
     options, options[NAME], statement-cache-capacity and target_session_attrs";

/// The default port of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// The parameters of libpq that sqlx lacks. They are no secrets, so the error may name them.
const UNSUPPORTED: [&str; 14] = [
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "passfile",
    "require_auth",
    "service",
    "sslcrl",
    "sslnegotiation",
    "tcp_user_timeout",
];

impl ServerUrl {
    /// Returns which server the URL leads to.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        match self.0.scheme() {
            "postgres" | "postgresql" => ServerKind::Postgres,
            _ => ServerKind::Redis,
        }
    }

    /// Returns `HOST:PORT` of the first host, with the default port filled in. Returns `None` for a
    /// Unix socket. Also returns `None` for a Postgres URL without a host, which `PGHOST` or the
    /// local socket replaces.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        let mut host = self.0.host_str().map(Cow::Borrowed);
        let mut port = self.0.port();
        if self.kind() == ServerKind::Postgres {
            for (name, value) in self.0.query_pairs() {
                match &*name {
                    "host" | "hostaddr" => host = Some(value),
                    "port" => port = value.parse().ok(),
                    _ => {}
                }
            }
        }
        let host = host.filter(|host| !host.is_empty() && !host.contains(['/', '%']))?;
        let port = port.unwrap_or(match self.kind() {
            ServerKind::Postgres => 5432,
            ServerKind::Redis if self.is_sentinel() => SENTINEL_PORT,
            ServerKind::Redis => 6379,
        });
        if host.contains(':') && !host.starts_with('[') {
            return Some(format!("[{host}]:{port}"));
        }
        Some(format!("{host}:{port}"))
    }

    /// Returns the URL with the first of its hosts, secrets included. Do not print it.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// Returns the whole text with all hosts, secrets included. Do not print it.
    #[must_use]
    pub fn expose_all(&self) -> String {
        let (first, behind) = (&self.0[..Position::AfterPort], &self.0[Position::AfterPort..]);
        let others = self.1.iter().map(|other| format!(",{other}")).collect::<String>();
        format!("{first}{others}{behind}")
    }

    /// Returns the URL of the same server without TLS. Behind sentinels, its host is one of them.
    #[cfg(feature = "redis")]
    pub(crate) fn without_tls(&self) -> Url {
        let mut url = self.0.clone();
        if self.is_rediss() || self.is_sentinel() || self.is_cluster() {
            // The schemes are unknown to `url`, so the change is allowed.
            let _changed = url.set_scheme("redis");
        }
        if self.is_sentinel() {
            url.set_path(self.service().1);
        }
        url
    }

    /// Returns whether the URL names sentinels, which know the address of Redis.
    #[must_use]
    pub fn is_sentinel(&self) -> bool {
        self.0.scheme().ends_with("+sentinel")
    }

    /// Returns whether the URL names nodes of a Redis Cluster, which know all others.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.0.scheme().ends_with("+cluster")
    }

    /// Returns the addresses (`HOST:PORT`) of the hosts beside the first.
    #[cfg(any(feature = "redis", feature = "postgres"))]
    pub(crate) fn others(&self) -> &[String] {
        &self.1
    }

    /// Returns which of several Postgres servers is wanted, if the URL names it.
    #[cfg(feature = "postgres")]
    pub(crate) fn target_session_attrs(&self) -> Option<String> {
        let mut parameters = self.0.query_pairs();
        let found = parameters.find(|(name, _)| name == TARGET_SESSION_ATTRS);
        found.map(|(_, value)| value.into_owned())
    }

    /// Returns the addresses (`HOST:PORT`) of the nodes of a cluster beside the first.
    #[cfg(feature = "redis")]
    pub(crate) fn other_nodes(&self) -> Option<&[String]> {
        self.is_cluster().then_some(&self.1)
    }

    /// Returns the addresses of the sentinels (`HOST:PORT`) and the name of the service.
    #[cfg(feature = "redis")]
    pub(crate) fn sentinels(&self) -> Option<(Vec<String>, &str)> {
        let first = self.address().filter(|_| self.is_sentinel())?;
        let all = std::iter::once(first).chain(self.1.iter().cloned());
        Some((all.collect(), self.service().0))
    }

    /// Returns the parts of the path: the service and the database.
    fn service(&self) -> (&str, &str) {
        let path = self.0.path().trim_matches('/');
        path.split_once('/').unwrap_or((path, ""))
    }

    /// Returns whether the scheme requires TLS.
    #[cfg(feature = "redis")]
    pub(crate) fn is_rediss(&self) -> bool {
        let scheme = self.0.scheme();
        matches!(scheme.split('+').next(), Some("rediss" | "valkeys"))
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    /// Parses a URL. White space around it is ignored, such as the line end of a file.
    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or(ServerUrlError::because(NO_URL))?;
        let scheme = scheme.to_ascii_lowercase();
        let is_socket = match scheme.as_str() {
            "postgres" | "postgresql" | "redis" | "rediss" | "valkey" | "valkeys" => false,
            "redis+sentinel" | "rediss+sentinel" | "valkey+sentinel" | "valkeys+sentinel" => false,
            "redis+cluster" | "rediss+cluster" | "valkey+cluster" | "valkeys+cluster" => false,
            "unix" | "redis+unix" | "valkey+unix" => true,
            _ => return Err(ServerUrlError::because("its scheme is unknown")),
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ServerUrlError::because(BLANK));
        }
        let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if behind.contains('@') {
            return Err(ServerUrlError::because(UNCLEAR));
        }
        let hosts = authority.rsplit('@').next().unwrap_or_default();
        let user = authority.strip_suffix(hosts).unwrap_or_default();
        let (first, others) = hosts.split_once(',').unwrap_or((hosts, ""));
        let is_postgres = scheme.starts_with("postgres");
        let names_several =
            is_postgres || scheme.ends_with("+sentinel") || scheme.ends_with("+cluster");
        if hosts.contains(',') && !names_several {
            return Err(ServerUrlError::because(SEVERAL_HOSTS));
        }
        // The `url` crate needs a host behind a user, and the parameter `host` replaces it.
        let names_host = || behind.contains("?host=") || behind.contains("&host=");
        let first = match first {
            "" if is_postgres && !user.is_empty() && names_host() => "localhost",
            first => first,
        };
        let others = others.split(',').filter(|_| hosts.contains(','));
        let others: Vec<_> =
            others.map(|other| other_address(&scheme, other)).collect::<Result<_, _>>()?;
        let url = Url::parse(&format!("{scheme}://{user}{first}{behind}"))
            .map_err(|_| ServerUrlError::because(NO_HOST))?;
        match url.fragment() {
            None => {}
            Some("insecure") if url.scheme() == "rediss" || url.scheme() == "valkeys" => {
                return Err(ServerUrlError::because(INSECURE));
            }
            Some(_) => return Err(ServerUrlError::because(FRAGMENT)),
        }
        let url = Self(url, others);
        match url.kind() {
            ServerKind::Postgres => url.check_postgres()?,
            ServerKind::Redis if is_socket => {}
            ServerKind::Redis => url.check_redis()?,
        }
        Ok(url)
    }
}

impl ServerUrl {
    fn check_postgres(&self) -> Result<(), ServerUrlError> {
        let bad = |value: &'static str| Err(ServerUrlError::because(value));
        if let Some(Host::Domain(host)) = self.0.host() {
            // The folder of a Unix socket is written with %2F.
            let begins = host.get(..3).unwrap_or_default();
            let is_folder = begins.eq_ignore_ascii_case("%2f");
            if !is_folder && !host.is_empty() && !is_host_name(host) {
                return bad(NO_HOST);
            }
            if is_folder && !self.1.is_empty() {
                return bad(FOLDER_OF_SEVERAL);
            }
        }
        let mut seen = HashSet::new();
        for (name, value) in self.0.query_pairs() {
            if !seen.insert(canonical(&name).to_owned()) {
                return bad(PARAMETER_TWICE);
            }
            match &*name {
                "host" | "hostaddr" | "port" if !self.1.is_empty() => return bad(HOST_TWICE),
                TARGET_SESSION_ATTRS => {
                    if !["any", "read-write", "primary"].contains(&&*value) {
                        return bad(ATTRS);
                    }
                }
                CHANNEL_BINDING => match &*value {
                    "disable" | "prefer" => {}
                    "require" if self.permits_no_tls() => {
                        return bad(
                            "its parameter `channel_binding=require` needs TLS, and its `sslmode` \
                             permits connections without: set verify-full",
                        );
                    }
                    "require" => {}
                    _ => {
                        return bad(
                            "its parameter `channel_binding` is not disable, prefer or require",
                        );
                    }
                },
                "gssencmode" if matches!(&*value, "disable" | "prefer") => {}
                "gssencmode" => {
                    return bad(
                        "its parameter `gssencmode` is not disable or prefer: there is no GSSAPI",
                    );
                }
                PGBOUNCER if value == "true" => {}
                PGBOUNCER => return bad("its parameter `pgbouncer` is not true: remove it"),
                "sslmode" | "ssl-mode" if value == "verify-ca" => return bad(VERIFY_CA),
                "sslmode" | "ssl-mode" => {
                    let modes = ["disable", "allow", "prefer", "require", "verify-full"];
                    if !modes.contains(&&*value) {
                        return bad(
                            "its parameter `sslmode` is not disable, allow, prefer, require or \
                             verify-full",
                        );
                    }
                }
                "host" if value.starts_with('/') || is_host(&value) => {}
                "host" => return bad("its parameter `host` is neither a host nor a folder"),
                "hostaddr" if value.parse::<IpAddr>().is_ok() => {}
                "hostaddr" => return bad("its parameter `hostaddr` is not an IP address"),
                "port" if value.parse::<u16>().is_ok() => {}
                "port" => return bad("its parameter `port` is not a number up to 65535"),
                "statement-cache-capacity" if value.parse::<usize>().is_ok() => {}
                "statement-cache-capacity" => {
                    return bad("its parameter `statement-cache-capacity` is not a number");
                }
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" | "sslcert" | "ssl-cert" | "sslkey"
                | "ssl-key" | "dbname" | "user" | "password" | "application_name" | "options" => {}
                name if name.starts_with("options[") && name.ends_with(']') => {}
                name => {
                    let known = UNSUPPORTED.iter().find(|known| **known == name);
                    return Err(known.map_or(
                        ServerUrlError::because(UNKNOWN_PARAMETER),
                        |known| {
                            let reason =
                                format!("its parameter `{known}` is not supported: remove it");
                            ServerUrlError(reason.into())
                        },
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns whether `sslmode` names a mode in which TLS may be missing.
    fn permits_no_tls(&self) -> bool {
        let mode = self.0.query_pairs().find(|(name, _)| canonical(name) == "sslmode");
        mode.is_some_and(|(_, mode)| matches!(&*mode, "disable" | "allow" | "prefer"))
    }

    fn check_redis(&self) -> Result<(), ServerUrlError> {
        let is_there = match self.0.host() {
            Some(Host::Domain(host)) => is_host_name(host),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
            None => false,
        };
        if !is_there {
            return Err(ServerUrlError::because(NO_HOST));
        }
        if matches!(self.0.host_str(), Some("0.0.0.0" | "[::]")) {
            return Err(ServerUrlError::because(WILDCARD));
        }
        let mut database = self.0.path().trim_matches('/');
        if self.is_sentinel() {
            let (service, behind) = self.service();
            if !is_host_name(service) {
                return Err(ServerUrlError::because(NO_SERVICE));
            }
            database = behind;
        }
        if !database.is_empty() {
            match database.parse::<u32>() {
                Err(_) => return Err(ServerUrlError::because(NO_DATABASE)),
                Ok(number) if number > 0 && self.is_cluster() => {
                    return Err(ServerUrlError::because(NO_SUCH_DATABASE));
                }
                Ok(_) => {}
            }
        }
        let protocols = self.0.query_pairs().filter(|(name, _)| name == "protocol");
        for (_, protocol) in protocols {
            if !matches!(&*protocol, "2" | "resp2" | "3" | "resp3") {
                return Err(ServerUrlError::because(NO_PROTOCOL));
            }
        }
        Ok(())
    }
}

impl ServerUrlError {
    /// Creates an error from `reason`, which continues "the URL cannot be used:".
    pub(crate) const fn because(reason: &'static str) -> Self {
        Self(Cow::Borrowed(reason))
    }
}

/// Returns one name for each parameter that has several.
fn canonical(name: &str) -> &str {
    match name {
        "ssl-mode" => "sslmode",
        "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "ssl-cert" => "sslcert",
        "ssl-key" => "sslkey",
        name => name,
    }
}

/// Returns `HOST:PORT` of another server of this scheme. The default port is filled in, except for
/// Postgres, where `PGPORT` may name one.
fn other_address(scheme: &str, text: &str) -> Result<String, ServerUrlError> {
    let no_host = |_| ServerUrlError::because(NO_HOST);
    let url = Url::parse(&format!("{scheme}://{text}")).map_err(no_host)?;
    let url = ServerUrl(url, Vec::new());
    let is_whole = url.0.username().is_empty() && url.0.password().is_none();
    let is_host = match url.0.host() {
        Some(Host::Domain(host)) => is_host_name(host),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    };
    let address = match url.kind() {
        ServerKind::Postgres => url.0.host_str().map(|host| match url.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }),
        ServerKind::Redis => url.address(),
    };
    let address = address.filter(|_| is_whole && is_host);
    address.ok_or(ServerUrlError::because(NO_HOST))
}

fn is_host_name(host: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !host.is_empty() && host.chars().all(allowed)
}

fn is_host(host: &str) -> bool {
    is_host_name(host) || host.parse::<IpAddr>().is_ok()
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address();
        let address = address.as_deref().unwrap_or("(local socket)");
        write!(f, "{}://{address}", self.0.scheme())?;
        self.1.iter().try_for_each(|other| write!(f, ",{other}"))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

#[cfg(test)]
mod tests;
