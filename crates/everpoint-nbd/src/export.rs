//! What the server serves: the trait that a disk, a mount or a test implements, and the facts about
//! an export that both sides agree on.
//!
//! Contract between the server and an [`Export`]:
//!
//! - Requests of one connection are *started* in the order in which they arrived: each future is
//!   polled once before the next method is called. They then run side by side; the server never
//!   orders overlapping requests, that is the export's affair.
//! - A future that was polled is polled to its end, also when the client has gone meanwhile. Only
//!   the end of the runtime drops one in the middle. So code after an `.await` may be relied upon.
//! - Every request lies inside the export, is whole minimum blocks, is not empty, and is one that
//!   [`ExportInfo`] allows: the server has refused the others.
//! - The data of a write is one buffer of its own, shared with nothing: holding on to it holds on to
//!   its length and less than one minimum block, or page, more.

mod any;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};

use crate::Errno;
use crate::protocol::{
    FLAG_CAN_MULTI_CONN, FLAG_HAS_FLAGS, FLAG_READ_ONLY, FLAG_SEND_DF, FLAG_SEND_FAST_ZERO,
    FLAG_SEND_FLUSH, FLAG_SEND_FUA, FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, NAME_LEN_MAX,
    PAYLOAD_LEN_MAX,
};

pub use any::AnyExport;

/// Largest minimum block. Unit: bytes. Source: specification, "Block size constraints".
const MIN_BLOCK_MAX: u32 = 1 << 16;

/// Something that is served as one block device.
pub trait Export: Send + Sync + 'static {
    /// The facts that a client is told. Asked once at the attachment and once for each connection.
    fn describe(&self) -> ExportInfo;

    /// Reads exactly `len` bytes at `at`.
    fn read(&self, at: ByteOffset, len: u32) -> impl Future<Output = Result<Bytes, Errno>> + Send;

    /// Writes `data` at `at`; with `fua` it is durable when this returns. `data` begins at an
    /// address that is a multiple of the minimum block size (of a page, if that is smaller), so it
    /// can go to an `O_DIRECT` file.
    fn write(
        &self,
        at: ByteOffset,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Makes every write durable whose success was returned before this call, on any connection.
    fn flush(&self) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Says that the bytes are no longer needed. Called only if [`ExportInfo::trim`].
    fn trim(
        &self,
        at: ByteOffset,
        len: u32,
        fua: bool,
    ) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Makes the bytes read as zeroes. Called only if [`ExportInfo::zeroes`] allows it.
    fn write_zeroes(
        &self,
        at: ByteOffset,
        len: u32,
        flags: ZeroFlags,
    ) -> impl Future<Output = Result<(), Errno>> + Send;

    /// What is known about the allocation from `at` on: consecutive, none empty, at least one.
    /// May end before `len`; what lies beyond it is cut off. The default knows nothing.
    fn block_status(
        &self,
        _at: ByteOffset,
        len: u32,
    ) -> impl Future<Output = Result<Vec<Allocation>, Errno>> + Send {
        std::future::ready(Ok(vec![Allocation {
            len,
            hole: false,
            zero: false,
        }]))
    }
}

/// The facts about an export: what a server announces, and what a client was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportInfo {
    /// Size of the device.
    pub size: ByteLen,
    /// Which requests fit.
    pub blocks: BlockSizes,
    /// Writes, trims and zeroes are refused.
    pub read_only: bool,
    /// A flush on one connection covers the writes of all, so clients may open several.
    pub multi_conn: bool,
    /// Trim is offered.
    pub trim: bool,
    /// How zeroing is offered.
    pub zeroes: ZeroSupport,
    /// For people. At most [`NAME_LEN_MAX`] bytes.
    pub description: String,
}

/// The three sizes that bound a request. Unit: bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockSizes {
    min: u32,
    preferred: u32,
    payload_max: u32,
}

/// How an export makes bytes zero without being sent them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ZeroSupport {
    /// Clients write zeroes as data.
    None,
    /// It does, but cannot promise to be faster than data.
    Plain,
    /// It does, and answers [`Errno::NotSup`] at once to [`ZeroFlags::fast_only`] where it would
    /// not be faster.
    Fast,
}

/// How zeroes are to be written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ZeroFlags {
    /// Keep the space allocated.
    pub no_hole: bool,
    /// Refuse with [`Errno::NotSup`] rather than be as slow as writing.
    pub fast_only: bool,
    /// Durable when it returns.
    pub fua: bool,
}

