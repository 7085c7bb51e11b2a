//! Comparing a volume with its tree, both ways: by the `ext4-view` crate, by
//! debugfs, and, for root, by the kernel.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bootwright_disk::SourceReader;
use bootwright_image::Timestamp;
use bootwright_rootfs::tree::{FileContent, Inode, InodeId, Kind, Tree};
use ext4_view::Ext4;

use crate::workshop::{TIME, Workshop, succeed};

/// Files up to this size are compared byte for byte; of larger ones what the
/// tree says to be there, and what is around it. `ext4-view` takes too long
/// for those, as it goes through holes block by block.
const WHOLE: u64 = 64 << 20;

/// Compares everything by all means that there are.
pub(crate) fn compare(workshop: &Workshop, tree: &Tree, volume: &Path) {
    compare_by_view(tree, volume);
    compare_by_tools(workshop, tree, volume);
}

/// Compares by debugfs and the kernel only: `ext4-view` takes times with a
/// negative low word for corrupt, and minutes for 100,000 names.
pub(crate) fn compare_by_tools(workshop: &Workshop, tree: &Tree, volume: &Path) {
    compare_by_debugfs(workshop, tree, volume);
    if rustix::process::geteuid().is_root() {
        compare_by_mount(workshop, tree, volume);
    }
}

/// The names that the volume must have, with the made `/lost+found`.
fn expected(tree: &Tree) -> BTreeMap<Vec<u8>, Option<InodeId>> {
    let mut names: BTreeMap<_, _> = tree.walk().map(|(path, id)| (path, Some(id))).collect();
    names.entry(b"lost+found".to_vec()).or_insert(None);
    names
}

fn made_lost_found() -> Inode {
    Inode::directory(0o700, TIME)
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// Compares a file's bytes, which `read` gives from an offset on.
fn check_content(
    path: &[u8],
    content: &FileContent,
    sources: &SourceReader,
    mut read: impl FnMut(u64, &mut [u8]),
) {
    let name = String::from_utf8_lossy(path);
    let expect = |from: u64, to: u64| {
        let mut bytes = vec![0; (to - from) as usize];
        for extent in &content.extents {
            let Some(part) = extent.slice(from..to) else {
                continue;
            };
            let range = (part.start - from) as usize..(part.end() - from) as usize;
            match part.content {
                bootwright_disk::Content::Literal(literal) => {
                    bytes[range].copy_from_slice(&literal);
                }
                bootwright_disk::Content::Source { id, offset } => sources
                    .read_exact_at(id, offset, &mut bytes[range])
                    .unwrap(),
            }
        }
        bytes
    };
    let mut check = |from: u64, to: u64| {
        let mut bytes = vec![0; (to - from) as usize];
        read(from, &mut bytes);
        assert!(bytes == expect(from, to), "{name}: bytes {from} to {to}");
    };
    if content.size <= WHOLE {
        return check(0, content.size);
    }
    for extent in &content.extents {
        let from = extent.start.saturating_sub(10_000);
        let to = (extent.end() + 10_000).min(content.size);
        assert!(
            to - from <= WHOLE + 20_000,
            "{name}: extent too large for a test"
        );
        check(from, to);
    }
    check(content.size - 10_000, content.size);
}

fn compare_by_view(tree: &Tree, volume: &Path) {
    let fs = Ext4::load_from_path(volume).unwrap();
    let sources = SourceReader::new(tree.sources().to_vec());
    let mut expected = expected(tree);
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let name = String::from_utf8_lossy(&path).into_owned();
        let full = absolute(&path);
        let Some(id) = expected.remove(&path) else {
            panic!("/{name} is not in the tree");
        };
        let made = made_lost_found();
        let inode = id.map_or(&made, |id| tree.inode(id));
        let meta = fs.symlink_metadata(full.as_slice()).unwrap();
        assert_eq!(meta.mode() & 0o7777, mode(inode), "{name}");
        assert_eq!((meta.uid(), meta.gid()), (inode.uid, inode.gid), "{name}");
        for time in [meta.modified(), meta.accessed(), meta.created().unwrap()] {
            let time = Timestamp {
                secs: time.seconds(),
                nanos: time.nanoseconds(),
            };
            assert_eq!(time, stored(inode.mtime), "{name}");
        }
        let kind = meta.file_type();
        match &inode.kind {
            Kind::Directory(_) => {
                assert!(kind.is_dir(), "{name}");
                for entry in fs.read_dir(full.as_slice()).unwrap() {
                    let entry = entry.unwrap();
                    let child = entry.file_name();
                    let child: &[u8] = child.as_ref();
                    if child == b"." || child == b".." {
                        continue;
                    }
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(child);
                    open.push(below);
                }
            }
            Kind::Regular(content) => {
                assert!(kind.is_regular_file(), "{name}");
                assert_eq!(meta.len(), content.size, "{name}");
                if content.size > WHOLE {
                    continue;
                }
                let mut file = fs.open(full.as_slice()).unwrap();
                check_content(&path, content, &sources, |at, bytes| {
                    file.seek_to(at).unwrap();
                    let mut done = 0;
                    while done < bytes.len() {
                        let n = file.read_bytes(&mut bytes[done..]).unwrap();
                        assert!(n > 0, "{name} ends early");
                        done += n;
                    }
                });
            }
            Kind::Symlink(target) => {
                assert!(kind.is_symlink(), "{name}");
                let link = fs.read_link(full.as_slice()).unwrap();
                assert_eq!(link.as_ref() as &[u8], &**target, "{name}");
            }
            Kind::CharDevice { .. } => assert!(kind.is_char_dev(), "{name}"),
            Kind::BlockDevice { .. } => assert!(kind.is_block_dev(), "{name}"),
            Kind::Fifo => assert!(kind.is_fifo(), "{name}"),
        }
    }
    assert!(expected.is_empty(), "missing: {:?}", expected.keys());
}

