//! Random histories: every point that is offered restores to what a slow and obvious oracle says.

use everpoint_format::record::Consistency;
use everpoint_retention::{At, Subject, load_machine};
use everpoint_units::Seq;
use proptest::prelude::*;

use crate::images::{disk_at, entries, request, run, scratch};
use crate::world::{ID, MACHINE, World, file_vault, memory_vault};

/// Sectors of each disk at the start.
const SECTORS: u64 = 4_096;

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Writes content number `fill` (few of them, so that contents repeat).
    Write {
        disk: usize,
        at: u64,
        sectors: u32,
        fill: u8,
    },
    /// One request of three changes.
    Request {
        disk: usize,
        at: u64,
        fill: u8,
    },
    Zero {
        disk: usize,
        at: u64,
        sectors: u32,
        discard: bool,
    },
    Resize {
        disk: usize,
        sectors: u64,
    },
    Bookmark,
    CloseBlock {
        disk: usize,
    },
    Commit,
    Seal,
    Release,
    Resync {
        disk: usize,
    },
    /// Retention folds what was committed, so many changes at a time.
    Compact {
        change_count_max: usize,
    },
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let disk = 0..2_usize;
    let at = 0..SECTORS;
    prop_oneof![
        12 => (disk.clone(), at.clone(), 1..40_u32, 0..6_u8)
            .prop_map(|(disk, at, sectors, fill)| Event::Write { disk, at, sectors, fill }),
        4 => (disk.clone(), at.clone(), 0..6_u8)
            .prop_map(|(disk, at, fill)| Event::Write { disk, at: at / 8 * 8, sectors: 8, fill }),
        1 => (disk.clone(), 0..2_u64, 0..6_u8)
            .prop_map(|(disk, at, fill)| Event::Write { disk, at, sectors: 2_040, fill }),
        2 => (disk.clone(), at.clone(), 0..6_u8)
            .prop_map(|(disk, at, fill)| Event::Request { disk, at, fill }),
        3 => (disk.clone(), at, 1..200_u32, any::<bool>())
            .prop_map(|(disk, at, sectors, discard)| Event::Zero { disk, at, sectors, discard }),
        1 => (disk.clone(), 1..SECTORS * 2).prop_map(|(disk, sectors)| Event::Resize { disk, sectors }),
        1 => Just(Event::Bookmark),
        3 => disk.clone().prop_map(|disk| Event::CloseBlock { disk }),
        4 => Just(Event::Commit),
        1 => Just(Event::Seal),
        1 => Just(Event::Release),
        1 => disk.prop_map(|disk| Event::Resync { disk }),
        1 => (1..60_usize).prop_map(|change_count_max| Event::Compact { change_count_max }),
    ]
}

/// Contents: zeroes, zeroes with one other byte, noise of which no two sectors are alike, one byte.
fn content(fill: u8, sectors: u32) -> Vec<u8> {
    let len = sectors as usize * 512;
    let mut bytes = vec![0; len];
    match fill {
        0 => (),
        1 => bytes[len / 2] = 1,
        2 | 3 => {
            let mut state = u32::from(fill);
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_be_bytes()[0];
            }
        }
        fill => bytes.fill(fill),
    }
    bytes
}

