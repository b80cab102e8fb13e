//! The two clocks: one that only goes forward, for deadlines, and the one that people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everpoint_capture::Stamp;
use everpoint_units::{Moment, WallTime};
use tokio::time::Instant;

/// Where moments are counted from. Cheap to copy; all copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Now, for decisions.
    pub(crate) fn now(self) -> Moment {
        Moment::default().after(self.start.elapsed())
    }

    /// Now, on both clocks.
    pub(crate) fn stamp(self) -> Stamp {
        Stamp {
            now: self.now(),
            at: wall(),
        }
    }

    /// When to wake for `moment`.
    pub(crate) fn instant(self, moment: Moment) -> Instant {
        self.start + Duration::from_nanos(moment.0)
    }
}

/// Now, for people. Zero on a machine whose clock is before 1970.
pub(crate) fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
}
