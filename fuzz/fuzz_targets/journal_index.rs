//! A journal index whose checksum holds: refused, or written back as it was.
#![no_main]

use everpoint_format::index::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(index) = Index::decode(data) {
        assert_eq!(index.encode(), data);
    }
});
