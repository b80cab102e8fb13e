//! Positions, windows, points and damage of small histories.

use everpoint_format::change::ChangeBlock;
use everpoint_format::manifest::{FoldedTo, KeptPoint, Manifest};
use everpoint_format::object::ObjectChecksum;
use everpoint_units::ManifestNo;

use super::*;
use crate::sample::{MACHINE, Stream, VAULT, extent, journal, record, sections};

fn history(blocks: &[&[ChangeBlock]]) -> MachineHistory {
    let mut history = MachineHistory::new(MACHINE);
    for (number, blocks) in (1..).zip(blocks) {
        for section in sections(blocks) {
            history.fold(&section, journal(1), ObjectNo(number));
        }
    }
    history
}

fn span(from: u64, through: u64) -> Span {
    Span {
        from: Seq(from),
        through: Seq(through),
    }
}

fn data(seq: u64) -> everpoint_format::record::Record {
    record(seq, Change::Data(extent(seq, 1)))
}

/// A change that does not end its request.
fn part(seq: u64) -> everpoint_format::record::Record {
    everpoint_format::record::Record {
        ends_request: false,
        ..data(seq)
    }
}

fn life(begun: u64, ended: Option<u64>) -> Life {
    Life {
        begun: Seq(begun),
        ended: ended.map(Seq),
    }
}

#[test]
fn points_begin_with_resync_complete_and_end_with_what_is_complete() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let second = stream.block(9, vec![data(4), data(7)]);
    let history = history(&[&[first], &[second]]);
    assert_eq!(history.windows(None), [span(3, 9)]);
    assert_eq!(history.latest(None), Ok(Seq(9)));
    assert_eq!(history.check_point(None, Seq(5)), Ok(()));
    assert_eq!(
        history.check_point(None, Seq(2)),
        Err(NotAPoint::Outside {
            seq: Seq(2),
            before: None,
            after: Some(Seq(3))
        })
    );
    assert_eq!(history.highest_seq(), Seq(9));
}

#[test]
fn nothing_is_listed_while_a_resync_runs_and_the_last_good_points_stay() {
    let mut stream = Stream::new(1);
    let first = stream.block(5, [Stream::first_records(1), vec![data(5)]].concat());
    let base = stream.begin_generation(7);
    let resync = stream.block(20, vec![record(10, Change::ResyncBegin { base }), data(12)]);
    let running = history(&[std::slice::from_ref(&first), std::slice::from_ref(&resync)]);
    assert_eq!(running.windows(None), [span(3, 5)]);
    assert!(
        !running
            .disks()
            .values()
            .next()
            .expect("one disk")
            .is_level()
    );

    let done = stream.block(30, vec![record(25, Change::ResyncComplete)]);
    let level = history(&[&[first], &[resync, done]]);
    assert_eq!(level.windows(None), [span(3, 5), span(25, 30)]);
    assert_eq!(
        level.check_point(None, Seq(12)),
        Err(NotAPoint::Outside {
            seq: Seq(12),
            before: Some(Seq(5)),
            after: Some(Seq(25))
        })
    );
}

#[test]
fn a_machine_has_a_point_where_every_disk_that_is_begun_and_not_ended_has_one() {
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    let first_a = a.block(6, Stream::first_records(1));
    let first_b = b.block(12, Stream::first_records(10));
    let more_a = a.block(40, vec![data(30)]);
    let end_b = b.block(20, vec![record(20, Change::DiskEnd)]);
    let both = history(&[
        &[first_a.clone(), first_b.clone()],
        std::slice::from_ref(&more_a),
    ]);
    // Disk b lags: nothing of it is known beyond 12.
    assert_eq!(both.windows(None), [span(3, 9), span(12, 12)]);
    assert_eq!(both.windows(Some(a.disk)), [span(3, 40)]);

    let ended = history(&[&[first_a, first_b], &[more_a, end_b]]);
    assert_eq!(ended.windows(None), [span(3, 9), span(12, 40)]);
    assert_eq!(ended.windows(Some(b.disk)), [span(12, 19)]);
}

