//! Image references and their transports.
//!
//! A reference is the text a user gives for an image: `TRANSPORT:REST`, with
//! the transports and the splitting rules of containers-transports(5), so that
//! what works with skopeo and podman works here. With no transport it names an
//! image in a registry. [`ImageReference`] is the parsed form and prints as
//! the full, unambiguous text.

mod registry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::Digest;

pub use registry::RegistryReference;

/// A parsed image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageReference {
    /// `docker://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`: an image in a registry.
    Registry(RegistryReference),
    /// `oci:DIR[:TAG|@DIGEST]`: an OCI image layout directory.
    OciLayout {
        /// The directory that holds `oci-layout` and `index.json`.
        path: PathBuf,
        /// Which of its images.
        select: LayoutSelect,
    },
    /// `oci-archive:FILE[:TAG|@DIGEST]`: an OCI image layout in a tar archive.
    OciArchive {
        /// The archive.
        path: PathBuf,
        /// Which of its images.
        select: LayoutSelect,
    },
    /// `docker-archive:FILE[:REF|:@INDEX]`: what `docker save` writes.
    DockerArchive {
        /// The archive.
        path: PathBuf,
        /// Which of its images.
        select: ArchiveSelect,
    },
    /// `dir:PATH`: a directory that is the root file system itself.
    Directory {
        /// The root directory.
        path: PathBuf,
    },
}

/// Which image of an OCI layout is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LayoutSelect {
    /// The only one there is.
    Only,
    /// The one whose `org.opencontainers.image.ref.name` is this.
    Tag(String),
    /// The manifest or index with this digest.
    Digest(Digest),
}

/// Which image of a docker archive is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ArchiveSelect {
    /// The only one there is.
    Only,
    /// The one with this name among its `RepoTags`.
    Name(RegistryReference),
    /// The one at this place in `manifest.json`, from 0.
    Index(usize),
}

/// Text that is no image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error(
        "empty image reference; expected for example quay.io/fedora/fedora-bootc:42 or oci:DIR:TAG"
    )]
    Empty,
    /// A registry reference that does not parse.
    #[error("{text:?} is not an image in a registry: {reason}")]
    Registry {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path was given with no transport.
    #[error("{text:?} is a path, not an image in a registry; write {suggestion}")]
    Path {
        /// The text.
        text: String,
        /// The references that may have been meant.
        suggestion: String,
    },
    /// A transport that needs a path got none.
    #[error("{text:?} names no file; expected {expected}")]
    NoPath {
        /// The text.
        text: String,
        /// The form of this transport.
        expected: &'static str,
    },
    /// What follows the path is no tag, digest, name or index.
    #[error("{text:?}: {selector:?} selects no image: {reason}; expected {expected}")]
    Selector {
        /// The text.
        text: String,
        /// The part that is wrong.
        selector: String,
        /// What is wrong with it.
        reason: String,
        /// The form of this transport.
        expected: &'static str,
    },
    /// A transport of containers-transports(5) that is not offered.
    #[error(
        "{text:?}: the transport {transport}: is not supported; {hint} \
         (supported: docker://, oci:, oci-archive:, docker-archive:, dir:)"
    )]
    Transport {
        /// The text.
        text: String,
        /// The transport.
        transport: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
}

const OCI_FORM: &str = "oci:DIR[:TAG|@DIGEST]";
const OCI_ARCHIVE_FORM: &str = "oci-archive:FILE[:TAG|@DIGEST]";
const DOCKER_ARCHIVE_FORM: &str = "docker-archive:FILE[:NAME[:TAG]|:@INDEX]";

/// Transports of skopeo and podman that need a daemon or its storage.
const OTHER_TRANSPORTS: [(&str, &str); 7] = [
    (
        "containers-storage",
        "write the image out with `podman save --format oci-archive -o FILE IMAGE`",
    ),
    (
        "docker-daemon",
        "write the image out with `docker save -o FILE IMAGE`",
    ),
    ("ostree", "copy it with `skopeo copy` to an OCI layout"),
    ("sif", "copy it with `skopeo copy` to an OCI layout"),
    ("tarball", "unpack it and use dir:PATH"),
    ("atomic", "use docker://"),
    ("http", "an image is named without a scheme, as HOST/NAME"),
];

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(rest) = text.strip_prefix("docker://") {
            return RegistryReference::parse(rest, text).map(Self::Registry);
        }
        if text.starts_with("docker:/") {
            return Err(ReferenceError::Registry {
                text: text.to_owned(),
                reason: "the transport is written docker:// with two slashes".to_owned(),
            });
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, select) = layout_parts(text, rest, OCI_FORM)?;
            return Ok(Self::OciLayout { path, select });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, select) = layout_parts(text, rest, OCI_ARCHIVE_FORM)?;
            return Ok(Self::OciArchive { path, select });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, select) = archive_parts(text, rest)?;
            return Ok(Self::DockerArchive { path, select });
        }
        if let Some(rest) = text.strip_prefix("dir:") {
            let path = nonempty_path(text, rest, "dir:PATH")?;
            return Ok(Self::Directory { path });
        }
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        let scheme = scheme.map(|s| if s == "https" { "http" } else { s });
        for (transport, hint) in OTHER_TRANSPORTS {
            // `http:8` may be an image called http with the tag 8.
            if scheme == Some(transport) && (transport != "http" || text.contains("://")) {
                return Err(ReferenceError::Transport {
                    text: text.to_owned(),
                    transport,
                    hint,
                });
            }
        }
        match RegistryReference::parse(text, text) {
            Ok(reference) if !names_an_archive(text) => Ok(Self::Registry(reference)),
            other => match suggestion(text) {
                Some(suggestion) => Err(ReferenceError::Path {
                    text: text.to_owned(),
                    suggestion,
                }),
                None => other.map(Self::Registry),
            },
        }
    }
}

