//! The same image from every kind of place.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;

use bootwright_image::Digest;
use bootwright_image::pull::{Image, PullOptions};
use common::image::{Layout, layer, layers, noise};
use common::registry::{Registry, Setup};
use common::{load_error, load_fresh, plain, run, skopeo_copy, text};

fn diff_ids(image: &Image) -> Vec<Digest> {
    image.layers.iter().map(|l| l.diff_id.clone()).collect()
}

#[test]
fn all_sources_of_an_image_give_the_same_identity_and_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let tars = layers(1);
    let layout_dir = dir.path().join("layout");
    let mut layout = Layout::new(&layout_dir);
    layout.tag("v1", layout.image("linux/amd64", &tars));

    let registry = Registry::start(&Setup::default());
    let host = registry.host();
    let source = format!("oci:{}:v1", path("layout"));
    let push = ["--dest-tls-verify=false", "--format"];
    let to = |name: &str| format!("docker://{host}/{name}:v1");
    skopeo_copy(&[&push[..], &["oci", &source, &to("gzip")]].concat());
    // A registry of its own: skopeo reuses what it pushed to another repository.
    let second = Registry::start(&Setup::default());
    let zstd_image = format!("docker://{}/zstd:v1", second.host());
    let zstd = ["oci", "--dest-compress-format=zstd", "--dest-compress"];
    skopeo_copy(&[&push[..], &zstd, &[&source, &zstd_image]].concat());
    skopeo_copy(&[&push[..], &["v2s2", &source, &to("docker")]].concat());
    let name = "example.com/app:v1";
    skopeo_copy(&[&source, &format!("oci-archive:{}:v1", path("oci.tar"))]);
    skopeo_copy(&[
        &source,
        &format!("docker-archive:{}:{name}", path("docker.tar")),
    ]);
    skopeo_copy(&[
        "--dest-compress",
        &source,
        &format!("oci:{}:v1", path("compressed")),
    ]);

    let from_registry = load_fresh(&to("gzip"), &plain()).unwrap().0;
    assert_eq!(from_registry.config.labels["containers.bootc"], "1");
    let expected: Vec<_> = tars.iter().map(|t| Digest::sha256(t)).collect();
    assert_eq!(diff_ids(&from_registry), expected);
    let by_digest = from_registry.manifest_digest.clone().unwrap();

    for reference in [
        zstd_image.clone(),
        to("docker"),
        format!("{host}/gzip@{by_digest}"),
        format!("{host}/gzip:other@{by_digest}"),
        source,
        format!("oci:{}", path("layout")),
        format!("oci:{}", path("compressed")),
        format!("oci-archive:{}", path("oci.tar")),
        format!("oci-archive:{}:v1", path("oci.tar")),
        format!("docker-archive:{}", path("docker.tar")),
        format!("docker-archive:{}:{name}", path("docker.tar")),
        format!("docker-archive:{}:@0", path("docker.tar")),
    ] {
        let (image, told) =
            load_fresh(&reference, &plain()).unwrap_or_else(|e| panic!("{reference}: {e}"));
        assert_eq!(image.identity, from_registry.identity, "{reference}");
        assert_eq!(image.platform, from_registry.platform, "{reference}");
        assert_eq!(diff_ids(&image), expected, "{reference}");
        assert_eq!(image.config.env, ["PATH=/usr/bin"], "{reference}");
        assert_eq!(image.config.cmd, ["/sbin/init"], "{reference}");
        // One of the four layers is there twice and read once.
        assert_eq!(told.started.lock().unwrap().len(), 3, "{reference}");
        let packs = |i: &Image| {
            i.layers
                .iter()
                .map(|l| l.layer.pack_len())
                .collect::<Vec<_>>()
        };
        assert_eq!(packs(&image), packs(&from_registry), "{reference}");
    }
    let media_type = |reference: &str| {
        let (image, _) = load_fresh(reference, &plain()).unwrap();
        image.layers[0].media_type.clone()
    };
    assert_eq!(
        media_type(&zstd_image),
        "application/vnd.oci.image.layer.v1.tar+zstd"
    );
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    assert_eq!(media_type(&to("docker")), docker);
}

