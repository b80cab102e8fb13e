//! The bytes of an object on their way into the vault: pieces, gathered only where the store wants it.

use std::io::{self, Read};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use everpoint_units::ByteLen;

/// An object's bytes as pieces in order. Cloning copies no bytes; no piece is ever copied by this crate
/// except into an aligned buffer that is written at once.
#[derive(Clone, Debug)]
pub struct Payload {
    pieces: Arc<[Bytes]>,
    len: ByteLen,
}

/// Which payload it is: equal for clones of one, and for nothing else. Keeps no bytes.
#[derive(Clone, Debug)]
pub(crate) struct PayloadIdentity(Weak<[Bytes]>);

impl Payload {
    /// The object made of `pieces` one after the other; empty pieces are allowed.
    pub fn new(pieces: Vec<Bytes>) -> Self {
        let len = ByteLen(pieces.iter().map(|piece| piece.len() as u64).sum());
        Self {
            pieces: pieces.into(),
            len,
        }
    }

    /// How long the object is. Unit: bytes.
    pub fn len(&self) -> ByteLen {
        self.len
    }

    /// Whether the object has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == ByteLen(0)
    }

    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    pub(crate) fn identity(&self) -> PayloadIdentity {
        PayloadIdentity(Arc::downgrade(&self.pieces))
    }

    /// Reads `object` to its end and says whether it holds exactly these bytes.
    pub(crate) fn equals(&self, mut object: impl Read) -> io::Result<bool> {
        let mut buffer = vec![0; 256 << 10];
        for piece in self.pieces.iter() {
            for expected in piece.chunks(buffer.len()) {
                let found = &mut buffer[..expected.len()];
                match object.read_exact(found) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                    Err(error) => return Err(error),
                }
                if found != expected {
                    return Ok(false);
                }
            }
        }
        Ok(object.read(&mut buffer[..1])? == 0)
    }
}

impl PartialEq for PayloadIdentity {
    fn eq(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self::new(pieces)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_bytes_are_equal() {
        let payload = Payload::new(vec![
            Bytes::from_static(b"ab"),
            Bytes::new(),
            Bytes::from_static(b"cd"),
        ]);
        assert_eq!(payload.len(), ByteLen(4));
        for (object, same) in [
            (&b"abcd"[..], true),
            (b"abc", false),
            (b"abcde", false),
            (b"abcx", false),
            (b"", false),
        ] {
            assert_eq!(payload.equals(object).unwrap(), same, "{object:?}");
        }
        let empty = Payload::new(Vec::new());
        assert!(empty.is_empty());
        assert!(empty.equals(&b""[..]).unwrap());
        assert!(!empty.equals(&b"a"[..]).unwrap());
    }
}
