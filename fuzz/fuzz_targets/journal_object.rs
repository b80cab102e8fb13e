//! Whole objects of a vault: data, seal, end, origin, header. Any bytes are refused or sound.
#![no_main]

use bytes::Bytes;
use everpoint_format::data::DataIndex;
use everpoint_format::object::Seal;
use everpoint_format::origin::Origin;
use everpoint_format::vault::VaultHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(seal) = Seal::decode(data) {
        assert_eq!(seal.encode(), data);
    }
    if let Ok(seal) = Seal::decode_end(data) {
        assert_eq!(seal.encode_end(), data);
    }
    if let Ok(origin) = Origin::decode(data) {
        assert_eq!(origin.encode(), data);
    }
    if let Ok(header) = VaultHeader::decode(data) {
        assert_eq!(
            header.vault,
            VaultHeader::decode(&header.encode())
                .expect("just written")
                .vault
        );
    }
    if let Ok(object) = DataIndex::decode_whole(&Bytes::copy_from_slice(data)) {
        assert!(object.index.encode().len() < data.len());
    }
});
