//! GRUB's configuration: the script up to the first NUL, then a file that it
//! may take in.
#![no_main]

use bootwright_rootfs::boot::grub_cfg::{self, Files, Item};
use libfuzzer_sys::fuzz_target;

struct One<'a>(&'a [u8]);

impl Files for One<'_> {
    fn read(&mut self, _: &str, limit: u64) -> Option<Vec<u8>> {
        (self.0.len() as u64 <= limit).then(|| self.0.to_vec())
    }

    fn loader_entries(&mut self) -> Vec<Item> {
        vec![Item {
            linux: "/k".into(),
            arguments: "$a ${b} $".into(),
            ..Item::default()
        }]
    }
}

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&b| b == 0).unwrap_or(input.len());
    let (script, file) = input.split_at(end);
    if let Ok(menu) = grub_cfg::menu(
        script,
        "/boot/grub",
        &mut One(file.get(1..).unwrap_or_default()),
    ) {
        assert!(menu.items.is_empty() || menu.default < menu.items.len());
    }
});
