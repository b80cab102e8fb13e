//! Order that is lost, and how a copy becomes level again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use everpoint_agent::{DiskStateWord, Stopped};
use everpoint_nbd::{
    Allocation, Errno, Export, ExportInfo, MemoryExport, NbdAddress, Server, ServerConfig,
    ZeroFlags,
};
use everpoint_units::{ByteLen, ByteOffset};
use tokio::sync::{Notify, watch};

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

/// A disk behind NBD that fails when it is told to, and can hold one read back.
struct Failing {
    disk: MemoryExport,
    fails: AtomicBool,
    /// No flush is answered.
    holds_flush: AtomicBool,
    /// The next read of a large part has its bytes, and waits before it returns them.
    holds_read: AtomicBool,
    held: Notify,
    release: Notify,
    /// Where the last write began.
    written: watch::Sender<u64>,
}

impl Failing {
    /// Served at `source` in the workshop.
    fn serve(shop: &Workshop, len: u64) -> (Arc<Self>, everpoint_agent::DiskConfig) {
        let failing = Arc::new(Self {
            disk: MemoryExport::new(ByteLen(len)),
            fails: AtomicBool::new(false),
            holds_flush: AtomicBool::new(false),
            holds_read: AtomicBool::new(false),
            held: Notify::new(),
            release: Notify::new(),
            written: watch::Sender::new(u64::MAX),
        });
        let source = Server::new(ServerConfig::default()).expect("defaults");
        source.attach("source", Arc::clone(&failing)).expect("free");
        source.listen_unix(&shop.path("source")).expect("free");
        let mut config = disk(1, &shop.path("unused"));
        config.source = NbdAddress::unix(shop.path("source"), "source").to_string();
        (failing, config)
    }
}

impl Export for Failing {
    fn describe(&self) -> ExportInfo {
        self.disk.describe()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        let bytes = self.disk.read(at, len).await;
        if 64 << 10 < len && self.holds_read.swap(false, SeqCst) {
            self.held.notify_one();
            self.release.notified().await;
        }
        bytes
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        if self.fails.load(SeqCst) {
            // Half of it is there: nobody knows what the disk holds.
            let half = data.slice(..data.len() / 2);
            self.disk.write(at, half, fua).await?;
            return Err(Errno::Io);
        }
        self.disk.write(at, data, fua).await?;
        self.written.send_replace(at.0);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        if self.holds_flush.load(SeqCst) {
            std::future::pending::<()>().await;
        }
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
    let (failing, config) = Failing::serve(&shop, 8 * MIB);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_behind_nbd_is_drained_by_a_stop_and_compared_again_all_the_same() {
    let shop = Workshop::new(Manner::default());
    let (_source, config) = Failing::serve(&shop, MIB);
    let agent = shop.start(vec![config]).await;
    in_time(agent.wait_protected()).await;
    let stopped = in_time(agent.stop(PATIENCE)).await;
    let unproven = Stopped {
        unproven: vec![disk_id(1)],
        ..Stopped::default()
    };
    assert_eq!(stopped, unproven);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_answer_costs_no_other_disk_its_proof_at_a_stop() {
    let shop = Workshop::new(Manner::default());
    let (source, silent) = Failing::serve(&shop, MIB);
    let file = shop.file("b", MIB);
    let agent = shop.start(vec![silent, disk(2, &file)]).await;
    in_time(agent.wait_protected()).await;
    source.holds_flush.store(true, SeqCst);
    let stopped = in_time(agent.stop(Duration::from_secs(5))).await;
    let one_clean = Stopped {
        clean: vec![disk_id(2)],
        undrained: vec![disk_id(1)],
        ..Stopped::default()
    };
    assert_eq!(stopped, one_clean);
    assert!(shop.path("state/clean.toml").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_the_resync_that_reads_the_same_place() {
    let shop = Workshop::new(Manner::default());
    let (source, config) = Failing::serve(&shop, 4 * MIB);
    let old = Random::new(1).bytes(4 * MIB);
    let filled = source.disk.write(ByteOffset(0), old.into(), false).await;
    filled.expect("in memory");
    source.holds_read.store(true, SeqCst);
    let agent = shop.start(vec![config]).await;
    in_time(source.held.notified()).await;
    // The initial sync has read the first part and not queued it yet.
    let guest = Arc::new(shop.guest("disk1").await);
    let mut written = source.written.subscribe();
    let same_place = {
        let guest = Arc::clone(&guest);
        let data = Bytes::from(vec![0xaa; 4_096]);
        tokio::spawn(async move { guest.client.write(ByteOffset(8_192), data, false).await })
    };
    // Requests of a connection begin in order, so the first had its chance when a later one, to
    // another place, has reached the disk.
    in_time(guest.client.flush()).await.expect("flushed");
    guest.write(3 * MIB, vec![0xbb; 4_096]).await;
    let elsewhere = in_time(written.wait_for(|at| *at == 3 * MIB)).await;
    drop(elsewhere.expect("the source lives"));
    source.release.notify_one();
    in_time(same_place)
        .await
        .expect("no panic")
        .expect("written");
    in_time(agent.wait_protected()).await;
    let point = agent
        .create_point("after", PATIENCE)
        .await
        .expect("protected");
    assert!(shop.server.image_at(disk_id(1), point.seq) == source.disk.contents());
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_order_is_not_taken_begins_a_generation() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", MIB);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    let guest = shop.guest("disk1").await;
    guest.write(0, Random::new(1).bytes(64 << 10)).await;
    shop.server.accuse();
    in_time(agent.wait_for(|word| word != DiskStateWord::Protected)).await;
    guest.write(512, Random::new(2).bytes(64 << 10)).await;
    in_time(agent.wait_protected()).await;
    let point = agent.create_point("after", PATIENCE).await;
    let point = point.expect("protected");
    assert!(shop.server.image_at(disk_id(1), point.seq) == std::fs::read(&file).expect("there"));
    assert_eq!(agent.status().disks[0].resync_reason, "refused");
    agent.kill().await;
}
