//! The server's side of a handshake for tests of the client's side.

use std::sync::Arc;

use everpoint_units::ByteLen;
use tokio::io::DuplexStream;

use super::negotiate::negotiate;
use super::registry::Registry;
use crate::protocol::PAYLOAD_LEN_MAX;
use crate::{ExportInfo, MemoryExport};

/// Leads the client's handshake `client` with a server that has one export in memory.
pub(crate) async fn negotiated_with_memory<T, F: Future<Output = T>>(
    name: &str,
    client: impl FnOnce(DuplexStream) -> F,
) -> T {
    let mut info = ExportInfo::disk(ByteLen(1 << 20));
    info.description = "memory".to_owned();
    let registry = Registry::default();
    let added = registry.add(name, Arc::new(MemoryExport::with_info(info)), 1);
    assert!(added.is_ok(), "the registry is empty");
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let (agreed, result) = tokio::join!(
        negotiate(&mut ours, &registry, PAYLOAD_LEN_MAX),
        client(theirs)
    );
    assert!(agreed.is_ok(), "the server agreed");
    result
}
