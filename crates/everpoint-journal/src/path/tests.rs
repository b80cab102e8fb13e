//! Paths through small vaults.

use std::collections::BTreeMap;

use everpoint_format::object::SEAL_LEN;
use everpoint_units::{ServerId, WallTime};

use super::*;
use crate::sample::{MACHINE, Stream, VAULT, journal, object};
use crate::sealing::{Found, SealOrder, Sealing, Step};

#[derive(Clone)]
enum Stored {
    Data(Box<DataIndex>),
    Seal(Seal),
    Damaged,
}

#[derive(Default)]
struct World {
    journals: BTreeMap<JournalId, BTreeMap<u64, Stored>>,
    origin: Option<JournalId>,
    ended: Option<JournalId>,
}

impl World {
    fn listing(&self, journal: JournalId) -> Listing {
        let objects = self.journals.get(&journal).into_iter().flatten();
        Listing {
            objects: objects
                .map(|(&number, stored)| {
                    let len = match stored {
                        Stored::Seal(_) => SEAL_LEN as u64,
                        _ => 900,
                    };
                    (ObjectNo(number), len)
                })
                .collect(),
            has_end: self.ended == Some(journal),
        }
    }

    fn put(&mut self, journal: JournalId, number: u64, stored: Stored) {
        self.journals
            .entry(journal)
            .or_default()
            .insert(number, stored);
    }

    /// Puts data objects `from..=to` that follow one another.
    fn data(&mut self, journal: JournalId, from: u64, to: u64, releases: &[Release]) {
        for number in from..=to {
            let previous = match self
                .journals
                .get(&journal)
                .and_then(|j| j.get(&(number - 1)))
            {
                Some(Stored::Data(data)) => data.checksum,
                _ => ObjectChecksum::default(),
            };
            let releases = if number == to { releases } else { &[] };
            let data = object(journal, number, previous, &[], releases);
            self.put(journal, number, Stored::Data(Box::new(data)));
        }
    }

    fn seal(&mut self, journal: JournalId, successor: JournalId) {
        let mut sealing = Sealing::new(SealOrder {
            vault: VAULT,
            journal,
            successor,
            server: ServerId([3; 16]),
            assignment: 0,
            now: WallTime(0),
        });
        sealing.handle_listing(&self.listing(journal));
        while let Step::Read(number) = sealing.step() {
            sealing.handle_read(match &self.journals[&journal][&number.0] {
                Stored::Data(data) => Found::Data {
                    checksum: data.checksum,
                    previous: data.header.previous,
                },
                Stored::Seal(seal) => Found::Seal(*seal),
                Stored::Damaged => Found::Damaged,
            });
        }
        let Step::Create(seal) = sealing.step() else {
            panic!("nothing to create");
        };
        self.put(journal, seal.header.number.0, Stored::Seal(seal));
    }

    /// Walks the machine's path; returns the objects to fold, the end and the damage.
    fn walk(&self) -> (Vec<(u64, u64)>, PathEnd, Vec<Damage>) {
        let mut walk = PathWalk::new(MACHINE);
        let mut folded = Vec::new();
        while let Some(need) = walk.need() {
            match need {
                Need::Origin => {
                    let origin = self.origin.map(|journal| Origin {
                        journal,
                        ..origin_of(MACHINE)
                    });
                    walk.handle_origin(Ok(origin.as_ref()));
                }
                Need::Listing(journal) => walk.handle_listing(&self.listing(journal)),
                Need::Object(journal, number) => {
                    let read = match &self.journals[&journal][&number.0] {
                        Stored::Data(data) => ObjectRead::Data(data),
                        Stored::Seal(seal) => ObjectRead::Seal(seal),
                        Stored::Damaged => ObjectRead::Damaged,
                    };
                    if walk.handle_object(read) == Verdict::Fold {
                        folded.push((journal.level.0, number.0));
                    }
                }
            }
        }
        (folded, walk.end().expect("done"), walk.damage().to_vec())
    }
}

fn world() -> World {
    World {
        origin: Some(journal(1)),
        ..World::default()
    }
}

#[test]
fn without_an_origin_there_is_no_machine() {
    let world = World::default();
    assert_eq!(world.walk().1, PathEnd::NoOrigin);
}

#[test]
fn an_open_journal_ends_the_path_with_its_gapless_run() {
    let mut world = world();
    world.data(journal(1), 1, 3, &[]);
    world.data(journal(1), 5, 5, &[]);
    let (folded, end, damage) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(
        end,
        PathEnd::Open {
            journal: journal(1),
            last: ObjectNo(3)
        }
    );
    assert_eq!(damage, []);
}

