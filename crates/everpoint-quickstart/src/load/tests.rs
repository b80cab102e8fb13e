//! A load against exports that behave, and against one that does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everpoint_nbd::{Errno, Export, ExportInfo, MemoryExport, Server, ServerConfig};
use everpoint_units::ByteOffset;

use super::*;
use crate::judge::{Bounds, Seen, judge};

const SIZE: ByteLen = ByteLen(16 << 20);

const CONFIG: LoadConfig = LoadConfig {
    seed: 3,
    connections: 2,
    depth: 4,
    rate_max: 1 << 30,
};

/// Serves `export` and runs a load on it until `enough`.
async fn drive<E: Export>(
    export: Arc<E>,
    enough: impl Fn(&Done) -> bool,
) -> Result<Finished, LoadError> {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("nbd");
    let server = Server::new(ServerConfig::default()).expect("good settings");
    server.attach("disk", export).expect("a free name");
    server.listen_unix(&socket).expect("a free socket");
    let address = NbdAddress::unix(&socket, "disk");
    let load = Load::start(&address, SIZE, CONFIG).await?;
    loop {
        tokio::select! {
            error = load.failed() => return Err(error),
            held = load.hold() => drop(held),
        }
        if enough(&load.done()) {
            return load.finish().await;
        }
    }
}

fn seen(image: &[u8]) -> Seen {
    let mut seen = Seen::with_capacity(image.len() / 512);
    seen.read(image);
    seen
}

#[tokio::test]
async fn the_shadow_is_the_disk_and_the_disk_holds() {
    let export = Arc::new(MemoryExport::new(SIZE));
    let enough = |done: &Done| done.writes > 500 && done.reads > 20 && done.flushes > 5;
    let finished = drive(Arc::clone(&export), enough)
        .await
        .expect("a good disk");
    let disk = export.contents();
    assert!(
        finished.shadow.image() == disk,
        "the shadow differs from the disk"
    );

    let bounds = Bounds {
        after: finished.history.now(),
        before: Tick::MAX,
    };
    let holds = judge(&finished.history, &seen(&disk), bounds).expect("all completed");
    assert_eq!(holds.write_count as u64, finished.done.writes);
}

#[tokio::test]
async fn while_the_load_is_held_nothing_changes_and_the_digest_is_the_disks() {
    let export = Arc::new(MemoryExport::new(SIZE));
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("nbd");
    let server = Server::new(ServerConfig::default()).expect("good settings");
    server
        .attach("disk", Arc::clone(&export))
        .expect("a free name");
    server.listen_unix(&socket).expect("a free socket");
    let address = NbdAddress::unix(&socket, "disk");
    let load = Load::start(&address, SIZE, CONFIG).await.expect("served");
    for _ in 0..3 {
        let held = load.hold().await;
        let (digest, tick) = held.source().await;
        assert_eq!(digest.0, *blake3::hash(&export.contents()).as_bytes());
        assert_eq!(held.source().await, (digest, tick));
    }
    load.finish().await.expect("a good disk");
}

/// A disk that says yes to its 300th write and forgets it.
struct Forgetful {
    memory: MemoryExport,
    writes: AtomicU64,
}

impl Export for Forgetful {
    fn describe(&self) -> ExportInfo {
        self.memory.describe()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        self.memory.read(at, len).await
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        if self.writes.fetch_add(1, Ordering::Relaxed) == 299 {
            return Ok(());
        }
        self.memory.write(at, data, fua).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.memory.flush().await
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.memory.trim(at, len, fua).await
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        self.memory.write_zeroes(at, len, flags).await
    }
}

#[tokio::test]
async fn a_write_that_the_disk_forgot_does_not_hold() {
    let export = Arc::new(Forgetful {
        memory: MemoryExport::new(SIZE),
        writes: AtomicU64::new(0),
    });
    let finished = drive(Arc::clone(&export), |done| done.writes > 400).await;
    // A read may have met the place, and then the load itself has noticed.
    match finished {
        Err(LoadError::WrongRead(_)) => {}
        Err(other) => panic!("another error: {other}"),
        Ok(finished) => {
            let bounds = Bounds {
                after: Tick::ZERO,
                before: Tick::MAX,
            };
            let image = seen(&export.memory.contents());
            let overwritten = finished.shadow.image() == export.memory.contents();
            assert_eq!(
                judge(&finished.history, &image, bounds).is_ok(),
                overwritten
            );
        }
    }
}
