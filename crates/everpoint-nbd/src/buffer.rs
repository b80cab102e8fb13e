//! How bytes come in: small things through one read buffer, payloads each into a buffer of its own.
//!
//! One system call fills the read buffer with as many headers and small payloads as have arrived. A
//! payload then moves into an allocation of its own: what the read buffer already holds of it is
//! copied (it has just passed through the processor's cache), the rest is read from the socket
//! straight into place. Splitting payloads off the read buffer instead would save that copy and
//! make every 4 KiB payload hold all of the buffer for as long as anyone keeps it.
//!
//! Small payloads share allocations, several a slab: an allocator that grows for one at a time asks the
//! kernel for each, and a protected disk's payloads wait in a queue that may grow for a while. They are
//! given back in the order in which they came, so a slab goes with its last payload soon after the first.
//!
//! A payload begins at a multiple of the alignment that its user needs for `O_DIRECT`: the
//! allocation is longer by less than one alignment, and the payload begins at the first multiple
//! inside. With 512-byte sectors a 4 KiB payload thus holds at most 4.5 KiB.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Length of the read buffer. Unit: bytes. Ours, measured: fifteen 4 KiB writes a system call;
/// twice as much brought nothing at queue depth 16.
const READ_BUFFER_LEN: usize = 64 << 10;

/// How much is read ahead after a payload that did not fit the read buffer. Unit: bytes. The next
/// one is probably as long, and what lands in the read buffer has to be copied out of it.
const READ_AHEAD_AFTER_LONG: usize = 512;

/// Length of a slab. Unit: bytes. Seven 4 KiB payloads; what is left of it costs an idle connection half as
/// much as its read buffer.
const SLAB_LEN: usize = 32 << 10;

/// Longest payload that shares a slab. Unit: bytes.
const SHARED_LEN_MAX: usize = 8 << 10;

/// Bytes that have arrived and have not been used.
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// How much one call reads at most. Unit: bytes.
    window: usize,
}

/// Where payloads get their memory.
#[derive(Default)]
pub(crate) struct PayloadMemory {
    /// What is left of a slab.
    slab: BytesMut,
}

/// A payload on its way in.
pub(crate) struct Payload {
    buffer: BytesMut,
    len: usize,
}

impl ReadBuffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; READ_BUFFER_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            window: READ_BUFFER_LEN,
        }
    }

    /// What has arrived.
    pub(crate) fn unused(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Marks the first `len` bytes as used.
    ///
    /// # Panics
    ///
    /// If fewer have arrived.
    pub(crate) fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "used more than has arrived");
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads what there is, once. 0 means that the other side has ended its stream. Room is made by
    /// moving what is unused to the front; the caller uses up whatever is whole before, so that is
    /// less than a header, or a payload's first part.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let limit = (self.end + self.window).min(self.bytes.len());
        assert!(self.end < limit, "the read buffer holds nothing usable");
        let mut free = ReadBuf::new(&mut self.bytes[self.end..limit]);
        ready!(Pin::new(stream).poll_read(cx, &mut free))?;
        let len = free.filled().len();
        self.end += len;
        Poll::Ready(Ok(len))
    }
}

impl PayloadMemory {
    /// Room for `len` bytes that begin at a multiple of `align`.
    pub(crate) fn payload(&mut self, len: u32, align: usize) -> Payload {
        let bytes = usize::try_from(len).expect("usize has 32 bits at least");
        if SHARED_LEN_MAX < bytes {
            return Payload::new(len, align);
        }
        if self.slab.capacity() < bytes + align - 1 {
            self.slab = BytesMut::with_capacity(SLAB_LEN);
        }
        let used = skip(&mut self.slab, align) + bytes;
        let rest = self.slab.split_off(used);
        Payload::within(mem::replace(&mut self.slab, rest), bytes, align)
    }
}

/// How far behind the start of an empty buffer the first multiple of `align` lies.
fn skip(buffer: &mut BytesMut, align: usize) -> usize {
    buffer.spare_capacity_mut().as_ptr().align_offset(align)
}

impl Payload {
    /// Allocates for `len` bytes that begin at a multiple of `align`.
    pub(crate) fn new(len: u32, align: usize) -> Self {
        let len = usize::try_from(len).expect("usize has 32 bits at least");
        Self::within(BytesMut::with_capacity(len + align - 1), len, align)
    }

    fn within(mut buffer: BytesMut, len: usize, align: usize) -> Self {
        let skip = skip(&mut buffer, align);
        buffer.put_bytes(0, skip);
        buffer.advance(skip);
        Self { buffer, len }
    }

    fn missing(&self) -> usize {
        self.len - self.buffer.len()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing() == 0
    }

    /// Takes what the read buffer holds of it, and tells the read buffer whether long payloads are
    /// the rule.
    pub(crate) fn take_from(&mut self, input: &mut ReadBuffer) {
        let unused = input.unused();
        let part = unused.len().min(self.missing());
        self.buffer.put_slice(&unused[..part]);
        input.consume(part);
        input.window = if self.len < READ_BUFFER_LEN {
            READ_BUFFER_LEN
        } else {
            READ_AHEAD_AFTER_LONG
        };
    }

