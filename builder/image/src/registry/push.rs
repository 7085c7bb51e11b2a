//! Storing blobs and manifests, and reading parts of blobs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RANGE};

use super::auth::Access;
use super::error::{Failure, chain};
use super::upload::{Reporting, Upload, Uploaded, check_digest};
use super::{Blob, BlobContent, Registry, RegistryError, RegistryOptions};
use crate::digest::Digest;
use crate::reference::RegistryReference;
use crate::source::Note;

/// A manifest that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Whether the registry keeps track of the manifest's subject itself, so
    /// that it lists it among the subject's referrers.
    pub subject_known: bool,
}

impl Registry {
    /// Prepares for storing an image. `mount_from` are all repositories of the
    /// registry that blobs may be mounted from: the log-in asks for them.
    pub fn for_push(
        reference: RegistryReference,
        options: &RegistryOptions,
        mount_from: Vec<String>,
    ) -> Self {
        Self {
            reference,
            options: options.clone(),
            access: Access::Push { mount_from },
            client: Mutex::default(),
        }
    }

    /// What is stored or read.
    pub fn reference(&self) -> &RegistryReference {
        &self.reference
    }

    /// Looks for a blob in the repository, then has it mounted from one of
    /// `mount_from`; `None` if it has to be sent.
    ///
    /// # Errors
    /// The registry cannot be asked. One that does not answer the question
    /// counts as not having it.
    pub fn find_blob(
        &self,
        digest: &Digest,
        size: u64,
        mount_from: &[String],
        note: Note<'_>,
    ) -> Result<Option<Uploaded>, RegistryError> {
        let blob = Blob {
            digest: digest.clone(),
            size,
            content: BlobContent::Bytes(bytes::Bytes::new()),
        };
        self.upload(&blob, mount_from, &|_| (), note, true)
    }

    /// Stores a blob unless the registry has it. `progress` is told how many
    /// bytes of it are sent, which may become fewer when some have to be sent
    /// again.
    ///
    /// # Errors
    /// The registry does not take it.
    pub fn put_blob(
        &self,
        blob: &Blob,
        mount_from: &[String],
        progress: &(dyn Fn(u64) + Sync),
        note: Note<'_>,
    ) -> Result<Uploaded, RegistryError> {
        let done = self.upload(blob, mount_from, progress, note, false)?;
        Ok(done.unwrap_or(Uploaded::Sent))
    }

    fn upload(
        &self,
        blob: &Blob,
        mount_from: &[String],
        progress: &(dyn Fn(u64) + Sync),
        note: Note<'_>,
        find_only: bool,
    ) -> Result<Option<Uploaded>, RegistryError> {
        let client = self.client()?;
        let sent = Arc::new(AtomicU64::new(0));
        let note = Reporting {
            note,
            sent: &sent,
            progress,
        };
        let upload = Upload::new(
            &client,
            self.reference.repository(),
            format!("{} to {}", blob.digest, self.name()),
            blob,
            mount_from,
            &note,
            Arc::clone(&sent),
        );
        let upload = match find_only {
            true => upload.find_only(),
            false => upload,
        };
        client.block_on(upload.run())?
    }

    /// Stores a manifest or index under a tag or its digest.
    ///
    /// # Errors
    /// The registry does not take it.
    pub fn put_manifest(
        &self,
        tag_or_digest: &str,
        media_type: &str,
        bytes: &[u8],
        note: Note<'_>,
    ) -> Result<Stored, RegistryError> {
        let client = self.client()?;
        let what = match tag_or_digest.contains(':') {
            true => format!("the manifest {tag_or_digest} to {}", self.name()),
            false => format!("{}:{tag_or_digest}", self.name()),
        };
        let path = format!("{}/manifests/{tag_or_digest}", self.reference.repository());
        let digest = Digest::sha256(bytes);
        client.block_on(client.retrying(note, async || {
            let response = client
                .exchange(&what, note, &|http, base| {
                    http.put(format!("{base}v2/{path}"))
                        .header(CONTENT_TYPE, media_type)
                        .body(bytes.to_vec())
                })
                .await?;
            check_digest(&what, response.headers(), &digest)?;
            Ok(Stored {
                subject_known: response.headers().contains_key("oci-subject"),
            })
        }))?
    }

    /// The manifest or index with this tag; `None` if there is none.
    ///
    /// # Errors
    /// The registry does not give it.
    pub fn manifest_at(&self, tag: &str, note: Note<'_>) -> Result<Option<Vec<u8>>, RegistryError> {
        match self.get_manifest(tag, note) {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes in `range` of a blob, exactly as many; not verified.
    ///
    /// # Errors
    /// The registry does not give them.
    pub fn read_range(
        &self,
        digest: &Digest,
        range: Range<u64>,
        note: Note<'_>,
    ) -> Result<Vec<u8>, RegistryError> {
        let client = self.client()?;
        let what = format!("{digest} of {}", self.name());
        let path = format!("{}/blobs/{digest}", self.reference.repository());
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|e| RegistryError::Setup(e.to_string()))?;
        if len == 0 {
            return Ok(Vec::new());
        }
        client.block_on(client.retrying(note, async || {
            let mut response = client
                .exchange(&what, note, &|http, base| {
                    http.get(format!("{base}v2/{path}"))
                        .header(RANGE, format!("bytes={}-{}", range.start, range.end - 1))
                })
                .await?;
            let start = match response.status() {
                StatusCode::PARTIAL_CONTENT => super::blob::range_start(response.headers()),
                // It knows no ranges: all comes, and what is before is passed over.
                _ => Some(0),
            };
            let start = start.filter(|start| *start <= range.start);
            let mut skip =
                start
                    .map(|start| range.start - start)
                    .ok_or_else(|| RegistryError::Answer {
                        what: what.clone(),
                        reason: "it gave another range than asked for".to_owned(),
                    })?;
            let mut bytes = Vec::with_capacity(len);
            while bytes.len() < len {
                let next = client.watched(response.chunk(), client.stall(), note).await;
                let reason = match next {
                    Ok(Ok(Some(chunk))) => {
                        let passed = skip.min(chunk.len() as u64) as usize;
                        skip -= passed as u64;
                        let wanted = chunk.get(passed..).unwrap_or_default();
                        bytes.extend(wanted.iter().take(len - bytes.len()));
                        continue;
                    }
                    Ok(Ok(None)) => "the registry ended it early".to_owned(),
                    Ok(Err(error)) => chain(&error),
                    Err(super::client::Wait::Cancelled) => {
                        return Err(RegistryError::Cancelled.into());
                    }
                    Err(super::client::Wait::TimedOut) => super::client::stalled(client.stall()),
                };
                return Err(Failure::Again {
                    error: RegistryError::Broken {
                        what: what.clone(),
                        got: bytes.len() as u64,
                        tries: 1,
                        reason,
                    },
                    after: None,
                });
            }
            Ok(bytes)
        }))?
    }
}
