//! Writing an OCI layout (OCI Image Format, "Image Layout").

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What stands in `config.json` for the time: the images have none.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image of one platform.
pub(super) struct Image<'a> {
    pub(super) tag: &'a str,
    pub(super) architecture: &'a str,
    /// The layers' tars, lowest first.
    pub(super) layers: Vec<Vec<u8>>,
    /// The `config` of its configuration.
    pub(super) config: Value,
}

/// A layout in the making, beside the one that it replaces.
pub(super) struct Layout {
    new: PathBuf,
    dir: PathBuf,
    indexes: Vec<Value>,
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let new = dir.with_extension("new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(new.join("blobs/sha256"))?;
        Ok(Self {
            new,
            dir: dir.to_owned(),
            indexes: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, image: &Image<'_>) -> Result<()> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for tar in &image.layers {
            diff_ids.push(digest(tar));
            let mut gzip =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(tar)?;
            layers.push(self.blob(LAYER, &gzip.finish()?)?);
        }
        let platform = json!({ "architecture": image.architecture, "os": "linux" });
        let config = json!({
            "created": CREATED,
            "architecture": image.architecture,
            "os": "linux",
            "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.json(CONFIG, &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        });
        let mut manifest = self.json(MANIFEST, &manifest)?;
        manifest["platform"] = platform;
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
        let mut index = self.json(INDEX, &index)?;
        index["annotations"] = json!({ "org.opencontainers.image.ref.name": image.tag });
        self.indexes.push(index);
        Ok(())
    }

    /// Puts the layout in its place.
    pub(super) fn finish(self) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.indexes });
        fs::write(self.new.join("index.json"), index.to_string())?;
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(self.new.join("oci-layout"), version.to_string())?;
        let _ = fs::remove_dir_all(&self.dir);
        fs::rename(&self.new, &self.dir)
            .with_context(|| format!("cannot rename to {}", self.dir.display()))
    }

    fn json(&self, media_type: &str, value: &Value) -> Result<Value> {
        self.blob(media_type, value.to_string().as_bytes())
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        let path = self.new.join("blobs").join(digest.replacen(':', "/", 1));
        fs::write(path, bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}
