//! A resync step by step, and against a disk that is written, fails and answers late: what the server
//! holds in the end is the disk.

use everpoint_format::digest::PIECE_SECTORS;
use proptest::prelude::*;

use super::*;

const GENERATION: GenerationId = GenerationId([1; 16]);
const NOW: Moment = Moment(1_000);
/// Unit: sectors.
const MIB: u64 = (1 << 20) / SECTOR_LEN;

fn extent(start: u64, end: u64) -> Extent {
    pieces::extent(start, end)
}

fn resync(sectors: u64, compares: bool) -> ResyncCore {
    ResyncCore::new(ResyncPlan {
        generation: GENERATION,
        sectors,
        compares,
        rate_max: None,
    })
}

fn run(start: u64, end: u64, hole: bool) -> Run {
    Run {
        extent: extent(start, end),
        hole,
    }
}

fn bytes(extent: Extent, fill: u8) -> Bytes {
    let len = usize::try_from(extent.byte_len().0).expect("small");
    Bytes::from(vec![fill; len])
}

fn answer(first_piece: u64, differs: &[u8]) -> Answer {
    Answer {
        generation: GENERATION,
        first_piece,
        differs: Bytes::copy_from_slice(differs),
    }
}

/// Does what is needed for a copy; returns what was queued.
fn copy(resync: &mut ResyncCore, wanted: Extent, fill: u8) -> Vec<Change> {
    let len = wanted.byte_len().0;
    assert_eq!(resync.need(NOW), Need::Room { len });
    resync.handle_room();
    assert_eq!(resync.need(NOW), Need::Copy(wanted));
    let queued = resync.handle_copied(&bytes(wanted, fill));
    queued.into_iter().map(|(change, _)| change).collect()
}

/// Asks about the next part of a disk of one byte; returns its question.
fn ask(resync: &mut ResyncCore) -> Question {
    let Need::Digests(wanted) = resync.need(NOW) else {
        panic!("something is left to compare");
    };
    let question = resync.handle_digests(digests(&bytes(wanted, 7)));
    question.expect("whole pieces")
}

/// Nothing is left to do but to let writes end that were under way, on the whole disk.
fn completes(resync: &mut ResyncCore) {
    let whole = extent(0, resync.plan.sectors);
    assert_eq!(resync.need(NOW), Need::Settle(whole));
    assert_eq!(resync.need(NOW), Need::Settle(whole));
    resync.handle_settled();
    assert_eq!(resync.need(NOW), Need::Complete);
}

/// Every part once, in extents that can be.
#[test]
fn a_large_disk_is_settled_part_by_part() {
    let sectors = 5 * SETTLE_SECTORS / 2;
    let mut resync = resync(sectors, false);
    let mut settled = Vec::new();
    loop {
        match resync.need(NOW) {
            Need::Allocation(window) => {
                let (from, to) = (window.start().sector(), window.end().sector());
                resync.handle_allocation(&[run(from, to, true)]);
            }
            Need::Settle(part) => {
                settled.push(part);
                resync.handle_settled();
            }
            need => break assert_eq!(need, Need::Complete),
        }
    }
    let parts = [(0, 2), (2, 4), (4, 5)];
    let half = SETTLE_SECTORS / 2;
    let parts = parts.map(|(from, to)| extent(from * half, to * half));
    assert_eq!(settled, parts);
}

#[test]
fn a_first_copy_reads_under_the_lock_and_leaves_holes_out() {
    let mut resync = resync(MIB, false);
    assert_eq!(resync.need(NOW), Need::Allocation(extent(0, MIB)));
    resync.handle_allocation(&[run(0, 1_024, true), run(1_024, 2_048, false)]);
    for (from, to) in [(1_024, 1_536), (1_536, 2_048)] {
        let step = extent(from, to);
        assert_eq!(copy(&mut resync, step, 7), [Change::Data(step)]);
    }
    completes(&mut resync);
    assert_eq!(resync.done(), MIB * SECTOR_LEN);
}

#[test]
fn what_holds_zeroes_is_nothing_in_a_first_copy() {
    let mut resync = resync(512, false);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, 512, false)]);
    assert_eq!(copy(&mut resync, extent(0, 512), 0), []);
    completes(&mut resync);
}

#[test]
fn an_answer_about_allocation_that_ends_early_is_followed_by_a_question_about_the_rest() {
    let mut resync = resync(2_048, false);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, 1_000, true)]);
    assert_eq!(resync.need(NOW), Need::Allocation(extent(1_000, 2_048)));
    assert_eq!(resync.done(), 1_000 * SECTOR_LEN);
}

