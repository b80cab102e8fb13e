//! A vault as small as a model needs it, and the product's own values made from what lies in it.
//!
//! An object here is a few bytes. Where a core of the product asks for an index, a seal or a listing,
//! it is made on the spot: the same types, with everything left out that the cores do not look at
//! (sections of indexes, times). An object's checksum is a hash of what it holds, so two objects with
//! other contents have other checksums, as in the product.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use everpoint_format::data::DataIndex;
use everpoint_format::index::{self, Index};
use everpoint_format::object::{self, ObjectChecksum, ObjectHeader, SEAL_LEN};
use everpoint_journal::path::Listing;
use everpoint_units::{JournalId, Level, MachineId, ObjectNo, ServerId, VaultId, WallTime};

/// Length that every data object is listed with; only that it is no seal's matters. Unit: bytes.
const DATA_LEN: u64 = 900;

/// A change block: which one, and which writes of the guest it holds.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Block {
    pub(crate) machine: u8,
    pub(crate) generation: u8,
    pub(crate) number: u8,
    /// One bit a write.
    pub(crate) writes: u8,
}

/// What lies under one number of a journal.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Object {
    Data(Data),
    Seal(Seal),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Data {
    pub(crate) blocks: Vec<Block>,
    pub(crate) release: Option<Release>,
    /// Checksum of the object before it in its writer's life; 0 for the first.
    pub(crate) previous: u64,
    /// Which life of its writer froze it: a server resumed from a snapshot writes other bytes.
    pub(crate) life: u8,
    pub(crate) checksum: u64,
}

/// The record with which a machine leaves a journal; without successor its path is closed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Release {
    pub(crate) machine: u8,
    pub(crate) successor: Option<u8>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Seal {
    pub(crate) prefix_end: u8,
    pub(crate) last_checksum: u64,
    pub(crate) successor: u8,
}

/// One journal: its numbers from 1, and `end`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Journal {
    pub(crate) level: u8,
    pub(crate) objects: Vec<Option<Arc<Object>>>,
    /// The number of the seal that counts, and that seal.
    pub(crate) end: Option<(u8, Seal)>,
    /// Something was deleted here.
    pub(crate) deleted: bool,
}

impl Data {
    /// Freezes an object: its checksum covers all that it says.
    pub(crate) fn freeze(
        blocks: Vec<Block>,
        release: Option<Release>,
        previous: u64,
        life: u8,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (&blocks, &release, previous, life).hash(&mut hasher);
        Self {
            blocks,
            release,
            previous,
            life,
            checksum: hasher.finish().max(1),
        }
    }

    /// The index as a reader finds it; `previous` may be another one than the object has, for a model
    /// in which nobody compares. `name` gives a journal its name.
    pub(crate) fn index(
        &self,
        journal: JournalId,
        number: u8,
        previous: u64,
        name: impl Fn(u8) -> JournalId,
    ) -> DataIndex {
        let releases = self.release.map(|release| index::Release {
            machine: machine_id(release.machine),
            successor: release.successor.map(name),
        });
        DataIndex {
            header: header(journal, number, previous),
            checksum: checksum(self.checksum),
            index: Index {
                releases: releases.into_iter().collect(),
                sections: Vec::new(),
            },
        }
    }
}

impl Seal {
    /// The seal as the product stores it.
    pub(crate) fn stored(
        &self,
        journal: JournalId,
        number: u8,
        successor: JournalId,
    ) -> object::Seal {
        object::Seal {
            header: header(journal, number, 0),
            prefix_end: ObjectNo(u64::from(self.prefix_end)),
            last_checksum: checksum(self.last_checksum),
            successor,
        }
    }

    /// What of a seal the model keeps.
    pub(crate) fn of(seal: &object::Seal, successor: u8) -> Self {
        let first = seal.last_checksum.0.first_chunk();
        Self {
            prefix_end: small(seal.prefix_end.0),
            last_checksum: u64::from_le_bytes(*first.expect("32 bytes hold 8")),
            successor,
        }
    }
}

impl Journal {
    pub(crate) fn at(&self, number: u8) -> Option<&Arc<Object>> {
        let index = usize::from(number).checked_sub(1)?;
        self.objects.get(index)?.as_ref()
    }

    pub(crate) fn data(&self, number: u8) -> Option<&Data> {
        match &**self.at(number)? {
            Object::Data(data) => Some(data),
            Object::Seal(_) => None,
        }
    }

    /// The highest number that anything ever lay under.
    pub(crate) fn top(&self) -> u8 {
        small(self.objects.len() as u64)
    }

    /// Create-if-absent.
    pub(crate) fn create(&mut self, number: u8, object: &Arc<Object>) -> bool {
        let index = usize::from(number) - 1;
        if self.objects.len() <= index {
            self.objects.resize(index + 1, None);
        }
        if self.objects[index].is_some() {
            return false;
        }
        self.objects[index] = Some(Arc::clone(object));
        true
    }

    /// What a complete listing shows.
    pub(crate) fn listing(&self) -> Listing {
        let objects = self.objects.iter().zip(1..);
        let objects = objects.filter_map(|(object, number)| {
            let len = match &**object.as_ref()? {
                Object::Data(_) => DATA_LEN,
                Object::Seal(_) => SEAL_LEN as u64,
            };
            Some((ObjectNo(number), len))
        });
        Listing {
            objects: objects.collect(),
            has_end: self.end.is_some(),
        }
    }

    /// The seals that stand under numbers, lowest first.
    pub(crate) fn seals(&self) -> impl DoubleEndedIterator<Item = (u8, Seal)> {
        (1..=self.top()).filter_map(|number| match &**self.at(number)? {
            Object::Seal(seal) => Some((number, *seal)),
            Object::Data(_) => None,
        })
    }

    pub(crate) fn holds_data(&self) -> bool {
        (1..=self.top()).any(|number| self.data(number).is_some())
    }

    /// Whether the machine is named in any object.
    pub(crate) fn names(&self, machine: u8) -> bool {
        (1..=self.top())
            .filter_map(|number| self.data(number))
            .any(|data| {
                data.blocks.iter().any(|block| block.machine == machine)
                    || data
                        .release
                        .is_some_and(|release| release.machine == machine)
            })
    }
}

pub(crate) const VAULT: VaultId = VaultId([9; 16]);

pub(crate) const fn machine_id(machine: u8) -> MachineId {
    MachineId([machine; 16])
}

/// The journal's name; the index is what makes it unique.
pub(crate) const fn journal_id(level: u64, index: u8) -> JournalId {
    JournalId {
        level: Level(level),
        random: [index; 16],
    }
}

/// Which journal a name means.
pub(crate) const fn journal_index(journal: JournalId) -> u8 {
    journal.random[0]
}

pub(crate) fn checksum(value: u64) -> ObjectChecksum {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    ObjectChecksum(bytes)
}

/// A number of a small world.
///
/// # Panics
///
/// If the world is not small.
pub(crate) fn small(value: u64) -> u8 {
    u8::try_from(value).expect("worlds are small")
}

fn header(journal: JournalId, number: u8, previous: u64) -> ObjectHeader {
    ObjectHeader {
        vault: VAULT,
        journal,
        number: ObjectNo(u64::from(number)),
        server: ServerId([1; 16]),
        assignment: 0,
        previous: checksum(previous),
        created_at: WallTime(0),
    }
}
