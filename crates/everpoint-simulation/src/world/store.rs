//! The vault's store: write-once objects. A request is carried out at one moment and answered at
//! another; either may not happen, or happen late.
//!
//! The store itself asserts what no client may break: no name gets other bytes, a journal's objects come
//! from one server.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use everpoint_format::data::DataIndex;
use everpoint_format::index::BlockEntry;
use everpoint_journal::extent_map::{RecordPlace, Run};
use everpoint_journal::path::Listing;
use everpoint_units::{JournalId, MachineId, ObjectNo, SECTOR_LEN, ServerId};
use everpoint_vault::history::{ObjectDamage, ObjectFound, decode_object};

use super::disk::contents_of;
use super::oracle::{Content, index};

/// What an object is called.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Name {
    Object(JournalId, ObjectNo),
    Origin(MachineId),
}

/// What is asked of the store.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Create(Name, Bytes),
    Read(Name),
    ListJournals,
    ListJournal(JournalId),
    /// Is the journal's `end` there?
    HasEnd(JournalId),
}

/// What the store answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Created,
    Exists,
    Object(Option<Rc<Stored>>),
    Journals(Vec<JournalId>),
    Listing(Listing),
    End(bool),
    /// A time-out, a 503, a broken connection: it may have been carried out, or may yet be.
    Unknown,
}

/// An object, and what it says.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) bytes: Bytes,
    pub(crate) found: Option<ObjectFound>,
    /// What the frames of each block stand for, opened when they are first wanted.
    opened: Vec<OnceCell<Option<Vec<Content>>>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Name, Rc<Stored>>,
    writers: BTreeMap<JournalId, ServerId>,
    /// By the journal that goes on.
    sealed: BTreeMap<JournalId, JournalId>,
    /// Seals since somebody last looked.
    fresh_seals: Vec<(JournalId, JournalId)>,
    /// Journals with an `end`. Nothing deletes yet, so nobody creates one.
    ends: BTreeSet<JournalId>,
    pub(crate) created: u64,
    /// Objects of which a bit has turned.
    pub(crate) rotten: BTreeSet<Name>,
}

impl Store {
    /// Carries a request out, now.
    ///
    /// # Panics
    ///
    /// When a client breaks what the store asserts.
    pub(crate) fn carry_out(&mut self, request: &Request) -> Reply {
        match request {
            Request::Create(name, bytes) => self.create(*name, bytes),
            Request::Read(name) => Reply::Object(self.objects.get(name).cloned()),
            Request::ListJournals => {
                let mut journals: Vec<JournalId> = self.journals().collect();
                journals.dedup();
                Reply::Journals(journals)
            }
            Request::ListJournal(journal) => Reply::Listing(self.listing(*journal)),
            Request::HasEnd(journal) => Reply::End(self.ends.contains(journal)),
        }
    }

    fn create(&mut self, name: Name, bytes: &Bytes) -> Reply {
        if self.objects.contains_key(&name) {
            return Reply::Exists;
        }
        let stored = Stored::new(name, bytes.clone());
        if let (Name::Object(journal, _), Some(ObjectFound::Data(data, _))) = (name, &stored.found)
        {
            let server = data.header.server;
            let writer = *self.writers.entry(journal).or_insert(server);
            assert_eq!(writer, server, "two servers write data in {journal}");
            assert_eq!(
                data.header.journal, journal,
                "an object in a strange journal"
            );
        }
        assert!(
            !matches!(stored.found, Some(ObjectFound::Damaged(_))),
            "what is stored decodes"
        );
        if let (Name::Object(journal, _), Some(ObjectFound::Seal(seal))) = (name, &stored.found) {
            self.sealed.entry(journal).or_insert(seal.successor);
            self.fresh_seals.push((journal, seal.successor));
        }
        self.created += 1;
        self.objects.insert(name, Rc::new(stored));
        Reply::Created
    }