#[test]
fn below_what_a_policy_keeps_whole_only_the_points_that_a_manifest_lists_are_points() {
    let mut stream = Stream::new(1);
    let mut records = Stream::first_records(1);
    records.extend((4..=40).map(data));
    let whole = history(&[&[stream.block(40, records)]]);
    let point = |seq, class, name: &str| KeptPoint {
        seq: Seq(seq),
        at: WallTime(seq),
        class,
        name: name.to_owned(),
    };
    let manifest = Manifest {
        vault: VAULT,
        machine: MACHINE,
        number: ManifestNo(1),
        previous: ObjectChecksum::default(),
        created_at: WallTime(0),
        position: FoldedTo {
            journal: journal(1),
            number: ObjectNo(1),
            checksum: ObjectChecksum([1; 32]),
        },
        closed: false,
        every_from: Seq(30),
        highest_seq: whole.highest_seq(),
        disks: whole.disk_states(),
        layers: Vec::new(),
        packs: Vec::new(),
        // The first lies before any point that there ever was.
        points: vec![
            point(2, None, ""),
            point(10, Some(Consistency::App), "nightly"),
            point(29, None, ""),
        ],
        holds: Vec::new(),
        policy: None,
    };
    let kept = MachineHistory::take_up(&manifest);
    for disk in [None, Some(stream.disk)] {
        assert_eq!(
            kept.windows(disk),
            [span(10, 10), span(29, 29), span(30, 40)]
        );
        assert_eq!(kept.check_point(disk, Seq(10)), Ok(()));
        assert_eq!(
            kept.check_point(disk, Seq(20)),
            Err(NotAPoint::Outside {
                seq: Seq(20),
                before: Some(Seq(10)),
                after: Some(Seq(29)),
            })
        );
    }
    assert_eq!(kept.bookmarks()[&Seq(10)].name, "nightly");
    assert_eq!(kept.at_time(None, WallTime(15)), Ok(Seq(10)));
    assert_eq!(kept.at_time(None, WallTime(29)), Ok(Seq(29)));
}

#[test]
fn a_seq_inside_a_request_is_refused_with_its_neighbours() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let second = stream.block(8, vec![data(4), part(5), part(6), data(7), data(8)]);
    let open = stream.block(11, vec![part(10), part(11)]);
    let history = history(&[&[first], &[second], &[open]]);
    for inside in [5, 6] {
        assert_eq!(
            history.check_point(None, Seq(inside)),
            Err(NotAPoint::InsideRequest {
                seq: Seq(inside),
                before: Seq(4),
                after: Seq(7)
            })
        );
    }
    assert_eq!(history.check_point(None, Seq(7)), Ok(()));
    // The last request has not ended: the newest point lies before it.
    assert_eq!(history.latest(None), Ok(Seq(9)));
}

#[test]
fn a_time_finds_the_last_request_at_or_before_it_even_when_the_clock_steps_back() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let second = stream.block(4, vec![data(4)]);
    let third = stream.block(5, vec![data(5)]);
    let mut history = history(&[&[first], &[second], &[third]]);
    let seconds = |s: u64| WallTime(s * 1_000_000);
    assert_eq!(history.at_time(None, seconds(3)), Ok(Seq(4)));
    assert_eq!(history.at_time(None, WallTime(3_999_999)), Ok(Seq(4)));
    assert_eq!(history.at_time(None, seconds(9)), Ok(Seq(5)));
    assert!(history.at_time(None, seconds(1)).is_err());
    // Seq 5 claims to be older than 4: made monotone it is as old as 4.
    history.times.insert(Seq(5), seconds(1));
    assert_eq!(history.at_time(None, seconds(3)), Ok(Seq(5)));
}