/// Whether a text that could be a repository is likelier a file: an archive's
/// file name that exists here.
fn names_an_archive(text: &str) -> bool {
    let archive = [".tar", ".tar.gz", ".tgz", ".oci", ".ociarchive"];
    archive.iter().any(|suffix| text.ends_with(suffix)) && Path::new(text).is_file()
}

/// What to write instead of a bare path; `None` if the text is no path.
fn suggestion(text: &str) -> Option<String> {
    let path = Path::new(text);
    let metadata = fs::metadata(path).ok();
    match metadata {
        Some(m) if m.is_dir() && path.join("oci-layout").exists() => Some(format!("oci:{text}")),
        Some(m) if m.is_dir() => Some(format!(
            "dir:{text} if it is a root file system (it holds no OCI layout)"
        )),
        Some(_) => Some(format!(
            "oci-archive:{text} (podman save --format oci-archive, skopeo) or \
             docker-archive:{text} (docker save)"
        )),
        None if text.starts_with(['/', '.']) => Some(format!(
            "oci:{text}, oci-archive:{text}, docker-archive:{text} or dir:{text} \
             (there is no such file here now)"
        )),
        None => None,
    }
}

fn nonempty_path(
    text: &str,
    path: &str,
    expected: &'static str,
) -> Result<PathBuf, ReferenceError> {
    if path.is_empty() {
        return Err(ReferenceError::NoPath {
            text: text.to_owned(),
            expected,
        });
    }
    Ok(PathBuf::from(path))
}

/// Splits `PATH[:TAG|@DIGEST]`: the digest at the last `@`, the tag at the
/// first `:` as skopeo does, since a tag may contain one and a path not.
fn layout_parts(
    text: &str,
    rest: &str,
    expected: &'static str,
) -> Result<(PathBuf, LayoutSelect), ReferenceError> {
    let selector_error = |selector: &str, reason: &str| ReferenceError::Selector {
        text: text.to_owned(),
        selector: selector.to_owned(),
        reason: reason.to_owned(),
        expected,
    };
    if let Some((path, digest)) = rest.rsplit_once('@')
        && (digest.starts_with("sha256:") || digest.starts_with("sha512:"))
    {
        if path.contains(':') {
            return Err(selector_error(
                path.split_once(':').map_or("", |(_, tag)| tag),
                "a tag and a digest exclude each other",
            ));
        }
        let digest = digest
            .parse::<Digest>()
            .map_err(|e| selector_error(digest, &e.to_string()))?;
        let path = nonempty_path(text, path, expected)?;
        return Ok((path, LayoutSelect::Digest(digest)));
    }
    let (path, select) = match rest.split_once(':') {
        None => (rest, LayoutSelect::Only),
        Some((_, "")) => return Err(selector_error("", "the tag is empty")),
        Some((path, tag)) => {
            // image-spec annotations.md, org.opencontainers.image.ref.name.
            let valid = |c: char| c.is_ascii_alphanumeric() || "-._:@/+".contains(c);
            if !tag.chars().all(valid) {
                return Err(selector_error(
                    tag,
                    "a tag has letters, digits and - . _ : @ / + only",
                ));
            }
            (path, LayoutSelect::Tag(tag.to_owned()))
        }
    };
    Ok((nonempty_path(text, path, expected)?, select))
}

/// Splits `PATH[:REF|:@INDEX]` at the first `:`.
fn archive_parts(text: &str, rest: &str) -> Result<(PathBuf, ArchiveSelect), ReferenceError> {
    let selector_error = |selector: &str, reason: String| ReferenceError::Selector {
        text: text.to_owned(),
        selector: selector.to_owned(),
        reason,
        expected: DOCKER_ARCHIVE_FORM,
    };
    let (path, select) = match rest.split_once(':') {
        None => (rest, ArchiveSelect::Only),
        Some((path, selector)) => {
            let select = if let Some(index) = selector.strip_prefix('@') {
                let index = index
                    .parse()
                    .map_err(|_| selector_error(selector, "the index is no number".to_owned()))?;
                ArchiveSelect::Index(index)
            } else {
                let name = RegistryReference::parse(selector, text)
                    .map_err(|e| selector_error(selector, e.to_string()))?;
                if name.digest().is_some() {
                    let reason = "a docker archive knows names, not digests".to_owned();
                    return Err(selector_error(selector, reason));
                }
                ArchiveSelect::Name(name)
            };
            (path, select)
        }
    };
    Ok((nonempty_path(text, path, DOCKER_ARCHIVE_FORM)?, select))
}

impl fmt::Display for LayoutSelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Tag(tag) => write!(f, ":{tag}"),
            Self::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::OciLayout { path, select } => write!(f, "oci:{}{select}", path.display()),
            Self::OciArchive { path, select } => {
                write!(f, "oci-archive:{}{select}", path.display())
            }
            Self::DockerArchive { path, select } => {
                write!(f, "docker-archive:{}", path.display())?;
                match select {
                    ArchiveSelect::Only => Ok(()),
                    ArchiveSelect::Name(name) => write!(f, ":{name}"),
                    ArchiveSelect::Index(index) => write!(f, ":@{index}"),
                }
            }
            Self::Directory { path } => write!(f, "dir:{}", path.display()),
        }
    }
}