/// A run of bytes with one allocation status. Both false is always a safe answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allocation {
    /// How long it is. Unit: bytes; whole minimum blocks, never 0.
    pub len: u32,
    /// Nothing is allocated here.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// Facts that no client could be told. The fix is in the export.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ExportInfoError {
    /// The last bytes could not be reached.
    #[error("size {size} is not whole blocks of {min} B")]
    SizeNotWholeBlocks {
        /// The size.
        size: ByteLen,
        /// The minimum block.
        min: u32,
    },
    /// File systems count in `i64`.
    #[error("size {size} is above 2^63 - 1")]
    TooLarge {
        /// The size.
        size: ByteLen,
    },
    /// Strings of the protocol are short.
    #[error("description of {len} B is above {NAME_LEN_MAX} B")]
    DescriptionTooLong {
        /// Its length. Unit: bytes.
        len: usize,
    },
}

impl ExportInfo {
    /// A writable disk of `size` with 512-byte blocks that offers everything, zeroes not fast.
    pub const fn disk(size: ByteLen) -> Self {
        Self {
            size,
            blocks: BlockSizes::SECTORS,
            read_only: false,
            multi_conn: true,
            trim: true,
            zeroes: ZeroSupport::Plain,
            description: String::new(),
        }
    }

    /// Checks what the protocol demands of the facts.
    ///
    /// # Errors
    ///
    /// [`ExportInfoError`] names the fact that is wrong.
    pub fn check(&self) -> Result<(), ExportInfoError> {
        let (size, min) = (self.size, self.blocks.min);
        if i64::try_from(size.0).is_err() {
            return Err(ExportInfoError::TooLarge { size });
        }
        if !size.0.is_multiple_of(u64::from(min)) {
            return Err(ExportInfoError::SizeNotWholeBlocks { size, min });
        }
        let len = self.description.len();
        if len > NAME_LEN_MAX {
            return Err(ExportInfoError::DescriptionTooLong { len });
        }
        Ok(())
    }

    /// The transmission flags that say this; `structured` says whether replies are.
    pub(crate) fn transmission_flags(&self, structured: bool) -> u16 {
        let writable = !self.read_only;
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        FLAG_HAS_FLAGS
            | FLAG_SEND_FLUSH
            | FLAG_SEND_FUA
            | flag(self.read_only, FLAG_READ_ONLY)
            | flag(self.multi_conn, FLAG_CAN_MULTI_CONN)
            | flag(structured, FLAG_SEND_DF)
            | flag(writable && self.trim, FLAG_SEND_TRIM)
            | match self.zeroes {
                ZeroSupport::Plain if writable => FLAG_SEND_WRITE_ZEROES,
                ZeroSupport::Fast if writable => FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO,
                _ => 0,
            }
    }

    /// What a server's size and transmission flags say; sizes and description as when nothing was
    /// said about them.
    pub(crate) fn from_flags(size: ByteLen, flags: u16) -> Self {
        let set = |flag| flags & FLAG_HAS_FLAGS != 0 && flags & flag != 0;
        Self {
            size,
            blocks: BlockSizes::SECTORS,
            read_only: set(FLAG_READ_ONLY),
            multi_conn: set(FLAG_CAN_MULTI_CONN),
            trim: set(FLAG_SEND_TRIM),
            zeroes: match (set(FLAG_SEND_WRITE_ZEROES), set(FLAG_SEND_FAST_ZERO)) {
                (false, _) => ZeroSupport::None,
                (true, false) => ZeroSupport::Plain,
                (true, true) => ZeroSupport::Fast,
            },
            description: String::new(),
        }
    }
}

impl BlockSizes {
    /// Any whole sectors of 512 bytes, 4 KiB preferred, payloads of 32 MiB: what a careful client
    /// assumes where a server says nothing.
    pub const SECTORS: Self = Self {
        min: 512,
        preferred: 4_096,
        payload_max: PAYLOAD_LEN_MAX,
    };
    /// Whole blocks of 4 KiB, payloads of 32 MiB.
    pub const PAGES: Self = Self {
        min: 4_096,
        ..Self::SECTORS
    };

    /// Builds the three sizes as the specification allows them: `min` a power of two up to 64 KiB,
    /// `preferred` a power of two of at least `min` and 512, `payload_max` whole `min` blocks and at
    /// least one preferred block, or 2^32 - 1 for "no limit". `None` otherwise.
    pub fn new(min: u32, preferred: u32, payload_max: u32) -> Option<Self> {
        let whole = payload_max == u32::MAX || payload_max.checked_rem(min) == Some(0);
        let fits = min.is_power_of_two()
            && min <= MIN_BLOCK_MAX
            && preferred.is_power_of_two()
            && preferred >= min.max(512)
            && payload_max >= preferred;
        (fits && whole).then_some(Self {
            min,
            preferred,
            payload_max,
        })
    }

