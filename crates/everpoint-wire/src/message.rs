//! Messages between agent and process server, parsed into the types that carry their meaning.

use bytes::Bytes;
use everpoint_format::DiskPosition;
use everpoint_format::digest::PlainDigest;
use everpoint_units::{
    BlockNo, ChainValue, DiskId, GenerationId, JournalId, Level, MachineId, Seq, VaultId, WallTime,
};
use prost::Message;

use crate::generated as pb;
use crate::{COMPARE_PIECES_MAX, DISKS_MAX, WireError};

/// What a frame on a stream holds; its code stands in the frame's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameKind {
    /// A [`ToServer`] or [`ToAgent`].
    Message,
    /// A change block, as `everpoint-format` lays it out.
    Block,
}

/// What an agent sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ToServer {
    Hello(Hello),
    OpenDisk { disk: DiskId },
    Compare(Compare),
}

/// What a process server sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ToAgent {
    HelloAnswer(HelloAnswer),
    Refusal {
        reason: RefusalReason,
        text: String,
    },
    DiskState(DiskState),
    Watermarks(Watermarks),
    /// A block was not taken; `tail` is what the server holds.
    Refused {
        reason: RefuseReason,
        tail: Option<DiskPosition>,
    },
    /// One bit a piece; see `wire.proto`.
    Differences {
        request: u64,
        differs: Bytes,
    },
}

/// See `wire.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    pub protocol: u32,
    pub machine: MachineId,
    pub highest_epoch: Level,
    pub vault: Option<VaultId>,
    pub clock: WallTime,
    /// At most [`DISKS_MAX`].
    pub disk_count: u32,
}

/// See `wire.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HelloAnswer {
    pub protocol: u32,
    pub vault: VaultId,
    /// The journal that the machine's path leads to; its level is the epoch.
    pub journal: JournalId,
    pub highest_seq: Seq,
    pub clock: WallTime,
    pub disks: Vec<DiskState>,
}

/// What the server holds of one disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DiskState {
    pub disk: DiskId,
    pub committed: Option<DiskPosition>,
    /// Continues `committed`; equal to it when nothing waits in the cache log.
    pub cached: Option<DiskPosition>,
    pub complete_through: Seq,
    pub level: bool,
}

/// How far the promises hold, for blocks of one generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watermarks {
    pub generation: GenerationId,
    pub cached: BlockNo,
    pub committed: BlockNo,
    pub committed_cut: Seq,
    pub epoch: Level,
}

/// Asks which pieces differ from what the stream's newest generation builds on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Compare {
    pub request: u64,
    /// Unit: 4 KiB pieces of the disk.
    pub first_piece: u64,
    /// 1 to [`COMPARE_PIECES_MAX`] plain digests.
    pub digests: Vec<PlainDigest>,
}

/// Why a server does not serve a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusalReason {
    NotOwner,
    Version,
    Vault,
    Closed,
    Busy,
    Damaged,
    Limit,
}

/// Why a server did not take a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefuseReason {
    Gap,
    Stale,
    Corrupt,
    WrongBase,
}

impl FrameKind {
    /// The code in the frame header.
    pub const fn code(self) -> u8 {
        match self {
            Self::Message => 1,
            Self::Block => 2,
        }
    }

    /// Reads the code back.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Message),
            2 => Some(Self::Block),
            _ => None,
        }
    }
}

