//! What is kept, what is dropped and read again, and what waits.

use everpoint_format::cache_log::LogFileNo;
use everpoint_units::ByteOffset;

use super::*;
use crate::test_blocks::{DISK, next, opening};

fn at(offset: u64) -> LogPosition {
    LogPosition::new(LogFileNo(1), ByteOffset(offset))
}

/// Three blocks of a disk, at 10, 20 and 30.
fn three() -> Vec<Cached> {
    let first = opening(DISK, 7, None, 1);
    let second = next(&first, 9);
    let third = next(&second, 10);
    let cached = |(block, offset)| Cached {
        position: at(offset),
        block,
        digests: None,
    };
    [(first, 10), (second, 20), (third, 30)]
        .map(cached)
        .into_iter()
        .collect()
}

fn lens(blocks: &[Cached]) -> Vec<u64> {
    let lens = blocks
        .iter()
        .map(|cached| cached.block.bytes().len() as u64);
    lens.collect()
}

/// What a block takes in memory. Unit: bytes.
fn memory(cached: &Cached) -> usize {
    let header = cached.block.header();
    header.encoded_len() + header.opened_len()
}

fn taken(backlog: &mut BacklogCore) -> LogPosition {
    match backlog.poll() {
        Some(Next::Block(cached)) => cached.position,
        other => panic!("{other:?}"),
    }
}

fn to_read(backlog: &mut BacklogCore) -> LogPosition {
    match backlog.poll() {
        Some(Next::ReadAgain { from }) => from,
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_leave_in_log_order_and_until_then_they_wait() {
    let blocks = three();
    let lens = lens(&blocks);
    let mut backlog = BacklogCore::new(blocks.iter().map(memory).sum());
    assert!(backlog.is_empty() && backlog.poll().is_none());
    blocks.into_iter().for_each(|cached| backlog.push(cached));
    assert_eq!(backlog.waiting(), lens.iter().sum::<u64>());
    assert!(!backlog.is_empty());
    assert_eq!(taken(&mut backlog), at(10));
    assert_eq!(backlog.waiting(), lens[1] + lens[2]);
    assert_eq!(taken(&mut backlog), at(20));
    assert_eq!(taken(&mut backlog), at(30));
    assert_eq!(backlog.waiting(), 0);
    assert!(backlog.is_empty() && backlog.poll().is_none());
}

#[test]
fn what_memory_does_not_hold_is_read_again_after_what_it_holds() {
    let blocks = three();
    let lens = lens(&blocks);
    let mut backlog = BacklogCore::new(memory(&blocks[0]) + memory(&blocks[1]) - 1);
    blocks.into_iter().for_each(|cached| backlog.push(cached));
    assert_eq!(
        backlog.waiting(),
        lens.iter().sum::<u64>(),
        "dropped or not"
    );
    assert_eq!(taken(&mut backlog), at(10));
    assert_eq!(to_read(&mut backlog), at(20));
    assert!(!backlog.is_empty());
    let len = |index: usize| usize::try_from(lens[index]).expect("short");
    assert!(!backlog.read_again(at(20), len(1)), "another one follows");
    assert_eq!(backlog.waiting(), lens[2]);
    assert!(backlog.read_again(at(30), len(2)));
    assert!(backlog.is_empty());
    assert_eq!(backlog.waiting(), 0);
}

#[test]
fn memory_that_a_block_leaves_is_free_for_the_next_to_the_last_byte() {
    let alike = three().split_off(1);
    let most = memory(&alike[0]);
    assert_eq!(memory(&alike[1]), most);
    let mut backlog = BacklogCore::new(most);
    for cached in alike {
        let position = cached.position;
        backlog.push(cached);
        assert_eq!(taken(&mut backlog), position);
    }
}

#[test]
fn what_comes_while_something_is_dropped_is_dropped_too() {
    let mut blocks = three();
    let last = blocks.pop().expect("three");
    let first = blocks.remove(0);
    let mut backlog = BacklogCore::new(usize::MAX);
    backlog.recovered(at(1), at(5), 100);
    assert_eq!(backlog.waiting(), 100);
    let len = last.block.bytes().len();
    backlog.push(last);
    assert_eq!(to_read(&mut backlog), at(1));
    assert!(!backlog.read_again(at(5), 100), "one came behind it");
    assert!(backlog.read_again(at(30), len));
    backlog.push(first);
    assert_eq!(taken(&mut backlog), at(10));
}