#[test]
fn known_layers_are_not_fetched_and_a_pinned_image_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let layout_dir = dir.path().join("layout");
    let mut layout = Layout::new(&layout_dir);
    let mut tars = layers(7);
    layout.tag("v1", layout.image("linux/amd64", &tars));
    tars.push(layer(&[("new", b"new")]));
    layout.tag("v2", layout.image("linux/amd64", &tars));
    let registry = Registry::start(&Setup::default());
    let host = registry.host();
    for tag in ["v1", "v2"] {
        let from = format!("oci:{}:{tag}", text(&layout_dir));
        skopeo_copy(&[
            "--dest-tls-verify=false",
            &from,
            &format!("docker://{host}/app:{tag}"),
        ]);
    }

    let store = bootwright_image::store::Store::open(Some(&dir.path().join("store"))).unwrap();
    let load = |reference: &str| {
        let told = common::Told::default();
        let reference = reference.parse().unwrap();
        let image = bootwright_image::pull::load(&reference, &plain(), &store, &told).unwrap();
        (image, told)
    };
    let (_, told) = load(&format!("{host}/app:v1"));
    assert_eq!(
        (
            told.started.lock().unwrap().len(),
            told.present.lock().unwrap().len()
        ),
        (3, 0)
    );
    let (image, told) = load(&format!("{host}/app:v2"));
    assert_eq!(
        (
            told.started.lock().unwrap().len(),
            told.present.lock().unwrap().len()
        ),
        (1, 3)
    );

    let pinned = format!("{host}/app@{}", image.manifest_digest.clone().unwrap());
    drop(registry);
    let (again, told) = load(&pinned);
    assert_eq!(again.identity, image.identity);
    assert_eq!(
        (
            told.started.lock().unwrap().len(),
            told.present.lock().unwrap().len()
        ),
        (0, 4)
    );
}

#[test]
fn the_platform_chooses_from_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    let image =
        |platform: &str, seed: u64| layout.image(platform, &[layer(&[("x", &noise(seed, 100))])]);
    let amd64 = image("linux/amd64", 1);
    let mut attestation = image("unknown/unknown", 2);
    attestation["annotations"] =
        serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
    let nested = layout.index(&[image("linux/arm/v6", 3), image("linux/arm/v7", 4)]);
    let index = layout.index(&[attestation, amd64, nested, image("linux/arm64/v8", 5)]);
    layout.tag("multi", index);

    let registry = Registry::start(&Setup::default());
    let remote = format!("docker://{}/multi:v1", registry.host());
    let flat = {
        let image = |platform: &str, seed: u64| {
            layout.image(platform, &[layer(&[("x", &noise(seed, 100))])])
        };
        layout.index(&[image("linux/amd64", 1), image("linux/arm64/v8", 5)])
    };
    layout.tag("flat", flat);
    let from = format!("oci:{}:flat", text(dir.path()));
    skopeo_copy(&["--all", "--dest-tls-verify=false", &from, &remote]);

    let local = format!("oci:{}:multi", text(dir.path()));
    let options = |platform: &str| PullOptions {
        platform: Some(platform.parse().unwrap()),
        ..plain()
    };
    for (reference, platform, seed) in [
        (&local, "linux/amd64", 1),
        (&local, "linux/amd64/v3", 1),
        (&local, "linux/arm64", 5),
        (&local, "linux/arm/v7", 4),
        (&local, "linux/arm/v6", 3),
        (&remote, "linux/arm64", 5),
        (&remote, "amd64", 1),
    ] {
        let (image, _) = load_fresh(reference, &options(platform)).unwrap();
        let expected = Digest::sha256(&layer(&[("x", &noise(seed, 100))]));
        assert_eq!(image.layers[0].diff_id, expected, "{reference} {platform}");
    }
    for (reference, platform, part) in [
        (
            &local,
            "linux/s390x",
            "linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64",
        ),
        (
            &remote,
            "linux/riscv64",
            "there are: linux/amd64, linux/arm64",
        ),
    ] {
        let error = load_error(reference, &options(platform));
        assert!(error.contains(platform) && error.contains(part), "{error}");
        assert!(!error.contains("unknown"), "{error}");
    }
}

