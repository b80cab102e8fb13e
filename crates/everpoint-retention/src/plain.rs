//! How ids, positions and times look as plain data: ids as text, positions as numbers, times as RFC 3339.

use std::fmt::Display;
use std::path::Path;

use everpoint_units::{ByteLen, ByteOffset, Seq, WallTime};
use serde::{Serialize, Serializer};

pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(crate) fn text_if_any<S: Serializer>(
    value: &Option<impl Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value
        .as_ref()
        .map(ToString::to_string)
        .serialize(serializer)
}

pub(crate) fn seq<S: Serializer>(value: &Seq, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.0)
}

pub(crate) fn bytes<S: Serializer>(value: &ByteLen, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.0)
}

pub(crate) fn offset<S: Serializer>(value: &ByteOffset, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.0)
}

pub(crate) fn time_if_any<S: Serializer>(
    value: &Option<WallTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    text_if_any(value, serializer)
}

/// Bytes that are not UTF-8 are replaced: JSON has no other way.
pub(crate) fn path<S: Serializer>(value: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&value.display())
}
