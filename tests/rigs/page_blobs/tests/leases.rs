//! Leases over HTTP, and what they keep out.

use super::client::{Reply, delete, head};
use super::*;

const A: &str = "aaaaaaaa-0000-4000-8000-000000000000";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000000";

fn lease(action: &str) -> Ask {
    put("disks/disk?comp=lease").with("x-ms-lease-action", action)
}

async fn acquire(client: &mut Client, id: &str) -> Reply {
    let ask = lease("acquire").with("x-ms-lease-duration", 60);
    client.ask(ask.with("x-ms-proposed-lease-id", id)).await
}

#[tokio::test]
async fn a_lease_is_acquired_renewed_changed_released_and_broken() {
    let (_server, mut client) = with_blob().await;
    let held = acquire(&mut client, A).await.is(201);
    assert_eq!(held.header("x-ms-lease-id"), A);
    let seen = client.ask(head("disks/disk")).await.is(200);
    assert_eq!(seen.header("x-ms-lease-state"), "leased");
    assert_eq!(seen.header("x-ms-lease-status"), "locked");
    assert_eq!(seen.header("x-ms-lease-duration"), "fixed");
    assert_eq!(seen.header("etag"), held.header("etag"));
    acquire(&mut client, B)
        .await
        .refused(409, "LeaseAlreadyPresent");
    client
        .ask(lease("renew").with("x-ms-lease-id", A))
        .await
        .is(200);
    let change = lease("change").with("x-ms-lease-id", A);
    let changed = client.ask(change.with("x-ms-proposed-lease-id", B)).await;
    assert_eq!(changed.is(200).header("x-ms-lease-id"), B);
    let other = client.ask(lease("release").with("x-ms-lease-id", A)).await;
    other.refused(409, "LeaseIdMismatchWithLeaseOperation");
    client
        .ask(lease("release").with("x-ms-lease-id", B))
        .await
        .is(200);
    let none = client.ask(lease("break")).await;
    none.refused(409, "LeaseNotPresentWithLeaseOperation");
    acquire(&mut client, A).await.is(201);
    let breaking = lease("break").with("x-ms-lease-break-period", 30);
    let breaking = client.ask(breaking).await.is(202);
    assert_eq!(breaking.header("x-ms-lease-time"), "30");
    acquire(&mut client, A)
        .await
        .refused(409, "LeaseIsBreakingAndCannotBeAcquired");
    let broken = lease("break").with("x-ms-lease-break-period", 0);
    assert_eq!(
        client.ask(broken).await.is(202).header("x-ms-lease-time"),
        "0"
    );
    acquire(&mut client, B).await.is(201);
}

#[tokio::test]
async fn a_lease_without_an_end_and_without_a_proposed_name_is_given_one() {
    let (_server, mut client) = with_blob().await;
    let ask = lease("acquire").with("x-ms-lease-duration", -1);
    let held = client.ask(ask).await.is(201);
    let id = held.header("x-ms-lease-id").to_owned();
    assert_eq!(id.len(), 36);
    client
        .ask(write(0, 512, 1).with("x-ms-lease-id", id))
        .await
        .is(201);
    let seen = client.ask(head("disks/disk")).await;
    assert_eq!(seen.header("x-ms-lease-duration"), "infinite");
}

#[tokio::test]
async fn what_a_lease_cannot_be_is_refused() {
    let (_server, mut client) = with_blob().await;
    let acquire = |seconds: i64| lease("acquire").with("x-ms-lease-duration", seconds);
    for ask in [
        acquire(14),
        acquire(61),
        acquire(0),
        acquire(15).with("x-ms-proposed-lease-id", "me"),
        lease("take"),
        lease("break").with("x-ms-lease-break-period", 61),
    ] {
        client.ask(ask).await.refused(400, "InvalidHeaderValue");
    }
    for ask in [
        lease("acquire"),
        lease("renew"),
        put("disks/disk?comp=lease"),
    ] {
        client.ask(ask).await.refused(400, "MissingRequiredHeader");
    }
}

#[tokio::test]
async fn a_leased_blob_is_changed_by_its_holder_only_and_read_by_all() {
    let (_server, mut client) = with_blob().await;
    acquire(&mut client, A).await.is(201);
    let changes = || {
        [
            write(0, 512, 1),
            clear(0, 512),
            set_sequence("increment", None),
            put("disks/disk?comp=metadata"),
            create("disk", BLOB_LEN),
        ]
    };
    for ask in changes() {
        client.ask(ask.clone()).await.refused(412, "LeaseIdMissing");
        let other = client.ask(ask.with("x-ms-lease-id", B)).await;
        other.refused(412, "LeaseIdMismatchWithBlobOperation");
    }
    client
        .ask(delete("disks/disk"))
        .await
        .refused(412, "LeaseIdMissing");
    for ask in changes() {
        let done = client.ask(ask.with("x-ms-lease-id", A)).await;
        assert!([200, 201].contains(&done.status), "{done:?}");
    }
    client.ask(get("disks/disk")).await.is(200);
    client.ask(put("disks/disk?comp=snapshot")).await.is(201);
    let other = client
        .ask(put("disks/disk?comp=snapshot").with("x-ms-lease-id", B))
        .await;
    other.refused(412, "LeaseIdMismatchWithBlobOperation");
    client
        .ask(lease("release").with("x-ms-lease-id", A))
        .await
        .is(200);
    let none = client.ask(write(0, 512, 1).with("x-ms-lease-id", B)).await;
    none.refused(412, "LeaseNotPresentWithBlobOperation");
}

#[tokio::test]
async fn somebody_else_takes_the_lease_and_gives_it_up() {
    let (server, mut client) = with_blob().await;
    acquire(&mut client, A).await.is(201);
    server.other_holder_leases("disks", "disk").unwrap();
    acquire(&mut client, A)
        .await
        .refused(409, "LeaseAlreadyPresent");
    let mine = client.ask(write(0, 512, 1).with("x-ms-lease-id", A)).await;
    mine.refused(412, "LeaseIdMismatchWithBlobOperation");
    server.break_foreign_lease("disks", "disk").unwrap();
    acquire(&mut client, A).await.is(201);
    let refused = server.break_foreign_lease("disks", "disk").unwrap_err();
    assert_eq!(refused, Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION);
    let missing = server.other_holder_leases("disks", "nothing").unwrap_err();
    assert_eq!(missing, Refusal::BLOB_NOT_FOUND);
}
