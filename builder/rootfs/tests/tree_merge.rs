//! Every rule of merging layers, case by case.

mod tree_notation;

use tree_notation::{dump, merge};

struct Case {
    rule: &'static str,
    layers: &'static [&'static [&'static str]],
    tree: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        rule: "no layers are an empty root directory",
        layers: &[],
        tree: &[],
    },
    Case {
        rule: "files of all types are kept with their attributes",
        layers: &[&[
            "d . =700 u1:2 @3 user.r:x",
            "d d =1777 u4294967295:5 @-6",
            "f d/f 1 =4755 u7:8 @9 security.capability:c user.a:b",
            "s d/s ../nowhere u1:1 @2",
            "p d/p",
            "c d/c 5:1",
            "h d/h d/f",
        ]],
        tree: &[
            "d . =700 u1:2 @3 user.r:x",
            "d d =1777 u4294967295:5 @-6",
            "c d/c 5:1",
            "f d/f 1 =4755 u7:8 @9 security.capability:c user.a:b",
            "h d/h d/f",
            "p d/p",
            "s d/s ../nowhere u1:1 @2",
        ],
    },
    Case {
        rule: "the last root entry sets all attributes",
        layers: &[&["d . =700 @1 user.a:b"], &["d . u1:1"], &["f x 1"]],
        tree: &["d . u1:1", "f x 1"],
    },
    Case {
        rule: "a whiteout hides a file of a lower layer",
        layers: &[&["d a", "f a/b 1", "f a/c 2"], &["f a/.wh.b 0"]],
        tree: &["d a", "f a/c 2"],
    },
    Case {
        rule: "a whiteout hides a whole directory",
        layers: &[&["d a", "d a/b", "f a/b/c 1"], &["f .wh.a 0"]],
        tree: &[],
    },
    Case {
        rule: "a whiteout reaches two layers down",
        layers: &[&["f a 1"], &["f b 2"], &["f .wh.a 0"]],
        tree: &["f b 2"],
    },
    Case {
        rule: "a whiteout of nothing does nothing and makes no directory",
        layers: &[&["f .wh.a 0", "f x/.wh.a 0", "f y/.wh..wh..opq 0"]],
        tree: &[],
    },
    Case {
        rule: "a whiteout can have any type",
        layers: &[&["f a 1", "f b 1"], &["d .wh.a", "c .wh.b 0:0"]],
        tree: &[],
    },
    Case {
        rule: "what a whiteout names stays if its own layer adds it, before",
        layers: &[&["f a 1"], &["f a 2", "f .wh.a 0"]],
        tree: &["f a 2"],
    },
    Case {
        rule: "what a whiteout names stays if its own layer adds it, after",
        layers: &[&["f a 1"], &["f .wh.a 0", "f a 2"]],
        tree: &["f a 2"],
    },
    Case {
        rule: "a directory that is hidden and added is new",
        layers: &[
            &["d a =700", "f a/old 1", "d a/d", "f a/d/old 1"],
            &["d a =711", "d a/d", "f a/d/new 2", "f .wh.a 0"],
        ],
        tree: &["d a =711", "d a/d", "f a/d/new 2"],
    },
    Case {
        rule: "a hidden directory comes back without attributes for what lies in it",
        layers: &[
            &["d a =700 u1:1", "f a/old 1"],
            &["f a/new 2 @7", "f .wh.a 0"],
        ],
        tree: &["d a @7", "f a/new 2 @7"],
    },
    Case {
        rule: "an opaque directory hides what lower layers have in it",
        layers: &[
            &["d a", "d a/b", "f a/b/c 1", "f a/f 1"],
            &["d a =700", "f a/.wh..wh..opq 0", "f a/g 2"],
        ],
        tree: &["d a =700", "f a/g 2"],
    },
    Case {
        rule: "an opaque mark counts first wherever it stands",
        layers: &[
            &["d a", "d a/b", "d a/b/c", "f a/b/c/bar 1"],
            &[
                "d a",
                "d a/b",
                "d a/b/c",
                "f a/b/c/foo 2",
                "f a/.wh..wh..opq 0",
            ],
        ],
        tree: &["d a", "d a/b", "d a/b/c", "f a/b/c/foo 2"],
    },
    Case {
        rule: "an opaque mark without an entry for its directory keeps its attributes",
        layers: &[&["d a =700 u1:1 @3", "f a/f 1"], &["f a/.wh..wh..opq 0"]],
        tree: &["d a =700 u1:1 @3"],
    },
    Case {
        rule: "an opaque root hides everything",
        layers: &[
            &["d . =700", "d a", "f a/f 1"],
            &["f .wh..wh..opq 0", "f b 2"],
        ],
        tree: &["d . =700", "f b 2"],
    },
    Case {
        rule: "what aufs left behind is no part of the image",
        layers: &[&[
            "f .wh..wh.aufs 0",
            "d .wh..wh.plnk",
            "f .wh..wh.plnk/1.2 3",
            "d .wh..wh.orph",
            "f a 1",
        ]],
        tree: &["f a 1"],
    },
    Case {
        rule: "a file over a directory removes all below it",
        layers: &[&["d a", "d a/b", "f a/b/c 1"], &["f a 2"]],
        tree: &["f a 2"],
    },
    Case {
        rule: "a directory over a file replaces it",
        layers: &[&["f a 1"], &["d a", "f a/b 2"]],
        tree: &["d a", "f a/b 2"],
    },
    Case {
        rule: "a directory over a directory replaces attributes and keeps entries",
        layers: &[
            &["d a =700 u1:1 @1 user.x:1 user.y:2", "f a/f 1"],
            &["d a =755 u2:3 @4 user.y:5"],
        ],
        tree: &["d a u2:3 @4 user.y:5", "f a/f 1"],
    },
    Case {
        rule: "a file over a file takes nothing from it",
        layers: &[&["f a 1 =600 u1:1 @1 user.x:1"], &["f a 2"]],
        tree: &["f a 2"],
    },
    Case {
        rule: "a symbolic link over a directory removes all below it",
        layers: &[&["d lib", "f lib/x 1"], &["s lib usr/lib"]],
        tree: &["s lib usr/lib"],
    },
    Case {
        rule: "a directory over a symbolic link replaces it",
        layers: &[
            &["d usr", "d usr/lib", "f usr/lib/x 1", "s lib usr/lib"],
            &["d lib =711", "f lib/y 2"],
        ],
        tree: &[
            "d lib =711",
            "f lib/y 2",
            "d usr",
            "d usr/lib",
            "f usr/lib/x 1",
        ],
    },
    Case {
        rule: "a symbolic link of a lower layer gives way to entries below it",
        layers: &[
            &["d usr", "d usr/lib", "f usr/lib/x 1", "s lib usr/lib"],
            &["f lib/y 2"],
        ],
        tree: &["d lib", "f lib/y 2", "d usr", "d usr/lib", "f usr/lib/x 1"],
    },
    Case {
        rule: "a symbolic link of the same layer leads inside the tree",
        layers: &[
            &["d usr", "d usr/lib", "f usr/lib/x 1"],
            &[
                "s lib ../../usr/./lib",
                "s l64 /lib",
                "f lib/y 2",
                "f l64/new/z 3",
            ],
        ],
        tree: &[
            "s l64 /lib",
            "s lib ../../usr/./lib",
            "d usr",
            "d usr/lib",
            "d usr/lib/new",
            "f usr/lib/new/z 3",
            "f usr/lib/x 1",
            "f usr/lib/y 2",
        ],
    },
    Case {
        rule: "a symbolic link of the same layer to nothing makes directories",
        layers: &[&["s a b/c", "f a/f 1"]],
        tree: &["s a b/c", "d b", "d b/c", "f b/c/f 1"],
    },
    Case {
        rule: "a file of a lower layer gives way to entries below it",
        layers: &[&["f a 1"], &["f a/b 2"]],
        tree: &["d a", "f a/b 2"],
    },
    Case {
        rule: "missing parents are root's with mode 0755 and the entry's time",
        layers: &[&["f a/b/c 1 =600 u5:5 @6"], &["f a/d/e 1 @7"]],
        tree: &[
            "d a @6",
            "d a/b @6",
            "f a/b/c 1 =600 u5:5 @6",
            "d a/d @7",
            "f a/d/e 1 @7",
        ],
    },
    Case {
        rule: "entries for parents may follow",
        layers: &[&["f a/b 1 @5", "d a =700 @1"]],
        tree: &["d a =700 @1", "f a/b 1 @5"],
    },
    Case {
        rule: "the last of several entries for a name counts",
        layers: &[&["f a 1 =600", "s a x", "f a 2", "d b", "f b/x 1", "f b 3"]],
        tree: &["f a 2", "f b 3"],
    },
    Case {
        rule: "a path goes on through a directory that was replaced in between",
        layers: &[&["d a", "f a/x 1", "f a 2", "d a", "f a/y 3"]],
        tree: &["d a", "f a/y 3"],
    },
    Case {
        rule: "a hard link to a lower layer shares its inode",
        layers: &[&["f a 1 =600 @1"], &["d d", "h d/b a"]],
        tree: &["f a 1 =600 @1", "d d", "h d/b a"],
    },
    Case {
        rule: "owner, mode and xattrs of a hard link are its target's",
        layers: &[&["f a 1 =600 @1", "h b a =777 u1:1 @9 user.x:y"]],
        tree: &["f a 1 =600 @1", "h b a"],
    },
    Case {
        rule: "replacing one name of a file leaves the others",
        layers: &[&["f a 1", "h b a", "h c a"], &["f b 2", "f .wh.c 0"]],
        tree: &["f a 1", "f b 2"],
    },
    Case {
        rule: "a hard link to a symbolic link is the link itself",
        layers: &[&["f a 1", "s s a", "h t s"]],
        tree: &["f a 1", "s s a", "h t s"],
    },
    Case {
        rule: "hard links reach through symbolic links to directories",
        layers: &[&["d usr", "f usr/f 1", "s u usr"], &["h g u/f"]],
        tree: &["f g 1", "s u usr", "d usr", "h usr/f g"],
    },
    Case {
        rule: "a hard link to itself changes nothing",
        layers: &[&["f a 1", "h a a"]],
        tree: &["f a 1"],
    },
    Case {
        rule: "a hard link replaces what was there",
        layers: &[&["d d", "f d/x 1", "f f 2"], &["h d f"]],
        tree: &["f d 2", "h f d"],
    },
    Case {
        rule: "a hard link keeps what it links to when that is replaced later",
        layers: &[&["f a 1"], &["h b a", "f a 2"]],
        tree: &["f a 2", "f b 1"],
    },
    Case {
        rule: "device nodes, /dev, /proc and overlay marks are the image's own",
        layers: &[
            &["d dev", "c dev/null 1:3", "c x 0:0"],
            &["d proc user.overlay.opaque:y"],
        ],
        tree: &[
            "d dev",
            "c dev/null 1:3",
            "d proc user.overlay.opaque:y",
            "c x 0:0",
        ],
    },
];

