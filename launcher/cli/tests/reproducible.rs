//! The same image and options give the same bytes, whoever builds, where,
//! when, in which order and from which source.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../builder/image/tests/common/mod.rs"]
mod servers;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::images::{application, base};
use common::layout::{Compression, Layout, sha256};
use common::{bootwright, command, ok, root};
use servers::registry::{Registry, Setup};

fn image(dir: &Path, compression: Compression) -> Layout {
    let layout = Layout::new(dir)
        .layer(&base().finish(), compression)
        .layer(&application().finish(), compression);
    layout.tag("v1");
    layout
}

const OPTIONS: [&str; 10] = [
    "--boot",
    "none",
    "--hostname",
    "box",
    "--user",
    "ann:1500",
    "--karg",
    "quiet",
    "--free",
    "16M",
];

/// Builds and gives the digest of the disk.
fn build(command: Command, image: &str, out: &Path) -> String {
    build_only(command, image, out);
    sha256(&fs::read(out).unwrap())
}

/// Builds where the disk may have another name out here.
fn build_only(mut command: Command, image: &str, out: &Path) {
    ok(command
        .args(["build", image, "--force"])
        .args(OPTIONS)
        .arg("-o")
        .arg(out));
}

#[test]
fn the_environment_leaves_no_trace() {
    let work = tempfile::tempdir().unwrap();
    let layout = image(&work.path().join("image"), Compression::Gzip);
    let reference = format!("oci:{}:v1", layout.dir.display());
    let out = work.path().join("disk.raw");
    let store = work.path().join("store");
    let cold = build(bootwright(&store), &reference, &out);
    let warm = build(bootwright(&store), &reference, &out);
    assert_eq!(cold, warm, "cold and warm store");

    let mut other = bootwright(&work.path().join("store2"));
    other
        .env("TZ", "Pacific/Kiritimati")
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("HOME", "/nonexistent")
        .env("RAYON_NUM_THREADS", "1")
        .env("TOKIO_WORKER_THREADS", "1")
        .current_dir("/");
    assert_eq!(
        cold,
        build(other, &reference, &out),
        "time zone, locale, folder, threads"
    );

    // Another day, also for the image's own files.
    for path in [&layout.dir.join("index.json"), &layout.dir] {
        ok(command(&["touch", "-d", "2001-02-03"]).arg(path));
    }
    let mut faked = command(&["faketime", "-f", "2011-11-11 11:11:11"]);
    faked
        .env("BOOTWRIGHT_STORE", work.path().join("store4"))
        .arg(env!("CARGO_BIN_EXE_bootwright"));
    assert_eq!(cold, build(faked, &reference, &out), "clock");

    let mut masked = Command::new("sh");
    masked
        .env("BOOTWRIGHT_STORE", work.path().join("store3"))
        .args(["-c", "umask 077; exec \"$0\" \"$@\" --parallel 1"])
        .arg(env!("CARGO_BIN_EXE_bootwright"));
    assert_eq!(
        cold,
        build(masked, &reference, &out),
        "umask, one layer at a time"
    );
}

#[test]
fn all_sources_of_an_image_give_the_same_disk() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let out = at("disk.raw");
    let layout = image(&at("gzip"), Compression::Gzip);
    let gzip = format!("oci:{}:v1", layout.dir.display());
    let want = build(bootwright(&at("s0")), &gzip, &out);

    for (name, compression) in [("zstd", Compression::Zstd), ("plain", Compression::None)] {
        let layout = image(&at(name), compression);
        let reference = format!("oci:{}:v1", layout.dir.display());
        let store = at(&format!("store-{name}"));
        assert_eq!(
            want,
            build(bootwright(&store), &reference, &out),
            "{name} layers"
        );
    }
    for (transport, file) in [
        ("oci-archive", "a.tar:v1"),
        ("docker-archive", "d.tar:test:v1"),
    ] {
        let reference = format!("{transport}:{}", at(file).display());
        ok(&mut command(&[
            "skopeo",
            "copy",
            "--insecure-policy",
            "-q",
            &gzip,
            &reference,
        ]));
        let store = at(&format!("store-{transport}"));
        assert_eq!(
            want,
            build(bootwright(&store), &reference, &out),
            "{transport}"
        );
    }
    let registry = Registry::start(&Setup::default());
    for (name, format) in [("oci", "oci"), ("docker", "v2s2")] {
        let reference = format!("docker://{}/{name}:v1", registry.host());
        ok(&mut command(&[
            "skopeo",
            "copy",
            "--insecure-policy",
            "-q",
            "--dest-tls-verify=false",
            "--format",
            format,
            &gzip,
            &reference,
        ]));
        let mut program = Command::new("sh");
        program
            .args(["-c", "exec \"$0\" \"$@\" --tls-verify=false"])
            .arg(env!("CARGO_BIN_EXE_bootwright"))
            .env("BOOTWRIGHT_STORE", at(&format!("store-{name}")));
        assert_eq!(want, build(program, &reference, &out), "registry, {format}");
    }
}

