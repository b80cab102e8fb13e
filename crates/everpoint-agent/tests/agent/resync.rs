//! Order that is lost, and how a copy becomes level again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use bytes::Bytes;
use everpoint_agent::DiskStateWord;
use everpoint_nbd::{
    Allocation, Errno, Export, ExportInfo, MemoryExport, NbdAddress, Server, ServerConfig,
    ZeroFlags,
};
use everpoint_units::{ByteLen, ByteOffset};

use crate::fake_server::Manner;
use crate::workshop::{MIB, PATIENCE, Random, Workshop, disk, disk_id, in_time, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_costs_order_and_never_holds_the_guest() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", 64 * MIB);
    let mut config = shop.config(vec![disk(1, &file)]);
    config.queue_bytes_max = 16 * MIB;
    let agent = start(config).await;
    in_time(agent.wait_protected()).await;
    shop.server.behave(|manner| manner.paused = true);
    let guest = shop.guest("disk1").await;
    let mut random = Random::new(4);
    // Three times the queue, twice over what compression makes of it. Each write is answered though
    // the server reads nothing.
    for index in 0..96 {
        guest.write(index % 60 * MIB, random.bytes(MIB)).await;
    }
    in_time(agent.wait_for(|word| word == DiskStateWord::OrderLost)).await;
    let status = agent.status();
    assert!(status.queue_bytes <= status.queue_bytes_max);
    assert!(agent.create_point("lost", PATIENCE).await.is_err());

    shop.server.behave(|manner| manner.paused = false);
    for index in 0..20 {
        guest.write(index * 3 * MIB, random.bytes(64 << 10)).await;
    }
    in_time(agent.wait_protected()).await;
    let point = agent
        .create_point("level", PATIENCE)
        .await
        .expect("protected");
    assert!(point.committed);
    assert!(shop.server.image_at(disk_id(1), point.seq) == std::fs::read(&file).expect("there"));
    let status = agent.status();
    assert_eq!(status.disks[0].resync_reason, "queue-overflow");
    assert_eq!(status.disks[0].resync_count, 2);
    agent.kill().await;
}

/// A disk behind NBD that fails when it is told to.
struct Failing {
    disk: MemoryExport,
    fails: AtomicBool,
}

impl Export for Failing {
    fn describe(&self) -> ExportInfo {
        self.disk.describe()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        self.disk.read(at, len).await
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        if self.fails.load(SeqCst) {
            // Half of it is there: nobody knows what the disk holds.
            let half = data.slice(..data.len() / 2);
            self.disk.write(at, half, fua).await?;
            return Err(Errno::Io);
        }
        self.disk.write(at, data, fua).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.disk.flush().await
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.disk.trim(at, len, fua).await
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        self.disk.write_zeroes(at, len, flags).await
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        self.disk.block_status(at, len).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_local_disk_failed_is_an_error_and_a_resync() {
    let shop = Workshop::new(Manner::default());
    let failing = Arc::new(Failing {
        disk: MemoryExport::new(ByteLen(8 * MIB)),
        fails: AtomicBool::new(false),
    });
    let source = Server::new(ServerConfig::default()).expect("defaults");
    source.attach("source", Arc::clone(&failing)).expect("free");
    source.listen_unix(&shop.path("source")).expect("free");
    let mut config = disk(1, &shop.path("unused"));
    config.source = NbdAddress::unix(shop.path("source"), "source").to_string();
    let agent = shop.start(vec![config]).await;
    in_time(agent.wait_protected()).await;
    let guest = shop.guest("disk1").await;
    let mut random = Random::new(8);
    for _ in 0..40 {
        in_time(guest.act(&mut random, 8 * MIB)).await;
    }
    failing.fails.store(true, SeqCst);
    let written = guest
        .client
        .write(ByteOffset(MIB), vec![0xee; 8_192].into(), false);
    assert!(in_time(written).await.is_err(), "the guest learns of it");
    failing.fails.store(false, SeqCst);
    in_time(agent.wait_for(|word| word == DiskStateWord::Protected)).await;
    // Protected may be what it was before the loss was noticed; a point tells.
    let seen = |server: &crate::fake_server::FakeServer| {
        let base = server.disk(disk_id(1), |store| {
            let first = store.blocks.iter().filter(|b| b.header().block_no.0 == 1);
            first.count()
        });
        base == Some(2)
    };
    in_time(shop.server.wait(seen)).await;
    in_time(agent.wait_protected()).await;
    let point = agent
        .create_point("after", PATIENCE)
        .await
        .expect("protected");
    assert!(shop.server.image_at(disk_id(1), point.seq) == failing.disk.contents());
    assert_eq!(agent.status().disks[0].resync_reason, "local-error");
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_disk_is_copied_without_its_holes() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", 512 * MIB);
    {
        use std::os::unix::fs::FileExt as _;
        let disk = std::fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .expect("there");
        for at in [0, 100, 511] {
            disk.write_all_at(&Random::new(at).bytes(70_000), at * MIB)
                .expect("written");
        }
    }
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    let sent = shop
        .server
        .disk(disk_id(1), |store| store.raw_bytes)
        .expect("known");
    assert!(sent < MIB, "{sent} bytes for 210,000 of data");
    assert!(shop.server.image(disk_id(1)) == std::fs::read(&file).expect("there"));
    let status = agent.status();
    assert_eq!(status.disks[0].resync_done_bytes, 512 * MIB);
    assert_eq!(status.disks[0].resync_reason, "initial-sync");
    agent.kill().await;
}
