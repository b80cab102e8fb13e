//! Messages of an agent and of a server: refused, or read back as they are written.
#![no_main]

use bytes::Bytes;
use everpoint_wire::{ToAgent, ToServer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    if let Ok(message) = ToServer::decode(body.clone()) {
        assert_eq!(ToServer::decode(message.encode()), Ok(message));
    }
    if let Ok(message) = ToAgent::decode(body) {
        assert_eq!(ToAgent::decode(message.encode()), Ok(message));
    }
});
