//! Each fault, what it leaves, and its count.

use std::time::{Duration, Instant};

use super::client::head;
use super::*;

const SOON: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(86_400);

/// One kind of fault that always happens.
async fn always(change: impl FnOnce(&mut FaultPlan)) -> (PageBlobServer, Client) {
    let (server, client) = with_blob().await;
    server.faults().change(change);
    (server, client)
}

fn first_byte(server: &PageBlobServer) -> u8 {
    server.blob("disks", "disk").unwrap().read(0, 1)[0]
}

fn late(after: Duration) -> Option<Late> {
    Some(Late {
        p: 1.0,
        after: after..after,
    })
}

#[tokio::test]
async fn an_error_is_said_before_or_after_it_is_done() {
    let (server, mut client) = always(|plan| plan.error_500 = 1.0).await;
    client
        .ask(write(0, 512, 1))
        .await
        .refused(500, "OperationTimedOut");
    assert_eq!(first_byte(&server), 0);
    server.faults().set(FaultPlan {
        error_500_executed: 1.0,
        ..FaultPlan::default()
    });
    client
        .ask(write(0, 512, 1))
        .await
        .refused(500, "OperationTimedOut");
    assert_eq!(first_byte(&server), 1);
    server.faults().set(FaultPlan {
        error_503: 1.0,
        ..FaultPlan::default()
    });
    let busy = client.ask(write(0, 512, 2)).await;
    assert_eq!(busy.header("retry-after"), "1");
    busy.refused(503, "ServerBusy");
    assert_eq!(first_byte(&server), 1);
    let faults = server.counts().faults;
    assert_eq!(
        (
            faults.error_500,
            faults.error_500_executed,
            faults.error_503
        ),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn an_answer_or_a_request_is_lost() {
    let (server, mut client) = always(|plan| plan.lost_request = 1.0).await;
    assert!(client.try_ask(write(0, 512, 1)).await.is_none());
    assert_eq!(first_byte(&server), 0);
    server.faults().set(FaultPlan {
        lost_answer: 1.0,
        ..FaultPlan::default()
    });
    assert!(client.try_ask(write(0, 512, 1)).await.is_none());
    assert_eq!(first_byte(&server), 1);
    server.faults().none();
    client.ask(write(0, 512, 2)).await.is(201);
    let counts = server.counts();
    assert_eq!(
        (counts.faults.lost_requests, counts.faults.lost_answers),
        (1, 1)
    );
    let puts = counts.of(OperationKind::PutPage);
    assert_eq!((puts.requests, puts.succeeded, puts.bytes_in), (3, 1, 1024));
}

#[tokio::test]
async fn a_late_write_lands_when_nothing_keeps_it_out() {
    let (server, mut client) = always(|plan| plan.late = late(DAY)).await;
    if let Some(reply) = client.try_ask(write(0, 512, 1)).await {
        reply.refused(500, "OperationTimedOut");
    }
    assert_eq!(first_byte(&server), 0);
    assert_eq!(server.late_writes(), 1);
    server.faults().none();
    client.ask(write(0, 512, 2)).await.is(201);
    server.land_late_writes();
    server.settled().await;
    assert_eq!(
        first_byte(&server),
        1,
        "the older one landed over the newer one"
    );
    let faults = server.counts().faults;
    assert_eq!(
        (faults.late, faults.late_executed, faults.late_refused),
        (1, 1, 0)
    );
    let view = server.blob("disks", "disk").unwrap();
    let writes: Vec<_> = view.writes().iter().map(|write| write.is_late).collect();
    assert_eq!(writes, [false, true]);
    assert!(view.writes()[1].arrived < view.writes()[0].arrived);
}

#[tokio::test]
async fn a_late_write_is_fenced_by_a_number_that_was_raised_meanwhile() {
    let (server, mut client) = always(|plan| plan.late = late(DAY)).await;
    let fenced = [write(0, 512, 1), clear(512, 512)];
    for ask in fenced {
        let _ = client
            .try_ask(ask.with("x-ms-if-sequence-number-le", 0))
            .await;
    }
    server.faults().none();
    client.ask(set_sequence("max", Some(1))).await.is(200);
    let newer = write(0, 1024, 2).with("x-ms-if-sequence-number-le", 1);
    client.ask(newer).await.is(201);
    server.land_late_writes();
    server.settled().await;
    let view = server.blob("disks", "disk").unwrap();
    assert_eq!(view.read(0, 1024), [2; 1024]);
    let faults = server.counts().faults;
    assert_eq!(
        (faults.late, faults.late_executed, faults.late_refused),
        (2, 0, 2)
    );
}

#[tokio::test]
async fn a_late_write_may_be_told_by_an_error_or_by_silence() {
    let (server, mut client) = always(|plan| plan.late = late(Duration::ZERO)).await;
    let mut answered = 0;
    for _ in 0..40 {
        answered += u32::from(client.try_ask(write(0, 512, 1)).await.is_some());
    }
    assert!((5..35).contains(&answered), "{answered}");
    server.settled().await;
    assert_eq!(server.counts().faults.late_executed, 40);
    client.ask(head("disks/disk")).await.is(200);
}

#[tokio::test]
async fn a_server_that_is_dropped_does_no_late_writes() {
    let (server, mut client) = always(|plan| plan.late = late(DAY)).await;
    let _ = client.try_ask(write(0, 512, 1)).await;
    assert_eq!(server.late_writes(), 1);
    drop(server);
}

#[tokio::test]
async fn a_slow_answer_takes_its_time() {
    let (server, mut client) = always(|plan| plan.slow = Some(SOON)).await;
    let start = Instant::now();
    client.ask(write(0, 512, 1)).await.is(201);
    assert!(SOON <= start.elapsed());
    assert_eq!(server.counts().faults.slow, 1);
}

#[tokio::test]
async fn a_blob_that_is_asked_for_too_much_is_busy() {
    let throttle = Throttle {
        // A second's worth is there at once, and the next in a thousand.
        requests_per_s: 1e-3,
        bytes_per_s: 1e9,
    };
    let (server, mut client) = always(|plan| plan.throttle = Some(throttle)).await;
    client.ask(write(0, 512, 1)).await.is(201);
    let busy = client.ask(write(0, 512, 2)).await;
    let wait: u64 = busy.header("retry-after").parse().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    busy.refused(503, "ServerBusy");
    client.ask(create("other", 512)).await.is(201);
    assert_eq!(server.counts().faults.throttled, 1);
    assert_eq!(first_byte(&server), 1);
}

#[tokio::test]
async fn who_may_not_is_told_why_and_reads_go_on_where_only_writes_are_concerned() {
    let (server, mut client) = always(|plan| plan.no_permission = true).await;
    let refused = client.ask(write(0, 512, 1)).await;
    refused.refused(403, "AuthorizationPermissionMismatch");
    client.ask(get("disks/disk")).await.is(200);
    server.faults().set(FaultPlan {
        expired_credential: true,
        ..FaultPlan::default()
    });
    client
        .ask(get("disks/disk"))
        .await
        .refused(403, "AuthenticationFailed");
    server.faults().change(|plan| plan.writes_only = true);
    client.ask(get("disks/disk")).await.is(200);
    client
        .ask(write(0, 512, 1))
        .await
        .refused(403, "AuthenticationFailed");
    let faults = server.counts().faults;
    assert_eq!((faults.no_permission, faults.expired_credential), (1, 2));
}

#[tokio::test]
async fn a_policy_keeps_what_is_there_and_lets_new_blobs_come() {
    let (server, mut client) = always(|plan| plan.worm = true).await;
    let changes = [
        write(0, 512, 1),
        create("disk", 512),
        client::delete("disks/disk"),
        set_sequence("increment", None),
    ];
    for ask in changes {
        client
            .ask(ask)
            .await
            .refused(409, "BlobImmutableDueToPolicy");
    }
    client.ask(create("other", 512)).await.is(201);
    client.ask(put("disks/disk?comp=snapshot")).await.is(201);
    client.ask(get("disks/disk")).await.is(200);
    assert_eq!(server.counts().faults.worm, 4);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_closes_every_connection() {
    let (server, mut client) = always(|plan| plan.unreachable = true).await;
    for _ in 0..2 {
        assert!(client.try_ask(get("disks/disk")).await.is_none());
    }
    assert_eq!(server.counts().faults.unreachable, 2);
    server.faults().none();
    client.ask(get("disks/disk")).await.is(200);
}

#[tokio::test]
async fn what_is_read_and_written_is_counted_by_kind() {
    let (server, mut client) = with_blob().await;
    client.ask(write(0, 1024, 1)).await.is(201);
    client
        .ask(get("disks/disk").with("range", "bytes=0-99"))
        .await
        .is(206);
    client.ask(get("disks/nothing")).await.is(404);
    let counts = server.counts();
    let gets = counts.of(OperationKind::GetBlob);
    assert_eq!((gets.requests, gets.succeeded), (2, 1));
    assert!(100 < gets.bytes_out, "and the refusal's text");
    assert_eq!(counts.of(OperationKind::PutPage).bytes_in, 1024);
    assert_eq!(counts.all().requests, 4);
    assert_eq!(counts.faults, FaultCounts::default());
}
