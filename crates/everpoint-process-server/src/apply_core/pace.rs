//! How fast requests go to one target: at most what the service promises, and less while it says that it is busy.

use std::time::Duration;

use everpoint_units::Moment;

/// What a target takes. Source of the defaults: Azure, "Scalability and performance targets for Blob storage": 500
/// requests and 60 MiB a second for one page blob.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rates {
    pub requests_per_s: u64,
    /// Unit: bytes a second.
    pub bytes_per_s: u64,
}

/// How far ahead of the rate requests may be: what a target was not asked for a moment ago it takes now.
const BURST: Duration = Duration::from_millis(250);
/// The share of the rate, in parts of this.
const FULL: u64 = 1_024;
/// A busy target gets at least this share.
const SHARE_MIN: u64 = 16;
/// What each request that succeeds gives back.
const RECOVERY: u64 = 4;
/// Several requests that were under way at once are told *busy* for one reason.
const BUSY_EVERY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Clone, Debug)]
pub struct Pace {
    rates: Rates,
    /// What was sent so far is paid for then.
    paid_at: Moment,
    share: u64,
    busy_until: Moment,
}

impl Pace {
    /// At most these rates.
    pub const fn new(rates: Rates) -> Self {
        Self {
            rates,
            paid_at: Moment(0),
            share: FULL,
            busy_until: Moment(0),
        }
    }

    /// When the next request may be sent.
    pub fn ready_at(&self) -> Moment {
        let burst = u64::try_from(BURST.as_nanos()).expect("a moment");
        Moment(self.paid_at.0.saturating_sub(burst))
    }

    /// Takes requests with so many bytes, if they may be sent now.
    pub fn take(&mut self, requests: u64, bytes: u64, now: Moment) -> bool {
        if now < self.ready_at() {
            return false;
        }
        let rates = &self.rates;
        let by_count = nanos(requests, rates.requests_per_s);
        let by_len = nanos(bytes, rates.bytes_per_s);
        let cost = by_count.max(by_len).saturating_mul(FULL) / self.share;
        self.paid_at = self.paid_at.max(now).after(Duration::from_nanos(cost));
        true
    }

    /// A request was carried out.
    pub fn handle_done(&mut self, now: Moment) {
        if self.busy_until <= now {
            self.share = (self.share + RECOVERY).min(FULL);
        }
    }

    /// The target says that it has too much to do.
    pub fn handle_busy(&mut self, now: Moment) {
        if self.busy_until <= now {
            self.share = (self.share / 2).max(SHARE_MIN);
            self.busy_until = now.after(BUSY_EVERY);
        }
    }
}

fn nanos(count: u64, per_s: u64) -> u64 {
    let nanos = u128::from(count) * 1_000_000_000 / u128::from(per_s.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        requests_per_s: 500,
        bytes_per_s: 60 << 20,
    };

    /// Requests of so many bytes that are taken within `seconds` when one is tried each millisecond.
    fn taken(pace: &mut Pace, bytes: u64, from: u64, seconds: u64) -> u64 {
        let millis = from * 1_000..(from + seconds) * 1_000;
        let tried = millis.flat_map(|milli| [milli; 4]);
        let at = |milli: u64| Moment(milli * 1_000_000);
        tried
            .filter(|milli| pace.take(1, bytes, at(*milli)))
            .count() as u64
    }

    #[test]
    fn small_requests_are_bounded_by_their_number_and_large_ones_by_their_bytes() {
        let small = taken(&mut Pace::new(RATES), 512, 0, 10);
        assert!((5_000..=5_130).contains(&small), "{small}");
        let large = taken(&mut Pace::new(RATES), 4 << 20, 0, 10);
        assert!((150..=155).contains(&large), "{large}");
    }

    #[test]
    fn a_busy_target_gets_less_and_then_more_again() {
        let mut pace = Pace::new(RATES);
        let full = taken(&mut pace, 512, 0, 1);
        for milli in 0..10 {
            pace.handle_busy(Moment((1_000 + milli) * 1_000_000));
        }
        let less = taken(&mut pace, 512, 2, 1);
        assert!(less < full * 6 / 10, "{less} of {full}");
        assert!(full / 4 < less, "ten answers of one moment count as one");
        (0..1_000).for_each(|_| pace.handle_done(Moment(3_000_000_000)));
        let again = taken(&mut pace, 512, 4, 1);
        assert!(full * 8 / 10 < again, "{again} of {full}");
    }
}
