//! Kernel, initrd and command line of a machine.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bootwright_delivery::metadata::FileOnDisk;
use bootwright_disk::{Content, Plan, ReadAt, Source, SourceReader};
use bootwright_rootfs::boot::{Architecture, command_line, discover};
use bootwright_rootfs::tree::FileContent;
use bootwright_vmm::boot::Blob;
use serde::{Deserialize, Serialize};

use super::block::{Disk, Opened};
use super::spec::{Boot, Planned};

/// The serial port that is the machine's console.
const CONSOLE: &str = "ttyS0";

/// Largest kernel or initrd of a disk that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// A range of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// The file.
    pub path: PathBuf,
    /// Where the range starts.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// Whether the file stays as it is while there are machines: a pack of the
    /// store, or a copy of this machine's.
    #[serde(default)]
    pub fixed: bool,
}

/// What the user changes in the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommandLine {
    /// Takes the place of what the image or the disk says.
    pub instead: Option<String>,
    /// Arguments that are added where nothing else is said of them.
    #[serde(default)]
    pub defaults: Vec<String>,
    /// Is added at the end.
    pub more: Vec<String>,
}

impl CommandLine {
    /// Checks what the user gave.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(text) = &self.instead {
            command_line::parse("--append", text)?;
        }
        for text in &self.more {
            command_line::parse("--karg", text)?;
        }
        Ok(())
    }

    /// Adds arguments that suit virtual machines, and one whose memory `grows`
    /// (Linux, admin-guide/kernel-parameters.rst and mm/memory-hotplug.rst).
    pub(crate) fn suit_machines(&mut self, grows: bool) {
        // Ciphers are not tried at each boot, a tenth of the kernel's time; with
        // fips=1 they are all the same.
        let mut words = vec!["cryptomgr.notests"];
        if grows {
            // New memory is used, in a way that lets most of it go again; not
            // all distributions see to that.
            words.extend([
                "memhp_default_state=online",
                "memory_hotplug.online_policy=auto-movable",
            ]);
        }
        self.defaults.extend(words.into_iter().map(str::to_owned));
    }

    /// The command line of a machine whose image or disk says `found`. The
    /// kernel's messages go to the console if no serial port has been chosen.
    fn compose(&self, found: &str) -> String {
        let mut words = vec![self.instead.as_deref().unwrap_or(found).trim()];
        words.extend(self.more.iter().map(|text| text.trim()));
        let said: Vec<_> = words.iter().flat_map(|text| names(text)).collect();
        let unsaid = |text: &&String| !names(text).any(|name| said.contains(&name));
        words.extend(self.defaults.iter().filter(unsaid).map(String::as_str));
        let serial = format!("console={CONSOLE}");
        let given = |text: &&str| {
            text.split_whitespace()
                .any(|w| w.starts_with("console=ttyS") || w.starts_with("console=hvc"))
        };
        if !words.iter().any(given) {
            // The last one becomes /dev/console.
            words.push(&serial);
        }
        words.retain(|text| !text.is_empty());
        words.join(" ")
    }
}

/// The names of the arguments in a command line.
fn names(text: &str) -> impl Iterator<Item = &str> {
    (text.split_whitespace()).filter_map(|word| word.split('=').next())
}

/// What a machine starts with.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    /// The kernel.
    pub kernel: Blob,
    /// The initrd, if there is one.
    pub initrd: Option<Blob>,
    /// The command line.
    pub command_line: String,
    /// Where it was found, for people.
    pub place: String,
}

