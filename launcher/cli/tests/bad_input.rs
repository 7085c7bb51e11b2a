//! Bad input gives one clear error, status 1, and nothing half-written.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::images::{application, base, pseudo_random};
use common::layout::{Compression, Layout};
use common::tarball::Tarball;
use common::{bootwright, command, fails, ok, root};
use tempfile::TempDir;

/// A folder with an image, a store and a place for the disk.
struct Case {
    work: TempDir,
}

impl Case {
    fn new() -> Self {
        Self {
            work: tempfile::tempdir().unwrap(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.at("image"))
    }

    fn reference(&self) -> String {
        format!("oci:{}:v1", self.at("image").display())
    }

    fn build(&self) -> Command {
        self.build_with("none")
    }

    fn build_with(&self, boot: &str) -> Command {
        fs::create_dir_all(self.at("out")).unwrap();
        let mut program = bootwright(&self.at("store"));
        program.args(["build", &self.reference(), "--boot", boot, "-o"]);
        program.arg(self.at("out/disk.raw"));
        program
    }

    /// The build must fail, say all of `words`, and leave no file behind.
    fn fails_with(&self, program: &mut Command, words: &[&str]) -> String {
        let said = fails(program);
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert_eq!(said.matches("bootwright: ").count(), 1, "one error: {said}");
        self.nothing_left();
        said
    }

    fn nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.at("out")).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let temporary = ok(command(&["find"])
            .arg(self.at("store"))
            .args(["-name", "*tmp*", "-type", "f"]));
        assert_eq!(temporary, "", "left in the store");
    }
}

/// An image whose second layer is `tar`; building it must fail.
fn bad_layer(tar: Vec<u8>, words: &[&str]) {
    let case = Case::new();
    case.layout()
        .layer(&base().finish(), Compression::Gzip)
        .layer(&tar, Compression::None)
        .tag("v1");
    case.fails_with(&mut case.build(), words);
}

#[test]
fn bad_entries_are_refused_by_name() {
    bad_layer(
        Tarball::new().file("a/../../b", "x").finish(),
        &["a/../../b", ".."],
    );
    bad_layer(
        Tarball::new()
            .pax("path", "n".repeat(256))
            .file("x", "")
            .finish(),
        &["255"],
    );
    bad_layer(
        Tarball::new().hardlink("name", "not/there").finish(),
        &["name", "not/there"],
    );
    bad_layer(
        Tarball::new().hardlink("name", "etc").finish(),
        &["name", "etc"],
    );
    bad_layer(
        Tarball::new()
            .pax("uid", "4294967296")
            .file("x", "")
            .finish(),
        &["\"x\"", "owner", "32 bits"],
    );
}

#[test]
fn loops_of_symbolic_links_end_with_an_error() {
    let loops = ["too many levels of symbolic links"];
    bad_layer(
        Tarball::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", "")
            .finish(),
        &["/a/x", loops[0]],
    );
    for path in [
        "usr/lib/modules",
        "usr/lib/modules/6.1.0-test/vmlinuz",
        "usr/lib/os-release",
    ] {
        let target = path.rsplit('/').next().unwrap();
        bad_layer(
            Tarball::new().symlink(path, target).finish(),
            &[path, loops[0]],
        );
    }
    let case = Case::new();
    let tar = base().symlink("etc/a", "b").symlink("etc/b", "a").finish();
    case.layout().layer(&tar, Compression::None).tag("v1");
    let mut program = case.build();
    program.args(["--file", "/etc/hostname:/etc/a/x"]);
    case.fails_with(&mut program, &["/etc/a", loops[0]]);
}

#[test]
fn unknown_media_types_are_named() {
    for (from, to, words) in [
        (
            "image.layer.v1.tar+gzip",
            "image.layer.v9.tar+gzip",
            &["layer 1", "image.layer.v9"][..],
        ),
        (
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.acme.thing",
            &["application/vnd.acme.thing", "expected an OCI"],
        ),
        (
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.acme.config",
            &["artifact", "application/vnd.acme.config"],
        ),
    ] {
        let case = Case::new();
        let layout = case.layout().layer(&base().finish(), Compression::Gzip);
        layout.tag("v1");
        layout.edit_manifest(from, to);
        case.fails_with(&mut case.build(), words);
    }
}

#[test]
fn damage_that_the_digests_know_nothing_of_is_found() {
    let tar = base().file("data", pseudo_random(100_000)).finish();
    let case = Case::new();
    case.layout().layer(&tar, Compression::Gzip).tag("v1");
    for (keep, word) in [(1000, "incomplete"), (usize::MAX, "")] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let mut blob = gzip.finish().unwrap();
        let len = blob.len();
        blob.truncate(keep);
        if keep > len {
            // The checksum of what was compressed (RFC 1952, 2.3.1).
            blob[len - 8] ^= 1;
        }
        case.layout().blob_layer(&blob, &tar).tag("v1");
        case.fails_with(&mut case.build(), &["cannot be decompressed", word]);
    }
    case.layout()
        .layer(&pseudo_random(5_000), Compression::None)
        .tag("v1");
    case.fails_with(&mut case.build(), &["bad tar header at byte 0"]);
}

