//! Small images that several tests build.

use super::tarball::Tarball;

/// The least that boots: kernel, initramfs, os-release and some directories.
pub fn base() -> Tarball {
    Tarball::new()
        .dir("./")
        .dir("usr")
        .dir("usr/lib")
        .dir("usr/lib/modules")
        .dir("usr/lib/modules/6.1.0-test")
        .file("usr/lib/modules/6.1.0-test/vmlinuz", vec![0x5a; 70_000])
        .file(
            "usr/lib/modules/6.1.0-test/initramfs.img",
            vec![0x11; 9_000],
        )
        .file("usr/lib/os-release", "ID=test\nPRETTY_NAME=\"Test 1\"\n")
        .dir("etc")
        .dir("proc")
        .dir("sys")
        .dir("dev")
}

/// A second layer: changes, a whiteout and some content.
pub fn application() -> Tarball {
    Tarball::new()
        .dir("srv")
        .file("srv/data", pseudo_random(300_000))
        .file("etc/motd", "hello\n")
        .file("usr/lib/.wh.os-release", "")
        .dir("etc")
        .file("etc/os-release", "ID=test\nVERSION_ID=2\n")
}

/// Bytes that do not compress and are always the same.
pub fn pseudo_random(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
