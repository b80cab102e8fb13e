//! Operations that succeed, and what they leave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

use super::client::{delete, head};
use super::*;
use crate::rigs::page_blobs::checksums;

#[tokio::test]
async fn a_new_blob_is_empty_and_has_the_number_that_it_was_given() {
    let (server, mut client) = with_blob().await;
    let ask = create("other", 8 << 40).with("x-ms-blob-sequence-number", 5);
    let made = client
        .ask(ask.with("x-ms-meta-machine", "db-1"))
        .await
        .is(201);
    let seen = client.ask(head("disks/other")).await.is(200);
    assert_eq!(seen.header("etag"), made.header("etag"));
    assert_eq!(seen.header("content-length"), (8_u64 << 40).to_string());
    assert_eq!(seen.header("x-ms-blob-type"), "PageBlob");
    assert_eq!(seen.header("x-ms-blob-sequence-number"), "5");
    assert_eq!(seen.header("x-ms-lease-state"), "available");
    assert_eq!(seen.header("x-ms-lease-status"), "unlocked");
    assert_eq!(seen.header("x-ms-meta-machine"), "db-1");
    assert!(!seen.header("x-ms-request-id").is_empty());
    let view = server.blob("disks", "other").unwrap();
    assert!(view.is_page_blob() && view.written().is_empty());
    assert_eq!(view.sequence_number(), 5);
    assert!(server.blob("disks", "nothing").is_none());
}

#[tokio::test]
async fn what_is_put_is_read_back_and_what_is_cleared_reads_as_zeroes() {
    let (server, mut client) = with_blob().await;
    let put = client.ask(write(512, 1024, 7)).await.is(201);
    assert_eq!(put.header("x-ms-blob-sequence-number"), "0");
    let body = Bytes::from(vec![7; 1024]);
    let crc64 = checksums::crc64(&[body]);
    assert_eq!(put.header("x-ms-content-crc64"), crc64);
    let cleared = client.ask(clear(1024, BLOB_LEN - 1024)).await.is(201);
    assert_ne!(put.header("etag"), cleared.header("etag"));
    let part = get("disks/disk").with("x-ms-range", "bytes=1000-1100");
    let part = part.with("range", "bytes=0-0");
    let part = client.ask(part).await.is(206);
    assert_eq!(
        part.header("content-range"),
        format!("bytes 1000-1100/{BLOB_LEN}")
    );
    assert_eq!(part.body, [vec![7; 24], vec![0; 77]].concat());
    let whole = client.ask(get("disks/disk")).await.is(200);
    assert_eq!(whole.body, server.blob("disks", "disk").unwrap().content());
    let tail = get("disks/disk").with("range", format!("bytes={}-", BLOB_LEN - 3));
    assert_eq!(client.ask(tail).await.is(206).body, vec![0; 3]);
    let beyond = get("disks/disk").with("range", format!("bytes=0-{}", 2 * BLOB_LEN));
    assert_eq!(client.ask(beyond).await.is(206).body.len(), 1 << 20);
}

#[tokio::test]
async fn a_put_of_four_mebibytes_with_its_checksums_is_taken() {
    let (server, mut client) = with_blob().await;
    client.ask(create("disk", 4 << 20)).await.is(201);
    let body = Bytes::from(vec![9; 4 << 20]);
    let ask = write(0, 4 << 20, 9)
        .with("content-md5", STANDARD.encode(Md5::digest(&body)))
        .with(
            "x-ms-content-crc64",
            checksums::crc64(std::slice::from_ref(&body)),
        );
    client.ask(ask).await.is(201);
    assert_eq!(server.blob("disks", "disk").unwrap().content(), body);
}

