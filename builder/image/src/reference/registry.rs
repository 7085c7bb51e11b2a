//! References to images in registries.

use std::fmt;
use std::str::FromStr;

use super::ReferenceError;
use crate::digest::Digest;

/// Longest repository name in bytes.
const MAX_NAME: usize = 255;
/// Longest tag in bytes.
const MAX_TAG: usize = 128;

/// Where an image is in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl RegistryReference {
    /// Parses `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]` by the grammar of
    /// github.com/distribution/reference; `text` is the whole reference for
    /// the error. By hand, because compiling the regular expression of
    /// `oci-client` takes as long as planning a disk.
    pub(super) fn parse(reference: &str, text: &str) -> Result<Self, ReferenceError> {
        let error = |reason: String| ReferenceError::Registry {
            text: text.to_owned(),
            reason: format!("{reason}; expected [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]"),
        };
        if reference.is_empty() {
            return Err(error("it is empty".to_owned()));
        }
        if reference.chars().any(char::is_whitespace) {
            return Err(error("it contains white space".to_owned()));
        }
        let (rest, digest) = match reference.split_once('@') {
            None => (reference, None),
            Some((rest, digest)) => {
                let digest = digest.parse::<Digest>().map_err(|e| error(e.to_string()))?;
                (rest, Some(digest))
            }
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(error(format!("{tag:?} is no tag")));
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if names_a_host(host) => (host, path),
            _ => ("docker.io", name),
        };
        let registry = match host {
            "index.docker.io" => "docker.io",
            host if is_host(host) => host,
            host => return Err(error(format!("{host:?} is no host"))),
        };
        let repository = match registry == "docker.io" && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if let Some(part) = repository.split('/').find(|part| !is_path_component(part)) {
            return Err(error(match part.chars().any(char::is_uppercase) {
                true => format!("repository names are lower-case, and {part:?} is not"),
                false => format!("{part:?} is no part of a repository name"),
            }));
        }
        if repository.len() > MAX_NAME {
            return Err(error(format!("the name has over {MAX_NAME} characters")));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Host and port as written: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` where only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the manifest is asked for by: the digest if there is one, else
    /// the tag.
    pub fn tag_or_digest(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag().unwrap_or("latest").to_owned(),
        }
    }
}

/// Whether the first part of a name is a host and not of the repository:
/// docker's rule.
fn names_a_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.chars().any(char::is_uppercase)
}

/// `domain` of the grammar.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty()
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    name.split('.').all(label) && port.is_none_or(is_port)
}

/// `path-component` of the grammar: runs of letters and digits with `.`, `_`,
/// `__` or any number of `-` between.
fn is_path_component(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.chars().all(|c| c == '-');
    part.starts_with(is_word) && part.ends_with(is_word) && part.split(is_word).all(separator)
}

/// `tag` of the grammar.
fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= MAX_TAG
        && tag.starts_with(is_word)
        && tag.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

impl FromStr for RegistryReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text, text)
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}