/// A time as an inode can hold it.
fn stored(time: Timestamp) -> Timestamp {
    let secs = time.secs.clamp(-0x8000_0000, 0x3_7fff_ffff);
    let nanos = if secs == time.secs { time.nanos } else { 0 };
    Timestamp { secs, nanos }
}

/// An attribute as the file system gives it back, if it keeps it.
fn kept(name: &[u8], value: &[u8]) -> bool {
    let known = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.starts_with(prefix) && name.len() > prefix.len());
    known || name.starts_with(b"system.posix_acl_") && value.len() > 4
}

/// Names of each inode that is reached.
fn links(tree: &Tree) -> BTreeMap<InodeId, u32> {
    let mut links = BTreeMap::new();
    for (_, id) in tree.walk() {
        *links.entry(id).or_insert(0) += 1;
    }
    for (id, count) in &mut links {
        if let Some(entries) = tree.directory(*id) {
            let below = entries
                .values()
                .filter(|&&id| tree.inode(id).is_directory())
                .count() as u32;
            *count += 1 + below;
            if *id == tree.root() {
                let made = tree.child(tree.root(), b"lost+found").is_none();
                *count += u32::from(made);
            }
            if *count > 65000 {
                *count = 1;
            }
        }
    }
    // The root has no name, but is its own parent.
    links
}