#[test]
fn the_time_of_a_bookmark_is_true_and_finds_the_bookmark_whatever_the_machines_clock_says() {
    for clock_offset_us in [2_887, -2_887, 0] {
        let mut stream = Stream::new(1);
        stream.clock_offset_us = clock_offset_us;
        let first = stream.block(3, Stream::first_records(1));
        let second = stream.block(4, vec![data(4)]);
        let mark = |seq, at| {
            let bookmark = Change::Bookmark {
                class: Consistency::Crash,
                name: "mark".into(),
                at: WallTime(at),
            };
            record(seq, bookmark)
        };
        // By the machine's clock the blocks are captured at 2, 3, 4 and 5 seconds.
        let third = stream.block(6, vec![data(5), mark(6, 4_000_000)]);
        let fourth = stream.block(8, vec![mark(7, 4_500_000), data(8)]);
        let history = history(&[&[first], &[second], &[third], &[fourth]]);
        for (seq, at) in [(Seq(6), 4_000_000), (Seq(7), 4_500_000)] {
            let shown = history.bookmarks()[&seq].at;
            assert_eq!(shown, WallTime(at).shifted(clock_offset_us));
            assert_eq!(history.at_time(None, shown), Ok(seq));
        }
    }
}

#[test]
fn a_block_that_is_missing_breaks_the_disk_and_keeps_the_points_before() {
    let mut stream = Stream::new(1);
    let first = stream.block(5, [Stream::first_records(1), vec![data(5)]].concat());
    let _lost = stream.block(6, vec![data(6)]);
    let third = stream.block(7, vec![data(7)]);
    let base = stream.begin_generation(9);
    let later = stream.block(
        21,
        vec![
            record(20, Change::ResyncBegin { base }),
            record(21, Change::ResyncComplete),
        ],
    );
    let history = history(&[&[first], &[third], &[later]]);
    let disk = history.disks().values().next().expect("one disk");
    let broken = disk.broken.expect("the chain does not continue");
    assert_eq!((broken.number, broken.found), (ObjectNo(2), BlockNo(3)));
    // What built on the lost block is not trusted either.
    assert_eq!(history.windows(None), [span(3, 5)]);
}

#[test]
fn a_generation_that_builds_on_another_position_breaks_the_disk() {
    let mut stream = Stream::new(1);
    let first = stream.block(5, [Stream::first_records(1), vec![data(5)]].concat());
    stream.begin_generation(9);
    let other = stream.block(
        21,
        vec![record(
            20,
            Change::ResyncBegin {
                base: Some(stream.tail),
            },
        )],
    );
    let history = history(&[&[first], &[other]]);
    assert!(history.disks().values().all(|disk| disk.broken.is_some()));
}

#[test]
fn a_full_copy_that_builds_on_nothing_heals_a_broken_disk_and_keeps_its_points() {
    let mut stream = Stream::new(1);
    let first = stream.block(5, [Stream::first_records(1), vec![data(5)]].concat());
    let _lost = stream.block(6, vec![data(6)]);
    let third = stream.block(7, vec![data(7)]);
    stream.begin_generation(9);
    let again = stream.block(22, Stream::first_records(20));
    let history = history(&[&[first], &[third], &[again]]);
    assert_eq!(history.windows(None), [span(3, 5), span(22, 22)]);
    assert!(history.disks().values().all(|disk| disk.broken.is_none()));
}

#[test]
fn a_copy_that_was_committed_twice_counts_only_as_far_as_it_went_the_second_time() {
    let mut disk = Stream::new(1);
    let first = disk.block(3, Stream::first_records(1));
    let second = disk.block(5, vec![data(4), data(5)]);
    // The object behind them was damaged, and the log still had the disk's first block.
    let twice = history(&[&[first.clone(), second], &[first]]);
    assert_eq!(twice.windows(Some(disk.disk)), [span(3, 3)]);
    assert_eq!(twice.disks()[&disk.disk].complete_through, Seq(3));
    assert!(twice.check_point(Some(disk.disk), Seq(5)).is_err());
}

#[test]
fn sizes_and_bookmarks_are_kept_by_seq() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let mark = Change::Bookmark {
        class: Consistency::Crash,
        name: "before".into(),
        at: WallTime(77),
    };
    let second = stream.block(
        6,
        vec![
            record(4, mark),
            record(5, Change::Resize { sectors: 2_048 }),
            data(6),
        ],
    );
    let history = history(&[&[first], &[second]]);
    let disk = history.disks().values().next().expect("one disk");
    assert_eq!(
        (disk.sectors_at(Seq(4)), disk.sectors_at(Seq(5))),
        (1_024, 2_048)
    );
    let bookmark = &history.bookmarks()[&Seq(4)];
    assert_eq!(
        (bookmark.name.as_str(), bookmark.at),
        ("before", WallTime(77))
    );
}

