//! The response body of the middleware.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The response body of [`SessionCacheService`](crate::SessionCacheService): the unchanged body
    /// of the inner service, or the body of a rejection.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: BodyKind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum BodyKind<B> {
        Inner { #[pin] body: B },
        // Empty once it has been read.
        Rejection { body: Bytes },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        let kind = BodyKind::Inner { body };
        Self { kind }
    }

    pub(crate) fn rejection(body: Bytes) -> Self {
        let kind = BodyKind::Rejection { body };
        Self { kind }
    }
}

/// The default body of the inner service, which other middleware requires.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::inner(B::default())
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Rejection { body } if body.is_empty() => Poll::Ready(None),
            KindProj::Rejection { body } => {
                let all = std::mem::take(body);
                Poll::Ready(Some(Ok(Frame::data(all.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Inner { body } => body.is_end_stream(),
            BodyKind::Rejection { body } => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Inner { body } => body.size_hint(),
            BodyKind::Rejection { body } => SizeHint::with_exact(body.len() as u64),
        }
    }
}
