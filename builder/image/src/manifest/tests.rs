use proptest::prelude::*;
use serde_json::json;

use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": SHA, "size": 1})
}

fn manifest(media_type: &str, config: &str, layer: &str) -> serde_json::Value {
    json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": descriptor(config), "layers": [descriptor(layer)],
    })
}

fn parse(value: &serde_json::Value, outer: Option<&str>) -> Result<Document, ManifestError> {
    Document::parse(value.to_string().as_bytes(), outer)
}

#[test]
fn layers_of_both_families_are_known() {
    use LayerCompression::{Gzip, Zstd};
    let none = LayerCompression::None;
    for (media_type, compression, foreign) in [
        ("application/vnd.oci.image.layer.v1.tar", none, false),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Gzip, false),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Zstd, false),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            none,
            true,
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            Gzip,
            true,
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            Zstd,
            true,
        ),
        ("application/vnd.docker.image.rootfs.diff.tar", none, false),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Gzip,
            false,
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            Zstd,
            false,
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Gzip,
            true,
        ),
    ] {
        for (kind, config) in [(OCI_MANIFEST, OCI_CONFIG), (DOCKER_MANIFEST, DOCKER_CONFIG)] {
            let Ok(Document::Manifest(found)) = parse(&manifest(kind, config, media_type), None)
            else {
                panic!("{media_type}")
            };
            let layer = &found.layers[0];
            assert_eq!(
                (layer.compression, layer.foreign),
                (compression, foreign),
                "{media_type}"
            );
        }
    }
}

#[test]
fn the_media_type_may_come_from_outside_or_not_at_all() {
    let mut bare = manifest(
        OCI_MANIFEST,
        OCI_CONFIG,
        "application/vnd.oci.image.layer.v1.tar",
    );
    bare.as_object_mut().unwrap().remove("mediaType");
    for outer in [
        None,
        Some(""),
        Some(OCI_MANIFEST),
        Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
        Some("application/json"),
        Some("text/plain; charset=utf-8"),
        Some("application/octet-stream"),
    ] {
        assert!(
            matches!(parse(&bare, outer), Ok(Document::Manifest(_))),
            "{outer:?}"
        );
    }
    let index = json!({"schemaVersion": 2, "manifests": []});
    for outer in [None, Some(OCI_INDEX), Some(DOCKER_INDEX)] {
        assert!(
            matches!(parse(&index, outer), Ok(Document::Index(_))),
            "{outer:?}"
        );
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let good = manifest(OCI_MANIFEST, OCI_CONFIG, layer);
    let change = |key: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let mut both = good.clone();
    both["manifests"] = json!([]);
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let encrypted = format!("{layer}+gzip+encrypted");
    let mut md5 = good.clone();
    md5["layers"][0]["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e".into();
    let mut negative = good.clone();
    negative["layers"][0]["size"] = json!(-1);
    for (document, outer, part) in [
        (both, None, "CVE-2021-41190"),
        (
            json!({"schemaVersion": 1, "fsLayers": [], "name": "x"}),
            None,
            "schema 1",
        ),
        (good.clone(), Some(schema1), "served as"),
        (json!({"layers": []}), Some(schema1), "schema 1"),
        (good.clone(), Some(OCI_INDEX), "served as"),
        (good.clone(), Some("application/x-what"), "served as"),
        (
            change("mediaType", "application/x-what".into()),
            None,
            "\"application/x-what\" is unknown",
        ),
        (
            change("config", descriptor("application/vnd.oci.empty.v1+json")),
            None,
            "artifact",
        ),
        (
            change(
                "config",
                descriptor("application/vnd.cncf.helm.config.v1+json"),
            ),
            None,
            "helm",
        ),
        (
            change("layers", json!([descriptor(&encrypted)])),
            None,
            "encrypted",
        ),
        (
            change("layers", json!([descriptor("application/x-disk")])),
            None,
            "\"application/x-disk\"",
        ),
        (
            change(
                "layers",
                json!([descriptor("application/vnd.oci.image.layer.v1.tar+xz")]),
            ),
            None,
            "unknown",
        ),
        (
            change("layers", vec![descriptor(layer); MAX_LAYERS + 1].into()),
            None,
            "1001 layers",
        ),
        (
            change("layers", json!("none")),
            None,
            "no valid image manifest",
        ),
        (md5, None, "digest"),
        (negative, None, "no valid image manifest"),
        (json!([]), None, "no valid"),
        (json!({"schemaVersion": 2}), None, "no valid image manifest"),
    ] {
        let error = parse(&document, outer).unwrap_err().to_string();
        assert!(error.contains(part), "{document}: {error}");
    }
}

#[test]
fn json_that_would_exhaust_memory_or_stack_is_refused() {
    let large = vec![b' '; MAX_JSON as usize + 1];
    assert_eq!(
        Document::parse(&large, None),
        Err(ManifestError::TooLarge(MAX_JSON + 1))
    );
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let (open, close) = (open.repeat(1 << 18), close.repeat(1 << 18));
        let deep = format!("{{\"config\":{open}1{close}}}");
        let error = Document::parse(deep.as_bytes(), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no valid"), "{error}");
    }
}

#[test]
fn compression_shows_in_the_first_bytes() {
    for (bytes, compression) in [
        (&[0x1f, 0x8b, 8, 0][..], LayerCompression::Gzip),
        (&[0x28, 0xb5, 0x2f, 0xfd], LayerCompression::Zstd),
        (&[0x50, 0x2a, 0x4d, 0x18], LayerCompression::Zstd),
        (b"etc/", LayerCompression::None),
        (b"", LayerCompression::None),
    ] {
        assert_eq!(LayerCompression::sniff(bytes), compression, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Document::parse(&bytes, None);
        let _ = crate::config::ImageConfig::parse(&bytes);
    }

    #[test]
    fn no_change_of_a_manifest_makes_the_parser_panic(
        at in any::<proptest::sample::Index>(),
        with in "[ -~]{0,8}",
    ) {
        let text = manifest(OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar").to_string();
        let at = at.index(text.len());
        let changed = format!("{}{with}{}", &text[..at], &text[(at + with.len()).min(text.len())..]);
        let _ = Document::parse(changed.as_bytes(), Some(OCI_MANIFEST));
    }
}