pub(crate) async fn play(world: &mut World, events: &[Event]) {
    world.add_disk("first", SECTORS);
    world.add_disk("second", SECTORS / 2);
    let mut level = 1;
    for event in events {
        match *event {
            Event::Write {
                disk,
                at,
                sectors,
                fill,
            } => {
                let left = world.disks[disk].sectors().saturating_sub(at);
                let sectors = sectors.min(u32::try_from(left).expect("small"));
                if 0 < sectors {
                    world.write(disk, at, &content(fill, sectors));
                }
            }
            Event::Request { disk, at, fill } => {
                if at + 12 <= world.disks[disk].sectors() {
                    for part in 0..3 {
                        let bytes = content(fill, 3 + u32::try_from(part).expect("small"));
                        world.write_part(disk, at + 3 * part, &bytes, part == 2);
                    }
                }
            }
            Event::Zero {
                disk,
                at,
                sectors,
                discard,
            } => {
                let left = world.disks[disk].sectors().saturating_sub(at);
                let sectors = sectors.min(u32::try_from(left).expect("small"));
                if 0 < sectors {
                    world.zero(disk, at, sectors, discard);
                }
            }
            Event::Resize { disk, sectors } => {
                world.resize(disk, sectors);
            }
            Event::Bookmark => {
                let name = format!("mark {}", world.seq);
                world.bookmark(&name, Consistency::Crash);
            }
            Event::CloseBlock { disk } => world.close_block(disk),
            Event::Commit => {
                world.commit().await;
            }
            Event::Seal => {
                level += 1;
                world.seal_to(level).await;
            }
            Event::Release => {
                level += 2;
                world.release_to(level).await;
            }
            Event::Resync { disk } => {
                world.begin_resync(disk);
                let left = world.disks[disk].sectors().min(64);
                world.write(disk, 0, &content(5, u32::try_from(left).expect("small")));
                world.close_block(disk);
                world.end_resync(disk);
            }
            Event::Compact { change_count_max } => world.compact(change_count_max).await,
        }
    }
    world.commit_all().await;
}

/// Restores each disk at each of `picks`, and the machine at the first, where they are points; how many were.
async fn compare(world: &World, picks: &[prop::sample::Index]) -> Result<usize, TestCaseError> {
    let loaded = load_machine(&world.vault, ID, MACHINE)
        .await
        .expect("the vault is sound");
    prop_assert_eq!(loaded.damage(), []);
    let last = usize::try_from(world.seq).expect("small");
    let mut seqs: Vec<u64> = picks
        .iter()
        .map(|pick| pick.index(last) as u64 + 1)
        .collect();
    seqs.push(world.seq);
    let mut points = 0;
    for seq in seqs {
        for disk in &world.disks {
            if loaded.check_point(Some(disk.id), Seq(seq)).is_ok() {
                let restored = disk_at(&world.vault, disk.id, seq)
                    .await
                    .expect("the vault is sound");
                prop_assert!(restored == disk.bytes_at(seq), "{} at {seq}", disk.name);
                points += 1;
            } else {
                prop_assert!(disk_at(&world.vault, disk.id, seq).await.is_err());
            }
        }
        if loaded.check_point(None, Seq(seq)).is_ok() {
            let scratch = scratch();
            let output = scratch.path().join("machine");
            let all = request(Subject::Machine(MACHINE), At::Seq(Seq(seq)), &output);
            run(&world.vault, &all).await.expect("the vault is sound");
            prop_assert_eq!(entries(scratch.path()), ["machine"]);
            let begun: Vec<_> = world
                .disks
                .iter()
                .filter(|disk| disk.begun() <= seq)
                .collect();
            let names: Vec<_> = begun
                .iter()
                .map(|disk| format!("{}.raw", disk.name))
                .collect();
            prop_assert_eq!(entries(&output), names);
            for disk in begun {
                let bytes =
                    std::fs::read(output.join(format!("{}.raw", disk.name))).expect("an image");
                prop_assert!(
                    bytes == disk.bytes_at(seq),
                    "{} of the machine at {seq}",
                    disk.name
                );
            }
        }
    }
    Ok(points)
}

fn check(
    events: &[Event],
    picks: &[prop::sample::Index],
    reduces: bool,
    in_file: bool,
) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let directory = scratch();
        let vault = if in_file {
            file_vault(&directory.path().join("vault")).await
        } else {
            memory_vault().await
        };
        let mut world = World::new(vault).await;
        if reduces {
            world.reduce();
        }
        play(&mut world, events).await;
        let points = compare(&world, picks).await?;
        prop_assert!(0 < points, "the newest state is always a point");
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_point_restores_to_what_the_oracle_says(
        events in prop::collection::vec(event(), 1..120),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 4),
        reduces in any::<bool>(),
        in_file in any::<bool>(),
    ) {
        check(&events, &picks, reduces, in_file)?;
    }
}