impl ToServer {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        use pb::to_server::Message as M;
        let message = match self {
            Self::Hello(hello) => M::Hello(pb::Hello {
                protocol: hello.protocol,
                machine: bytes(&hello.machine.0),
                highest_epoch: hello.highest_epoch.0,
                vault: hello.vault.map_or_else(Bytes::new, |vault| bytes(&vault.0)),
                clock_us: hello.clock.0,
                disk_count: hello.disk_count,
            }),
            Self::OpenDisk { disk } => M::OpenDisk(pb::OpenDisk {
                disk: bytes(&disk.0),
            }),
            Self::Compare(compare) => {
                let digests: Vec<u8> = compare.digests.iter().flat_map(|d| d.0).collect();
                M::Compare(pb::Compare {
                    request: compare.request,
                    first_piece: compare.first_piece,
                    digests: digests.into(),
                })
            }
        };
        let message = Some(message);
        pb::ToServer { message }.encode_to_vec().into()
    }

    /// Reads what an agent sent.
    ///
    /// # Errors
    ///
    /// See [`WireError`]; the connection is to be closed.
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        use pb::to_server::Message as M;
        const WHAT: &str = "message to the server";
        let message =
            pb::ToServer::decode(body).map_err(|_| WireError::Malformed { what: WHAT })?;
        match message.message.ok_or(WireError::Unknown { what: WHAT })? {
            M::Hello(hello) => {
                if DISKS_MAX < hello.disk_count as usize {
                    return Err(field("hello", "disk_count", "is above the limit"));
                }
                Ok(Self::Hello(Hello {
                    protocol: hello.protocol,
                    machine: MachineId(id("hello", "machine", &hello.machine)?),
                    highest_epoch: Level(hello.highest_epoch),
                    vault: optional_id("hello", "vault", &hello.vault)?.map(VaultId),
                    clock: WallTime(hello.clock_us),
                    disk_count: hello.disk_count,
                }))
            }
            M::OpenDisk(open) => Ok(Self::OpenDisk {
                disk: DiskId(id("open disk", "disk", &open.disk)?),
            }),
            M::Compare(compare) => {
                let (digests, rest) = compare.digests.as_chunks::<32>();
                let count = digests.len();
                if !rest.is_empty() || count == 0 || COMPARE_PIECES_MAX < count {
                    return Err(field(
                        "compare",
                        "digests",
                        "are not 1 to 4096 whole digests",
                    ));
                }
                if compare.first_piece.checked_add(count as u64).is_none() {
                    return Err(field("compare", "first_piece", "leaves every disk"));
                }
                Ok(Self::Compare(Compare {
                    request: compare.request,
                    first_piece: compare.first_piece,
                    digests: digests.iter().map(|digest| PlainDigest(*digest)).collect(),
                }))
            }
        }
    }
}

impl ToAgent {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        use pb::to_agent::Message as M;
        let message = match self {
            Self::HelloAnswer(answer) => M::HelloAnswer(pb::HelloAnswer {
                protocol: answer.protocol,
                vault: bytes(&answer.vault.0),
                epoch: answer.journal.level.0,
                journal: bytes(&answer.journal.random),
                highest_seq: answer.highest_seq.0,
                clock_us: answer.clock.0,
                disks: answer.disks.iter().map(disk_state).collect(),
            }),
            Self::Refusal { reason, text } => M::Refusal(pb::Refusal {
                reason: reason.to_wire().into(),
                text: text.clone(),
            }),
            Self::DiskState(state) => M::DiskState(disk_state(state)),
            Self::Watermarks(marks) => M::Watermarks(pb::Watermarks {
                generation: bytes(&marks.generation.0),
                cached: marks.cached.0,
                committed: marks.committed.0,
                committed_cut: marks.committed_cut.0,
                epoch: marks.epoch.0,
            }),
            Self::Refused { reason, tail } => M::Refused(pb::Refused {
                reason: reason.to_wire().into(),
                tail: tail.map(position),
            }),
            Self::Differences { request, differs } => M::Differences(pb::Differences {
                request: *request,
                differs: differs.clone(),
            }),
        };
        let message = Some(message);
        pb::ToAgent { message }.encode_to_vec().into()
    }

    /// Reads what a server sent.
    ///
    /// # Errors
    ///
    /// See [`WireError`]; the connection is to be closed.
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        use pb::to_agent::Message as M;
        const WHAT: &str = "message to the agent";
        let message = pb::ToAgent::decode(body).map_err(|_| WireError::Malformed { what: WHAT })?;
        match message.message.ok_or(WireError::Unknown { what: WHAT })? {
            M::HelloAnswer(answer) => {
                if DISKS_MAX < answer.disks.len() {
                    return Err(field("hello answer", "disks", "are above the limit"));
                }
                Ok(Self::HelloAnswer(HelloAnswer {
                    protocol: answer.protocol,
                    vault: VaultId(id("hello answer", "vault", &answer.vault)?),
                    journal: JournalId {
                        level: Level(answer.epoch),
                        random: id("hello answer", "journal", &answer.journal)?,
                    },
                    highest_seq: Seq(answer.highest_seq),
                    clock: WallTime(answer.clock_us),
                    disks: answer
                        .disks
                        .iter()
                        .map(read_disk_state)
                        .collect::<Result<_, _>>()?,
                }))
            }
            M::Refusal(refusal) => Ok(Self::Refusal {
                reason: RefusalReason::from_wire(refusal.reason())
                    .ok_or_else(|| field("refusal", "reason", "is unknown"))?,
                text: refusal.text,
            }),
            M::DiskState(state) => Ok(Self::DiskState(read_disk_state(&state)?)),
            M::Watermarks(marks) => Ok(Self::Watermarks(Watermarks {
                generation: GenerationId(id("watermarks", "generation", &marks.generation)?),
                cached: BlockNo(marks.cached),
                committed: BlockNo(marks.committed),
                committed_cut: Seq(marks.committed_cut),
                epoch: Level(marks.epoch),
            })),
            M::Refused(refused) => Ok(Self::Refused {
                reason: RefuseReason::from_wire(refused.reason())
                    .ok_or_else(|| field("refused", "reason", "is unknown"))?,
                tail: refused.tail.as_ref().map(read_position).transpose()?,
            }),
            M::Differences(differences) => {
                if COMPARE_PIECES_MAX / 8 < differences.differs.len() {
                    return Err(field(
                        "differences",
                        "differs",
                        "is longer than any request",
                    ));
                }
                Ok(Self::Differences {
                    request: differences.request,
                    differs: differences.differs,
                })
            }
        }
    }
}

