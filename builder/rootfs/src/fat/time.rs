//! Times as FAT stores them (fatgen103, page 25): local time, here UTC.

use bootwright_image::Timestamp;

const SECS_PER_DAY: i64 = 86_400;
/// 1980-01-01T00:00:00Z.
const FIRST: i64 = 315_532_800;
/// 2107-12-31T23:59:59Z.
const LAST: i64 = 4_354_819_199;

/// A point in time as the fields of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FatTime {
    pub(super) date: u16,
    /// In units of two seconds.
    pub(super) time: u16,
    /// 10 ms units to add to `time`, 0 to 199; for creation times only.
    pub(super) tenth: u8,
}

impl FatTime {
    /// The nearest time that FAT can hold.
    pub(super) fn new(t: Timestamp) -> Self {
        let (secs, nanos) = match t.secs {
            ..FIRST => (FIRST, 0),
            FIRST..=LAST => (t.secs, t.nanos.min(999_999_999)),
            _ => (LAST, 0),
        };
        let (year, month, day) = civil_from_days(secs.div_euclid(SECS_PER_DAY));
        let second = secs.rem_euclid(SECS_PER_DAY);
        // All in range because of the clamp above.
        Self {
            date: ((year - 1980) << 9 | month << 5 | day) as u16,
            time: ((second / 3600) << 11 | (second / 60 % 60) << 5 | (second % 60 / 2)) as u16,
            tenth: (second % 2 * 100) as u8 + (nanos / 10_000_000) as u8,
        }
    }
}

/// The time that a date and a time field say, if they say one.
pub(super) fn decode(date: u16, time: u16) -> Option<Timestamp> {
    let (year, month, day) = (
        1980 + i64::from(date >> 9),
        i64::from(date >> 5 & 15),
        i64::from(date & 31),
    );
    let (hour, minute, second) = (
        i64::from(time >> 11),
        i64::from(time >> 5 & 63),
        i64::from(time & 31) * 2,
    );
    if !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 58 {
        return None;
    }
    Some(Timestamp {
        secs: days_from_civil(year, month, day) * SECS_PER_DAY + hour * 3600 + minute * 60 + second,
        nanos: 0,
    })
}

/// Year, month and day of a day since 1970-01-01. Years are counted from March
/// here, so that the leap day comes last and the days before a month follow
/// from 153 days per five months.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// The reverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> FatTime {
        FatTime::new(Timestamp { secs, nanos: 0 })
    }

    fn fields(t: FatTime) -> (u16, u16, u16, u16, u16, u16) {
        (
            1980 + (t.date >> 9),
            t.date >> 5 & 15,
            t.date & 31,
            t.time >> 11,
            t.time >> 5 & 63,
            t.time & 31,
        )
    }

    #[test]
    fn known_times_have_their_fields() {
        // date -u -d @SECONDS
        assert_eq!(fields(at(951_827_696)), (2000, 2, 29, 12, 34, 28));
        assert_eq!(fields(at(1_741_171_811)), (2025, 3, 5, 10, 50, 5));
        assert_eq!(at(1_741_171_811).tenth, 100);
        let fraction = Timestamp {
            secs: 1_741_171_811,
            nanos: 999_999_999,
        };
        assert_eq!(FatTime::new(fraction).tenth, 199);
    }

    #[test]
    fn times_outside_the_range_are_clamped() {
        assert_eq!(fields(at(i64::MIN)), (1980, 1, 1, 0, 0, 0));
        assert_eq!(fields(at(0)), (1980, 1, 1, 0, 0, 0));
        assert_eq!(fields(at(i64::MAX)), (2107, 12, 31, 23, 59, 29));
        assert_eq!(at(i64::MAX), at(LAST));
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..(LAST - FIRST) / SECS_PER_DAY {
            let secs = FIRST + day * SECS_PER_DAY + 86_398;
            let t = at(secs);
            assert_eq!(decode(t.date, t.time), Some(Timestamp { secs, nanos: 0 }));
        }
        assert_eq!(decode(0, 0), None);
        assert_eq!(decode(0xffff, 0xffff), None);
    }
}
