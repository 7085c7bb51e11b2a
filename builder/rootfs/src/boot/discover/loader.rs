//! Entries of the Boot Loader Specification (UAPI.1).

use super::partitions::Purpose;
use super::volume::Volume;
use super::{Entry, Found, Source, join};
use crate::boot::bls::{self, Entry as BlsEntry};
use crate::boot::grub_cfg;
use crate::boot::os_release::OsRelease;
use crate::boot::pe;
use crate::boot::uki;

/// Most entries and unified kernel images that are looked at.
const MAX_ENTRIES: usize = 200;

/// Largest text section of a unified kernel image that is read, in bytes.
const MAX_TEXT: u64 = 64 * 1024;

/// Largest environment block that is read, in bytes.
const MAX_ENVIRONMENT: u64 = 64 * 1024;

/// A loader entry and the volume that it is on.
struct Candidate {
    entry: BlsEntry,
    /// Names it in the sorted list, which holds only entries.
    key: String,
    volume: usize,
    place: String,
    source: Source,
}

/// What the EFI system partition and the extended boot loader partition
/// offer, together (UAPI.1, "Boot menu").
pub(super) fn on_boot_partitions(volumes: &mut [Volume], found: &mut Found) {
    let mut candidates = Vec::new();
    let mut pattern = None;
    for (n, volume) in volumes.iter_mut().enumerate() {
        if !matches!(volume.partition.purpose, Purpose::Esp | Purpose::Xbootldr) {
            continue;
        }
        collect(volume, n, "/", &mut candidates, found);
        if pattern.is_none() {
            pattern = default_pattern(volume);
        }
    }
    finish(volumes, candidates, pattern.as_deref(), found);
}

/// Loader entries on other file systems: `/boot` of its own, or in the root
/// file system.
pub(super) fn elsewhere(volumes: &mut [Volume], found: &mut Found) {
    for (n, directory) in (0..volumes.len()).flat_map(|n| [(n, "/"), (n, "/boot")]) {
        let mut candidates = Vec::new();
        if let Some(volume) = volumes.get_mut(n) {
            collect(volume, n, directory, &mut candidates, found);
        }
        finish(volumes, candidates, None, found);
        if !found.entries.is_empty() {
            return;
        }
    }
}

/// The type #1 entries below `directory` as GRUB's `blscfg` takes them in:
/// sorted, with their variables. Paths are from the root of the volume.
pub(super) fn for_grub(volume: &mut Volume, directory: &str) -> Vec<grub_cfg::Item> {
    let mut entries = type_one(volume, directory, &mut Vec::new());
    bls::sort(&mut entries);
    entries
        .into_iter()
        .filter_map(|entry| {
            let linux = entry.linux?;
            // On a boot partition paths are from its root, in the root file
            // system they have /boot before them already, or not.
            let here = |path: &str| match volume.file_len(path) {
                Some(_) => format!("/{path}"),
                None => join(directory, path),
            };
            Some(grub_cfg::Item {
                title: entry.title.unwrap_or_else(|| entry.id.clone()),
                linux: here(&linux),
                initrd: plain_paths(&entry.initrd).map(here).collect(),
                arguments: entry.options.unwrap_or_default(),
                id: entry.id,
            })
        })
        .collect()
}

/// Paths of initrds; what stands behind them as a variable of GRUB's is left
/// out.
fn plain_paths(paths: &[String]) -> impl Iterator<Item = &str> {
    paths
        .iter()
        .flat_map(|path| path.split_whitespace())
        .filter(|path| !path.starts_with('$'))
}

fn type_one(volume: &mut Volume, directory: &str, notes: &mut Vec<String>) -> Vec<BlsEntry> {
    let directory = join(directory, "loader/entries");
    let names = volume.names(&directory);
    let mut entries = Vec::new();
    for name in names.iter().filter(|n| is(n, ".conf")).take(MAX_ENTRIES) {
        let path = join(&directory, name);
        let place = format!("{}, {path}", volume.partition.name);
        let parsed = volume
            .read(&path, bls::MAX_SIZE)
            .map_err(|e| e.to_string())
            .and_then(|bytes| bls::parse(name, &bytes).map_err(|e| e.to_string()));
        match parsed {
            Ok(entry) => entries.push(entry),
            Err(error) => notes.push(format!("{place}: {error}")),
        }
    }
    entries
}