impl RefusalReason {
    const fn to_wire(self) -> pb::refusal::Reason {
        use pb::refusal::Reason as R;
        match self {
            Self::NotOwner => R::NotOwner,
            Self::Version => R::Version,
            Self::Vault => R::Vault,
            Self::Closed => R::Closed,
            Self::Busy => R::Busy,
            Self::Damaged => R::Damaged,
            Self::Limit => R::Limit,
        }
    }

    const fn from_wire(reason: pb::refusal::Reason) -> Option<Self> {
        use pb::refusal::Reason as R;
        match reason {
            R::Unspecified => None,
            R::NotOwner => Some(Self::NotOwner),
            R::Version => Some(Self::Version),
            R::Vault => Some(Self::Vault),
            R::Closed => Some(Self::Closed),
            R::Busy => Some(Self::Busy),
            R::Damaged => Some(Self::Damaged),
            R::Limit => Some(Self::Limit),
        }
    }
}

impl RefuseReason {
    const fn to_wire(self) -> pb::refused::Reason {
        use pb::refused::Reason as R;
        match self {
            Self::Gap => R::Gap,
            Self::Stale => R::Stale,
            Self::Corrupt => R::Corrupt,
            Self::WrongBase => R::WrongBase,
        }
    }

    const fn from_wire(reason: pb::refused::Reason) -> Option<Self> {
        use pb::refused::Reason as R;
        match reason {
            R::Unspecified => None,
            R::Gap => Some(Self::Gap),
            R::Stale => Some(Self::Stale),
            R::Corrupt => Some(Self::Corrupt),
            R::WrongBase => Some(Self::WrongBase),
        }
    }
}

fn disk_state(state: &DiskState) -> pb::DiskState {
    pb::DiskState {
        disk: bytes(&state.disk.0),
        committed: state.committed.map(position),
        cached: state.cached.map(position),
        complete_through: state.complete_through.0,
        level: state.level,
    }
}

fn read_disk_state(state: &pb::DiskState) -> Result<DiskState, WireError> {
    Ok(DiskState {
        disk: DiskId(id("disk state", "disk", &state.disk)?),
        committed: state.committed.as_ref().map(read_position).transpose()?,
        cached: state.cached.as_ref().map(read_position).transpose()?,
        complete_through: Seq(state.complete_through),
        level: state.level,
    })
}

fn position(position: DiskPosition) -> pb::Position {
    pb::Position {
        generation: bytes(&position.generation.0),
        block_no: position.block_no.0,
        chain: position.chain.0,
    }
}

fn read_position(position: &pb::Position) -> Result<DiskPosition, WireError> {
    Ok(DiskPosition {
        generation: GenerationId(id("position", "generation", &position.generation)?),
        block_no: BlockNo(position.block_no),
        chain: ChainValue(position.chain),
    })
}

fn bytes(id: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(id)
}

fn id(what: &'static str, name: &'static str, bytes: &[u8]) -> Result<[u8; 16], WireError> {
    bytes
        .try_into()
        .map_err(|_| field(what, name, "is not 16 bytes"))
}

fn optional_id(
    what: &'static str,
    name: &'static str,
    bytes: &[u8],
) -> Result<Option<[u8; 16]>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    id(what, name, bytes).map(Some)
}

const fn field(what: &'static str, field: &'static str, rule: &'static str) -> WireError {
    WireError::Field { what, field, rule }
}

#[cfg(test)]
mod tests;
