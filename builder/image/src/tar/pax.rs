//! Pax extended headers, as in POSIX.1-2001 `pax`, "pax Header Block" and
//! "pax Extended Header", with the records that star, GNU tar and libarchive
//! add.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::sparse::decimal;
use crate::layer::Timestamp;

/// What an extended header says about the member that follows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    /// By full name, not yet sorted; a name may come twice, the last counts.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
    /// Names of extended attributes as libarchive encodes them, where that
    /// changes them.
    encoded: Vec<Vec<u8>>,
}

/// GNU's `GNU.sparse.*` records, see "Sparse Formats" in GNU tar's manual.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Offset and length by turns, of versions 0.0 and 0.1.
    pub(super) map: Option<Vec<u64>>,
}

/// Parses the records of an extended header.
pub(super) fn parse(mut bytes: &[u8], max_numbers: usize) -> Result<Pax, String> {
    let mut pax = Pax::default();
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or("its pax header has a malformed record")?;
        bytes = rest;
        apply(&mut pax, key, value, max_numbers)
            .map_err(|why| format!("its pax record {:?} {why}", String::from_utf8_lossy(key)))?;
    }
    // libarchive says everything twice, and encodes the name both times.
    let Pax {
        encoded, xattrs, ..
    } = &mut pax;
    xattrs.retain(|(name, _)| !encoded.contains(name));
    Ok(pax)
}

/// One `LENGTH KEY=VALUE\n`; the length counts all of it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&b| b == b' ')?;
    let len = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&b| b == b'=')?;
    let (key, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn apply(pax: &mut Pax, key: &[u8], value: &[u8], max_numbers: usize) -> Result<(), &'static str> {
    let number = || match value {
        // An empty value takes a former record back.
        b"" => Ok(None),
        _ => decimal(value).map(Some).ok_or("is no number in range"),
    };
    let name = || match value {
        b"" => Ok(None),
        _ if value.contains(&0) => Err("has a NUL byte"),
        _ => Ok(Some(value.to_vec())),
    };
    match key {
        b"path" => pax.path = name()?,
        b"linkpath" => pax.link_path = name()?,
        b"size" => pax.size = number()?,
        b"uid" => pax.uid = number()?,
        b"gid" => pax.gid = number()?,
        b"mtime" => {
            pax.mtime = match value {
                b"" => None,
                _ => Some(time(value).ok_or("is no time in range")?),
            };
        }
        b"GNU.sparse.major" => pax.sparse.major = number()?,
        b"GNU.sparse.minor" => pax.sparse.minor = number()?,
        b"GNU.sparse.name" => pax.sparse.name = name()?,
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => pax.sparse.size = number()?,
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            let map = pax.sparse.map.get_or_insert_default();
            let turn = map.len() % 2 == usize::from(key.ends_with(b"numbytes"));
            let (true, Some(number)) = (turn, number()?) else {
                return Err("is out of order");
            };
            map.push(number);
        }
        b"GNU.sparse.map" => {
            let numbers = value.split(|&b| b == b',').map(decimal);
            let map: Option<Vec<u64>> = numbers.take(max_numbers + 1).collect();
            pax.sparse.map = Some(map.ok_or("is no list of numbers")?);
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                pax.xattrs.push((name.to_vec(), value.to_vec()));
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let encoded = name;
                let name = percent_decoded(encoded).ok_or("has a malformed name")?;
                if name != encoded {
                    pax.encoded.push(encoded.to_vec());
                }
                if !pax.xattrs.iter().any(|(known, _)| *known == name) {
                    let value = BASE64.decode(value).map_err(|_| "is no base64")?;
                    pax.xattrs.push((name, value));
                }
            }
        }
    }
    if pax
        .sparse
        .map
        .as_ref()
        .is_some_and(|m| m.len() > max_numbers)
    {
        return Err("has too many segments");
    }
    Ok(())
}

