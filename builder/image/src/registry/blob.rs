//! A blob as a blocking reader that survives broken connections.
//!
//! What broke off is asked for again from where it stopped (RFC 9110, 14.2);
//! from a server that ignores ranges, by skipping what came before. The reader
//! yields exactly as many bytes as the descriptor says or an error. It does
//! not hash: whoever reads verifies the digest.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Response, StatusCode};

use super::RegistryError;
use super::client::{Client, Wait, stalled};
use super::error::{Failure, chain};
use crate::source::Note;

/// Progress after which earlier failures are forgotten, in bytes. It bounds
/// the tries for a blob to some per MiB.
const PROGRESS: u64 = 1 << 20;

/// A blob being read.
pub(super) struct BlobReader<'a> {
    client: Arc<Client>,
    what: String,
    path: String,
    size: u64,
    /// Bytes handed out or waiting in `chunk`.
    got: u64,
    response: Option<Response>,
    /// Bytes of the response that come before `got`.
    skip: u64,
    chunk: Bytes,
    failures: u32,
    /// `got` when failures were last forgotten.
    mark: u64,
    note: Note<'a>,
}

impl fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("path", &self.path)
            .field("size", &self.size)
            .field("got", &self.got)
            .finish_non_exhaustive()
    }
}

impl<'a> BlobReader<'a> {
    /// Asks for a blob of `size` bytes; `path` is that after `/v2/`.
    pub(super) fn open(
        client: Arc<Client>,
        what: String,
        path: String,
        size: u64,
        note: Note<'a>,
    ) -> Result<Self, RegistryError> {
        let mut reader = Self {
            client,
            what,
            path,
            size,
            got: 0,
            response: None,
            skip: 0,
            chunk: Bytes::new(),
            failures: 0,
            mark: 0,
            note,
        };
        reader.request()?;
        Ok(reader)
    }

    /// Asks for what is missing.
    fn request(&mut self) -> Result<(), RegistryError> {
        let (client, got, size) = (&self.client, self.got, self.size);
        let (response, start) = client.block_on(client.retrying(self.note, async || {
            let response = client
                .exchange(&self.what, self.note, &|http, base| {
                    let request = http.get(format!("{base}v2/{}", self.path));
                    match got {
                        0 => request,
                        _ => request.header(RANGE, format!("bytes={got}-")),
                    }
                })
                .await?;
            let start = match response.status() {
                StatusCode::PARTIAL_CONTENT => range_start(response.headers()),
                _ => Some(0),
            };
            // A range that leaves a gap is no answer to what was asked.
            let start = start.filter(|start| *start <= got).ok_or_else(|| {
                Failure::Final(RegistryError::Broken {
                    what: self.what.clone(),
                    got,
                    tries: 1,
                    reason: "the registry answered with another range than asked for".to_owned(),
                })
            })?;
            let actual = response
                .content_length()
                .and_then(|len| len.checked_add(start));
            if let Some(actual) = actual.filter(|actual| *actual != size) {
                return Err(Failure::Final(self.wrong_length(actual)));
            }
            Ok((response, start))
        }))??;
        self.skip = got - start;
        self.response = Some(response);
        Ok(())
    }

    fn wrong_length(&self, actual: u64) -> RegistryError {
        RegistryError::Length {
            what: self.what.clone(),
            expected: self.size,
            actual,
        }
    }

    /// Gets the next piece into `chunk`; at the end of the blob it stays
    /// empty.
    fn fill(&mut self) -> Result<(), RegistryError> {
        while self.chunk.is_empty() && self.got < self.size {
            let Some(response) = &mut self.response else {
                self.request()?;
                continue;
            };
            let client = &self.client;
            let next = client.watched(response.chunk(), client.stall(), self.note);
            let reason = match client.block_on(next)? {
                Ok(Ok(Some(chunk))) => {
                    self.take(chunk)?;
                    continue;
                }
                Ok(Ok(None)) => "the registry ended it early".to_owned(),
                Ok(Err(error)) => chain(&error),
                Err(Wait::Cancelled) => return Err(RegistryError::Cancelled),
                Err(Wait::TimedOut) => stalled(client.stall()),
            };
            self.broken(reason)?;
        }
        Ok(())
    }

    fn take(&mut self, mut chunk: Bytes) -> Result<(), RegistryError> {
        let skipped = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        chunk.advance(skipped);
        self.skip -= skipped as u64;
        self.got = self.got.saturating_add(chunk.len() as u64);
        if self.got > self.size {
            return Err(self.wrong_length(self.got));
        }
        self.chunk = chunk;
        Ok(())
    }

    /// Waits before the rest is asked for, or gives up.
    fn broken(&mut self, reason: String) -> Result<(), RegistryError> {
        self.response = None;
        if self.got - self.mark >= PROGRESS {
            self.mark = self.got;
            self.failures = 0;
        }
        self.failures += 1;
        let error = RegistryError::Broken {
            what: self.what.clone(),
            got: self.got,
            tries: self.failures,
            reason,
        };
        if self.failures >= self.client.retry().tries {
            return Err(error);
        }
        let pause = self.client.pause(self.failures, None, &error, self.note);
        self.client.block_on(pause)?
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.fill().map_err(io::Error::other)?;
        let len = buf.len().min(self.chunk.len());
        if let Some(buf) = buf.get_mut(..len) {
            self.chunk.copy_to_slice(buf);
        }
        Ok(len)
    }
}

/// Where a 206 begins: `Content-Range: bytes START-END/SIZE`.
pub(super) fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_range_is_read() {
        for (value, start) in [
            ("bytes 7-9/10", Some(7)),
            ("bytes 0-0/*", Some(0)),
            ("bytes */10", None),
            ("lines 1-2/3", None),
            ("bytes 99999999999999999999-/1", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().unwrap());
            assert_eq!(range_start(&headers), start, "{value:?}");
        }
    }
}
