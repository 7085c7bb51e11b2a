//! The body of a request that sends a part of a blob.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::digest::Digest;

/// Bytes read and sent at a time.
const PIECE: u64 = 128 << 10;

/// What a blob consists of; read as often as it has to be sent.
#[derive(Clone)]
pub enum BlobContent {
    /// These bytes.
    Bytes(Bytes),
    /// A file, from its beginning. It must not change.
    File(Arc<File>),
}

impl fmt::Debug for BlobContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
        }
    }
}

/// A blob to upload.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes.
    pub content: BlobContent,
}

/// A range of a blob as the body of one request; its length is known.
pub(super) struct PartBody {
    content: BlobContent,
    at: u64,
    end: u64,
    /// How much of the blob is sent.
    sent: Arc<AtomicU64>,
}

impl PartBody {
    /// The bytes from `at` to `end`.
    pub(super) fn new(content: BlobContent, at: u64, end: u64, sent: Arc<AtomicU64>) -> Self {
        sent.store(at, Ordering::Relaxed);
        Self {
            content,
            at,
            end,
            sent,
        }
    }

    fn piece(&self) -> io::Result<Bytes> {
        let len = (self.end - self.at).min(PIECE) as usize;
        match &self.content {
            BlobContent::Bytes(bytes) => {
                let start = usize::try_from(self.at).map_err(io::Error::other)?;
                match start + len <= bytes.len() {
                    true => Ok(bytes.slice(start..start + len)),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            // From the page cache mostly, since it was written just now.
            BlobContent::File(file) => {
                let mut piece = vec![0; len];
                file.read_exact_at(&mut piece, self.at)?;
                Ok(piece.into())
            }
        }
    }
}

impl Body for PartBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        let piece = self.piece();
        if let Ok(piece) = &piece {
            self.at += piece.len() as u64;
            self.sent.store(self.at, Ordering::Relaxed);
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}
