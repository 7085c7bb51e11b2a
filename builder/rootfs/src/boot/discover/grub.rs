//! GRUB's configuration on a disk.

use super::volume::Volume;
use super::{Entry, Found, Source, join, loader};
use crate::boot::grub_cfg::{self, Files, Item};

/// Where configurations are: on a boot partition, in a root file system, and
/// on an EFI system partition where a vendor's GRUB has its own.
const PLACES: [&str; 4] = ["/grub", "/grub2", "/boot/grub", "/boot/grub2"];

/// Looks for a configuration with a kernel that exists. The first wins.
pub(super) fn find(volumes: &mut [Volume], found: &mut Found) {
    for number in 0..volumes.len() {
        let mut places: Vec<String> = PLACES.iter().map(|place| (*place).to_owned()).collect();
        if let Some(volume) = volumes.get(number).filter(|v| v.is_fat()) {
            let vendors = volume.names("/EFI");
            places.extend(vendors.iter().map(|vendor| join("/EFI", vendor)));
        }
        for directory in places {
            run(volumes, number, &directory, found);
            if !found.entries.is_empty() {
                return;
            }
        }
    }
}

fn run(volumes: &mut [Volume], number: usize, directory: &str, found: &mut Found) {
    let Some(volume) = volumes.get_mut(number) else {
        return;
    };
    let path = join(directory, "grub.cfg");
    let place = format!("{}, {path}", volume.partition.name);
    if volume.file_len(&path).is_none() {
        return;
    }
    let menu = volume
        .read(&path, grub_cfg::MAX_SIZE)
        .map_err(|e| e.to_string())
        .and_then(|text| {
            let mut files = OnVolume { volume, directory };
            grub_cfg::menu(&text, directory, &mut files).map_err(|e| e.to_string())
        });
    let menu = match menu {
        Ok(menu) => menu,
        Err(error) => return found.notes.push(format!("{place}: {error}")),
    };
    for (n, item) in menu.items.into_iter().enumerate() {
        match entry(volumes, number, &place, item) {
            Ok(entry) => {
                if n == menu.default {
                    found.default = found.entries.len();
                }
                found.entries.push(entry);
            }
            Err(note) => found.notes.push(note),
        }
    }
}

/// Finds the volume that a menu entry's files are on: that of the
/// configuration, or else, because `search` is not followed, any other that
/// has them all.
fn entry(volumes: &[Volume], home: usize, place: &str, item: Item) -> Result<Entry, String> {
    let has_all = |n: &usize| {
        let Some(volume) = volumes.get(*n) else {
            return false;
        };
        let mut paths = [&item.linux].into_iter().chain(&item.initrd);
        paths.all(|path| volume.file_len(path).is_some())
    };
    let volume = [home].into_iter().chain(0..volumes.len()).find(has_all);
    let Some(volume) = volume else {
        return Err(format!(
            "{place}: {:?} needs {} which is not there",
            item.title,
            [std::slice::from_ref(&item.linux), &item.initrd]
                .concat()
                .join(", ")
        ));
    };
    Ok(Entry {
        id: item.id,
        title: Some(item.title),
        version: None,
        source: Source::Grub,
        place: place.to_owned(),
        kernel: item.linux,
        initrd: item.initrd,
        command_line: item.arguments,
        volume,
    })
}

struct OnVolume<'a> {
    volume: &'a mut Volume,
    directory: &'a str,
}

impl Files for OnVolume<'_> {
    fn read(&mut self, path: &str, limit: u64) -> Option<Vec<u8>> {
        self.volume.read(path, limit).ok()
    }

    fn loader_entries(&mut self) -> Vec<Item> {
        // blscfg looks into /loader/entries of the boot file system, which is
        // the directory above GRUB's own.
        let (boot, _) = self.directory.rsplit_once('/').unwrap_or_default();
        loader::for_grub(self.volume, if boot.is_empty() { "/" } else { boot })
    }
}