#[test]
fn a_seal_leads_on_and_hides_what_landed_behind_it() {
    let mut world = world();
    world.data(journal(1), 1, 2, &[]);
    world.seal(journal(1), journal(4));
    world.data(journal(1), 4, 4, &[]);
    world.data(journal(4), 1, 1, &[]);
    let (folded, end, _) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 2), (4, 1)]);
    assert_eq!(
        end,
        PathEnd::Open {
            journal: journal(4),
            last: ObjectNo(1)
        }
    );
}

#[test]
fn a_successor_that_never_wrote_leads_on_too() {
    let mut world = world();
    world.seal(journal(1), journal(2));
    world.seal(journal(2), journal(3));
    let (folded, end, damage) = world.walk();
    assert_eq!((folded, damage), (vec![], vec![]));
    assert_eq!(
        end,
        PathEnd::Open {
            journal: journal(3),
            last: ObjectNo(0)
        }
    );
}

#[test]
fn the_first_release_of_the_machine_ends_its_part() {
    let mut world = world();
    let release = |machine, level| Release {
        machine,
        successor: Some(journal(level)),
    };
    let other = MachineId([8; 16]);
    world.data(journal(1), 1, 2, &[release(other, 9), release(MACHINE, 3)]);
    world.data(journal(1), 3, 4, &[release(MACHINE, 7)]);
    world.data(
        journal(3),
        1,
        1,
        &[Release {
            machine: MACHINE,
            successor: None,
        }],
    );
    let (folded, end, _) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 2), (3, 1)]);
    assert_eq!(
        end,
        PathEnd::Closed {
            journal: journal(3),
            number: ObjectNo(1)
        }
    );
}

#[test]
fn an_edge_that_does_not_rise_stops_the_walk() {
    let mut world = world();
    let release = Release {
        machine: MACHINE,
        successor: Some(journal(1)),
    };
    world.data(journal(1), 1, 1, &[release]);
    let (_, end, damage) = world.walk();
    assert_eq!(end, PathEnd::Broken);
    assert!(matches!(damage[..], [Damage::LevelDoesNotRise { .. }]));
}

#[test]
fn damage_ends_no_prefix_and_is_reported() {
    let mut world = world();
    world.data(journal(1), 1, 3, &[]);
    world.put(journal(1), 2, Stored::Damaged);
    let (folded, _, damage) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 3)]);
    assert_eq!(
        damage,
        [Damage::Object {
            journal: journal(1),
            number: ObjectNo(2)
        }]
    );
}

#[test]
fn neighbours_that_disagree_end_the_prefix() {
    let mut world = world();
    world.data(journal(1), 1, 2, &[]);
    let mut stream = Stream::new(1);
    let block = stream.block(3, Stream::first_records(1));
    let other = object(journal(1), 3, ObjectChecksum([6; 32]), &[block], &[]);
    world.put(journal(1), 3, Stored::Data(Box::new(other)));
    let (folded, end, _) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 2)]);
    assert_eq!(
        end,
        PathEnd::Open {
            journal: journal(1),
            last: ObjectNo(2)
        }
    );
}

/// A journal with `last` objects of one life and one more of another, which follows another object.
fn two_lives(last: u64) -> World {
    let mut world = world();
    world.data(journal(1), 1, last, &[]);
    let stranger = object(journal(1), last + 1, ObjectChecksum([6; 32]), &[], &[]);
    world.put(journal(1), last + 1, Stored::Data(Box::new(stranger)));
    world
}

#[test]
fn a_seal_behind_neighbours_that_disagree_leads_on() {
    let mut world = two_lives(2);
    world.seal(journal(1), journal(2));
    world.data(journal(2), 1, 1, &[]);
    let (folded, end, damage) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 2), (2, 1)]);
    assert_eq!(damage, []);
    let last = ObjectNo(1);
    let journal = journal(2);
    assert_eq!(end, PathEnd::Open { journal, last });
}

#[test]
fn neighbours_that_disagree_far_into_a_journal_are_seen_by_who_seals_it() {
    for last in [15, 16, 17, 40] {
        let mut world = two_lives(last);
        world.data(journal(1), last + 2, last + 16, &[]);
        world.seal(journal(1), journal(2));
        let (folded, _, damage) = world.walk();
        assert_eq!((folded.len() as u64, damage), (last, vec![]), "{last}");
    }
}

#[test]
fn a_release_behind_neighbours_that_disagree_is_void() {
    let mut world = two_lives(1);
    let release = Release {
        machine: MACHINE,
        successor: None,
    };
    world.data(journal(1), 3, 3, &[release]);
    let last = ObjectNo(1);
    let journal = journal(1);
    assert_eq!(world.walk().1, PathEnd::Open { journal, last });
}