#[test]
fn a_disk_is_walked_window_by_window() {
    let mut resync = resync(2 * WINDOW_SECTORS + 8, false);
    for (start, end) in [
        (0, WINDOW_SECTORS),
        (WINDOW_SECTORS, 2 * WINDOW_SECTORS),
        (2 * WINDOW_SECTORS, 2 * WINDOW_SECTORS + 8),
    ] {
        assert_eq!(resync.need(NOW), Need::Allocation(extent(start, end)));
        resync.handle_allocation(&[run(start, end, true)]);
    }
    completes(&mut resync);
}

#[test]
fn only_what_differs_is_copied() {
    let mut resync = resync(MIB, true);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, MIB, false)]);
    let question = ask(&mut resync);
    assert_eq!((question.first_piece, question.digests.len()), (0, 256));
    assert_eq!(question.generation, GENERATION);
    assert_eq!(resync.need(NOW), Need::Answer);
    let mut differs = [0; 32];
    differs[1] = 0b110;
    resync.handle_answer(answer(0, &differs));
    let wanted = extent(9 * PIECE_SECTORS, 11 * PIECE_SECTORS);
    assert_eq!(copy(&mut resync, wanted, 0), [Change::Zero(wanted)]);
    completes(&mut resync);
    assert_eq!(resync.done(), MIB * SECTOR_LEN);
}

#[test]
fn what_is_less_than_a_piece_is_copied_unasked() {
    let mut resync = resync(3, true);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, 3, false)]);
    assert_eq!(resync.need(NOW), Need::Digests(extent(0, 3)));
    let question = resync.handle_digests(digests(&bytes(extent(0, 3), 7)));
    assert_eq!(question, None);
    let whole = extent(0, 3);
    assert_eq!(copy(&mut resync, whole, 7), [Change::Data(whole)]);
    completes(&mut resync);
}

#[test]
fn a_hole_is_looked_at_again_under_the_lock() {
    let whole = extent(0, 1_024);
    let still = |runs: Option<&[Run]>| {
        let mut resync = resync(1_024, true);
        resync.need(NOW);
        resync.handle_allocation(&[run(0, 1_024, true)]);
        assert_eq!(resync.need(NOW), Need::Room { len: 0 });
        resync.handle_room();
        assert_eq!(resync.need(NOW), Need::Hole(whole));
        (resync.handle_hole(runs), resync)
    };
    let (queued, mut resync) = still(Some(&[run(0, 1_024, true)]));
    assert_eq!(queued, Some(Change::Zero(whole)));
    completes(&mut resync);
    let written = [run(0, 8, true), run(8, 1_024, false)];
    for runs in [Some(&written[..]), Some(&[run(0, 512, true)]), None] {
        let (queued, mut resync) = still(runs);
        assert_eq!(queued, None);
        for (from, to) in [(0, 512), (512, 1_024)] {
            let step = extent(from, to);
            assert_eq!(copy(&mut resync, step, 7), [Change::Data(step)]);
        }
        completes(&mut resync);
        assert_eq!(resync.done(), 1_024 * SECTOR_LEN);
    }
}

#[test]
fn room_is_wanted_again_for_every_read_under_the_lock() {
    let mut resync = resync(1_024, false);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, 1_024, false)]);
    let len = 512 * SECTOR_LEN;
    assert_eq!(resync.need(NOW), Need::Room { len });
    assert_eq!(resync.need(NOW), Need::Room { len }, "not there yet");
    resync.handle_room();
    let _ = resync.handle_copied(&bytes(extent(0, 512), 1));
    assert_eq!(resync.need(NOW), Need::Room { len });
    resync.handle_room();
    resync.handle_failed(NOW);
    let later = NOW.after(RETRY_FROM);
    assert_eq!(
        resync.need(later),
        Need::Room { len },
        "others may be there"
    );
}

#[test]
fn a_disk_that_cannot_be_read_is_tried_ever_more_slowly_until_it_can() {
    let mut resync = resync(8, false);
    let mut now = NOW;
    let wanted = Need::Allocation(extent(0, 8));
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!(resync.need(now), wanted);
        resync.handle_failed(now);
        assert!(resync.is_failing());
        let Need::Until(until) = resync.need(now) else {
            panic!("it has just failed");
        };
        waits.push(until.since(now));
        now = until;
    }
    assert_eq!(waits[..2], [RETRY_FROM, RETRY_FROM * 2]);
    assert_eq!(waits.last(), Some(&RETRY_TO));
    resync.need(now);
    resync.handle_allocation(&[run(0, 8, false)]);
    assert!(!resync.is_failing());
    resync.need(now);
    resync.handle_failed(now);
    let until = now.after(RETRY_FROM);
    assert_eq!(resync.need(now), Need::Until(until), "forgotten");
}

