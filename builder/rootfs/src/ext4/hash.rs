//! The half-MD4 hash of names in indexed directories.
//! See the kernel's `fs/ext4/hash.c` for the on-disk definition.

/// A name's place in an indexed directory: by `major`, then `minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NameHash {
    /// What the index sorts by; the lowest bit is 0.
    pub(super) major: u32,
    /// Orders names of the same `major`.
    pub(super) minor: u32,
}

/// The largest value is kept for the end of a directory.
const END: u32 = 0x7fff_ffff << 1;

/// The hash of `name` under the file system's seed, bytes taken as signed
/// (`EXT2_FLAGS_SIGNED_HASH` in the superblock), so that it is the same
/// wherever the volume was made.
pub(super) fn half_md4(name: &[u8], seed: &[u32; 4]) -> NameHash {
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    if seed.iter().any(|&word| word != 0) {
        state = *seed;
    }
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(32..).unwrap_or_default();
    }
    let mut major = state[1] & !1;
    if major == END {
        major = END - 2;
    }
    NameHash {
        major,
        minor: state[2],
    }
}

/// Eight words of at most 32 bytes, padded with the length.
fn words(bytes: &[u8]) -> [u32; 8] {
    let len = bytes.len() as u32;
    let pad = len | len << 8;
    let pad = pad | pad << 16;
    let mut out = [pad; 8];
    for (word, chunk) in out.iter_mut().zip(bytes.chunks(4)) {
        *word = chunk.iter().fold(pad, |word, &byte| {
            (byte as i8 as u32).wrapping_add(word << 8)
        });
    }
    out
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    // One round: function, constant, order of the words, shifts.
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for step in 0..8 {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[order[step]])
                .wrapping_add(constant);
            let next = sum.rotate_left(shifts[step % 4]);
            (a, b, c, d) = (d, next, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_debugfs() {
        // `debugfs -R "dx_hash -h half_md4 -s SEED NAME"`.
        let seed = [0x3920_b18b, 0x1234_5678, 0x0bad_cafe, 0xdead_beef];
        let long = [b'x'; 100];
        let cases: [(&[u8], u32, u32); 4] = [
            (b"a", 0xbd90_afa8, 0x7fc8_73af),
            (b"libssl.so.3", 0xf9c2_bdb4, 0x30bd_a68c),
            ("é".as_bytes(), 0x91e5_604c, 0xd30b_fec9),
            (&long, 0x101b_8da8, 0x4cd2_c5e6),
        ];
        for (name, major, minor) in cases {
            let want = NameHash { major, minor };
            assert_eq!(half_md4(name, &seed), want, "{name:?}");
        }
    }
}