#[test]
fn qcow2_and_standard_output_hold_the_same_disk() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let layout = image(&at("image"), Compression::Gzip);
    let reference = format!("oci:{}:v1", layout.dir.display());
    let store = at("store");
    let raw = at("disk.raw");
    let want = build(bootwright(&store), &reference, &raw);
    for (name, extra) in [("plain.qcow2", None), ("zstd.qcow2", Some("zstd"))] {
        let mut program = bootwright(&store);
        program
            .args(["build", &reference])
            .args(OPTIONS)
            .arg("-o")
            .arg(at(name));
        if let Some(kind) = extra {
            program.args(["--compress", kind]);
        }
        ok(&mut program);
        ok(command(&["qemu-img", "check", "-q"]).arg(at(name)));
        ok(command(&["qemu-img", "compare"]).arg(at(name)).arg(&raw));
    }
    let output = common::run(
        bootwright(&store)
            .args(["build", &reference, "-o", "-", "-q"])
            .args(OPTIONS),
    );
    assert!(output.status.success());
    assert_eq!(want, sha256(&output.stdout), "standard output");
}

#[test]
fn every_format_holds_the_same_disk() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let layout = image(&at("image"), Compression::Gzip);
    let reference = format!("oci:{}:v1", layout.dir.display());
    let store = at("store");
    let raw = at("disk.raw");
    build(bootwright(&store), &reference, &raw);
    for (name, arguments, kind) in [
        ("disk.vmdk", &[][..], "vmdk"),
        ("zlib.vmdk", &["--compress", "zlib"], "vmdk"),
        ("disk.vhd", &[], "vpc"),
        ("alias", &["--format", "vpc"], "vpc"),
        ("azure.vhd", &["--format", "vhd-fixed"], "vpc"),
        ("disk.vhdx", &[], "vhdx"),
    ] {
        let mut program = bootwright(&store);
        program.args(["build", &reference]).args(OPTIONS);
        ok(program.args(arguments).arg("-o").arg(at(name)));
        ok(command(&["qemu-img", "compare", "-f", kind, "-F", "raw"])
            .arg(at(name))
            .arg(&raw));
    }
    let same = |a: &str, b: &str| assert_eq!(fs::read(at(a)).unwrap(), fs::read(at(b)).unwrap());
    same("disk.vmdk", "zlib.vmdk");
    same("disk.vhd", "alias");

    // Whole GiB: the disk that `--size` makes.
    let mut program = bootwright(&store);
    program.args(["build", &reference]).args(OPTIONS);
    ok(program.arg("-o").arg(at("disk.tar.gz")));
    ok(command(&["tar", "-xzf"])
        .arg(at("disk.tar.gz"))
        .arg("-C")
        .arg(work.path()));
    let mut program = bootwright(&store);
    program.args(["build", &reference, "--size", "1G"]);
    program.args(OPTIONS.iter().filter(|o| !["--free", "16M"].contains(o)));
    ok(program.arg("-o").arg(at("whole.raw")));
    ok(command(&["qemu-img", "compare", "-f", "raw", "-F", "raw"])
        .arg(at("whole.raw"))
        .arg(&raw));
}

/// Copies `from` and all below it so that anybody can read it.
fn publish(from: &Path, to: &Path) {
    ok(command(&["cp", "-r"]).arg(from).arg(to));
    ok(command(&["chmod", "-R", "a+rX"]).arg(to));
}

#[test]
fn an_ordinary_user_without_capabilities_builds_the_same_disk() {
    if !root() {
        eprintln!("not root: the other tests here ran as an ordinary user already");
        return;
    }
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| -> PathBuf { work.path().join(name) };
    let layout = image(&at("private"), Compression::Gzip);
    publish(&layout.dir, &at("image"));
    let program = at("bootwright");
    fs::copy(env!("CARGO_BIN_EXE_bootwright"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let home = at("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(4321), Some(4321)).unwrap();

    let reference = format!("oci:{}:v1", at("image").display());
    let want = build(bootwright(&at("store")), &reference, &at("disk.raw"));
    let mut plain = command(&[
        "setpriv",
        "--reuid=4321",
        "--regid=4321",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ]);
    plain.arg(&program).env_clear().env("HOME", &home);
    assert_eq!(
        want,
        build(plain, &reference, &home.join("disk.raw")),
        "ordinary user"
    );

    // The same in a container that this user starts: a root of its own with
    // nothing in it but libraries, all namespaces new, no /proc, no /etc.
    let mut contained = command(&[
        "setpriv",
        "--reuid=4321",
        "--regid=4321",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "bwrap",
        "--unshare-all",
        "--cap-drop",
        "ALL",
        "--die-with-parent",
        "--clearenv",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
    ]);
    for (option, from, to) in [
        ("--ro-bind", &program, "/bootwright"),
        ("--ro-bind", &at("image"), "/image"),
        ("--bind", &home, "/home"),
    ] {
        contained.arg(option).arg(from).arg(to);
    }
    contained.args(["--setenv", "HOME", "/home", "/bootwright"]);
    build_only(contained, "oci:/image:v1", Path::new("/home/contained.raw"));
    let disk = fs::read(home.join("contained.raw")).unwrap();
    assert_eq!(want, sha256(&disk), "container");
}
