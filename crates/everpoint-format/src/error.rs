//! Why a byte string could not be read back.

/// Why bytes are not the thing that they were taken for.
///
/// Every variant names the format (`what`), so the message can stand alone in a log; the caller adds
/// the file or object and the offset. None of these is worth a retry: the bytes will not change. The
/// caller picks another copy, marks what depends on these bytes, or resyncs.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the format needs.
    #[error("{what}: {have} bytes, need {need}")]
    Truncated {
        what: &'static str,
        have: usize,
        need: usize,
    },

    /// More bytes than the format has.
    #[error("{what}: {extra} bytes follow the end")]
    Trailing { what: &'static str, extra: usize },

    /// Something else lies here, or nothing was ever written.
    #[error("{what}: found magic {found:02x?}")]
    WrongMagic { what: &'static str, found: [u8; 4] },

    /// Written by a newer build. Stop; do not guess.
    #[error("{what}: version {found}, this build reads up to {newest}; use a newer everpoint")]
    UnknownVersion {
        what: &'static str,
        found: u16,
        newest: u16,
    },

    /// The bytes changed after they were written.
    #[error("{what}: stored checksum {stored:#x}, computed {computed:#x}")]
    Corrupt {
        what: &'static str,
        stored: u64,
        computed: u64,
    },

    /// The bytes are sound, yet they belong to another place: another vault, journal, file or
    /// offset.
    #[error("{what}: belongs elsewhere, {field} differs")]
    Misplaced {
        what: &'static str,
        field: &'static str,
    },

    /// The checksum holds, yet a field breaks its own rule: a bug in the writer, or a forgery.
    #[error("{what}: {rule}")]
    Invalid {
        what: &'static str,
        rule: &'static str,
    },
}
