//! Requests that are refused, each with the status and the code that the reference gives.

use std::time::{Duration, SystemTime};

use super::client::{delete, head};
use super::*;
use crate::rigs::page_blobs::dates;

#[tokio::test]
async fn who_shows_no_credential_or_no_date_is_not_heard() {
    let (_server, mut client) = with_blob().await;
    let ask = || get("disks/disk");
    let none = [ask().without("authorization"), ask().without("x-ms-date")];
    for ask in none {
        client
            .ask(ask)
            .await
            .refused(401, "NoAuthenticationInformation");
    }
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let now = SystemTime::now();
    for time in [now - minutes(16), now + minutes(16)] {
        let ask = ask().with("x-ms-date", dates::http_date(time));
        client.ask(ask).await.refused(403, "AuthenticationFailed");
    }
    for time in [now - minutes(14), now + minutes(14)] {
        let ask = ask().with("x-ms-date", dates::http_date(time));
        client.ask(ask).await.is(200);
    }
    let other = ask().with("authorization", "Basic abc");
    client.ask(other).await.refused(403, "AuthenticationFailed");
    let no_version = ask().without("x-ms-version");
    client
        .ask(no_version)
        .await
        .refused(400, "MissingRequiredHeader");
    client
        .ask(ask().with("authorization", "Bearer abc"))
        .await
        .is(200);
    let sas = get("disks/disk?sv=2023-11-03&sig=abc");
    let sas = sas
        .without("authorization")
        .without("x-ms-date")
        .without("x-ms-version");
    client.ask(sas).await.is(200);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (server, mut client) = with_blob().await;
    client
        .ask(get("nowhere/disk"))
        .await
        .refused(404, "ContainerNotFound");
    client
        .ask(get("disks/nothing"))
        .await
        .refused(404, "BlobNotFound");
    client
        .ask(delete("disks/nothing"))
        .await
        .refused(404, "BlobNotFound");
    let missing = client.ask(head("disks/nothing")).await.is(404);
    assert_eq!(missing.header("x-ms-error-code"), "BlobNotFound");
    let url = format!("{}/disks/nothing", server.endpoint());
    let copy = put("disks/copy").with("x-ms-copy-source", url);
    client
        .ask(copy)
        .await
        .refused(404, "CannotVerifyCopySource");
    client
        .ask(put("disks/disk?comp=tier"))
        .await
        .refused(501, "NotImplemented");
}

#[tokio::test]
async fn a_blob_of_an_impossible_length_is_not_made() {
    let (_server, mut client) = with_blob().await;
    for len in [1, 513, (8 << 40) + 512] {
        let refused = client.ask(create("other", len)).await;
        refused.refused(400, "InvalidHeaderValue");
        let resize = put("disks/disk?comp=properties").with("x-ms-blob-content-length", len);
        client.ask(resize).await.refused(400, "InvalidHeaderValue");
    }
    let no_len = create("other", 512).without("x-ms-blob-content-length");
    client
        .ask(no_len)
        .await
        .refused(400, "MissingRequiredHeader");
    let no_type = create("other", 512).without("x-ms-blob-type");
    client
        .ask(no_type)
        .await
        .refused(400, "MissingRequiredHeader");
    let number = create("other", 512).with("x-ms-blob-sequence-number", 1_u64 << 63);
    client.ask(number).await.refused(400, "InvalidHeaderValue");
}

#[tokio::test]
async fn a_blob_that_is_to_be_new_takes_no_other_s_place() {
    let (_server, mut client) = with_blob().await;
    let new = create("disk", 512).with("if-none-match", "*");
    client.ask(new).await.refused(409, "BlobAlreadyExists");
    client.ask(create("disk", 512)).await.is(201);
    let new = create("other", 512).with("if-none-match", "*");
    client.ask(new).await.is(201);
    let known = create("nothing", 512).with("if-match", "*");
    client.ask(known).await.refused(412, "ConditionNotMet");
}

