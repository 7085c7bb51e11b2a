//! The 512-byte header block, as in POSIX.1-1988 (`ustar`), POSIX.1-2001
//! `pax` "ustar Interchange Format" and GNU tar's `tar.h`.

use super::BLOCK;

/// A header block whose checksum is right.
#[derive(Debug)]
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

/// Which dialect the magic names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    /// J. Schilling's star: ustar whose prefix is shorter.
    Star,
    Gnu,
}

impl<'a> Header<'a> {
    /// Takes a block whose checksum is right, summed over unsigned or, as old
    /// tars did, signed bytes.
    pub(super) fn new(block: &'a [u8; BLOCK]) -> Result<Self, &'static str> {
        let header = Self(block);
        let stored = number(header.field(148, 8)).ok_or("the checksum is no number")?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored != unsigned && stored != signed {
            return Err("the checksum is wrong");
        }
        Ok(header)
    }

    fn field(&self, at: usize, len: usize) -> &'a [u8] {
        self.0.get(at..at + len).unwrap_or_default()
    }

    fn dialect(&self) -> Dialect {
        match self.field(257, 8) {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => match self.field(508, 4) {
                b"tar\0" => Dialect::Star,
                _ => Dialect::Ustar,
            },
            _ => Dialect::V7,
        }
    }

    /// The path: the name, after the prefix where there is one.
    pub(super) fn path(&self, out: &mut Vec<u8>) {
        out.clear();
        let prefix = match self.dialect() {
            Dialect::Ustar => text(self.field(345, 155)),
            Dialect::Star => text(self.field(345, 131)),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if !prefix.is_empty() {
            out.extend_from_slice(prefix);
            out.push(b'/');
        }
        out.extend_from_slice(text(self.field(0, 100)));
    }

    pub(super) fn link_name(&self) -> &'a [u8] {
        text(self.field(157, 100))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(self.field(100, 8))
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(self.field(108, 8))
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(self.field(116, 8))
    }

    /// Bytes of data that follow.
    pub(super) fn size(&self) -> Option<u64> {
        size(self.field(124, 12))
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(self.field(136, 12))
    }

    pub(super) fn dev_major(&self) -> Option<i64> {
        number(self.field(329, 8))
    }

    pub(super) fn dev_minor(&self) -> Option<i64> {
        number(self.field(337, 8))
    }

    /// Length of an old GNU sparse file (`realsize`).
    pub(super) fn sparse_real_size(&self) -> Option<u64> {
        size(self.field(483, 12))
    }

    /// The entries of an old GNU sparse header (`sp`), and whether a block
    /// with more follows (`isextended`).
    pub(super) fn sparse_entries(&self) -> (&'a [u8], bool) {
        (self.field(386, 4 * 24), self.0[482] != 0)
    }
}

/// The entries of an old GNU sparse extension block, and whether another one
/// follows.
pub(super) fn sparse_extension(block: &[u8; BLOCK]) -> (&[u8], bool) {
    (block.get(..21 * 24).unwrap_or_default(), block[504] != 0)
}

/// A size or offset, which is never negative.
pub(super) fn size(field: &[u8]) -> Option<u64> {
    number(field).and_then(|n| u64::try_from(n).ok())
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A number: octal digits between blanks and NULs, empty for 0, or GNU's
/// base-256 form: top bit set, the rest in two's complement, big endian.
fn number(field: &[u8]) -> Option<i64> {
    let &first = field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let invert = if negative { 0xff } else { 0 };
        let mut value: i64 = 0;
        for (at, &byte) in field.iter().enumerate() {
            let byte = byte ^ invert;
            let byte = if at == 0 { byte & 0x7f } else { byte };
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
        }
        return Some(if negative { !value } else { value });
    }
    let blank = |b: &u8| matches!(*b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at_checked(end)?;
    if !rest.iter().all(blank) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let cases: [(&[u8], Option<i64>); 13] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0\0\0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"64 4\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
