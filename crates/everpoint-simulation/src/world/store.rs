//! The vault's store: write-once objects. A request is carried out at one moment and answered at
//! another; either may not happen, or happen late.
//!
//! The store itself asserts what no client may break: no name gets other bytes, and a journal's objects
//! come from one server.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use everpoint_journal::path::Listing;
use everpoint_units::{JournalId, MachineId, ObjectNo, ServerId};
use everpoint_vault::history::{ObjectFound, decode_object};

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
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Name, Rc<Stored>>,
    writers: BTreeMap<JournalId, ServerId>,
    sealed: BTreeSet<JournalId>,
    /// Journals with an `end`. Nothing deletes yet, so nobody creates one.
    ends: BTreeSet<JournalId>,
    /// Creates that were carried out.
    pub(crate) created: u64,
}

impl Store {
    /// Carries a request out, now.
    ///
    /// # Panics
    ///
    /// When a client breaks a rule of the vault; the text says which.
    pub(crate) fn carry_out(&mut self, request: &Request) -> Reply {
        match request {
            Request::Create(name, bytes) => self.create(*name, bytes),
            Request::Read(name) => Reply::Object(self.objects.get(name).cloned()),
            Request::ListJournals => {
                let mut journals: Vec<JournalId> = self.journals().collect();
                journals.dedup();
                Reply::Journals(journals)
            }
            Request::ListJournal(journal) => Reply::Listing(self.list(*journal)),
            Request::HasEnd(journal) => Reply::End(self.ends.contains(journal)),
        }
    }

    fn create(&mut self, name: Name, bytes: &Bytes) -> Reply {
        if self.objects.contains_key(&name) {
            return Reply::Exists;
        }
        let found = match name {
            Name::Origin(_) => None,
            Name::Object(..) => Some(decode_object(bytes).expect("what is stored decodes")),
        };
        if let (Name::Object(journal, _), Some(ObjectFound::Data(data, _))) = (name, &found) {
            let server = data.header.server;
            let writer = *self.writers.entry(journal).or_insert(server);
            assert_eq!(writer, server, "two servers write data in {journal}");
            assert_eq!(
                data.header.journal, journal,
                "an object in a strange journal"
            );
        }
        if let (Name::Object(journal, _), Some(ObjectFound::Seal(_))) = (name, &found) {
            self.sealed.insert(journal);
        }
        self.created += 1;
        let stored = Stored {
            bytes: bytes.clone(),
            found,
        };
        self.objects.insert(name, Rc::new(stored));
        Reply::Created
    }

    fn journals(&self) -> impl Iterator<Item = JournalId> + '_ {
        self.objects.keys().filter_map(|name| match name {
            Name::Object(journal, _) => Some(*journal),
            Name::Origin(_) => None,
        })
    }

    fn list(&self, journal: JournalId) -> Listing {
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
        self.sealed.contains(&journal)
    }

    /// An object, for who looks at the store from outside.
    pub(crate) fn get(&self, name: Name) -> Option<&Rc<Stored>> {
        self.objects.get(&name)
    }

    /// A journal's listing, for who looks at the store from outside.
    pub(crate) fn listing(&self, journal: JournalId) -> Listing {
        self.list(journal)
    }
}
