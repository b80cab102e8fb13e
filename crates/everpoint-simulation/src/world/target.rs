//! A replica's target: a disk of pages in somebody else's service. A request is carried out at one moment and
//! answered at another; either may not happen, or happen late.
//!
//! The last page, which is the mark, is kept beside the others: what else is read from there is no mark.

use everpoint_format::replica::Mark;
use everpoint_process_server::apply_core::{Effect, Leads, Looked, MarkFound};
use everpoint_replica::{Fence, Remedy};
use everpoint_units::{ByteLen, DiskId, SECTOR_LEN};

use super::oracle::{Content, index};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// `None` while it does not exist.
    pages: Option<Vec<Content>>,
    pub(crate) mark: Option<Mark>,
    fence: Fence,
    /// Counts leases: what was asked for under an earlier one is refused.
    lease: u64,
}

/// What a request makes of a target, with the bytes that it carries.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create(ByteLen, Fence),
    Raise(Fence),
    /// Under which lease.
    Resize(ByteLen, u64),
    Mark(Mark, Fence),
    /// From which page on.
    Put(usize, Vec<Content>, Fence),
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) server: usize,
    pub(crate) life: u32,
    pub(crate) disk: DiskId,
    /// Which of the replicas that this life has had of the disk.
    pub(crate) replica: u64,
    pub(crate) effect: Effect,
    pub(crate) change: Option<Change>,
}

/// What a request is answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    Done,
    Fence(Fence),
    Looked(Looked),
    Mark(MarkFound),
    Leads(Leads),
}

impl Target {
    /// Carries a change out, now, if it may be.
    ///
    /// # Panics
    ///
    /// When a put reaches the last page.
    pub(crate) fn carry_out(&mut self, change: &Change) -> Result<Told, Remedy> {
        let Some(pages) = &mut self.pages else {
            let Change::Create(len, fence) = change else {
                return Err(Remedy::Report);
            };
            self.pages = Some(vec![0; pages_of(*len)]);
            self.fence = *fence;
            return Ok(Told::Done);
        };
        match change {
            // It is looked at what is there, whoever made it.
            Change::Create(..) => return Ok(Told::Done),
            Change::Raise(to) => {
                self.fence = self.fence.max(*to);
                return Ok(Told::Fence(self.fence));
            }
            Change::Resize(_, lease) if *lease != self.lease => return Err(Remedy::Report),
            Change::Resize(len, _) => {
                let count = pages_of(*len);
                if count != pages.len() {
                    pages.resize(count, 0);
                    self.mark = None;
                }
            }
            Change::Mark(_, fence) | Change::Put(.., fence) if *fence != self.fence => {
                return Err(Remedy::LookWhoLeads);
            }
            Change::Mark(mark, _) => self.mark = Some(*mark),
            Change::Put(at, contents, _) => {
                assert!(at + contents.len() < pages.len(), "a put over the mark");
                pages[*at..at + contents.len()].copy_from_slice(contents);
            }
        }
        Ok(Told::Done)
    }

    /// What is there.
    pub(crate) fn look(&self) -> Looked {
        match &self.pages {
            None => Looked::Nothing,
            Some(pages) => Looked::Target {
                len: ByteLen(pages.len() as u64 * SECTOR_LEN),
                fence: self.fence,
            },
        }
    }

    /// What the last page holds.
    pub(crate) fn read_mark(&self) -> MarkFound {
        self.mark.map_or(MarkFound::Nothing, MarkFound::Mark)
    }

    /// Its lease is taken, and given back: its number.
    pub(crate) const fn lease(&mut self) -> u64 {
        self.lease += 1;
        self.lease
    }

    /// Who may write.
    pub(crate) const fn fence(&self) -> Fence {
        self.fence
    }

    /// What its pages hold; nothing where it does not exist.
    pub(crate) fn pages(&self) -> &[Content] {
        self.pages.as_deref().unwrap_or_default()
    }
}

/// How many pages that is.
pub(crate) fn pages_of(len: ByteLen) -> usize {
    index(len.0 / SECTOR_LEN)
}
