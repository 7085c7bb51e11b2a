//! Disks pushed to a layout and to a real registry are what `build` writes,
//! and of what is there already nothing is sent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../../builder/image/tests/common/mod.rs"]
mod servers;

use std::fs;
use std::path::Path;
use std::process::Command;

use bootwright_delivery::layout::Layout as Pushed;
use bootwright_delivery::lazy::{CACHE, LazyDisk};
use bootwright_delivery::metadata::Metadata;
use bootwright_disk::ReadAt;
use common::images::{application, base};
use common::layout::{Compression, Layout};
use common::{bootwright, command, fails, ok};
use serde_json::Value;
use servers::registry::{Registry, Setup};

/// An image of two layers in a layout: `oci:…`.
fn image(dir: &Path) -> String {
    Layout::new(&dir.join("image"))
        .layer(&base().finish(), Compression::Gzip)
        .layer(&application().finish(), Compression::None)
        .tag("v1");
    format!("oci:{}:v1", dir.join("image").display())
}

/// The same with another application.
fn sibling(dir: &Path) -> String {
    let other = application().file("srv/other", vec![0x77; 50_000]);
    Layout::new(&dir.join("sibling"))
        .layer(&base().finish(), Compression::Gzip)
        .layer(&other.finish(), Compression::None)
        .tag("v1");
    format!("oci:{}:v1", dir.join("sibling").display())
}

fn push(store: &Path, from: &str, to: &str, options: &[&str]) -> Value {
    let mut push = bootwright(store);
    push.args(["push", from, to, "--json", "--tls-verify=false"])
        .args(options);
    serde_json::from_str(&ok(&mut push)).unwrap()
}

fn build(store: &Path, from: &str, to: &Path, options: &[&str]) -> Vec<u8> {
    let mut build = bootwright(store);
    build.args(["build", from, "-o"]).arg(to).args(options);
    ok(&mut build);
    fs::read(to).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> std::path::PathBuf {
    let name = digest.as_str().unwrap().replace(':', "/");
    layout.join("blobs").join(name)
}

/// The manifest that the layout's only entry leads to.
fn manifest(layout: &Path) -> Value {
    let index = json(&layout.join("index.json"));
    json(&blob(layout, &index["manifests"][0]["digest"]))
}

/// The disk in a layout, read part by part as a lazy reader does.
fn disk_in(layout: &Path) -> Vec<u8> {
    let manifest = manifest(layout);
    let top = manifest["layers"].as_array().unwrap().last().unwrap();
    assert_eq!(top["annotations"]["dev.bootwright.disk.layer"], "metadata");
    let tar = zstd::decode_all(fs::File::open(blob(layout, &top["digest"])).unwrap()).unwrap();
    let metadata = Metadata::read(&mut &tar[..]).unwrap();
    let disk = LazyDisk::new(metadata, Pushed::create(layout, None).unwrap(), CACHE).unwrap();
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_disk_image_is_the_disk_that_build_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, layout) = (dir.path().join("store"), dir.path().join("pushed"));
    let key = dir.path().join("key.pub");
    fs::write(
        &key,
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFmAUlFgNKlLQaZqYyLI8wB5BnVm1Nwr1y8YRaGgWqSR me\n",
    )
    .unwrap();
    let added = dir.path().join("added");
    fs::write(&added, vec![0x42; 10_000]).unwrap();
    let file = format!("{}:/srv/added", added.display());
    let options = [
        "--free",
        "8M",
        "--esp-size",
        "40M",
        "--karg",
        "quiet",
        "--ssh-key",
        key.to_str().unwrap(),
        "--file",
        &file,
    ];
    let image = image(dir.path());
    let built = build(&store, &image, &dir.path().join("disk.raw"), &options);
    let to = format!("oci:{}:web", layout.display());
    let digest_file = dir.path().join("digest");
    let mut all = options.to_vec();
    all.extend(["--digest-file", digest_file.to_str().unwrap()]);
    let report = push(&store, &image, &to, &all);
    assert!(disk_in(&layout) == built, "another disk");
    assert_eq!(
        fs::read_to_string(&digest_file).unwrap(),
        report["digest"].as_str().unwrap()
    );
    let annotations = &manifest(&layout)["annotations"];
    for (name, value) in [
        ("org.opencontainers.image.base.name", image.as_str()),
        ("dev.bootwright.option.karg", "quiet"),
        ("dev.bootwright.option.file", "/srv/added"),
        ("dev.bootwright.option.esp-size", "41943040"),
        ("dev.bootwright.disk.version", "1"),
    ] {
        assert_eq!(annotations[name], value, "{name} in {annotations:#}");
    }
    let inspected = ok(&mut command(&["skopeo", "inspect", &to]));
    assert!(inspected.contains("dev.bootwright.disk.version"));
}