#[test]
fn a_single_image_of_another_platform_is_taken_unless_one_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    layout.tag("v1", layout.image("linux/s390x", &layers(1)));
    let reference = format!("oci:{}:v1", text(dir.path()));
    let any = PullOptions {
        platform: None,
        ..plain()
    };
    assert_eq!(
        load_fresh(&reference, &any).unwrap().0.platform.to_string(),
        "linux/s390x"
    );
    let error = load_error(&reference, &plain());
    assert!(
        error.contains("linux/amd64") && error.contains("there are: linux/s390x"),
        "{error}"
    );
}

#[test]
fn what_a_layout_has_is_said_when_the_choice_is_unclear() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(dir.path()).to_owned();
    let mut layout = Layout::new(dir.path());
    let image = layout.image("linux/amd64", &layers(1));
    let digest = image["digest"].as_str().unwrap().to_owned();
    layout.tag("one", image);
    layout.tag("two", layout.image("linux/amd64", &layers(2)));
    for (reference, part) in [
        (
            format!("oci:{path}"),
            "several images in it; add :TAG or @DIGEST; it has one, two",
        ),
        (
            format!("oci:{path}:three"),
            "no image \"three\" in it; it has one, two",
        ),
        (
            format!("oci:{path}@{}", Digest::sha256(b"")),
            "there is no image sha256:e3b0c4",
        ),
        (format!("oci:{path}/blobs"), "no file oci-layout"),
        (format!("oci:{path}/none"), "No such file"),
        (format!("oci-archive:{path}/index.json"), "no tar archive"),
        (format!("oci-archive:{path}"), "no regular file"),
        (format!("docker-archive:{path}/none"), "No such file"),
    ] {
        let error = load_error(&reference, &plain());
        assert!(error.contains(part), "{reference}: {error}");
    }
    for reference in [format!("oci:{path}:one"), format!("oci:{path}@{digest}")] {
        load_fresh(&reference, &plain()).unwrap();
    }
}

#[test]
fn archives_of_the_other_kind_and_compressed_ones_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let layout_dir = dir.path().join("layout");
    let mut layout = Layout::new(&layout_dir);
    layout.tag("v1", layout.image("linux/amd64", &layers(1)));
    let source = format!("oci:{}:v1", path("layout"));
    skopeo_copy(&[&source, &format!("oci-archive:{}", path("oci.tar"))]);
    skopeo_copy(&[&source, &format!("docker-archive:{}", path("docker.tar"))]);
    run("gzip", &["-k", &path("docker.tar")]);
    run("zstd", &["-q", &path("oci.tar")]);
    let bytes = fs::read(path("oci.tar")).unwrap();
    fs::write(path("short.tar"), &bytes[..bytes.len() / 2]).unwrap();
    for (reference, part) in [
        (
            format!("oci-archive:{}", path("docker.tar")),
            "use docker-archive:",
        ),
        (
            format!("docker-archive:{}", path("oci.tar")),
            "use oci-archive:",
        ),
        (
            format!("docker-archive:{}", path("docker.tar.gz")),
            "run gunzip",
        ),
        (format!("oci-archive:{}", path("oci.tar.zst")), "run unzstd"),
        (format!("oci-archive:{}", path("short.tar")), "cut short"),
    ] {
        let error = load_error(&reference, &plain());
        assert!(error.contains(part), "{reference}: {error}");
    }
}

