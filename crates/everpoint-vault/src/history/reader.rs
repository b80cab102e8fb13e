//! Reading one machine's path object by object, as far as somebody wants.

use everpoint_format::data::DataIndex;
use everpoint_format::manifest::FoldedTo;
use everpoint_journal::path::{Damage, Need, PathEnd, PathWalk, Verdict};
use everpoint_units::{JournalId, MachineId, ObjectNo, VaultId};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::walk::begin_at_origin;
use super::{HistoryError, ObjectFound, list_journal, read_objects};
use crate::vault::Vault;

/// An object of a journal, as it was read.
type ReadObject = Result<(JournalId, ObjectNo, ObjectFound), HistoryError>;

/// See the module.
pub struct PathReader<'a> {
    vault: &'a Vault,
    id: VaultId,
    walk: PathWalk,
    /// What is read ahead in the journal at hand.
    objects: Option<BoxStream<'a, ReadObject>>,
}

impl<'a> PathReader<'a> {
    /// Reads from the machine's origin on, or behind what a manifest has folded.
    ///
    /// # Errors
    ///
    /// See [`HistoryError`].
    pub async fn new(
        vault: &'a Vault,
        id: VaultId,
        machine: MachineId,
        folded: Option<&FoldedTo>,
    ) -> Result<Self, HistoryError> {
        let walk = match folded {
            Some(folded) => PathWalk::behind(machine, folded),
            None => begin_at_origin(vault, id, machine).await?.1,
        };
        Ok(Self {
            vault,
            id,
            walk,
            objects: None,
        })
    }

    /// The next object of the path; `None` at its end.
    ///
    /// # Errors
    ///
    /// See [`HistoryError`]; damage on the path is told by [`Self::damage`].
    pub async fn next(
        &mut self,
    ) -> Result<Option<(JournalId, ObjectNo, Box<DataIndex>)>, HistoryError> {
        while let Some(need) = self.walk.need() {
            let Need::Object(journal, number) = need else {
                let Need::Listing(journal) = need else {
                    unreachable!("the origin was read first");
                };
                self.walk
                    .handle_listing(&list_journal(self.vault, journal).await?);
                self.objects = None;
                continue;
            };
            let objects = match &mut self.objects {
                Some(objects) => objects,
                None => self.objects.insert(self.read_ahead()),
            };
            let object = objects.next().await;
            let (_, _, found) = object.expect("the walk asks for nothing beyond")?;
            let verdict = self.walk.handle_object(found.as_read());
            if let (Verdict::Fold, ObjectFound::Data(data, _)) = (verdict, found) {
                return Ok(Some((journal, number, data)));
            }
        }
        Ok(None)
    }

    fn read_ahead(&self) -> BoxStream<'a, ReadObject> {
        let ahead = self.walk.ahead().expect("it asks for an object");
        let (journal, first, last) = ahead;
        let numbers = (first.0..=last.0).map(move |number| (journal, ObjectNo(number)));
        read_objects(self.vault, self.id, numbers)
    }

    /// The journal that the path went on in with the object that was read last, if it did: by a release, for a seal is
    /// an object of its own.
    pub fn went_on(&self) -> Option<JournalId> {
        match self.walk.need() {
            Some(Need::Listing(journal)) => Some(journal),
            _ => None,
        }
    }

    /// What was not as it should be, so far.
    pub fn damage(&self) -> &[Damage] {
        self.walk.damage()
    }

    /// How the path ended; `None` while it goes on.
    pub fn end(&self) -> Option<PathEnd> {
        self.walk.end()
    }
}
