//! What a replica's core wants done, what it is answered, and how it stands.

use std::time::Duration;

use everpoint_format::replica::{Applied, Mark};
use everpoint_replica::Fence;
use everpoint_units::{ByteLen, ByteOffset, JournalId, ObjectNo};

#[cfg(doc)]
use super::ApplyCore;
use super::window::PageWork;

/// What the driver does next. Requests to the target are answered by the method that each names; those of
/// [`Effect::Work`] may be many at a time, of the others there is one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// What is there? [`ApplyCore::handle_look`].
    Look,
    /// Make it. [`ApplyCore::handle_created`].
    Create { len: ByteLen, fence: Fence },
    /// Take its lease and give it back: a change of length that an earlier owner asked for is over then, and another
    /// one's is refused, because the fence is this server's.
    /// [`ApplyCore::handle_leased`].
    Lease,
    /// [`ApplyCore::handle_raised`].
    Raise { to: Fence },
    /// Read the last page. [`ApplyCore::handle_mark`].
    ReadMark { at: ByteOffset },
    /// Change its length, under a lease, if then the fence still is this: a change of length has no fence of its own, and
    /// whoever comes next takes the lease before it raises the fence. [`ApplyCore::handle_done`].
    Resize { len: ByteLen, fence: Fence },
    /// Write the last page. [`ApplyCore::handle_done`].
    PutMark {
        at: ByteOffset,
        mark: Mark,
        fence: Fence,
    },
    /// Make everything before the last page zero. [`ApplyCore::handle_done`].
    Wipe { len: ByteLen, fence: Fence },
    /// A put or clear of the window. [`ApplyCore::handle_work`].
    Work {
        index: usize,
        fence: Fence,
        work: PageWork,
    },
    /// Does the machine's path still lead here? [`ApplyCore::handle_leads`].
    AskWhoLeads,
    /// From now on the objects of the path behind this one are wanted; `None`: from its origin on. What was handed in
    /// before counts for nothing.
    Follow {
        after: Option<(JournalId, ObjectNo)>,
    },
    /// What was staged for this window is not needed any more.
    Forget { window: u64 },
}

/// What is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Looked {
    Nothing,
    Target { len: ByteLen, fence: Fence },
}

/// What the last page holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MarkFound {
    Mark(Mark),
    /// The footer of a VHD that is no replica.
    Footer,
    /// Neither.
    Nothing,
}

/// Why a replica is not brought forward, until somebody does something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Obstacle {
    #[error("what is there under this name is no replica: remove it, or choose another place")]
    NoReplica,
    #[error("what is there is the replica of another disk: remove it, or choose another place")]
    OtherDisk,
    #[error(
        "what is there is the replica of another vault's disk: remove it, or choose another place"
    )]
    OtherVault,
    #[error(
        "its fence is of a later level than this server's, and the machine's path leads here: somebody else wrote there; find out who, then remove it, and it is written anew"
    )]
    StrangeFence,
    #[error("this server's level is higher than a fence can hold")]
    LevelTooHigh,
    #[error("the disk is larger than a target can be")]
    DiskTooLarge,
}

/// How a replica stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApplyReport {
    pub state: ApplyState,
    /// What the target's mark says.
    pub applied: Option<Applied>,
    pub sectors: u64,
    /// What waits in windows. Unit: bytes.
    pub staged: ByteLen,
    /// How long changes are collected now.
    pub window: Duration,
}

/// One word for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ApplyState {
    /// Finds out what is there.
    Claiming,
    /// Filled from nothing: it is no state of the disk yet.
    Filling,
    Following,
    /// Waits before it tries again.
    Waiting,
    /// A person has to do something.
    Blocked(Option<Obstacle>),
    /// The machine is another server's.
    Fenced,
}
