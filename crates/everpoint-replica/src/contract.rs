//! What every target must do, whoever implements it.
//!
//! Memory and file run this with the unit tests; Azurite and the tests' own page-blob server with the end-to-end
//! tests. A behaviour that callers rely on and that is not checked here does not exist.

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset, Level};

use crate::error::{PageError, Refusal};
use crate::fence::Fence;
use crate::target::{LeaseId, PUT_LEN_MAX, PageRange, PageTarget, Pages, SnapshotId};

/// Length of the targets that are made: a disk of 16 MiB and a footer. Unit: bytes.
pub const LEN: ByteLen = ByteLen((16 << 20) + 512);
const LEASE_S: u32 = 15;

/// Runs the whole contract but for snapshots against a target that does not exist yet, and leaves it dirty.
///
/// # Panics
///
/// At the first clause that does not hold.
pub async fn check(target: &impl PageTarget) {
    what_does_not_exist_has_no_properties_and_takes_nothing(target).await;
    let fence = it_is_created_once(target).await;
    unwritten_pages_read_as_zeroes(target).await;
    put_pages_read_back_and_neighbours_stay(target, fence).await;
    pieces_are_put_one_after_the_other(target, fence).await;
    a_put_may_be_repeated(target, fence).await;
    the_longest_put_is_taken(target, fence).await;
    cleared_pages_read_as_zeroes_and_are_no_range(target, fence).await;
    nothing_is_written_past_the_end(target, fence).await;
    let fence = the_fence_only_rises(target, fence).await;
    only_writes_under_its_fence_take_effect(target, fence).await;
    one_lease_at_a_time(target).await;
    a_lease_is_taken_again_and_admits_nothing_once_given_back(target).await;
    it_grows_and_shrinks(target, fence).await;
}

/// Runs what concerns snapshots against a target that does not exist yet.
///
/// # Panics
///
/// At the first clause that does not hold.
pub async fn check_snapshots(target: &impl PageTarget) {
    let (fence, snapshot) = snapshot_and_changes(target).await;
    let old = target
        .read(ByteOffset(4_096), ByteLen(1_024), Some(&snapshot))
        .await;
    assert_eq!(old.expect("a snapshot stays")[..], [1; 1_024]);
    assert_eq!(read(target, 4_096, 512).await[..], [9; 512]);
    let ranges = target.ranges(Some(&snapshot)).await;
    let expected = [
        range(4_096, 1_024),
        range(1 << 20, 512),
        range(2 << 20, 512),
    ];
    assert_eq!(merged(ranges.expect("ranges of a snapshot")), expected);
    let second = target.snapshot().await.expect("a second one");
    assert_ne!(second, snapshot);
    put(target, 4_096, &[8; 512], fence).await;
    let old = target
        .read(ByteOffset(4_096), ByteLen(512), Some(&second))
        .await;
    assert_eq!(old.expect("a snapshot stays")[..], [9; 512]);
    target.forget(&snapshot).await.expect("it is there");
    let gone = target
        .read(ByteOffset(0), ByteLen(512), Some(&snapshot))
        .await;
    expect_refused(gone.map(|_| ()), &Refusal::Missing);
}

/// Runs what concerns changes since a snapshot against a target that does not exist yet. Not every emulator knows
/// them: Azurite answers with everything.
///
/// # Panics
///
/// At the first clause that does not hold.
pub async fn check_differences(target: &impl PageTarget) {
    let (_, snapshot) = snapshot_and_changes(target).await;
    let changed = target.changed_since(&snapshot).await;
    let expected = [
        range(4_096, 512),
        PageRange {
            is_clear: true,
            ..range(1 << 20, 512)
        },
        range(2 << 20, 512),
        range(3 << 20, 512),
    ];
    let changed = merged(changed.expect("changes since a snapshot"));
    assert_eq!(changed, expected, "rewritten pages count");
}

/// A target with a snapshot, and after it pages rewritten, rewritten with the same, written and cleared.
async fn snapshot_and_changes(target: &impl PageTarget) -> (Fence, SnapshotId) {
    let fence = Fence::first_of(Level(1)).expect("a low level");
    create(target, fence).await;
    put(target, 4_096, &[1; 1_024], fence).await;
    put(target, 1 << 20, &[2; 512], fence).await;
    put(target, 2 << 20, &[3; 512], fence).await;
    let snapshot = target.snapshot().await.expect("a snapshot");
    put(target, 4_096, &[9; 512], fence).await;
    put(target, 2 << 20, &[3; 512], fence).await;
    put(target, 3 << 20, &[4; 512], fence).await;
    let cleared = target.clear(ByteOffset(1 << 20), ByteLen(512), fence).await;
    cleared.expect("a legal clear");
    (fence, snapshot)
}

