//! Times as ISO 9660 stores them, here in UTC.

use bootwright_image::Timestamp;

use crate::fat::civil_from_days;

const SECS_PER_DAY: i64 = 86_400;
/// 1970-01-01T00:00:00Z: earlier times become this one.
const FIRST: i64 = 0;
/// 2155-12-31T23:59:59Z, the last that a directory record can hold.
const LAST: i64 = 5_869_583_999;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    year: i64,
    /// Month, day, hour, minute, second.
    rest: [u8; 5],
}

impl Date {
    /// What a descriptor says of a time that there is not (ECMA-119, 8.4.26.1).
    pub(super) const NONE: [u8; 17] = *b"0000000000000000\0";

    /// The nearest time that can be stored.
    pub(super) fn new(time: Timestamp) -> Self {
        let secs = time.secs.clamp(FIRST, LAST);
        let (year, month, day) = civil_from_days(secs.div_euclid(SECS_PER_DAY));
        let second = secs.rem_euclid(SECS_PER_DAY);
        let rest = [month, day, second / 3600, second / 60 % 60, second % 60];
        Self {
            year,
            // All in range because of the clamp above.
            rest: rest.map(|number| number as u8),
        }
    }

    /// As a directory record has it (ECMA-119, 9.1.5).
    pub(super) fn short(self) -> [u8; 7] {
        let [month, day, hour, minute, second] = self.rest;
        [
            (self.year - 1900) as u8,
            month,
            day,
            hour,
            minute,
            second,
            0,
        ]
    }

    /// As a descriptor has it (ECMA-119, 8.4.26.1).
    pub(super) fn digits(self) -> [u8; 17] {
        let [month, day, hour, minute, second] = self.rest;
        let text = format!(
            "{:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}00\0",
            self.year
        );
        text.as_bytes().try_into().unwrap_or(Self::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_to_what_can_be_stored() {
        for (secs, digits) in [
            (1_780_000_000, b"2026052820264000\0"),
            (-1, b"1970010100000000\0"),
            (i64::MAX, b"2155123123595900\0"),
        ] {
            let date = Date::new(Timestamp { secs, nanos: 0 });
            assert_eq!(&date.digits(), digits, "{secs}");
        }
    }
}
