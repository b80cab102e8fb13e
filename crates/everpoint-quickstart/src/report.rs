//! What a quickstart found: its JSON, and the verdict.

use std::time::Duration;

use everpoint_units::Seq;
use serde::Serialize;

use crate::shadow::Digest;

/// Everything that was found. The keys are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Writes, zeroes and discards that the guest was told are done.
    pub writes: u64,
    /// Data in those writes; zeroes and discards carry none.
    pub bytes_written: u64,
    /// The bookmarks, each restored and compared whole.
    pub points: Vec<PointReport>,
    /// The unmarked positions, each restored and judged.
    pub prefix_checks: PrefixChecks,
    /// Age of the newest committed change, sampled while the load ran.
    pub rpo_ms: Quantiles,
    /// Bytes of journal objects that the run made in the vault.
    pub journal_bytes: u64,
    /// `bytes_written` over `journal_bytes`.
    pub reduction_ratio: f64,
    /// Completed writes that the newest point does not have.
    pub lost_writes: u64,
    /// What was done to the process server meanwhile; `None` with `--no-attack`.
    pub attacked: Option<Attack>,
    /// How long the load ran. Unit: seconds.
    pub seconds: f64,
}

/// One bookmark.
#[derive(Clone, Debug, Serialize)]
pub struct PointReport {
    pub name: String,
    pub seq: u64,
    /// BLAKE3 of the disk as the load knows it.
    pub source_digest: String,
    /// BLAKE3 of what was restored.
    pub restored_digest: String,
    pub identical: bool,
    pub restore_ms: u64,
}

/// Positions without a bookmark.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PrefixChecks {
    pub tried: u64,
    pub held: u64,
    /// Those that do not hold, and why.
    pub violations: Vec<ViolationReport>,
}

/// A position that does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct ViolationReport {
    pub seq: u64,
    pub what: String,
}

/// Of a number of samples. Unit: milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// A process server that was killed while the load ran.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Attack {
    /// How often.
    pub server_kills: u64,
    /// From the kill until the next boot took agents again. Unit: milliseconds.
    pub down_ms: u64,
}

impl Report {
    /// Whether every point is what the source was, every position holds and nothing is lost.
    pub fn holds(&self) -> bool {
        let identical = self.points.iter().all(|point| point.identical);
        identical && self.prefix_checks.held == self.prefix_checks.tried && self.lost_writes == 0
    }
}

impl PointReport {
    /// Compares two digests.
    pub(crate) fn new(
        name: &str,
        seq: Seq,
        source: Digest,
        restored: Digest,
        took: Duration,
    ) -> Self {
        Self {
            name: name.to_owned(),
            seq: seq.0,
            source_digest: source.to_string(),
            restored_digest: restored.to_string(),
            identical: source == restored,
            restore_ms: millis(took),
        }
    }
}

impl Quantiles {
    /// Of these samples, in any order; zeroes if there are none. A quantile is the smallest sample that so
    /// many of all do not exceed.
    pub(crate) fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            samples.get(rank - 1).copied().unwrap_or(0)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// `written` over `stored`, to two decimals; 0 if nothing is stored.
pub(crate) fn reduction_ratio(written: u64, stored: u64) -> f64 {
    let hundredths = written.saturating_mul(100).checked_div(stored).unwrap_or(0);
    f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_that_were_taken() {
        let samples: Vec<u64> = (1..=200).rev().collect();
        let expected = Quantiles {
            p50: 100,
            p99: 198,
            max: 200,
        };
        assert_eq!(Quantiles::of(samples), expected);
        assert_eq!(Quantiles::of(vec![7]).p50, 7);
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }

    #[test]
    fn the_ratio_is_written_over_stored() {
        assert!((reduction_ratio(300, 200) - 1.5).abs() < 1e-9);
        assert!(reduction_ratio(300, 0).abs() < 1e-9);
    }

    fn report() -> Report {
        let digest = Digest([1; 32]);
        let point = PointReport::new("a", Seq(4), digest, digest, Duration::from_millis(9));
        Report {
            writes: 10,
            bytes_written: 4_096,
            points: vec![point],
            prefix_checks: PrefixChecks {
                tried: 2,
                held: 2,
                violations: Vec::new(),
            },
            rpo_ms: Quantiles::default(),
            journal_bytes: 2_048,
            reduction_ratio: 2.0,
            lost_writes: 0,
            attacked: None,
            seconds: 1.0,
        }
    }

    #[test]
    fn anything_that_differs_spoils_the_verdict() {
        assert!(report().holds());
        let spoils: [fn(&mut Report); 3] = [
            |report| report.points[0].identical = false,
            |report| report.prefix_checks.held = 1,
            |report| report.lost_writes = 1,
        ];
        for spoil in spoils {
            let mut report = report();
            spoil(&mut report);
            assert!(!report.holds());
        }
    }

    #[test]
    fn digests_that_differ_are_not_identical() {
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        let took = Duration::ZERO;
        assert!(PointReport::new("a", Seq(1), one, one, took).identical);
        assert!(!PointReport::new("a", Seq(1), one, other, took).identical);
    }

    #[test]
    fn the_json_has_the_keys_that_are_promised() {
        let json = serde_json::to_value(report()).expect("plain data");
        for key in [
            "/writes",
            "/bytes_written",
            "/points/0/name",
            "/points/0/seq",
            "/points/0/source_digest",
            "/points/0/restored_digest",
            "/points/0/identical",
            "/points/0/restore_ms",
            "/prefix_checks/tried",
            "/prefix_checks/held",
            "/rpo_ms/p50",
            "/rpo_ms/p99",
            "/rpo_ms/max",
            "/journal_bytes",
            "/reduction_ratio",
            "/lost_writes",
            "/attacked",
        ] {
            assert!(json.pointer(key).is_some(), "{key}");
        }
    }
}
