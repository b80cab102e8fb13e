//! The client against a server that the test plays: replies in every shape, honest and not.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small, or meant to wrap"
)]

use std::sync::Arc;

use everpoint_units::ByteLen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::client::connect::Connected;
use crate::client::{ClientConfig, NbdClient, Remedy};
use crate::export::{Allocation, ExportInfo};
use crate::protocol::{
    CMD_DISC, CMD_WRITE, REPLY_FLAG_DONE, REPLY_TYPE_BLOCK_STATUS, REPLY_TYPE_ERROR,
    REPLY_TYPE_NONE, REPLY_TYPE_OFFSET_DATA, REPLY_TYPE_OFFSET_HOLE, REQUEST_LEN,
    STRUCTURED_REPLY_MAGIC,
};
use crate::reply::push_simple;
use crate::request::{Request, Terms, parse_request};
use crate::stream::Stream;

const CONTEXT: u32 = 5;

/// A client, and the raw other end of its connection.
struct Rig {
    client: Arc<NbdClient>,
    wire: UnixStream,
}

impl Rig {
    fn new(structured: bool) -> Self {
        let (stream, wire) = UnixStream::pair().unwrap();
        let connected = Connected {
            stream: Stream::Unix(stream),
            terms: Terms {
                info: ExportInfo::disk(ByteLen(64 << 20)),
                structured,
                allocation: structured,
                flush: true,
                fua: true,
            },
            context: structured.then_some(CONTEXT),
        };
        let client = Arc::new(NbdClient::run(connected, &ClientConfig::default()));
        Self { client, wire }
    }

    async fn request(&mut self) -> Request {
        let mut bytes = [0; REQUEST_LEN];
        self.wire.read_exact(&mut bytes).await.unwrap();
        parse_request(&bytes).unwrap()
    }

    /// A read of `len` bytes at 4096 that has been asked; its cookie, and what will come of it.
    async fn asked(&mut self, len: u32) -> (u64, ReadTask) {
        let client = Arc::clone(&self.client);
        let task = tokio::spawn(async move { client.read(ByteOffset(4_096), len).await });
        (self.request().await.cookie, task)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).await.unwrap();
    }
}

type ReadTask = tokio::task::JoinHandle<Result<Bytes, RequestError>>;

fn chunk(cookie: u64, flags: u16, kind: u16, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let mut out = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    out.extend_from_slice(&content);
    out
}

fn data(cookie: u64, flags: u16, at: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(
        cookie,
        flags,
        REPLY_TYPE_OFFSET_DATA,
        &[&at.to_be_bytes(), bytes],
    )
}

fn done(cookie: u64) -> Vec<u8> {
    chunk(cookie, REPLY_FLAG_DONE, REPLY_TYPE_NONE, &[])
}

async fn lost(rig: &Rig, task: ReadTask) -> Disconnected {
    let error = task.await.unwrap().expect_err("the connection is lost");
    assert_eq!(error.remedy(), Remedy::Reconnect);
    let RequestError::Disconnected(reason) = error else {
        panic!("{error}");
    };
    let again = rig.client.flush().await.expect_err("it stays lost");
    assert!(matches!(again, RequestError::Disconnected(_)));
    reason
}

#[tokio::test]
async fn chunks_of_several_reads_may_be_mixed() {
    let mut rig = Rig::new(true);
    let (a, read_a) = rig.asked(1_024).await;
    let (b, read_b) = rig.asked(512).await;
    let hole = [&4_608_u64.to_be_bytes()[..], &512_u32.to_be_bytes()];
    let script = [
        chunk(a, 0, REPLY_TYPE_OFFSET_HOLE, &hole),
        data(b, REPLY_FLAG_DONE, 4_096, &[2; 512]),
        data(a, 0, 4_096, &[1; 512]),
        done(a),
    ];
    rig.send(&script.concat()).await;
    assert_eq!(read_b.await.unwrap().unwrap(), vec![2; 512]);
    let read = read_a.await.unwrap().unwrap();
    assert_eq!(read[..512], [1; 512]);
    assert_eq!(read[512..], [0; 512]);
}

