//! What layers of the store become when they are compressed, remembered.
//!
//! A layer's blob depends on its diff id and the compressor alone, so it is
//! made once a machine: beside the layer the store keeps the blob's digest and
//! its table, and the repositories that have it. A second push then reads no
//! layer, and a sibling's push finds what to mount. The note is a line of JSON
//! and the encoded table.

use bootwright_image::Digest;
use bootwright_image::store::{Layer, Store};
use serde::{Deserialize, Serialize};

use crate::frames::{Codec, FRAME, Written};
use crate::oci::{from_text, to_text};
use crate::table::LayerTable;

/// Most repositories remembered of a layer; the oldest leave.
const MAX_PLACES: usize = 8;

/// A layer's blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) written: Written,
    pub(crate) table: LayerTable,
    /// `registry/repository` of those that have the blob, the newest last.
    pub(crate) places: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// zstd's version: another may give other bytes.
    zstd: u32,
    level: i32,
    frame: usize,
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    digest: Digest,
    size: u64,
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    plain_digest: Digest,
    places: Vec<String>,
}

/// What is known of the blob that `codec` makes of a layer. A note that is
/// missing, damaged or about another codec is no error: the blob is made anew.
pub(crate) fn recall(store: &Store, layer: &Layer, codec: Codec) -> Option<Known> {
    let Codec::Zstd(level) = codec else {
        return None;
    };
    let note = store.note(layer).ok().flatten()?;
    let end = note.iter().position(|&b| b == b'\n')?;
    let (head, table) = note.split_at(end);
    let head: Head = serde_json::from_slice(head).ok()?;
    if head.zstd != zstd::zstd_safe::version_number() || head.level != level || head.frame != FRAME
    {
        return None;
    }
    let table = LayerTable::decode(table.get(1..)?).ok()?;
    let frames = table.frames().to_vec();
    let fits = table.pack_len() == layer.pack_len()
        && table.tar_len() == layer.index().tar_len()
        && table.blob_range(0..frames.len())?.end <= head.size;
    fits.then(|| Known {
        written: Written {
            digest: head.digest,
            size: head.size,
            plain_digest: head.plain_digest,
            plain_len: table.tar_len(),
            frames,
        },
        table,
        places: head.places,
    })
}

/// Remembers what `codec` made of a layer. That it cannot be written is no
/// error either.
pub(crate) fn remember(store: &Store, layer: &Layer, codec: Codec, known: &Known) {
    let Codec::Zstd(level) = codec else {
        return;
    };
    let head = Head {
        zstd: zstd::zstd_safe::version_number(),
        level,
        frame: FRAME,
        digest: known.written.digest.clone(),
        size: known.written.size,
        plain_digest: known.written.plain_digest.clone(),
        places: known.places.clone(),
    };
    let Ok(mut note) = serde_json::to_vec(&head) else {
        return;
    };
    note.push(b'\n');
    note.extend(known.table.encode());
    let _ = store.put_note(layer, &note);
}

impl Known {
    /// Adds a repository; `false` if it is known.
    pub(crate) fn add_place(&mut self, place: &str) -> bool {
        if self.places.iter().any(|known| known == place) {
            return false;
        }
        self.places.push(place.to_owned());
        let over = self.places.len().saturating_sub(MAX_PLACES);
        self.places.drain(..over);
        true
    }
}

/// Repositories of `registry` that have blobs of these layers, those with the
/// most first, without `repository` itself; at most `max`.
pub fn repositories(
    store: &Store,
    layers: &[Layer],
    codec: Codec,
    registry: &str,
    repository: &str,
    max: usize,
) -> Vec<String> {
    let mut counts: Vec<(usize, String)> = Vec::new();
    for layer in layers {
        let places = recall(store, layer, codec).map(|known| known.places);
        for place in places.unwrap_or_default() {
            let Some((host, name)) = place.split_once('/') else {
                continue;
            };
            if host != registry || name == repository {
                continue;
            }
            match counts.iter_mut().find(|(_, known)| known == name) {
                Some((count, _)) => *count += 1,
                None => counts.push((1, name.to_owned())),
            }
        }
    }
    counts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    counts.into_iter().take(max).map(|(_, name)| name).collect()
}
