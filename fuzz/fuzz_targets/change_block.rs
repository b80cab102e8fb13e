//! A change block, as an agent may send it: refused, or sound in every part.
#![no_main]

use bytes::Bytes;
use everpoint_format::change::{ChangeBlock, RAW_LEN_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(block) = ChangeBlock::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let header = block.header();
    assert_eq!(header.encoded_len(), data.len());
    if let Ok(raw) = header.frame.open(&block.payload()) {
        assert!(raw.len() <= RAW_LEN_MAX && raw.len() == header.frame.raw_len as usize);
    }
});
