//! Reading one journal object by its tail: footer, index, header; the frames stay where they are.

use bytes::Bytes;
use everpoint_format::DecodeError;
use everpoint_format::data::DataIndex;
use everpoint_format::object::{FOOTER_LEN, Footer, HEADER_LEN, ObjectHeader, ObjectType, Seal};
use everpoint_units::{ByteLen, ByteOffset, JournalId, ObjectNo, VaultId};

use super::{HistoryError, ObjectDamage, ObjectFound, journal_object};
use crate::error::ReadError;
use crate::name::ObjectName;
use crate::vault::{Suffix, Vault};

/// What is read first. It holds the index of an object with some 500 records and their digests, and the
/// whole of every smaller object, in one request. Unit: bytes.
const TAIL_LEN: ByteLen = ByteLen(64 << 10);

/// The tail of an object, and its index where that is not in the tail.
pub(super) enum Tail {
    /// Read and checked.
    Whole(ObjectFound),
    /// A data object whose index is still to be read.
    Long(LongIndex),
}

/// A data object whose index reaches past the tail that was read.
pub(super) struct LongIndex {
    name: ObjectName,
    tail: Suffix,
    footer: Footer,
}

/// Reads header and index of object `number` of `journal`, or the seal that lies there.
///
/// # Errors
///
/// See [`HistoryError`]; damage is an answer.
pub async fn read_object(
    vault: &Vault,
    id: VaultId,
    journal: JournalId,
    number: ObjectNo,
) -> Result<ObjectFound, HistoryError> {
    let found = match read_tail(vault, journal, number).await? {
        Tail::Whole(found) => found,
        Tail::Long(index) => index.read(vault).await?,
    };
    Ok(found.expect_at(id, journal, number))
}

/// Reads what one request gives. The answer is not yet checked against the object's name.
pub(super) async fn read_tail(
    vault: &Vault,
    journal: JournalId,
    number: ObjectNo,
) -> Result<Tail, HistoryError> {
    let name = journal_object(journal, number);
    let tail = match vault.read_suffix(&name, TAIL_LEN).await {
        Ok(Some(tail)) => tail,
        Ok(None) => return Ok(Tail::Whole(ObjectFound::Missing)),
        Err(error) => return damaged_medium(error).map(Tail::Whole),
    };
    if tail.bytes.len() as u64 == tail.object_len.0 {
        let found = decode_object(&tail.bytes);
        return Ok(Tail::Whole(found.unwrap_or_else(ObjectFound::damaged)));
    }
    let footer_at = tail.bytes.len() - FOOTER_LEN;
    match Footer::decode(&tail.bytes[footer_at..], tail.object_len.0) {
        Ok(footer) => Ok(Tail::Long(LongIndex { name, tail, footer })),
        Err(error) => Ok(Tail::Whole(ObjectFound::damaged(error))),
    }
}

/// What an object is of which every byte is at hand; it is not held against its name.
///
/// # Errors
///
/// See [`DecodeError`].
pub fn decode_object(bytes: &Bytes) -> Result<ObjectFound, DecodeError> {
    if ObjectHeader::decode(bytes)?.0 == ObjectType::Seal {
        return Seal::decode(bytes).map(ObjectFound::Seal);
    }
    let len = bytes.len();
    let Some(footer_at) = len.checked_sub(FOOTER_LEN).filter(|&at| HEADER_LEN <= at) else {
        return Err(DecodeError::Truncated {
            what: "journal object",
            have: len,
            need: HEADER_LEN + FOOTER_LEN,
        });
    };
    let footer = Footer::decode(&bytes[footer_at..], len as u64)?;
    let index_at = usize::try_from(footer.index_at).expect("the footer was held against `len`");
    let data = DataIndex::decode(bytes, &bytes[index_at..footer_at], &footer)?;
    Ok(ObjectFound::Data(Box::new(data), ByteLen(len as u64)))
}

impl LongIndex {
    /// How long the index is. Unit: bytes.
    pub(super) const fn len(&self) -> ByteLen {
        ByteLen(self.footer.index_len)
    }

    /// Reads the header and what is missing of the index.
    pub(super) async fn read(self, vault: &Vault) -> Result<ObjectFound, HistoryError> {
        let tail_at = self.tail.object_len.0 - self.tail.bytes.len() as u64;
        let index_at = self.footer.index_at;
        let missing = ByteLen(tail_at.saturating_sub(index_at));
        let front = vault.read_range(&self.name, ByteOffset(0), ByteLen(HEADER_LEN as u64));
        let start = async {
            if missing == ByteLen(0) {
                return Ok(Some(Bytes::new()));
            }
            vault
                .read_range(&self.name, ByteOffset(index_at), missing)
                .await
        };
        let (front, start) = match futures::try_join!(front, start) {
            Ok((Some(front), Some(start))) => (front, start),
            Ok(_) => return Ok(ObjectFound::Missing),
            Err(error) => return damaged_medium(error),
        };
        let skip = usize::try_from(index_at.saturating_sub(tail_at)).expect("within the tail");
        let end = &self.tail.bytes[skip..self.tail.bytes.len() - FOOTER_LEN];
        let index = if start.is_empty() {
            self.tail.bytes.slice_ref(end)
        } else {
            [&start, end].concat().into()
        };
        let data = DataIndex::decode(&front, &index, &self.footer);
        Ok(data.map_or_else(ObjectFound::damaged, |data| {
            ObjectFound::Data(Box::new(data), self.tail.object_len)
        }))
    }
}

impl ObjectFound {
    /// The same, or damage where the object lies under another name than its own.
    pub(super) fn expect_at(self, id: VaultId, journal: JournalId, number: ObjectNo) -> Self {
        let placed = match &self {
            Self::Data(data, _) => data.expect_at(id, journal, number),
            Self::Seal(seal) => seal.header.expect_at(id, journal, number),
            Self::Damaged(_) | Self::Missing => Ok(()),
        };
        match placed {
            Ok(()) => self,
            Err(error) => Self::damaged(error),
        }
    }

    fn damaged(error: DecodeError) -> Self {
        Self::Damaged(ObjectDamage::Decode(error))
    }
}

/// Bytes that the medium does not give back are damage; no answer is an error.
fn damaged_medium(error: ReadError) -> Result<ObjectFound, HistoryError> {
    match error {
        ReadError::Medium { .. } | ReadError::OutOfRange { .. } => {
            Ok(ObjectFound::Damaged(ObjectDamage::Medium(error)))
        }
        ReadError::Unavailable { .. } | ReadError::TooLong { .. } => Err(error.into()),
    }
}