    fn journals(&self) -> impl Iterator<Item = JournalId> + '_ {
        self.objects.keys().filter_map(|name| match name {
            Name::Object(journal, _) => Some(*journal),
            Name::Origin(_) => None,
        })
    }

    /// Turns one bit of an object of a journal; false if there is none.
    pub(crate) fn rot(&mut self, draw: u64) -> bool {
        let objects = self.objects.keys();
        let objects: Vec<Name> = objects
            .filter(|name| matches!(name, Name::Object(..)))
            .copied()
            .collect();
        let Some(count) = std::num::NonZeroUsize::new(objects.len()) else {
            return false;
        };
        let name = objects[index(draw >> 32) % count];
        let mut bytes = self.objects[&name].bytes.to_vec();
        let at = index(draw >> 3) % bytes.len();
        bytes[at] ^= 1 << (draw & 7);
        let stored = Stored::new(name, Bytes::from(bytes));
        self.objects.insert(name, Rc::new(stored));
        self.rotten.insert(name);
        true
    }

    /// A journal's complete listing.
    pub(crate) fn listing(&self, journal: JournalId) -> Listing {
        let from = Name::Object(journal, ObjectNo::ZERO);
        let to = Name::Object(journal, ObjectNo(u64::MAX));
        let objects = self.objects.range(from..=to);
        let objects = objects.filter_map(|(name, stored)| match name {
            Name::Object(_, number) => Some((*number, stored.bytes.len() as u64)),
            Name::Origin(_) => None,
        });
        Listing {
            objects: objects.collect(),
            has_end: self.ends.contains(&journal),
        }
    }

    /// Whether somebody has sealed a journal: whoever writes there may not know yet.
    pub(crate) fn is_sealed(&self, journal: JournalId) -> bool {
        self.sealed.contains_key(&journal)
    }

    /// Journals that were sealed since the last call, and what goes on.
    pub(crate) fn fresh_seals(&mut self) -> Vec<(JournalId, JournalId)> {
        std::mem::take(&mut self.fresh_seals)
    }
}

impl Stored {
    fn new(name: Name, bytes: Bytes) -> Self {
        let found = match name {
            Name::Origin(_) => None,
            Name::Object(..) => Some(decode(&bytes)),
        };
        let blocks = match &found {
            Some(ObjectFound::Data(data, _)) => blocks(data).count(),
            _ => 0,
        };
        Self {
            bytes,
            found,
            opened: vec![OnceCell::new(); blocks],
        }
    }

    /// The index, where it is a data object that decodes.
    pub(crate) fn index(&self) -> Option<&DataIndex> {
        match &self.found {
            Some(ObjectFound::Data(data, _)) => Some(data),
            _ => None,
        }
    }

    /// What a block's records hold, sector by sector; `None` where its frame does not open, or holds
    /// what was never written.
    pub(crate) fn contents(&self, section: usize, block: usize) -> Option<&[Content]> {
        let sections = &self.index()?.index.sections;
        let before = sections[..section].iter();
        let before: usize = before.map(|section| section.blocks.len()).sum();
        let entry = &sections[section].blocks[block];
        let opened = self.opened[before + block].get_or_init(|| self.open(entry));
        opened.as_deref()
    }

    /// What a run of sectors holds; `None` where that is not to be had.
    pub(crate) fn run(&self, run: &Run) -> Option<&[Content]> {
        let sectors = u64::from(run.extent.sectors().get());
        self.record(run.source, run.skip, sectors)
    }

    /// Sectors of a record, from `skip` of them into it on; as above.
    pub(crate) fn record(&self, at: RecordPlace, skip: u64, sectors: u64) -> Option<&[Content]> {
        let (section, block) = (at.section as usize, at.block as usize);
        let block_entry = &self.index()?.index.sections[section].blocks[block];
        let before = &block_entry.records[..at.record as usize];
        let before: u64 = before.iter().map(|record| record.change.raw_len()).sum();
        let skip = index(before / SECTOR_LEN + skip);
        let contents = self.contents(section, block)?;
        contents.get(skip..skip + index(sectors))
    }

    fn open(&self, block: &BlockEntry) -> Option<Vec<Content>> {
        let at = index(block.frame_at);
        let frame = self.bytes.slice(at..at + block.frame.stored_len as usize);
        contents_of(&block.frame.open(&frame).ok()?)
    }
}

fn blocks(data: &DataIndex) -> impl Iterator<Item = &BlockEntry> {
    let sections = data.index.sections.iter();
    sections.flat_map(|section| &section.blocks)
}

/// What an object says: one that does not decode is damaged, as a reader of a vault takes it.
fn decode(bytes: &Bytes) -> ObjectFound {
    let damaged = |error| ObjectFound::Damaged(ObjectDamage::Decode(error));
    decode_object(bytes).unwrap_or_else(damaged)
}
