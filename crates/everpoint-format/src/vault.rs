//! Vault header: the object `v1/vault`, created once, read by whoever opens the vault.
//!
//! ```text
//! offset  size  field
//!      0     4  magic       "EPVH"
//!      4     2  version     1
//!      6     2  reserved    0
//!      8     4  incompat    feature bits that a reader must know; none yet
//!     12     4  compat      feature bits that a reader may ignore
//!     16    16  vault       id of the vault
//!     32    32  digest_key  key of the stored digests
//!     64     8  created_at  microseconds since 1970 UTC
//!     72     4  crc         CRC-32 of bytes 0..72
//! ```

use everpoint_units::{VaultId, WallTime};

use crate::DecodeError;
use crate::cursor::{Put, Reader, checked, seal_crc};
use crate::digest::DigestKey;

const WHAT: &str = "vault header";
const MAGIC: [u8; 4] = *b"EPVH";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 76;

/// See the module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VaultHeader {
    pub vault: VaultId,
    pub digest_key: DigestKey,
    pub created_at: WallTime,
}

impl VaultHeader {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u32(0);
        out.put_u32(0);
        out.put(&self.vault.0);
        out.put(&self.digest_key.0);
        out.put_u64(self.created_at.0);
        seal_crc(&mut out);
        out
    }

    /// Reads a header that fills `bytes`.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]; `Invalid` also for a vault that needs features which this build lacks.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::new(WHAT, bytes).open(MAGIC, VERSION)?;
        let mut reader = Reader::new(WHAT, checked(WHAT, bytes)?);
        reader.open(MAGIC, VERSION)?;
        reader.reserved(2)?;
        let incompat = reader.u32()?;
        let _compat = reader.u32()?;
        let header = Self {
            vault: VaultId(reader.array()?),
            digest_key: DigestKey(reader.array()?),
            created_at: WallTime(reader.u64()?),
        };
        reader.end()?;
        if incompat != 0 {
            return Err(reader.invalid("needs features that this build does not know"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

    fn sample() -> VaultHeader {
        VaultHeader {
            vault: VaultId([0x11; 16]),
            digest_key: DigestKey([0x22; 32]),
            created_at: WallTime(1_767_225_600_000_000),
        }
    }

    #[test]
    fn golden_v1_reads_as_the_sample_and_writes_back_the_same() {
        golden("vault-header.v1.bin", &sample().encode());
        assert_eq!(VaultHeader::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_and_every_short_read_is_refused() {
        let bytes = sample().encode();
        every_flip_is_refused(&bytes, |bytes| VaultHeader::decode(bytes).is_err());
        every_truncation_is_refused(&bytes, |bytes| VaultHeader::decode(bytes).is_err());
    }
}
