//! A batch: the bytes of one write and one sync, and who waits for them.
//!
//! Records are *admitted* first (cheap: their places are fixed, in the order of `append`) and
//! *copied* then (the work: checksums and copies), so that the first can be done under a lock and
//! the second while the batch before is being synced. A batch lies in one file.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::cache_log::{
    BATCH_ALIGN, FileBinding, FileHeader, RECORD_HEADER_LEN, RecordBody, RecordHeader, RecordNo,
};
use everpoint_units::ByteOffset;

use crate::LogPosition;
use crate::append::Reply;
use crate::buffer::AlignedBuffer;
use crate::config::Layout;
use crate::storage::LogFile;

/// Payload bytes that are admitted at a time, at least one record. Small, so that a batch is never
/// far from ready when the writer asks for it.
const ADMIT_LEN: usize = 256 << 10;

/// A file of this boot that takes records.
pub(crate) struct WritableFile {
    pub(crate) header: FileHeader,
    pub(crate) binding: FileBinding,
    pub(crate) handle: Box<dyn LogFile>,
}

/// A payload that waits for its batch.
pub(crate) struct Waiting {
    /// The payload is their concatenation.
    pub(crate) pieces: Vec<Bytes>,
    /// Bytes of all pieces, 1 to [`Layout::payload_len_max`].
    pub(crate) len: usize,
    pub(crate) reply: Reply,
}

/// A waiting payload whose place is fixed.
pub(crate) struct Admitted {
    waiting: Waiting,
    at: u64,
    record_no: RecordNo,
}

/// The place where the log grows: the batch that is being gathered, and the file that it is for.
pub(crate) struct Assembly {
    layout: Layout,
    batch_len_max: u64,
    file: Option<Arc<WritableFile>>,
    /// Number of the first record in that file.
    file_first: RecordNo,
    /// Where the next record goes. Unit: bytes from the start of the file.
    at: u64,
    next: RecordNo,
    batch: Batch,
    /// The next record does not fit this batch; it must be taken first.
    is_full: bool,
}

/// Gathered records of one file.
pub(crate) struct Batch {
    buffer: AlignedBuffer,
    file: Option<Arc<WritableFile>>,
    start: u64,
    /// Bytes admitted, padding to the next record included.
    len: usize,
    /// The last record, which takes the mark of a batch's end, and where it lies in the buffer.
    last: Option<(RecordHeader, usize)>,
    last_block: Option<ByteOffset>,
    payload_len: u64,
    replies: Vec<(Reply, LogPosition)>,
}

impl Assembly {
    /// A boot's assembly, before it has a file. `spare` batches come from [`Batch::empty`].
    pub(crate) fn new(layout: Layout, batch_len_max: u64, batch: Batch) -> Self {
        Self {
            layout,
            batch_len_max,
            file: None,
            file_first: RecordNo::ZERO.next(),
            at: Layout::FIRST,
            next: RecordNo::ZERO.next(),
            batch,
            is_full: false,
        }
    }

    /// Fixes the places of as many waiting records as fit, up to [`ADMIT_LEN`]. Goes over to the
    /// next ready file when the batch is empty and this one has no room left.
    pub(crate) fn admit(
        &mut self,
        queue: &mut VecDeque<Waiting>,
        ready: &mut VecDeque<Arc<WritableFile>>,
    ) -> Vec<Admitted> {
        let mut admitted = Vec::new();
        let mut len = 0;
        while let Some(waiting) = queue.front()
            && !self.is_full
            && len < ADMIT_LEN
        {
            let fits = self.file.is_some() && self.layout.takes_block(self.at, waiting.len);
            if !fits {
                if !self.batch.is_empty() {
                    self.is_full = true;
                    break;
                }
                let Some(file) = ready.pop_front() else {
                    break;
                };
                self.go_over_to(file);
                continue;
            }
            let end = self.layout.next(self.at, waiting.len);
            if !self.batch.is_empty() && self.batch_len_max < end - self.batch.start {
                self.is_full = true;
                break;
            }
            let waiting = queue.pop_front().expect("looked at a moment ago");
            len += waiting.len;
            let record_no = self.next;
            let at = self.take_place(end);
            admitted.push(Admitted {
                waiting,
                at,
                record_no,
            });
        }
        admitted
    }

    /// Copies admitted records into the batch.
    pub(crate) fn copy(&mut self, admitted: Vec<Admitted>) {
        for Admitted {
            waiting,
            at,
            record_no,
        } in admitted
        {
            let mut hasher = crc32fast::Hasher::new();
            let mut to = self.batch.index(at) + RECORD_HEADER_LEN;
            for piece in &waiting.pieces {
                hasher.update(piece);
                self.batch.buffer[to..to + piece.len()].copy_from_slice(piece);
                to += piece.len();
            }
            let len = u32::try_from(waiting.len).ok().and_then(NonZeroU32::new);
            let body = RecordBody::Block {
                len: len.expect("append takes 1 byte to PAYLOAD_LEN_MAX"),
                crc: hasher.finalize(),
            };
            self.put_header(at, record_no, body);
            let file_no = self.batch.file().header.file_no;
            let position = LogPosition::new(file_no, ByteOffset(at));
            self.batch.last_block = Some(ByteOffset(at));
            self.batch.payload_len += waiting.len as u64;
            self.batch.replies.push((waiting.reply, position));
        }
    }