#[test]
fn a_docker_archive_with_links_and_compressed_layers_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let tars = layers(3);
    let gz = path("0.tar");
    fs::write(&gz, &tars[0]).unwrap();
    run("gzip", &[&gz]);
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": tars.iter().map(|t| Digest::sha256(t).to_string()).collect::<Vec<_>>()},
    });
    let config = config.to_string();
    let config_name = format!("{}.json", Digest::sha256(config.as_bytes()).hex());
    let manifest = serde_json::json!([{
        "Config": config_name, "RepoTags": ["app:1"],
        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar"],
    }]);

    let write = |name: &str, config: &str| {
        let mut tar = tar::Builder::new(fs::File::create(path(name)).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        add("a/layer.tar", &fs::read(path("0.tar.gz")).unwrap());
        add("b/layer.tar", &tars[1]);
        add("c/layer.tar", &tars[2]);
        add(&config_name, config.as_bytes());
        add("manifest.json", manifest.to_string().as_bytes());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        // As `docker save` writes a layer that is there already.
        tar.append_link(&mut header, "d/layer.tar", "../c/layer.tar")
            .unwrap();
        tar.finish().unwrap();
    };
    write("docker.tar", &config);
    let (image, _) = load_fresh(
        &format!("docker-archive:{}:app:1", path("docker.tar")),
        &plain(),
    )
    .unwrap();
    let expected: Vec<_> = tars.iter().map(|t| Digest::sha256(t)).collect();
    assert_eq!(diff_ids(&image), expected);
    assert_eq!(image.manifest_digest, None);

    let error = load_error(
        &format!("docker-archive:{}:app:2", path("docker.tar")),
        &plain(),
    );
    assert!(
        error.contains("no image docker.io/library/app:2") && error.contains("@0: app:1"),
        "{error}"
    );
    write("changed.tar", &config.replace("amd64", "arm64"));
    let error = load_error(&format!("docker-archive:{}", path("changed.tar")), &plain());
    assert!(error.contains("config is corrupt"), "{error}");
}

#[test]
fn content_that_is_not_what_its_descriptor_says_is_refused() {
    let make = |change: &dyn Fn(&mut Vec<Vec<u8>>, &mut serde_json::Value)| {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::new(dir.path());
        let mut tars = layers(1);
        let image = layout.image("linux/amd64", &tars);
        let file = |d: &serde_json::Value| {
            dir.path()
                .join("blobs")
                .join(d["digest"].as_str().unwrap().replace(':', "/"))
        };
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(file(&image)).unwrap()).unwrap();
        let first = file(&manifest["layers"][0]);
        change(&mut tars, &mut manifest);
        fs::write(&first, &tars[0]).unwrap();
        let image = layout.json(common::image::MANIFEST, &manifest);
        layout.tag("v1", image);
        let reference = format!("oci:{}:v1", text(dir.path()));
        load_error(&reference, &plain())
    };
    type Change = dyn Fn(&mut Vec<Vec<u8>>, &mut serde_json::Value);
    let table: [(&Change, &str); 7] = [
        (&|tars, _| tars[0][600] ^= 1, "corrupt"),
        (&|tars, _| tars[0].truncate(5000), "has 5000 bytes"),
        (
            &|_, m| m["layers"][0]["size"] = 17.into(),
            "descriptor says 17",
        ),
        (
            &|_, m| m["config"]["size"] = (5 << 20).into(),
            "at most 4194304",
        ),
        (
            &|_, m| m["layers"].as_array_mut().unwrap().truncate(3),
            "3 layers but",
        ),
        (
            &|_, m| m["layers"].as_array_mut().unwrap().swap(0, 1),
            "diff id",
        ),
        (
            &|_, m| m["layers"][0]["mediaType"] = "text/x".into(),
            "layer 1 (sha256:",
        ),
    ];
    for (change, part) in table {
        let error = make(change);
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_foreign_layer_is_read_where_it_is_and_named_where_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    let tars = layers(1);
    let image = layout.image("linux/amd64", &tars);
    let file = |d: &serde_json::Value| {
        dir.path()
            .join("blobs")
            .join(d["digest"].as_str().unwrap().replace(':', "/"))
    };
    let manifest = fs::read(file(&image)).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["layers"][1]["mediaType"] =
        "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    manifest["layers"][1]["urls"] = serde_json::json!(["https://vendor.example/layer"]);
    layout.tag("v1", layout.json(common::image::MANIFEST, &manifest));
    let reference = format!("oci:{}:v1", text(dir.path()));
    load_fresh(&reference, &plain()).unwrap();
    fs::remove_file(file(&manifest["layers"][1])).unwrap();
    let error = load_error(&reference, &plain());
    let digest = manifest["layers"][1]["digest"].as_str().unwrap();
    assert!(
        error.contains(&format!("layer {digest} is non-distributable")),
        "{error}"
    );
}
