//! Uploading a blob (OCI distribution specification, "Pushing Blobs").
//!
//! A blob is looked for, then mounted from another repository, then sent: in
//! one request whose length is known, which all registries take. What breaks
//! off is continued in chunks from where the registry says it is; a registry
//! that refuses large requests gets chunks, too. A registry may answer any
//! status of success and a Location of any form.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::RegistryError;
use super::body::{Blob, BlobContent, PartBody};
use super::client::Client;
use super::error::Failure;
use crate::digest::Digest;
use crate::source::{Note, Observer};

/// Bytes of a chunk, unless the registry wants larger ones.
const CHUNK: u64 = 32 << 20;
/// Smallest chunk that is tried with registries that refuse larger ones.
const SMALLEST_CHUNK: u64 = 1 << 20;
/// How often chunks are made smaller: from a GiB, which a registry may want,
/// to the smallest.
const MAX_SHRINKS: u32 = 10;
/// Most redirects of one request followed; a body cannot be sent twice by
/// the HTTP client itself.
const MAX_REDIRECTS: usize = 5;
const OCTETS: &str = "application/octet-stream";

/// How a blob came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Present,
    /// It was in another repository of the registry.
    Mounted,
    /// All of it was sent.
    Sent,
}

/// What a request led to.
enum Step {
    /// There is more to do.
    More,
    Done(Uploaded),
    /// The registry does not have it, and nothing shall be sent.
    Absent,
}

/// An upload that the registry has begun.
struct Session {
    location: Url,
    /// Bytes that the registry has.
    offset: u64,
}

/// A blob on its way.
pub(super) struct Upload<'a> {
    client: &'a Client,
    repository: &'a str,
    blob: &'a Blob,
    what: String,
    note: &'a Reporting<'a>,
    /// Whether nothing shall be sent.
    find_only: bool,
    /// Repositories that may have it, the next one to try last.
    mount_from: Vec<&'a str>,
    session: Option<Session>,
    /// Whether the registry has to be asked how much it has.
    uncertain: bool,
    /// Whether all is sent in one request.
    whole: bool,
    chunk: u64,
    /// How often chunks were made smaller.
    shrunk: u32,
    sent: Arc<AtomicU64>,
}

/// Passes on what an observer is asked and tells how far the body is.
pub(super) struct Reporting<'a> {
    pub(super) note: Note<'a>,
    pub(super) sent: &'a AtomicU64,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
}

