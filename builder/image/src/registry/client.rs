//! The HTTP client: one registry, one repository.
//!
//! [`Client::exchange`] is a single request with the log-in that it needs;
//! [`Client::retrying`] repeats whatever may succeed later. Requests are built
//! by closures, so that they can be made anew each time, also with bodies.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use oci_client::errors::OciEnvelope;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url, redirect};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use super::auth::{Access, Auth};
use super::error::Failure;
use super::{RegistryError, RegistryOptions, RetryPolicy, retry, tls};
use crate::reference::RegistryReference;
use crate::source::Note;

/// How often a registry that was never reached is tried.
const FIRST_TRIES: u32 = 3;
/// Most log-ins for one request: a token may expire in between.
const MAX_LOGINS: u32 = 2;
/// Most redirects followed.
const MAX_REDIRECTS: usize = 10;
/// Longest error body read, in bytes.
const MAX_DETAIL: usize = 16 << 10;
/// How often a wait looks whether it is still wanted.
const WATCH: Duration = Duration::from_millis(100);

/// A client for one repository.
pub(super) struct Client {
    runtime: Option<Runtime>,
    http: reqwest::Client,
    registry: String,
    /// Host and port that answer for `registry`.
    host: String,
    base: OnceCell<Url>,
    tls_verify: bool,
    auth: Auth,
    retry: RetryPolicy,
    stall: Duration,
    reached: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// Why a wait ended without what it waited for.
#[derive(Debug)]
pub(super) enum Wait {
    Cancelled,
    TimedOut,
}

/// Reads a variable of the environment; an empty one counts as not set.
pub(super) fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

impl Client {
    pub(super) fn new(
        reference: &RegistryReference,
        options: &RegistryOptions,
        access: &Access,
    ) -> Result<Self, RegistryError> {
        let registry = reference.registry().to_owned();
        let host = match registry.as_str() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            other => other.to_owned(),
        };
        let certificates = tls::directory(&registry, options.cert_dir.as_deref(), &environment);
        let tls = tls::config(certificates.as_deref(), options.tls_verify)?;
        let tls_verify = options.tls_verify;
        let redirects = redirect::Policy::custom(move |attempt| {
            let from_https = attempt
                .previous()
                .last()
                .is_some_and(|u| u.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else if tls_verify && from_https && attempt.url().scheme() != "https" {
                attempt.error("redirected from https to http; --tls-verify=false allows it")
            } else {
                // reqwest drops the Authorization header across hosts.
                attempt.follow()
            }
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("bootwright/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            .hickory_dns(true)
            .connect_timeout(options.connect_timeout)
            .redirect(redirects)
            .referer(false);
        if is_loopback(&host) {
            // As Go's tools do: what is here is not asked for elsewhere.
            builder = builder.no_proxy();
        }
        let http = builder.build();
        let http = http.map_err(|e| RegistryError::Setup(super::error::chain(&e)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| RegistryError::Setup(e.to_string()))?;
        Ok(Self {
            runtime: Some(runtime),
            http,
            host,
            base: OnceCell::new(),
            tls_verify,
            auth: Auth::new(&registry, reference.repository(), options, access),
            registry,
            retry: options.retry,
            stall: options.stall_timeout,
            reached: AtomicBool::new(false),
        })
    }

    pub(super) fn tls_verify(&self) -> bool {
        self.tls_verify
    }

    pub(super) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Runs a future to its end on the calling thread.
    pub(super) fn block_on<F: Future>(&self, future: F) -> Result<F::Output, RegistryError> {
        match &self.runtime {
            Some(runtime) => Ok(runtime.handle().block_on(future)),
            None => Err(RegistryError::Setup("the client is shut down".to_owned())),
        }
    }

    /// Gets a document of at most `limit` bytes.
    pub(super) fn get_small(
        &self,
        what: &str,
        path: &str,
        headers: &[(HeaderName, String)],
        limit: u64,
        note: Note<'_>,
    ) -> Result<(HeaderMap, Vec<u8>), RegistryError> {
        self.block_on(self.retrying(note, async || {
            let response = self
                .exchange(what, note, &|http, base| {
                    let request = http.get(format!("{base}v2/{path}"));
                    headers
                        .iter()
                        .fold(request, |r, (name, value)| r.header(name, value))
                })
                .await?;
            let headers = response.headers().clone();
            let body = self.body(what, response, limit, note).await?;
            Ok((headers, body))
        }))?
    }

    /// Repeats `operation` while it fails in a way that may pass.
    pub(super) async fn retrying<T>(
        &self,
        note: Note<'_>,
        mut operation: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            let (error, after) = match operation().await {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after }) => (error, after),
            };
            failures += 1;
            if failures >= self.tries() {
                return Err(error.after_tries(failures));
            }
            self.pause(failures, after, &error, note).await?;
        }
    }

    /// How often a request is made in all.
    pub(super) fn tries(&self) -> u32 {
        // A name mistyped should not take long to be told.
        match self.reached.load(Ordering::Relaxed) {
            true => self.retry.tries,
            false => self.retry.tries.min(FIRST_TRIES),
        }
    }

    /// Waits before another try and says so.
    pub(super) async fn pause(
        &self,
        failures: u32,
        after: Option<Duration>,
        error: &dyn fmt::Display,
        note: Note<'_>,
    ) -> Result<(), RegistryError> {
        let delay = self.retry.delay(failures, after);
        let seconds = delay.as_secs_f64();
        note.retrying(&format!("{error}; trying again in {seconds:.1} s"));
        match self
            .watched(std::future::pending::<()>(), delay, note)
            .await
        {
            Err(Wait::Cancelled) => Err(RegistryError::Cancelled),
            _ => Ok(()),
        }
    }

    /// Waits for `future` for at most `limit`, and only as long as it is
    /// wanted.
    pub(super) async fn watched<F: Future>(
        &self,
        future: F,
        limit: Duration,
        note: Note<'_>,
    ) -> Result<F::Output, Wait> {
        let mut future = pin!(future);
        let mut left = limit;
        loop {
            if note.cancelled() {
                return Err(Wait::Cancelled);
            }
            let slice = left.min(WATCH);
            match tokio::time::timeout(slice, future.as_mut()).await {
                Ok(output) => return Ok(output),
                Err(_) => left -= slice,
            }
            if left.is_zero() {
                return Err(Wait::TimedOut);
            }
        }
    }

    /// One request to the registry, logged in as it asks for. The answer's
    /// status is a success.
    pub(super) async fn exchange(
        &self,
        what: &str,
        note: Note<'_>,
        build: &dyn Fn(&reqwest::Client, &Url) -> RequestBuilder,
    ) -> Result<Response, Failure> {
        let base = self.base(note).await?;
        let build = |http: &reqwest::Client| build(http, base);
        let (response, ours) = self.exchange_any(what, note, &build, None).await?;
        self.check(what, response, ours).await
    }

    /// Where the registry is.
    pub(super) async fn base(&self, note: Note<'_>) -> Result<&Url, Failure> {
        self.base.get_or_try_init(|| self.find_base(note)).await
    }

    /// The same whatever the answer's status, which is not 401 or 403 from
    /// the registry itself; says whether it is the registry's own answer.
    /// What is not sent to the registry's host goes without the log-in.
    /// `sent` counts the bytes of a body that takes long.
    pub(super) async fn exchange_any(
        &self,
        what: &str,
        note: Note<'_>,
        build: &dyn Fn(&reqwest::Client) -> RequestBuilder,
        sent: Option<&AtomicU64>,
    ) -> Result<(Response, bool), Failure> {
        let base = self.base(note).await?;
        let mut logins = 0;
        loop {
            let ticket = self.auth.ticket().await;
            let request = build(&self.http).build();
            let mut request =
                request.map_err(|e| Failure::of_request(&self.registry, &self.host, &e))?;
            if let Some(header) = &ticket.header
                && same_host(request.url(), base)
            {
                request.headers_mut().insert(AUTHORIZATION, header.clone());
            }
            let request = RequestBuilder::from_parts(self.http.clone(), request);
            let response = self.send_counted(request, note, sent).await?;
            // A redirect may have led to a host that our log-in is not for.
            let ours = same_host(response.url(), base);
            match response.status() {
                StatusCode::UNAUTHORIZED if ours && logins < MAX_LOGINS => {
                    logins += 1;
                    self.auth
                        .log_in(self, &response, &ticket, what, note)
                        .await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if ours => {
                    let detail = detail(response).await;
                    return Err(self.auth.denied(what, detail).await.into());
                }
                _ => return Ok((response, ours)),
            }
        }
    }

    /// Sends one request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        note: Note<'_>,
    ) -> Result<Response, Failure> {
        self.send_counted(request, note, None).await
    }

    /// The same for a request whose body takes longer than the registry may
    /// stall; `sent` says how far it is.
    async fn send_counted(
        &self,
        request: RequestBuilder,
        note: Note<'_>,
        sent: Option<&AtomicU64>,
    ) -> Result<Response, Failure> {
        let mut answer = pin!(request.send());
        let count = || sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
        let mut before = count();
        loop {
            let error = match self.watched(answer.as_mut(), self.stall, note).await {
                Ok(Ok(response)) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(response);
                }
                Ok(Err(error)) => {
                    return Err(Failure::of_request(&self.registry, &self.host, &error));
                }
                Err(Wait::Cancelled) => return Err(RegistryError::Cancelled.into()),
                Err(Wait::TimedOut) if count() != before => {
                    before = count();
                    continue;
                }
                Err(Wait::TimedOut) => RegistryError::Unreachable {
                    registry: self.registry.clone(),
                    reason: format!("no answer in {} s", self.stall.as_secs()),
                },
            };
            return Err(Failure::Again { error, after: None });
        }
    }

