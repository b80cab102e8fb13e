//! Checksums of bodies, as headers carry them: MD5, and CRC-64/NVME with the low byte first, in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::refusal::Refusal;
use super::request::Checks;

/// Compares a body to the checksums that came with it, and gives its CRC.
pub(super) fn check(checks: &Checks, body: &[Bytes]) -> Result<String, Refusal> {
    if let Some(expected) = &checks.md5 {
        let mut md5 = Md5::new();
        body.iter().for_each(|piece| md5.update(piece));
        if *expected != STANDARD.encode(md5.finalize()) {
            return Err(Refusal::MD5_MISMATCH);
        }
    }
    let crc64 = crc64(body);
    match &checks.crc64 {
        Some(expected) if *expected != crc64 => Err(Refusal::CRC64_MISMATCH),
        _ => Ok(crc64),
    }
}

pub(super) fn crc64(body: &[Bytes]) -> String {
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    body.iter().for_each(|piece| crc.update(piece));
    STANDARD.encode(crc.finalize().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crc_is_that_of_the_catalogue_with_its_low_byte_first() {
        // CRC-64/NVME of "123456789" is 0xae8b14860a799888.
        let pieces = [Bytes::from_static(b"1234"), Bytes::from_static(b"56789")];
        let expected = STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_le_bytes());
        assert_eq!(crc64(&pieces), expected);
    }

    #[test]
    fn a_body_that_differs_is_refused() {
        let body = [Bytes::from_static(b"abc")];
        let md5 = |md5: &str| Checks {
            md5: Some(md5.to_owned()),
            crc64: None,
        };
        assert!(check(&md5("kAFQmDzST7DWlj99KOF/cg=="), &body).is_ok());
        let wrong = check(&md5("kAFQmDzST7DWlj99KOF/cA=="), &body);
        assert_eq!(wrong.unwrap_err(), Refusal::MD5_MISMATCH);
        let wrong = Checks {
            md5: None,
            crc64: Some("AAAAAAAAAAA=".to_owned()),
        };
        assert_eq!(check(&wrong, &body).unwrap_err(), Refusal::CRC64_MISMATCH);
    }
}
