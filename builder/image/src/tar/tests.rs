//! Archives that tools would hardly write, good ones and bad ones.

use super::*;

#[derive(Default)]
struct Collector(Vec<(Member, Vec<u8>)>);

impl Sink for Collector {
    type Error = TarError;

    fn member(&mut self, member: &Member) -> Result<(), TarError> {
        self.0.push((member.clone(), Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }
}

fn read_in_pieces(
    tar: &[u8],
    piece: usize,
    limits: Limits,
) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(limits);
    let mut collector = Collector::default();
    for bytes in tar.chunks(piece) {
        reader.feed(bytes, &mut collector)?;
    }
    reader.finish()?;
    Ok(collector.0)
}

/// What is read, which must not depend on how the bytes come.
fn read(tar: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let whole = read_in_pieces(tar, tar.len().max(1), Limits::default());
    for piece in [1, 7, 511, 512, 513, 4096] {
        assert_eq!(
            read_in_pieces(tar, piece, Limits::default()),
            whole,
            "pieces of {piece}"
        );
    }
    whole
}

/// A header with a right checksum, changed at some bytes before.
fn header(name: &[u8], flag: u8, size: u64, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    for (at, bytes) in changes {
        header.as_mut_bytes()[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn file(name: &[u8], data: &[u8]) -> Vec<u8> {
    [header(name, b'0', data.len() as u64, &[]), padded(data)].concat()
}

/// A pax header with these records.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let len = (rest + 1..).find(|len| len - len.to_string().len() == rest);
        data.extend_from_slice(format!("{} {key}=", len.unwrap()).as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    [header(b"pax", b'x', data.len() as u64, &[]), padded(&data)].concat()
}

const END: [u8; 1024] = [0; 1024];

fn paths(tar: &[u8]) -> Vec<String> {
    let members = read(tar).unwrap();
    let path = |(member, _): &(Member, Vec<u8>)| String::from_utf8_lossy(&member.path).into_owned();
    members.iter().map(path).collect()
}

#[test]
fn paths_are_brought_into_one_form() {
    let cases: [(&[u8], &str); 8] = [
        (b"a/b", "a/b"),
        (b"./a/b", "a/b"),
        (b"/a/b", "a/b"),
        (b".//a/././b", "a/b"),
        (b"a.../..b", "a.../..b"),
        (b"dir/", "dir"),
        (b"./", ""),
        (b"/", ""),
    ];
    for (name, path) in cases {
        assert_eq!(paths(&header(name, b'5', 0, &[])), [path]);
    }
}

#[test]
fn an_old_directory_is_known_by_its_slash() {
    let magicless = [(257, &[0u8; 8][..])];
    let members = read(&header(b"d/", 0, 0, &magicless)).unwrap();
    assert_eq!(members[0].0.kind, MemberKind::Directory);
    for flag in [0, b'0', b'7'] {
        let members = read(&[header(b"f", flag, 1, &magicless), padded(b"x")].concat()).unwrap();
        assert_eq!(members[0].0.kind, MemberKind::Regular);
        assert_eq!(members[0].1, b"x");
    }
}

#[test]
fn later_headers_win_over_earlier_ones() {
    let long = |flag, name: &[u8]| {
        [
            header(b"././@LongLink", flag, name.len() as u64, &[]),
            padded(name),
        ]
        .concat()
    };
    let tar = [
        pax(&[("path", b"from/pax"), ("linkpath", b"pax target")]),
        long(b'L', b"from/gnu\0"),
        long(b'K', b"gnu target\0"),
        header(b"from/header", b'2', 0, &[(157, b"header target")]),
        // None of it is left for the next member.
        header(b"next", b'2', 0, &[(157, b"t")]),
    ]
    .concat();
    let members = read(&tar).unwrap();
    assert_eq!(members[0].0.path, b"from/gnu");
    assert_eq!(members[0].0.target, b"gnu target");
    assert_eq!(members[1].0.path, b"next");
    assert_eq!(members[1].0.target, b"t");
}

#[test]
fn pax_records_replace_fields_of_the_header() {
    let tar = [
        pax(&[
            ("size", b"3"),
            ("uid", b"4294967295"),
            ("gid", b"3000000"),
            ("mtime", b"-1.25"),
            ("hdrcharset", b"BINARY"),
            ("comment", b"whatever"),
            ("SCHILY.xattr.user.b", b"old"),
            ("SCHILY.xattr.user.b", b"new"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n"),
            ("SCHILY.xattr.user.empty", b""),
            ("LIBARCHIVE.xattr.user.b", b"aWdub3JlZA"),
            ("LIBARCHIVE.xattr.user.c%20d", b"AP8"),
        ]),
        header(b"f", b'0', 0, &[]),
        padded(b"abc"),
    ]
    .concat();
    let (member, data) = read(&tar).unwrap().remove(0);
    assert_eq!(data, b"abc");
    assert_eq!(
        (member.size, member.uid, member.gid),
        (3, u32::MAX, 3_000_000)
    );
    let secs_and_nanos = (member.mtime.secs, member.mtime.nanos);
    assert_eq!(secs_and_nanos, (-2, 750_000_000));
    let xattrs: [(&[u8], &[u8]); 4] = [
        (b"security.capability", b"\x01\0\0\x02\n"),
        (b"user.b", b"new"),
        (b"user.c d", b"\0\xff"),
        (b"user.empty", b""),
    ];
    assert_eq!(member.xattrs, xattrs.map(|(n, v)| (n.to_vec(), v.to_vec())));
}

#[test]
fn global_headers_change_nothing_as_in_container_runtimes() {
    let mut global = pax(&[("path", b"evil"), ("comment", b"0123")]);
    global[156] = b'g';
    let mut header = tar::Header::from_byte_slice(&global[..512]).clone();
    header.set_cksum();
    global[..512].copy_from_slice(header.as_bytes());
    assert_eq!(
        paths(&[global, file(b"a", b"x"), file(b"b", b"y")].concat()),
        ["a", "b"]
    );
}

#[test]
fn big_and_negative_numbers_are_base_256() {
    let members = read(&header(
        b"f",
        b'5',
        0,
        &[
            (108, b"\x80\0\0\0\xff\xff\xff\xfe"),
            (136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"),
        ],
    ))
    .unwrap();
    assert_eq!(members[0].0.uid, 0xffff_fffe);
    assert_eq!(members[0].0.mtime, Timestamp { secs: -2, nanos: 0 });
}

#[test]
fn what_is_no_file_has_no_data_whatever_its_size_says() {
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let tar = [header(b"x", flag, 5000, &[(157, b"t")]), file(b"y", b"z")].concat();
        assert_eq!(paths(&tar), ["x", "y"], "{}", char::from(flag));
    }
}

#[test]
fn checksums_may_be_signed() {
    let mut block = header(b"\xff\xfe", b'5', 0, &[]);
    let signed: i64 = block.iter().map(|&b| i64::from(b.cast_signed())).sum();
    let stored: i64 = block[148..156].iter().map(|&b| i64::from(b)).sum();
    let sum = signed - stored + 8 * 32;
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read(&block).unwrap()[0].0.path, b"\xff\xfe");
    block[0] = 1;
    assert!(matches!(
        read(&block),
        Err(TarError::Header { offset: 0, .. })
    ));
}

#[test]
fn the_end_is_two_zero_blocks_or_the_end_of_the_bytes() {
    let a = file(b"a", b"x");
    assert_eq!(paths(&a), ["a"]);
    assert_eq!(paths(&[&a[..], &END[..512]].concat()), ["a"]);
    assert_eq!(paths(&[&a[..], &END, b"garbage", &a].concat()), ["a"]);
    assert!(paths(&END).is_empty());
    assert!(paths(b"").is_empty());
    let lone = [&END[..512], &a].concat();
    assert!(matches!(
        read(&lone),
        Err(TarError::Header { offset: 512, .. })
    ));
}

#[test]
fn a_truncated_archive_is_refused_wherever_it_ends() {
    let tar = [
        pax(&[("path", b"a")]),
        file(b"a", &[b'x'; 700]),
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9"),
        ]),
        header(b"s", b'0', 1024, &[]),
        padded(b"1\n0\n512\n"),
    ]
    .concat();
    // Whole members end here: after the first one.
    let good = [0, 1024 + 512 + 1024];
    for len in (0..tar.len()).filter(|len| !good.contains(len)) {
        let error = read_in_pieces(&tar[..len], 512, Limits::default()).unwrap_err();
        assert!(matches!(error, TarError::Truncated { offset, .. } if offset == len as u64));
    }
}

/// One sparse file, `data` where the runs are, in each of the four forms.
fn sparse_forms(size: u64, runs: &[(u64, u64)], data: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = |n: u64| n.to_string();
    let stored = data.len() as u64;
    let size_text = text(size);
    // Old GNU: four in the header, 21 in each block that follows.
    let entry = |&(offset, len): &(u64, u64)| format!("{offset:011o}\0{len:011o}\0");
    let mut changes: Vec<(usize, Vec<u8>)> = vec![
        (257, b"ustar  \0".to_vec()),
        (345, vec![0; 155]),
        (483, format!("{size:011o}\0").into_bytes()),
    ];
    let first: String = runs.iter().take(4).map(entry).collect();
    changes.push((386, first.into_bytes()));
    changes.push((482, vec![u8::from(runs.len() > 4)]));
    let changes: Vec<(usize, &[u8])> = changes.iter().map(|(at, b)| (*at, &b[..])).collect();
    let mut old = header(b"s", b'S', stored, &changes);
    let rest = runs.get(4..).unwrap_or_default();
    for (number, part) in rest.chunks(21).enumerate() {
        let mut block: Vec<u8> = part.iter().map(entry).collect::<String>().into_bytes();
        block.resize(512, 0);
        block[504] = u8::from((number + 1) * 21 < rest.len());
        old.extend(block);
    }
    old.extend(padded(data));
    // pax 0.0
    let numbers: Vec<(&str, String)> = runs
        .iter()
        .flat_map(|&(o, l)| {
            [
                ("GNU.sparse.offset", text(o)),
                ("GNU.sparse.numbytes", text(l)),
            ]
        })
        .collect();
    let mut records: Vec<(&str, &[u8])> = vec![("GNU.sparse.size", size_text.as_bytes())];
    records.extend(numbers.iter().map(|(k, v)| (*k, v.as_bytes())));
    let file = [header(b"s", b'0', stored, &[]), padded(data)].concat();
    let pax00 = [pax(&records), file.clone()].concat();
    // pax 0.1
    let map: Vec<String> = numbers.iter().map(|(_, v)| v.clone()).collect();
    let map = map.join(",");
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", size_text.as_bytes()),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let pax01 = [pax(&records), file].concat();
    // pax 1.0
    let mut map = format!("{}\n", runs.len());
    runs.iter().for_each(|(o, l)| map += &format!("{o}\n{l}\n"));
    let map = padded(map.as_bytes());
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", size_text.as_bytes()),
    ];
    let stored = stored + map.len() as u64;
    let pax10 = [
        pax(&records),
        header(b"GNUSparseFile.0/s", b'0', stored, &[]),
        map,
        padded(data),
    ]
    .concat();
    vec![
        ("old GNU", old),
        ("pax 0.0", pax00),
        ("pax 0.1", pax01),
        ("pax 1.0", pax10),
    ]
}

#[test]
fn sparse_files_of_all_forms_say_the_same() {
    let many: Vec<(u64, u64)> = (0..100).map(|n| (n * 8192, 3)).collect();
    let cases: [(u64, &[(u64, u64)]); 4] = [
        (1 << 32, &[(0, 5), (1 << 31, 7), (1 << 32, 0)]),
        (4096, &[(4096, 0)]),
        (10, &[(0, 10)]),
        (1 << 20, &many),
    ];
    for (size, runs) in cases {
        let stored: u64 = runs.iter().map(|(_, len)| len).sum();
        let data: Vec<u8> = (0..stored).map(|n| n as u8 | 1).collect();
        for (form, tar) in sparse_forms(size, runs, &data) {
            let members = read(&[tar, file(b"next", b"n")].concat()).unwrap();
            let (member, content) = &members[0];
            assert_eq!(member.path, b"s", "{form}");
            assert_eq!(member.size, size, "{form}");
            let expected: Vec<Run> = runs
                .iter()
                .filter(|(_, len)| *len > 0)
                .map(|&(offset, len)| Run { offset, len })
                .collect();
            assert_eq!(member.runs, expected, "{form}");
            assert_eq!(content, &data, "{form}");
            assert_eq!(members[1].0.path, b"next", "{form}");
        }
    }
}

#[test]
fn hostile_sparse_maps_are_refused() {
    let cases: [(u64, &[(u64, u64)]); 5] = [
        (100, &[(0, 10), (5, 10)]),
        (100, &[(50, 10), (0, 10)]),
        (100, &[(95, 10)]),
        (100, &[(1 << 33, 10)]),
        (100, &[(0, 9)]),
    ];
    for (size, runs) in cases {
        for (form, tar) in sparse_forms(size, runs, &[1; 10]) {
            let result = read(&tar);
            assert!(
                matches!(result, Err(TarError::Entry { .. })),
                "{form}: {result:?}"
            );
        }
    }
    for map in [
        "x\n",
        "99999999999\n",
        "123456789012345678901234567890\n",
        "1\n-1\n5\n",
        "1\n\n5\n",
    ] {
        let records: [(&str, &[u8]); 3] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"100"),
        ];
        let tar = [
            pax(&records),
            header(b"s", b'0', 1024, &[]),
            padded(map.as_bytes()),
        ]
        .concat();
        assert!(matches!(read(&tar), Err(TarError::Entry { .. })), "{map:?}");
    }
}