#[tokio::test]
async fn a_put_of_pages_that_do_not_fit_is_refused() {
    let (_server, mut client) = with_blob().await;
    let range = |range: &str| write(0, 512, 1).with("x-ms-range", range);
    let cases = [
        (range("bytes=1-512"), 416, "InvalidPageRange"),
        (range("bytes=0-510"), 416, "InvalidPageRange"),
        (write(BLOB_LEN, 512, 1), 416, "InvalidPageRange"),
        (write(BLOB_LEN - 512, 1024, 1), 416, "InvalidPageRange"),
        (clear(BLOB_LEN - 512, 1024), 416, "InvalidPageRange"),
        (write(0, (4 << 20) + 512, 1), 413, "RequestBodyTooLarge"),
        (range("bytes=0-1023"), 400, "InvalidHeaderValue"),
        (range("bytes=0-"), 400, "InvalidHeaderValue"),
        (range("pages=0-1"), 400, "InvalidHeaderValue"),
        (clear(0, 512).with_body("x"), 400, "InvalidHeaderValue"),
        (
            write(0, 512, 1).without("x-ms-range"),
            400,
            "MissingRequiredHeader",
        ),
        (
            write(0, 512, 1).without("x-ms-page-write"),
            400,
            "MissingRequiredHeader",
        ),
        (
            write(0, 512, 1).with("content-md5", "eA=="),
            400,
            "Md5Mismatch",
        ),
        (
            write(0, 512, 1).with("x-ms-content-crc64", "eA=="),
            400,
            "Crc64Mismatch",
        ),
    ];
    for (ask, status, code) in cases {
        client.ask(ask).await.refused(status, code);
    }
    assert!(ranges(&mut client, "").await.is_empty());
    let wins = range("bytes=0-511").with("range", "bytes=1-2");
    client.ask(wins).await.is(201);
}

#[tokio::test]
async fn a_put_without_a_length_is_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (server, _client) = with_blob().await;
    let place = server.endpoint().strip_prefix("http://").unwrap();
    let (address, _) = place.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let date = dates::http_date(SystemTime::now());
    let ask = format!(
        "PUT /everpoint/disks/disk?comp=page HTTP/1.1\r\nhost: x\r\nx-ms-version: 2023-11-03\r\n\
         x-ms-date: {date}\r\nauthorization: SharedKey a:b\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 411 "), "{said}");
    assert!(said.contains("MissingContentLengthHeader"), "{said}");
}

#[tokio::test]
async fn conditions_that_are_not_met_refuse_a_write_and_save_a_read() {
    let (_server, mut client) = with_blob().await;
    let etag = client
        .ask(head("disks/disk"))
        .await
        .header("etag")
        .to_owned();
    let hour = Duration::from_secs(3600);
    let before = dates::http_date(SystemTime::now() - hour);
    let after = dates::http_date(SystemTime::now() + hour);
    let unmet = [
        ("if-match", "\"other\""),
        ("if-none-match", &etag),
        ("if-modified-since", &after),
        ("if-unmodified-since", &before),
    ];
    for (name, value) in unmet {
        let refused = client.ask(write(0, 512, 1).with(name, value)).await;
        refused.refused(412, "ConditionNotMet");
        let status = match name {
            "if-none-match" | "if-modified-since" => 304,
            _ => 412,
        };
        client
            .ask(get("disks/disk").with(name, value))
            .await
            .is(status);
    }
    let met = [
        ("if-match", etag.as_str()),
        ("if-none-match", "\"other\""),
        ("if-modified-since", &before),
        ("if-unmodified-since", &after),
    ];
    for (name, value) in met {
        client
            .ask(get("disks/disk").with(name, value))
            .await
            .is(200);
    }
    client
        .ask(write(0, 512, 1).with("if-match", &etag))
        .await
        .is(201);
    let stale = client.ask(write(0, 512, 1).with("if-match", &etag)).await;
    stale.refused(412, "ConditionNotMet");
    let number = write(0, 512, 1).with("x-ms-if-sequence-number-eq", 1);
    client
        .ask(number)
        .await
        .refused(412, "SequenceNumberConditionNotMet");
}

#[tokio::test]
async fn a_sequence_number_needs_an_action_and_most_actions_a_number() {
    let (_server, mut client) = with_blob().await;
    let properties = || put("disks/disk?comp=properties");
    let number = properties().with("x-ms-blob-sequence-number", 1);
    client
        .ask(number)
        .await
        .refused(400, "MissingRequiredHeader");
    for action in ["max", "update"] {
        let refused = client.ask(set_sequence(action, None)).await;
        refused.refused(400, "MissingRequiredHeader");
    }
    for (action, number) in [("increment", Some(1)), ("raise", Some(1))] {
        let refused = client.ask(set_sequence(action, number)).await;
        refused.refused(400, "InvalidHeaderValue");
    }
    let last = (1_u64 << 63) - 1;
    client.ask(set_sequence("update", Some(last))).await.is(200);
    let refused = client.ask(set_sequence("increment", None)).await;
    refused.refused(409, "SequenceNumberIncrementTooLarge");
}

