//! Time, handed in by whoever drives a core: monotonic for decisions, wall-clock for people.

use std::fmt;
use std::time::Duration;

/// A point on the driver's monotonic clock. Unit: nanoseconds since the driver started.
///
/// `std::time::Instant` would do, but a simulation cannot make one up from a seed.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Moment(pub u64);

/// A wall-clock time. Unit: microseconds since 1970 UTC. Metadata: no order and no safety depends on it, and how
/// long a point stays only where two clocks agree.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WallTime(pub u64);

impl Moment {
    /// The moment that lies `delay` after this one; saturates at the end of time.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl WallTime {
    /// The month that it lies in, in UTC, counted from year 0 on.
    pub fn month(self) -> u64 {
        let (year, month, _) = civil(self.0 / 86_400_000_000);
        year * 12 + month - 1
    }

    /// This time moved by `micros` microseconds, saturating at both ends.
    #[must_use]
    pub fn shifted(self, micros: i64) -> Self {
        Self(self.0.saturating_add_signed(micros))
    }
}

/// RFC 3339 with microseconds and `Z`; years beyond 9999 print as they are.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60
        )
    }
}

impl WallTime {
    /// Reads RFC 3339 (`2026-11-22T10:00:00Z`, `…+01:00`, fraction up to microseconds kept).
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<u64> {
            let part = text.get(from..to)?;
            part.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| part.parse().ok())?
        };
        let shape = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
        if shape.iter().any(|&(at, sign)| bytes.get(at) != Some(&sign))
            || !matches!(bytes.get(10), Some(b'T' | b't' | b' '))
        {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let days = days_from_civil(year, month, day)?;
        if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut at = 19;
        let mut micros = 0;
        if bytes.get(at) == Some(&b'.') {
            let digits = text[at + 1..]
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count();
            if digits == 0 {
                return None;
            }
            let kept = digits.min(6);
            let scale = u32::try_from(6 - kept).ok()?;
            micros = number(at + 1, at + 1 + kept)? * 10_u64.pow(scale);
            at += 1 + digits;
        }
        let zone_s = match bytes.get(at)? {
            b'Z' | b'z' if at + 1 == bytes.len() => 0,
            sign @ (b'+' | b'-') if at + 6 == bytes.len() && bytes[at + 3] == b':' => {
                let offset = number(at + 1, at + 3)? * 3_600 + number(at + 4, at + 6)? * 60;
                let offset = i64::try_from(offset).ok()?;
                if *sign == b'+' { -offset } else { offset }
            }
            _ => return None,
        };
        let seconds =
            (days * 86_400 + hour * 3_600 + minute * 60 + second).checked_add_signed(zone_s)?;
        Some(Self(seconds.checked_mul(1_000_000)?.checked_add(micros)?))
    }
}

/// Days since 1970 to year, month, day. Source: Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// The other way; `None` before 1970 or for a month outside 1 to 12.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_time_prints_and_reads_back_as_rfc_3339() {
        for micros in [
            0,
            951_827_696_789_012,
            1_767_225_600_000_000,
            4_102_444_799_999_999,
        ] {
            let time = WallTime(micros);
            assert_eq!(WallTime::parse_rfc3339(&time.to_string()), Some(time));
        }
        assert_eq!(
            WallTime(951_827_696_789_012).to_string(),
            "2000-02-29T12:34:56.789012Z"
        );
    }

    #[test]
    fn zones_and_fractions_are_understood_and_nonsense_is_not() {
        let utc = WallTime::parse_rfc3339("2026-11-22T10:00:00Z");
        assert!(utc.is_some());
        assert_eq!(utc, WallTime::parse_rfc3339("2026-11-22T11:30:00+01:30"));
        assert_eq!(
            utc,
            WallTime::parse_rfc3339("2026-11-22T09:00:00.000-01:00")
        );
        for bad in [
            "",
            "2026-11-22",
            "2026-02-30T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T10:00:00",
            "2026-11-22T10:00:00.Z",
            "2026-11-22T10:00:00Zx",
            "é026-11-22T10:00:00Z",
        ] {
            assert_eq!(WallTime::parse_rfc3339(bad), None, "{bad}");
        }
    }
}
