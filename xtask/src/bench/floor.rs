//! What reading an image costs at least: every byte of its blobs hashed, they
//! inflated, and every byte that came out hashed, on two threads.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, anyhow, bail};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

/// Bytes handed from thread to thread at a time.
const CHUNK: usize = 256 << 10;

/// Chunks that may wait for the hashing thread.
const QUEUE: usize = 16;

enum Chunk {
    Blob(Vec<u8>),
    Tar(Vec<u8>),
    /// The layer ended; check it against the digest and the diff id.
    End(String, String),
}

/// Reads all layers of an image in an OCI layout and checks both digests of
/// each. The calling thread reads and inflates, another one hashes.
pub(super) fn run(layers: &[Layer]) -> Result<()> {
    let (sender, receiver) = sync_channel(QUEUE);
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || {
            let (mut blob, mut tar) = (Sha256::new(), Sha256::new());
            for chunk in receiver {
                match chunk {
                    Chunk::Blob(bytes) => blob.update(bytes),
                    Chunk::Tar(bytes) => tar.update(bytes),
                    Chunk::End(digest, diff_id) => {
                        expect(blob.finalize_reset().as_slice(), &digest)?;
                        expect(tar.finalize_reset().as_slice(), &diff_id)?;
                    }
                }
            }
            Ok(())
        });
        for layer in layers {
            let result = read(layer, &sender);
            if result.is_err() {
                break;
            }
        }
        drop(sender);
        hasher
            .join()
            .map_err(|_| anyhow!("the hashing thread died"))?
    })
}

fn read(layer: &Layer, sender: &SyncSender<Chunk>) -> Result<()> {
    let tee = Tee {
        file: File::open(&layer.path)?,
        sender,
    };
    let mut tee = std::io::BufReader::with_capacity(CHUNK, tee);
    if layer.gzip {
        let mut tar = GzDecoder::new(&mut tee);
        loop {
            let mut bytes = vec![0; CHUNK];
            let len = tar.read(&mut bytes)?;
            if len == 0 {
                break;
            }
            bytes.truncate(len);
            sender.send(Chunk::Tar(bytes))?;
        }
    } else {
        bail!("{} is not gzip", layer.path.display());
    }
    std::io::copy(&mut tee, &mut std::io::sink())?;
    sender.send(Chunk::End(layer.digest.clone(), layer.diff_id.clone()))?;
    Ok(())
}

/// Passes on what it reads, and a copy of it to the hashing thread.
struct Tee<'a> {
    file: File,
    sender: &'a SyncSender<Chunk>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.file.read(buffer)?;
        let copy = Chunk::Blob(buffer[..len].to_vec());
        self.sender.send(copy).map_err(std::io::Error::other)?;
        Ok(len)
    }
}

fn expect(hash: &[u8], digest: &str) -> Result<()> {
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    if digest.strip_prefix("sha256:") != Some(&hex) {
        bail!("hashed to sha256:{hex}, not {digest}");
    }
    Ok(())
}

/// A layer of an image in an OCI layout.
#[derive(Debug)]
pub(super) struct Layer {
    path: PathBuf,
    digest: String,
    diff_id: String,
    gzip: bool,
}

/// The layers of the first image of a layout.
pub(super) fn layers(layout: &Path) -> Result<Vec<Layer>> {
    let blob = |digest: &str| layout.join("blobs").join(digest.replacen(':', "/", 1));
    let json = |path: PathBuf| -> Result<serde_json::Value> {
        let text = std::fs::read(&path).with_context(|| format!("cannot read {path:?}"))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let text = |value: &serde_json::Value| -> Result<String> {
        Ok(value
            .as_str()
            .with_context(|| format!("not a string: {value}"))?
            .to_owned())
    };
    let index = json(layout.join("index.json"))?;
    let manifest = json(blob(&text(&index["manifests"][0]["digest"])?))?;
    let config = json(blob(&text(&manifest["config"]["digest"])?))?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    let diff_ids = config["rootfs"]["diff_ids"]
        .as_array()
        .context("no diff ids")?;
    layers
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| {
            let digest = text(&layer["digest"])?;
            Ok(Layer {
                path: blob(&digest),
                gzip: text(&layer["mediaType"])?.ends_with("gzip"),
                digest,
                diff_id: text(diff_id)?,
            })
        })
        .collect()
}
