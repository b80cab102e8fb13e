//! When a scheduled point is due, and what it is called. Pure.
//!
//! Points fall on multiples of their interval since 1970 in UTC. One that was missed, because nothing ran or a disk
//! was not level, is skipped and not made up for.

use std::num::NonZeroU64;
use std::time::Duration;

use everpoint_format::record::Consistency;
use everpoint_units::WallTime;

/// How late a point may be and still bear its time.
const LATE_MAX: Duration = Duration::from_secs(10);

/// The points of one class.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Unit: microseconds.
    interval: NonZeroU64,
    /// The newest slot that was looked at.
    last: u64,
}

impl Schedule {
    /// Points every `interval_s` seconds, the first at the next multiple. `None` if it is 0: off.
    pub fn new(interval_s: u32, now: WallTime) -> Option<Self> {
        let interval = NonZeroU64::new(u64::from(interval_s) * 1_000_000)?;
        let last = now.0 / interval;
        Some(Self { interval, last })
    }

    /// When the next is due.
    pub fn next(&self, now: WallTime) -> WallTime {
        let slot = (now.0 / self.interval).max(self.last) + 1;
        WallTime(slot.saturating_mul(self.interval.get()))
    }

    /// The time of the point that is due now, which is due no more. A clock that was set back by more than an interval
    /// begins a new count; one slot is never due twice in a row.
    pub fn take_due(&mut self, now: WallTime) -> Option<WallTime> {
        let slot = now.0 / self.interval;
        let rises = self.last < slot;
        if rises || slot + 1 < self.last {
            self.last = slot;
        }
        let late = now.0 % self.interval;
        let is_late = LATE_MAX.as_micros() < u128::from(late);
        (rises && !is_late).then(|| WallTime(now.0 - late))
    }
}

/// What a scheduled point is called: its class and its time, to the second.
pub fn name(class: Consistency, time: WallTime) -> String {
    let class = match class {
        Consistency::Crash => "crash",
        Consistency::App => "app",
        Consistency::Group => "group",
    };
    let time = time.to_string();
    let second = time.split_once('.').map_or(&*time, |(second, _)| second);
    format!("{class}-{second}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> WallTime {
        WallTime(seconds * 1_000_000)
    }

    #[test]
    fn points_fall_on_multiples_and_each_once() {
        let mut schedule = Schedule::new(60, at(61)).unwrap();
        assert_eq!(schedule.next(at(61)), at(120));
        assert_eq!(schedule.take_due(at(119)), None);
        assert_eq!(schedule.take_due(at(121)), Some(at(120)));
        assert_eq!(schedule.take_due(at(122)), None);
        assert_eq!(schedule.next(at(122)), at(180));
    }

    #[test]
    fn a_point_that_was_missed_is_not_made_up_for() {
        let mut schedule = Schedule::new(60, at(0)).unwrap();
        assert_eq!(schedule.take_due(at(60 * 5 + 11)), None);
        assert_eq!(schedule.take_due(at(60 * 5 + 12)), None);
        assert_eq!(schedule.take_due(at(60 * 6)), Some(at(60 * 6)));
    }

    #[test]
    fn a_clock_that_goes_back_a_little_makes_no_point_twice_and_one_set_back_goes_on() {
        let mut schedule = Schedule::new(60, at(0)).unwrap();
        assert_eq!(schedule.take_due(at(600)), Some(at(600)));
        assert_eq!(schedule.take_due(at(599)), None);
        assert_eq!(schedule.take_due(at(601)), None);
        assert_eq!(schedule.take_due(at(100)), None);
        assert_eq!(schedule.take_due(at(120)), Some(at(120)));
    }

    #[test]
    fn an_interval_of_nothing_is_off() {
        assert!(Schedule::new(0, at(0)).is_none());
    }

    #[test]
    fn a_name_tells_class_and_second() {
        let time = WallTime::parse_rfc3339("2026-11-29T12:00:00Z").unwrap();
        let said = name(Consistency::Crash, time);
        assert_eq!(said, "crash-2026-11-29T12:00:00Z");
        assert_eq!(name(Consistency::App, time), "app-2026-11-29T12:00:00Z");
    }
}
