//! Which questions are open, and which answers count.

use everpoint_format::digest::PlainDigest;
use everpoint_units::GenerationId;

use super::*;

fn question(first_piece: u64) -> Question {
    Question {
        generation: GenerationId([1; 16]),
        first_piece,
        digests: vec![PlainDigest([1; 32])],
    }
}

#[test]
fn what_was_not_answered_is_asked_again_on_the_next_stream() {
    let mut book = CompareBook::default();
    for first_piece in [10, 20, 30] {
        book.add(question(first_piece));
    }
    let first = book.next_to_send().expect("asked");
    let second = book.next_to_send().expect("asked");
    assert_eq!((first.first_piece, second.first_piece), (10, 20));
    let answer = book.answer(second.request, Bytes::from_static(b"x"));
    let answer = answer.expect("it was open");
    assert_eq!((answer.first_piece, &answer.differs[..]), (20, &b"x"[..]));
    book.handle_unlinked();
    let again: Vec<u64> = std::iter::from_fn(|| book.next_to_send())
        .map(|compare| compare.first_piece)
        .collect();
    assert_eq!(again, [10, 30]);
}

#[test]
fn what_was_asked_behind_a_refused_block_is_asked_again_and_only_that_answer_counts() {
    let mut book = CompareBook::default();
    book.add(question(10));
    book.add(question(20));
    let first = book.next_to_send().expect("asked");
    book.handle_refused();
    assert_eq!(book.answer(first.request, Bytes::new()), None);
    let again: Vec<Compare> = std::iter::from_fn(|| book.next_to_send()).collect();
    let pieces: Vec<u64> = again.iter().map(|compare| compare.first_piece).collect();
    assert_eq!(pieces, [10, 20]);
    let answer = book.answer(again[0].request, Bytes::from_static(b"x"));
    assert_eq!(answer.expect("it is open").first_piece, 10);
}

#[test]
fn an_answer_to_an_earlier_resync_is_not_taken_for_this_ones() {
    let mut book = CompareBook::default();
    book.add(question(10));
    let old = book.next_to_send().expect("asked");
    book.clear();
    book.add(question(10));
    assert_eq!(book.answer(old.request, Bytes::new()), None);
}
