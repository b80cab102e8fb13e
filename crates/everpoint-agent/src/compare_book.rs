//! Comparisons that a resync has asked for and the server has not answered.
//!
//! They outlive a stream: what was asked on a stream that broke is asked again on the next, so that
//! a resync only ever sees answers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use everpoint_format::digest::PlainDigest;
use everpoint_wire::Compare;
use tokio::sync::oneshot;

/// A question of a resync. Its content is kept until it is answered.
#[derive(Debug)]
pub(crate) struct CompareRequest {
    /// Unit: 4 KiB pieces of the disk.
    pub(crate) first_piece: u64,
    pub(crate) digests: Vec<PlainDigest>,
    /// One bit a piece; see `wire.proto`.
    pub(crate) answer: oneshot::Sender<Bytes>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct CompareBook {
    next: u64,
    open: BTreeMap<u64, CompareRequest>,
    unsent: VecDeque<u64>,
}

impl CompareBook {
    pub(crate) fn add(&mut self, request: CompareRequest) {
        self.next += 1;
        self.open.insert(self.next, request);
        self.unsent.push_back(self.next);
    }

    /// The next question to send. Its number is never used again, also not for another stream.
    pub(crate) fn next_to_send(&mut self) -> Option<Compare> {
        loop {
            let number = self.unsent.pop_front()?;
            if let Some(request) = self.open.get(&number) {
                return Some(Compare {
                    request: number,
                    first_piece: request.first_piece,
                    digests: request.digests.clone(),
                });
            }
        }
    }

    /// An answer came; one to a question that nobody waits for is dropped.
    pub(crate) fn answer(&mut self, number: u64, differs: Bytes) {
        if let Some(request) = self.open.remove(&number) {
            // A resync that ended meanwhile needs no answer.
            let _ = request.answer.send(differs);
        }
    }

    /// The stream broke: everything open is asked again, oldest first.
    pub(crate) fn handle_unlinked(&mut self) {
        self.unsent = self.open.keys().copied().collect();
    }

    /// The resync ended.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.unsent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(book: &mut CompareBook, first_piece: u64) -> oneshot::Receiver<Bytes> {
        let (answer, answered) = oneshot::channel();
        book.add(CompareRequest {
            first_piece,
            digests: vec![PlainDigest([1; 32])],
            answer,
        });
        answered
    }

    #[test]
    fn what_was_not_answered_is_asked_again_on_the_next_stream() {
        let mut book = CompareBook::default();
        let mut answers = [ask(&mut book, 10), ask(&mut book, 20), ask(&mut book, 30)];
        let first = book.next_to_send().expect("asked");
        let second = book.next_to_send().expect("asked");
        assert_eq!((first.first_piece, second.first_piece), (10, 20));
        book.answer(second.request, Bytes::from_static(b"x"));
        assert_eq!(answers[1].try_recv().expect("answered"), "x");
        book.handle_unlinked();
        let again: Vec<u64> = std::iter::from_fn(|| book.next_to_send())
            .map(|compare| compare.first_piece)
            .collect();
        assert_eq!(again, [10, 30]);
    }

    #[test]
    fn an_answer_to_an_earlier_resync_is_not_taken_for_this_ones() {
        let mut book = CompareBook::default();
        let _old = ask(&mut book, 10);
        let old = book.next_to_send().expect("asked");
        book.clear();
        let mut new = ask(&mut book, 10);
        book.answer(old.request, Bytes::new());
        assert!(new.try_recv().is_err());
    }
}
