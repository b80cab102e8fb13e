//! When to try again, and when to stop: the budget, the back-off and the deadline of one request.

use std::time::Duration;

use everpoint_units::ByteLen;
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::config::RetryConfig;

/// The progress of one request through its attempts.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    config: &'a RetryConfig,
    deadline: Instant,
    /// How much longer than others an attempt may take, by the bytes that it moves.
    moves: Duration,
    attempts: u32,
}

impl<'a> Schedule<'a> {
    /// For a request that moves at most `len`.
    pub(crate) fn new(config: &'a RetryConfig, len: ByteLen) -> Self {
        let moves = config.time_of(len);
        Self {
            config,
            deadline: Instant::now() + config.deadline_max() + moves,
            moves,
            attempts: 0,
        }
    }

    /// How many attempts were begun.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn begin(&mut self) {
        self.attempts += 1;
    }

    /// How long one call to the store may take from now on.
    pub(crate) fn call_max(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(self.config.attempt_max() + self.moves)
    }

    /// The pause before the next attempt, or `None` when it is time to give up.
    pub(crate) fn pause(&self, jitter: &mut SmallRng) -> Option<Duration> {
        if self.config.attempts_max <= self.attempts {
            return None;
        }
        let doublings = self.attempts.saturating_sub(1).min(32);
        let longest = self
            .config
            .delay_ms_first
            .saturating_mul(1 << doublings)
            .min(self.config.delay_ms_max);
        let pause = Duration::from_millis(jitter.random_range(longest.div_ceil(2)..=longest));
        (Instant::now() + pause < self.deadline).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_their_limit_and_end_with_the_budget() {
        let config = RetryConfig {
            attempts_max: 6,
            delay_ms_first: 100,
            delay_ms_max: 400,
            ..RetryConfig::default()
        };
        let mut jitter = SmallRng::seed_from_u64(7);
        let mut schedule = Schedule::new(&config, ByteLen(0));
        for longest in [100, 200, 400, 400, 400] {
            schedule.begin();
            let pause = schedule.pause(&mut jitter).unwrap();
            assert!(
                (longest / 2..=longest).contains(&pause.as_millis()),
                "{pause:?} of {longest}"
            );
        }
        schedule.begin();
        assert_eq!(schedule.pause(&mut jitter), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_pause_and_no_call_passes_the_deadline() {
        let config = RetryConfig {
            delay_ms_first: 1_000,
            delay_ms_max: 1_000,
            attempt_ms_max: 700,
            deadline_ms_max: 1_500,
            ..RetryConfig::default()
        };
        let mut jitter = SmallRng::seed_from_u64(7);
        let mut schedule = Schedule::new(&config, ByteLen(0));
        schedule.begin();
        assert_eq!(schedule.call_max(), Duration::from_millis(700));
        assert!(schedule.pause(&mut jitter).is_some());
        tokio::time::advance(Duration::from_millis(1_100)).await;
        assert_eq!(schedule.call_max(), Duration::from_millis(400));
        assert_eq!(schedule.pause(&mut jitter), None);
    }

    #[test]
    fn jitter_spreads_the_pauses() {
        let config = RetryConfig::default();
        let mut jitter = SmallRng::seed_from_u64(7);
        let mut schedule = Schedule::new(&config, ByteLen(0));
        (0..7).for_each(|_| schedule.begin());
        let pauses: std::collections::BTreeSet<_> =
            (0..50).map(|_| schedule.pause(&mut jitter)).collect();
        assert!(40 < pauses.len());
    }
}
