//! An image of many small entries in many layers, for the cost of merging and
//! planning alone.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Layers of the image.
pub(super) const LAYERS: usize = 200;
/// Entries of each layer.
pub(super) const ENTRIES: usize = 500;

/// Writes the image as an OCI layout, unless it is there already. Its tag is
/// `synthetic`, its layers are not compressed.
pub(super) fn write(layout: &Path) -> Result<()> {
    if layout.join("index.json").is_file() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(layout);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> Result<(String, usize)> {
        let hash = Sha256::digest(bytes);
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        fs::write(blobs.join(&hex), bytes)?;
        Ok((format!("sha256:{hex}"), bytes.len()))
    };
    let (mut descriptors, mut diff_ids): (Vec<Value>, Vec<Value>) = Default::default();
    for number in 0..LAYERS {
        let (digest, size) = put(&layer(number)?)?;
        let kind = "application/vnd.oci.image.layer.v1.tar";
        descriptors.push(json!({"mediaType": kind, "digest": digest, "size": size}));
        diff_ids.push(digest.into());
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let (digest, size) = put(&serde_json::to_vec(&config)?)?;
    let kind = "application/vnd.oci.image.config.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": kind, "digest": digest, "size": size},
        "layers": descriptors,
    });
    let (digest, size) = put(&serde_json::to_vec(&manifest)?)?;
    let name = json!({"org.opencontainers.image.ref.name": "synthetic"});
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": kind, "digest": digest, "size": size, "annotations": name}],
    });
    fs::write(
        layout.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )?;
    // Last: its presence says that the layout is whole.
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(())
}

/// One layer: a folder of its own with files, links and folders, a file that
/// every layer replaces, and a whiteout of a file of the layer below.
fn layer(number: usize) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let folder = format!("usr/share/package-{number:03}");
    add(&mut tar, EntryType::Directory, &folder, b"", None)?;
    let mut left = ENTRIES - 1;
    if number == 0 {
        let kernel = vec![0x90; 1 << 20];
        add(
            &mut tar,
            EntryType::Regular,
            "usr/lib/modules/6.1.0/vmlinuz",
            &kernel,
            None,
        )?;
        add(
            &mut tar,
            EntryType::Regular,
            "usr/lib/modules/6.1.0/initramfs.img",
            &kernel,
            None,
        )?;
        let release = b"ID=synthetic\nPRETTY_NAME=Synthetic\n";
        add(
            &mut tar,
            EntryType::Regular,
            "usr/lib/os-release",
            release,
            None,
        )?;
        left -= 3;
    } else {
        let gone = format!("usr/share/package-{:03}/.wh.file-00004", number - 1);
        add(&mut tar, EntryType::Regular, &gone, b"", None)?;
        left -= 1;
    }
    let status = format!("{number} packages\n").repeat(100);
    add(
        &mut tar,
        EntryType::Regular,
        "var/lib/status",
        status.as_bytes(),
        None,
    )?;
    left -= 1;
    for i in 0..left {
        let path = format!("{folder}/file-{i:05}");
        match i % 10 {
            7 => add(&mut tar, EntryType::Symlink, &path, b"", Some("file-00000"))?,
            8 => {
                let target = format!("{folder}/file-00000");
                add(&mut tar, EntryType::Link, &path, b"", Some(&target))?;
            }
            9 => add(&mut tar, EntryType::Directory, &path, b"", None)?,
            _ => {
                let size = 64 + (i * 7919 + number * 104_729) % 6000;
                let bytes = vec![u8::try_from(i % 251)?; size];
                add(&mut tar, EntryType::Regular, &path, &bytes, None)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

fn add(
    tar: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    bytes: &[u8],
    target: Option<&str>,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(bytes.len() as u64);
    match target {
        Some(target) => tar.append_link(&mut header, path, target)?,
        None => tar.append_data(&mut header, path, bytes)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_as_many_entries_as_promised() {
        for number in [0, 1, LAYERS - 1] {
            let bytes = layer(number).unwrap();
            let mut archive = tar::Archive::new(&bytes[..]);
            assert_eq!(archive.entries().unwrap().count(), ENTRIES);
        }
    }
}