#[tokio::test]
async fn page_ranges_are_joined_cut_to_what_is_asked_and_told_page_by_page() {
    let (_server, mut client) = with_blob().await;
    for start in [0, 512, 1024, 4096, 65_024, 65_536, 900_096] {
        client.ask(write(start, 512, 1)).await.is(201);
    }
    let all = ["+0-1535", "+4096-4607", "+65024-66047", "+900096-900607"];
    assert_eq!(ranges(&mut client, "").await, all);
    let ask = get("disks/disk?comp=pagelist").with("range", "bytes=512-65535");
    let inside = client.ask(ask).await.is(200);
    assert_eq!(inside.ranges(), ["+512-1535", "+4096-4607", "+65024-65535"]);
    assert_eq!(
        inside.header("x-ms-blob-content-length"),
        BLOB_LEN.to_string()
    );
    let (mut found, mut marker) = (Vec::new(), String::new());
    loop {
        let path = format!("disks/disk?comp=pagelist&maxresults=3&marker={marker}");
        let reply = client.ask(get(&path)).await.is(200);
        found.push(reply.ranges());
        match reply.elements("NextMarker").pop() {
            Some(next) => marker = next,
            None => break,
        }
    }
    assert_eq!(found, [&all[..3], &all[3..]]);
}

#[tokio::test]
async fn a_difference_tells_what_was_written_and_what_was_cleared_in_order() {
    let (_server, mut client) = with_blob().await;
    client.ask(write(0, 4096, 1)).await.is(201);
    let first = snapshot(&mut client).await;
    client.ask(write(512, 512, 1)).await.is(201);
    client.ask(clear(1024, 512)).await.is(201);
    client.ask(write(8192, 512, 1)).await.is(201);
    let second = snapshot(&mut client).await;
    assert!(first < second, "{first} {second}");
    client.ask(clear(8192, 512)).await.is(201);
    let since_first = format!("&prevsnapshot={first}");
    let now = ["+512-1023", "-1024-1535"];
    assert_eq!(ranges(&mut client, &since_first).await, now);
    let between = format!("&prevsnapshot={first}&snapshot={second}");
    let then = ["+512-1023", "-1024-1535", "+8192-8703"];
    assert_eq!(ranges(&mut client, &between).await, then);
    let since_second = format!("&prevsnapshot={second}");
    assert_eq!(ranges(&mut client, &since_second).await, ["-8192-8703"]);
    let paged = format!("{between}&maxresults=1&marker=1024");
    assert_eq!(ranges(&mut client, &paged).await, ["-1024-1535"]);
    let of_snapshot = format!("&snapshot={first}");
    assert_eq!(ranges(&mut client, &of_snapshot).await, ["+0-4095"]);
}

#[tokio::test]
async fn a_snapshot_is_read_by_its_name_and_deleted_by_it() {
    let (server, mut client) = with_blob().await;
    client.ask(write(0, 512, 1)).await.is(201);
    let id = snapshot(&mut client).await;
    client.ask(write(0, 512, 2)).await.is(201);
    let path = format!("disks/disk?snapshot={id}");
    assert_eq!(client.ask(get(&path)).await.is(200).body[..512], [1; 512]);
    let seen = client.ask(head(&path)).await.is(200);
    assert_eq!(seen.header("x-ms-lease-state"), "");
    let view = server.blob("disks", "disk").unwrap();
    assert_eq!(view.snapshots(), [id.as_str()]);
    assert_eq!(view.snapshot(&id).unwrap().read(0, 1), [1]);
    client.ask(delete(&path)).await.is(202);
    client.ask(get(&path)).await.refused(404, "BlobNotFound");
    client.ask(delete("disks/disk")).await.is(202);
    client
        .ask(get("disks/disk"))
        .await
        .refused(404, "BlobNotFound");
}

#[tokio::test]
async fn a_blob_is_resized_both_ways_and_keeps_what_is_not_cut_off() {
    let (server, mut client) = with_blob().await;
    client.ask(write(0, 4096, 1)).await.is(201);
    for len in [1024, 8 << 30] {
        let ask = put("disks/disk?comp=properties").with("x-ms-blob-content-length", len);
        client.ask(ask).await.is(200);
        let view = server.blob("disks", "disk").unwrap();
        assert_eq!(view.len(), len);
        assert_eq!(format!("{:?}", view.written()), "[0..1024]");
    }
}

#[tokio::test]
async fn a_sequence_number_is_raised_counted_and_set() {
    let (_server, mut client) = with_blob().await;
    let steps = [
        ("max", Some(8), "8"),
        ("max", Some(3), "8"),
        ("increment", None, "9"),
        ("update", Some(2), "2"),
    ];
    for (action, number, expected) in steps {
        let set = client.ask(set_sequence(action, number)).await.is(200);
        assert_eq!(set.header("x-ms-blob-sequence-number"), expected);
    }
}