    /// Puts a mark behind the last record, which must be synced. `false` when there is no file or
    /// no room for it, or records wait for their sync.
    pub(crate) fn mark(&mut self) -> bool {
        let has_place = self.file.is_some() && self.layout.takes_mark(self.at);
        if !has_place || !self.batch.is_empty() || self.next == RecordNo::ZERO.next() {
            return false;
        }
        let end = self.layout.next(self.at, 0);
        let record_no = self.next;
        let at = self.take_place(end);
        self.put_header(at, record_no, RecordBody::Mark);
        true
    }

    /// Takes the batch, sealed, and goes on with an empty one.
    pub(crate) fn take(&mut self, mut empty: Batch) -> Batch {
        empty.clear();
        let mut batch = std::mem::replace(&mut self.batch, empty);
        self.at = self.at.next_multiple_of(BATCH_ALIGN);
        self.is_full = false;
        batch.seal(self.at);
        batch
    }

    /// Whether records wait in the batch.
    pub(crate) fn has_records(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Bytes for blocks that are left in the current file.
    pub(crate) fn left(&self) -> u64 {
        match self.file {
            Some(_) => self.layout.left(self.at),
            None => 0,
        }
    }

    /// The file that the batch is for.
    pub(crate) fn file(&self) -> Option<&Arc<WritableFile>> {
        self.file.as_ref()
    }

    /// Ends it, and gives back who waits.
    pub(crate) fn into_replies(self) -> Vec<Reply> {
        self.batch.into_replies()
    }

    fn go_over_to(&mut self, file: Arc<WritableFile>) {
        self.file = Some(file);
        self.file_first = self.next;
        self.at = Layout::FIRST;
    }

    /// Takes the place from `self.at` to `end` for the next record; returns where it begins.
    fn take_place(&mut self, end: u64) -> u64 {
        if self.batch.is_empty() {
            self.batch.file.clone_from(&self.file);
            self.batch.start = self.at;
        }
        let at = self.at;
        self.at = end;
        self.next = self.next.next();
        self.batch.len = self.batch.index(end);
        at
    }

    fn put_header(&mut self, at: u64, record_no: RecordNo, body: RecordBody) {
        // The batch is written when the batch before it was synced, and not at all if that failed.
        let before_batch = match self.batch.last {
            Some((last, _)) => last.synced_through,
            None => RecordNo(record_no.0 - 1),
        };
        let header = RecordHeader {
            record_no,
            synced_through: before_batch,
            file_first: self.file_first,
            body,
            is_batch_end: false,
        };
        let from = self.batch.index(at);
        let padding_from = from + RECORD_HEADER_LEN + header.payload_len();
        let end = header.end(ByteOffset(at), self.layout.align).0;
        let padding_to = self.batch.index(end);
        self.batch.buffer[padding_from..padding_to].fill(0);
        let encoded = header.encode(&self.batch.file().binding, ByteOffset(at));
        self.batch.buffer[from..from + encoded.len()].copy_from_slice(&encoded);
        self.batch.last = Some((header, from));
    }
}

impl Batch {
    /// A batch without records, with memory for `batch_len_max` or one longest record.
    pub(crate) fn empty(layout: Layout, batch_len_max: u64) -> Self {
        let longest = layout.next(0, layout.payload_len_max());
        let len = batch_len_max.max(longest) + BATCH_ALIGN;
        let len = usize::try_from(len).expect("a batch is at most 64 MiB");
        Self {
            buffer: AlignedBuffer::zeroed(len),
            file: None,
            start: 0,
            len: 0,
            last: None,
            last_block: None,
            payload_len: 0,
            replies: Vec::new(),
        }
    }

    /// The bytes to write, whole blocks of [`BATCH_ALIGN`].
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Where they go.
    pub(crate) fn start(&self) -> ByteOffset {
        ByteOffset(self.start)
    }

    /// Where the next batch would begin.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    /// The file that they go to.
    ///
    /// # Panics
    ///
    /// When the batch is empty.
    pub(crate) fn file(&self) -> &Arc<WritableFile> {
        self.file.as_ref().expect("a batch with records has a file")
    }

    /// The last block in it; none if it is a mark.
    pub(crate) fn last_block(&self) -> Option<ByteOffset> {
        self.last_block
    }

    /// Whether its last record is a block, so that nothing says yet that it was synced.
    pub(crate) fn wants_mark(&self) -> bool {
        self.last_block.is_some()
    }

    /// Payload bytes in it.
    pub(crate) fn payload_len(&self) -> u64 {
        self.payload_len
    }

    /// Who waits for it, with the position of each one's record.
    pub(crate) fn take_replies(&mut self) -> Vec<(Reply, LogPosition)> {
        std::mem::take(&mut self.replies)
    }

    /// Ends it, and gives back who waits.
    pub(crate) fn into_replies(self) -> Vec<Reply> {
        self.replies.into_iter().map(|(reply, _)| reply).collect()
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn index(&self, at: u64) -> usize {
        usize::try_from(at - self.start).expect("a batch is at most 64 MiB")
    }

    fn clear(&mut self) {
        self.file = None;
        self.len = 0;
        self.last = None;
        self.last_block = None;
        self.payload_len = 0;
        self.replies.clear();
    }

    /// Marks the last record as such and pads the batch to `end`.
    fn seal(&mut self, end: u64) {
        let (mut header, from) = self.last.expect("an empty batch is never taken");
        header.is_batch_end = true;
        let at = ByteOffset(self.start + from as u64);
        let encoded = header.encode(&self.file().binding, at);
        self.buffer[from..from + encoded.len()].copy_from_slice(&encoded);
        let padded = self.index(end);
        self.buffer[self.len..padded].fill(0);
        self.len = padded;
    }
}