#[test]
fn what_no_file_system_could_hold_is_refused_by_name() {
    let long_name = [b'n'; 256];
    let long_path = b"abc/".repeat(1025);
    let long_target = [b't'; 4096];
    let big_xattr = vec![b'v'; 65_537];
    let with =
        |records: &[(&str, &[u8])], flag| [pax(records), header(b"x", flag, 0, &[])].concat();
    let link = |flag, target: &[u8]| with(&[("linkpath", target)], flag);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (file(b"a/../b", b""), "`..`"),
        (file(b"..", b""), "`..`"),
        (with(&[("path", b"../x")], b'0'), "`..`"),
        (with(&[("path", &long_name)], b'0'), "more than 255"),
        (with(&[("path", &long_path)], b'0'), "more than 4095"),
        (with(&[("path", b"a\0b")], b'0'), "NUL"),
        (with(&[("path", b"/.")], b'0'), "only a directory"),
        (link(b'2', &long_target), "more than 4095"),
        (link(b'2', b""), "without a target"),
        (link(b'1', b"../etc/passwd"), "`..`"),
        (link(b'1', b"./"), "hard link to nothing"),
        (with(&[("uid", b"4294967296")], b'0'), "owner"),
        (with(&[("gid", b"99999999999")], b'0'), "group"),
        (with(&[("size", b"9223372036854775808")], b'0'), "size"),
        (with(&[("SCHILY.xattr.", b"v")], b'0'), "without a name"),
        (
            with(&[("SCHILY.xattr.user.x", &big_xattr)], b'0'),
            "too long",
        ),
        (header(b"x", b'Z', 0, &[]), "unknown"),
        (header(b"x", b'M', 0, &[]), "unknown"),
        (header(b"x", b'3', 0, &[(329, b"0010000\0")]), "device"),
        (header(b"x", b'0', 0, &[(100, b"rw-r--r-")]), "mode"),
        (
            header(b"x", b'0', 0, &[(108, b"\xff\xff\xff\xff\xff\xff\xff\xff")]),
            "owner",
        ),
        (header(b"x", b'0', 0, &[(136, b"yesterday\0\0\0")]), "time"),
    ];
    for (tar, message) in cases {
        let error = read(&tar).unwrap_err();
        assert!(matches!(error, TarError::Entry { .. }), "{error}");
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
}

