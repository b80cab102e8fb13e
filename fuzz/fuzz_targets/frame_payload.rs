//! A frame whose lengths and checksum hold and whose LZ4 does not: never more bytes than it claims.
#![no_main]

use bytes::Bytes;
use everpoint_format::change::{Frame, FrameSeal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u16, &[u8])| {
    let (raw_len, stored) = data;
    let frame = Frame {
        lz4: true,
        stored_len: u32::try_from(stored.len()).expect("the fuzzer's inputs are small"),
        raw_len: raw_len.into(),
        crc: crc32fast::hash(stored),
        seal: FrameSeal::default(),
    };
    if let Ok(raw) = frame.open(&Bytes::copy_from_slice(stored)) {
        assert_eq!(raw.len(), usize::from(raw_len));
    }
});
