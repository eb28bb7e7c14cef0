//! What a read costs, and the connections that a store leaves behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use session_layer::store::SessionStore as _;
use session_testkit::url::address;
use session_testkit::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::support::Schema;
use crate::stores::support::{alive, load, login, token};
use crate::support::SOON;

/// The code of a request for TLS, which the server answers before the startup message.
const TLS_REQUEST: u32 = 80_877_103;
/// The type of the message that ends a round trip.
const SYNC: u8 = b'S';

#[tokio::test]
async fn each_read_is_one_round_trip() {
    let schema = Schema::new().await;
    login(&schema.store().await, "a", "alice").await;
    let server = address(schema.url()).unwrap();
    let (relay, round_trips) = relay(server.clone()).await;
    let store = schema.store_at(&schema.url().replace(&server, &relay));
    for _ in 0..3 {
        alive(load(&store, "a").await);
    }
    let before = round_trips.load(Ordering::SeqCst);
    for _ in 0..50 {
        alive(load(&store, "a").await);
    }
    // A connection that no caller takes for a second is pinged.
    let made = round_trips.load(Ordering::SeqCst) - before;
    assert!((50..60).contains(&made), "{made}");
}

#[test]
fn store_dropped_outside_of_a_runtime_closes_its_connections() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let schema = runtime.block_on(async {
        let schema = Schema::new().await;
        schema.store().await;
        schema
    });
    let store = runtime.block_on(async {
        let store = schema.store_at(&schema.named_url());
        assert!(store.load(&[token("a")]).await.is_ok());
        store
    });
    drop(store);
    runtime.block_on(async {
        let mut operator = schema.operator().await;
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}'",
            schema.name
        );
        let closed = async || operator.ask::<i64>(&open).await == 0;
        wait::until("the connections to close", SOON, closed).await.unwrap();
    });
}

/// Starts a relay to Postgres, and returns its address with the number of its round trips.
async fn relay(server: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let round_trips = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&round_trips);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let ((requests, mut replies), (mut from, to)) =
                (client.into_split(), server.into_split());
            tokio::spawn(forward(requests, to, Arc::clone(&counted)));
            tokio::spawn(async move { copy(&mut from, &mut replies).await });
        }
    });
    (own, round_trips)
}

/// Forwards messages until the connection ends. Counts those that end a round trip.
async fn forward(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    round_trips: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut has_begun = false;
    loop {
        let kind = if has_begun { Some(client.read_u8().await?) } else { None };
        let length = client.read_u32().await?;
        let mut message = vec![0; length.saturating_sub(4) as usize];
        client.read_exact(&mut message).await?;
        has_begun |= message.get(..4) != Some(&TLS_REQUEST.to_be_bytes()[..]);
        if kind == Some(SYNC) {
            round_trips.fetch_add(1, Ordering::SeqCst);
        }
        let kind = kind.into_iter();
        let whole: Vec<u8> = kind.chain(length.to_be_bytes()).chain(message).collect();
        server.write_all(&whole).await?;
    }
}
