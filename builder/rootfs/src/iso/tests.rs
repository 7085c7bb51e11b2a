//! Volumes as others read them: libarchive (Rock Ridge and Joliet), 7-Zip
//! (Joliet), blkid (label).

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use bootwright_disk::{PlanBuilder, PlanReader, ReadAt as _};
use proptest::prelude::*;

use super::*;

fn file(path: &str, content: impl Into<Bytes>) -> IsoFile {
    IsoFile {
        path: path.to_owned(),
        content: content.into(),
    }
}

fn options(label: &str) -> Options {
    Options {
        label: label.to_owned(),
        time: Timestamp {
            secs: 1_780_000_000,
            nanos: 0,
        },
    }
}

fn bytes(files: &[IsoFile], label: &str) -> Vec<u8> {
    let volume = format(files, &options(label)).unwrap();
    assert!(volume.size.is_multiple_of(4096));
    let mut builder = PlanBuilder::new(Vec::new());
    builder.put_volume(0, volume.extents);
    let plan = builder.finish(volume.size).unwrap();
    let mut bytes = vec![0; plan.size() as usize];
    PlanReader::new(plan).read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn written(dir: &Path, files: &[IsoFile], label: &str) -> PathBuf {
    let path = dir.join("volume.iso");
    std::fs::write(&path, bytes(files, label)).unwrap();
    path
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn some() -> Vec<IsoFile> {
    vec![
        file("user-data", "#cloud-config\n"),
        file("meta-data", "instance-id: x\n"),
        file("openstack/latest/meta_data.json", "{}"),
        file("openstack/latest/user_data", vec![b'x'; 10_000]),
        file("openstack/content/0000", ""),
        file("Name", "upper"),
        file("name", "lower"),
        file(&"n".repeat(255), "long"),
        file("\u{e9}t\u{e9}.conf", "summer"),
    ]
}

#[test]
fn libarchive_finds_every_file_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let files = some();
    let image = written(dir.path(), &files, "cidata");
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    // The locale says how names are encoded.
    let status = Command::new("bsdtar")
        .env("LC_ALL", "C.UTF-8")
        .args(["-x", "-f"])
        .arg(&image)
        .arg("-C")
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success());
    for file in &files {
        let found = std::fs::read(out.join(&file.path)).unwrap();
        assert_eq!(found, file.content, "{}", file.path);
    }
    let listing = run("bsdtar", &["-tvf", image.to_str().unwrap()]);
    let line = |name: &str| {
        let found = listing.lines().find(|line| line.ends_with(name));
        found.unwrap_or_else(|| panic!("{listing}")).to_owned()
    };
    let user_data = line(" user-data");
    assert!(user_data.starts_with("-r--r--r--"), "{user_data}");
    assert!(user_data.contains("May 28"), "{user_data}");
    assert!(line(" openstack/latest").starts_with("dr-xr-xr-x"));
}

#[test]
fn joliet_shows_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = some();
    let image = written(dir.path(), &files, "cidata");
    let arguments = ["-tf", image.to_str().unwrap(), "--options=!rockridge"];
    let listing = run("bsdtar", &arguments);
    for name in ["user-data", "openstack/latest/user_data", "Name", "name"] {
        assert!(listing.lines().any(|line| line == name), "{listing}");
    }
    let arguments = [
        "-tf",
        image.to_str().unwrap(),
        "--options=!rockridge,!joliet",
    ];
    let listing = run("bsdtar", &arguments);
    assert!(listing.contains("OPENSTAC/LATEST/USER_DAT"), "{listing}");
    run("7zz", &["t", image.to_str().unwrap()]);
}

#[test]
fn labels_keep_their_case() {
    let dir = tempfile::tempdir().unwrap();
    for label in ["cidata", "config-2", "a Label of 32 characters, no more"] {
        let label = &label[..label.len().min(32)];
        let image = written(dir.path(), &some(), label);
        let arguments = ["-p", "-o", "value", "-s", "LABEL", image.to_str().unwrap()];
        assert_eq!(run("blkid", &arguments).trim_end(), label);
    }
}

#[test]
fn what_cannot_be_on_a_volume_is_refused_with_its_name() {
    let long = "a".repeat(256);
    let deep = ["d"; 9].join("/");
    for (paths, words) in [
        (&["a", "a"][..], "\"a\" is twice"),
        (&["a", "a/b"], "\"a\" is twice"),
        (&["a/../b"], ". or .."),
        (&["/a"], ". or .."),
        (&[""], ". or .."),
        (&["a\0b"], "NUL"),
        (&[&long], "255 bytes"),
        (&[&deep], "eight levels"),
    ] {
        let files: Vec<_> = paths.iter().map(|path| file(path, "x")).collect();
        let error = format(&files, &options("x")).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = format(&[], &options(&"x".repeat(33))).unwrap_err();
    assert!(matches!(error, IsoError::BadLabel(_)));
    let error = format(&[], &options("a\n")).unwrap_err();
    assert!(matches!(error, IsoError::BadLabel(_)));
    let large = file("a", vec![0; (MAX_CONTENT + 1) as usize]);
    let error = format(&[large], &options("x")).unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let mut files = some();
    let one = bytes(&files, "x");
    files.reverse();
    assert!(one == bytes(&files, "x"));
}

#[test]
fn an_empty_volume_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let image = written(dir.path(), &[], "");
    assert_eq!(run("bsdtar", &["-tf", image.to_str().unwrap()]).trim(), ".");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_files_come_back(
        names in proptest::collection::btree_set("[a-z]{1,3}[-._a-zA-Z0-9]{0,200}", 1..40),
        folders in 0usize..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let path = match n % (folders + 1) {
                    0 => name.clone(),
                    folder => format!("folder-{folder}/{name}"),
                };
                file(&path, vec![n as u8; n * 700])
            })
            .collect();
        let image = written(dir.path(), &files, "x");
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        run("bsdtar", &["-xf", image.to_str().unwrap(), "-C", out.to_str().unwrap()]);
        for file in &files {
            prop_assert_eq!(&std::fs::read(out.join(&file.path)).unwrap(), &file.content);
        }
    }
}
