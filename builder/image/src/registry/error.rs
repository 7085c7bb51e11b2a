//! What can go wrong with a registry, each with what to do about it.

use std::error::Error;
use std::io;

use super::{CertificateError, CredentialsError};

/// An exchange with a registry that failed for good.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer at all.
    #[error("cannot reach the registry {registry}: {reason}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The encrypted connection could not be made.
    #[error("no secure connection to the registry {registry}: {reason}; {hint}")]
    Tls {
        /// Host and port.
        registry: String,
        /// Why.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// 401 or 403.
    #[error("access to {what} denied: {reason}{detail}; {hint}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Which credentials were used or looked for.
        reason: String,
        /// What the registry says.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// 404.
    #[error("{what} not found: the registry has no such repository, tag or content{detail}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry says.
        detail: String,
    },
    /// 429 to the end.
    #[error(
        "{what}: the registry limits requests (429){detail}{}{}", tried(*tries), later(*tries)
    )]
    TooManyRequests {
        /// What was asked for.
        what: String,
        /// What the registry says.
        detail: String,
        /// Times it was tried; 0 while it goes on.
        tries: u32,
    },
    /// Any other status.
    #[error("{what}: the registry answered {status}{detail}{}", tried(*tries))]
    Status {
        /// What was asked for.
        what: String,
        /// Status code and its name.
        status: String,
        /// What the registry says.
        detail: String,
        /// Times it was tried.
        tries: u32,
    },
    /// An answer that broke off, and did so again and again.
    #[error("{what}: the transfer broke off after {got} bytes, {tries} times: {reason}")]
    Broken {
        /// What was asked for.
        what: String,
        /// Bytes received.
        got: u64,
        /// Tries without progress.
        tries: u32,
        /// Why, the last time.
        reason: String,
    },
    /// Content of another length than its descriptor says.
    #[error("{what}: the registry serves {actual} bytes; the descriptor says {expected}")]
    Length {
        /// What was asked for.
        what: String,
        /// Length by the descriptor.
        expected: u64,
        /// Length by the registry.
        actual: u64,
    },
    /// An answer that contradicts the protocol, or the content.
    #[error("{what}: the registry answered wrongly: {reason}")]
    Answer {
        /// What was asked for or sent.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A manifest or token over the limit.
    #[error("{what}: the registry serves over {limit} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A challenge or token that is unusable.
    #[error("cannot log in to {registry}: {reason}")]
    Login {
        /// Host and port.
        registry: String,
        /// Why.
        reason: String,
    },
    /// Credentials on file are unusable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Certificates that were given are unusable.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The caller wants it no more.
    #[error("cancelled")]
    Cancelled,
    /// The client itself could not be made.
    #[error("cannot set up the registry client: {0}")]
    Setup(String),
}

fn tried(tries: u32) -> String {
    match tries {
        0 | 1 => String::new(),
        n => format!(" ({n} tries)"),
    }
}

fn later(tries: u32) -> &'static str {
    match tries {
        0 => "",
        _ => "; try again later or log in for a higher limit",
    }
}

impl RegistryError {
    /// The same after so many tries.
    pub(super) fn after_tries(mut self, count: u32) -> Self {
        match &mut self {
            Self::TooManyRequests { tries, .. }
            | Self::Status { tries, .. }
            | Self::Broken { tries, .. } => *tries = count,
            _ => {}
        }
        self
    }
}

/// A failed try.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again would not help.
    Final(RegistryError),
    /// It might.
    Again {
        error: RegistryError,
        /// What Retry-After said.
        after: Option<std::time::Duration>,
    },
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// Whether the other side speaks TLS, though not with us.
    pub(super) fn is_of_tls(&self) -> bool {
        let (Self::Final(error) | Self::Again { error, .. }) = self;
        matches!(error, RegistryError::Tls { hint, .. } if *hint != PLAIN_HTTP)
    }

    /// What a request that got no answer means. The registry at `host` may
    /// have sent us elsewhere, to its token server or its storage.
    pub(super) fn of_request(registry: &str, host: &str, error: &reqwest::Error) -> Self {
        let registry = &match error.url().and_then(|url| elsewhere(url, host)) {
            Some(other) => format!("{registry} at {other}, where it sends us"),
            None => registry.to_owned(),
        };
        let reason = chain(error);
        if let Some(tls) = tls_error(error) {
            return Self::Final(RegistryError::Tls {
                registry: registry.to_owned(),
                hint: tls_hint(tls),
                reason: tls.to_string(),
            });
        }
        let error = RegistryError::Unreachable {
            registry: registry.to_owned(),
            reason,
        };
        Self::Again { error, after: None }
    }
}

/// Host and port of `url`, if those are not `host`.
fn elsewhere(url: &reqwest::Url, host: &str) -> Option<String> {
    let name = url.host_str()?;
    let shown = match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    // The default port may be written out.
    let known = format!("{name}:{}", url.port_or_known_default()?);
    (shown != host && known != host).then_some(shown)
}

/// An error's causes, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let this: &(dyn Error + 'static) = next?;
        // io::Error's source is that of the error it holds, not that error.
        next = match this
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(held) => Some(held as &(dyn Error + 'static)),
            None => this.source(),
        };
        Some(this)
    })
}

/// An error and its causes in one line. What reqwest and hyper say of it only
/// repeats the URL or that there was an error, so the causes below come alone
/// where there are any.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        // Wrappers often print what they wrap.
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
    }
    let outer = parts
        .iter()
        .take_while(|p| p.starts_with("client error ("))
        .count();
    if outer < parts.len() {
        parts.drain(..outer);
    }
    match parts.is_empty() {
        true => error.to_string(),
        false => parts.join(": "),
    }
}

/// The TLS error among the causes, if any.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|e| e.downcast_ref())
}

/// The hint where what was answered is no TLS.
const PLAIN_HTTP: &str = "it seems to speak plain HTTP: use --tls-verify=false if that is meant";

fn tls_hint(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidMessage(_) => PLAIN_HTTP,
        rustls::Error::InvalidCertificate(_) => {
            "give its authority's certificate as *.crt in --cert-dir, or do without \
             verification by --tls-verify=false"
        }
        rustls::Error::AlertReceived(_) => {
            "it may ask for a client certificate: put NAME.cert and NAME.key in --cert-dir"
        }
        _ => "certificates are given with --cert-dir",
    }
}
