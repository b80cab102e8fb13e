//! What guests wrote is what the server can restore, at every point.

use std::sync::Arc;

use everpoint_units::ByteOffset;
use futures::future::join_all;

use crate::fake_server::Manner;
use crate::workshop::{MIB, PATIENCE, Random, Workshop, disk, disk_id, in_time};

#[tokio::test(flavor = "multi_thread")]
async fn every_point_restores_what_the_disks_held_when_it_was_made() {
    let shop = Workshop::new(Manner::default());
    let files = [shop.file("a", 4 * MIB), shop.file("b", 3 * MIB)];
    let disks = vec![disk(1, &files[0]), disk(2, &files[1])];
    let agent = shop.start(disks).await;
    in_time(agent.wait_protected()).await;
    let mut guests = Vec::new();
    for (name, len) in [("disk1", 4 * MIB), ("disk2", 3 * MIB)] {
        // Several connections each: their requests overlap and run side by side.
        for _ in 0..3 {
            guests.push((Arc::new(shop.guest(name).await), len));
        }
    }
    for round in 0..6 {
        let writers = guests.iter().enumerate().flat_map(|(index, (guest, len))| {
            (0..4).map(move |lane| async move {
                let mut random = Random::new(round * 1_000 + index as u64 * 10 + lane);
                for _ in 0..15 {
                    guest.act(&mut random, *len).await;
                }
            })
        });
        in_time(join_all(writers)).await;
        let held: Vec<Vec<u8>> = files
            .iter()
            .map(|file| std::fs::read(file).expect("there"))
            .collect();
        let name = format!("round {round}");
        let point = agent
            .create_point(&name, PATIENCE)
            .await
            .expect("protected");
        assert!(point.committed);
        for (index, number) in [1, 2].into_iter().enumerate() {
            let restored = shop.server.image_at(disk_id(number), point.seq);
            assert!(restored == held[index], "disk {number} at {name}");
            let marks = shop.server.disk(disk_id(number), |store| store.bookmarks());
            assert!(marks.expect("known").contains(&(name.clone(), point.seq)));
        }
    }
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_request_arrives_whole_and_blocks_stay_short() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", 16 * MIB);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    let guest = shop.guest("disk1").await;
    guest
        .write(512, Random::new(5).bytes(7 * MIB + 1_536))
        .await;
    let point = agent
        .create_point("long", PATIENCE)
        .await
        .expect("protected");
    assert!(point.committed);
    let held = std::fs::read(&file).expect("there");
    assert!(shop.server.image_at(disk_id(1), point.seq) == held);
    let (blocks, ends) = shop
        .server
        .disk(disk_id(1), |store| {
            let data = |record: &&everpoint_format::record::Record| record.change.raw_len() != 0;
            let records = || store.blocks.iter().flat_map(|block| block.records());
            let ends: Vec<bool> = records()
                .filter(data)
                .map(|record| record.ends_request)
                .collect();
            (store.blocks.len(), ends)
        })
        .expect("known");
    assert!(8 <= blocks);
    assert_eq!(
        ends.iter().filter(|ends| **ends).count(),
        1,
        "one request, one end"
    );
    assert_eq!(ends.last(), Some(&true));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_what_was_written_and_status_tells_holes() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", 4 * MIB);
    let agent = shop.start(vec![disk(1, &file)]).await;
    let guest = shop.guest("disk1").await;
    let data = Random::new(9).bytes(64 << 10);
    guest.write(MIB, data.clone()).await;
    let read = guest.client.read(ByteOffset(MIB), 64 << 10);
    assert!(in_time(read).await.expect("read") == data);
    let large = guest.client.read(ByteOffset(0), 4 << 20);
    let large = in_time(large).await.expect("read");
    assert!(large == std::fs::read(&file).expect("there"));
    let status = guest.client.block_status(ByteOffset(0), 4 << 20);
    let status = in_time(status).await.expect("told");
    assert!(status[0].hole && u64::from(status[0].len) == MIB);
    assert!(!status[1].hole);
    in_time(guest.client.flush()).await.expect("flushed");
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_disk_does_not_hold_the_cut_of_its_machine_back() {
    let shop = Workshop::new(Manner::default());
    let disks = [shop.file("a", MIB), shop.file("b", MIB)];
    let agent = shop
        .start(vec![disk(1, &disks[0]), disk(2, &disks[1])])
        .await;
    in_time(agent.wait_protected()).await;
    let guest = shop.guest("disk1").await;
    guest.write(0, vec![7; 4_096]).await;
    let newest = everpoint_units::Seq(agent.status().seq);
    let through = |number| {
        shop.server
            .disk(disk_id(number), |store| store.committed_through)
    };
    let both = |_: &_| through(1) >= Some(newest) && through(2) >= Some(newest);
    in_time(shop.server.wait(both)).await;
    let empty = shop.server.disk(disk_id(2), |store| {
        store
            .blocks
            .iter()
            .filter(|block| block.records().is_empty())
            .count()
    });
    assert!(
        (1..4).contains(&empty.expect("known")),
        "a statement or two, then silence"
    );
    agent.kill().await;
}
