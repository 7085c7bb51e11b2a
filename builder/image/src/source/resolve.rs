//! From what a reference names to the one manifest for a platform.

use std::collections::{BTreeSet, VecDeque};

use super::{ImageSource, Note, Root, SourceError, check_small, verify};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, Index, Manifest, ManifestError, is_index};
use crate::platform::Platform;

/// Deepest nesting of indexes.
const MAX_DEPTH: usize = 4;
/// Most indexes read for one image.
const MAX_INDEXES: usize = 16;

/// The manifest that a reference names on a platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest.
    pub manifest: Manifest,
    /// Its digest; `None` where the source knows no manifests.
    pub digest: Option<Digest>,
    /// Whether an index's platform decided, so that the config has to be of
    /// it too.
    pub by_platform: bool,
}

/// Finds the manifest for `wanted`.
///
/// An index's entry of the same platform is taken, else one of the nearest
/// older variant; the first of equals. A reference that names a single
/// manifest is followed whatever its platform.
///
/// # Errors
/// The source has no such image or none for the platform, or a document on
/// the way is unusable.
pub fn resolve(
    source: &dyn ImageSource,
    wanted: &Platform,
    note: Note<'_>,
) -> Result<Resolved, SourceError> {
    Walk::new(source, wanted, note).resolve()
}

/// Finds the manifest for `wanted` of an artifact that is no image; `None` if
/// what the reference names is an image, or neither.
///
/// # Errors
/// The source has no such thing or none for the platform.
pub fn resolve_artifact(
    source: &dyn ImageSource,
    wanted: &Platform,
    note: Note<'_>,
) -> Result<Option<(Vec<u8>, Digest)>, SourceError> {
    let mut walk = Walk::new(source, wanted, note);
    match (walk.resolve(), walk.artifact) {
        (Err(_), Some(artifact)) => Ok(Some(artifact)),
        (Err(error), None) => Err(error),
        (Ok(_), _) => Ok(None),
    }
}

type Found = Option<(Manifest, Digest)>;

struct Walk<'a> {
    source: &'a dyn ImageSource,
    wanted: &'a Platform,
    note: Note<'a>,
    /// Entries yet to be searched, and how deep they are nested.
    lists: VecDeque<(Vec<Descriptor>, usize)>,
    indexes: usize,
    /// The manifest of something else than an image that was come upon.
    artifact: Option<(Vec<u8>, Digest)>,
}

impl<'a> Walk<'a> {
    fn new(source: &'a dyn ImageSource, wanted: &'a Platform, note: Note<'a>) -> Self {
        Self {
            source,
            wanted,
            note,
            lists: VecDeque::new(),
            indexes: 0,
            artifact: None,
        }
    }

    fn resolve(&mut self) -> Result<Resolved, SourceError> {
        let found = match self.source.root(self.note)? {
            Root::Manifest(manifest) => {
                return Ok(Resolved {
                    manifest,
                    digest: None,
                    by_platform: false,
                });
            }
            Root::Document {
                bytes,
                media_type,
                digest,
            } => self.document(&bytes, media_type.as_deref(), &digest, 0)?,
            Root::Entries(entries) => match entries.as_slice() {
                [only] => self.fetch(only, 0)?,
                _ => {
                    self.lists.push_back((entries, 0));
                    None
                }
            },
        };
        match found {
            Some((manifest, digest)) => Ok(Resolved {
                manifest,
                digest: Some(digest),
                by_platform: false,
            }),
            None => self.search(),
        }
    }

    fn search(&mut self) -> Result<Resolved, SourceError> {
        let mut available = BTreeSet::new();
        while let Some((entries, depth)) = self.lists.pop_front() {
            let images: Vec<_> = entries.iter().filter(|e| !e.is_attestation()).collect();
            let ranked = images.iter().filter_map(|entry| {
                let platform = entry.platform.as_ref()?;
                available.insert(platform.to_string());
                Some((self.wanted.rank(platform)?, *entry))
            });
            let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
            let lone = match images.as_slice() {
                [only] if only.platform.is_none() => Some(*only),
                _ => None,
            };
            if let Some(entry) = best.or(lone) {
                if let Some((manifest, digest)) = self.fetch(entry, depth)? {
                    return Ok(Resolved {
                        manifest,
                        digest: Some(digest),
                        by_platform: true,
                    });
                }
                continue;
            }
            for entry in images {
                if entry.platform.is_none() && is_index(&entry.media_type) {
                    self.fetch(entry, depth)?;
                }
            }
        }
        let available = if available.is_empty() {
            "none with a platform".to_owned()
        } else {
            available.into_iter().collect::<Vec<_>>().join(", ")
        };
        Err(SourceError::NoPlatform {
            wanted: self.wanted.clone(),
            available,
        })
    }

    fn fetch(&mut self, entry: &Descriptor, depth: usize) -> Result<Found, SourceError> {
        check_small("manifest", entry)?;
        let bytes = self.source.manifest(entry, self.note)?;
        verify("manifest", &bytes, entry)?;
        let outer = Some(entry.media_type.as_str());
        self.document(&bytes, outer, &entry.digest, depth)
    }

    /// Parses a verified document; an index's entries are queued.
    fn document(
        &mut self,
        bytes: &[u8],
        outer: Option<&str>,
        digest: &Digest,
        depth: usize,
    ) -> Result<Found, SourceError> {
        let document = Document::parse(bytes, outer).map_err(|error| {
            if let ManifestError::Artifact { .. } = error {
                self.artifact = Some((bytes.to_vec(), digest.clone()));
            }
            SourceError::Manifest {
                what: format!("the manifest {digest}"),
                error,
            }
        })?;
        match document {
            Document::Manifest(manifest) => Ok(Some((manifest, digest.clone()))),
            Document::Index(Index { manifests }) => {
                self.indexes += 1;
                if depth >= MAX_DEPTH || self.indexes > MAX_INDEXES {
                    return Err(SourceError::Nesting {
                        depth: MAX_DEPTH,
                        count: MAX_INDEXES,
                    });
                }
                self.lists.push_back((manifests, depth + 1));
                Ok(None)
            }
        }
    }
}