impl Payload {
    /// What `boot` says, the rest as the disk has it that the machine boots
    /// from, if it has one. `fresh` if nothing has been written to the disk, so
    /// that it has what its plan says.
    pub(crate) fn load(boot: &Boot, disk: Option<&Opened>, fresh: bool) -> anyhow::Result<Self> {
        let found = if boot.kernel.is_some() {
            None
        } else if let Some(planned) = boot.planned.as_ref().filter(|_| fresh) {
            Some(Self::planned(planned)?)
        } else {
            let disk = disk.context("there is neither a kernel nor a disk")?;
            let disk = Arc::new(Disk(Arc::clone(&disk.disk)));
            match (Self::discover(disk), &boot.planned) {
                (Ok(found), _) => Some(found),
                // The guest may have done away with its boot partition.
                (Err(_), Some(planned)) => Some(Self::planned(planned)?),
                (Err(error), None) => return Err(error),
            }
        };
        let mut payload = match (found, &boot.kernel) {
            (Some(found), _) => found,
            (None, Some(path)) => Self {
                kernel: Blob::from(open(path, "--kernel")?),
                initrd: None,
                command_line: planned_root(boot).unwrap_or_default(),
                place: path.display().to_string(),
            },
            (None, None) => bail!("there is no kernel"),
        };
        if let Some(path) = &boot.initrd {
            payload.initrd = Some(Blob::from(open(path, "--initrd")?));
        }
        payload.check()?;
        payload.command_line = boot.command_line.compose(&payload.command_line);
        Ok(payload)
    }

    fn planned(planned: &Planned) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: planned.kernel.open()?,
            initrd: planned.initrd.as_ref().map(Piece::open).transpose()?,
            command_line: planned.command_line.clone(),
            place: "the image".to_owned(),
        })
    }

    fn discover(disk: Arc<dyn ReadAt>) -> anyhow::Result<Self> {
        let mut found = discover::discover(disk, Architecture::X86_64)?;
        let entry = found.default_entry().cloned().context("no boot entry")?;
        let payload = found.load(&entry)?;
        Ok(Self {
            kernel: in_memory_file("kernel", payload.kernel)?,
            initrd: match payload.initrd.is_empty() {
                true => None,
                false => Some(in_memory_file("initrd", payload.initrd)?),
            },
            command_line: payload.command_line,
            place: entry.place,
        })
    }

    /// Refuses a kernel for another machine before it has a machine.
    fn check(&self) -> anyhow::Result<()> {
        let mut head = vec![0; self.kernel.len()?.min(4096) as usize];
        self.kernel.read_exact_at(&mut head, 0)?;
        discover::check_kernel(&head, Architecture::X86_64)
            .map_err(|why| anyhow::anyhow!("{} holds no kernel for x86-64: {why}", self.place))
    }

    /// The memory below which no guest comes up with this payload: what the
    /// kernel and the initrd take before and after they are unpacked is more.
    pub(crate) fn least_memory(&self) -> io::Result<u64> {
        let initrd = self.initrd.as_ref().map_or(Ok(0), Blob::len)?;
        Ok(2 * (self.kernel.len()? + initrd) + (32 << 20))
    }
}

/// The arguments of an image's command line that say which root file system
/// is meant: a kernel of the user's needs them, too.
fn planned_root(boot: &Boot) -> Option<String> {
    Some(boot.planned.as_ref()?.command_line.clone())
}

fn open(path: &Path, flag: &str) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| format!("{flag} {}", path.display()))?;
    if !file.metadata()?.is_file() {
        bail!("{flag} {}: it is no file", path.display());
    }
    Ok(file)
}

/// A file that takes no name and no memory of this process.
fn in_memory_file(name: &str, bytes: Vec<u8>) -> anyhow::Result<Blob> {
    use std::io::Write as _;
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
        .context("cannot make a file in memory")?;
    let mut file = File::from(file);
    file.write_all(&bytes)
        .context("cannot write a file in memory")?;
    Ok(Blob::from(file))
}

impl Piece {
    /// A file of an image: a range of its pack, or a copy of it as `copy`
    /// where it is not one range.
    pub(crate) fn of(
        content: &FileContent,
        sources: &[Source],
        copy: &Path,
    ) -> anyhow::Result<Self> {
        if let [extent] = &content.extents[..]
            && extent.start == 0
            && extent.len == content.size
            && let Content::Source { id, offset } = extent.content
            && let Some(source) = sources.get(id.0 as usize)
        {
            return Ok(Self {
                path: source.path.clone(),
                offset,
                len: extent.len,
                fixed: source.kind.is_fixed(),
            });
        }
        let reader = SourceReader::new(sources.to_vec());
        let mut bytes = vec![0; usize::try_from(content.size)?];
        for extent in &content.extents {
            let range = extent.start as usize..extent.end() as usize;
            let target = bytes
                .get_mut(range)
                .context("an extent lies outside its file")?;
            match &extent.content {
                Content::Literal(literal) => target.copy_from_slice(literal),
                Content::Source { id, offset } => reader.read_exact_at(*id, *offset, target)?,
            }
        }
        super::place::write_whole(copy, &bytes)?;
        Ok(Self {
            path: copy.to_owned(),
            offset: 0,
            len: content.size,
            fixed: true,
        })
    }

