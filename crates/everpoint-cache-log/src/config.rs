//! Settings of the log, their bounds, and the arithmetic of one file.

use std::time::Duration;

use everpoint_format::cache_log::{
    BATCH_ALIGN, FILE_HEADER_LEN, PAYLOAD_LEN_MAX, RECORD_HEADER_LEN, RecordAlign,
};
use everpoint_units::{ByteLen, JournalId, ServerId, VaultId};

use crate::OpenError;

const FILE_LEN_MIN: u64 = 4 << 20;
const FILE_LEN_MAX: u64 = 1 << 30;
const BATCH_LEN_MIN: u64 = 64 << 10;
const BATCH_LEN_MAX: u64 = 64 << 20;

/// Whose log it is. Files of another vault or server are refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogOwner {
    pub vault: VaultId,
    pub server: ServerId,
    /// The journal of this boot: fresh, never one that has written here before.
    pub journal: JournalId,
}

/// How the log uses its directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheLogConfig {
    /// Length of a file, 4 MiB to 1 GiB in steps of 4 KiB, default 64 MiB. Files are freed whole:
    /// longer ones keep settled blocks longer, shorter ones cost more renames.
    pub file_len: ByteLen,
    /// All files of the log together never take more than this. At least `reserve` and two files.
    pub quota: ByteLen,
    /// The part of the quota that is kept back for a boot that finds the rest filled with blocks of
    /// earlier boots: its first file. None, or at least one file; default one file.
    pub reserve: ByteLen,
    /// Default: O_DIRECT where the file system has it.
    pub direct: DirectMode,
    /// Most bytes in one batch, so with one sync: 64 KiB to 64 MiB, default 8 MiB. Two batches lie
    /// in memory at a time.
    pub batch_len_max: ByteLen,
    /// Above this many queued payload bytes there is no room (see
    /// [`CacheLog::has_room`](crate::CacheLog::has_room)); default 32 MiB.
    pub queued_len_max: ByteLen,
    /// Freed files kept for use again; more than these are removed. Default 4.
    pub spare_count_max: usize,
    /// After so long without an append the log notes on the medium that its last batch was synced
    /// (see [`CacheLog`](crate::CacheLog)). Default 1 s.
    pub mark_after: Duration,
    /// Pause between attempts while the file system is out of space. Default 1 s.
    pub space_retry_after: Duration,
    /// Go on where synced records are missing, with what is left. An operator's word, never a
    /// default.
    pub accepts_damage: bool,
}

/// Whether the page cache is passed by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DirectMode {
    /// O_DIRECT where the file system takes it.
    #[default]
    Auto,
    /// Always through the page cache.
    Off,
}

/// Where records go in a file of this boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    pub(crate) file_len: u64,
    pub(crate) align: RecordAlign,
}

impl CacheLogConfig {
    /// Defaults, with this quota.
    pub fn new(quota: ByteLen) -> Self {
        let file_len = ByteLen(64 << 20);
        Self {
            file_len,
            quota,
            reserve: file_len,
            direct: DirectMode::Auto,
            batch_len_max: ByteLen(8 << 20),
            queued_len_max: ByteLen(32 << 20),
            spare_count_max: 4,
            mark_after: Duration::from_secs(1),
            space_retry_after: Duration::from_secs(1),
            accepts_damage: false,
        }
    }

    /// Tests every bound.
    ///
    /// # Errors
    ///
    /// `OpenError::Setting` names the setting and its rule.
    pub fn check(&self) -> Result<(), OpenError> {
        let broken = |setting, rule| Err(OpenError::Setting { setting, rule });
        let file_len = self.file_len.0;
        if !(FILE_LEN_MIN..=FILE_LEN_MAX).contains(&file_len)
            || !file_len.is_multiple_of(BATCH_ALIGN)
        {
            return broken("file_len", "must be 4 MiB to 1 GiB, a multiple of 4 KiB");
        }
        if self.reserve.0 != 0 && self.reserve.0 < file_len {
            return broken("reserve", "must be 0 or at least one file");
        }
        let needed = self.reserve.0.saturating_add(2 * file_len);
        if self.quota.0 < needed {
            return broken("quota", "must hold the reserve and two files");
        }
        if !(BATCH_LEN_MIN..=BATCH_LEN_MAX).contains(&self.batch_len_max.0) {
            return broken("batch_len_max", "must be 64 KiB to 64 MiB");
        }
        if self.queued_len_max.0 == 0 {
            return broken("queued_len_max", "must be above 0");
        }
        if self.mark_after.is_zero() || self.space_retry_after.is_zero() {
            return broken("mark_after and space_retry_after", "must be above 0");
        }
        Ok(())
    }
}