#[tokio::test]
async fn pages_are_put_from_a_blob_of_either_kind_or_a_snapshot() {
    let (server, mut client) = with_blob().await;
    client.ask(write(512, 512, 1)).await.is(201);
    let id = snapshot(&mut client).await;
    client.ask(write(512, 512, 2)).await.is(201);
    let block = put("disks/object").with("x-ms-blob-type", "BlockBlob");
    client.ask(block.with_body(vec![3; 600])).await.is(201);
    let sources = [
        (format!("disks/disk?snapshot={id}&sig=x"), 512, 1),
        ("disks/disk".to_owned(), 512, 2),
        ("disks/object".to_owned(), 0, 3),
    ];
    for (path, from, byte) in sources {
        let ask = put("disks/disk?comp=page")
            .with("x-ms-page-write", "update")
            .with("x-ms-copy-source", format!("{}/{path}", server.endpoint()))
            .with("x-ms-source-range", format!("bytes={from}-{}", from + 511))
            .with("x-ms-range", "bytes=4096-4607");
        client.ask(ask).await.is(201);
        let view = server.blob("disks", "disk").unwrap();
        assert_eq!(view.read(4096, 512), vec![byte; 512]);
    }
}

#[tokio::test]
async fn a_copy_of_a_snapshot_is_a_blob_of_its_own() {
    let (server, mut client) = with_blob().await;
    client.ask(write(0, 512, 1)).await.is(201);
    client.ask(set_sequence("update", Some(4))).await.is(200);
    let id = snapshot(&mut client).await;
    client.ask(write(0, 512, 2)).await.is(201);
    let url = format!("{}/disks/disk?snapshot={id}", server.endpoint());
    let copied = client
        .ask(put("disks/copy").with("x-ms-copy-source", &url))
        .await
        .is(202);
    assert_eq!(copied.header("x-ms-copy-status"), "success");
    let seen = client.ask(head("disks/copy")).await.is(200);
    assert_eq!(seen.header("x-ms-copy-id"), copied.header("x-ms-copy-id"));
    assert_eq!(seen.header("x-ms-copy-source"), url);
    assert_eq!(
        seen.header("x-ms-copy-progress"),
        format!("{BLOB_LEN}/{BLOB_LEN}")
    );
    let copy = server.blob("disks", "copy").unwrap();
    assert_eq!((copy.read(0, 1), copy.sequence_number()), (vec![1], 4));
    assert!(copy.snapshots().is_empty());
}

#[tokio::test]
async fn a_copy_that_takes_time_is_pending_until_then_and_can_be_aborted() {
    let (server, mut client) = with_blob().await;
    client.ask(write(0, 512, 1)).await.is(201);
    let day = std::time::Duration::from_secs(86_400);
    server.faults().change(|plan| plan.copy_takes = Some(day));
    let url = format!("{}/disks/disk", server.endpoint());
    let copied = client
        .ask(put("disks/copy").with("x-ms-copy-source", &url))
        .await
        .is(202);
    assert_eq!(copied.header("x-ms-copy-status"), "pending");
    let seen = client.ask(head("disks/copy")).await.is(200);
    assert_eq!(seen.header("x-ms-copy-status"), "pending");
    assert_eq!(seen.header("x-ms-copy-progress"), format!("0/{BLOB_LEN}"));
    let id = copied.header("x-ms-copy-id");
    let abort = put(&format!("disks/copy?comp=copy&copyid={id}")).with("x-ms-copy-action", "abort");
    client.ask(abort.clone()).await.is(204);
    let seen = client.ask(head("disks/copy")).await.is(200);
    assert_eq!(seen.header("x-ms-copy-status"), "aborted");
    assert_eq!(seen.header("content-length"), "0");
    client
        .ask(abort)
        .await
        .refused(409, "NoPendingCopyOperation");
}

