//! Reading and writing fields in order: little-endian, bounds checked, reserved bytes kept zero.

use crate::DecodeError;

/// Takes fields off the front of `bytes`; every refusal names the format.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let need = self.at.saturating_add(len);
        let Some(taken) = self.bytes.get(self.at..need) else {
            return Err(DecodeError::Truncated {
                what: self.what,
                have: self.bytes.len(),
                need,
            });
        };
        self.at = need;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        Ok(*taken.first_chunk().expect("take returned N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    /// A count whose items take `item_len` bytes each; refused before anything is allocated when
    /// the bytes that are left cannot hold so many.
    pub(crate) fn count(&mut self, item_len: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u32()?).expect("32 bits fit a usize here");
        let need = count.saturating_mul(item_len);
        if self.left() < need {
            return Err(DecodeError::Truncated {
                what: self.what,
                have: self.left(),
                need,
            });
        }
        Ok(count)
    }

    /// `len` reserved bytes, which this version keeps zero.
    pub(crate) fn reserved(&mut self, len: usize) -> Result<(), DecodeError> {
        let zero = self.take(len)?.iter().all(|&byte| byte == 0);
        if zero {
            Ok(())
        } else {
            Err(self.invalid("a reserved byte is not zero"))
        }
    }

    /// Magic and version of a format that has versions 1 to `newest`.
    pub(crate) fn open(&mut self, magic: [u8; 4], newest: u16) -> Result<u16, DecodeError> {
        let found = self.array()?;
        if found != magic {
            return Err(DecodeError::WrongMagic {
                what: self.what,
                found,
            });
        }
        let version = self.u16()?;
        if version == 0 || newest < version {
            return Err(DecodeError::UnknownVersion {
                what: self.what,
                found: version,
                newest,
            });
        }
        Ok(version)
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Refuses bytes behind the last field.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing {
                what: self.what,
                extra,
            }),
        }
    }

    pub(crate) fn invalid(&self, rule: &'static str) -> DecodeError {
        DecodeError::Invalid {
            what: self.what,
            rule,
        }
    }
}

/// Appends fields to a byte vector.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// A count or length that the caller has bounded to 32 bits.
    fn put_len(&mut self, len: usize) {
        self.put_u32(u32::try_from(len).expect("bounded by the format's limits"));
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Checks the CRC-32 in the last four bytes of a fixed block and returns what lies before it.
pub(crate) fn checked<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let Some((body, stored)) = bytes.split_last_chunk::<4>() else {
        return Err(DecodeError::Truncated {
            what,
            have: bytes.len(),
            need: 4,
        });
    };
    crc_matches(what, u32::from_le_bytes(*stored), body)?;
    Ok(body)
}

/// Compares a stored CRC-32 with the bytes it was made over.
pub(crate) fn crc_matches(
    what: &'static str,
    stored: u32,
    bytes: &[u8],
) -> Result<(), DecodeError> {
    let computed = crc32fast::hash(bytes);
    if stored == computed {
        Ok(())
    } else {
        Err(DecodeError::Corrupt {
            what,
            stored: stored.into(),
            computed: computed.into(),
        })
    }
}

/// Appends the CRC-32 of everything in `out`.
pub(crate) fn seal_crc(out: &mut Vec<u8>) {
    let crc = crc32fast::hash(out);
    out.put_u32(crc);
}
