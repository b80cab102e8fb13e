//! The header of a frame on a stream: how long, and of what kind. Pure; nothing here reads or waits.
//!
//! A stream is a run of frames, each a header and its body:
//!
//! | offset | length | field |
//! |---|---|---|
//! | 0 | 4 | length of the body, little-endian; never 0 |
//! | 4 | 1 | kind; what it means is the wire's affair |
//! | 5 | 3 | zero; other values are refused, so that a later version can use them |
//! | 8 | length | body |
//!
//! The length comes first because it is what a reader needs before anything else: it is held against
//! the kind's limit before a byte is allocated.

/// Bytes before a frame's body.
pub const FRAME_HEADER_LEN: usize = 8;

/// What a frame's header says, once it was held against a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: u8,
    /// Length of the body. Unit: bytes; at least 1.
    pub body_len: u32,
}

/// What is wrong with a frame. Answer: close the link with [`crate::CloseReason::Frame`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// The reserved bytes are not zero: another version, or not a frame at all.
    #[error("the reserved bytes of a frame header are {reserved:02x?}, not zero")]
    Reserved { reserved: [u8; 3] },
    /// This stream takes no frames of this kind.
    #[error("frame kind {kind} is not expected here")]
    UnknownKind { kind: u8 },
    /// No frame is empty.
    #[error("a frame of kind {kind} is empty")]
    Empty { kind: u8 },
    /// Longer than its kind may be.
    #[error("a frame of kind {kind} claims {len} bytes, at most {len_max} are allowed")]
    TooLong { kind: u8, len: u64, len_max: u32 },
    /// The stream ended inside a frame.
    #[error("the stream ended {have} bytes into a frame part of {want}")]
    Truncated { have: usize, want: usize },
}

impl FrameHeader {
    /// The header as it travels.
    pub fn encode(self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..4].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[4] = self.kind;
        bytes
    }

    /// Reads a header and holds it against `limit`, which gives the longest body of a kind in bytes,
    /// or `None` for a kind that is not expected.
    ///
    /// # Errors
    ///
    /// [`FrameError`], anything but `Truncated`.
    pub fn parse(
        bytes: [u8; FRAME_HEADER_LEN],
        limit: impl Fn(u8) -> Option<u32>,
    ) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, reserved @ ..] = bytes;
        let body_len = u32::from_le_bytes([l0, l1, l2, l3]);
        if reserved != [0; 3] {
            return Err(FrameError::Reserved { reserved });
        }
        let len_max = limit(kind).ok_or(FrameError::UnknownKind { kind })?;
        match body_len {
            0 => Err(FrameError::Empty { kind }),
            len if len > len_max => Err(FrameError::TooLong {
                kind,
                len: u64::from(len),
                len_max,
            }),
            _ => Ok(Self { kind, body_len }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(kind: u8) -> Option<u32> {
        match kind {
            1 => Some(100),
            2 => Some(u32::MAX),
            _ => None,
        }
    }

    #[test]
    fn the_bytes_are_as_the_table_says() {
        let header = FrameHeader {
            kind: 2,
            body_len: 0x0403_0201,
        };
        assert_eq!(header.encode(), [1, 2, 3, 4, 2, 0, 0, 0]);
        assert_eq!(FrameHeader::parse(header.encode(), limit), Ok(header));
    }

    #[test]
    fn the_limit_of_the_kind_holds_to_the_byte() {
        let parse =
            |kind, body_len| FrameHeader::parse(FrameHeader { kind, body_len }.encode(), limit);
        assert!(parse(1, 100).is_ok());
        assert_eq!(
            parse(1, 101),
            Err(FrameError::TooLong {
                kind: 1,
                len: 101,
                len_max: 100
            })
        );
        assert_eq!(parse(1, 0), Err(FrameError::Empty { kind: 1 }));
        assert_eq!(parse(3, 5), Err(FrameError::UnknownKind { kind: 3 }));
        for index in 5..8 {
            let mut bytes = FrameHeader {
                kind: 1,
                body_len: 1,
            }
            .encode();
            bytes[index] = 1;
            assert!(matches!(
                FrameHeader::parse(bytes, limit),
                Err(FrameError::Reserved { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_within_its_limit_and_encodes_to_the_same_bytes(bytes: [u8; 8]) {
            if let Ok(header) = FrameHeader::parse(bytes, limit) {
                prop_assert!(header.body_len > 0);
                prop_assert!(Some(header.body_len) <= limit(header.kind));
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