    /// The same of a file that is known by its place on a disk, whose `plan`
    /// is given where it is one.
    pub(crate) fn on_disk(
        file: &FileOnDisk,
        disk: &dyn ReadAt,
        plan: Option<&Plan>,
        copy: &Path,
    ) -> anyhow::Result<Self> {
        if let [part] = &file.parts[..]
            && (part.offset, part.len) == (0, file.size)
            && let Some(plan) = plan
            && let Some(end) = part.disk_offset.checked_add(part.len)
            && let [extent] = plan.extents_in(part.disk_offset..end)
            && extent.start <= part.disk_offset
            && extent.end() >= end
            && let Content::Source { id, offset } = extent.content
            && let Some(source) = plan.sources().get(id.0 as usize)
        {
            return Ok(Self {
                path: source.path.clone(),
                offset: offset + (part.disk_offset - extent.start),
                len: part.len,
                fixed: source.kind.is_fixed(),
            });
        }
        super::place::write_whole(copy, &file.read(disk, MAX_FILE)?)?;
        Ok(Self {
            path: copy.to_owned(),
            offset: 0,
            len: file.size,
            fixed: true,
        })
    }

    fn open(&self) -> anyhow::Result<Blob> {
        let context = || {
            format!(
                "cannot open {}; if the layer was removed from the store, run the image again",
                self.path.display()
            )
        };
        Ok(Blob::Range {
            file: Arc::new(File::open(&self.path).with_context(context)?),
            offset: self.offset,
            len: self.len,
            fixed: self.fixed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_for_machines_take_the_place_of_none() {
        let line = |grows, instead: Option<&str>, more: &[&str], found| {
            let mut line = CommandLine {
                instead: instead.map(str::to_owned),
                defaults: Vec::new(),
                more: more.iter().map(|&t| t.to_owned()).collect(),
            };
            line.suit_machines(grows);
            line.compose(found)
        };
        let found = "ro console=ttyS0";
        let tests = "cryptomgr.notests";
        let (online, movable) = (
            "memhp_default_state=online",
            "memory_hotplug.online_policy=auto-movable",
        );
        assert_eq!(line(false, None, &[], found), format!("{found} {tests}"));
        assert_eq!(
            line(true, None, &["a=1"], found),
            format!("{found} a=1 {tests} {online} {movable}")
        );
        let given = "memhp_default_state=offline";
        assert_eq!(
            line(true, Some(found), &[given, "cryptomgr.notests=0"], ""),
            format!("{found} {given} cryptomgr.notests=0 {movable}")
        );
        let said = format!("{found} {given}");
        assert_eq!(
            line(true, None, &[], &said),
            format!("{said} {tests} {movable}")
        );
    }

    #[test]
    fn the_command_line_always_leads_to_the_console() {
        let line = |instead: Option<&str>, more: &[&str], found| {
            CommandLine {
                instead: instead.map(str::to_owned),
                defaults: Vec::new(),
                more: more.iter().map(|&t| t.to_owned()).collect(),
            }
            .compose(found)
        };
        for (instead, more, found, expect) in [
            (
                None,
                &[][..],
                "root=/dev/vda1",
                "root=/dev/vda1 console=ttyS0",
            ),
            (
                None,
                &["a=1", "b"],
                "ro console=ttyS0,115200",
                "ro console=ttyS0,115200 a=1 b",
            ),
            (None, &["console=hvc0"], "ro", "ro console=hvc0"),
            (None, &[], "console=tty0", "console=tty0 console=ttyS0"),
            (Some("x"), &[], "root=/dev/vda1", "x console=ttyS0"),
            (Some(""), &[], "", "console=ttyS0"),
        ] {
            assert_eq!(line(instead, more, found), expect);
        }
    }
}
