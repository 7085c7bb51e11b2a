//! Images made by hand, as OCI layouts.

use std::fs;
use std::path::Path;

use bootwright_image::Digest;
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Bytes that do not compress, always the same for a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

/// A layer with some files.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Three layers and one of them twice.
pub fn layers(seed: u64) -> Vec<Vec<u8>> {
    vec![
        layer(&[
            ("etc/os-release", b"ID=test\n"),
            ("usr/big", &noise(seed, 3 << 20)),
        ]),
        layer(&[
            ("usr/app", &noise(seed + 2, 200_000)),
            ("etc/.wh.os-release", b""),
        ]),
        layer(&[("empty", b"")]),
        layer(&[("empty", b"")]),
    ]
}

/// An OCI layout that is being written.
pub struct Layout<'a> {
    dir: &'a Path,
    entries: Vec<Value>,
}

impl<'a> Layout<'a> {
    pub fn new(dir: &'a Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(dir.join("oci-layout"), version).unwrap();
        Self {
            dir,
            entries: Vec::new(),
        }
    }

    /// Writes a blob; its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        fs::write(self.dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    pub fn json(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(value).unwrap())
    }

    /// Writes an image of uncompressed layers; the descriptor of its manifest.
    pub fn image(&self, platform: &str, layers: &[Vec<u8>]) -> Value {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|l| Digest::sha256(l).to_string())
            .collect();
        let mut config = json!({
            "created": "2024-05-06T07:08:09Z",
            "os": os, "architecture": architecture,
            "config": {"Env": ["PATH=/usr/bin"], "Labels": {"containers.bootc": "1"}, "Cmd": ["/sbin/init"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        let mut described = json!({"os": os, "architecture": architecture});
        if let Some(variant) = parts.next() {
            config["variant"] = variant.into();
            described["variant"] = variant.into();
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.json(CONFIG, &config),
            "layers": layers.iter().map(|l| self.blob(LAYER, l)).collect::<Vec<_>>(),
        });
        let mut descriptor = self.json(MANIFEST, &manifest);
        descriptor["platform"] = described;
        descriptor
    }

    /// Writes an index; its descriptor.
    pub fn index(&self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.json(INDEX, &index)
    }

    /// Gives a manifest or index a name in the layout.
    pub fn tag(&mut self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.entries.push(descriptor);
        self.write();
    }

    /// Lists a manifest or index without a name.
    pub fn list(&mut self, descriptor: Value) {
        self.entries.push(descriptor);
        self.write();
    }

    fn write(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }
}
