//! Which server an agent believes.

use everpoint_units::{Level, VaultId};

use crate::fake_server::Manner;
use crate::workshop::{MIB, Workshop, disk, disk_id, in_time, server_at, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_own_the_machine_is_passed_over() {
    let shop = Workshop::new(Manner::default());
    let stranger = shop.second_server(Manner {
        not_owner: true,
        ..Manner::default()
    });
    let file = shop.file("a", MIB);
    let mut config = shop.config(vec![disk(1, &file)]);
    config.servers.insert(0, server_at(&stranger));
    let agent = start(config).await;
    in_time(agent.wait_protected()).await;
    assert_eq!(stranger.hello_count(), 0, "it never said hello back");
    assert_eq!(agent.status().server, shop.server.address.to_string());
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_vault_and_an_older_epoch_get_nothing() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", MIB);
    shop.server.set_epoch(Level(5));
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    assert_eq!(agent.status().epoch, 5);
    agent.kill().await;

    // A clone of the server from before the take-over: the epoch is remembered on disk.
    shop.server.restart(false);
    shop.server.set_epoch(Level(4));
    let before = shop.server.disk(disk_id(1), |store| store.blocks.len());
    let agent = shop.start(vec![disk(1, &file)]).await;
    let guest = shop.guest("disk1").await;
    guest.write(0, vec![1; 512]).await;
    in_time(shop.server.wait_hellos(2)).await;
    assert!(!agent.status().connected);
    assert!(
        agent.status().last_error.contains("level 4"),
        "{}",
        agent.status().last_error
    );

    shop.server.set_epoch(Level(6));
    shop.server.set_vault(VaultId([9; 16]));
    in_time(shop.server.wait_hellos(2)).await;
    assert!(!agent.status().connected);
    assert_eq!(
        shop.server.disk(disk_id(1), |store| store.blocks.len()),
        before
    );

    shop.server.set_vault(VaultId([7; 16]));
    in_time(agent.wait_protected()).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_go_on_above_what_the_server_has_seen() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", MIB);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    let seen = agent.status().seq;
    agent.kill().await;
    // The state directory is lost: the agent reserves from the beginning again.
    std::fs::remove_dir_all(shop.path("state")).expect("there");
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    assert!(seen < agent.status().seq);
    agent.kill().await;
    let rising = shop.server.disk(disk_id(1), |store| {
        let records = store.blocks.iter().flat_map(|block| block.records());
        let seqs: Vec<_> = records.map(|record| record.seq).collect();
        seqs.is_sorted_by(|a, b| a < b)
    });
    assert_eq!(rising, Some(true));
}