#[test]
fn limits_end_reading_with_the_option_to_raise() {
    let limits = Limits {
        max_entries: 2,
        ..Limits::default()
    };
    let three = [file(b"a", b""), file(b"b", b""), file(b"c", b"")].concat();
    let error = read_in_pieces(&three, 512, limits).unwrap_err().to_string();
    assert!(
        error.contains("more than 2 entries") && error.contains("--max-entries"),
        "{error}"
    );
    let huge = header(b"pax", b'x', (1 << 20) + 1, &[]);
    assert!(matches!(read(&huge), Err(TarError::Header { .. })));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000)) {
        let _ = read_in_pieces(&bytes, 512, Limits::default());
    }

    #[test]
    fn no_change_to_a_good_archive_makes_it_panic(
        at in 0usize..6000,
        byte in proptest::num::u8::ANY,
        form in 0usize..4,
    ) {
        let runs: Vec<(u64, u64)> = (0..30).map(|n| (n * 8192, 3)).collect();
        let (_, mut tar) = sparse_forms(1 << 20, &runs, &[1; 90]).remove(form);
        tar.extend(pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")]));
        tar.extend(file(b"f", b"data"));
        if let Some(old) = tar.get_mut(at) {
            *old = byte;
        }
        // Right checksums let the change through to what is behind them.
        for start in (0..=tar.len().saturating_sub(512)).step_by(512) {
            if tar[start + 257..].starts_with(b"ustar") {
                let mut header = tar::Header::from_byte_slice(&tar[start..start + 512]).clone();
                header.set_cksum();
                tar[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        let _ = read_in_pieces(&tar, 512, Limits::default());
    }
}