#[test]
fn what_is_another_machines_or_follows_nothing_is_not_folded_and_that_is_said() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let lost = stream.block(4, vec![data(4)]);
    let third = stream.block(5, vec![data(5)]);
    let fourth = stream.block(6, vec![data(6)]);
    let sections_of = [first, lost, third, fourth].map(|block| sections(&[block]).remove(0));
    let [first, lost, third, fourth] = sections_of;

    let mut other = MachineHistory::new(MachineId([8; 16]));
    assert_eq!(other.machine(), MachineId([8; 16]));
    assert!(!other.fold(&first, journal(1), ObjectNo(1)));
    assert!(other.disks().is_empty());

    let mut history = MachineHistory::new(MACHINE);
    assert!(
        !history.fold(&third, journal(1), ObjectNo(1)),
        "no beginning"
    );
    let base = Some(stream.tail);
    let begun = Stream::new(1).block(9, vec![record(8, Change::ResyncBegin { base })]);
    assert!(
        !history.fold(&sections(&[begun])[0], journal(1), ObjectNo(1)),
        "on what is not there"
    );
    assert!(history.disks().is_empty());
    assert!(history.fold(&first, journal(1), ObjectNo(1)));
    // The last of them follows where the disk stands, and comes too late.
    for (number, section) in [(2, &third), (3, &fourth), (4, &lost)] {
        assert!(!history.fold(section, journal(1), ObjectNo(number)));
    }
    let broken = history.disks()[&stream.disk].broken.expect("one is lost");
    assert_eq!(broken.number, ObjectNo(2), "where it began");
}

#[test]
fn a_disk_is_level_from_its_completion_until_its_next_resync() {
    let mut stream = Stream::new(1);
    let mut begin = Stream::first_records(1);
    let complete = begin.pop().expect("the last of three");
    let mut history = MachineHistory::new(MACHINE);
    let base = |stream: &mut Stream| Change::ResyncBegin {
        base: stream.begin_generation(7),
    };
    for (number, is_level) in [(1, false), (2, true), (3, false)] {
        let records = match number {
            1 => begin.clone(),
            2 => vec![complete.clone()],
            _ => vec![record(10, base(&mut stream))],
        };
        let block = stream.block(10 * number, records);
        assert!(history.fold(&sections(&[block])[0], journal(1), ObjectNo(number)));
        assert_eq!(history.disks()[&stream.disk].is_level(), is_level);
    }
}

#[test]
fn a_disk_has_no_point_at_or_behind_its_end_and_may_join_again() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let end = stream.block(20, vec![record(4, Change::DiskEnd)]);
    let ended = history(&[std::slice::from_ref(&first), std::slice::from_ref(&end)]);
    assert_eq!(ended.windows(Some(stream.disk)), [span(3, 3)]);
    assert_eq!(ended.windows(None), [span(3, 3)]);
    assert_eq!(ended.latest(None), Ok(Seq(3)));

    let again = stream.block(30, Stream::first_records(21));
    let joined = history(&[&[first], &[end], &[again]]);
    let disk = &joined.disks()[&stream.disk];
    assert_eq!(disk.lives, [life(1, Some(4)), life(21, None)]);
    assert!(!disk.has_ended());
    assert_eq!(
        joined.windows(Some(stream.disk)),
        [span(3, 3), span(23, 30)]
    );
    assert_eq!(joined.latest(None), Ok(Seq(30)));
}

