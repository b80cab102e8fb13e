//! What an operator can tune, and what a caller asks of [`crate::Vault::open`].

use std::num::NonZeroUsize;
use std::time::Duration;

use everpoint_units::ByteLen;

use crate::cloud::{AzureAccess, S3Access};

/// Limits of one open vault. Every field is tunable: nothing of it is stored with the data.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// How a request is repeated.
    pub retry: RetryConfig,
    /// Threads that one vault may keep busy with file I/O; 1 to 64. While a filesystem hangs, so many
    /// threads hang with it and further requests wait, so that the runtime goes on.
    pub blocking_threads_max: usize,
    /// Longest object created, and longest piece read at once; 1 MiB to 4 GiB. Unit: bytes. It bounds
    /// what a damaged or foreign object can make a reader allocate.
    pub object_len_max: u64,
    /// Most objects in one page of a listing; 1 to 100,000. The default is Azure's (REST reference, "List
    /// Blobs": `maxresults` at most 5,000).
    pub list_page_count_max: usize,
    /// How `az://` vaults are reached.
    pub azure: AzureAccess,
    /// How `s3://` vaults are reached.
    pub s3: S3Access,
    /// Seed of the back-off's jitter; drawn anew at each open when absent. For simulations that must run
    /// twice alike.
    #[serde(skip)]
    pub jitter_seed: Option<u64>,
}

/// How a request is repeated: exponential back-off with jitter, within a budget and a deadline.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Attempts at one request, the first included; 1 to 1,000.
    pub attempts_max: u32,
    /// Pause before the second attempt; 1 to `delay_ms_max`. It doubles with each further attempt, and each
    /// pause is shortened at random by up to a half. Unit: milliseconds.
    pub delay_ms_first: u64,
    /// Longest pause; at most 600,000. Unit: milliseconds.
    pub delay_ms_max: u64,
    /// Longest wait for one attempt, after which its outcome is unknown; 1 to 3,600,000. An attempt that moves
    /// bytes waits longer, see `slow_link_bytes_per_s`. Unit: milliseconds.
    pub attempt_ms_max: u64,
    /// The slowest link that a large object has to pass: its bytes at this rate are added to the wait for one
    /// attempt, and to that for all. At least 1,024. Unit: bytes a second.
    pub slow_link_bytes_per_s: u64,
    /// Longest wait for all attempts together; at most 86,400,000. Unit: milliseconds.
    pub deadline_ms_max: u64,
}

/// A setting outside its bounds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("vault setting {key} is {value}, it must be {min} to {max}")]
pub struct ConfigError {
    /// The key below the vault's section, as `retry.attempts_max`.
    pub key: &'static str,
    /// What it was set to.
    pub value: u64,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
}

/// What [`crate::Vault::open`] does before it answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenOptions {
    /// Make the root of a `file://` vault, with its parents, where it is missing.
    pub create_root: bool,
    /// Prove create-if-absent with two creates of one fresh name under `v1/probe/`. The object stays: a vault
    /// may forbid deletion.
    pub probe: bool,
    /// Remove staged files whose writer is dead.
    pub clear_staged: bool,
}

impl OpenOptions {
    /// For those who only read: nothing is written.
    pub const READ: Self = Self {
        create_root: false,
        probe: false,
        clear_staged: false,
    };

    /// For those who write. The root must exist, so that a vault that is not mounted is not begun anew in
    /// the directory below its mount point.
    pub const WRITE: Self = Self {
        create_root: false,
        probe: true,
        clear_staged: true,
    };

    /// For those who begin a vault.
    pub const CREATE: Self = Self {
        create_root: true,
        ..Self::WRITE
    };
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            retry: RetryConfig::default(),
            blocking_threads_max: 8,
            object_len_max: 256 << 20,
            list_page_count_max: 5_000,
            azure: AzureAccess::default(),
            s3: S3Access::default(),
            jitter_seed: None,
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            delay_ms_first: 50,
            delay_ms_max: 5_000,
            attempt_ms_max: 30_000,
            deadline_ms_max: 60_000,
            slow_link_bytes_per_s: 1 << 20,
        }
    }
}

impl VaultConfig {
    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// The first setting that is outside its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let retry = &self.retry;
        for (key, value, min, max) in [
            (
                "blocking_threads_max",
                count(self.blocking_threads_max),
                1,
                64,
            ),
            ("object_len_max", self.object_len_max, 1 << 20, 4 << 30),
            (
                "list_page_count_max",
                count(self.list_page_count_max),
                1,
                100_000,
            ),
            ("retry.attempts_max", retry.attempts_max.into(), 1, 1_000),
            ("retry.delay_ms_max", retry.delay_ms_max, 1, 600_000),
            (
                "retry.delay_ms_first",
                retry.delay_ms_first,
                1,
                retry.delay_ms_max,
            ),
            ("retry.attempt_ms_max", retry.attempt_ms_max, 1, 3_600_000),
            (
                "retry.deadline_ms_max",
                retry.deadline_ms_max,
                1,
                86_400_000,
            ),
            (
                "retry.slow_link_bytes_per_s",
                retry.slow_link_bytes_per_s,
                1_024,
                u64::MAX,
            ),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn object_len_max(&self) -> ByteLen {
        ByteLen(self.object_len_max)
    }

    pub(crate) fn page_count_max(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.list_page_count_max).unwrap_or(NonZeroUsize::MIN)
    }
}

impl RetryConfig {
    pub(crate) fn attempt_max(&self) -> Duration {
        Duration::from_millis(self.attempt_ms_max)
    }

    /// How much longer an attempt may take that moves so many bytes.
    pub(crate) fn time_of(&self, len: ByteLen) -> Duration {
        Duration::from_millis(len.0.saturating_mul(1_000) / self.slow_link_bytes_per_s.max(1))
    }

    pub(crate) fn deadline_max(&self) -> Duration {
        Duration::from_millis(self.deadline_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_their_own_bounds() {
        assert_eq!(VaultConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        let mut config = VaultConfig {
            blocking_threads_max: 0,
            ..VaultConfig::default()
        };
        assert_eq!(config.check().unwrap_err().key, "blocking_threads_max");
        config = VaultConfig::default();
        config.retry.delay_ms_first = config.retry.delay_ms_max + 1;
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "vault setting retry.delay_ms_first is 5001, it must be 1 to 5000"
        );
    }
}