#[tokio::test]
async fn reads_and_lists_that_make_no_sense_are_refused() {
    let (_server, mut client) = with_blob().await;
    let past = get("disks/disk").with("range", format!("bytes={BLOB_LEN}-"));
    client.ask(past).await.refused(416, "InvalidRange");
    let first = snapshot(&mut client).await;
    let second = snapshot(&mut client).await;
    let cases = [
        ("&maxresults=0", 400, "OutOfRangeQueryParameterValue"),
        ("&maxresults=-1", 400, "OutOfRangeQueryParameterValue"),
        ("&maxresults=x", 400, "InvalidQueryParameterValue"),
        ("&marker=x", 400, "InvalidQueryParameterValue"),
        ("&snapshot=x", 404, "BlobNotFound"),
        ("&prevsnapshot=x", 409, "PreviousSnapshotNotFound"),
    ];
    for (query, status, code) in cases {
        let path = format!("disks/disk?comp=pagelist{query}");
        client.ask(get(&path)).await.refused(status, code);
    }
    let newer = format!("disks/disk?comp=pagelist&prevsnapshot={second}&snapshot={first}");
    let newer = client.ask(get(&newer)).await;
    newer.refused(400, "PreviousSnapshotCannotBeNewer");
    client.ask(create("disk", BLOB_LEN)).await.is(201);
    let over = format!("disks/disk?comp=pagelist&prevsnapshot={first}");
    client.ask(get(&over)).await.refused(409, "BlobOverwritten");
    client
        .ask(delete("disks/disk"))
        .await
        .refused(409, "SnapshotsPresent");
    let all = delete("disks/disk").with("x-ms-delete-snapshots", "include");
    client.ask(all).await.is(202);
}

#[tokio::test]
async fn a_block_blob_has_no_pages() {
    let (server, mut client) = with_blob().await;
    let block = put("disks/disk").with("x-ms-blob-type", "BlockBlob");
    client.ask(block.with_body("abc")).await.is(201);
    assert_eq!(server.blob("disks", "disk").unwrap().content(), b"abc");
    let cases = [
        write(0, 512, 1),
        clear(0, 512),
        get("disks/disk?comp=pagelist"),
        set_sequence("increment", None),
    ];
    for ask in cases {
        client.ask(ask).await.refused(409, "InvalidBlobType");
    }
    let seen = client.ask(head("disks/disk")).await.is(200);
    assert_eq!(seen.header("x-ms-blob-type"), "BlockBlob");
    assert_eq!(seen.header("x-ms-blob-sequence-number"), "");
}

#[tokio::test]
async fn pages_from_a_source_that_does_not_fit_are_refused() {
    let (server, mut client) = with_blob().await;
    let ask = |source: &str, from: &str, to: &str| {
        put("disks/disk?comp=page")
            .with("x-ms-page-write", "update")
            .with(
                "x-ms-copy-source",
                format!("{}/{source}", server.endpoint()),
            )
            .with("x-ms-source-range", from)
            .with("x-ms-range", to)
    };
    let sector = "bytes=0-511";
    let cases = [
        (
            ask("disks/nothing", sector, sector),
            404,
            "CannotVerifyCopySource",
        ),
        (
            ask("disks/disk", "bytes=0-1023", sector),
            400,
            "InvalidHeaderValue",
        ),
        (
            ask("disks/disk", "bytes=0-5", sector),
            416,
            "InvalidPageRange",
        ),
        (
            ask("disks/disk", "bytes=1048576-1049087", sector),
            416,
            "InvalidRange",
        ),
        (
            ask("disks/disk", sector, "bytes=1048576-1049087"),
            416,
            "InvalidPageRange",
        ),
        (
            ask("disks/disk", sector, sector).without("x-ms-source-range"),
            400,
            "MissingRequiredHeader",
        ),
        (
            ask("disks/disk", "bytes=0-4194815", "bytes=0-4194815"),
            413,
            "RequestBodyTooLarge",
        ),
    ];
    for (ask, status, code) in cases {
        client.ask(ask).await.refused(status, code);
    }
}