async fn what_does_not_exist_has_no_properties_and_takes_nothing(target: &impl PageTarget) {
    let none = target.properties().await.expect("an answer");
    assert_eq!(none, None);
    let page = Pages::from(Bytes::from_static(&[1; 512]));
    let put = target.put(ByteOffset(0), &page, Fence::NONE).await;
    expect_refused(put, &Refusal::Missing);
    let raised = target.raise(Fence::NONE).await;
    expect_refused(raised.map(|_| ()), &Refusal::Missing);
    let read = target.read(ByteOffset(0), ByteLen(512), None).await;
    expect_refused(read.map(|_| ()), &Refusal::Missing);
}

async fn it_is_created_once(target: &impl PageTarget) -> Fence {
    let fence = Fence::first_of(Level(1)).expect("a low level");
    create(target, fence).await;
    let again = target.create(ByteLen(512), fence).await;
    expect_refused(again, &Refusal::Exists);
    let is = target.properties().await.expect("an answer");
    let is = is.expect("it was created");
    assert_eq!((is.len, is.fence, is.is_leased), (LEN, fence, false));
    fence
}

async fn unwritten_pages_read_as_zeroes(target: &impl PageTarget) {
    assert_eq!(read(target, LEN.0 - 1_024, 1_024).await[..], [0; 1_024]);
    assert_eq!(target.ranges(None).await.expect("ranges"), []);
}

async fn put_pages_read_back_and_neighbours_stay(target: &impl PageTarget, fence: Fence) {
    put(target, 1_024, &[7; 512], fence).await;
    assert_eq!(read(target, 512, 512).await[..], [0; 512]);
    assert_eq!(read(target, 1_024, 512).await[..], [7; 512]);
    assert_eq!(read(target, 1_536, 512).await[..], [0; 512]);
    ranges_hold(target, &[range(1_024, 512)]).await;
}

async fn pieces_are_put_one_after_the_other(target: &impl PageTarget, fence: Fence) {
    let pieces = [&[1; 100][..], &[], &[2; 900], &[3; 536]];
    let pages = Pages::new(pieces.map(Bytes::from_static));
    let written = target.put(ByteOffset(8_192), &pages, fence).await;
    written.expect("a legal put");
    assert_eq!(read(target, 8_192, 1_536).await[..], pieces.concat());
}

async fn a_put_may_be_repeated(target: &impl PageTarget, fence: Fence) {
    put(target, 2_048, &[9; 512], fence).await;
    put(target, 2_048, &[9; 512], fence).await;
    assert_eq!(read(target, 2_048, 512).await[..], [9; 512]);
}

async fn the_longest_put_is_taken(target: &impl PageTarget, fence: Fence) {
    let len = usize::try_from(PUT_LEN_MAX).expect("4 MiB");
    let bytes: Vec<u8> = (0..len).map(|at| (at / 512).to_le_bytes()[0]).collect();
    put(target, 1 << 20, &bytes, fence).await;
    assert_eq!(read(target, 1 << 20, PUT_LEN_MAX).await[..], bytes[..]);
}

async fn cleared_pages_read_as_zeroes_and_are_no_range(target: &impl PageTarget, fence: Fence) {
    put(target, 8 << 20, &[5; 2_048], fence).await;
    let cleared = target
        .clear(ByteOffset((8 << 20) + 512), ByteLen(1_024), fence)
        .await;
    cleared.expect("a legal clear");
    let bytes = read(target, 8 << 20, 2_048).await;
    assert_eq!(bytes[..512], [5; 512]);
    assert_eq!(bytes[512..1_536], [0; 1_024]);
    assert_eq!(bytes[1_536..], [5; 512]);
    let left = [range(8 << 20, 512), range((8 << 20) + 1_536, 512)];
    ranges_hold(target, &left).await;
    let all = target.clear(ByteOffset(0), LEN, fence).await;
    all.expect("a clear may be as long as the target");
    assert_eq!(target.ranges(None).await.expect("ranges"), []);
}

async fn nothing_is_written_past_the_end(target: &impl PageTarget, fence: Fence) {
    let (at, len) = (ByteOffset(LEN.0 - 512), ByteLen(1_024));
    let too_small = Refusal::TooSmall { at, len };
    let page = Pages::from(Bytes::from_static(&[1; 1_024]));
    expect_refused(target.put(at, &page, fence).await, &too_small);
    expect_refused(target.clear(at, len, fence).await, &too_small);
    assert_eq!(read(target, LEN.0 - 512, 512).await[..], [0; 512]);
}

async fn the_fence_only_rises(target: &impl PageTarget, fence: Fence) -> Fence {
    let higher = Fence::first_of(Level(2)).expect("a low level");
    assert_eq!(raise(target, higher).await, higher);
    assert_eq!(raise(target, fence).await, higher, "it is not lowered");
    let next = higher.next().expect("the second");
    assert_eq!(raise(target, next).await, next);
    next
}

