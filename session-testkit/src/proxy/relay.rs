//! The relay of one connection's bytes, as `flow.rs` decides.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Shared,
    active::{End, Toxics},
    flow::{Flow, Step},
    toxic::Direction,
};

const BUFFER: usize = 32 * 1024;

/// The reason why a direction stopped before its end of file.
enum Stop {
    Ended(End),
    /// The connection to one side was lost. The reason is of no use to the other side.
    Lost,
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

/// Relays until both sides have sent their end of file, one side is lost, or a toxic ends it.
pub(super) async fn run(
    client: &mut TcpStream,
    server: &mut TcpStream,
    number: u64,
    shared: &Shared,
) -> End {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let direction = |which, from, to, counter| {
        Relay {
            flow: Flow::new(number, which, Instant::now()),
            toxics: shared.toxics.subscribe(),
            from,
            to,
            counter,
        }
        .run()
    };
    let up = direction(Direction::ToServer, client_read, server_write, &shared.to_server);
    let down = direction(Direction::ToClient, server_read, client_write, &shared.to_client);
    // The end of one direction ends both.
    match tokio::try_join!(up, down) {
        Err(Stop::Ended(end)) => end,
        Ok(_) | Err(Stop::Lost) => End::Close,
    }
}

struct Relay<'a> {
    flow: Flow,
    toxics: watch::Receiver<Toxics>,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    counter: &'a AtomicU64,
}

impl Relay<'_> {
    async fn run(mut self) -> Result<(), Stop> {
        let mut buffer = vec![0; BUFFER];
        self.update();
        loop {
            if self.toxics.has_changed().unwrap_or(false) {
                self.update();
            }
            let step =
                if self.flow.is_clear() { Step::Wait } else { self.flow.next(Instant::now()) };
            match step {
                Step::End(end) => return Err(Stop::Ended(end)),
                Step::Finish => return Ok(self.to.shutdown().await?),
                Step::Write(count) => self.write(count).await?,
                Step::Wait => self.wait(None, &mut buffer).await?,
                Step::WaitUntil(until) => self.wait(Some(until), &mut buffer).await?,
            }
        }
    }

    fn update(&mut self) {
        let toxics = self.toxics.borrow_and_update();
        self.flow.update(&toxics, Instant::now());
    }

    /// Waits for bytes, for a change of the toxics, or until the given time.
    async fn wait(&mut self, until: Option<Instant>, buffer: &mut [u8]) -> Result<(), Stop> {
        let has_room = self.flow.has_room();
        let at = until.unwrap_or_else(Instant::now);
        let length = tokio::select! {
            biased;
            // An error means that the proxy was dropped, and this task with it.
            _ = self.toxics.changed() => {
                self.update();
                return Ok(());
            }
            length = self.from.read(buffer), if has_room => length?,
            () = sleep_until(at), if until.is_some() => return Ok(()),
        };
        if length == 0 {
            self.flow.finish(Instant::now());
            return Ok(());
        }
        let mut bytes = &buffer[..length];
        // Toxics that arrived with these bytes apply to them, whichever was noticed first.
        if self.flow.is_clear() && !self.toxics.has_changed().unwrap_or(false) {
            let written = self.count(bytes.len(), |to| to.try_write(bytes));
            bytes = match written {
                Ok(written) => &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => bytes,
                Err(_) => return Err(Stop::Lost),
            };
        }
        if !bytes.is_empty() {
            self.flow.push(bytes, Instant::now());
        }
        Ok(())
    }

    /// Writes at most `count` bytes, unless the toxics change first.
    async fn write(&mut self, count: usize) -> Result<(), Stop> {
        let bytes = &self.flow.front()[..count];
        match self.count(count, |to| to.try_write(bytes)) {
            Ok(written) => self.flow.wrote(written, Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let end = self.flow.ends(Instant::now()).map(|(at, _)| at);
                tokio::select! {
                    biased;
                    _ = self.toxics.changed() => self.update(),
                    () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {}
                    ready = self.to.writable() => ready?,
                }
            }
            Err(_) => return Err(Stop::Lost),
        }
        Ok(())
    }

    /// Counts before it writes, so that all bytes that a client has received are counted.
    fn count(
        &self,
        length: usize,
        write: impl FnOnce(&WriteHalf<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let bytes = |length| u64::try_from(length).unwrap_or(u64::MAX);
        self.counter.fetch_add(bytes(length), Relaxed);
        let written = write(&self.to);
        let missed = length - written.as_ref().map_or(0, |written| *written);
        self.counter.fetch_sub(bytes(missed), Relaxed);
        written
    }
}
