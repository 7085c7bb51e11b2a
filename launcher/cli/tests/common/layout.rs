//! Makes OCI layouts out of hand-made layers.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// An OCI layout in the making: layers, then [`Layout::tag`].
#[derive(Debug)]
pub struct Layout {
    pub dir: PathBuf,
    layers: Vec<serde_json::Value>,
    diff_ids: Vec<String>,
    architecture: String,
}

impl Layout {
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            dir: dir.to_owned(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            architecture: "amd64".into(),
        }
    }

    pub fn architecture(mut self, name: &str) -> Self {
        self.architecture = name.into();
        self
    }

    /// Adds a layer from the bytes of its tar.
    pub fn layer(mut self, tar: &[u8], compression: Compression) -> Self {
        let (blob, suffix) = match compression {
            Compression::None => (tar.to_vec(), ""),
            Compression::Gzip => {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(tar).unwrap();
                (gz.finish().unwrap(), "+gzip")
            }
            Compression::Zstd => (zstd::encode_all(tar, 1).unwrap(), "+zstd"),
        };
        self.diff_ids.push(sha256(tar));
        let digest = self.blob(&blob);
        self.layers.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": digest,
            "size": blob.len(),
        }));
        self
    }

    /// Writes config, manifest and index; gives the manifest's digest.
    pub fn tag(&self, tag: &str) -> String {
        let config = self.blob(
            json!({
                "created": "2026-01-02T03:04:05Z",
                "architecture": self.architecture,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            })
            .to_string()
            .as_bytes(),
        );
        let config_size = fs::metadata(self.blob_path(&config)).unwrap().len();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config,
                "size": config_size,
            },
            "layers": self.layers,
        })
        .to_string();
        let digest = self.blob(manifest.as_bytes());
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": tag},
            }],
        });
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
        digest
    }

    /// Where the blob with this digest lies.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    /// The digest of the blob of layer `n`.
    pub fn layer_digest(&self, n: usize) -> String {
        self.layers[n]["digest"].as_str().unwrap().to_owned()
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        digest
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}