    /// Reads from the stream into place, once. 0 means that the other side has ended its stream.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        let missing = self.missing();
        let mut rest = (&mut self.buffer).limit(missing);
        // Nothing is read unless the future is ready, so making a new one each time loses nothing.
        pin!(stream.read_buf(&mut rest)).poll(cx)
    }

    /// The payload.
    ///
    /// # Panics
    ///
    /// Unless it is complete.
    pub(crate) fn into_bytes(self) -> Bytes {
        assert!(self.is_complete(), "the payload has not arrived");
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn fill(input: &mut ReadBuffer, mut stream: &[u8]) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        match input.poll_fill(&mut cx, &mut stream) {
            Poll::Ready(Ok(len)) => len,
            other => panic!("a slice is always ready: {other:?}"),
        }
    }

    #[test]
    fn a_payload_begins_where_its_user_needs_it_and_holds_little_more() {
        for align in [1, 512, 4_096] {
            for len in [512_u32, 4_096, 65_536, 1 << 20] {
                let mut payload = PayloadMemory::default().payload(len, align);
                let capacity = payload.buffer.capacity();
                assert!(capacity < len as usize + align.max(2), "{len}: {capacity}");
                payload.buffer.put_bytes(7, len as usize);
                let bytes = payload.into_bytes();
                assert_eq!(bytes.as_ptr().align_offset(align), 0);
                assert_eq!(bytes.len(), len as usize);
            }
        }
    }

    #[test]
    fn small_payloads_share_memory_and_nothing_else() {
        for align in [1, 512, 4_096] {
            let mut memory = PayloadMemory::default();
            let mut payloads = Vec::new();
            for number in 0..200_u8 {
                let len = [512, 4_096, 8_192, 12_288][usize::from(number % 4)];
                let mut payload = memory.payload(len, align);
                let mut stream = ReadBuffer::new();
                let bytes = vec![number; len as usize];
                while !payload.is_complete() {
                    fill(&mut stream, &bytes[..payload.missing()]);
                    payload.take_from(&mut stream);
                }
                payloads.push((number, len as usize, payload.into_bytes()));
            }
            for (number, len, payload) in &payloads {
                assert_eq!(payload, &vec![*number; *len]);
                assert_eq!(payload.as_ptr().align_offset(align), 0);
            }
            let near = payloads.windows(2).filter(|pair| {
                let [(_, _, first), (_, _, second)] = pair else {
                    unreachable!("pairs");
                };
                first.as_ptr_range().end <= second.as_ptr()
                    && second.as_ptr() < first.as_ptr().wrapping_add(SLAB_LEN)
            });
            assert!(50 < near.count(), "neighbours in one slab");
        }
    }

    #[test]
    fn a_payload_is_what_was_buffered_and_then_what_the_stream_brings() {
        let mut input = ReadBuffer::new();
        assert_eq!(fill(&mut input, b"headab"), 6);
        input.consume(4);
        let mut payload = PayloadMemory::default().payload(5, 512);
        payload.take_from(&mut input);
        assert!(!payload.is_complete() && input.unused().is_empty());
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream = &b"cdeNEXT"[..];
        assert!(payload.poll_fill(&mut cx, &mut stream).is_ready());
        assert_eq!(payload.into_bytes(), &b"abcde"[..]);
        assert_eq!(stream, b"NEXT", "not a byte too many");
    }

    #[test]
    fn a_payload_leaves_the_next_request_in_the_buffer() {
        let mut input = ReadBuffer::new();
        fill(&mut input, b"abcdeNEXT");
        let mut payload = PayloadMemory::default().payload(5, 512);
        payload.take_from(&mut input);
        assert_eq!(payload.into_bytes(), &b"abcde"[..]);
        assert_eq!(input.unused(), b"NEXT");
    }

    #[test]
    fn what_is_unused_moves_to_the_front_and_stays_whole() {
        let mut input = ReadBuffer::new();
        let long: Vec<u8> = (0..=250).cycle().take(READ_BUFFER_LEN).collect();
        assert_eq!(fill(&mut input, &long), READ_BUFFER_LEN);
        input.consume(READ_BUFFER_LEN - 3);
        assert_eq!(fill(&mut input, b"xyz"), 3);
        assert_eq!(&input.unused()[..3], &long[READ_BUFFER_LEN - 3..]);
        assert_eq!(&input.unused()[3..], b"xyz");
    }

    #[test]
    fn after_a_long_payload_little_is_read_ahead() {
        let mut input = ReadBuffer::new();
        PayloadMemory::default()
            .payload(1 << 20, 512)
            .take_from(&mut input);
        let long = vec![1; READ_BUFFER_LEN];
        assert_eq!(fill(&mut input, &long), READ_AHEAD_AFTER_LONG);
        input.consume(READ_AHEAD_AFTER_LONG);
        PayloadMemory::default()
            .payload(4_096, 512)
            .take_from(&mut input);
        assert_eq!(fill(&mut input, &long), READ_BUFFER_LEN);
    }
}