#[test]
fn the_same_push_gives_the_same_bytes_from_any_store() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let mut digests = Vec::new();
    for name in ["a", "b"] {
        let to = format!("oci:{}:web", dir.path().join(name).display());
        let store = dir.path().join(format!("{name}-store"));
        let report = push(&store, &image, &to, &["--free", "8M"]);
        digests.push(report["digest"].clone());
        // A second time from what is remembered.
        let report = push(&store, &image, &to, &["--free", "8M"]);
        assert_eq!(report["uploaded_blobs"], 0, "{report:#}");
        digests.push(report["digest"].clone());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[test]
fn a_registry_is_sent_only_what_it_does_not_have() {
    let registry = Registry::start(&Setup::default());
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (image, sibling) = (image(dir.path()), sibling(dir.path()));
    let web = format!("{}/acme/web:1", registry.host());
    let first = push(&store, &image, &web, &["--free", "8M"]);
    assert_eq!(first["uploaded_blobs"], 4, "{first:#}");
    let again = push(&store, &image, &web, &["--free", "8M"]);
    assert_eq!(again["uploaded_blobs"], 0, "{again:#}");
    assert_eq!(again["digest"], first["digest"]);

    // Of a sibling in another repository, the base is mounted.
    let other = format!("{}/acme/other:1", registry.host());
    let report = push(&store, &sibling, &other, &["--free", "8M"]);
    let layers = report["images"][0]["layers"].as_array().unwrap();
    let uploads: Vec<_> = layers
        .iter()
        .map(|l| l["upload"].as_str().unwrap())
        .collect();
    assert_eq!(uploads, ["mounted", "sent", "sent"], "{report:#}");

    // What went there is what goes to a layout, and skopeo can fetch it.
    let layout = dir.path().join("layout");
    let to = format!("oci:{}:x", layout.display());
    let local = push(&store, &sibling, &to, &["--free", "8M"]);
    assert_eq!(local["digest"], report["digest"]);
    let copy = format!("oci:{}:x", dir.path().join("copy").display());
    let from = format!("docker://{other}");
    servers::skopeo_copy(&["--src-tls-verify=false", &from, &copy]);
    let built = build(&store, &sibling, &dir.path().join("raw"), &["--free", "8M"]);
    assert!(disk_in(&dir.path().join("copy")) == built, "another disk");
}

#[test]
fn a_container_disk_holds_the_one_file_that_kubevirt_wants() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let image = image(dir.path());
    let raw = dir.path().join("disk.raw");
    build(&store, &image, &raw, &["--free", "8M"]);
    for (name, options, format) in [
        ("a", &[][..], "qcow2"),
        ("b", &["--format", "raw", "--compression", "gzip"], "raw"),
    ] {
        let layout = dir.path().join(name);
        let to = format!("oci:{}:vm", layout.display());
        let mut all = vec![
            "--as",
            "containerdisk",
            "--free",
            "8M",
            "--instancetype",
            "u1.medium",
            "--preference",
            "debian",
        ];
        all.extend(options);
        let report = push(&store, &image, &to, &all);
        assert_eq!(report["form"], "containerdisk");
        let manifest = manifest(&layout);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
        let config = json(&blob(&layout, &manifest["config"]["digest"]));
        let run = &config["config"];
        assert_eq!(run["Entrypoint"], serde_json::json!(["no-entrypoint"]));
        let env = run["Env"].to_string();
        assert!(env.contains("INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE=u1.medium"));
        assert!(env.contains("INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=debian"));

        let layer = blob(&layout, &manifest["layers"][0]["digest"]);
        let listed = ok(Command::new("tar")
            .arg("tvf")
            .arg(&layer)
            .arg("--numeric-owner"));
        let lines: Vec<_> = listed.lines().collect();
        assert_eq!(lines.len(), 2, "{listed}");
        assert!(lines[0].starts_with("dr-xr-xr-x 107/107") && lines[0].ends_with("disk/"));
        assert!(lines[1].starts_with("-r--r--r-- 107/107"));
        let out = dir.path().join(format!("{name}-out"));
        fs::create_dir(&out).unwrap();
        ok(Command::new("tar")
            .arg("xf")
            .arg(&layer)
            .arg("-C")
            .arg(&out));
        let disk = out.join("disk/disk.img");
        ok(Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", format])
            .args([&raw, &disk]));
        let shasum = servers::run("sha256sum", &[&disk]);
        assert_eq!(run["Labels"]["shasum"], shasum.split(' ').next().unwrap());
    }
}