#[tokio::test]
async fn an_error_chunk_fails_the_read_and_nothing_else() {
    let mut rig = Rig::new(true);
    let (cookie, read) = rig.asked(512).await;
    let error = [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"bad"];
    let script = [
        data(cookie, 0, 4_096, &[1; 512]),
        chunk(cookie, 0, REPLY_TYPE_ERROR, &error),
        done(cookie),
    ];
    rig.send(&script.concat()).await;
    let error = read.await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::Server(Errno::Io)), "{error}");
    let (cookie, read) = rig.asked(512).await;
    rig.send(&data(cookie, REPLY_FLAG_DONE, 4_096, &[1; 512]))
        .await;
    assert_eq!(read.await.unwrap().unwrap(), vec![1; 512]);
}

#[tokio::test]
async fn any_request_may_be_answered_by_chunks() {
    let mut rig = Rig::new(true);
    let client = Arc::clone(&rig.client);
    let flush = tokio::spawn(async move { client.flush().await });
    let cookie = rig.request().await.cookie;
    let error = [&28_u32.to_be_bytes()[..], &0_u16.to_be_bytes()];
    rig.send(&chunk(cookie, REPLY_FLAG_DONE, REPLY_TYPE_ERROR, &error))
        .await;
    let answer = flush.await.unwrap();
    assert!(matches!(answer, Err(RequestError::Server(Errno::NoSpace))));

    let client = Arc::clone(&rig.client);
    let flush = tokio::spawn(async move { client.flush().await });
    let cookie = rig.request().await.cookie;
    rig.send(&done(cookie)).await;
    assert!(flush.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_status_is_cut_at_the_question_and_must_be_of_the_agreed_context() {
    for context in [CONTEXT, CONTEXT + 1] {
        let mut rig = Rig::new(true);
        let client = Arc::clone(&rig.client);
        let status = tokio::spawn(async move { client.block_status(ByteOffset(0), 1_024).await });
        let cookie = rig.request().await.cookie;
        let content = [
            context.to_be_bytes(),
            512_u32.to_be_bytes(),
            3_u32.to_be_bytes(),
            8_192_u32.to_be_bytes(),
            0_u32.to_be_bytes(),
        ];
        let content: Vec<&[u8]> = content.iter().map(|word| &word[..]).collect();
        let flags = REPLY_FLAG_DONE;
        rig.send(&chunk(cookie, flags, REPLY_TYPE_BLOCK_STATUS, &content))
            .await;
        let answer = status.await.unwrap();
        if context == CONTEXT {
            let extent = |hole| Allocation {
                len: 512,
                hole,
                zero: hole,
            };
            assert_eq!(answer.unwrap(), [extent(true), extent(false)]);
        } else {
            assert!(matches!(answer, Err(RequestError::Disconnected(_))));
        }
    }
}

#[tokio::test]
async fn a_server_that_answers_what_was_not_asked_is_left() {
    for (structured, make) in [
        (
            true,
            (|cookie| data(cookie + 1, 1, 4_096, &[1; 512])) as fn(u64) -> Vec<u8>,
        ),
        (true, |cookie| data(cookie, 1, 0, &[1; 512])),
        (true, |cookie| data(cookie, 1, 4_096, &[1; 513])),
        (true, |cookie| data(cookie, 1, 4_096, &[1; 511])),
        (true, |cookie| {
            [
                data(cookie, 0, 4_096, &[1; 512]),
                data(cookie, 1, 4_096, &[1; 512]),
            ]
            .concat()
        }),
        (true, done),
        (true, |cookie| chunk(cookie, 0, REPLY_TYPE_NONE, &[])),
        (true, |cookie| {
            chunk(cookie, 1, REPLY_TYPE_BLOCK_STATUS, &[&[0; 12]])
        }),
        (true, |cookie| {
            let mut out = Vec::new();
            push_simple(&mut out, cookie, Some(Errno::Io));
            out
        }),
        (false, |cookie| data(cookie, 1, 4_096, &[1; 512])),
        (false, |cookie| {
            let mut out = Vec::new();
            push_simple(&mut out, cookie + 1, None);
            out
        }),
    ] {
        let mut rig = Rig::new(structured);
        let (cookie, read) = rig.asked(512).await;
        rig.send(&make(cookie)).await;
        let reason = lost(&rig, read).await;
        assert!(matches!(reason, Disconnected::Mismatch), "{reason}");
    }
}

#[tokio::test]
async fn garbage_and_ends_are_told_apart() {
    let mut rig = Rig::new(true);
    let (_, read) = rig.asked(512).await;
    rig.send(b"HTTP/1.1 400 Bad Request\r\n").await;
    assert!(matches!(lost(&rig, read).await, Disconnected::Reply(_)));

    let mut rig = Rig::new(true);
    let (_, read) = rig.asked(512).await;
    rig.wire.shutdown().await.unwrap();
    assert!(matches!(lost(&rig, read).await, Disconnected::Closed));

    let mut rig = Rig::new(true);
    let (cookie, read) = rig.asked(512).await;
    let whole = data(cookie, REPLY_FLAG_DONE, 4_096, &[1; 512]);
    rig.send(&whole[..300]).await;
    rig.wire.shutdown().await.unwrap();
    assert!(matches!(lost(&rig, read).await, Disconnected::CutOff));
}

#[tokio::test]
async fn without_structured_replies_answers_come_in_any_order() {
    let mut rig = Rig::new(false);
    let (a, read_a) = rig.asked(512).await;
    let (b, read_b) = rig.asked(70_144).await;
    let mut script = Vec::new();
    push_simple(&mut script, b, None);
    script.resize(script.len() + 70_144, 2);
    push_simple(&mut script, a, Some(Errno::Io));
    rig.send(&script).await;
    assert_eq!(read_b.await.unwrap().unwrap(), vec![2; 70_144]);
    let error = read_a.await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::Server(Errno::Io)));
}

