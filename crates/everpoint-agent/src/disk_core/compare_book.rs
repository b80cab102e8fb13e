//! Questions that a resync has asked and the server has not answered.
//!
//! They outlive a stream: what was asked on a stream that broke is asked again on the next, so that
//! a resync only ever sees answers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use everpoint_marks::{planted, reached};
use everpoint_wire::Compare;

use super::effect::{Answer, Question};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CompareBook {
    /// The newest number. None is ever used again, also not for another stream or resync.
    newest: u64,
    /// By number. The content of a question is kept until it is answered.
    open: BTreeMap<u64, Question>,
    unsent: VecDeque<u64>,
}

impl CompareBook {
    pub(super) fn add(&mut self, question: Question) {
        self.newest += 1;
        self.open.insert(self.newest, question);
        self.unsent.push_back(self.newest);
    }

    /// The next question to send.
    pub(super) fn next_to_send(&mut self) -> Option<Compare> {
        loop {
            let number = self.unsent.pop_front()?;
            if let Some(question) = self.open.get(&number) {
                return Some(Compare {
                    request: number,
                    first_piece: question.first_piece,
                    digests: question.digests.clone(),
                });
            }
        }
    }

    /// The server answered; `None` if nobody waits for that.
    pub(super) fn answer(&mut self, number: u64, differs: Bytes) -> Option<Answer> {
        if !self.open.contains_key(&number) {
            reached!(AnswerToNobody);
        }
        let question = self.open.remove(&number)?;
        Some(Answer {
            generation: question.generation,
            first_piece: question.first_piece,
            differs,
        })
    }

    /// The stream broke: everything open is asked again, oldest first.
    pub(super) fn handle_unlinked(&mut self) {
        if !self.open.is_empty() {
            reached!(AskedAgain);
        }
        if planted!(QuestionsForgotten) {
            return;
        }
        self.unsent = self.open.keys().copied().collect();
    }

    /// A block was refused. What was asked behind it may have been taken for a question about the
    /// generation before, or about nothing: it is asked again behind the block, under another number, so
    /// that an answer to the first counts for nothing.
    pub(super) fn handle_refused(&mut self) {
        self.unsent.clear();
        for question in std::mem::take(&mut self.open).into_values() {
            self.add(question);
        }
    }

    /// The resync ended.
    pub(super) fn clear(&mut self) {
        if planted!(AnswerNumbersReused) {
            self.newest = 0;
        }
        self.open.clear();
        self.unsent.clear();
    }
}

#[cfg(test)]
mod tests;
