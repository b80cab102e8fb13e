//! A buffer whose address suits O_DIRECT, without `unsafe`: allocated a page too long, used from its
//! first aligned byte.

use std::ops::{Deref, DerefMut};

/// Alignment of every buffer that is handed to storage. 4,096 satisfies every block device.
/// Unit: bytes.
pub(crate) const BUFFER_ALIGN: usize = 4_096;

/// Bytes of a fixed length that begin at a multiple of [`BUFFER_ALIGN`] in memory.
pub(crate) struct AlignedBuffer {
    /// Never grows after construction: a move of the allocation would lose the alignment.
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// A buffer of `len` zeroes. Memory that is never touched is never taken from the system.
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut bytes = vec![0; len + BUFFER_ALIGN];
        let start = bytes.as_ptr().align_offset(BUFFER_ALIGN);
        bytes.truncate(start + len);
        Self { bytes, start }
    }

    /// A buffer that holds a copy of `bytes`.
    #[cfg(test)]
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_aligned_and_has_its_length() {
        for len in [0, 1, 512, 4_096, 100_000] {
            let buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(BUFFER_ALIGN), 0);
        }
        assert_eq!(&AlignedBuffer::copy_of(b"ab")[..], b"ab");
    }
}
