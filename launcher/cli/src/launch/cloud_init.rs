//! The data of cloud-init (its documentation, "NoCloud" and "Config drive").

use std::path::Path;

use anyhow::Context as _;
use base64ct::{Base64, Encoding as _};
use bootwright_machine::{CloudInitKind, Data, Keys};
use bootwright_rootfs::iso::IsoFile;
use serde_json::{Map, Value, json};

use super::files;
use crate::commands::read_limited;

/// Largest user or network data, in bytes.
const MAX_DATA: u64 = 1 << 20;

/// What the guest learns of its machine.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The machine's UUID: what makes it another instance.
    pub(super) uuid: uuid::Uuid,
    /// Its host name.
    pub(super) hostname: &'a str,
    /// Keys to hand on.
    pub(super) keys: &'a [Keys],
}

/// The files of a data source, and the label by which cloud-init finds them.
pub(super) fn files(
    kind: CloudInitKind,
    user_data: Option<&Data>,
    network_data: Option<&Data>,
    facts: &Facts<'_>,
) -> anyhow::Result<(Vec<IsoFile>, &'static str)> {
    let user_data = user_data.map(|data| read(data).context("the user data"));
    let user_data = user_data.transpose()?.unwrap_or_default();
    let network_data = network_data.map(|data| read(data).context("the network data"));
    let network_data = network_data.transpose()?;
    let mut keys = Map::new();
    for folder in facts.keys.iter().filter(|keys| keys.kind == kind) {
        for key in files::keys(Path::new(&folder.folder))? {
            keys.insert(keys.len().to_string(), Value::String(key));
        }
    }
    let instance = facts.uuid.to_string();
    let (metadata, names, label) = match kind {
        CloudInitKind::NoCloud => {
            let mut metadata = json!({
                "instance-id": instance,
                "local-hostname": facts.hostname,
            });
            if !keys.is_empty() {
                metadata["public-keys"] = Value::Object(keys);
            }
            let names = ["meta-data", "user-data", "network-config"];
            (metadata, names, "cidata")
        }
        CloudInitKind::ConfigDrive => {
            let mut metadata = json!({
                "instance_id": instance,
                "uuid": instance,
                "hostname": facts.hostname,
            });
            if !keys.is_empty() {
                metadata["public_keys"] = Value::Object(keys);
            }
            let names = [
                "openstack/latest/meta_data.json",
                "openstack/latest/user_data",
                "openstack/latest/network_data.json",
            ];
            (metadata, names, "config-2")
        }
    };
    // JSON is YAML, too.
    let mut contents = vec![serde_json::to_vec(&metadata)?, user_data];
    contents.extend(network_data);
    let files = names
        .into_iter()
        .zip(contents)
        .map(|(path, content)| IsoFile {
            path: path.to_owned(),
            content: content.into(),
        });
    Ok((files.collect(), label))
}

fn read(data: &Data) -> anyhow::Result<Vec<u8>> {
    match data {
        Data::Text(text) => Ok(text.clone().into_bytes()),
        Data::Base64(text) => {
            // Line breaks are what many tools put in.
            let text: String = text.split_whitespace().collect();
            Base64::decode_vec(&text).map_err(|error| anyhow::anyhow!("it is no base64: {error}"))
        }
        Data::File(path) => read_limited(Path::new(path), MAX_DATA),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn facts(keys: &[Keys]) -> Facts<'_> {
        Facts {
            uuid: uuid::Uuid::from_u128(7),
            hostname: "web",
            keys,
        }
    }

    fn content<'a>(files: &'a [IsoFile], path: &str) -> &'a [u8] {
        &files.iter().find(|file| file.path == path).unwrap().content
    }

    #[test]
    fn each_source_has_its_own_names() {
        let dir = tempfile::tempdir().unwrap();
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ me";
        std::fs::write(dir.path().join("key"), key).unwrap();
        let keys = [Keys {
            folder: dir.path().to_str().unwrap().to_owned(),
            kind: CloudInitKind::NoCloud,
        }];
        let user_data = Data::Text("#cloud-config\n".to_owned());
        let network = Data::Base64("dmVyc2lv\nbjogMgo=\n".to_owned());
        let make = |kind| files(kind, Some(&user_data), Some(&network), &facts(&keys)).unwrap();

        let (files, label) = make(CloudInitKind::NoCloud);
        assert_eq!(label, "cidata");
        assert_eq!(content(&files, "user-data"), b"#cloud-config\n");
        assert_eq!(content(&files, "network-config"), b"version: 2\n");
        let metadata: Value = serde_json::from_slice(content(&files, "meta-data")).unwrap();
        assert_eq!(metadata["local-hostname"], "web");
        assert_eq!(metadata["public-keys"]["0"], key);

        let (files, label) = make(CloudInitKind::ConfigDrive);
        assert_eq!(label, "config-2");
        let path = "openstack/latest/meta_data.json";
        let metadata: Value = serde_json::from_slice(content(&files, path)).unwrap();
        assert_eq!(metadata["hostname"], "web");
        assert_eq!(metadata.get("public_keys"), None);
        assert_eq!(
            content(&files, "openstack/latest/user_data"),
            b"#cloud-config\n"
        );
    }

    #[test]
    fn data_that_cannot_be_read_are_named() {
        for (data, words) in [
            (
                Data::Base64("%%%".to_owned()),
                "the user data: it is no base64",
            ),
            (
                Data::File("/proc/nonexistent/userdata".to_owned()),
                "/proc/nonexistent/userdata",
            ),
        ] {
            let error = files(CloudInitKind::NoCloud, Some(&data), None, &facts(&[])).unwrap_err();
            let error = crate::explained(&error);
            assert!(error.contains(words), "{error}");
        }
        let (files, _) = files(CloudInitKind::NoCloud, None, None, &facts(&[])).unwrap();
        assert_eq!(content(&files, "user-data"), b"");
    }
}