    /// Every request is whole blocks of this size, at whole blocks. Unit: bytes.
    pub const fn min(self) -> u32 {
        self.min
    }

    /// Requests of whole blocks of this size are fast. Unit: bytes.
    pub const fn preferred(self) -> u32 {
        self.preferred
    }

    /// Longest read or write. Unit: bytes.
    pub const fn payload_max(self) -> u32 {
        self.payload_max
    }

    /// The same with payloads of at most `limit` bytes, rounded down to whole blocks, but never
    /// below one preferred block.
    #[must_use]
    pub fn capped(self, limit: u32) -> Self {
        let payload_max = self.payload_max.min(limit);
        Self {
            payload_max: (payload_max - payload_max % self.min).max(self.preferred),
            ..self
        }
    }
}

impl<E: Export> Export for Arc<E> {
    fn describe(&self) -> ExportInfo {
        E::describe(self)
    }

    fn read(&self, at: ByteOffset, len: u32) -> impl Future<Output = Result<Bytes, Errno>> + Send {
        E::read(self, at, len)
    }

    fn write(
        &self,
        at: ByteOffset,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), Errno>> + Send {
        E::write(self, at, data, fua)
    }

    fn flush(&self) -> impl Future<Output = Result<(), Errno>> + Send {
        E::flush(self)
    }

    fn trim(
        &self,
        at: ByteOffset,
        len: u32,
        fua: bool,
    ) -> impl Future<Output = Result<(), Errno>> + Send {
        E::trim(self, at, len, fua)
    }

    fn write_zeroes(
        &self,
        at: ByteOffset,
        len: u32,
        flags: ZeroFlags,
    ) -> impl Future<Output = Result<(), Errno>> + Send {
        E::write_zeroes(self, at, len, flags)
    }

    fn block_status(
        &self,
        at: ByteOffset,
        len: u32,
    ) -> impl Future<Output = Result<Vec<Allocation>, Errno>> + Send {
        E::block_status(self, at, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_that_the_specification_forbids_are_not_built() {
        for (min, preferred, payload_max) in [
            (0, 4_096, 4_096),
            (513, 4_096, 4_096),
            (1 << 17, 1 << 17, 1 << 20),
            (4_096, 512, 1 << 20),
            (1, 256, 1 << 20),
            (512, 4_096, 4_097),
            (512, 4_096, 512),
        ] {
            assert_eq!(BlockSizes::new(min, preferred, payload_max), None, "{min}");
        }
        assert_eq!(
            BlockSizes::new(512, 4_096, PAYLOAD_LEN_MAX),
            Some(BlockSizes::SECTORS)
        );
        assert!(BlockSizes::new(1, 512, u32::MAX).is_some());
    }

    #[test]
    fn a_cap_keeps_whole_blocks_and_one_preferred_block() {
        assert_eq!(BlockSizes::PAGES.capped(10_000).payload_max(), 8_192);
        assert_eq!(BlockSizes::SECTORS.capped(1).payload_max(), 4_096);
        assert_eq!(BlockSizes::SECTORS.capped(u32::MAX), BlockSizes::SECTORS);
    }

    #[test]
    fn flags_say_what_the_facts_say_and_a_read_only_export_offers_no_change() {
        let mut info = ExportInfo::disk(ByteLen(1 << 20));
        info.zeroes = ZeroSupport::Fast;
        let back = ExportInfo::from_flags(info.size, info.transmission_flags(true));
        assert_eq!(back, info);

        info.read_only = true;
        let back = ExportInfo::from_flags(info.size, info.transmission_flags(false));
        assert_eq!(
            (back.read_only, back.trim, back.zeroes),
            (true, false, ZeroSupport::None)
        );
    }

    #[test]
    fn a_size_of_half_a_block_or_above_what_files_count_is_refused() {
        let odd = ExportInfo::disk(ByteLen(1_000));
        assert!(matches!(
            odd.check(),
            Err(ExportInfoError::SizeNotWholeBlocks { min: 512, .. })
        ));
        let huge = ExportInfo::disk(ByteLen(1 << 63));
        assert!(matches!(
            huge.check(),
            Err(ExportInfoError::TooLarge { .. })
        ));
    }
}
