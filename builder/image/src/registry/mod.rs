//! Images in a registry, by the OCI distribution specification.
//!
//! [`Registry`] is the [`ImageSource`] of a `docker://` reference. Its face is
//! synchronous: requests run on a small private tokio runtime, and a blob is a
//! blocking reader that pulls the next piece only when it is wanted, so memory
//! stays at a few hundred KiB a blob.
//!
//! The transport is a thin client on `reqwest` and not that of `oci-client`:
//! the latter has no client certificates, hides response headers (so no
//! Retry-After and no check of Content-Range), swallows errors of the token
//! server and knows no identity tokens; parsing a reference with it takes 40 ms.
//! Its error envelopes do serve, as do the types of `oci-spec`.

mod auth;
mod blob;
mod body;
mod client;
mod credentials;
mod error;
mod push;
mod retry;
mod tls;
mod upload;

use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::ACCEPT;

use crate::digest::Digest;
use crate::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_JSON, OCI_INDEX, OCI_MANIFEST,
};
use crate::reference::RegistryReference;
use crate::source::{ImageSource, Note, Root, SourceError, verify_digest};

use auth::Access;
use blob::BlobReader;
use client::Client;

pub use body::{Blob, BlobContent};
pub use push::Stored;
pub use upload::Uploaded;

pub use credentials::{Credentials, CredentialsError, Secret};
pub use error::RegistryError;
pub use retry::RetryPolicy;
pub use tls::CertificateError;

/// How to talk to a registry.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Credentials to use instead of those on file (`--creds`).
    pub credentials: Option<Credentials>,
    /// The only file to look for credentials in (`--authfile`); else those of
    /// podman and docker.
    pub authfile: Option<PathBuf>,
    /// Whether the registry has to prove its identity. If not, certificates
    /// are not checked and plain HTTP will do (`--tls-verify=false`).
    pub tls_verify: bool,
    /// The only directory to look for certificates in (`--cert-dir`); else
    /// `certs.d/HOST:PORT` of podman and docker.
    pub cert_dir: Option<PathBuf>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing while it should.
    pub stall_timeout: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            credentials: None,
            authfile: None,
            tls_verify: true,
            cert_dir: None,
            retry: RetryPolicy::default(),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// An image in a registry.
#[derive(Debug)]
pub struct Registry {
    reference: RegistryReference,
    options: RegistryOptions,
    access: Access,
    client: Mutex<Option<Arc<Client>>>,
}

impl Registry {
    /// Prepares for an image; neither is the registry contacted nor are
    /// certificates read before something is asked for.
    pub fn new(reference: RegistryReference, options: &RegistryOptions) -> Self {
        Self {
            reference,
            options: options.clone(),
            access: Access::Pull,
            client: Mutex::default(),
        }
    }

    fn client(&self) -> Result<Arc<Client>, RegistryError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let made = Arc::new(Client::new(&self.reference, &self.options, &self.access)?);
        *client = Some(Arc::clone(&made));
        Ok(made)
    }

    fn get_manifest(&self, tag_or_digest: &str, note: Note<'_>) -> Result<Fetched, RegistryError> {
        let what = match tag_or_digest.split_once(':') {
            Some(_) => format!("the manifest {tag_or_digest} of {}", self.name()),
            None => format!("{}:{tag_or_digest}", self.name()),
        };
        let path = format!("{}/manifests/{tag_or_digest}", self.reference.repository());
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let (headers, bytes) =
            self.client()?
                .get_small(&what, &path, &[(ACCEPT, accept)], MAX_JSON, note)?;
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Ok(Fetched {
            bytes,
            media_type: text("content-type"),
            // Optional, and an algorithm may be unknown.
            digest: text("docker-content-digest").and_then(|d| d.parse().ok()),
        })
    }

    fn name(&self) -> String {
        format!(
            "{}/{}",
            self.reference.registry(),
            self.reference.repository()
        )
    }
}

/// A manifest as the registry answered.
struct Fetched {
    bytes: Vec<u8>,
    media_type: Option<String>,
    digest: Option<Digest>,
}

impl ImageSource for Registry {
    fn root(&self, note: Note<'_>) -> Result<Root, SourceError> {
        let fetched = self.get_manifest(&self.reference.tag_or_digest(), note)?;
        let asked = self.reference.digest().cloned();
        let digest = asked
            .or(fetched.digest)
            .unwrap_or_else(|| Digest::sha256(&fetched.bytes));
        let what = format!("the manifest of {}", self.reference);
        verify_digest(&what, &fetched.bytes, &digest)?;
        Ok(Root::Document {
            bytes: fetched.bytes,
            media_type: fetched.media_type,
            digest,
        })
    }

    fn manifest(&self, descriptor: &Descriptor, note: Note<'_>) -> Result<Vec<u8>, SourceError> {
        let digest = descriptor.digest.to_string();
        Ok(self.get_manifest(&digest, note)?.bytes)
    }

    fn open_blob<'a>(
        &'a self,
        descriptor: &Descriptor,
        note: Note<'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        let what = format!("{} of {}", descriptor.digest, self.name());
        let path = format!(
            "{}/blobs/{}",
            self.reference.repository(),
            descriptor.digest
        );
        let client = self.client()?;
        let reader = BlobReader::open(client, what, path, descriptor.size, note)?;
        Ok(Box::new(reader))
    }

    fn read_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
        note: Note<'_>,
    ) -> Result<Vec<u8>, SourceError> {
        // The inherent method, by one request.
        Ok(Registry::read_range(self, &descriptor.digest, range, note)?)
    }
}
