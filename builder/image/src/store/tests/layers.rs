//! Layers in, layers out.

use super::*;

#[test]
fn a_layer_comes_out_as_it_went_in_however_it_was_compressed() {
    let big: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    let tar = tar(&[("etc/hostname", b"boot\n"), ("big", &big), ("empty", b"")]);
    let half = tar.len() / 2;
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let blobs = [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        (
            "gzip of two members",
            [gzip(&tar[..half]), gzip(&tar[half..])].concat(),
        ),
        ("zstd", zstd(&tar)),
        (
            "zstd of several frames, some skippable",
            [
                skippable.clone(),
                zstd(&tar[..half]),
                skippable.clone(),
                zstd(&tar[half..]),
                skippable,
            ]
            .concat(),
        ),
    ];
    for (name, blob) in blobs {
        let (_dir, store) = store();
        let added = add(&store, &tar, &blob).unwrap();
        let found = store.layer(&Digest::sha256(&tar)).unwrap().unwrap();
        for layer in [&added, &found] {
            assert_eq!(layer.entries().len(), 3, "{name}");
            assert_eq!(content(layer, b"etc/hostname"), b"boot\n", "{name}");
            assert_eq!(content(layer, b"big"), big, "{name}");
            assert_eq!(content(layer, b"empty"), b"", "{name}");
            assert_eq!(layer.index().blob(), &Digest::sha256(&blob), "{name}");
            assert_eq!(layer.pack_len() % 4096, 0);
        }
    }
}

#[test]
fn what_is_wrong_with_a_blob_is_said_and_nothing_is_left_behind() {
    let tar = tar(&[("a", &[7; 100_000])]);
    let gz = gzip(&tar);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut blob = gz.clone();
        change(&mut blob);
        blob
    };
    let cases = [
        (
            "truncated",
            with(|b| b.truncate(b.len() - 9)),
            info(&gz),
            "instead of",
        ),
        ("longer", with(|b| b.push(0)), info(&gz), "it has more"),
        (
            "flipped",
            with(|b| b[50] ^= 1),
            info(&gz),
            "its content has the digest",
        ),
    ];
    for (name, blob, info, message) in cases {
        let (_dir, store) = store();
        let error = store
            .add_layer(
                &Digest::sha256(&tar),
                &info,
                &blob[..],
                &Limits::default(),
                &|_| (),
            )
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{name}: {error}");
        assert!(
            error.contains(&Digest::sha256(&gz).to_string()),
            "{name}: {error}"
        );
        assert_eq!(files(&store), ["version"], "{name}");
    }
}
