//! The header of a frame on the wire: any eight bytes are refused, or say what they say.
#![no_main]

use everpoint_transport::frame::{FRAME_HEADER_LEN, FrameHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: [u8; FRAME_HEADER_LEN]| {
    let limit = |kind| (kind < 3).then_some(1 << 20);
    if let Ok(header) = FrameHeader::parse(bytes, limit) {
        assert!(header.body_len <= 1 << 20);
        assert_eq!(header.encode(), bytes);
    }
});
