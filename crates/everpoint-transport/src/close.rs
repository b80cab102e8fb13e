//! Why a link ends, in numbers that both sides know for ever.
//!
//! | code | reason | said by | what the other side does |
//! |---|---|---|---|
//! | 0 | `Unspecified` | a side that went away without a word | reconnects |
//! | 1 | `Auth` | the certificate is good, but not for this | reports |
//! | 2 | `Frame` | a frame is too long, empty, unknown or cut off | reports; a fault in the peer |
//! | 3 | `Range` | an extent lies outside its disk or is malformed | reports |
//! | 4 | `Order` | a sequence number cannot follow | begins a generation |
//! | 5 | `Authz` | a disk that is not this machine's | reports |
//! | 6 | `Stale` | an old epoch or generation, repeatedly | asks where things stand |
//! | 7 | `Crc` | damaged bytes, repeatedly | reports; suspects its memory |
//! | 8 | `Limit` | a limit on links, streams, memory or rate | waits, reconnects |
//! | 9 | `Version` | no common version | reports |
//! | 10 | `Shutdown` | the process stops in order | reconnects, perhaps elsewhere |
//! | 11 | `Fenced` | somebody else owns the machine now | asks another server |
//! | 12 | `Redirect` | this is the wrong server | goes to the right one |
//! | 13 | `Internal` | a fault of the side that closes | reconnects later |
//! | 14 | `Slow` | a frame took longer than its deadline | reconnects |
//! | 15 | `Superseded` | the same machine connected again | the newer session wins |
//!
//! Numbers are never reused; a code outside the table is shown as it came.

use std::fmt;

use rustls::AlertDescription;

/// Why a side closed the link. The discriminant travels.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u32)]
pub enum CloseReason {
    Unspecified = 0,
    Auth = 1,
    Frame = 2,
    Range = 3,
    Order = 4,
    Authz = 5,
    Stale = 6,
    Crc = 7,
    Limit = 8,
    Version = 9,
    Shutdown = 10,
    Fenced = 11,
    Redirect = 12,
    Internal = 13,
    Slow = 14,
    Superseded = 15,
}

/// Longest text that goes with a reason. Unit: bytes.
pub const CLOSE_TEXT_LEN_MAX: usize = 200;

/// What to do about a failure of the transport.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remedy {
    /// It may pass: try again after a while, with back-off and jitter.
    Retry,
    /// It will not pass by itself: tell the operator, and try rarely.
    Report,
}

/// How a link ended. Cheap enough to clone for every stream that learns of it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Closed {
    /// This side closed it.
    #[error("this side closed the link: {reason}")]
    ByUs { reason: CloseReason },
    /// The peer closed it and said why. `reason` is `None` for a code that this version does not
    /// know; `text` is the peer's, shortened and without control characters.
    #[error("the peer closed the link with code {code}: {text:?}")]
    ByPeer {
        code: u64,
        reason: Option<CloseReason>,
        text: String,
    },
    /// Nothing was heard from the peer for the idle time.
    #[error("nothing was heard from the peer")]
    TimedOut,
    /// The peer does not know this link any more: it was restarted.
    #[error("the peer has forgotten the link")]
    Forgotten,
    /// TLS failed: the peer refused this side's certificate (`by_peer`), or this side the peer's.
    #[error("TLS failed with {alert:?}, {}", if *by_peer { "said the peer" } else { "said this side" })]
    Tls {
        alert: AlertDescription,
        by_peer: bool,
    },
    /// A violation of QUIC by either side, as its error code (RFC 9000, section 20.1).
    #[error("the transport failed with code {code}")]
    Transport { code: u64 },
}

impl CloseReason {
    /// Every reason, in order of its code.
    pub const ALL: [Self; 16] = [
        Self::Unspecified,
        Self::Auth,
        Self::Frame,
        Self::Range,
        Self::Order,
        Self::Authz,
        Self::Stale,
        Self::Crc,
        Self::Limit,
        Self::Version,
        Self::Shutdown,
        Self::Fenced,
        Self::Redirect,
        Self::Internal,
        Self::Slow,
        Self::Superseded,
    ];

    /// The number that travels.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The reason that travels as `code`, if this version knows it.
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| u64::from(reason.code()) == code)
    }

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Auth => "auth",
            Self::Frame => "frame",
            Self::Range => "range",
            Self::Order => "order",
            Self::Authz => "authz",
            Self::Stale => "stale",
            Self::Crc => "crc",
            Self::Limit => "limit",
            Self::Version => "version",
            Self::Shutdown => "shutdown",
            Self::Fenced => "fenced",
            Self::Redirect => "redirect",
            Self::Internal => "internal",
            Self::Slow => "slow",
            Self::Superseded => "superseded",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Closed {
    /// What the peer's code and text mean. The text is untrusted: it is cut to
    /// [`CLOSE_TEXT_LEN_MAX`] and stripped of control characters before it can reach a log.
    pub fn by_peer(code: u64, text: &[u8]) -> Self {
        let text = &text[..text.len().min(CLOSE_TEXT_LEN_MAX)];
        Self::ByPeer {
            code,
            reason: CloseReason::from_code(code),
            text: String::from_utf8_lossy(text)
                .chars()
                .filter(|c| !c.is_control())
                .collect(),
        }
    }

    /// The reason, if one side gave one that this version knows.
    pub fn reason(&self) -> Option<CloseReason> {
        match self {
            Self::ByUs { reason } => Some(*reason),
            Self::ByPeer { reason, .. } => *reason,
            _ => None,
        }
    }

    /// What to do next. Reasons with a meaning of their own (fenced, redirect, order) are the
    /// session's to answer; here they count as passing.
    pub fn remedy(&self) -> Remedy {
        use CloseReason::{Auth, Authz, Crc, Frame, Range, Version};
        match self {
            Self::Tls { .. } | Self::Transport { .. } => Remedy::Report,
            _ => match self.reason() {
                Some(Auth | Authz | Crc | Frame | Range | Version) => Remedy::Report,
                _ => Remedy::Retry,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_none_is_used_twice() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(reason.code()), Ok(index));
            assert_eq!(
                CloseReason::from_code(u64::from(reason.code())),
                Some(reason)
            );
        }
        assert_eq!(CloseReason::from_code(16), None);
        assert_eq!(CloseReason::from_code(u64::MAX), None);
    }

    #[test]
    fn the_codes_on_the_wire_never_change() {
        let codes = [
            (CloseReason::Auth, 1),
            (CloseReason::Frame, 2),
            (CloseReason::Limit, 8),
            (CloseReason::Shutdown, 10),
            (CloseReason::Redirect, 12),
            (CloseReason::Superseded, 15),
        ];
        for (reason, code) in codes {
            assert_eq!(reason.code(), code);
        }
    }

    #[test]
    fn a_peers_text_cannot_forge_a_log_line() {
        let closed = Closed::by_peer(99, b"bye\n2026-01-01 ERROR forged\x1b[31m\xff");
        let Closed::ByPeer { reason, text, .. } = &closed else {
            panic!("by the peer");
        };
        assert_eq!(*reason, None);
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
        let long = Closed::by_peer(0, &[b'x'; 5_000]);
        assert!(long.to_string().len() < CLOSE_TEXT_LEN_MAX + 100);
    }
}