#[test]
fn archives_cut_short_are_refused() {
    for (transport, name) in [("oci-archive", ":v1"), ("docker-archive", ":test:v1")] {
        let case = Case::new();
        let tar = base().file("data", pseudo_random(100_000)).finish();
        case.layout().layer(&tar, Compression::Gzip).tag("v1");
        let archive = case.at("archive.tar");
        let to = format!("{transport}:{}{name}", archive.display());
        ok(&mut command(&[
            "skopeo",
            "copy",
            "--insecure-policy",
            "-q",
            &case.reference(),
            &to,
        ]));
        let whole = fs::read(&archive).unwrap();
        for len in [0, 300, 512, 700, whole.len() / 2, whole.len() - 12_000] {
            fs::write(&archive, &whole[..len]).unwrap();
            fs::create_dir_all(case.at("out")).unwrap();
            fs::create_dir_all(case.at("store")).unwrap();
            let mut program = bootwright(&case.at("store"));
            program.args(["build", &to, "--boot", "none", "-o"]);
            program.arg(case.at("out/disk.raw"));
            case.fails_with(&mut program, &["archive.tar"]);
        }
    }
}

#[test]
fn of_several_kernels_the_newest_is_taken_and_said() {
    let case = Case::new();
    let tar = base()
        .dir("usr/lib/modules/6.12.3")
        .file("usr/lib/modules/6.12.3/vmlinuz", "k")
        .dir("usr/lib/modules/6.9.1")
        .file("usr/lib/modules/6.9.1/vmlinuz", "k")
        .finish();
    case.layout().layer(&tar, Compression::None).tag("v1");
    let output = common::run(&mut case.build());
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("several kernels; 6.12.3 is booted, passed over: 6.9.1, 6.1.0-test"),
        "{said}"
    );
}

#[test]
fn a_truncated_tar_is_refused() {
    let whole = Tarball::new().file("data", pseudo_random(100_000)).finish();
    bad_layer(whole[..50_000].to_vec(), &["sha256:", "data"]);
}