#[test]
fn no_more_questions_are_open_than_allowed_and_answers_may_come_in_any_order() {
    let mut resync = resync(64 * MIB, true);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, 64 * MIB, false)]);
    let questions: Vec<u64> = (0..IN_FLIGHT_MAX)
        .map(|_| ask(&mut resync).first_piece)
        .collect();
    assert_eq!(resync.need(NOW), Need::Answer);
    for &first_piece in questions.iter().rev() {
        assert_eq!(resync.need(NOW), Need::Answer, "the oldest is open");
        resync.handle_answer(answer(first_piece, &[0; 32]));
    }
    for _ in IN_FLIGHT_MAX..64 {
        ask(&mut resync);
    }
    assert_eq!(resync.need(NOW), Need::Answer);
    assert_eq!(resync.done(), 32 * MIB * SECTOR_LEN);
}

#[test]
fn an_answer_to_another_resync_or_to_nothing_counts_for_nothing() {
    let mut resync = resync(MIB, true);
    resync.need(NOW);
    resync.handle_allocation(&[run(0, MIB, false)]);
    ask(&mut resync);
    resync.handle_answer(Answer {
        generation: GenerationId([2; 16]),
        ..answer(0, &[0; 32])
    });
    resync.handle_answer(answer(256, &[0; 32]));
    assert_eq!(resync.need(NOW), Need::Answer);
}

#[test]
fn a_rate_holds_reads_back_and_not_what_an_answer_makes_necessary() {
    let mut resync = ResyncCore::new(ResyncPlan {
        generation: GENERATION,
        sectors: 2 * MIB,
        compares: true,
        rate_max: Some(1 << 20),
    });
    resync.need(NOW);
    resync.handle_allocation(&[run(0, 2 * MIB, false)]);
    ask(&mut resync);
    let second = NOW.after(Duration::from_secs(1));
    assert_eq!(resync.need(NOW), Need::Until(second));
    let later = second.after(Duration::from_secs(5));
    assert_eq!(resync.need(later), Need::Digests(extent(MIB, 2 * MIB)));
    let _ = resync.handle_digests(digests(&bytes(extent(MIB, 2 * MIB), 7)));
    resync.handle_answer(answer(0, &[]));
    let len = COPY_SECTORS * SECTOR_LEN;
    assert_eq!(resync.need(later), Need::Room { len });
}

/// A disk that a guest writes, and what the server makes of the stream.
struct World {
    resync: ResyncCore,
    disk: Vec<u8>,
    /// Pieces that the source calls allocated.
    allocated: Vec<bool>,
    server: Vec<u8>,
    /// As the server held it when the generation began: what questions are answered from.
    base: Vec<u8>,
    open: Vec<Question>,
    now: Moment,
}

const PIECE: usize = PIECE_LEN;

impl World {
    fn range(extent: Extent) -> std::ops::Range<usize> {
        let at = |sector: u64| usize::try_from(sector * SECTOR_LEN).expect("small");
        at(extent.start().sector())..at(extent.end().sector())
    }

    fn read(&self, extent: Extent) -> Bytes {
        Bytes::copy_from_slice(&self.disk[Self::range(extent)])
    }

