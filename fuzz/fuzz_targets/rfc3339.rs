//! A time that a person types: any text is read or refused, and what was read is written and read the same.
#![no_main]

use everpoint_units::WallTime;
use libfuzzer_sys::fuzz_target;

/// The first instant of the year 10000, which RFC 3339 cannot write; an offset can lead beyond it.
const WRITABLE_END: WallTime = WallTime(253_402_300_800_000_000);

fuzz_target!(|text: &str| {
    let Some(time) = WallTime::parse_rfc3339(text) else {
        return;
    };
    let written = time.to_string();
    if time < WRITABLE_END {
        assert_eq!(WallTime::parse_rfc3339(&written), Some(time), "{written}");
    }
});
