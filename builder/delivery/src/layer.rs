//! A layer of the store as a blob.

use std::io::Write;

use bootwright_image::store::Layer;

use crate::error::DeliveryError;
use crate::frames::{Codec, Work, Written, compress};
use crate::oci::{Descriptor, LAYER_GZIP, LAYER_ZSTD};
use crate::table::LayerTable;

/// Writes a layer's tar, compressed, to `out`. The blob depends on the diff
/// id and the codec alone.
///
/// # Errors
/// The layer is not what its diff id says any more, or `out` cannot be
/// written.
pub fn write(
    layer: &Layer,
    out: &mut dyn Write,
    codec: Codec,
    work: &Work<'_>,
) -> Result<Written, DeliveryError> {
    let diff_id = layer.diff_id();
    let what = format!("layer {diff_id}");
    let mut tar = layer.tar()?;
    let written = compress(&what, &mut tar, out, codec, work)?;
    // A diff id of another algorithm was verified when the layer was added;
    // the image then gets the SHA-256 of the same bytes.
    if written.plain_digest.algorithm() == diff_id.algorithm() && written.plain_digest != *diff_id {
        return Err(DeliveryError::Damaged {
            diff_id: diff_id.clone(),
            actual: written.plain_digest,
        });
    }
    Ok(written)
}

/// The table of a layer that was written.
///
/// # Errors
/// The layer cannot be read.
pub fn table(layer: &Layer, written: &Written) -> Result<LayerTable, DeliveryError> {
    LayerTable::new(written, layer.pack_len(), layer.tar_runs()?).map_err(|error| {
        DeliveryError::Table {
            diff_id: layer.diff_id().clone(),
            error,
        }
    })
}

/// What describes a layer's blob.
pub fn descriptor(written: &Written, codec: Codec) -> Descriptor {
    let media_type = match codec {
        Codec::Zstd(_) => LAYER_ZSTD,
        Codec::Gzip(_) => LAYER_GZIP,
    };
    Descriptor::new(media_type, written.digest.clone(), written.size)
}
