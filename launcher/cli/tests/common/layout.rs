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
        self.add(&blob, suffix, &sha256(tar));
        self
    }

    /// Adds a layer of these very bytes, which say that they are gzip.
    pub fn blob_layer(mut self, blob: &[u8], tar: &[u8]) -> Self {
        self.add(blob, "+gzip", &sha256(tar));
        self
    }

    fn add(&mut self, blob: &[u8], suffix: &str, diff_id: &str) {
        self.diff_ids.push(diff_id.to_owned());
        let digest = self.blob(blob);
        self.layers.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": digest,
            "size": blob.len(),
        }));
    }

    /// Writes config, manifest and index; gives the manifest's digest.
    pub fn tag(&self, tag: &str) -> String {
        let (digest, size) = self.manifest(&self.architecture);
        self.write_index(
            tag,
            "application/vnd.oci.image.manifest.v1+json",
            &digest,
            size,
        );
        digest
    }

    /// The same as an index of images for several architectures.
    pub fn tag_index(&self, tag: &str, architectures: &[&str]) {
        let kind = "application/vnd.oci.image.index.v1+json";
        let manifests: Vec<_> = architectures
            .iter()
            .map(|architecture| {
                let (digest, size) = self.manifest(architecture);
                json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest,
                    "size": size,
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        let index = index.to_string();
        self.write_index(tag, kind, &self.blob(index.as_bytes()), index.len());
    }

    /// Replaces text in the manifest that was tagged last, and its digest in
    /// the index.
    pub fn edit_manifest(&self, from: &str, to: &str) {
        let path = self.dir.join("index.json");
        let index = fs::read_to_string(&path).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&index).unwrap();
        let entry = &parsed["manifests"][0];
        let manifest =
            fs::read_to_string(self.blob_path(entry["digest"].as_str().unwrap())).unwrap();
        assert!(manifest.contains(from), "{from} is not in {manifest}");
        let manifest = manifest.replace(from, to);
        let tag = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
        let kind = entry["mediaType"].as_str().unwrap().replace(from, to);
        self.write_index(
            tag.unwrap(),
            &kind,
            &self.blob(manifest.as_bytes()),
            manifest.len(),
        );
    }

    /// Writes config and manifest; gives the manifest's digest and length.
    fn manifest(&self, architecture: &str) -> (String, usize) {
        let config = self.blob(
            json!({
                "created": "2026-01-02T03:04:05Z",
                "architecture": architecture,
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
        (self.blob(manifest.as_bytes()), manifest.len())
    }

    fn write_index(&self, tag: &str, kind: &str, digest: &str, size: usize) {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": kind,
                "digest": digest,
                "size": size,
                "annotations": {"org.opencontainers.image.ref.name": tag},
            }],
        });
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
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