#[test]
fn a_disk_that_ended_joins_again_with_a_copy_that_builds_on_nothing() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let end = stream.block(4, vec![record(4, Change::DiskEnd)]);
    stream.begin_generation(7);
    let later = stream.block(30, Stream::first_records(21));
    let objects = [[first], [end], [later]];
    let joined = history(&[&objects[0], &objects[1], &objects[2]]);
    let disk = &joined.disks()[&stream.disk];
    assert_eq!(disk.lives, [life(1, Some(4)), life(21, None)]);
    let spans = [span(3, 3), span(23, 30)];
    assert_eq!(joined.windows(Some(stream.disk)), spans);

    // The end's own number was given out for the second time: what lies there is the copy's to say.
    stream.begin_generation(8);
    let over = stream.block(30, Stream::first_records(4));
    let joined = history(&[&objects[0], &objects[1], &[over]]);
    let disk = &joined.disks()[&stream.disk];
    assert_eq!(disk.lives, [life(1, None)]);
    assert_eq!(joined.windows(Some(stream.disk)), [span(3, 3), span(6, 30)]);
}

#[test]
fn a_disk_that_the_server_still_has_joins_again_with_a_generation_that_builds_on_it() {
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    let first_a = a.block(3, Stream::first_records(1));
    let first_b = b.block(6, Stream::first_records(4));
    let end_b = b.block(7, vec![record(7, Change::DiskEnd)]);
    let more_a = a.block(20, vec![data(20)]);
    let base = b.begin_generation(7);
    let opening = vec![
        record(9, Change::ResyncBegin { base }),
        record(10, Change::Resize { sectors: 100 }),
        record(11, Change::ResyncComplete),
        data(12),
    ];
    let again_b = b.block(20, opening);
    let history = history(&[&[first_a, first_b], &[end_b, more_a], &[again_b]]);
    let disk = &history.disks()[&b.disk];
    assert_eq!(disk.lives, [life(4, Some(7)), life(9, None)]);
    assert_eq!(history.windows(Some(b.disk)), [span(6, 6), span(11, 20)]);
    // While it was gone the machine had its points without it.
    let of_both = [span(3, 3), span(6, 8), span(11, 20)];
    assert_eq!(history.windows(None), of_both);
    assert!(disk.lives_at(Seq(6)) && !disk.lives_at(Seq(7)) && disk.lives_at(Seq(9)));
}

#[test]
fn a_request_of_one_disk_is_not_ended_by_a_change_of_another() {
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    let first_a = a.block(6, Stream::first_records(1));
    let first_b = b.block(9, Stream::first_records(7));
    let one = a.block(10, vec![part(10)]);
    let b13 = b.block(13, vec![data(13)]);
    let two = a.block(11, vec![part(11)]);
    let mut known = vec![vec![first_a, first_b], vec![one, b13], vec![two]];
    let of = |known: &[Vec<ChangeBlock>]| {
        let objects: Vec<&[ChangeBlock]> = known.iter().map(Vec::as_slice).collect();
        history(&objects)
    };
    let open = of(&known);
    assert_eq!(open.latest(None), Ok(Seq(9)));
    assert_eq!(open.latest(Some(a.disk)), Ok(Seq(9)));
    assert_eq!(
        open.latest(Some(b.disk)),
        Ok(Seq(13)),
        "it is not b's request"
    );
    assert_eq!(open.at_time(Some(a.disk), WallTime(u64::MAX)), Ok(Seq(9)));
    let before = Some(Seq(9));
    for inside in [10, 11] {
        let outside = NotAPoint::Outside {
            seq: Seq(inside),
            before,
            after: None,
        };
        assert_eq!(open.check_point(None, Seq(inside)), Err(outside));
    }

    known.push(vec![a.block(13, vec![data(12)])]);
    let ended = of(&known);
    assert_eq!(ended.latest(None), Ok(Seq(13)));
    assert_eq!(
        ended.check_point(None, Seq(11)),
        Err(NotAPoint::InsideRequest {
            seq: Seq(11),
            before: Seq(9),
            after: Seq(12)
        })
    );
    assert_eq!(ended.check_point(Some(b.disk), Seq(11)), Ok(()));
}