#[tokio::test]
async fn a_request_that_was_given_up_is_still_followed_to_its_end() {
    let mut rig = Rig::new(true);
    let (a, read_a) = rig.asked(512).await;
    read_a.abort();
    assert!(read_a.await.unwrap_err().is_cancelled());
    let (b, read_b) = rig.asked(512).await;
    rig.send(&data(a, REPLY_FLAG_DONE, 4_096, &[1; 512])).await;
    rig.send(&data(b, REPLY_FLAG_DONE, 4_096, &[2; 512])).await;
    assert_eq!(read_b.await.unwrap().unwrap(), vec![2; 512]);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_without_asking_the_server() {
    let rig = Rig::new(true);
    let refused = rig.client.read(ByteOffset(1), 512).await.unwrap_err();
    assert!(matches!(refused, RequestError::Refused(_)));
    assert_eq!(refused.remedy(), Remedy::Correct);
    let long = Bytes::from(vec![0; (32 << 20) + 512]);
    let refused = rig.client.write(ByteOffset(0), long, false).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))));
    let mut byte = [0];
    let unread = rig.wire.try_read(&mut byte).unwrap_err();
    assert_eq!(unread.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_write_longer_than_the_socket_holds_goes_out_whole() {
    let mut rig = Rig::new(true);
    let payload: Vec<u8> = (0..8_u32 << 20).map(|i| (i / 4_096) as u8).collect();
    let client = Arc::clone(&rig.client);
    let bytes = Bytes::from(payload.clone());
    let write = tokio::spawn(async move { client.write(ByteOffset(0), bytes, true).await });
    let request = rig.request().await;
    assert_eq!((request.command, request.flags), (CMD_WRITE, 1));
    let mut received = vec![0; 8 << 20];
    rig.wire.read_exact(&mut received).await.unwrap();
    assert!(received == payload);
    rig.send(&done(request.cookie)).await;
    assert!(write.await.unwrap().is_ok());
}

#[tokio::test]
async fn an_orderly_end_says_goodbye_after_what_is_in_flight() {
    let mut rig = Rig::new(true);
    let (cookie, read) = rig.asked(512).await;
    rig.send(&data(cookie, REPLY_FLAG_DONE, 4_096, &[1; 512]))
        .await;
    assert!(read.await.unwrap().is_ok());
    let client = Arc::into_inner(rig.client).unwrap();
    let ending = tokio::spawn(client.disconnect());
    let mut bytes = [0; REQUEST_LEN];
    rig.wire.read_exact(&mut bytes).await.unwrap();
    assert_eq!(parse_request(&bytes).unwrap().command, CMD_DISC);
    drop(rig.wire);
    ending.await.unwrap();
}
