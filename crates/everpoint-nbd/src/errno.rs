//! The errors that the protocol can say about a request, and what the system's own errors become.

use std::io;

use rustix::io::Errno as SystemErrno;

/// Why a request failed, as it stands in a reply. A closed set: the protocol allows no other.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Errno {
    /// The export is read-only.
    #[error("operation not permitted")]
    Perm,
    /// The medium failed.
    #[error("input/output error")]
    Io,
    /// No memory for this request.
    #[error("out of memory")]
    NoMem,
    /// The request makes no sense for this export: misaligned, too long, past the end, unknown.
    #[error("invalid argument")]
    Inval,
    /// No room, or a write past the end.
    #[error("no space left on device")]
    NoSpace,
    /// An unfragmented read that is too long to answer in one piece.
    #[error("value too large")]
    Overflow,
    /// Zeroing that was asked to be fast would not be faster than writing.
    #[error("operation not supported")]
    NotSup,
    /// The server is going down.
    #[error("server is shutting down")]
    Shutdown,
}

impl Errno {
    /// The number on the wire. Source: specification, "Error values".
    pub const fn code(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::NoMem => 12,
            Self::Inval => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }

    /// What a number on the wire says; `None` for 0, which is success. A number that the
    /// specification does not know counts as [`Errno::Inval`], as it asks of clients.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => None,
            1 => Some(Self::Perm),
            5 => Some(Self::Io),
            12 => Some(Self::NoMem),
            28 => Some(Self::NoSpace),
            75 => Some(Self::Overflow),
            95 => Some(Self::NotSup),
            108 => Some(Self::Shutdown),
            _ => Some(Self::Inval),
        }
    }

    /// What a failed system call becomes. Quota and file-size limits are "no space", as the
    /// specification asks; whatever the guest could not act upon is [`Errno::Io`].
    pub fn from_io(error: &io::Error) -> Self {
        match SystemErrno::from_io_error(error) {
            Some(SystemErrno::PERM | SystemErrno::ACCESS | SystemErrno::ROFS) => Self::Perm,
            Some(SystemErrno::NOMEM) => Self::NoMem,
            Some(SystemErrno::INVAL) => Self::Inval,
            Some(SystemErrno::NOSPC | SystemErrno::DQUOT | SystemErrno::FBIG) => Self::NoSpace,
            Some(SystemErrno::OPNOTSUPP) => Self::NotSup,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_reads_back_as_it_was_sent() {
        for errno in [
            Errno::Perm,
            Errno::Io,
            Errno::NoMem,
            Errno::Inval,
            Errno::NoSpace,
            Errno::Overflow,
            Errno::NotSup,
            Errno::Shutdown,
        ] {
            assert_eq!(Errno::from_code(errno.code()), Some(errno));
        }
    }

    #[test]
    fn zero_is_success_and_an_unknown_number_is_an_invalid_argument() {
        assert_eq!(Errno::from_code(0), None);
        assert_eq!(Errno::from_code(4_711), Some(Errno::Inval));
    }

    #[test]
    fn a_quota_is_no_space_and_a_strange_error_is_an_io_error() {
        let from = |raw| Errno::from_io(&io::Error::from_raw_os_error(raw));
        assert_eq!(from(SystemErrno::DQUOT.raw_os_error()), Errno::NoSpace);
        assert_eq!(from(SystemErrno::ROFS.raw_os_error()), Errno::Perm);
        assert_eq!(from(SystemErrno::NXIO.raw_os_error()), Errno::Io);
        assert_eq!(Errno::from_io(&io::Error::other("no number")), Errno::Io);
    }
}
