//! What `push` tells when it is done.

use bootwright_delivery::disk_image::Pushed;
use bootwright_delivery::oci::Descriptor;
use bootwright_delivery::{BlobSink, oci::PlatformText};
use bootwright_image::registry::Uploaded;
use serde::Serialize;

use crate::args::ByteSize;
use crate::report::{Lines, Timings};

/// What was pushed, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The reference in full.
    pub reference: String,
    /// `disk`, `containerdisk` or `artifact`.
    pub form: &'static str,
    /// Of the manifest or index that the reference leads to.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// One image for each platform.
    pub images: Vec<Image>,
    /// Bytes of blobs that were sent.
    pub uploaded_bytes: u64,
    /// Number of blobs that were sent.
    pub uploaded_blobs: usize,
    pub warnings: Vec<String>,
    pub timings_ms: Timings,
}

/// An image that was pushed.
#[derive(Debug, Serialize)]
pub(super) struct Image {
    /// `os/architecture`.
    platform: Option<String>,
    /// Of its manifest.
    digest: String,
    /// Of its config.
    config: Blob,
    /// Size of the disk.
    disk_size: u64,
    /// What it was made of, in full; null for a disk file.
    source: Option<String>,
    /// Lowest first.
    layers: Vec<Blob>,
}

/// A blob of an image.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Blob {
    digest: String,
    media_type: String,
    size: u64,
    /// Length of what is compressed; null for a config.
    plain_size: Option<u64>,
    /// `sent`, `present` or `mounted`.
    upload: &'static str,
}

/// How a blob came to be there, in a word.
pub(super) fn word(how: Uploaded) -> &'static str {
    match how {
        Uploaded::Present => "present",
        Uploaded::Mounted => "mounted",
        Uploaded::Sent => "sent",
    }
}

impl Image {
    pub(super) fn new(
        pushed: &Pushed,
        disk_size: u64,
        source: Option<String>,
        sink: &dyn BlobSink,
    ) -> Self {
        let blob = |descriptor: &Descriptor, plain_size| Blob {
            digest: descriptor.digest.to_string(),
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            plain_size,
            upload: sink.uploaded(&descriptor.digest).map_or("sent", word),
        };
        let layers = pushed.layers.iter();
        Self {
            platform: pushed.manifest.platform.as_ref().map(platform),
            digest: pushed.manifest.digest.to_string(),
            config: blob(&pushed.config, None),
            disk_size,
            source,
            layers: layers
                .map(|layer| blob(&layer.descriptor, Some(layer.plain_len)))
                .collect(),
        }
    }

    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }
}

fn platform(platform: &PlatformText) -> String {
    let PlatformText {
        os,
        architecture,
        variant,
    } = platform;
    match variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    }
}

impl Report {
    /// Counts what was sent; each blob once.
    pub(super) fn count(&mut self) {
        let blobs = self.images.iter().flat_map(Image::blobs);
        let mut sent: Vec<(&str, u64)> = blobs
            .filter(|blob| blob.upload == "sent")
            .map(|blob| (blob.digest.as_str(), blob.size))
            .collect();
        sent.sort_unstable();
        sent.dedup();
        self.uploaded_blobs = sent.len();
        self.uploaded_bytes = sent.iter().map(|(_, size)| size).sum();
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut lines = Lines::default();
        lines.add("Pushed", &self.reference);
        lines.indented(1, "digest", &self.digest);
        lines.indented(1, "form", self.form);
        for image in &self.images {
            if let Some(platform) = &image.platform {
                lines.add("Platform", platform);
            }
            if let Some(source) = &image.source {
                lines.indented(1, "source", source);
            }
            if self.images.len() > 1 {
                lines.indented(1, "digest", &image.digest);
            }
            lines.indented(1, "disk", ByteSize(image.disk_size));
            let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
            let count = image.layers.len();
            lines.indented(1, "layers", format!("{count}, {}", ByteSize(size)));
        }
        let (blobs, bytes) = (self.uploaded_blobs, ByteSize(self.uploaded_bytes));
        lines.add("Sent", format!("{bytes} in {blobs} blobs"));
        lines.text()
    }
}
