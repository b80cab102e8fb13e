//! How bytes go out: heads gathered in one buffer, payloads between them as they are, and all of it
//! offered to the socket in one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Most pieces that one system call is offered. Far below the system's own limit of 1,024.
pub(crate) const SLICES_MAX: usize = 64;

/// Heads that were sent are forgotten once they take this much. Unit: bytes.
const SENT_HEADS_MAX: usize = 16 << 10;

/// What is to be sent, in order. `T` is let go when the payload that came with it has been sent.
pub(crate) struct SendQueue<T> {
    /// Heads, one after the other; those before `sent` are gone.
    heads: Vec<u8>,
    sent: usize,
    payloads: VecDeque<Queued<T>>,
}

struct Queued<T> {
    /// How many bytes of `heads` go before it.
    after: usize,
    payload: Bytes,
    /// Held until it has been sent.
    held: T,
}

impl<T> SendQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            heads: Vec::new(),
            sent: 0,
            payloads: VecDeque::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.heads.len() && self.payloads.is_empty()
    }

    /// How many bytes of heads wait. Unit: bytes.
    pub(crate) fn heads_len(&self) -> usize {
        self.heads.len() - self.sent
    }

    /// Where heads are appended.
    pub(crate) fn heads(&mut self) -> &mut Vec<u8> {
        if self.sent >= SENT_HEADS_MAX || self.is_empty() {
            self.forget_sent();
        }
        &mut self.heads
    }

    /// Queues a payload after the last head.
    pub(crate) fn push_payload(&mut self, payload: Bytes, held: T) {
        self.payloads.push_back(Queued {
            after: self.heads.len(),
            payload,
            held,
        });
    }

    /// Fills in what is to be sent next and says how many pieces that is.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut count = 0;
        let mut add = |bytes: &'a [u8]| {
            if !bytes.is_empty() && count < SLICES_MAX {
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
        };
        let mut from = self.sent;
        for queued in self.payloads.iter().take(SLICES_MAX) {
            add(&self.heads[from..queued.after]);
            add(&queued.payload);
            from = queued.after;
        }
        if self.payloads.len() <= SLICES_MAX {
            add(&self.heads[from..]);
        }
        count
    }

    /// Notes that the first `len` bytes of what [`Self::fill`] gave were sent, and lets go what
    /// came with the payloads among them.
    ///
    /// # Panics
    ///
    /// If less than `len` bytes are queued.
    pub(crate) fn advance(&mut self, mut len: usize, mut sent: impl FnMut(T)) {
        while let Some(queued) = self.payloads.front_mut() {
            let heads = (queued.after - self.sent).min(len);
            self.sent += heads;
            len -= heads;
            let part = queued.payload.len().min(len);
            if self.sent < queued.after || part < queued.payload.len() {
                queued.payload = queued.payload.slice(part..);
                return;
            }
            len -= part;
            if let Some(queued) = self.payloads.pop_front() {
                sent(queued.held);
            }
        }
        self.sent += len;
        assert!(self.sent <= self.heads.len(), "sent more than was queued");
    }

    /// Drops everything unsent.
    pub(crate) fn clear(&mut self, mut dropped: impl FnMut(T)) {
        self.heads.clear();
        self.sent = 0;
        self.payloads
            .drain(..)
            .for_each(|queued| dropped(queued.held));
    }

    fn forget_sent(&mut self) {
        self.heads.drain(..self.sent);
        for queued in &mut self.payloads {
            queued.after -= self.sent;
        }
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (SendQueue<u32>, Vec<u8>) {
        let mut queue = SendQueue::new();
        let mut all = Vec::new();
        for n in 0..6_u8 {
            let head = vec![b'a' + n; 3];
            queue.heads().extend_from_slice(&head);
            all.extend_from_slice(&head);
            if n % 2 == 1 {
                let payload = vec![b'A' + n; usize::from(n) * 4];
                all.extend_from_slice(&payload);
                queue.push_payload(payload.into(), u32::from(n));
            }
        }
        (queue, all)
    }

    fn offered(queue: &SendQueue<u32>) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = queue.fill(&mut slices);
        slices[..count].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn whatever_the_socket_takes_at_a_time_the_order_stays() {
        for step in 1..20 {
            let (mut queue, all) = queue();
            let mut wire = Vec::new();
            let mut released = Vec::new();
            while !queue.is_empty() {
                let part = offered(&queue);
                let len = part.len().min(step);
                wire.extend_from_slice(&part[..len]);
                queue.advance(len, |n| released.push(n));
            }
            assert_eq!(wire, all, "step {step}");
            assert_eq!(released, [1, 3, 5]);
        }
    }

    #[test]
    fn what_came_with_a_payload_is_held_until_its_last_byte_is_sent() {
        let mut queue = SendQueue::new();
        queue.heads().extend_from_slice(b"hh");
        queue.push_payload(Bytes::from_static(b"pppp"), 1);
        let mut released = 0;
        queue.advance(5, |n| released += n);
        assert_eq!(released, 0);
        queue.advance(1, |n| released += n);
        assert_eq!(released, 1);
    }

    #[test]
    fn a_queue_that_never_runs_empty_forgets_the_heads_that_were_sent() {
        let mut queue = SendQueue::<u32>::new();
        queue.heads().extend_from_slice(&[0; 16]);
        for _ in 0..10_000 {
            queue.heads().extend_from_slice(&[0; 16]);
            queue.advance(16, |_| ());
        }
        assert!(queue.heads.len() <= SENT_HEADS_MAX + 32);
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_offered_in_order() {
        let mut queue = SendQueue::new();
        let mut all = Vec::new();
        for n in 0..200_u8 {
            queue.heads().push(n);
            queue.push_payload(Bytes::from(vec![n; 2]), 0);
            all.extend_from_slice(&[n; 3]);
        }
        let mut wire = Vec::new();
        while !queue.is_empty() {
            let part = offered(&queue);
            assert!(!part.is_empty());
            wire.extend_from_slice(&part);
            queue.advance(part.len(), |_| ());
        }
        assert_eq!(wire, all);
    }

    #[test]
    fn clearing_lets_go_of_everything() {
        let (mut queue, _) = queue();
        let mut released = Vec::new();
        queue.clear(|n| released.push(n));
        assert_eq!(released, [1, 3, 5]);
        assert!(queue.is_empty());
    }
}