    /// Turns a status that is no success into an error.
    pub(super) async fn check(
        &self,
        what: &str,
        response: Response,
        ours: bool,
    ) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| retry::retry_after(v.to_str().ok()?, SystemTime::now()));
        let what = what.to_owned();
        let host = response.url().host_str().unwrap_or_default().to_owned();
        let detail = detail(response).await;
        let error = match status {
            StatusCode::NOT_FOUND if ours => RegistryError::NotFound { what, detail },
            StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests {
                what,
                detail,
                tries: 0,
            },
            _ => RegistryError::Status {
                what,
                status: match ours {
                    true => status.to_string(),
                    false => format!("with a redirect to {host}, which answered {status}"),
                },
                detail,
                tries: 1,
            },
        };
        let passing = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
            // The link that a redirect carries may have expired.
            || (!ours && matches!(status.as_u16(), 401 | 403));
        Err(match passing {
            true => Failure::Again { error, after },
            false => Failure::Final(error),
        })
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) async fn body(
        &self,
        what: &str,
        mut response: Response,
        limit: u64,
        note: Note<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let reason = match self.watched(response.chunk(), self.stall, note).await {
                Ok(Ok(Some(chunk))) => {
                    body.extend_from_slice(&chunk);
                    if body.len() as u64 > limit {
                        let what = what.to_owned();
                        return Err(RegistryError::TooLarge { what, limit }.into());
                    }
                    continue;
                }
                Ok(Ok(None)) => return Ok(body),
                Ok(Err(error)) => super::error::chain(&error),
                Err(Wait::Cancelled) => return Err(RegistryError::Cancelled.into()),
                Err(Wait::TimedOut) => stalled(self.stall),
            };
            return Err(Failure::Again {
                error: RegistryError::Broken {
                    what: what.to_owned(),
                    got: body.len() as u64,
                    tries: 1,
                    reason,
                },
                after: None,
            });
        }
    }

    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// Whether the registry is spoken to by HTTPS or, where that need not be,
    /// by plain HTTP.
    async fn find_base(&self, note: Note<'_>) -> Result<Url, Failure> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}/", self.host))
                .map_err(|e| RegistryError::Setup(format!("{}: {e}", self.host)))
        };
        let https = url("https")?;
        if self.tls_verify {
            return Ok(https);
        }
        let probe = |base: &Url| self.http.get(format!("{base}v2/"));
        let Err(secure) = self.send(probe(&https), note).await else {
            return Ok(https);
        };
        let http = url("http")?;
        match self.send(probe(&http), note).await {
            // What servers of HTTPS answer to plain HTTP. They may well have
            // reset the first connection before their alert was read
            // (RFC 8446, appendix E.5: a client's certificate is judged after
            // the handshake); then their words tell.
            Ok(response) if response.status() == StatusCode::BAD_REQUEST => {
                let tls = secure.is_of_tls() || wants_https(response).await;
                if tls { Err(secure) } else { Ok(http) }
            }
            Ok(_) => Ok(http),
            // Where nothing listens, both say the same.
            Err(plain @ Failure::Again { .. }) => Err(plain),
            Err(_) => Err(secure),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Connections are of no use any more; do not wait for them.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) fn stalled(limit: Duration) -> String {
    format!("nothing came for {} s", limit.as_secs())
}

