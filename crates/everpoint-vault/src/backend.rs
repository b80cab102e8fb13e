//! What a store must offer for a vault to be built on it: one attempt at one request, no retries.
//!
//! The vault above repeats, compares, counts and gives up; a backend only says exactly what is known after
//! one attempt. That split lets one retry loop serve every store and lets [`crate::faulty`] stand
//! between the two.

use std::io;
use std::num::NonZeroUsize;

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use futures::future::BoxFuture;

use crate::error::{Cause, SyncFailure};
use crate::name::{ObjectName, ObjectPrefix};
use crate::payload::Payload;
use crate::vault::Page;

/// The answer to one attempt.
pub(crate) type Attempt<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// One store. Every method is one attempt, and its future may be dropped at any time; the request may then
/// take effect later or never.
pub(crate) trait Backend: Send + Sync {
    /// Creates `name` with these bytes unless it exists. [`Landed::New`] is given only when bytes, entry and
    /// directories are durable and lie in the vault that was opened.
    fn create<'a>(&'a self, name: &'a ObjectName, payload: &'a Payload) -> Attempt<'a, Landed>;

    /// Compares what is there with `payload`. [`Comparison::Same`] is given only after what is there was made
    /// durable by a sync begun in this call.
    fn compare<'a>(&'a self, name: &'a ObjectName, payload: &'a Payload)
    -> Attempt<'a, Comparison>;

    /// Reads a part of an object of which at most `len_max` bytes are taken; `None` if there is no such object.
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        part: Part,
        len_max: ByteLen,
    ) -> Attempt<'a, Option<Found>>;

    /// How long the object is; `None` if there is no such object.
    fn head<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, Option<ByteLen>>;

    /// The first `count_max` objects below `prefix` whose names come after `after`.
    fn list<'a>(
        &'a self,
        prefix: &'a ObjectPrefix,
        after: Option<&'a ObjectName>,
        count_max: NonZeroUsize,
    ) -> Attempt<'a, Page>;

    /// The prefixes one segment longer than `prefix`, sorted.
    fn list_prefixes<'a>(&'a self, prefix: &'a ObjectPrefix) -> Attempt<'a, Vec<ObjectPrefix>>;

    /// Makes what is visible durable, then drops it from caches; `false` if there is no such object.
    fn settle<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, bool>;
}

/// How a create ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Landed {
    /// This attempt created the object.
    New,
    /// The name is taken, by whatever bytes.
    Exists,
}

/// How an object compares with a payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Comparison {
    Same,
    Different,
    Absent,
}

/// Which bytes of an object to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Whole,
    Range {
        at: ByteOffset,
        len: ByteLen,
    },
    /// The last bytes, or all if the object is shorter.
    Suffix {
        len: ByteLen,
    },
}

/// Bytes of an object, and how long all of it is.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Bytes,
    pub(crate) object_len: ByteLen,
}

/// How one attempt failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It had no effect and will have none.
    NotDone(Cause),
    /// It may have taken effect, or may still. Reads have no effect and use this as they like.
    Unknown(Cause),
    /// The name holds other bytes.
    Different,
    SyncFailed(SyncFailure),
    Medium(io::Error),
    OutOfRange {
        len: ByteLen,
    },
    TooLong {
        len: ByteLen,
    },
}

impl Fault {
    /// Whether another attempt could soon end otherwise. What only a person mends (a credential, a container)
    /// is told at once; who cannot do without the answer asks again in its own time.
    pub(crate) fn may_heal(&self) -> bool {
        match self {
            Self::NotDone(cause) | Self::Unknown(cause) => {
                !matches!(cause, Cause::Denied { .. } | Cause::NoContainer { .. })
            }
            _ => false,
        }
    }

    /// The cause of a fault that is no answer of its own for the request at hand.
    pub(crate) fn into_cause(self) -> Cause {
        match self {
            Self::NotDone(cause) | Self::Unknown(cause) => cause,
            Self::Medium(source) => Cause::Medium { source },
            Self::SyncFailed(failure) => Cause::Sync(failure),
            Self::Different | Self::OutOfRange { .. } | Self::TooLong { .. } => {
                unreachable!(
                    "only creates compare, and only reads have a range: each names these itself"
                )
            }
        }
    }

    /// The `result` of this fault in the metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NotDone(Cause::RootMoved { .. }) | Self::Unknown(Cause::RootMoved { .. }) => {
                "root_moved"
            }
            Self::Unknown(Cause::TimedOut { .. }) => "timed_out",
            Self::NotDone(_) => "not_done",
            Self::Unknown(_) => "unknown",
            Self::Different => "different",
            Self::SyncFailed(_) => "sync_failed",
            Self::Medium(_) => "medium",
            Self::OutOfRange { .. } => "out_of_range",
            Self::TooLong { .. } => "too_long",
        }
    }
}

/// What a read of a whole object is given time for.
const WHOLE_LEN: ByteLen = ByteLen(64 << 20);

impl Part {
    /// How many bytes a read of it may move.
    pub(crate) fn moves(self) -> ByteLen {
        match self {
            Self::Whole => WHOLE_LEN,
            Self::Range { len, .. } | Self::Suffix { len } => len,
        }
    }

    /// Where this part of an object of `object_len` bytes begins and how long it is.
    pub(crate) fn within(
        self,
        object_len: ByteLen,
        len_max: ByteLen,
    ) -> Result<(ByteOffset, ByteLen), Fault> {
        let (at, len) = match self {
            Self::Whole => (ByteOffset(0), object_len),
            Self::Range { at, len } => {
                let end = at.0.checked_add(len.0);
                if end.is_none_or(|end| object_len.0 < end) {
                    return Err(Fault::OutOfRange { len: object_len });
                }
                (at, len)
            }
            Self::Suffix { len } => {
                let len = len.min(object_len);
                (ByteOffset(object_len.0 - len.0), len)
            }
        };
        if len_max < len {
            return Err(Fault::TooLong { len });
        }
        Ok((at, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: ByteLen = ByteLen(100);

    fn within(part: Part, object_len: u64) -> Option<(u64, u64)> {
        let found = part.within(ByteLen(object_len), MAX).ok()?;
        Some((found.0.0, found.1.0))
    }

    #[test]
    fn a_part_lies_inside_its_object() {
        let range = |at, len| Part::Range {
            at: ByteOffset(at),
            len: ByteLen(len),
        };
        assert_eq!(within(Part::Whole, 0), Some((0, 0)));
        assert_eq!(within(Part::Whole, 101), None);
        assert_eq!(within(range(3, 7), 10), Some((3, 7)));
        assert_eq!(within(range(10, 0), 10), Some((10, 0)));
        assert_eq!(within(range(3, 8), 10), None);
        assert_eq!(within(range(u64::MAX, 2), 10), None);
        assert_eq!(within(range(0, 101), 200), None);
        assert_eq!(within(Part::Suffix { len: ByteLen(4) }, 10), Some((6, 4)));
        assert_eq!(within(Part::Suffix { len: ByteLen(11) }, 10), Some((0, 10)));
        assert_eq!(
            within(Part::Suffix { len: ByteLen(101) }, 10),
            Some((0, 10))
        );
        assert_eq!(within(Part::Suffix { len: ByteLen(101) }, 200), None);
    }
}