#[test]
fn an_artifact_is_a_virtual_machine_with_the_disk_that_build_writes() {
    let registry = Registry::start(&Setup::default());
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let image = image(dir.path());
    let repository = format!("{}/acme/Web_App", registry.host()).to_lowercase();
    let (source, machine) = (format!("{repository}:image"), format!("{repository}:vm"));
    servers::skopeo_copy(&[
        "--dest-tls-verify=false",
        &image,
        &format!("docker://{source}"),
    ]);
    let options = ["--as", "artifact", "--free", "8M", "--refer"];
    let report = push(&store, &source, &machine, &options);
    assert_eq!(report["form"], "artifact");
    let layout = dir.path().join("layout");
    let to = format!("oci:{}", layout.display());
    servers::skopeo_copy(&[
        "--src-tls-verify=false",
        &format!("docker://{machine}"),
        &to,
    ]);
    let manifest = manifest(&layout);
    let subject = manifest["subject"]["digest"].as_str().unwrap();
    let listed = format!("docker://{repository}:{}", subject.replace(':', "-"));
    let listed = ok(&mut command(&[
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        &listed,
    ]));
    assert!(
        listed.contains(report["digest"].as_str().unwrap()),
        "{listed}"
    );

    let config = json(&blob(&layout, &manifest["config"]["digest"]));
    assert_eq!(config["metadata"]["name"], "web-app");
    let machine = &config["spec"]["template"]["spec"];
    assert_eq!(machine["architecture"], "amd64");
    assert_eq!(
        machine["domain"]["firmware"]["bootloader"]["efi"]["secureBoot"],
        false
    );
    let disk = blob(&layout, &manifest["layers"][0]["digest"]);
    let disk = zstd::decode_all(fs::File::open(disk).unwrap()).unwrap();
    let built = build(&store, &image, &dir.path().join("raw"), &["--free", "8M"]);
    assert!(disk == built, "another disk");
}

#[test]
fn a_disk_file_is_pushed_in_windows_of_which_only_changed_ones_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let path = dir.path().join("disk.raw");
    let mut disk = vec![0; 200 << 20];
    disk[5_000..60_000].fill(0x11);
    disk[130 << 20..140 << 20].copy_from_slice(&servers::image::noise(7, 10 << 20));
    fs::write(&path, &disk).unwrap();
    let layout = dir.path().join("layout");
    let to = format!("oci:{}:x", layout.display());
    let from = path.to_str().unwrap();
    push(&store, from, &to, &[]);
    assert!(disk_in(&layout) == disk, "another disk");
    disk[6_000] = 9;
    fs::write(&path, &disk).unwrap();
    let report = push(&store, from, &to, &[]);
    assert!(disk_in(&layout) == disk, "another disk");
    let bytes = report["uploaded_bytes"].as_u64().unwrap();
    assert!(bytes < 1 << 20, "{report:#}");
}

#[test]
fn several_platforms_become_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let source = dir.path().join("source");
    let mut layout = servers::image::Layout::new(&source);
    let tar = base().finish();
    let one = layout.image("linux/amd64", std::slice::from_ref(&tar));
    let two = layout.image("linux/arm64", &[tar]);
    let index = layout.index(&[one, two]);
    layout.tag("v1", index);
    let image = format!("oci:{}:v1", source.display());
    let registry = Registry::start(&Setup::default());
    for form in ["containerdisk", "disk"] {
        let to = format!("{}/acme/{form}:1", registry.host());
        let options = [
            "--as",
            form,
            "--platform",
            "linux/amd64",
            "--platform",
            "linux/arm64",
            "--boot",
            "none",
            "--free",
            "8M",
        ];
        let report = push(&store, &image, &to, &options);
        assert_eq!(
            report["media_type"],
            "application/vnd.oci.image.index.v1+json"
        );
        for platform in ["amd64", "arm64"] {
            let inspected = ok(&mut command(&[
                "skopeo",
                "--override-arch",
                platform,
                "inspect",
                "--tls-verify=false",
                &format!("docker://{to}"),
            ]));
            let inspected: Value = serde_json::from_str(&inspected).unwrap();
            assert_eq!(inspected["Architecture"], platform);
        }
    }
}

#[test]
fn what_cannot_be_pushed_is_said_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let image = image(dir.path());
    let disk = dir.path().join("disk.raw");
    fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let disk = disk.to_str().unwrap();
    let digest = format!("localhost/x@sha256:{}", "0".repeat(64));
    for (arguments, message) in [
        (&[&image, "dir:/tmp"][..], "oci:DIR[:TAG]"),
        (&[&image, &digest], "digest of its own"),
        (&[&image, "localhost/x", "--compression", "gzip"], "zstd"),
        (&[&image, "localhost/x", "--format", "raw"], "containerdisk"),
        (&[disk, "localhost/x", "--hostname", "h"], "--hostname"),
        (&[&image, "localhost/x", "--refer"], "artifact"),
        (
            &[&image, "localhost/x", "--as", "artifact", "--refer"],
            "in one repository",
        ),
        (
            &[&image, "localhost/x", "--preference", "x"],
            "--as artifact",
        ),
        (
            &[&image, "localhost/x", "--digest-file", "/no/such/file"],
            "no directory",
        ),
        (
            &[
                &image,
                "localhost/x",
                "--as",
                "containerdisk",
                "--compression",
                "gzip",
                "--compression-level",
                "12",
            ],
            "1 to 9",
        ),
    ] {
        let said = fails(bootwright(&store).arg("push").args(arguments));
        assert!(said.contains(message), "{arguments:?}: {said}");
    }
    // Nobody listens there.
    let said = fails(bootwright(&store).args([
        "push",
        &image,
        "127.0.0.1:1/x/y:z",
        "--tls-verify=false",
        "--retries=0",
    ]));
    assert!(said.contains("127.0.0.1:1"), "{said}");
}
