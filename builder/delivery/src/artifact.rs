//! KubeVirt VirtualMachine artifacts (VEP 256): a VM's definition and its
//! disks, without a container around them.
//!
//! [`push`] writes one with one disk: the config is a VirtualMachine that
//! boots it, the layer is the raw disk, compressed with zstd in frames. What
//! importers want of it is in docs/src/formats/artifact.md.

use std::collections::BTreeMap;

use bootwright_disk::reader::{DiskCursor, ReadAt};
use bootwright_image::Platform;
use serde_json::{Value, json};

use crate::disk_image::{Pushed, PushedLayer, provenance, put_bytes};
use crate::error::DeliveryError;
use crate::frames::{Codec, Work, compress};
use crate::metadata::DiskInfo;
use crate::oci::{self, Descriptor, Manifest, annotation};
use crate::sink::BlobSink;

/// What the artifact is.
pub const ARTIFACT_TYPE: &str = "application/vnd.kubevirt.virtualmachine.v1";
/// Media type of the VM's definition.
pub const CONFIG: &str = "application/vnd.kubevirt.virtualmachine.config.v1+json";
/// Media type of a disk.
pub const DISK: &str = "application/vnd.kubevirt.disk.raw+zstd";

/// Name of the volume in the VM.
pub const VOLUME: &str = "rootdisk";

/// Memory of the VM unless an instance type says it.
const MEMORY: &str = "2Gi";

/// How an artifact is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// zstd's level.
    pub level: i32,
    /// Name of the VM: a DNS label.
    pub name: String,
    /// What it runs on.
    pub platform: Platform,
    /// Whether the disk needs UEFI to boot.
    pub efi: bool,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// KubeVirt instance type of the VM.
    pub instancetype: Option<String>,
    /// KubeVirt preference of the VM.
    pub preference: Option<String>,
    /// The manifest that the artifact is a referrer of.
    pub subject: Option<Descriptor>,
}

/// Hands all blobs of an artifact of `disk` to `sink`. `top` as for
/// [`disk_image::push`](crate::disk_image::push).
///
/// # Errors
/// The disk cannot be read, or the sink fails.
pub fn push(
    disk: &dyn ReadAt,
    info: &DiskInfo,
    options: &Options,
    sink: &dyn BlobSink,
    top: bool,
    work: &Work<'_>,
) -> Result<Pushed, DeliveryError> {
    let codec = Codec::Zstd(options.level);
    let done = sink.put(None, &mut |out| {
        compress("disk", &mut DiskCursor::new(disk), out, codec, work)
    })?;
    let mut layer = Descriptor::new(DISK, done.digest.clone(), done.size);
    let size = disk.size().to_string();
    layer.annotations = [
        // By the first importers; the plural by VEP 395.
        ("io.kubevirt.disk.name", VOLUME),
        ("io.kubevirt.disk.names", VOLUME),
        ("io.kubevirt.disk.size", &size),
        ("io.kubevirt.pvc.capacity", &size),
        (annotation::TITLE, "rootdisk.raw.zst"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();

    let bytes = oci::json("virtual machine", &machine(options))?;
    let config = Descriptor::of(CONFIG, &bytes);
    put_bytes(&config, &bytes, sink)?;
    let mut manifest = Manifest::image(config.clone(), vec![layer.clone()]);
    manifest.artifact_type = Some(ARTIFACT_TYPE.to_owned());
    manifest.subject.clone_from(&options.subject);
    manifest.annotations = annotations(info, options);
    let (mut descriptor, bytes) = manifest.encode()?;
    sink.manifest(&descriptor, &bytes, top)?;
    if let Some(subject) = &options.subject {
        descriptor.annotations.clone_from(&manifest.annotations);
        sink.refer(&subject.digest, &descriptor)?;
        descriptor.annotations.clear();
    }
    descriptor.platform = Some((&options.platform).into());
    Ok(Pushed {
        manifest: descriptor,
        config,
        layers: vec![PushedLayer {
            descriptor: layer,
            plain_len: done.plain_len,
        }],
    })
}

fn annotations(info: &DiskInfo, options: &Options) -> BTreeMap<String, String> {
    let mut all = provenance(info);
    all.insert(annotation::TITLE.to_owned(), options.name.clone());
    if let Some(created) = &options.created {
        all.insert(annotation::CREATED.to_owned(), created.clone());
    }
    all
}

/// A VirtualMachine (kubevirt.io/v1) that boots the disk, halted until it is
/// started.
fn machine(options: &Options) -> Value {
    let Options {
        name,
        instancetype,
        preference,
        ..
    } = options;
    let mut domain = json!({
        "devices": {
            "disks": [{"name": VOLUME, "disk": {"bus": "virtio"}}],
            "interfaces": [{"name": "default", "masquerade": {}}],
            "rng": {},
        },
    });
    if options.efi {
        domain["firmware"] = json!({"bootloader": {"efi": {"secureBoot": false}}});
    }
    let mut spec = json!({"runStrategy": "Halted"});
    match instancetype {
        Some(name) => spec["instancetype"] = json!({"name": name}),
        None => domain["memory"] = json!({"guest": MEMORY}),
    }
    if let Some(name) = preference {
        spec["preference"] = json!({"name": name});
    }
    spec["template"] = json!({
        "metadata": {"labels": {"kubevirt.io/vm": name}},
        "spec": {
            "architecture": options.platform.architecture(),
            "domain": domain,
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [{
                "name": VOLUME,
                "persistentVolumeClaim": {"claimName": format!("{VOLUME}-{name}")},
            }],
        },
    });
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// A DNS label made of any text, for a VM's name.
pub fn label(text: &str) -> String {
    let mut label = String::new();
    for c in text.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => label.push(c),
            _ if label.ends_with('-') || label.is_empty() => {}
            _ => label.push('-'),
        }
    }
    // RFC 1123: at most 63 characters.
    label.truncate(63);
    match label.trim_end_matches('-') {
        "" => "vm".to_owned(),
        label => label.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_label() {
        for (text, expected) in [
            ("web", "web"),
            ("Web_Disk..2", "web-disk-2"),
            ("--", "vm"),
            ("x-", "x"),
        ] {
            assert_eq!(label(text), expected, "{text}");
        }
        assert_eq!(label(&"a".repeat(100)).len(), 63);
    }
}
