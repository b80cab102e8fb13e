//! The server over real HTTP: every operation, every refusal, every fault.

mod client;
mod encrypted;
mod faulty;
mod leases;
mod operations;
mod refusals;

use bytes::Bytes;

use super::*;
use client::{Ask, Client, get, put};

/// The blob that most tests write to. Unit: bytes.
const BLOB_LEN: u64 = 1 << 20;

/// A server with the page blob `disks/disk`, and a client of it.
async fn with_blob() -> (PageBlobServer, Client) {
    let server = PageBlobServer::start(PageBlobSpec {
        log_writes: true,
        ..PageBlobSpec::default()
    });
    let server = server.unwrap();
    let mut client = Client::new(server.endpoint());
    client.ask(create("disk", BLOB_LEN)).await.is(201);
    (server, client)
}

fn create(name: &str, len: u64) -> Ask {
    put(&format!("disks/{name}"))
        .with("x-ms-blob-type", "PageBlob")
        .with("x-ms-blob-content-length", len)
}

/// Sectors of one byte, written to `disks/disk`.
fn write(start: u64, len: u64, byte: u8) -> Ask {
    let bytes = vec![byte; usize::try_from(len).unwrap()];
    put("disks/disk?comp=page")
        .with("x-ms-page-write", "update")
        .with("x-ms-range", format!("bytes={start}-{}", start + len - 1))
        .with_body(Bytes::from(bytes))
}

fn clear(start: u64, len: u64) -> Ask {
    put("disks/disk?comp=page")
        .with("x-ms-page-write", "clear")
        .with("x-ms-range", format!("bytes={start}-{}", start + len - 1))
}

fn set_sequence(action: &str, number: Option<u64>) -> Ask {
    let ask = put("disks/disk?comp=properties").with("x-ms-sequence-number-action", action);
    match number {
        Some(number) => ask.with("x-ms-blob-sequence-number", number),
        None => ask,
    }
}

async fn snapshot(client: &mut Client) -> String {
    let reply = client.ask(put("disks/disk?comp=snapshot")).await.is(201);
    reply.header("x-ms-snapshot").to_owned()
}

/// The page ranges that a query brings, as `+0-511` for one that is there, `-512-1023` for one that was cleared.
async fn ranges(client: &mut Client, query: &str) -> Vec<String> {
    let reply = client
        .ask(get(&format!("disks/disk?comp=pagelist{query}")))
        .await;
    reply.is(200).ranges()
}