fn compare_by_debugfs(workshop: &Workshop, tree: &Tree, volume: &Path) {
    let links = links(tree);
    // Inode numbers are given in the order of a walk.
    let mut numbers: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut next = 12;
    for (path, id) in tree.walk() {
        let number = match &path[..] {
            b"" => 2,
            b"lost+found" => 11,
            _ => next,
        };
        if let std::collections::btree_map::Entry::Vacant(slot) = numbers.entry(id) {
            slot.insert(number);
            next += u32::from(number == next);
        }
    }
    let mut script = String::new();
    let mut values = Vec::new();
    for (&id, number) in &numbers {
        script += &format!("stat <{number}>\n");
        for (name, value) in tree.inode(id).xattrs.iter() {
            let path = workshop.path(&format!("value-{}", values.len()));
            if kept(name, value) && name.is_ascii() {
                let name = String::from_utf8_lossy(name);
                script += &format!("ea_get -f {} <{number}> {name}\n", path.display());
                values.push((path, name.into_owned(), value));
            }
        }
    }
    let commands = workshop.path("commands");
    fs::write(&commands, script).unwrap();
    let text = succeed(
        "debugfs",
        &["-f", commands.to_str().unwrap(), volume.to_str().unwrap()],
    );
    let mut seen: BTreeMap<u32, (u32, Option<(u32, u32)>)> = BTreeMap::new();
    let mut number = 0;
    for line in text.lines() {
        let field = |name: &str| -> Option<u32> {
            let (_, rest) = line.split_once(name)?;
            let digits: String = rest
                .trim()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().ok()
        };
        if line.starts_with("Inode: ") {
            number = field("Inode: ").unwrap();
        } else if line.starts_with("Links: ") {
            seen.insert(number, (field("Links: ").unwrap(), None));
        } else if let Some((_, rest)) = line.split_once("Device major/minor number: ") {
            let (major, rest) = rest.split_once(':').unwrap();
            let minor = rest.split(' ').next().unwrap();
            seen.get_mut(&number).unwrap().1 =
                Some((major.parse().unwrap(), minor.parse().unwrap()));
        }
    }
    for (id, number) in &numbers {
        let (count, device) = seen[number];
        assert_eq!(count, links[id], "links of inode {number}");
        let want = match tree.inode(*id).kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                Some((major, minor))
            }
            _ => None,
        };
        assert_eq!(device, want, "device of inode {number}");
    }
    for (path, name, value) in values {
        let mut value = value.to_vec();
        if name.starts_with("system.posix_acl_") {
            // Where an entry has no id, debugfs shows 0 in its place.
            for entry in value[4..].chunks_exact_mut(8) {
                if !matches!(entry[0], 2 | 8) {
                    entry[4..].fill(0);
                }
            }
        }
        assert_eq!(
            fs::read(&path).unwrap(),
            value,
            "{name} in {}",
            path.display()
        );
    }
}

/// A mounted volume; unmounted when dropped.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
}