#[test]
fn a_request_that_a_lost_order_cut_off_ends_where_it_is_known_to() {
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    let first_a = a.block(6, Stream::first_records(1));
    let first_b = b.block(9, Stream::first_records(7));
    let cut = a.block(11, vec![part(10), part(11)]);
    let base = a.begin_generation(7);
    let opening = vec![
        record(14, Change::ResyncBegin { base }),
        record(15, Change::ResyncComplete),
    ];
    let again = a.block(20, opening);
    let b13 = b.block(20, vec![data(13)]);
    let history = history(&[&[first_a, first_b], &[cut], &[again, b13]]);
    assert_eq!(history.windows(Some(a.disk)), [span(3, 9), span(15, 20)]);
    assert_eq!(
        history.windows(None),
        [span(3, 6), span(9, 9), span(15, 20)]
    );
    // What cut it off is no part of it.
    let outside = NotAPoint::Outside {
        seq: Seq(12),
        before: Some(Seq(9)),
        after: Some(Seq(15)),
    };
    assert_eq!(history.check_point(Some(a.disk), Seq(12)), Err(outside));
}

#[test]
fn a_copy_that_is_committed_again_forgets_requests_that_reached_beyond_its_beginning() {
    for begins in [4, 6] {
        let mut disk = Stream::new(1);
        let first = disk.block(3, Stream::first_records(1));
        let cut = disk.block(8, (4..=8).map(part).collect());
        disk.begin_generation(7);
        let again = disk.block(8, Stream::first_records(begins));
        let history = history(&[&[first], &[cut], &[again]]);
        let latest = history.latest(Some(disk.disk));
        assert_eq!(latest, Ok(Seq(8)), "behind a copy from {begins}");
    }
}

#[test]
fn a_disk_that_ends_in_the_middle_of_a_resync_keeps_the_machine_from_points_no_longer() {
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    let first_a = a.block(6, Stream::first_records(1));
    let first_b = b.block(12, Stream::first_records(10));
    let more_a = a.block(40, vec![data(30)]);
    let base = b.begin_generation(7);
    let resync_b = b.block(19, vec![record(15, Change::ResyncBegin { base })]);
    let end_b = b.block(20, vec![record(20, Change::DiskEnd)]);
    let history = history(&[&[first_a, first_b], &[more_a, resync_b, end_b]]);
    assert_eq!(
        history.windows(None),
        [span(3, 9), span(12, 12), span(20, 40)]
    );
    assert_eq!(history.check_point(None, Seq(20)), Ok(()));
}

#[test]
fn a_copy_that_begins_where_a_span_began_leaves_nothing_of_it() {
    let mut disk = Stream::new(1);
    let first = disk.block(9, Stream::first_records(1));
    disk.begin_generation(7);
    let again = disk.block(7, Stream::first_records(3));
    let history = history(&[&[first], &[again]]);
    assert_eq!(history.disks()[&disk.disk].spans, [span(5, 7)]);
}

#[test]
fn a_seq_has_the_highest_time_at_or_below_it_and_that_time_finds_it() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let second = stream.block(6, vec![data(4)]);
    let mut history = history(&[&[first], &[second]]);
    let seconds = |s: u64| WallTime(s * 1_000_000);
    for (seq, time) in [
        (2, None),
        (3, Some(seconds(2))),
        (4, Some(seconds(3))),
        (6, Some(seconds(3))),
    ] {
        assert_eq!(history.time_of(Seq(seq)), time, "{seq}");
    }
    assert_eq!(history.at_time(None, seconds(2)), Ok(Seq(3)), "the first");
    history.times.insert(Seq(5), seconds(1));
    assert_eq!(history.time_of(Seq(5)), Some(seconds(3)));
}

#[test]
fn who_asks_for_what_is_no_point_is_told_the_nearest_ones() {
    let seq = Seq(12);
    for (before, after, told) in [
        (Some(5), Some(25), "; nearest are seq:5 and seq:25"),
        (Some(5), None, "; the newest before it is seq:5"),
        (None, Some(25), "; the first is seq:25"),
        (None, None, ""),
    ] {
        let (before, after) = (before.map(Seq), after.map(Seq));
        let outside = NotAPoint::Outside { seq, before, after };
        assert_eq!(
            outside.to_string(),
            format!("seq:12 is not restorable{told}")
        );
    }
}