#[tokio::test]
async fn metadata_and_containers_are_made_and_told() {
    let (_server, mut client) = with_blob().await;
    let ask = put("disks/disk?comp=metadata").with("x-ms-meta-epoch", 7);
    client.ask(ask).await.is(200);
    let told = client.ask(get("disks/disk?comp=metadata")).await.is(200);
    assert_eq!(told.header("x-ms-meta-epoch"), "7");
    client.ask(put("more?restype=container")).await.is(201);
    client.ask(get("more?restype=container")).await.is(200);
    let again = client.ask(put("more?restype=container")).await;
    again.refused(409, "ContainerAlreadyExists");
    client.ask(delete("more?restype=container")).await.is(202);
    let gone = client.ask(get("more?restype=container")).await;
    gone.refused(404, "ContainerNotFound");
}

#[tokio::test]
async fn blobs_are_listed_by_prefix_folder_by_folder_and_page_by_page() {
    let (_server, mut client) = with_blob().await;
    for name in ["a/1", "a/2", "a%26/3", "b/c/4"] {
        client.ask(create(name, 512)).await.is(201);
    }
    let mut listed = async |query: &str| {
        let path = format!("disks?restype=container&comp=list{query}");
        client.ask(get(&path)).await.is(200)
    };
    let all = listed("").await;
    assert_eq!(
        all.elements("Name"),
        ["a&amp;/3", "a/1", "a/2", "b/c/4", "disk"]
    );
    assert_eq!(listed("&prefix=a/").await.elements("Name"), ["a/1", "a/2"]);
    let folders = listed("&delimiter=/").await;
    assert_eq!(folders.elements("Name"), ["a&amp;/", "a/", "b/", "disk"]);
    let first = listed("&prefix=a/&maxresults=1").await;
    assert_eq!(first.elements("Name"), ["a/1"]);
    let marker = first.elements("NextMarker").pop().unwrap();
    let rest = listed(&format!("&prefix=a/&maxresults=1&marker={marker}")).await;
    assert_eq!(rest.elements("Name"), ["a/2"]);
    assert_eq!(rest.elements("NextMarker"), [""]);
}

#[tokio::test]
async fn a_snapshot_of_a_long_sparse_blob_and_many_writes_cost_little() {
    let (server, mut client) = with_blob().await;
    client.ask(create("disk", 8 << 30)).await.is(201);
    for index in 0..20_u8 {
        let start = u64::from(index) * (400 << 20);
        client.ask(write(start, 512, index)).await.is(201);
        snapshot(&mut client).await;
    }
    let view = server.blob("disks", "disk").unwrap();
    assert_eq!(view.snapshots().len(), 20);
    assert_eq!(view.written().len(), 20);
}

#[tokio::test]
async fn a_log_of_writes_has_them_in_the_order_in_which_they_were_done() {
    let (server, mut client) = with_blob().await;
    let fenced = write(512, 512, 1).with("x-ms-if-sequence-number-le", 0);
    client.ask(fenced).await.is(201);
    client
        .ask(write(0, 512, 1).with("x-ms-if-sequence-number-lt", 0))
        .await
        .is(412);
    client.ask(clear(1024, 512)).await.is(201);
    let view = server.blob("disks", "disk").unwrap();
    let [first, second] = view.writes() else {
        panic!("{:?}", view.writes());
    };
    assert_eq!(
        (first.start, first.len, first.kind),
        (512, 512, WriteKind::Put)
    );
    let condition = SequenceCondition {
        order: SequenceOrder::AtMost,
        number: 0,
    };
    assert_eq!(first.sequence, [condition]);
    assert_eq!((second.start, second.kind), (1024, WriteKind::Clear));
    assert!(first.arrived < second.arrived && first.executed < second.executed);
    assert!(!first.is_late);
}

#[tokio::test]
async fn a_server_serves_on_a_runtime_that_is_there_and_stops_when_it_is_dropped() {
    for threads in [None, Some(2)] {
        let spec = PageBlobSpec {
            threads,
            ..PageBlobSpec::default()
        };
        let server = PageBlobServer::start(spec).unwrap();
        let mut client = Client::new(server.endpoint());
        client.ask(create("disk", 512)).await.is(201);
        drop(server);
        // The connection that is open ends, and no other is made.
        assert!(client.try_ask(get("disks/disk")).await.is_none());
    }
}