fn same_host(a: &Url, b: &Url) -> bool {
    a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a server says that it speaks HTTPS only: Go's, nginx and Apache
/// each have words of their own for that.
async fn wants_https(response: Response) -> bool {
    let text = String::from_utf8_lossy(&beginning(response).await).to_lowercase();
    ["https server", "https port", "ssl-enabled"]
        .iter()
        .any(|words| text.contains(words))
}

/// What the registry says of an error, as `: text`; empty if nothing.
pub(super) async fn detail(response: Response) -> String {
    describe(&beginning(response).await)
}

/// The first bytes of a body.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) =
        tokio::time::timeout(Duration::from_secs(5), response.chunk()).await
    {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_DETAIL {
            body.truncate(MAX_DETAIL);
            break;
        }
    }
    body
}

/// OCI distribution specification, "Error Codes"; else the first line of a
/// plain text.
fn describe(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<OciEnvelope>(body) {
        Ok(envelope) => {
            let texts = envelope.errors.iter().map(|e| match e.message.as_str() {
                "" => serde_json::to_string(&e.code).unwrap_or_default(),
                message => message.to_owned(),
            });
            texts.collect::<Vec<_>>().join(", ")
        }
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            match text.trim_start().starts_with('<') {
                // A proxy's page says nothing in one line.
                true => String::new(),
                false => text.lines().next().unwrap_or_default().trim().to_owned(),
            }
        }
    };
    // Whatever it sends must not reach a terminal as it is.
    let text: String = text.chars().take(300).collect();
    match text.is_empty() {
        true => text,
        false => format!(": {}", text.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_registries_are_told_in_a_line() {
        for (body, text) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                ": manifest unknown",
            ),
            (
                r#"{"errors":[{"code":"X"},{"code":"Y","message":"y"}]}"#,
                ": \\\"X\\\", y",
            ),
            ("too fast\nreally", ": too fast"),
            ("<html>...</html>", ""),
            ("", ""),
            ("\u{1b}[31mred", ": \\u{1b}[31mred"),
        ] {
            assert_eq!(describe(body.as_bytes()), text, "{body}");
        }
    }

    #[test]
    fn what_is_here_is_known() {
        for (host, here) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.3.2.1", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(host), here, "{host}");
        }
    }
}
