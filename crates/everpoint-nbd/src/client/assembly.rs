//! The data of one read, put together from the chunks of its reply.
//!
//! A server may send a read in any number of chunks, in any order, data or holes; together they
//! must cover the read exactly once. Nearly always it is one chunk, which is then passed on as it
//! came. Pure.

use bytes::{Bytes, BytesMut};
use everpoint_units::ByteOffset;

use crate::Errno;

/// Most chunks that are put up with. Ours: one for each sector of the longest payload.
const CHUNK_COUNT_MAX: usize = 1 << 16;

/// A read whose reply is coming.
pub(super) struct Assembly {
    at: ByteOffset,
    len: u32,
    /// The only chunk, if it is all.
    whole: Option<Bytes>,
    /// Where the others go; empty as long as none has come.
    parts: BytesMut,
    /// What has come, as offsets from `at`: sorted, disjoint, half-open.
    covered: Vec<(usize, usize)>,
    errno: Option<Errno>,
}

/// Chunks that do not make up the read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mismatch;

impl Assembly {
    pub(super) fn new(at: ByteOffset, len: u32) -> Self {
        Self {
            at,
            len,
            whole: None,
            parts: BytesMut::new(),
            covered: Vec::new(),
            errno: None,
        }
    }

    /// How long the read is. Unit: bytes.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Accounts for a chunk before anything is allocated for it; its offset from the start of the
    /// read, in bytes.
    pub(super) fn cover(&mut self, at: ByteOffset, len: u32) -> Result<usize, Mismatch> {
        let from = at.0.checked_sub(self.at.0).ok_or(Mismatch)?;
        let to = from.checked_add(u64::from(len)).ok_or(Mismatch)?;
        if to > u64::from(self.len) || self.covered.len() == CHUNK_COUNT_MAX {
            return Err(Mismatch);
        }
        let from = usize::try_from(from).map_err(|_| Mismatch)?;
        let to = usize::try_from(to).map_err(|_| Mismatch)?;
        let index = self.covered.partition_point(|&(_, end)| end <= from);
        if self
            .covered
            .get(index)
            .is_some_and(|&(start, _)| start < to)
        {
            return Err(Mismatch);
        }
        self.covered.insert(index, (from, to));
        Ok(from)
    }

    /// Takes the data of a chunk that was accounted for.
    pub(super) fn data(&mut self, from: usize, data: Bytes) {
        if data.len() == self.whole_len() {
            self.whole = Some(data);
            return;
        }
        self.parts()[from..from + data.len()].copy_from_slice(&data);
    }

    /// Takes a hole that was accounted for.
    pub(super) fn hole(&mut self) {
        // The parts are zero until data comes.
        self.parts();
    }

    /// Takes an error. The reply goes on, but the read has failed.
    pub(super) fn fail(&mut self, errno: Errno) {
        self.errno.get_or_insert(errno);
    }

    /// What the read has become, now that its last chunk has come.
    pub(super) fn finish(mut self) -> Result<Result<Bytes, Errno>, Mismatch> {
        if let Some(errno) = self.errno {
            return Ok(Err(errno));
        }
        // They are sorted and disjoint, so it is enough to add them up.
        let covered: usize = self.covered.iter().map(|(from, to)| to - from).sum();
        if covered != self.whole_len() {
            return Err(Mismatch);
        }
        Ok(Ok(self.whole.take().unwrap_or_else(|| self.parts.freeze())))
    }

    fn whole_len(&self) -> usize {
        usize::try_from(self.len).expect("usize has 32 bits at least")
    }

    fn parts(&mut self) -> &mut BytesMut {
        if self.parts.is_empty() {
            self.parts = BytesMut::zeroed(self.whole_len());
        }
        &mut self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: ByteOffset = ByteOffset(4_096);

    fn data(assembly: &mut Assembly, at: u64, byte: u8, len: u32) -> Result<(), Mismatch> {
        let from = assembly.cover(ByteOffset(at), len)?;
        assembly.data(from, vec![byte; len as usize].into());
        Ok(())
    }

    fn hole(assembly: &mut Assembly, at: u64, len: u32) -> Result<(), Mismatch> {
        assembly.cover(ByteOffset(at), len)?;
        assembly.hole();
        Ok(())
    }

    #[test]
    fn one_chunk_is_passed_on_without_a_copy() {
        let mut assembly = Assembly::new(AT, 1_024);
        let bytes = Bytes::from(vec![7; 1_024]);
        let from = assembly.cover(AT, 1_024).unwrap();
        assembly.data(from, bytes.clone());
        let read = assembly.finish().unwrap().unwrap();
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn chunks_in_any_order_make_up_the_read() {
        let mut assembly = Assembly::new(AT, 2_048);
        data(&mut assembly, 4_096 + 1_536, 3, 512).unwrap();
        hole(&mut assembly, 4_096 + 512, 1_024).unwrap();
        data(&mut assembly, 4_096, 1, 512).unwrap();
        let read = assembly.finish().unwrap().unwrap();
        assert!(read[..512].iter().all(|b| *b == 1));
        assert!(read[512..1_536].iter().all(|b| *b == 0));
        assert!(read[1_536..].iter().all(|b| *b == 3));
    }

    #[test]
    fn a_hole_alone_reads_as_zeroes() {
        let mut assembly = Assembly::new(AT, 512);
        hole(&mut assembly, 4_096, 512).unwrap();
        assert_eq!(assembly.finish(), Ok(Ok(Bytes::from(vec![0; 512]))));
    }

    #[test]
    fn chunks_that_overlap_or_lie_outside_or_leave_gaps_are_refused() {
        let mut assembly = Assembly::new(AT, 2_048);
        data(&mut assembly, 4_608, 1, 512).unwrap();
        for (at, len) in [
            (4_608, 512),
            (4_609, 1),
            (4_096, 513),
            (5_119, 2),
            (0, 512),
            (6_144, 1),
            (5_120, 1_025),
            (u64::MAX, 1),
        ] {
            assert_eq!(data(&mut assembly, at, 1, len), Err(Mismatch), "{at}");
        }
        data(&mut assembly, 4_096, 1, 512).unwrap();
        data(&mut assembly, 5_121, 1, 1_023).unwrap();
        assert_eq!(assembly.finish(), Err(Mismatch));
    }

    #[test]
    fn an_error_wins_over_data() {
        let mut assembly = Assembly::new(AT, 512);
        data(&mut assembly, 4_096, 1, 512).unwrap();
        assembly.fail(Errno::Io);
        assembly.fail(Errno::Perm);
        assert_eq!(assembly.finish(), Ok(Err(Errno::Io)));
    }
}
