//! The one place that reads clocks; cores get what it says handed in.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use everpoint_units::{Moment, WallTime};
use tokio::time::Duration;

/// Monotonic time since the server started, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that stands at zero now.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Now, on the monotonic clock.
    pub(crate) fn now(self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Sleeps until `moment`, or for ever if there is none. Dropping it early loses nothing.
    pub(crate) async fn sleep_until(self, moment: Option<Moment>) {
        match moment {
            Some(Moment(nanos)) => {
                let at = self.start + Duration::from_nanos(nanos);
                tokio::time::sleep_until(at.into()).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// The wall clock. Metadata only.
pub(crate) fn wall_time() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
}