impl Layout {
    /// Where the first record begins.
    pub(crate) const FIRST: u64 = FILE_HEADER_LEN as u64;

    /// Where the record after one of `payload_len` bytes at `at` begins, inside a batch.
    pub(crate) fn next(self, at: u64, payload_len: usize) -> u64 {
        (at + (RECORD_HEADER_LEN + payload_len) as u64).next_multiple_of(self.align.step())
    }

    /// Whether a block of `payload_len` bytes may begin at `at`: it leaves the last 4 KiB to a mark.
    pub(crate) fn takes_block(self, at: u64, payload_len: usize) -> bool {
        self.next(at, payload_len).next_multiple_of(BATCH_ALIGN) + BATCH_ALIGN <= self.file_len
    }

    /// Whether a mark may begin at `at`.
    pub(crate) fn takes_mark(self, at: u64) -> bool {
        self.next(at, 0).next_multiple_of(BATCH_ALIGN) <= self.file_len
    }

    /// Bytes that a fresh file has for blocks.
    pub(crate) fn capacity(self) -> u64 {
        self.left(Self::FIRST)
    }

    /// Bytes for blocks in a file that is filled up to `at`.
    pub(crate) fn left(self, at: u64) -> u64 {
        (self.file_len - BATCH_ALIGN).saturating_sub(at)
    }

    /// Longest payload that a fresh file takes.
    pub(crate) fn payload_len_max(self) -> usize {
        let fits = usize::try_from(self.capacity()).unwrap_or(usize::MAX) - RECORD_HEADER_LEN;
        fits.min(PAYLOAD_LEN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(config: &CacheLogConfig) -> Option<&'static str> {
        match config.check() {
            Err(OpenError::Setting { setting, .. }) => Some(setting),
            _ => None,
        }
    }

    #[test]
    fn defaults_hold_and_every_bound_is_named() {
        let good = CacheLogConfig::new(ByteLen(192 << 20));
        assert_eq!(setting(&good), None);
        let bad = |change: fn(&mut CacheLogConfig)| {
            let mut config = good.clone();
            change(&mut config);
            setting(&config)
        };
        assert_eq!(bad(|c| c.quota.0 -= 1), Some("quota"));
        assert_eq!(bad(|c| c.file_len.0 += 512), Some("file_len"));
        assert_eq!(bad(|c| c.file_len.0 = 1 << 20), Some("file_len"));
        assert_eq!(bad(|c| c.reserve.0 = 4_096), Some("reserve"));
        assert_eq!(bad(|c| c.batch_len_max.0 = 1), Some("batch_len_max"));
        assert_eq!(bad(|c| c.queued_len_max.0 = 0), Some("queued_len_max"));
        assert!(bad(|c| c.mark_after = Duration::ZERO).is_some());
    }

    #[test]
    fn the_longest_payload_fits_a_fresh_file_and_one_byte_more_does_not() {
        let layout = Layout {
            file_len: 64 << 10,
            align: RecordAlign::Sector512,
        };
        let longest = layout.payload_len_max();
        assert_eq!(longest, (64 << 10) - 2 * 4_096 - RECORD_HEADER_LEN);
        assert!(layout.takes_block(Layout::FIRST, longest));
        assert!(!layout.takes_block(Layout::FIRST, longest + 1));
        let end = layout.next(Layout::FIRST, longest);
        assert!(layout.takes_mark(end));
        assert!(!layout.takes_mark(end + BATCH_ALIGN));
    }
}
