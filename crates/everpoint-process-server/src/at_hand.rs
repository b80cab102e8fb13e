//! Objects that were committed a moment ago, so that who brings replicas forward need not read them from the vault.
//!
//! What they hold is charged to the budgets that it came in under, so their number of bytes is bounded here: the oldest
//! goes first. Who comes too late reads the vault.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use everpoint_format::data::DataObject;
use everpoint_format::index::Index;
use everpoint_units::{JournalId, ObjectNo};

/// See the module.
#[derive(Debug)]
pub(crate) struct AtHand {
    len_max: u64,
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    queue: VecDeque<Arc<ObjectAtHand>>,
    len: u64,
}

/// An object in memory.
#[derive(Debug)]
pub(crate) struct ObjectAtHand {
    pub(crate) journal: JournalId,
    pub(crate) number: ObjectNo,
    pub(crate) index: Index,
    /// By place in the object.
    frames: BTreeMap<u64, Bytes>,
    len: u64,
}

impl ObjectAtHand {
    /// The frames of an object, not copied.
    pub(crate) fn of(object: &DataObject) -> Self {
        let mut at = 0;
        let mut frames = BTreeMap::new();
        for piece in &object.pieces {
            frames.insert(at, piece.clone());
            at += piece.len() as u64;
        }
        Self {
            journal: object.header.journal,
            number: object.header.number,
            index: object.index.clone(),
            frames,
            len: object.len,
        }
    }

    /// The stored bytes of the frame that begins there.
    pub(crate) fn frame(&self, at: u64, len: u32) -> Option<Bytes> {
        let piece = self.frames.get(&at)?;
        (piece.len() == len as usize).then(|| piece.clone())
    }
}

impl AtHand {
    /// At most so many bytes.
    pub(crate) fn new(len_max: u64) -> Self {
        Self {
            len_max,
            objects: Mutex::default(),
        }
    }

    /// One more is committed.
    pub(crate) fn push(&self, object: Arc<ObjectAtHand>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.len += object.len;
        objects.queue.push_back(object);
        while self.len_max < objects.len {
            let Some(oldest) = objects.queue.pop_front() else {
                break;
            };
            objects.len -= oldest.len;
        }
    }

    /// An object, if it is here still.
    pub(crate) fn find(&self, journal: JournalId, number: ObjectNo) -> Option<Arc<ObjectAtHand>> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = objects.queue.iter().rev();
        let is_it =
            |object: &&Arc<ObjectAtHand>| (object.journal, object.number) == (journal, number);
        newest.find(is_it).cloned()
    }
}