impl Mount {
    pub(crate) fn new(workshop: &Workshop, volume: &Path, mode: &str) -> Self {
        let at = workshop.path("mnt");
        fs::create_dir_all(&at).unwrap();
        let mode = format!("loop,{mode}");
        let args = [
            "-t",
            "ext4",
            "-o",
            &mode,
            volume.to_str().unwrap(),
            at.to_str().unwrap(),
        ];
        // Others may take the loop device that mount(8) has just found free.
        for _ in 0..20 {
            if crate::workshop::run("mount", &args).status.success() {
                return Self { at };
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        succeed("mount", &args);
        Self { at }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let umount = || crate::workshop::run("umount", &[self.at.to_str().unwrap()]);
        let mut done = umount();
        // Until it runs another program, a child of another test's thread has
        // the files open that we had.
        for _ in 0..50 {
            if done.status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            done = umount();
        }
        if !done.status.success() && !std::thread::panicking() {
            panic!("umount: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

fn compare_by_mount(workshop: &Workshop, tree: &Tree, volume: &Path) {
    let mount = Mount::new(workshop, volume, "ro");
    let sources = SourceReader::new(tree.sources().to_vec());
    let links = links(tree);
    let mut expected = expected(tree);
    let mut open = vec![Vec::new()];
    let mut inodes: BTreeMap<u64, InodeId> = BTreeMap::new();
    while let Some(path) = open.pop() {
        let name = String::from_utf8_lossy(&path).into_owned();
        let id = expected
            .remove(&path)
            .unwrap_or_else(|| panic!("/{name} is not in the tree"));
        let Some(id) = id else {
            continue;
        };
        let inode = tree.inode(id);
        let host = mount.at.join(OsStr::from_bytes(&path));
        let meta = fs::symlink_metadata(&host).unwrap();
        assert_eq!((meta.mode() & 0o7777) as u16, mode(inode), "{name}");
        assert_eq!((meta.uid(), meta.gid()), (inode.uid, inode.gid), "{name}");
        let time = stored(inode.mtime);
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec() as u32),
            (time.secs, time.nanos),
            "{name}"
        );
        assert_eq!(
            (meta.ctime(), meta.ctime_nsec() as u32),
            (time.secs, time.nanos),
            "{name}"
        );
        assert_eq!(meta.nlink(), u64::from(links[&id]), "{name}");
        assert_eq!(
            *inodes.entry(meta.ino()).or_insert(id),
            id,
            "{name}: hard link"
        );
        let kind = meta.file_type();
        match &inode.kind {
            Kind::Directory(entries) => {
                for entry in fs::read_dir(&host).unwrap() {
                    let child = entry.unwrap().file_name();
                    let host = Path::new(OsStr::from_bytes(&path)).join(child);
                    open.push(host.as_os_str().as_bytes().to_vec());
                }
                // Through the index, not the list.
                for child in entries.keys() {
                    assert!(fs::symlink_metadata(host.join(OsStr::from_bytes(child))).is_ok());
                }
                assert!(fs::symlink_metadata(host.join("not there, is it?")).is_err());
            }
            Kind::Regular(content) => {
                assert_eq!(meta.len(), content.size, "{name}");
                let file = File::open(&host).unwrap();
                check_content(&path, content, &sources, |at, bytes| {
                    file.read_exact_at(bytes, at).unwrap();
                });
            }
            Kind::Symlink(target) => {
                assert_eq!(
                    fs::read_link(&host).unwrap().as_os_str().as_bytes(),
                    &**target
                );
            }
            Kind::CharDevice { major, minor } => {
                assert!(kind.is_char_device(), "{name}");
                assert_eq!(meta.rdev(), rustix::fs::makedev(*major, *minor), "{name}");
            }
            Kind::BlockDevice { major, minor } => {
                assert!(kind.is_block_device(), "{name}");
                assert_eq!(meta.rdev(), rustix::fs::makedev(*major, *minor), "{name}");
            }
            Kind::Fifo => assert!(kind.is_fifo(), "{name}"),
        }
        compare_xattrs(&host, inode);
    }
    assert!(expected.is_empty(), "missing: {:?}", expected.keys());
}

fn compare_xattrs(host: &Path, inode: &Inode) {
    let name = host.display();
    let mut list = vec![0u8; 65536];
    let len = rustix::fs::llistxattr(host, &mut list[..]).unwrap();
    let mut listed: Vec<&[u8]> = list[..len]
        .split(|&b| b == 0)
        .filter(|n| !n.is_empty())
        .collect();
    listed.sort_unstable();
    // The kernel shows user attributes of files and directories only.
    let plain = matches!(inode.kind, Kind::Regular(_) | Kind::Directory(_));
    let want: BTreeMap<&[u8], &[u8]> = inode
        .xattrs
        .iter()
        .filter(|(name, value)| kept(name, value))
        .collect();
    for (attr, value) in &want {
        if attr.starts_with(b"user.") && !plain {
            continue;
        }
        let mut got = vec![0; 65536];
        let len = rustix::fs::lgetxattr(host, *attr, &mut got[..])
            .unwrap_or_else(|e| panic!("{name}: {}: {e}", String::from_utf8_lossy(attr)));
        assert_eq!(
            &got[..len],
            *value,
            "{name}: {}",
            String::from_utf8_lossy(attr)
        );
    }
    let names: Vec<&[u8]> = want.into_keys().collect();
    assert_eq!(listed, names, "{name}");
}

/// The permissions that Linux shows: those of symbolic links are always 0777.
fn mode(inode: &Inode) -> u16 {
    match inode.kind {
        Kind::Symlink(_) => 0o777,
        _ => inode.mode,
    }
}