#[test]
fn layers_merge_by_the_rules() {
    for case in CASES {
        let tree = merge(case.layers).unwrap_or_else(|e| panic!("{}: {e}", case.rule));
        assert_eq!(dump(&tree), case.tree, "{}", case.rule);
    }
}

#[test]
fn what_cannot_be_merged_names_layer_and_path() {
    let long = format!("f {} 1", "x".repeat(256));
    let deep = format!("f {} 1", "x/".repeat(2500));
    let cases: &[(&[&str], &str, &str)] = &[
        (&["h b a"], "/b", "hard link to /a, which is not there"),
        (
            &["f c 1", "h b c/a"],
            "/b",
            "hard link to /c/a, which is not there",
        ),
        (
            &["h b .wh.low"],
            "/b",
            "hard link to /.wh.low, which is not there",
        ),
        (
            &["f .wh.low 0", "h b low"],
            "/b",
            "hard link to /low, which is not there",
        ),
        (
            &["d d", "f d/f 1", "h d d/f"],
            "/d",
            "hard link to /d/f, which is not there",
        ),
        (
            &["d d", "h b d"],
            "/b",
            "hard link to /d, which is a directory",
        ),
        (&["h b ."], "/b", "hard link to /., which is a directory"),
        (&["s l l", "h b l/x"], "/b", "too many levels"),
        (&["s l l", "f l/x 1"], "/l/x", "too many levels"),
        (&["f f 1", "f f/x 2"], "/f/x", "/f is not a directory"),
        (&["f . 1"], "/", "must be a directory"),
        (&["f a/.wh. 0"], "/a/.wh.", "a whiteout of no file"),
        (&["f a/.wh... 0"], "/a/.wh...", "a whiteout of no file"),
        (&["f .wh.a/b 1"], "/.wh.a/b", "a whiteout is no directory"),
        (&[&long], "/xxx", "longer than 255 bytes"),
        (&[&deep], "/x/x", "longer than 4096 bytes"),
    ];
    for (lines, path, problem) in cases {
        let error = merge(&[&["f low 1"], lines]).unwrap_err().to_string();
        let expected = format!("layer sha256:{:064x}: {path}", 1);
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn a_link_that_becomes_a_directory_is_worth_a_warning() {
    let base: &[&str] = &["d usr", "d usr/lib", "s lib usr/lib"];
    for layer in [&["d lib"][..], &["f lib/x 1"]] {
        let tree = merge(&[base, layer]).unwrap();
        let [warning] = tree.warnings() else {
            panic!("{:?}", tree.warnings());
        };
        assert!(warning.contains("symbolic link lib"), "{warning}");
    }
    let tree = merge(&[base, &["s lib usr/lib64"], &["f lib 1"]]).unwrap();
    assert!(tree.warnings().is_empty());
}

#[test]
fn depth_comes_from_the_image_and_overflows_no_stack() {
    let mut lines: Vec<String> = Vec::new();
    // Each layer links one level deeper than a path could name at once.
    let deep = "d/".repeat(1000);
    lines.push(format!("d {}", deep.trim_end_matches('/')));
    let mut at = deep;
    for n in 0..30 {
        lines.push(format!("s l{n} {at}"));
        at = format!("l{n}/{}", "d/".repeat(1000));
        lines.push(format!("d {}", at.trim_end_matches('/')));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut tree = merge(&[&lines]).unwrap();
    assert_eq!(tree.walk().count(), 1 + 31 * 1000 + 30);
    assert!(tree.remove(tree.root(), b"d"));
}