#[test]
fn a_blob_with_other_bytes_is_refused_by_digest() {
    let case = Case::new();
    let layout = case
        .layout()
        .layer(&base().finish(), Compression::Gzip)
        .layer(&application().finish(), Compression::Gzip);
    layout.tag("v1");
    let digest = layout.layer_digest(1);
    let path = layout.blob_path(&digest);
    let good = fs::read(&path).unwrap();

    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&path, &flipped).unwrap();
    case.fails_with(&mut case.build(), &[&digest]);

    fs::write(&path, &good[..good.len() - 10]).unwrap();
    case.fails_with(&mut case.build(), &[&digest]);

    fs::remove_file(&path).unwrap();
    case.fails_with(&mut case.build(), &[&digest[7..]]);
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let case = Case::new();
    let layout = case.layout().layer(&base().finish(), Compression::Gzip);
    layout.tag("v1");
    // The same config, but with the diff id of something else.
    let wrong = common::layout::sha256(b"something else");
    let right = common::layout::sha256(&base().finish());
    let index = fs::read_to_string(layout.dir.join("index.json")).unwrap();
    let edit = |text: &str, from: &str, to: &str| text.replace(from, to);
    let manifest_digest = serde_json::from_str::<serde_json::Value>(&index).unwrap()["manifests"]
        [0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let manifest = fs::read_to_string(layout.blob_path(&manifest_digest)).unwrap();
    let config_digest =
        serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["config"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
    let config = fs::read_to_string(layout.blob_path(&config_digest)).unwrap();
    let config = edit(&config, &right, &wrong);
    let new_config = common::layout::sha256(config.as_bytes());
    fs::write(layout.blob_path(&new_config), &config).unwrap();
    let manifest = edit(&manifest, &config_digest, &new_config);
    let new_manifest = common::layout::sha256(manifest.as_bytes());
    fs::write(layout.blob_path(&new_manifest), &manifest).unwrap();
    let index = edit(&index, &manifest_digest, &new_manifest);
    fs::write(layout.dir.join("index.json"), index).unwrap();
    case.fails_with(&mut case.build(), &[&wrong, &right]);
}

#[test]
fn an_image_without_a_kernel_says_where_it_looked() {
    let case = Case::new();
    case.layout()
        .layer(
            &Tarball::new().dir("usr").file("usr/x", "").finish(),
            Compression::None,
        )
        .tag("v1");
    case.fails_with(&mut case.build(), &["kernel", "/usr/lib/modules", "/boot"]);
}

#[test]
fn a_missing_platform_lists_the_ones_there_are() {
    let case = Case::new();
    case.layout()
        .architecture("s390x")
        .layer(&base().finish(), Compression::None)
        .tag("v1");
    let mut program = case.build();
    program.args(["--platform", "linux/arm64"]);
    case.fails_with(&mut program, &["linux/arm64", "linux/s390x"]);
    // Nobody boots such a machine's disk; said before anything is read.
    let mut program = case.build();
    program.args(["--platform", "linux/s390x"]);
    case.fails_with(&mut program, &["s390x", "amd64", "arm64"]);
}

#[test]
fn the_platforms_of_an_index_are_all_listed() {
    let case = Case::new();
    let layout = case.layout().layer(&base().finish(), Compression::None);
    layout.tag_index("v1", &["arm64", "riscv64"]);
    let mut program = case.build();
    program.args(["--platform", "linux/amd64"]);
    case.fails_with(&mut program, &["linux/amd64", "linux/arm64, linux/riscv64"]);
    let mut program = case.build();
    ok(program.args(["--platform", "linux/riscv64"]));
}

#[test]
fn a_size_too_small_says_the_size_needed() {
    let case = Case::new();
    case.layout()
        .layer(
            &base().file("big", pseudo_random(8 << 20)).finish(),
            Compression::None,
        )
        .tag("v1");
    // The first is too small for the boot partition alone.
    let needed = |size: &str| {
        let mut program = case.build_with("bls");
        program.args(["--size", size]);
        let said = case.fails_with(&mut program, &["--size", "MiB"]);
        let number = said.split("at least ").nth(1).unwrap();
        number.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let bytes = needed("8M");
    assert_eq!(bytes, needed("514M"));
    assert_eq!(bytes, needed(&(bytes - (1 << 20)).to_string()));
    let mut program = case.build_with("bls");
    ok(program.args(["--size", &bytes.to_string()]));
}

#[test]
fn limits_stop_what_has_no_end() {
    let case = Case::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let head = Tarball::new()
        .entry(tar::EntryType::Regular, "zeros", &[], "")
        .finish();
    gzip.write_all(&head[..512]).unwrap();
    for _ in 0..256 {
        gzip.write_all(&[0u8; 1 << 20]).unwrap();
    }
    drop(gzip);
    let many: Vec<u8> = (0..2_000)
        .fold(base(), |t, n| t.file(&format!("f{n}"), ""))
        .file("large", vec![0; 40 << 20])
        .finish();
    case.layout().layer(&many, Compression::Gzip).tag("v1");
    let mut program = case.build();
    program.args(["--max-entries", "1000"]);
    case.fails_with(&mut program, &["--max-entries", "1000"]);
    let mut program = case.build();
    program.args(["--max-layer-size", "16M"]);
    case.fails_with(&mut program, &["--max-layer-size"]);
}

#[test]
fn an_existing_output_is_kept_without_force() {
    let case = Case::new();
    case.layout()
        .layer(&base().finish(), Compression::None)
        .tag("v1");
    let mut program = case.build();
    fs::write(case.at("out/disk.raw"), "precious").unwrap();
    let said = fails(&mut program);
    assert!(said.contains("--force"), "{said}");
    assert_eq!(fs::read(case.at("out/disk.raw")).unwrap(), b"precious");
    ok(case.build().arg("--force"));
    assert!(fs::metadata(case.at("out/disk.raw")).unwrap().len() > 1 << 20);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    if !root() {
        eprintln!("not root: cannot mount a small file system");
        return;
    }
    let case = Case::new();
    case.layout()
        .layer(
            &base().file("big", pseudo_random(8 << 20)).finish(),
            Compression::None,
        )
        .tag("v1");
    fs::create_dir_all(case.at("out")).unwrap();
    ok(command(&["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs"]).arg(case.at("out")));
    let said = std::panic::catch_unwind(|| {
        case.fails_with(&mut case.build(), &["disk.raw", "space"]);
    });
    ok(command(&["umount"]).arg(case.at("out")));
    if let Err(panic) = said {
        std::panic::resume_unwind(panic);
    }
    // The store itself on a full disk.
    fs::create_dir_all(case.at("small")).unwrap();
    ok(command(&["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs"]).arg(case.at("small")));
    let said = std::panic::catch_unwind(|| {
        let mut program = case.build();
        program.arg("--store").arg(case.at("small"));
        case.fails_with(&mut program, &["space"]);
    });
    ok(command(&["umount"]).arg(case.at("small")));
    if let Err(panic) = said {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_file_that_may_not_become_so_long_is_no_full_disk() {
    let case = Case::new();
    case.layout()
        .layer(&base().finish(), Compression::None)
        .tag("v1");
    let build = case.build();
    // In blocks of 512 bytes, of which every file of the store needs fewer.
    let mut program = command(&[
        "sh",
        "-c",
        "ulimit -f 2000; trap '' XFSZ; exec \"$@\"",
        "sh",
    ]);
    program.arg(build.get_program()).args(build.get_args());
    for (name, value) in build.get_envs() {
        program.env(name, value.unwrap_or_default());
    }
    case.fails_with(&mut program, &["disk.raw", "ulimit"]);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let case = Case::new();
    case.layout()
        .layer(&base().finish(), Compression::None)
        .tag("v1");
    ok(&mut case.build());
    fs::remove_file(case.at("out/disk.raw")).unwrap();
    let version = case.at("store/version");
    assert!(version.exists(), "the store says its version in a file");
    let text = fs::read_to_string(&version).unwrap();
    let (name, _) = text.trim().rsplit_once(' ').unwrap();
    fs::write(&version, format!("{name} 999\n")).unwrap();
    case.fails_with(&mut case.build(), &["newer", "999"]);
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let case = Case::new();
    let layer = base().file("big", pseudo_random(300 << 20)).finish();
    case.layout().layer(&layer, Compression::None).tag("v1");
    for milliseconds in [30, 150, 400, 800] {
        fs::create_dir_all(case.at("out")).unwrap();
        let mut child = case
            .build()
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        ok(command(&["sh", "-c", "kill -INT $0 2>/dev/null || true"]).arg(child.id().to_string()));
        let status = child.wait().unwrap();
        if status.success() {
            fs::remove_file(case.at("out/disk.raw")).unwrap();
        } else {
            assert_eq!(status.code(), Some(130), "after {milliseconds} ms");
        }
        case.nothing_left();
    }
    ok(&mut case.build());
}

#[test]
fn an_interrupt_ends_a_check_of_the_store() {
    let case = Case::new();
    let data = pseudo_random(10 << 20);
    let mut layout = case.layout();
    for n in 0..40 {
        let tar = base().file(&format!("file-{n}"), &data).finish();
        layout = layout.layer(&tar, Compression::None);
    }
    layout.tag("v1");
    ok(&mut case.build());
    // Too early, and nobody listens; too late, and it is done.
    let interrupted = |milliseconds| {
        let mut program = bootwright(&case.at("store"));
        program.args(["cache", "verify"]);
        let mut child = program.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        ok(command(&["sh", "-c", "kill -INT $0 2>/dev/null || true"]).arg(child.id().to_string()));
        child.wait().unwrap().code() == Some(130)
    };
    assert!([20, 40, 80, 160, 320].into_iter().any(interrupted));
    // Nothing of it was taken for damage.
    let said = ok(bootwright(&case.at("store")).args(["cache", "ls", "--quiet"]));
    assert_eq!(said.lines().count(), 40);
}

#[test]
fn what_a_format_cannot_do_is_said_before_the_work() {
    let case = Case::new();
    for (arguments, words) in [
        (
            &["--format", "vhd", "--compress", "zlib"][..],
            &["vhd has no compression"][..],
        ),
        (
            &["--format", "raw", "--compress", "zstd"],
            &["raw has no compression"],
        ),
        (
            &["--format", "vmdk", "--compress", "none"],
            &["always", "zlib"],
        ),
        (
            &["--format", "gce", "--compress", "zstd"],
            &["always", "zlib"],
        ),
        (
            &["--format", "gce", "--size", "2500M"],
            &["multiple of 1.0 GiB", "3.0 GiB"],
        ),
    ] {
        // There is no image, and nobody looks for one.
        let said = fails(case.build().args(arguments));
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
    let output = common::run(case.build().args(["--format", "ova"]));
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("vhd-fixed") && said.contains("gce"), "{said}");
}

#[test]
fn references_that_mean_nothing_are_refused() {
    let store = tempfile::tempdir().unwrap();
    for (reference, word) in [
        ("oci:/nonexistent:v1", "/nonexistent"),
        ("oci-archive:/nonexistent.tar", "/nonexistent.tar"),
        ("docker-archive:/nonexistent.tar", "/nonexistent.tar"),
        ("dir:/nonexistent", "/nonexistent"),
        ("ftp://host/x", "ftp"),
        ("UPPER/case", "UPPER"),
        ("127.0.0.1:1/nobody/listens:v1", "127.0.0.1:1"),
    ] {
        let said = fails(
            bootwright(store.path())
                .args(["build", reference, "--retries", "0", "-o"])
                .arg(store.path().join("disk.raw")),
        );
        assert!(said.contains(word), "{reference}: {said}");
        assert!(!Path::new(&store.path().join("disk.raw")).exists());
    }
}
