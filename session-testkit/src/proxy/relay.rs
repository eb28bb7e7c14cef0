//! Moving the bytes of one connection, under the faults of the moment.
//!
//! Each direction is a reader and a writer with a queue between them, so that delayed bytes overlap
//! in flight instead of holding up those behind them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{Shared, fault::Faults};

/// Chunks in flight in one direction; more wait in the kernel, whose window then closes.
const IN_FLIGHT: usize = 64;
const CHUNK: usize = 16 * 1024;

struct Chunk {
    bytes: Vec<u8>,
    due: Instant,
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

/// Returns when both sides have said all they had to say, or one of them is gone.
pub(super) async fn run(
    mut client: TcpStream,
    mut server: TcpStream,
    number: u64,
    shared: &Shared,
) {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let up = direction(
        client_read,
        server_write,
        Direction::ToServer,
        number,
        shared,
        &shared.to_server,
    );
    let down = direction(
        server_read,
        client_write,
        Direction::ToClient,
        number,
        shared,
        &shared.to_client,
    );
    // A reset on either side ends both.
    let _ended = tokio::try_join!(up, down);
}

async fn direction(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    direction: Direction,
    number: u64,
    shared: &Shared,
    counter: &AtomicU64,
) -> std::io::Result<()> {
    let (queue, chunks) = mpsc::channel(IN_FLIGHT);
    let reader = read(from, queue, direction, number, shared.faults.subscribe());
    let writer = write(to, chunks, number, shared.faults.subscribe(), counter);
    tokio::try_join!(reader, writer).map(drop)
}

async fn read(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<Chunk>,
    direction: Direction,
    number: u64,
    faults: watch::Receiver<Faults>,
) -> std::io::Result<()> {
    let mut random = Random(number);
    let mut buffer = vec![0; CHUNK];
    let mut last_due = Instant::now();
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let delay = match direction {
            Direction::ToClient => faults.borrow().delay(number, random.next()),
            Direction::ToServer => std::time::Duration::ZERO,
        };
        // Jitter must not reorder bytes.
        last_due = last_due.max(Instant::now() + delay);
        let chunk = Chunk {
            bytes: buffer[..length].to_vec(),
            due: last_due,
        };
        if queue.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut chunks: mpsc::Receiver<Chunk>,
    number: u64,
    mut faults: watch::Receiver<Faults>,
    counter: &AtomicU64,
) -> std::io::Result<()> {
    let mut healed = faults.clone();
    while let Some(chunk) = chunks.recv().await {
        tokio::select! {
            () = sleep_until(chunk.due) => {}
            // Healing delivers what is on its way.
            _ = healed.wait_for(|faults| faults.delay(number, 1.0).is_zero()) => {}
        }
        // An error means that the proxy is gone.
        if faults
            .wait_for(|faults| !faults.hung(number))
            .await
            .is_err()
        {
            return Ok(());
        }
        // Before the write: what a client has seen is counted.
        counter.fetch_add(
            u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX),
            Relaxed,
        );
        to.write_all(&chunk.bytes).await?;
    }
    // An end of file waits for a hang too.
    if faults
        .wait_for(|faults| !faults.hung(number))
        .await
        .is_err()
    {
        return Ok(());
    }
    to.shutdown().await
}

/// Splitmix64: jitter needs no better, and the same connection gets the same jitter in every run.
struct Random(u64);

impl Random {
    /// 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let bits = u32::try_from(z >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / f64::from(u32::MAX)
    }
}
