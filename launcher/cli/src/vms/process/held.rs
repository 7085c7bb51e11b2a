//! The host's memory that this process holds: the guest's, and its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes that are resident.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// In the guest's memory; none where that is another process's.
    pub guest: Option<u64>,
    /// In no file, apart from that.
    pub own: u64,
}

impl Held {
    /// Reads the file `smaps` of this process (proc_pid_smaps(5)).
    pub(super) fn read(smaps: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            match smaps.read_at(&mut part, bytes.len() as u64)? {
                0 => break,
                count => bytes.extend(part.get(..count).unwrap_or_default()),
            }
        }
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Each mapping's flags come last. The guest's memory is what is to come in
    /// huge pages (`hg`), or is of the host's reserve of them (`ht`).
    fn parse(smaps: &str) -> Self {
        let mut held = Self::default();
        let (mut resident, mut reserved, mut anonymous) = (0, 0, 0);
        for line in smaps.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let kib = || -> u64 {
                let number = value.trim().strip_suffix("kB").unwrap_or_default();
                number.trim().parse().unwrap_or(0)
            };
            match name {
                "Rss" => resident = kib() << 10,
                "Anonymous" => anonymous = kib() << 10,
                "Shared_Hugetlb" => reserved = kib() << 10,
                "Private_Hugetlb" => reserved += kib() << 10,
                "VmFlags" => {
                    let mut flags = value.split_whitespace();
                    match flags.any(|flag| matches!(flag, "hg" | "ht")) {
                        true => *held.guest.get_or_insert(0) += resident + reserved,
                        false => held.own += anonymous,
                    }
                }
                _ => {}
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(path: &str, resident: u64, anonymous: u64, reserved: u64, flags: &str) -> String {
        format!(
            "7f00:00-7f10:00 rw-p 00000000 00:00 0 {path}\n\
             Size:  64 kB\nRss:   {resident} kB\nAnonymous:   {anonymous} kB\n\
             Shared_Hugetlb:  0 kB\nPrivate_Hugetlb:   {reserved} kB\n\
             THPeligible:  0\nVmFlags: rd wr mr {flags} \n"
        )
    }

    #[test]
    fn the_guests_memory_is_told_from_the_rest() {
        let ours = mapping("/usr/bin/bootwright", 50, 3, 0, "me") + &mapping("", 4, 4, 0, "ac");
        let rest = Held {
            guest: None,
            own: 7 << 10,
        };
        assert_eq!(Held::parse(&ours), rest);
        let guest = mapping("", 2048, 2048, 0, "hg") + &mapping("", 4, 4, 0, "hg");
        let expect = Held {
            guest: Some(2052 << 10),
            ..rest
        };
        assert_eq!(Held::parse(&(ours.clone() + &guest)), expect);
        let reserved = mapping("/memfd:guest-memory (deleted)", 0, 0, 4096, "ht");
        let expect = Held {
            guest: Some(4096 << 10),
            ..rest
        };
        assert_eq!(Held::parse(&(reserved + &ours)), expect);
        assert_eq!(Held::parse("Rss: x\nVmFlags"), Held::default());
    }

    #[test]
    fn this_process_holds_something() {
        let smaps = File::open("/proc/self/smaps").unwrap();
        let held = Held::read(&smaps).unwrap();
        assert!(held.own > 4096 && held.own < 1 << 30, "{held:?}");
    }
}