impl Observer for Reporting<'_> {
    fn retrying(&self, message: &str) {
        self.note.retrying(message);
    }

    fn cancelled(&self) -> bool {
        (self.progress)(self.sent.load(Ordering::Relaxed));
        self.note.cancelled()
    }
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        client: &'a Client,
        repository: &'a str,
        what: String,
        blob: &'a Blob,
        mount_from: &'a [String],
        note: &'a Reporting<'a>,
        sent: Arc<AtomicU64>,
    ) -> Self {
        let mount_from = mount_from.iter().rev().map(String::as_str);
        Self {
            client,
            repository,
            blob,
            what,
            note,
            find_only: false,
            mount_from: mount_from.filter(|from| *from != repository).collect(),
            session: None,
            uncertain: false,
            whole: true,
            chunk: CHUNK,
            shrunk: 0,
            sent,
        }
    }

    /// Looks for the blob and mounts it, but sends nothing.
    pub(super) fn find_only(mut self) -> Self {
        self.find_only = true;
        self
    }

    /// Goes on until the registry has the blob; `None` if it was only to be
    /// found and was not. Tries count anew when the registry has more than it
    /// had.
    pub(super) async fn run(mut self) -> Result<Option<Uploaded>, RegistryError> {
        let (mut failures, mut mark) = (0, 0);
        loop {
            let (error, after) = match self.step().await {
                Ok(Step::Done(uploaded)) => return Ok(Some(uploaded)),
                Ok(Step::Absent) => return Ok(None),
                Ok(Step::More) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after }) => (error, after),
            };
            self.uncertain = true;
            let offset = self.session.as_ref().map_or(0, |session| session.offset);
            if offset > mark {
                (failures, mark) = (0, offset);
            }
            failures += 1;
            if failures >= self.client.tries() {
                return Err(error.after_tries(failures));
            }
            self.client
                .pause(failures, after, &error, self.note)
                .await?;
        }
    }

    /// One request on the way.
    async fn step(&mut self) -> Result<Step, Failure> {
        let Some(session) = &mut self.session else {
            return self.begin().await;
        };
        if self.uncertain {
            let asked = status(self.client, &self.what, self.note, session).await?;
            self.uncertain = false;
            // An upload that is not known any more begins anew.
            if !asked || session.offset > self.blob.size {
                self.session = None;
            }
            return Ok(Step::More);
        }
        let (offset, size) = (session.offset, self.blob.size);
        match offset {
            0 if self.whole => self.finish(0).await.map(Step::Done),
            offset if offset < size => self.chunk(offset).await.map(|()| Step::More),
            _ => self.finish(size).await.map(Step::Done),
        }
    }

    /// Looks whether anything has to be sent, and begins an upload if so.
    async fn begin(&mut self) -> Result<Step, Failure> {
        self.uncertain = false;
        self.sent.store(0, Ordering::Relaxed);
        let Blob { digest, size, .. } = self.blob;
        if has_blob(
            self.client,
            self.repository,
            &self.what,
            digest,
            *size,
            self.note,
        )
        .await?
        {
            return Ok(Step::Done(Uploaded::Present));
        }
        let base = self.client.base(self.note).await?;
        let url = base.join(&format!("v2/{}/blobs/uploads/", self.repository));
        let mut url = url.map_err(|e| self.bad(&e.to_string()))?;
        let from = self.mount_from.pop();
        if self.find_only && from.is_none() {
            return Ok(Step::Absent);
        }
        if let Some(from) = from {
            url.query_pairs_mut()
                .append_pair("mount", &digest.to_string())
                .append_pair("from", from);
        }
        let ask = |http: &reqwest::Client| http.post(url.clone()).header(CONTENT_LENGTH, 0);
        let asked = self.client.exchange_any(&self.what, self.note, &ask, None);
        let (response, ours) = match asked.await {
            Ok(answer) => answer,
            // A mount that is not permitted is not a push that is not.
            Err(Failure::Final(RegistryError::Denied { .. })) if from.is_some() => {
                return Ok(Step::More);
            }
            Err(failure) => return Err(failure),
        };
        if from.is_some() && response.status().is_client_error() && !is_passing(response.status()) {
            return Ok(Step::More);
        }
        let response = self.client.check(&self.what, response, ours).await?;
        if from.is_some() && response.status() == StatusCode::CREATED {
            return Ok(Step::Done(Uploaded::Mounted));
        }
        // Anything else is an upload begun, also 202 where a mount was asked
        // for; what other repositories may have it is not asked any more.
        self.mount_from.clear();
        let least = number(response.headers(), "oci-chunk-min-length").unwrap_or(0);
        self.chunk = self.chunk.max(least);
        let location = location(self.client, &response)
            .ok_or_else(|| self.bad("it began an upload without saying where"))?;
        if self.find_only {
            // Registries tidy up what was begun and not ended; this is sooner.
            let ask = |http: &reqwest::Client| http.delete(location.clone());
            let asked = self.client.exchange_any(&self.what, self.note, &ask, None);
            let _ = asked.await;
            return Ok(Step::Absent);
        }
        self.session = Some(Session {
            location,
            offset: 0,
        });
        Ok(Step::More)
    }

    /// Sends what comes after `from` and ends the upload.
    async fn finish(&mut self, from: u64) -> Result<Uploaded, Failure> {
        let size = self.blob.size;
        let (response, ours) = self.send(Method::PUT, from, size, true).await?;
        let status = response.status();
        if status.is_success() {
            check_digest(&self.what, response.headers(), &self.blob.digest)?;
            return Ok(Uploaded::Sent);
        }
        // Whatever happened, the next try asks what the registry has.
        let begun_anew = matches!(status.as_u16(), 400 | 404 | 405 | 413 | 416);
        let failure = self.client.check(&self.what, response, ours).await;
        if status.as_u16() == 413 && from == 0 {
            // Too large for one request, for a proxy in between perhaps.
            self.session = None;
            self.whole = false;
        }
        self.whole &= from == 0 && !is_passing(status);
        match failure.map(|_| ()) {
            // What arrived was not the blob, or is not known any more.
            Err(Failure::Final(error)) if begun_anew => {
                self.session = None;
                Err(Failure::Again { error, after: None })
            }
            Err(failure) => Err(failure),
            Ok(()) => Err(self.bad("it answered nothing that is known").into()),
        }
    }

    /// Sends a chunk from `offset` on.
    async fn chunk(&mut self, offset: u64) -> Result<(), Failure> {
        let end = offset.saturating_add(self.chunk).min(self.blob.size);
        let (response, ours) = self.send(Method::PATCH, offset, end, false).await?;
        let status = response.status();
        if status.is_success() {
            let location = location(self.client, &response);
            let has = range_end(response.headers()).unwrap_or(end);
            if let Some(session) = &mut self.session {
                session.location = location.unwrap_or_else(|| session.location.clone());
                session.offset = has;
            }
            // A registry that takes part of a chunk gets the rest with the
            // next; one that took more has something else.
            if has > end || has <= offset {
                self.session = None;
                return Err(Failure::Again {
                    error: self.bad("it says that it has another part of the blob"),
                    after: None,
                });
            }
            return Ok(());
        }
        let failure = self.client.check(&self.what, response, ours).await;
        let begun_anew = match status.as_u16() {
            413 if end - offset > SMALLEST_CHUNK && self.shrunk < MAX_SHRINKS => {
                // No failure: what it takes can only be found out so.
                self.chunk = ((end - offset) / 2).max(SMALLEST_CHUNK);
                self.shrunk += 1;
                self.uncertain = true;
                return Ok(());
            }
            // It has another part of it; asking tells which.
            416 => {
                let error = self.bad("it wants another part of the blob");
                return Err(Failure::Again { error, after: None });
            }
            // No chunks, then.
            400 | 404 | 405 | 411 | 501 => {
                self.whole = true;
                true
            }
            _ => false,
        };
        if begun_anew {
            self.session = None;
        }
        match failure.map(|_| ()) {
            Err(Failure::Final(error)) if begun_anew => Err(Failure::Again { error, after: None }),
            Err(failure) => Err(failure),
            Ok(()) => Err(self.bad("it answered nothing that is known").into()),
        }
    }

    /// Sends bytes `from` to `to`; `last` says that they end the blob.
    async fn send(
        &mut self,
        method: Method,
        from: u64,
        to: u64,
        last: bool,
    ) -> Result<(Response, bool), Failure> {
        let Some(session) = &self.session else {
            return Err(self.bad("there is no upload").into());
        };
        let mut url = session.location.clone();
        if last {
            let digest = self.blob.digest.to_string();
            url.query_pairs_mut().append_pair("digest", &digest);
        }
        for _ in 0..MAX_REDIRECTS {
            let build = |http: &reqwest::Client| -> RequestBuilder {
                let request = http
                    .request(method.clone(), url.clone())
                    .header(CONTENT_TYPE, OCTETS)
                    .header(CONTENT_LENGTH, to - from);
                let request = match last {
                    true => request,
                    false => request.header(CONTENT_RANGE, format!("{from}-{}", to - 1)),
                };
                if from == to {
                    return request;
                }
                let content = self.blob.content.clone();
                let body = PartBody::new(content, from, to, Arc::clone(&self.sent));
                request.body(reqwest::Body::wrap(body))
            };
            let sent = Some(&*self.sent);
            let asked = self
                .client
                .exchange_any(&self.what, self.note, &build, sent)
                .await;
            let (response, ours) = match asked {
                Ok(answer) => answer,
                Err(failure) => {
                    // Smaller pieces from now on, from where it broke off.
                    if let Failure::Again { .. } = &failure {
                        self.whole = false;
                    }
                    return Err(failure);
                }
            };
            if !matches!(response.status().as_u16(), 307 | 308) {
                return Ok((response, ours));
            }
            url = location(self.client, &response)
                .ok_or_else(|| self.bad("it redirects to nowhere"))?;
        }
        Err(self.bad("too many redirects").into())
    }

    fn bad(&self, reason: &str) -> RegistryError {
        RegistryError::Answer {
            what: self.what.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Asks how much of an upload the registry has; `false` if it does not know
/// the upload.
async fn status(
    client: &Client,
    what: &str,
    note: Note<'_>,
    session: &mut Session,
) -> Result<bool, Failure> {
    let url = session.location.clone();
    let ask = |http: &reqwest::Client| http.get(url.clone());
    let asked = client.exchange_any(what, note, &ask, None);
    let (response, ours) = match asked.await {
        Ok(answer) => answer,
        Err(Failure::Final(RegistryError::Denied { .. })) => return Ok(false),
        Err(failure) => return Err(failure),
    };
    if !response.status().is_success() {
        return match client.check(what, response, ours).await {
            Err(Failure::Final(_)) => Ok(false),
            Err(failure) => Err(failure),
            Ok(_) => Ok(false),
        };
    }
    let Some(offset) = range_end(response.headers()) else {
        return Ok(false);
    };
    // `0-0` says one byte, but some say it for none.
    session.offset = if offset == 1 { 0 } else { offset };
    if let Some(location) = location(client, &response) {
        session.location = location;
    }
    Ok(true)
}

/// Whether the repository has a blob. A registry that does not let look is
/// asked to take it.
async fn has_blob(
    client: &Client,
    repository: &str,
    what: &str,
    digest: &Digest,
    size: u64,
    note: Note<'_>,
) -> Result<bool, Failure> {
    let base = client.base(note).await?;
    let url = format!("{base}v2/{repository}/blobs/{digest}");
    let ask = |http: &reqwest::Client| http.head(&url);
    let asked = client.exchange_any(what, note, &ask, None);
    let (response, ours) = match asked.await {
        Ok(answer) => answer,
        Err(Failure::Final(RegistryError::Denied { .. })) => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let length = number(response.headers(), CONTENT_LENGTH.as_str());
    match response.status().is_success() {
        true => Ok(length.is_none_or(|length| length == size)),
        false => match client.check(what, response, ours).await {
            Err(failure @ Failure::Again { .. }) => Err(failure),
            _ => Ok(false),
        },
    }
}

/// A registry need not say what it stored, but what it says must be right.
pub(super) fn check_digest(
    what: &str,
    headers: &HeaderMap,
    digest: &Digest,
) -> Result<(), RegistryError> {
    let said = headers.get("docker-content-digest");
    let said = said.and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
    match said {
        Some(said) if said.algorithm() == digest.algorithm() && said != *digest => {
            Err(RegistryError::Answer {
                what: what.to_owned(),
                reason: format!("it stored something else, {said}"),
            })
        }
        _ => Ok(()),
    }
}

/// Statuses that pass; the same as everywhere.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The Location of an answer, relative to what was asked. One of the same
/// host stays as secure as the request was: registries behind a proxy do not
/// know that they are spoken to by HTTPS.
fn location(client: &Client, response: &Response) -> Option<Url> {
    let text = response.headers().get(LOCATION)?.to_str().ok()?;
    let asked = response.url();
    let mut url = asked.join(text).ok()?;
    if asked.scheme() == "https" && url.scheme() == "http" {
        if url.host_str() == asked.host_str() {
            url.set_scheme("https").ok()?;
            if url.port() == Some(80) {
                url.set_port(asked.port()).ok()?;
            }
        } else if client.tls_verify() {
            return None;
        }
    }
    Some(url)
}

/// How many bytes `Range: 0-END` says there are; with or without a unit.
fn range_end(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RANGE)?.to_str().ok()?.trim();
    let value = value.strip_prefix("bytes").unwrap_or(value);
    let (_, end) = value.trim_start_matches(['=', ' ']).split_once('-')?;
    end.trim().parse::<u64>().ok()?.checked_add(1)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

impl Blob {
    /// A blob of these bytes.
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self {
            digest: Digest::sha256(&bytes),
            size: bytes.len() as u64,
            content: BlobContent::Bytes(bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_has_is_read_in_all_forms() {
        for (value, end) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("bytes 0-99", Some(100)),
            ("0-0", Some(1)),
            ("0-", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, value.parse().unwrap());
            assert_eq!(range_end(&headers), end, "{value:?}");
        }
    }
}
