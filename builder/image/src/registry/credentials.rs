//! Credentials on file: those of podman, skopeo and docker.
//!
//! As in containers-auth.json(5) and docker's config.json: entries by registry
//! or by repository prefix, credential helpers, identity tokens. The crate
//! `docker_credential` reads the same files but knows no prefixes and says
//! neither which file nor which helper failed, so it does not serve here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// Largest credentials file in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A text that must not be seen: it prints as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves to a registry who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token, as `docker login` gets it from some
    /// registries.
    IdentityToken(Secret),
}

impl Credentials {
    /// Parses `USER[:PASSWORD]` of `--creds`; with no password it is empty.
    pub fn parse(text: &str) -> Self {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        Self::Password {
            user: user.to_owned(),
            password: Secret::new(password),
        }
    }
}

/// Credentials on file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read credentials from {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is not of the form.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A credential helper failed.
    #[error("the credential helper {helper} (named in {}) failed: {reason}", path.display())]
    Helper {
        /// The helper's program.
        helper: String,
        /// The file that names it.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// Where credentials came from, or were looked for in vain.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) credentials: Option<Credentials>,
    /// In words, for errors.
    pub(super) origin: String,
}

/// A credentials file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<Secret>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// Looks for the credentials of a repository.
///
/// `authfile` is then the only file; else REGISTRY_AUTH_FILE, podman's files
/// and docker's, the first that has an entry. `env` reads the environment.
pub(super) fn find(
    registry: &str,
    repository: &str,
    authfile: Option<&Path>,
    env: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<Found, CredentialsError> {
    let given = authfile
        .map(Path::to_owned)
        .or_else(|| env("REGISTRY_AUTH_FILE"));
    let (files, must_exist) = match given {
        Some(path) => (vec![path], true),
        None => (usual_files(env), false),
    };
    for path in &files {
        let Some(file) = read(path, must_exist)? else {
            continue;
        };
        if let Some(credentials) = file.find(registry, repository, path)? {
            return Ok(Found {
                credentials: Some(credentials),
                origin: path.display().to_string(),
            });
        }
    }
    let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    Ok(Found {
        credentials: None,
        origin: files.join(", "),
    })
}

/// containers-auth.json(5), and docker's after that.
fn usual_files(env: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = env("HOME");
    let in_home = |path: &str| home.as_ref().map(|h| h.join(path));
    [
        env("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")),
        env("XDG_CONFIG_HOME")
            .or_else(|| in_home(".config"))
            .map(|d| d.join("containers/auth.json")),
        env("DOCKER_CONFIG")
            .or_else(|| in_home(".docker"))
            .map(|d| d.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &Path, must_exist: bool) -> Result<Option<AuthFile>, CredentialsError> {
    let io_error = |error| CredentialsError::Io {
        path: path.to_owned(),
        error,
    };
    let file_error = |reason| CredentialsError::File {
        path: path.to_owned(),
        reason,
    };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(e) => return Err(io_error(e)),
        Ok(m) if m.len() > MAX_FILE => {
            return Err(file_error(format!("it has over {MAX_FILE} bytes")));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(io_error)?;
    // An empty file is what a first `login` may have left.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| file_error(format!("it is no credentials file: {e}")))
}

impl AuthFile {
    fn find(
        &self,
        registry: &str,
        repository: &str,
        path: &Path,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let hosts = aliases(registry);
        for host in &hosts {
            let helpers = self.cred_helpers.as_ref();
            if let Some(helper) = helpers.and_then(|h| h.get(*host)).filter(|h| !h.is_empty()) {
                return ask(helper, host, path);
            }
        }
        if let Some(entry) = self.entry(registry, repository)
            && let Some(credentials) = entry.credentials(path)?
        {
            return Ok(Some(credentials));
        }
        if let Some(helper) = self.creds_store.as_ref().filter(|s| !s.is_empty()) {
            for host in &hosts {
                if let Some(credentials) = ask(helper, host, path)? {
                    return Ok(Some(credentials));
                }
            }
        }
        Ok(None)
    }

    /// The most specific entry: `host/a/b`, `host/a`, `host`, then whatever
    /// old forms (URLs) name the host.
    fn entry(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let auths = self.auths.as_ref()?;
        for host in aliases(registry).iter().filter(|h| !h.contains("://")) {
            let full = format!("{host}/{repository}");
            let mut key = full.as_str();
            loop {
                if let Some(entry) = auths.get(key) {
                    return Some(entry);
                }
                match key.rsplit_once('/') {
                    Some((shorter, _)) => key = shorter,
                    None => break,
                }
            }
        }
        auths.iter().find_map(|(key, entry)| {
            let rest = key
                .strip_prefix("https://")
                .or_else(|| key.strip_prefix("http://"))?;
            let host = rest.split('/').next().unwrap_or(rest);
            aliases(registry).contains(&host).then_some(entry)
        })
    }
}

/// The names a registry goes by in the files: Docker's has several.
fn aliases(registry: &str) -> Vec<&str> {
    match registry {
        "docker.io" => vec![
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "https://index.docker.io/v1/",
        ],
        other => vec![other],
    }
}

impl Entry {
    /// `None` where the entry only says that a helper knows.
    fn credentials(&self, path: &Path) -> Result<Option<Credentials>, CredentialsError> {
        let filled = |secret: &&Secret| !secret.reveal().is_empty();
        if let Some(token) = self.identity_token.as_ref().filter(filled) {
            return Ok(Some(Credentials::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(filled) {
            // Docker pads, others do not.
            let config = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
            let text = engine.decode(auth.reveal().trim()).ok();
            let text = text.and_then(|t| String::from_utf8(t).ok());
            let parts = text.as_deref().and_then(|t| t.split_once(':'));
            let (user, password) = parts.ok_or_else(|| CredentialsError::File {
                path: path.to_owned(),
                reason: "an auth entry is not the base64 form of USER:PASSWORD".to_owned(),
            })?;
            return Ok(Some(Credentials::Password {
                user: user.to_owned(),
                // Docker once wrote a trailing NUL.
                password: Secret::new(password.trim_end_matches('\0')),
            }));
        }
        Ok(match (&self.username, &self.password) {
            (Some(user), Some(password)) if !user.is_empty() => Some(Credentials::Password {
                user: user.clone(),
                password: password.clone(),
            }),
            _ => None,
        })
    }
}

/// Asks a credential helper: `docker-credential-NAME get`, the registry on its
/// standard input, JSON on its output.
fn ask(helper: &str, host: &str, path: &Path) -> Result<Option<Credentials>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let error = |reason: String| CredentialsError::Helper {
        helper: program.clone(),
        path: path.to_owned(),
        reason,
    };
    // It is to be found on PATH, not in some directory that a file names.
    if helper.contains('/') {
        return Err(error("its name has a slash in it".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| error(format!("it cannot be run: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read says what is wrong by its status.
        let _ = stdin.write_all(host.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| error(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
        // The protocol's own words for "nothing for this registry".
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let said: String = said.trim().chars().take(300).collect();
        return Err(error(format!("{}: {}", output.status, said.escape_debug())));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|e| error(format!("its answer is not valid: {e}")))?;
    Ok(match answer.username.as_str() {
        // docker-credential-helpers: this user means an identity token.
        "<token>" => Some(Credentials::IdentityToken(answer.secret)),
        "" if answer.secret.reveal().is_empty() => None,
        _ => Some(Credentials::Password {
            user: answer.username,
            password: answer.secret,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> AuthFile {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_most_specific_entry_is_taken() {
        let entry = |user: &str| format!(r#"{{"username":"{user}","password":"x"}}"#);
        let keys = [
            "h:5/a/b",
            "h:5/a",
            "h:5",
            "https://old/v1/",
            "http://older",
            "https://index.docker.io/v1/",
        ];
        let auths: Vec<_> = keys
            .iter()
            .map(|k| format!("\"{k}\":{}", entry(k)))
            .collect();
        let file = parse(&format!(r#"{{"auths":{{{}}}}}"#, auths.join(",")));
        for (registry, repository, key) in [
            ("h:5", "a/b", Some("h:5/a/b")),
            ("h:5", "a/b/c", Some("h:5/a/b")),
            ("h:5", "a/bc", Some("h:5/a")),
            ("h:5", "ab", Some("h:5")),
            ("h", "a/b", None),
            ("old", "x", Some("https://old/v1/")),
            ("older", "x", Some("http://older")),
            (
                "docker.io",
                "library/x",
                Some("https://index.docker.io/v1/"),
            ),
        ] {
            let found = file.find(registry, repository, Path::new("f")).unwrap();
            let user = found.map(|c| match c {
                Credentials::Password { user, .. } => user,
                other => panic!("{other:?}"),
            });
            assert_eq!(user.as_deref(), key, "{registry}/{repository}");
        }
    }

    #[test]
    fn entries_of_all_forms_are_read_and_never_shown() {
        for (entry, expected) in [
            (
                r#"{"auth":"dXNlcjpwYTpzcw=="}"#,
                Some(Credentials::parse("user:pa:ss")),
            ),
            (
                r#"{"auth":"dXNlcjpwYTpzcw"}"#,
                Some(Credentials::parse("user:pa:ss")),
            ),
            (
                r#"{"username":"user","password":"pa:ss"}"#,
                Some(Credentials::parse("user:pa:ss")),
            ),
            (
                r#"{"auth":"eDp5","identitytoken":"pa:ss"}"#,
                Some(Credentials::IdentityToken(Secret::new("pa:ss"))),
            ),
            ("{}", None),
            (r#"{"auth":""}"#, None),
            (r#"{"email":"x"}"#, None),
        ] {
            let file = parse(&format!(r#"{{"auths":{{"h":{entry}}}}}"#));
            let found = file.find("h", "x", Path::new("f")).unwrap();
            assert_eq!(found, expected, "{entry}");
            assert!(!format!("{file:?}{found:?}").contains("pa:ss"));
        }
    }
}
