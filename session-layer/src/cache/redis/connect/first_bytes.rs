//! A stream that keeps the first bytes it received. They show what a server speaks, and its reply
//! line if it refuses clients before it reads a command.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The limit of kept bytes. The longest refusal of Redis (protected mode) begins with its code.
const LIMIT: usize = 256;

/// The stream.
pub(super) struct FirstBytes<S> {
    stream: S,
    /// The place of the bytes, until they were received.
    first: Option<Arc<OnceLock<Box<[u8]>>>>,
}

/// The received bytes.
pub(super) struct Received(Arc<OnceLock<Box<[u8]>>>);

impl<S> FirstBytes<S> {
    pub(super) fn of(stream: S) -> (Self, Received) {
        let first = Arc::new(OnceLock::new());
        (Self { stream, first: Some(Arc::clone(&first)) }, Received(first))
    }
}

impl Received {
    /// Returns the bytes, if any were received.
    pub(super) fn get(&self) -> Option<&[u8]> {
        self.0.get().map(|bytes| &**bytes)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty()
            && let Some(first) = self.first.take()
        {
            let _already = first.set(read[..read.len().min(LIMIT)].into());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