    fn allocation(&self, whole: Extent) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for step in steps(whole, PIECE_SECTORS) {
            let piece = usize::try_from(first_piece(step)).expect("small");
            let hole = !self.allocated[piece];
            match runs.last_mut() {
                Some(last) if last.hole == hole => {
                    last.extent = extent(last.extent.start().sector(), step.end().sector());
                }
                _ => runs.push(Run { extent: step, hole }),
            }
        }
        runs
    }

    fn queue(&mut self, change: &Change, piece: Option<&Bytes>) {
        let extent = change.extent().expect("data or zeroes");
        let target = &mut self.server[Self::range(extent)];
        match piece {
            Some(piece) => target.copy_from_slice(piece),
            None => target.fill(0),
        }
    }

    /// A guest's write goes to the disk and, in the same generation, to the server.
    fn guest_writes(&mut self, piece: usize, fill: u8) {
        let piece = piece % self.allocated.len();
        let end = ((piece + 1) * PIECE).min(self.disk.len());
        self.disk[piece * PIECE..end].fill(fill);
        self.server[piece * PIECE..end].fill(fill);
        self.allocated[piece] = true;
    }

    /// The server answers the question that stands there.
    fn server_answers(&mut self, index: usize) {
        if self.open.is_empty() {
            return;
        }
        let question = self.open.swap_remove(index % self.open.len());
        let mut differs = vec![0_u8; question.digests.len().div_ceil(8)];
        for (index, digest) in question.digests.iter().enumerate() {
            let at = (usize::try_from(question.first_piece).expect("small") + index) * PIECE;
            if digests(&self.base[at..at + PIECE]) != [*digest] {
                differs[index / 8] |= 1 << (index % 8);
            }
        }
        self.resync.handle_answer(Answer {
            generation: GENERATION,
            first_piece: question.first_piece,
            differs: differs.into(),
        });
    }

    /// Does one thing that the resync wants, or lets it fail; true when it is over.
    fn step(&mut self, fails: bool, choice: usize) -> bool {
        match self.resync.need(self.now) {
            Need::Until(moment) => self.now = moment,
            Need::Room { .. } => self.resync.handle_room(),
            Need::Answer => self.server_answers(choice),
            Need::Settle(_) => self.resync.handle_settled(),
            Need::Complete => return true,
            Need::Hole(extent) => {
                let runs = self.allocation(extent);
                let runs = (!fails).then_some(&runs[..]);
                if let Some(change) = self.resync.handle_hole(runs) {
                    self.queue(&change, None);
                }
            }
            Need::Allocation(_) | Need::Digests(_) | Need::Copy(_) if fails => {
                self.resync.handle_failed(self.now);
            }
            Need::Allocation(window) => {
                let mut runs = self.allocation(window);
                runs.truncate(choice % runs.len() + 1);
                self.resync.handle_allocation(&runs);
            }
            Need::Digests(extent) => {
                let digests = digests(&self.read(extent));
                let question = self.resync.handle_digests(digests);
                self.open.extend(question);
            }
            Need::Copy(extent) => {
                for (change, piece) in self.resync.handle_copied(&self.read(extent)) {
                    self.queue(&change, piece.as_ref());
                }
            }
        }
        false
    }
}

#[derive(Clone, Debug)]
enum Turn {
    Step { fails: bool, choice: usize },
    GuestWrites { piece: usize, fill: u8 },
    ServerAnswers { index: usize },
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        6 => (prop::bool::weighted(0.2), any::<usize>())
            .prop_map(|(fails, choice)| Turn::Step { fails, choice }),
        2 => (any::<usize>(), 0..4_u8)
            .prop_map(|(piece, fill)| Turn::GuestWrites { piece, fill }),
        1 => any::<usize>().prop_map(|index| Turn::ServerAnswers { index }),
    ];
    prop::collection::vec(turn, 0..200)
}

proptest! {
    /// However slowly and in whatever order things come, whatever fails, and whatever a guest writes
    /// meanwhile: when the resync is complete, the server holds what the disk holds.
    #[test]
    fn what_the_server_holds_in_the_end_is_the_disk(
        fills in prop::collection::vec((0..3_u8, 0..3_u8, any::<bool>()), 1..600),
        tail in 0..8_usize,
        compares in any::<bool>(),
        turns in turns(),
    ) {
        let mut disk: Vec<u8> = fills.iter().flat_map(|fill| [fill.0; PIECE]).collect();
        let mut base: Vec<u8> = fills.iter().flat_map(|fill| [fill.1; PIECE]).collect();
        let mut allocated: Vec<bool> = fills.iter().map(|fill| fill.0 != 0 || fill.2).collect();
        let sector = usize::try_from(SECTOR_LEN).expect("small");
        disk.resize(disk.len() + tail * sector, 5);
        base.resize(disk.len(), 6);
        if tail != 0 {
            allocated.push(true);
        }
        if !compares {
            base.fill(0);
        }
        let mut world = World {
            resync: resync((disk.len() / sector) as u64, compares),
            disk,
            allocated,
            server: base.clone(),
            base,
            open: Vec::new(),
            now: NOW,
        };
        for turn in turns {
            match turn {
                Turn::Step { fails, choice } => {
                    world.step(fails, choice);
                }
                Turn::GuestWrites { piece, fill } => world.guest_writes(piece, fill),
                Turn::ServerAnswers { index } => world.server_answers(index),
            }
            prop_assert!(world.open.len() <= IN_FLIGHT_MAX);
        }
        let most = 20_000;
        let steps = (0..most).take_while(|&choice| !world.step(false, choice)).count();
        prop_assert!(steps < most, "it ends");
        prop_assert!(world.server == world.disk, "the copy is not level");
        prop_assert_eq!(world.resync.done(), world.disk.len() as u64);
    }
}