async fn only_writes_under_its_fence_take_effect(target: &impl PageTarget, fence: Fence) {
    put(target, 0, &[6; 512], fence).await;
    let page = Pages::from(Bytes::from_static(&[8; 512]));
    let lower = Fence::first_of(Level(2)).expect("a low level");
    let higher = fence.next().expect("the third");
    for other in [lower, higher] {
        let put = target.put(ByteOffset(0), &page, other).await;
        assert!(matches!(put, Err(PageError::Fenced { .. })), "{put:?}");
        let clear = target.clear(ByteOffset(0), ByteLen(512), other).await;
        assert!(matches!(clear, Err(PageError::Fenced { .. })), "{clear:?}");
    }
    assert_eq!(read(target, 0, 512).await[..], [6; 512]);
}

async fn one_lease_at_a_time(target: &impl PageTarget) {
    let (one, other) = (LeaseId(1), LeaseId(2));
    take(target, one).await;
    expect_refused(target.lease(other, LEASE_S).await, &Refusal::LeaseHeld);
    expect_refused(target.release(other).await, &Refusal::LeaseHeld);
    expect_refused(target.resize(LEN, None).await, &Refusal::LeaseHeld);
    expect_refused(target.resize(LEN, Some(other)).await, &Refusal::LeaseHeld);
    let is = target.properties().await.expect("an answer");
    assert!(is.expect("it is there").is_leased);
    target.release(one).await.expect("it is held");
    take(target, other).await;
    target.release(other).await.expect("it is held");
}

async fn a_lease_is_taken_again_and_admits_nothing_once_given_back(target: &impl PageTarget) {
    let lease = LeaseId(3);
    take(target, lease).await;
    take(target, lease).await;
    target.release(lease).await.expect("it is held");
    expect_refused(target.release(lease).await, &Refusal::LeaseHeld);
    let late = target.resize(ByteLen(LEN.0 + 512), Some(lease)).await;
    expect_refused(late, &Refusal::LeaseHeld);
    let is = target.properties().await.expect("an answer");
    let is = is.expect("it is there");
    assert_eq!((is.len, is.is_leased), (LEN, false));
}

async fn it_grows_and_shrinks(target: &impl PageTarget, fence: Fence) {
    let lease = LeaseId(u128::MAX);
    take(target, lease).await;
    let longer = ByteLen(LEN.0 + (1 << 20));
    target.resize(longer, Some(lease)).await.expect("it grows");
    target.release(lease).await.expect("it is held");
    put(target, LEN.0, &[4; 512], fence).await;
    take(target, lease).await;
    for len in [LEN, longer] {
        target.resize(len, Some(lease)).await.expect("a resize");
        let is = target.properties().await.expect("an answer");
        assert_eq!(is.expect("it is there").len, len);
    }
    target.release(lease).await.expect("it is held");
    assert_eq!(read(target, LEN.0, 512).await[..], [0; 512], "it was cut");
}

async fn create(target: &impl PageTarget, fence: Fence) {
    target.create(LEN, fence).await.expect("it is not there");
}

async fn take(target: &impl PageTarget, lease: LeaseId) {
    let taken = target.lease(lease, LEASE_S).await;
    taken.expect("no other is held");
}

async fn put(target: &impl PageTarget, at: u64, bytes: &[u8], fence: Fence) {
    let pages = Pages::from(Bytes::copy_from_slice(bytes));
    let put = target.put(ByteOffset(at), &pages, fence).await;
    put.expect("a legal put");
}

async fn read(target: &impl PageTarget, at: u64, len: u64) -> Bytes {
    let read = target.read(ByteOffset(at), ByteLen(len), None).await;
    read.expect("a legal read")
}

async fn raise(target: &impl PageTarget, to: Fence) -> Fence {
    target.raise(to).await.expect("a raise")
}

/// Each of these lies within one that the target states. Those may be longer: a filesystem counts in blocks.
async fn ranges_hold(target: &impl PageTarget, expected: &[PageRange]) {
    let stated = merged(target.ranges(None).await.expect("ranges"));
    for part in expected {
        let end = part.at.0 + part.len.0;
        let within = |whole: &PageRange| whole.at <= part.at && end <= whole.at.0 + whole.len.0;
        assert!(stated.iter().any(within), "{part:?} is not in {stated:?}");
    }
    let is_rising = stated
        .windows(2)
        .all(|pair| pair[0].at.0 + pair[0].len.0 <= pair[1].at.0);
    assert!(is_rising, "{stated:?}");
    assert!(stated.iter().all(|range| !range.is_clear), "{stated:?}");
}

/// Targets may cut runs as they like.
fn merged(ranges: Vec<PageRange>) -> Vec<PageRange> {
    let mut merged: Vec<PageRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last)
                if last.at.0 + last.len.0 == range.at.0 && last.is_clear == range.is_clear =>
            {
                last.len.0 += range.len.0;
            }
            _ => merged.push(range),
        }
    }
    merged
}

const fn range(at: u64, len: u64) -> PageRange {
    PageRange {
        at: ByteOffset(at),
        len: ByteLen(len),
        is_clear: false,
    }
}

fn expect_refused(result: Result<(), PageError>, expected: &Refusal) {
    match result {
        Err(PageError::Refused(refusal)) => assert_eq!(&refusal, expected),
        other => panic!("{other:?} is not: {expected}"),
    }
}
