//! Sizes and durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes: `4096`, `10G`, `512MiB`, `1.5T`.
///
/// As in qemu-img and truncate, K, M, G and T are powers of 1024, with or
/// without `iB`; `KB`, `MB`, `GB` and `TB` are powers of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a size; write for example 512M, 10G or 4096");
        let text_trimmed = text.trim();
        let digits = text_trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text_trimmed.len());
        let (number, unit) = text_trimmed.split_at(digits);
        let factor = factor(unit.trim()).ok_or_else(error)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if fraction.is_empty() || fraction.len() > 9 {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let parts: u64 = fraction.parse().map_err(|_| error())?;
        let scale = 10u128.pow(fraction.len() as u32);
        let bytes = u128::from(whole) * factor + u128::from(parts) * factor / scale;
        u64::try_from(bytes).map(Self).map_err(|_| error())
    }
}

fn factor(unit: &str) -> Option<u128> {
    let lower = unit.to_ascii_lowercase();
    let power = |letter: u8| {
        b"kmgtp"
            .iter()
            .position(|l| *l == letter)
            .map(|p| p as u32 + 1)
    };
    match lower.as_bytes() {
        b"" | b"b" => Some(1),
        [l] | [l, b'i', b'b'] | [l, b'i'] => Some(1024u128.pow(power(*l)?)),
        [l, b'b'] => Some(1000u128.pow(power(*l)?)),
        _ => None,
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut unit = 0;
        let mut value = self.0 as f64;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{value:.1} {}", units[unit])
        }
    }
}

/// Parses `90s`, `15m`, `12h`, `30d`, `2w`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is not a duration; write for example 12h, 30d or 2w");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(error)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(error)
}

/// Parses the name of a virtual machine: what is a host name and a file name.
pub(super) fn vm_name(text: &str) -> Result<String, String> {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if first && rest && text.len() <= 40 {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is no name for a machine: up to 40 letters, digits and any of - _ . are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machines_are_names_of_files() {
        for text in ["a", "web-1", "A.b_c"] {
            assert_eq!(vm_name(text).as_deref(), Ok(text));
        }
        let long = "a".repeat(41);
        for text in ["", ".", "..", "-a", "a/b", "a b", "\u{e9}", &long] {
            assert!(vm_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("10G", Some(10 << 30)),
            ("10g", Some(10 << 30)),
            ("512MiB", Some(512 << 20)),
            ("1.5K", Some(1536)),
            ("2GB", Some(2_000_000_000)),
            ("16E", None),
            ("99999999P", None),
            ("-1", None),
            ("G", None),
            ("1.", None),
            ("1..2", None),
            ("ten", None),
        ] {
            assert_eq!(text.parse::<ByteSize>().ok().map(|s| s.0), bytes, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("2w"), Ok(Duration::from_secs(14 * 86_400)));
        for text in ["", "5", "d", "1y", "é", "99999999999999999999w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
