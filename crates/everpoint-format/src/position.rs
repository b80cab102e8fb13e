//! A place in one disk's history: what a generation builds on, what a watermark names.

use everpoint_units::{BlockNo, ChainValue, GenerationId};

use crate::DecodeError;
use crate::cursor::{Put, Reader};

/// The last block of a disk that something covers. Two positions are the same history only if all
/// three fields agree: the chain value covers every byte of the generation up to here.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DiskPosition {
    /// The generation.
    pub generation: GenerationId,
    /// Its last block that counts; [`BlockNo::ZERO`] before the first.
    pub block_no: BlockNo,
    /// That block's chain value.
    pub chain: ChainValue,
}

/// Encoded length. Unit: bytes.
pub(crate) const POSITION_LEN: usize = 32;

impl DiskPosition {
    /// Where a generation stands before its first block.
    pub const fn start_of(generation: GenerationId) -> Self {
        Self {
            generation,
            block_no: BlockNo::ZERO,
            chain: ChainValue::START,
        }
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.put(&self.generation.0);
        out.put_u64(self.block_no.0);
        out.put_u64(self.chain.0);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            generation: GenerationId(reader.array()?),
            block_no: BlockNo(reader.u64()?),
            chain: ChainValue(reader.u64()?),
        })
    }
}