fn is(name: &str, suffix: &str) -> bool {
    let at = name.len().checked_sub(suffix.len());
    at.and_then(|at| name.split_at_checked(at))
        .is_some_and(|(stem, end)| !stem.is_empty() && end.eq_ignore_ascii_case(suffix))
}

/// Adds the entries of one volume.
fn collect(
    volume: &mut Volume,
    number: usize,
    directory: &str,
    candidates: &mut Vec<Candidate>,
    found: &mut Found,
) {
    let name = volume.partition.name.clone();
    let environment = environment(volume, directory);
    for mut entry in type_one(volume, directory, &mut found.notes) {
        let place = format!("{name}, loader entry {}", entry.id);
        let wanted = found.architecture.efi();
        if let Some(other) = entry.architecture.as_ref()
            && !other.eq_ignore_ascii_case(wanted)
        {
            found.notes.push(format!("{place}: it is for {other}"));
            continue;
        }
        if let Some(options) = &entry.options
            && options.contains('$')
        {
            let get = |name: &str| {
                let same = |(n, _): &&(String, String)| n == name;
                environment
                    .iter()
                    .find(same)
                    .map(|(_, value)| value.clone())
            };
            entry.options = Some(grub_cfg::expand(options, get));
        }
        candidates.push(Candidate {
            key: format!("{}#{}", entry.id, candidates.len()),
            entry,
            volume: number,
            place,
            source: Source::LoaderEntry,
        });
    }
    let images = join(directory, "EFI/Linux");
    let names = volume.names(&images);
    for file in names.iter().filter(|n| is(n, ".efi")).take(MAX_ENTRIES) {
        let path = join(&images, file);
        let place = format!("{name}, {path}");
        match unified(volume, &path, found.architecture.pe_machine()) {
            Ok(entry) => candidates.push(Candidate {
                key: format!("{}#{}", entry.id, candidates.len()),
                entry,
                volume: number,
                place,
                source: Source::Unified,
            }),
            Err(error) => found.notes.push(format!("{place}: {error}")),
        }
    }
}

/// GRUB's variables, which loader entries of Fedora's name in `options`.
fn environment(volume: &mut Volume, directory: &str) -> Vec<(String, String)> {
    ["grub2/grubenv", "grub/grubenv"]
        .iter()
        .find_map(|path| volume.read(&join(directory, path), MAX_ENVIRONMENT).ok())
        .map(|bytes| grub_cfg::environment(&bytes))
        .unwrap_or_default()
}

/// Looks into a unified kernel image.
fn unified(volume: &mut Volume, path: &str, machine: u16) -> Result<BlsEntry, String> {
    let head = volume
        .read_part(path, 0, pe::HEAD_SIZE)
        .map_err(|e| e.to_string())?;
    let len = volume.file_len(path).unwrap_or(0);
    let uki = uki::parse(&head, len).map_err(|e| e.to_string())?;
    if uki.machine != machine {
        return Err("it is for another machine".into());
    }
    let mut text = |name: &str| {
        let range = uki.section(name)?.range();
        let len = (range.end - range.start).min(MAX_TEXT);
        volume.read_part(path, range.start, len).ok()
    };
    let os = OsRelease::parse(&text(".osrel").unwrap_or_default());
    let line = text(".cmdline").map(|bytes| {
        String::from_utf8_lossy(&bytes)
            .trim_matches(|c: char| c == '\0' || c.is_whitespace())
            .to_owned()
    });
    Ok(BlsEntry::unified(path, &os, line))
}

