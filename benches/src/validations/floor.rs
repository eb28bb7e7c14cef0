//! The floor of a hit under load: look-ups that travel together, and the least layer over them.
//!
//! Neither checks anything about an entry. They show what is left for the rules of the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use redis::aio::MultiplexedConnection;
use session_layer::TokenDigest;
use tokio::sync::{mpsc, oneshot};

use super::Subject;
use crate::Error;

/// The tasks that send MGETs, each over a connection of its own. Callers are divided among them.
const SENDERS: usize = 2;
/// The limit of keys of one MGET.
const KEYS: usize = 64;

/// Callers whose look-ups travel together as one MGET.
pub(super) struct Together {
    senders: Arc<[mpsc::Sender<LookUp>]>,
    callers: Arc<AtomicUsize>,
    caller: usize,
}

type LookUp = (Arc<[u8]>, oneshot::Sender<Vec<u8>>);

// Each caller is a clone.
impl Clone for Together {
    fn clone(&self) -> Self {
        let (senders, callers) = (Arc::clone(&self.senders), Arc::clone(&self.callers));
        Self { senders, caller: callers.fetch_add(1, Ordering::Relaxed), callers }
    }
}

impl Together {
    pub(super) fn start(connections: [MultiplexedConnection; SENDERS]) -> Self {
        let senders = connections.into_iter().map(|mut connection| {
            let (sender, mut queue) = mpsc::channel::<LookUp>(1024);
            tokio::spawn(async move {
                let mut batch = Vec::with_capacity(KEYS);
                while queue.recv_many(&mut batch, KEYS).await > 0 {
                    let mut mget = redis::cmd("MGET");
                    for (key, _) in &batch {
                        mget.arg(&key[..]);
                    }
                    // Callers of a batch that fails see that their reply is gone.
                    let values = mget.query_async::<Vec<Vec<u8>>>(&mut connection).await;
                    for ((_, reply), value) in batch.drain(..).zip(values.unwrap_or_default()) {
                        let _ = reply.send(value);
                    }
                }
            });
            sender
        });
        Self { senders: senders.collect(), callers: Arc::default(), caller: 0 }
    }

    async fn get(&self, key: Arc<[u8]>) -> Result<Vec<u8>, Error> {
        let (reply, replied) = oneshot::channel();
        self.senders[self.caller % SENDERS].send((key, reply)).await?;
        let value = replied.await?;
        if value.is_empty() { Err("the session is not in Redis".into()) } else { Ok(value) }
    }
}

/// Look-ups by key.
#[derive(Clone)]
pub(super) struct Mget(pub(super) Together, pub(super) Arc<[Arc<[u8]>]>);

impl Subject for Mget {
    async fn call(&mut self, session: usize) -> Result<(), Error> {
        self.0.get(Arc::clone(&self.1[session])).await?;
        Ok(())
    }
}

/// Requests whose token is looked up, and whose value the inner service gets.
#[derive(Clone)]
pub(super) struct Least {
    pub(super) together: Together,
    pub(super) prefix: Arc<[u8]>,
    pub(super) headers: Arc<[HeaderValue]>,
}

impl Subject for Least {
    async fn call(&mut self, session: usize) -> Result<(), Error> {
        let mut request = Request::new(());
        request.headers_mut().insert(AUTHORIZATION, self.headers[session].clone());
        let header = request.headers().get(AUTHORIZATION).ok_or("no header")?.to_str()?;
        let token = header.strip_prefix("Bearer ").ok_or("no token")?;
        let key = least_key(&self.prefix, &TokenDigest::of(token));
        let value = self.together.get(key).await?;
        request.extensions_mut().insert(Value(value));
        let response = answer(&request);
        if response.status().is_success() { Ok(()) } else { Err("no value".into()) }
    }
}

/// Returns the key of a digest without any encoding.
pub(super) fn least_key(prefix: &[u8], digest: &TokenDigest) -> Arc<[u8]> {
    [prefix, digest.as_bytes()].concat().into()
}

/// What the least layer hands to the inner service.
#[derive(Clone)]
struct Value(Vec<u8>);

fn answer(request: &Request<()>) -> Response<()> {
    let mut response = Response::new(());
    if request.extensions().get::<Value>().is_none_or(|value| value.0.is_empty()) {
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}
