//! What flushes vouch for, and what a peer's extents come to.

use everpoint_units::{ByteLen, ByteOffset};
use proptest::prelude::*;

use super::*;

/// A change that was sent and has succeeded.
fn change(ledger: &mut Ledger) {
    let epoch = ledger.epoch();
    ledger.begin_change();
    ledger.end_change(epoch).expect("the same connection");
}

fn flush(ledger: &mut Ledger) -> Result<(), Gone> {
    let asked = ledger.ask_flush();
    let flushing = ledger.begin_flush(asked)?;
    ledger.end_flush(flushing);
    Ok(())
}

#[test]
fn a_flush_does_not_vouch_for_a_change_that_was_in_flight_when_it_began() {
    let mut ledger = Ledger::default();
    let epoch = ledger.epoch();
    ledger.begin_change();
    assert_eq!(flush(&mut ledger), Ok(()));
    assert_eq!(ledger.end_change(epoch), Ok(()));
    ledger.reconnected();
    assert_eq!(flush(&mut ledger), Err(Gone));
    assert_eq!(flush(&mut ledger), Ok(()), "it has been told");
}

#[test]
fn what_was_flushed_survives_a_loss() {
    let mut ledger = Ledger::default();
    change(&mut ledger);
    assert_eq!(flush(&mut ledger), Ok(()));
    ledger.reconnected();
    assert_eq!(flush(&mut ledger), Ok(()));
    assert_eq!(ledger.losses(), 1);
}

#[test]
fn a_flush_that_failed_with_the_connection_leaves_the_next_one_to_fail() {
    let mut ledger = Ledger::default();
    change(&mut ledger);
    let asked = ledger.ask_flush();
    ledger.begin_flush(asked).expect("nothing was lost yet");
    // That one has no end. The other one connects again.
    let asked = ledger.ask_flush();
    ledger.reconnected();
    assert!(ledger.begin_flush(asked).is_err());
}

#[test]
fn flushes_side_by_side_all_learn_of_a_loss() {
    let mut ledger = Ledger::default();
    change(&mut ledger);
    let (first, second) = (ledger.ask_flush(), ledger.ask_flush());
    ledger.reconnected();
    assert!(ledger.begin_flush(first).is_err());
    assert!(ledger.begin_flush(second).is_err());
    assert_eq!(flush(&mut ledger), Ok(()));
}

#[test]
fn a_flush_that_ends_late_takes_nothing_back() {
    let mut ledger = Ledger::default();
    change(&mut ledger);
    let asked = ledger.ask_flush();
    let early = ledger.begin_flush(asked).expect("nothing was lost");
    change(&mut ledger);
    assert_eq!(flush(&mut ledger), Ok(()));
    ledger.end_flush(early);
    ledger.reconnected();
    assert_eq!(flush(&mut ledger), Ok(()));
}

#[test]
fn a_success_that_is_looked_at_after_the_next_connection_was_made_counts_as_a_failure() {
    let mut ledger = Ledger::default();
    let epoch = ledger.epoch();
    ledger.begin_change();
    assert_eq!(flush(&mut ledger), Ok(()));
    ledger.reconnected();
    assert_eq!(ledger.end_change(epoch), Err(Gone));
}

const AT: u64 = 1 << 20;

fn extent(len: u64) -> Extent {
    Extent::from_bytes(ByteOffset(AT), ByteLen(len)).expect("whole sectors")
}

fn told(len: u32, zero: bool) -> Allocation {
    Allocation {
        len,
        hole: zero,
        zero,
    }
}

/// Lengths in bytes, and whether they are holes.
fn plain(runs: &[Run]) -> Vec<(u64, bool)> {
    runs.iter()
        .map(|run| (run.extent.byte_len().0, run.hole))
        .collect()
}

#[test]
fn a_hole_begins_and_ends_at_blocks_that_read_as_zeroes_whole() {
    let found = [
        told(8_200, false),
        told(100_000, true),
        told(22_872, false),
        told(60_000, true),
        told(5_536, true),
    ];
    let at_512 = runs(extent(196_608), 512, &found);
    assert_eq!(
        plain(&at_512),
        [
            (8_704, false),
            (99_328, true),
            (23_040, false),
            (65_536, true)
        ]
    );
    let at_4096 = runs(extent(196_608), 4_096, &found);
    assert_eq!(
        plain(&at_4096),
        [
            (12_288, false),
            (94_208, true),
            (24_576, false),
            (65_536, true)
        ]
    );
}

#[test]
fn what_is_told_of_is_data_up_to_the_end_of_its_block_and_a_small_hole_is_none() {
    let found = [told(100, false), told(4_000, true), told(1_000, false)];
    let runs = runs(extent(65_536), 4_096, &found);
    assert_eq!(plain(&runs), [(8_192, false)]);
}

#[test]
fn an_answer_that_tells_nothing_or_too_much_stays_inside_the_request() {
    assert_eq!(plain(&runs(extent(8_192), 512, &[])), [(8_192, false)]);
    let found = [told(u32::MAX, true)];
    assert_eq!(plain(&runs(extent(8_192), 4_096, &found)), [(8_192, true)]);
}

#[test]
fn an_answer_of_many_parts_ends_early() {
    let found: Vec<_> = (0..3_000).map(|n| told(512, n % 2 == 0)).collect();
    let runs = runs(extent(3_000 * 512), 512, &found);
    assert_eq!(runs.len(), RUNS_MAX);
}

proptest! {
    #[test]
    fn runs_follow_each_other_and_every_byte_of_a_hole_was_told_to_be_zero(
        found in prop::collection::vec((1_u32..20_000, any::<bool>()), 0..40),
        pages in any::<bool>(),
    ) {
        let block = if pages { 4_096 } else { 512 };
        let extent = extent(256 << 10);
        let zero: Vec<bool> = found
            .iter()
            .flat_map(|&(len, zero)| std::iter::repeat_n(zero, usize::try_from(len).unwrap()))
            .collect();
        let found: Vec<_> = found.iter().map(|&(len, zero)| told(len, zero)).collect();
        let runs = runs(extent, block, &found);
        let mut at = AT;
        for (index, run) in runs.iter().enumerate() {
            let (start, end) = (run.extent.start().byte_offset().0, run.extent.end().byte_offset().0);
            prop_assert_eq!(start, at);
            prop_assert!(end.is_multiple_of(u64::from(block)));
            prop_assert!(index == 0 || runs[index - 1].hole != run.hole, "not merged");
            let inside = usize::try_from(start - AT).unwrap()..usize::try_from(end - AT).unwrap();
            prop_assert!(!run.hole || zero[inside].iter().all(|zero| *zero));
            at = end;
        }
        let asked = 256 << 10;
        let told = u64::try_from(zero.len()).unwrap().next_multiple_of(u64::from(block));
        let covered = if told == 0 { asked } else { told.min(asked) };
        prop_assert_eq!(at - AT, covered);
    }
}
