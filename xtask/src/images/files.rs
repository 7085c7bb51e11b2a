//! The files of a layer: programs with all that they are linked with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::proc;

/// Where libraries are, and where the loader looks without a cache.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];

/// The loader, as programs name it.
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// The authorities that Debian trusts, and where programs look for them.
const AUTHORITIES: &str = "usr/share/ca-certificates/mozilla";
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

#[derive(Debug)]
enum Entry {
    Folder(u32),
    File(u32, Vec<u8>),
    Link(&'static str),
}

/// Files by their paths, without a slash before them.
#[derive(Debug, Default)]
pub(crate) struct Files(BTreeMap<String, Entry>);

impl Files {
    /// Adds a file, and the folders that it is in.
    pub(super) fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        for (at, _) in path.match_indices('/') {
            let folder = path[..at].to_owned();
            self.0.entry(folder).or_insert(Entry::Folder(0o755));
        }
        self.0.insert(path.to_owned(), Entry::File(mode, content));
    }

    /// Takes a file from the tree `root`, and the libraries that it needs.
    pub(crate) fn take(&mut self, root: &Path, name: &str) -> Result<()> {
        if self.0.contains_key(name) {
            return Ok(());
        }
        let path = within(root, name)?;
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        let is_elf = content.starts_with(b"\x7fELF");
        self.add(name, mode, content);
        if is_elf {
            self.libraries(root, &path)?;
        }
        Ok(())
    }

    fn libraries(&mut self, root: &Path, elf: &Path) -> Result<()> {
        let sh = Shell::new()?;
        let said = proc::read(cmd!(sh, "readelf --dynamic --wide {elf}"))?;
        let values = |key: &str| -> Vec<String> {
            let lines = said.lines().filter(|line| line.contains(key));
            let value = |line: &str| Some(line.rsplit_once('[')?.1.strip_suffix(']')?.to_owned());
            lines.filter_map(value).collect()
        };
        let runpaths = values("(RUNPATH)");
        for library in values("(NEEDED)") {
            if library.starts_with("ld-linux") {
                continue;
            }
            let own = runpaths.iter().flat_map(|paths| paths.split(':'));
            let own = own.map(|path| path.trim_start_matches('/'));
            let mut folders = own.chain(LIBRARIES);
            let Some(folder) = folders.find(|folder| root.join(folder).join(&library).exists())
            else {
                bail!("{} needs {library}, which is nowhere", elf.display());
            };
            self.take(root, &format!("{folder}/{library}"))?;
        }
        self.take(root, LOADER)
    }

    /// Adds the certificates of all authorities in the tree `root`.
    pub(super) fn certificates(&mut self, root: &Path) -> Result<()> {
        let folder = root.join(AUTHORITIES);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let mut all = Vec::new();
        for file in files {
            all.extend(fs::read(&file)?);
            if !all.ends_with(b"\n") {
                all.push(b'\n');
            }
        }
        self.add(CERTIFICATES, 0o644, all);
        Ok(())
    }

    /// Adds what every system has: users, a folder for temporary files, and
    /// the names under which the loader and libraries are looked for.
    pub(super) fn settle(&mut self) {
        let users = "root:x:0:0:root:/:/sbin/nologin\n\
                     bootwright:x:65532:65532:bootwright:/:/sbin/nologin\n";
        self.add("etc/passwd", 0o644, users.into());
        let groups = "root:x:0:\nbootwright:x:65532:\n";
        self.add("etc/group", 0o644, groups.into());
        self.0.insert("tmp".to_owned(), Entry::Folder(0o1777));
        // Where runtimes mount what every container has.
        for folder in ["dev", "proc", "run", "sys"] {
            self.0.insert(folder.to_owned(), Entry::Folder(0o755));
        }
        for (link, target) in [
            ("bin", "usr/bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            self.0.insert(link.to_owned(), Entry::Link(target));
        }
    }

    /// The layer: owned by root, of no time.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Folder(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), &b""[..])?;
                }
                Entry::File(mode, content) => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, &content[..])?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

/// Where a name in the tree `root` leads, following links as if it were `/`.
fn within(root: &Path, name: &str) -> Result<PathBuf> {
    let mut path = root.to_owned();
    let mut rest: Vec<PathBuf> = Path::new(name).iter().rev().map(PathBuf::from).collect();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.components().next() {
            Some(Component::ParentDir) if path != root => {
                path.pop();
                continue;
            }
            Some(Component::Normal(_)) => path.push(&part),
            _ => continue,
        }
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        links += 1;
        if links > 40 {
            bail!("{name}: too many links");
        }
        match target.is_absolute() {
            true => root.clone_into(&mut path),
            false => {
                path.pop();
            }
        }
        rest.extend(target.iter().rev().map(PathBuf::from));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_a_tree_stay_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib/real")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/usr/lib/real/a.so", root.join("usr/lib/a.so")).unwrap();
        symlink("../../../../etc/passwd", root.join("usr/lib/up")).unwrap();
        let at = |name| within(root, name).unwrap();
        assert_eq!(at("lib/a.so"), root.join("usr/lib/real/a.so"));
        assert_eq!(at("lib/up"), root.join("etc/passwd"));
        symlink("round", root.join("round")).unwrap();
        assert!(within(root, "round").is_err());
    }

    #[test]
    fn layers_are_the_same_bytes_each_time() {
        let make = || {
            let mut files = Files::default();
            files.add("usr/bin/x", 0o755, b"x".to_vec());
            files.settle();
            files.tar().unwrap()
        };
        assert_eq!(make(), make());
        let tar = make();
        let mut archive = tar::Archive::new(&tar[..]);
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let parents = ["usr/", "usr/bin/", "usr/bin/x"];
        let at = |path| paths.iter().position(|p| p == path).unwrap();
        assert!(parents.map(at).is_sorted(), "{paths:?}");
    }
}
