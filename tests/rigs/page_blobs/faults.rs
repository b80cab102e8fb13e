//! Faults: the switches, what they choose for a request, and the pace that they keep.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::counts::OperationKind;

/// What goes wrong, as plain data. Nothing, by default.
///
/// The six that have a probability exclude each other: a request has one of them at most, so that their sum is at
/// most one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    /// Reads are spared, but by `unreachable`.
    pub writes_only: bool,
    /// Each answer takes that long; what is asked is done before.
    pub slow: Option<Duration>,
    /// 503 ServerBusy for a blob that is asked for more.
    pub throttle: Option<Throttle>,
    /// 500 OperationTimedOut, and nothing is done.
    pub error_500: f64,
    /// 500 OperationTimedOut, and it is done.
    pub error_500_executed: f64,
    /// 503 ServerBusy, and nothing is done.
    pub error_503: f64,
    /// The connection is closed, and it is done.
    pub lost_answer: f64,
    /// The connection is closed, and nothing is done.
    pub lost_request: f64,
    pub late: Option<Late>,
    /// 403 AuthenticationFailed.
    pub expired_credential: bool,
    /// 403 AuthorizationPermissionMismatch for writes.
    pub no_permission: bool,
    /// 409 BlobImmutableDueToPolicy for changes of blobs that are there.
    pub worm: bool,
    /// Connections are accepted and closed.
    pub unreachable: bool,
    /// The service's clock is so far ahead of the client's.
    pub clock_ahead: Option<Duration>,
    /// Copies that are started are pending for so long. Not a fault, but as Azure does it.
    pub copy_takes: Option<Duration>,
}

/// What a blob may be asked for, each with a second's worth at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    pub requests_per_s: f64,
    pub bytes_per_s: f64,
}

/// Writes of pages that are done after the client has been told that they were not.
#[derive(Clone, Debug, PartialEq)]
pub struct Late {
    /// How probable.
    pub p: f64,
    /// How long after.
    pub after: Range<Duration>,
}

/// The switches of a server that runs.
#[derive(Debug)]
pub struct Faults {
    plan: Mutex<Arc<FaultPlan>>,
    random: Mutex<StdRng>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// What chance chose for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chance {
    Nothing,
    Error500,
    Error500Executed,
    Error503,
    LostAnswer,
    LostRequest,
    /// Whether the connection is closed, or 500 said.
    Late {
        after: Duration,
        is_closed: bool,
    },
}

/// How much of a second's worth is left of requests and bytes.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    requests: f64,
    bytes: f64,
    at: Instant,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            plan: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            buckets: Mutex::default(),
        }
    }

    /// What goes wrong from now on.
    ///
    /// # Panics
    ///
    /// When probabilities are none.
    pub fn set(&self, plan: FaultPlan) {
        let late = plan.late.as_ref().map_or(0.0, |late| late.p);
        let all = [
            plan.error_500,
            plan.error_500_executed,
            plan.error_503,
            plan.lost_answer,
            plan.lost_request,
            late,
        ];
        let is_sound = all.iter().all(|p| (0.0..=1.0).contains(p));
        assert!(
            is_sound && all.iter().sum::<f64>() <= 1.0 + 1e-9,
            "{plan:?}"
        );
        let mut known = lock(&self.plan);
        if known.throttle != plan.throttle {
            lock(&self.buckets).clear();
        }
        *known = Arc::new(plan);
    }

    /// Changes a part of it.
    pub fn change(&self, change: impl FnOnce(&mut FaultPlan)) {
        let mut plan = FaultPlan::clone(&self.plan());
        change(&mut plan);
        self.set(plan);
    }

    /// Nothing goes wrong from now on.
    pub fn none(&self) {
        self.set(FaultPlan::default());
    }

    /// What goes wrong now.
    pub fn plan(&self) -> Arc<FaultPlan> {
        lock(&self.plan).clone()
    }

    /// Chooses for a request.
    pub(super) fn chance(&self, plan: &FaultPlan, kind: OperationKind) -> Chance {
        if !plan.concerns(kind) {
            return Chance::Nothing;
        }
        let mut random = lock(&self.random);
        let mut left: f64 = random.random();
        let mut falls = |p: f64| {
            left -= p;
            left < 0.0
        };
        let choices = [
            (plan.lost_request, Chance::LostRequest),
            (plan.error_503, Chance::Error503),
            (plan.error_500, Chance::Error500),
            (plan.error_500_executed, Chance::Error500Executed),
            (plan.lost_answer, Chance::LostAnswer),
        ];
        for (p, chance) in choices {
            if falls(p) {
                return chance;
            }
        }
        match &plan.late {
            Some(late) if kind.is_page_write() && falls(late.p) => Chance::Late {
                after: within(&late.after, random.random()),
                is_closed: random.random(),
            },
            _ => Chance::Nothing,
        }
    }

    /// Whether a blob may be asked for this now, or how long to wait. Unit of `bytes`: bytes.
    pub(super) fn pace(
        &self,
        throttle: Throttle,
        blob: &str,
        bytes: u64,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut buckets = lock(&self.buckets);
        let full = Bucket {
            requests: throttle.requests_per_s,
            bytes: throttle.bytes_per_s,
            at: now,
        };
        if !buckets.contains_key(blob) {
            buckets.insert(blob.to_owned(), full);
        }
        let bucket = buckets.get_mut(blob).expect("inserted if it was not there");
        bucket.take(throttle, bytes, now)
    }
}

impl FaultPlan {
    /// Whether its faults are for operations of this kind.
    pub(super) fn concerns(&self, kind: OperationKind) -> bool {
        !self.writes_only || kind.is_write()
    }
}

impl Bucket {
    /// One request that is longer than a second's worth goes when the bucket is full, and leaves a debt.
    fn take(&mut self, throttle: Throttle, bytes: u64, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let filled = |left: f64, rate: f64| (left + since * rate).min(rate);
        self.requests = filled(self.requests, throttle.requests_per_s);
        self.bytes = filled(self.bytes, throttle.bytes_per_s);
        #[expect(
            clippy::cast_precision_loss,
            reason = "lengths of requests are far below 2^53"
        )]
        let bytes = bytes as f64;
        let missing = |left: f64, wanted: f64, rate: f64| (wanted.min(rate) - left) / rate;
        let wait = missing(self.requests, 1.0, throttle.requests_per_s).max(missing(
            self.bytes,
            bytes,
            throttle.bytes_per_s,
        ));
        // A billionth of a second is lost where shares of it are added up.
        if 1e-9 < wait {
            return Err(Duration::from_secs_f64(wait.min(3600.0)));
        }
        self.requests -= 1.0;
        self.bytes -= bytes;
        Ok(())
    }
}

/// The point of a range at a share of it.
fn within(range: &Range<Duration>, share: f64) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(share)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed while it held the lock has said what is wrong.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
