//! What comes out of a disk's core: things to do, frames to send, questions and their answers.

use bytes::Bytes;
use everpoint_capture::LossReason;
use everpoint_format::DiskPosition;
use everpoint_format::change::FrozenBlock;
use everpoint_format::digest::PlainDigest;
use everpoint_replication::source::{Fault, ResyncReason, WantedGeneration};
use everpoint_units::{GenerationId, Level, Seq};
use everpoint_wire::Compare;

/// What the driver has to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Open a stream for the disk, then say [`super::DiskCore::handle_opened`] or
    /// [`super::DiskCore::handle_open_failed`].
    OpenStream,
    /// Close the link; nothing that it still brings is heard.
    CloseLink {
        /// Why.
        fault: LinkFault,
    },
    /// The disk keeps no order any more: the server is elsewhere.
    OrderLost {
        /// What the order was told.
        reason: LossReason,
        /// What the source found.
        because: ResyncReason,
    },
    /// The queue became smaller: who waits for room may look. `wake`: so may a sleeping packer.
    Freed {
        /// See above.
        wake: bool,
    },
    /// A generation has begun, and its first block is due: wake the packer, and begin a resync.
    Begun {
        /// What it builds on, and why it begins.
        wanted: WantedGeneration,
        /// Its name.
        generation: GenerationId,
    },
    /// No resync goes on: what it still asks is not answered.
    StopResync,
    /// `Seq`s are needed: see `WriteOrder::wanted_reservation`.
    Reserve,
    /// The server's word on what is committed of all disks, and for which epoch it speaks.
    Marks(Marks),
    /// For the resync that asked.
    Answer(Answer),
    /// Everything captured is committed: with the tail if the disk could go on from there.
    Drained(Option<DiskPosition>),
}

/// What a server says of its whole machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Marks {
    /// Everything at or below it is committed, of all disks whose beginning the server has. A disk that
    /// was attached a moment ago may not be among them; a bookmark is made when all disks are level, so it
    /// is never listed before they are.
    pub committed_cut: Seq,
    pub epoch: Level,
}

/// Why a link is of no more use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LinkFault {
    /// The server is out of its mind, or not the newest.
    #[error(transparent)]
    Server(#[from] Fault),
    /// It broke the protocol.
    #[error("a message that does not belong on a disk's stream")]
    Misplaced,
}

/// What a resync asks the server: which of these pieces differ from what it holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// The generation whose resync asks.
    pub generation: GenerationId,
    /// Names the question within a resync. Unit: 4 KiB pieces of the disk.
    pub first_piece: u64,
    pub digests: Vec<PlainDigest>,
}

/// What the server said to a [`Question`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// As in the question.
    pub generation: GenerationId,
    /// As in the question.
    pub first_piece: u64,
    /// One bit a piece; see `wire.proto`.
    pub differs: Bytes,
}

/// A frame for the disk's stream.
#[derive(Clone, Debug)]
pub enum Outgoing {
    Block(FrozenBlock),
    Compare(Compare),
}
