//! Servers and agents that go away and come back.

use everpoint_agent::{DetachError, DiskStateWord, Stopped};

use crate::fake_server::{FakeServer, Manner};
use crate::workshop::{MIB, PATIENCE, Random, Workshop, disk, disk_id, in_time, start};

const LEN: u64 = 8 * MIB;

/// The image that the server would restore now is the file.
async fn check(shop: &Workshop, agent: &everpoint_agent::Agent, file: &std::path::Path) {
    in_time(agent.wait_protected()).await;
    let point = agent
        .create_point("check", PATIENCE)
        .await
        .expect("protected");
    assert!(point.committed);
    let restored = shop.server.image_at(disk_id(1), point.seq);
    assert!(
        restored == std::fs::read(file).expect("there"),
        "restored is not the disk"
    );
}

async fn load(shop: &Workshop, seed: u64, count: usize) {
    let guest = shop.guest("disk1").await;
    let mut random = Random::new(seed);
    for _ in 0..count {
        in_time(guest.act(&mut random, LEN)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_broken_link_the_same_generation_goes_on() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    let generation = agent.status().disks[0].generation.clone();
    for round in 0..3 {
        load(&shop, round, 30).await;
        shop.server.restart(false);
        load(&shop, 100 + round, 30).await;
        let back = |server: &FakeServer| round + 2 <= server.hello_count();
        in_time(shop.server.wait(back)).await;
    }
    check(&shop, &agent, &file).await;
    let status = agent.status();
    assert_eq!(status.disks[0].resync_count, 1, "only the initial sync");
    assert_eq!(status.disks[0].generation, generation);
    assert_eq!(status.epoch, 4);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_what_it_cached_is_brought_level_again() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    load(&shop, 1, 30).await;
    shop.server.behave(|manner| manner.holds_commits = true);
    load(&shop, 2, 30).await;
    // Cached, so the agent does not hold it any more.
    let seq = agent.status().seq;
    let cached =
        |server: &FakeServer| server.disk(disk_id(1), |store| store.highest_seq.0) >= Some(seq);
    in_time(shop.server.wait(cached)).await;
    shop.server.restart(true);
    shop.server.behave(|manner| manner.holds_commits = false);
    load(&shop, 3, 10).await;
    let begun = |server: &FakeServer| {
        let generations = server.disk(disk_id(1), |store| {
            let mut seen: Vec<_> = store.blocks.iter().map(|b| b.header().generation).collect();
            seen.dedup();
            seen.len()
        });
        generations == Some(2)
    };
    in_time(shop.server.wait(begun)).await;
    check(&shop, &agent, &file).await;
    let status = agent.status();
    assert_eq!(status.disks[0].resync_count, 2);
    assert_eq!(status.disks[0].resync_reason, "position-unknown");
    agent.kill().await;
}

/// Makes the server lose what it cached and commit from then on, once it has what `is_cached` says and
/// the agent has learned that and holds it no more.
async fn lose_cached(
    shop: &Workshop,
    agent: &everpoint_agent::Agent,
    is_cached: impl Fn(&FakeServer) -> bool,
) {
    in_time(shop.server.wait(is_cached)).await;
    let let_go = async {
        while agent.status().queue_bytes != 0 {
            tokio::task::yield_now().await;
        }
    };
    in_time(let_go).await;
    shop.server.restart(true);
    shop.server.behave(|manner| manner.holds_commits = false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_a_server_lost_is_not_called_committed() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    shop.server.behave(|manner| manner.holds_commits = true);
    let marks = |server: &FakeServer| server.disk(disk_id(1), |store| store.bookmarks().len());
    let lose = lose_cached(&shop, &agent, |server| marks(server) == Some(1));
    let created = agent.create_point("under", 2 * PATIENCE);
    let (created, ()) = in_time(async { tokio::join!(created, lose) }).await;
    let created = created.expect("protected");
    assert!(!created.committed && created.lost, "{created:?}");

    check(&shop, &agent, &file).await;
    assert_eq!(marks(&shop.server), Some(1), "only the one of the check");
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_a_disk_that_a_server_lost_is_not_called_committed() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    shop.server.behave(|manner| manner.holds_commits = true);
    let ended = |server: &FakeServer| server.disk(disk_id(1), |store| store.ended);
    let lose = lose_cached(&shop, &agent, |server| ended(server) == Some(true));
    let (detached, ()) =
        in_time(async { tokio::join!(agent.detach(disk_id(1), true), lose) }).await;
    assert!(
        matches!(detached, Err(DetachError::EndNotCommitted { .. })),
        "{detached:?}"
    );
    assert_eq!(ended(&shop.server), Some(false));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_good_order_is_resumed_without_a_compare() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let disks = || vec![disk(1, &file)];
    let agent = shop.start(disks()).await;
    in_time(agent.wait_protected()).await;
    load(&shop, 1, 30).await;
    let generation = agent.status().disks[0].generation.clone();
    let stopped = in_time(agent.stop(PATIENCE)).await;
    let clean = Stopped {
        clean: vec![disk_id(1)],
        ..Stopped::default()
    };
    assert_eq!(stopped, clean);
    assert!(shop.server.image(disk_id(1)) == std::fs::read(&file).expect("there"));

    assert!(shop.path("state/clean.toml").exists());
    let agent = shop.start(disks()).await;
    assert!(!shop.path("state/clean.toml").exists(), "it counts once");
    load(&shop, 2, 30).await;
    check(&shop, &agent, &file).await;
    let status = agent.status();
    assert_eq!(status.disks[0].resync_count, 0);
    assert_eq!(status.disks[0].generation, generation);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_touched_while_no_agent_ran_is_compared() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let disks = || vec![disk(1, &file)];
    let agent = shop.start(disks()).await;
    in_time(agent.wait_protected()).await;
    load(&shop, 1, 30).await;
    let stopped = in_time(agent.stop(PATIENCE)).await;
    assert_eq!(stopped.clean, [disk_id(1)]);
    {
        use std::os::unix::fs::FileExt as _;
        let touched = std::fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .expect("there");
        touched
            .write_all_at(&[0xd1; 777], 123_456)
            .expect("written");
    }
    let agent = shop.start(disks()).await;
    check(&shop, &agent, &file).await;
    let status = agent.status();
    assert_eq!(status.disks[0].resync_reason, "agent-restart");
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_costs_a_compare_and_nothing_else() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", LEN);
    let disks = || vec![disk(1, &file)];
    let agent = shop.start(disks()).await;
    in_time(agent.wait_protected()).await;
    load(&shop, 1, 40).await;
    agent.kill().await;
    let before = shop
        .server
        .disk(disk_id(1), |store| store.raw_bytes)
        .expect("known");

    let agent = shop.start(disks()).await;
    check(&shop, &agent, &file).await;
    let after = shop
        .server
        .disk(disk_id(1), |store| store.raw_bytes)
        .expect("known");
    assert!(
        after - before < 2 * MIB,
        "only what differs is sent again: {}",
        after - before
    );
    assert_eq!(agent.status().disks[0].resync_reason, "agent-restart");
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initial_sync_under_writes_survives_killed_agents() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", 48 * MIB);
    {
        use std::os::unix::fs::FileExt as _;
        let disk = std::fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .expect("there");
        for part in [0, 9, 17, 30, 45] {
            let bytes = Random::new(part).bytes(2 * MIB);
            disk.write_all_at(&bytes, part * MIB + 4_608)
                .expect("written");
        }
    }
    let config = |rate| everpoint_agent::AgentConfig {
        resync_rate_max: rate,
        ..shop.config(vec![disk(1, &file)])
    };
    for life in 0..2 {
        // Slow, so that the agent dies in the middle.
        let agent = start(config(Some(8 * MIB))).await;
        let syncing = |word| matches!(word, DiskStateWord::InitialSync | DiskStateWord::Resync);
        in_time(agent.wait_for(syncing)).await;
        let guest = shop.guest("disk1").await;
        let mut random = Random::new(50 + life);
        for _ in 0..60 {
            in_time(guest.act(&mut random, 48 * MIB)).await;
        }
        assert!(agent.create_point("too early", PATIENCE).await.is_err());
        agent.kill().await;
    }
    let agent = start(config(None)).await;
    let guest = shop.guest("disk1").await;
    let mut random = Random::new(70);
    for _ in 0..60 {
        in_time(guest.act(&mut random, 48 * MIB)).await;
    }
    check(&shop, &agent, &file).await;
    let status = agent.status();
    assert_eq!(status.disks[0].resync_reason, "agent-restart");
    assert_eq!(status.disks[0].resync_done_bytes, 48 * MIB);
    agent.kill().await;
}