/// libarchive leaves the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn percent_decoded(name: &[u8]) -> Option<Vec<u8>> {
    let hex = |digit: Option<&u8>| char::from(*digit?).to_digit(16);
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'%' => u8::try_from(hex(bytes.next())? * 16 + hex(bytes.next())?).ok()?,
            _ => byte,
        });
    }
    Some(out)
}

/// Seconds since 1970 with a fraction: `-1.5` is half a second before -1.
/// Digits beyond nanoseconds are cut off towards the past, as GNU tar does.
fn time(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let point = value.iter().position(|&b| b == b'.');
    let (whole, fraction) = match point {
        Some(at) => (value.get(..at)?, value.get(at + 1..)?),
        None => (value, &b""[..]),
    };
    let secs = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0u32, |n, d| n * 10 + u32::from(d - b'0'));
    let cut = fraction.iter().skip(9).any(|&d| d != b'0');
    if !negative {
        return Some(Timestamp { secs, nanos });
    }
    let nanos = nanos + u32::from(cut);
    Some(match nanos {
        0 => Timestamp { secs: -secs, nanos },
        _ => Timestamp {
            secs: (-secs).checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &[u8]) -> Vec<u8> {
        let tail = key.len() + value.len() + 3;
        let mut len = tail + 1;
        while len != tail + len.to_string().len() {
            len = tail + len.to_string().len();
        }
        [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn values_may_hold_newlines_and_any_other_byte() {
        let value = b"\x02\0\0\0\n\xff\n12 path=x\n";
        let header = [
            one("SCHILY.xattr.security.x", value),
            one("path", b"\xff\n"),
        ]
        .concat();
        let pax = parse(&header, 10).unwrap();
        assert_eq!(pax.xattrs, [(b"security.x".to_vec(), value.to_vec())]);
        assert_eq!(pax.path, Some(b"\xff\n".to_vec()));
    }

    #[test]
    fn libarchive_names_are_percent_encoded_and_values_base64() {
        let pax = parse(&one("LIBARCHIVE.xattr.user.a%3Db%0a", b"AAECAw"), 10).unwrap();
        assert_eq!(pax.xattrs, [(b"user.a=b\n".to_vec(), vec![0, 1, 2, 3])]);
    }

    #[test]
    fn names_that_libarchive_encodes_come_once() {
        let header = [
            one("LIBARCHIVE.xattr.user.%3D", b"dg"),
            one("SCHILY.xattr.user.%3D", b"v"),
            one("LIBARCHIVE.xattr.user.a", b"dg"),
            one("SCHILY.xattr.user.a", b"v"),
        ];
        let mut pax = parse(&header.concat(), 10).unwrap();
        pax.xattrs.dedup();
        let names: Vec<_> = pax.xattrs.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, [b"user.=", b"user.a"]);
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let cases = [
            (&b"0"[..], Some((0, 0))),
            (b"1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.0000000019", Some((1, 1))),
            (b"-1", Some((-1, 0))),
            (b"-1.5", Some((-2, 500_000_000))),
            (b"-0.1", Some((-1, 900_000_000))),
            (b"-0.0000000001", Some((-1, 999_999_999))),
            (b"1e9", None),
            (b"99999999999999999999", None),
            (b"1.x", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(secs, nanos)| Timestamp { secs, nanos });
            assert_eq!(time(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for header in [
            &b"11 path=a"[..],
            b"8 path=a\n",
            b"99 path=a\n",
            b"0 path=a\n",
            b"10 path a\n",
            b"5 =a\n",
            b"path=a\n",
            b"18446744073709551615 path=a\n",
            b"-1 path=a\n",
        ] {
            assert!(
                parse(header, 10).is_err(),
                "{}",
                String::from_utf8_lossy(header)
            );
        }
        assert!(parse(&one("path", b"a\0b"), 10).is_err());
        assert!(parse(&one("uid", b"x"), 10).is_err());
        assert!(parse(&one("GNU.sparse.numbytes", b"1"), 10).is_err());
        assert!(parse(&one("GNU.sparse.map", b"1,2,3,4"), 3).is_err());
    }
}
