//! Certificates: which authorities are trusted, and who we are.
//!
//! As in containers-certs.d(5): a directory a registry, in it `*.crt` are
//! authorities (in addition to the system's), `NAME.cert` and `NAME.key` a
//! client certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Largest certificate or key file in bytes.
const MAX_PEM: u64 = 4 << 20;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file or directory cannot be read.
    #[error("cannot read certificates from {}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is no certificate or key.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate without a key, or the other way round.
    #[error("{}: a client certificate needs both NAME.cert and NAME.key; there is no {}", path.display(), missing.display())]
    Half {
        /// The file that is there.
        path: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
}

/// The directory of a registry's certificates: that given, else the first
/// there is of the user's, podman's and docker's.
pub(super) fn directory(
    registry: &str,
    given: Option<&Path>,
    env: &dyn Fn(&str) -> Option<PathBuf>,
) -> Option<PathBuf> {
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    let config = env("XDG_CONFIG_HOME").or_else(|| Some(env("HOME")?.join(".config")));
    let places = [
        config.map(|c| c.join("containers/certs.d")),
        Some(PathBuf::from("/etc/containers/certs.d")),
        Some(PathBuf::from("/etc/docker/certs.d")),
    ];
    places
        .into_iter()
        .flatten()
        .map(|place| place.join(registry))
        .find(|place| place.is_dir())
}

/// The TLS configuration for a registry.
pub(super) fn config(
    directory: Option<&Path>,
    verify: bool,
) -> Result<ClientConfig, CertificateError> {
    let mut files = Files {
        roots: RootCertStore::empty(),
        given: Vec::new(),
        identity: None,
    };
    if verify {
        files.roots.add_parsable_certificates(system_authorities());
    }
    if let Some(directory) = directory {
        files.read(directory)?;
    }
    let error = |e: &dyn std::fmt::Display| pem(directory.unwrap_or(Path::new("TLS")), e);
    let provider = Arc::new(ring::default_provider());
    let schemes = provider
        .signature_verification_algorithms
        .supported_schemes();
    let verifier: Arc<dyn ServerCertVerifier> = if !verify || files.roots.is_empty() {
        Arc::new(Unverified {
            schemes,
            accept: !verify,
        })
    } else {
        let roots = Arc::new(files.roots);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        Arc::new(Verified {
            inner: inner.build().map_err(|e| error(&e))?,
            given: files.given,
        })
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| error(&e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match files.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((path, chain, key)) => {
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| CertificateError::Pem {
                    path,
                    reason: e.to_string(),
                })
        }
    }
}

type Identity = (
    PathBuf,
    Vec<CertificateDer<'static>>,
    PrivateKeyDer<'static>,
);

struct Files {
    roots: RootCertStore,
    /// The authorities from the directory.
    given: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

/// The files that distributions keep all authorities in.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's authorities; those of SSL_CERT_FILE and SSL_CERT_DIR where
/// they are set. None at all is no error here: a handshake will say so.
fn system_authorities() -> Vec<CertificateDer<'static>> {
    let set = |name| std::env::var_os(name).is_some();
    let bundle = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    let found = match bundle {
        // One file instead of the same again in hundreds.
        Some(bundle) if !set("SSL_CERT_FILE") && !set("SSL_CERT_DIR") => {
            rustls_native_certs::load_certs_from_paths(Some(bundle), None)
        }
        _ => rustls_native_certs::load_native_certs(),
    };
    found.certs
}

impl Files {
    fn read(&mut self, directory: &Path) -> Result<(), CertificateError> {
        let io_error = |error| CertificateError::Io {
            path: directory.to_owned(),
            error,
        };
        let entries = fs::read_dir(directory).map_err(io_error)?;
        let mut paths = entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io_error)?;
        paths.sort();
        for path in paths {
            let other = |extension: &str| {
                let other = path.with_extension(extension);
                let there = other.exists();
                (other, there)
            };
            let extension = path.extension().and_then(|e| e.to_str());
            match extension {
                Some("crt") => {
                    for certificate in certificates(&path)? {
                        self.roots
                            .add(certificate.clone())
                            .map_err(|e| pem(&path, e))?;
                        self.given.push(certificate);
                    }
                }
                Some("cert") => {
                    let (key_path, there) = other("key");
                    if !there {
                        return Err(CertificateError::Half {
                            path,
                            missing: key_path,
                        });
                    }
                    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?);
                    let key = key.map_err(|e| pem(&key_path, e))?;
                    // The first pair in the order of names is used.
                    if self.identity.is_none() {
                        let chain = certificates(&path)?;
                        self.identity = Some((path, chain, key));
                    }
                }
                Some("key") => {
                    let (cert_path, there) = other("cert");
                    if !there {
                        return Err(CertificateError::Half {
                            path,
                            missing: cert_path,
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn pem(path: &Path, error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Pem {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let io_error = |error| CertificateError::Io {
        path: path.to_owned(),
        error,
    };
    let len = fs::metadata(path).map_err(io_error)?.len();
    if len > MAX_PEM {
        return Err(pem(path, format!("it has over {MAX_PEM} bytes")));
    }
    fs::read(path).map_err(io_error)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|e| pem(path, e))?;
    if found.is_empty() {
        return Err(pem(path, "there is no PEM certificate in it"));
    }
    Ok(found)
}

/// Verifies certificates as rustls does, but also trusts one that is itself
/// among the authorities given: what `openssl req -x509` makes is an authority
/// and the server's certificate in one, which webpki alone refuses.
#[derive(Debug)]
struct Verified {
    inner: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.given.contains(end_entity) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            verify_server_name(&parsed, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts any certificate (`--tls-verify=false`), or none because no
/// authority is known.
#[derive(Debug)]
struct Unverified {
    schemes: Vec<SignatureScheme>,
    accept: bool,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.accept {
            let reason = rustls::CertificateError::UnknownIssuer;
            return Err(rustls::Error::InvalidCertificate(reason));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
