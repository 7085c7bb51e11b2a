//! Folders of small files (ConfigMaps, Secrets, facts about the pod, service
//! accounts), and the volumes that they become.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use bootwright_disk::{Plan, PlanBuilder};
use bootwright_image::Timestamp;
use bootwright_rootfs::customize::parse_keys;
use bootwright_rootfs::iso::{self, IsoFile};

use crate::commands::read_limited;

/// The label of a volume that is given none: KubeVirt's.
pub(super) const LABEL: &str = "cfgdata";

/// The most that a folder holds: a Secret or a ConfigMap has 1 MiB at most,
/// and one of each key may be there twice.
const MAX_BYTES: u64 = 8 << 20;

/// The most files of a folder.
const MAX_FILES: usize = 10_000;

/// Folders in folders: KubeVirt's items may have paths.
const MAX_DEPTH: usize = 6;

/// Reads all files below a folder in which the kubelet has put them.
pub(super) fn read(folder: &Path) -> anyhow::Result<Vec<IsoFile>> {
    let mut files = Vec::new();
    let mut left = MAX_BYTES;
    walk(folder, "", 0, &mut left, &mut files)?;
    Ok(files)
}

fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    left: &mut u64,
    files: &mut Vec<IsoFile>,
) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", folder.display());
    if depth > MAX_DEPTH {
        bail!("{}: folders are nested too deeply", folder.display());
    }
    for entry in fs::read_dir(folder).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        let path = folder.join(&name);
        let Some(name) = name.to_str() else {
            bail!("{}: its name is no text", path.display());
        };
        // The kubelet keeps each state of a volume in a folder of its own and
        // leads to it through `..data`, which is changed at once.
        if depth == 0 && name.starts_with("..") {
            continue;
        }
        let here = format!("{prefix}{name}");
        if path.is_dir() {
            walk(&path, &format!("{here}/"), depth + 1, left, files)?;
            continue;
        }
        if files.len() >= MAX_FILES {
            bail!("{}: more than {MAX_FILES} files", folder.display());
        }
        let content = read_limited(&path, *left)
            .with_context(|| format!("a volume of files holds at most {MAX_BYTES} bytes"))?;
        *left -= content.len() as u64;
        files.push(IsoFile {
            path: here,
            content: content.into(),
        });
    }
    Ok(())
}

/// The keys in the files of a folder, in the order of the files' names.
pub(super) fn keys(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = read(folder)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut keys = Vec::new();
    for file in files {
        let named = || format!("the key {} in {}", file.path, folder.display());
        parse_keys(&file.content).with_context(named)?;
        let text = std::str::from_utf8(&file.content).with_context(named)?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.map(str::to_owned));
    }
    Ok(keys)
}

/// A volume of files as a disk.
pub(super) fn volume(files: &[IsoFile], label: &str) -> anyhow::Result<Plan> {
    let options = iso::Options {
        label: label.to_owned(),
        time: Timestamp { secs: 0, nanos: 0 },
    };
    let volume = iso::format(files, &options)?;
    let mut builder = PlanBuilder::new(Vec::new());
    builder.put_volume(0, volume.extents);
    Ok(builder.finish(volume.size)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder as the kubelet fills it.
    fn projected(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("..2026_11_28_08_00_00.123456789");
        for (path, content) in files {
            let target = state.join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, content).unwrap();
            let top = path.split('/').next().unwrap();
            let link = dir.path().join(top);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(top), link).unwrap();
            }
        }
        symlink(state.file_name().unwrap(), dir.path().join("..data")).unwrap();
        dir
    }

    #[test]
    fn every_file_is_found_once() {
        let files = [("token", "abc"), ("conf/nginx.conf", "x"), ("..x", "y")];
        let dir = projected(&files[..2]);
        let mut found: Vec<_> = read(dir.path())
            .unwrap()
            .into_iter()
            .map(|file| (file.path, file.content))
            .collect();
        found.sort();
        let expect = [("conf/nginx.conf", "x"), ("token", "abc")];
        assert_eq!(found, expect.map(|(p, c)| (p.to_owned(), c.into())));
    }

    #[test]
    fn too_much_is_refused_by_name() {
        let large = "x".repeat(9 << 20);
        let dir = projected(&[("large", &large)]);
        let error = crate::explained(&read(dir.path()).unwrap_err());
        assert!(
            error.contains("large") && error.contains("at most"),
            "{error}"
        );
        let gone = dir.path().join("gone");
        let error = crate::explained(&read(&gone).unwrap_err());
        assert!(error.contains("gone"), "{error}");
    }

    #[test]
    fn keys_are_keys_or_an_error_names_their_file() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ me";
        let dir = projected(&[("b", &format!("# mine\n\n{key}\n")), ("a", key)]);
        assert_eq!(keys(dir.path()).unwrap(), [key, key]);
        let dir = projected(&[("bad", "not a key\n")]);
        let error = crate::explained(&keys(dir.path()).unwrap_err());
        assert!(error.contains("the key bad in"), "{error}");
    }
}