#[test]
fn a_seal_that_states_more_than_the_prefix_leads_on_and_is_reported() {
    let mut world = two_lives(2);
    world.seal(journal(1), journal(2));
    let sealed = world.journals.get_mut(&journal(1)).unwrap();
    let Some(Stored::Seal(seal)) = sealed.get_mut(&4) else {
        panic!("the seal lies behind the run");
    };
    seal.prefix_end = ObjectNo(3);
    let (folded, end, damage) = world.walk();
    assert_eq!(folded, [(1, 1), (1, 2)]);
    let disagrees = Damage::SealDisagrees {
        journal: journal(1),
    };
    assert_eq!(damage, [disagrees]);
    let last = ObjectNo::ZERO;
    let journal = journal(2);
    assert_eq!(end, PathEnd::Open { journal, last });
}

#[test]
fn where_something_was_deleted_nothing_is_guessed() {
    let mut world = world();
    world.data(journal(1), 1, 2, &[]);
    world.ended = Some(journal(1));
    let (folded, end, damage) = world.walk();
    assert_eq!((folded, end), (vec![], PathEnd::Broken));
    assert_eq!(
        damage,
        [Damage::Pruned {
            journal: journal(1)
        }]
    );
}

#[test]
fn damage_behind_the_prefix_is_nobodys_loss() {
    let mut world = two_lives(2);
    world.put(journal(1), 4, Stored::Damaged);
    let (folded, _, damage) = world.walk();
    assert_eq!((folded, damage), (vec![(1, 1), (1, 2)], vec![]));
}

#[test]
fn a_seal_that_states_another_last_object_is_reported() {
    let mut world = world();
    world.data(journal(1), 1, 2, &[]);
    world.seal(journal(1), journal(2));
    let sealed = world.journals.get_mut(&journal(1)).unwrap();
    let Some(Stored::Seal(seal)) = sealed.get_mut(&3) else {
        panic!("the seal lies behind the run");
    };
    seal.last_checksum = ObjectChecksum([6; 32]);
    let disagrees = Damage::SealDisagrees {
        journal: journal(1),
    };
    assert_eq!(world.walk().2, [disagrees]);
}

/// A walk that stands before the first object of `world`'s first journal.
fn walk_into(world: &World) -> PathWalk {
    let mut walk = PathWalk::new(MACHINE);
    walk.handle_origin(Ok(Some(&origin_of(MACHINE))));
    walk.handle_listing(&world.listing(journal(1)));
    walk
}

fn origin_of(machine: MachineId) -> Origin {
    Origin {
        vault: VAULT,
        machine,
        journal: journal(1),
        created_at: WallTime(0),
        made_from: None,
    }
}

#[test]
fn an_origin_that_does_not_decode_or_is_another_machines_is_damage() {
    let other = origin_of(MachineId([8; 16]));
    for origin in [Err(()), Ok(Some(&other))] {
        let mut walk = PathWalk::new(MACHINE);
        walk.handle_origin(origin);
        assert_eq!(walk.need(), None);
        assert_eq!(walk.end(), Some(PathEnd::Broken));
        assert_eq!(walk.damage(), [Damage::Origin]);
    }
}

#[test]
fn an_object_that_was_listed_and_is_gone_stops_the_walk() {
    let mut world = world();
    world.data(journal(1), 1, 3, &[]);
    let mut walk = walk_into(&world);
    assert_eq!(walk.handle_object(ObjectRead::Missing), Verdict::Skip);
    assert_eq!(walk.end(), Some(PathEnd::Broken));
    assert_eq!(
        walk.damage(),
        [Damage::Vanished {
            journal: journal(1),
            number: ObjectNo(1)
        }]
    );
}

#[test]
fn a_walk_says_which_objects_it_will_ask_for_and_none_while_it_needs_something_else() {
    let mut world = world();
    world.data(journal(1), 1, 2, &[]);
    world.data(journal(1), 4, 4, &[]);
    assert_eq!(PathWalk::new(MACHINE).ahead(), None);
    let mut walk = walk_into(&world);
    for number in [1, 2] {
        assert_eq!(walk.end(), None);
        let ahead = (journal(1), ObjectNo(number), ObjectNo(2));
        assert_eq!(walk.ahead(), Some(ahead));
        assert_eq!(walk.handle_object(ObjectRead::Damaged), Verdict::Skip);
    }
    assert_eq!(walk.ahead(), None);
}
