//! A closed block on its way out of the queue: records, the guest's own buffers, and how they become
//! one compressed payload.
//!
//! Packing is the dear part of the agent's work and needs nobody's state: any thread may do it, several
//! batches at a time, as long as the results are numbered in the order of the batches.

use bytes::Bytes;
use everpoint_format::change::{Captured, PackedBlock};
use everpoint_format::digest::PIECE_LEN;
use everpoint_format::record::Record;
use everpoint_format::{Change, PackScratch};
use everpoint_units::{GenerationId, Moment, Seq, WallTime};

/// Changes of one disk that left the queue together.
#[derive(Debug)]
pub struct Batch {
    /// The run that they belong to.
    pub generation: GenerationId,
    /// No change of this disk at or below this `Seq` is missing once this batch is there.
    pub complete_through: Seq,
    /// When its first change was captured, for whoever measures lag.
    pub first: Moment,
    pub(crate) first_at: WallTime,
    pub(crate) last_at: WallTime,
    pub(crate) records: Vec<Record>,
    /// The bytes of the data records, one buffer a record.
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) raw_len: usize,
}

/// A batch whose payload is compressed; what is left is its number.
#[derive(Debug)]
pub struct PackedBatch {
    /// As in the batch.
    pub generation: GenerationId,
    /// As in the batch.
    pub complete_through: Seq,
    /// As in the batch.
    pub first: Moment,
    /// Bytes that guests and resync wrote, before compression. Unit: bytes.
    pub raw_len: usize,
    /// Whether it says that the copy is level again.
    pub completes_resync: bool,
    /// The block, to be frozen.
    pub block: PackedBlock,
}

impl Batch {
    /// Its records, rising by `Seq`.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Bytes of its data records. Unit: bytes.
    pub const fn raw_len(&self) -> usize {
        self.raw_len
    }

    /// Compresses it. Writes of a whole piece or more that are all zeroes become zero records: here,
    /// where no guest waits. One buffer alone is not copied before it is compressed.
    pub fn pack(self, clock_offset_us: i64, scratch: &mut PackScratch) -> PackedBatch {
        let mut records = self.records;
        let mut pieces = self.pieces.into_iter();
        let mut kept = Vec::with_capacity(pieces.len());
        for record in &mut records {
            if let Change::Data(extent) = record.change {
                let piece = pieces.next().expect("a buffer for each data record");
                if PIECE_LEN <= piece.len() && is_zero(&piece) {
                    record.change = Change::Zero(extent);
                } else {
                    kept.push(piece);
                }
            }
        }
        let completes = |record: &Record| matches!(record.change, Change::ResyncComplete);
        let captured = Captured {
            first: self.first_at,
            last: self.last_at,
            clock_offset_us,
        };
        PackedBatch {
            generation: self.generation,
            complete_through: self.complete_through,
            first: self.first,
            raw_len: self.raw_len,
            completes_resync: records.iter().any(completes),
            block: PackedBlock::pack_with(scratch, records, &kept, captured),
        }
    }
}

/// Whether every byte is zero. Gives up at the first 64 bytes that are not, so that data costs
/// next to nothing and zeroes are scanned at memory speed.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let any = |part: &[u8]| part.iter().fold(0, |any, byte| any | byte) != 0;
    !chunks.iter().any(|chunk| any(chunk)) && !any(rest)
}

#[cfg(test)]
mod tests;