/// Sorts what was collected, leaves out what is not there, and finds the
/// default.
fn finish(
    volumes: &mut [Volume],
    mut candidates: Vec<Candidate>,
    pattern: Option<&str>,
    found: &mut Found,
) {
    let mut order: Vec<BlsEntry> = candidates
        .iter()
        .map(|c| BlsEntry {
            // The key rides along where sorting does not look.
            architecture: Some(c.key.clone()),
            ..c.entry.clone()
        })
        .collect();
    bls::sort(&mut order);
    for sorted in order {
        let at = candidates
            .iter()
            .position(|c| Some(&c.key) == sorted.architecture.as_ref());
        let Some(candidate) = at.map(|at| candidates.swap_remove(at)) else {
            continue;
        };
        match entry(volumes, candidate, found.architecture.pe_machine()) {
            Ok(entry) => found.entries.push(entry),
            Err(note) => found.notes.push(note),
        }
    }
    // `default` in loader.conf(5): the first entry that the pattern matches.
    let matches = |entry: &Entry| {
        let suffix = match entry.source {
            Source::Unified => ".efi",
            _ => ".conf",
        };
        pattern.is_some_and(|p| glob(p, &entry.id) || glob(p, &format!("{}{suffix}", entry.id)))
    };
    found.default = found.entries.iter().position(matches).unwrap_or(0);
}

fn entry(volumes: &mut [Volume], candidate: Candidate, machine: u16) -> Result<Entry, String> {
    let Candidate {
        mut entry,
        volume: number,
        place,
        mut source,
        ..
    } = candidate;
    let missing = |path: &str| format!("{place}: /{path} is not there");
    let Some(volume) = volumes.get_mut(number) else {
        return Err(missing(""));
    };
    let kernel = match (&entry.linux, &entry.efi) {
        (Some(linux), _) => linux.clone(),
        (None, Some(efi)) => {
            // A type #1 entry may start an EFI program; of those only unified
            // kernel images need no firmware.
            let image = unified(volume, efi, machine)
                .map_err(|error| format!("{place}: /{efi}: {error}"))?;
            source = Source::Unified;
            entry.options = entry.options.or(image.options);
            efi.clone()
        }
        (None, None) => return Err(missing("")),
    };
    let initrd: Vec<String> = plain_paths(&entry.initrd).map(str::to_owned).collect();
    for path in [&kernel].into_iter().chain(&initrd) {
        if volume.file_len(path).is_none() {
            return Err(missing(path));
        }
    }
    Ok(Entry {
        id: entry.id,
        title: entry.title,
        version: entry.version,
        source,
        place,
        kernel: join("/", &kernel),
        initrd: initrd.iter().map(|path| join("/", path)).collect(),
        command_line: entry.options.unwrap_or_default(),
        volume: number,
    })
}

/// `default` of `loader/loader.conf`, unless it means what was chosen last,
/// which firmware remembers and a disk does not.
fn default_pattern(volume: &mut Volume) -> Option<String> {
    let bytes = volume.read("/loader/loader.conf", bls::MAX_SIZE).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let value = text.lines().rev().find_map(|line| {
        let (key, value) = line.trim().split_once([' ', '\t'])?;
        (key == "default").then(|| value.trim().to_owned())
    })?;
    (!value.starts_with('@')).then_some(value)
}

/// Whether a shell pattern of `*`, `?` and `[…]` matches, whatever the case.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    // Where to go back to: behind the last star, and one character on.
    let (mut p, mut t, mut back) = (0, 0, None);
    while let Some(&c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('[') => {
                if let Some((true, len)) = class(pattern.get(p..).unwrap_or_default(), c) {
                    p += len;
                    t += 1;
                    continue;
                }
            }
            Some(&want) if want == '?' || want == c => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        match back {
            Some((star, from)) => {
                p = star;
                t = from + 1;
                back = Some((star, t));
            }
            None => return false,
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|&c| c == '*')
}

/// Whether the class that `pattern` starts with has `c` in it, and how long
/// the class is; none if it is not closed.
fn class(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = 1 + usize::from(negated);
    // A bracket right at the start stands for itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|&c| c == ']')?;
    let body = pattern.get(first..end)?;
    let mut inside = false;
    let mut at = 0;
    while let Some(&low) = body.get(at) {
        match (body.get(at + 1), body.get(at + 2)) {
            (Some('-'), Some(&high)) => {
                inside |= (low..=high).contains(&c);
                at += 3;
            }
            _ => {
                inside |= low == c;
                at += 1;
            }
        }
    }
    Some((inside != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("debian-*", "Debian-6.1", true),
            ("*6.?", "debian-6.1", true),
            ("*6.?", "debian-6.10", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("[0-9]*", "6.1", true),
            ("[!0-9]*", "6.1", false),
            ("[]x]", "]", true),
            ("[x", "[x", false),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expect, "{pattern} {text}");
        }
    }
}
