//! One connection against an export whose requests finish when the test says so.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small, or meant to wrap"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use everpoint_units::{ByteLen, ByteOffset};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::export::{Allocation, ExportInfo, ZeroFlags, ZeroSupport};
use crate::protocol::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_REQ_ONE,
    CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES,
};
use crate::reply::{ChunkKind, ReplyHeader, parse_error, parse_hole, parse_reply, parse_status};
use crate::request::encode_request;
use crate::{Errno, MemoryExport};

const PAGE: usize = 4_096;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what memory does. Writes at an offset that has a gate wait for it.
struct Gated {
    memory: MemoryExport,
    calls: Mutex<Vec<(&'static str, u64, bool)>>,
    gates: Mutex<BTreeMap<u64, oneshot::Receiver<()>>>,
    finished: Mutex<Vec<u64>>,
}

impl Gated {
    fn new() -> Self {
        Self {
            memory: MemoryExport::new(ByteLen(64 << 20)),
            calls: Mutex::default(),
            gates: Mutex::default(),
            finished: Mutex::default(),
        }
    }

    fn gate(&self, at: usize) -> oneshot::Sender<()> {
        let (open, gate) = oneshot::channel();
        self.gates.lock().unwrap().insert(at as u64, gate);
        open
    }

    fn called(&self, what: &'static str, at: ByteOffset, flag: bool) {
        self.calls.lock().unwrap().push((what, at.0, flag));
    }

    fn called_at(&self) -> Vec<u64> {
        self.calls.lock().unwrap().iter().map(|c| c.1).collect()
    }
}

impl Export for Gated {
    fn describe(&self) -> ExportInfo {
        self.memory.describe()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        self.called("read", at, false);
        if at.0 == 13 * 512 {
            return Ok(Bytes::from_static(b"short"));
        }
        self.memory.read(at, len).await
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        self.called("write", at, fua);
        let gate = self.gates.lock().unwrap().remove(&at.0);
        if let Some(gate) = gate {
            let _ = gate.await;
        }
        self.memory.write(at, data, fua).await?;
        self.finished.lock().unwrap().push(at.0);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.called("flush", ByteOffset(0), false);
        Err(Errno::Io)
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.called("trim", at, fua);
        self.memory.trim(at, len, fua).await
    }

    async fn write_zeroes(&self, at: ByteOffset, _: u32, flags: ZeroFlags) -> Result<(), Errno> {
        self.called("zeroes", at, flags.fua);
        Err(Errno::NotSup)
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        self.called("status", at, false);
        self.memory.block_status(at, len).await
    }
}

/// A server task on one end of a pipe, and the raw other end.
struct Rig {
    export: Arc<Gated>,
    budget: Arc<Semaphore>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Ended>,
    wire: DuplexStream,
    cookie: u64,
}

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        request_count_max: 128,
        bytes_max: 64 << 20,
        stall_max: Duration::from_secs(3_600),
        drain_max: Duration::from_secs(3_600),
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(limits(), 1 << 20, 256 << 20, true)
    }

    fn with(limits: ConnectionLimits, pipe: usize, budget: usize, structured: bool) -> Self {
        let export = Arc::new(Gated::new());
        let budget = Arc::new(Semaphore::new(budget));
        let (wire, stream) = tokio::io::duplex(pipe);
        let (stop, stopped) = oneshot::channel::<()>();
        let terms = Terms {
            info: export.describe(),
            structured,
            allocation: structured,
            flush: true,
            fua: true,
        };
        let served = tokio::spawn({
            let (export, budget) = (Arc::clone(&export), Arc::clone(&budget));
            async move {
                let stop = async {
                    if stopped.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                serve(&*export, stream, &terms, &limits, &budget, stop).await
            }
        });
        Self {
            export,
            budget,
            stop: Some(stop),
            served,
            wire,
            cookie: 0,
        }
    }

    async fn send(&mut self, command: u16, flags: u16, at: usize, len: usize) -> u64 {
        self.cookie += 1;
        let request = Request {
            flags,
            command,
            cookie: self.cookie,
            offset: at as u64,
            len: u32::try_from(len).unwrap(),
        };
        self.wire
            .write_all(&encode_request(&request))
            .await
            .unwrap();
        self.cookie
    }

    async fn write(&mut self, at: usize, byte: u8, len: usize) -> u64 {
        let cookie = self.send(CMD_WRITE, 0, at, len).await;
        self.wire.write_all(&vec![byte; len]).await.unwrap();
        cookie
    }

    async fn header(&mut self) -> ReplyHeader {
        let mut bytes = Vec::new();
        loop {
            if let Some(header) = parse_reply(&bytes).unwrap() {
                return header;
            }
            bytes.push(self.wire.read_u8().await.expect("a reply"));
        }
    }

    async fn simple(&mut self) -> (u64, Option<Errno>) {
        match self.header().await {
            ReplyHeader::Simple { cookie, errno } => (cookie, errno),
            chunk @ ReplyHeader::Chunk { .. } => panic!("{chunk:?}"),
        }
    }

    async fn chunk(&mut self) -> (u64, ChunkKind, Vec<u8>) {
        match self.header().await {
            ReplyHeader::Chunk {
                cookie, kind, len, ..
            } => {
                let mut content = vec![0; len as usize];
                self.wire.read_exact(&mut content).await.unwrap();
                (cookie, kind, content)
            }
            simple @ ReplyHeader::Simple { .. } => panic!("{simple:?}"),
        }
    }

    /// How it ended. A server that does not end fails the test rather than hold it up.
    async fn ended(&mut self) -> Ended {
        let ended = tokio::time::timeout(PATIENCE, &mut self.served).await;
        ended.expect("the connection ends").unwrap()
    }

    /// Waits until the export has been called this often, and says where.
    async fn calls(&self, count: usize) -> Vec<u64> {
        while self.export.called_at().len() < count {
            tokio::task::yield_now().await;
        }
        self.export.called_at()
    }

    /// Lets the server do whatever it can do now.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn calls_begin_in_the_order_of_arrival_and_run_side_by_side() {
    let mut rig = Rig::new();
    let mut gates = Vec::new();
    for n in 0..100 {
        gates.push(rig.export.gate(n * PAGE));
    }
    for n in (0..100).rev() {
        rig.write(n * PAGE, 1, PAGE).await;
    }
    let expected: Vec<u64> = (0..100).rev().map(|n| n * PAGE as u64).collect();
    assert_eq!(rig.calls(100).await, expected);

    // They may finish in any order, and each is answered when it does.
    gates.remove(40).send(()).unwrap();
    assert_eq!(rig.simple().await, (60, None));
    for gate in gates {
        gate.send(()).unwrap();
    }
    for _ in 0..99 {
        assert_eq!(rig.simple().await.1, None);
    }
}

#[tokio::test]
async fn a_request_that_waits_does_not_hold_up_the_next() {
    let mut rig = Rig::new();
    let gate = rig.export.gate(0);
    let slow = rig.write(0, 1, PAGE).await;
    let fast = rig.write(PAGE, 2, PAGE).await;
    assert_eq!(rig.simple().await, (fast, None));
    gate.send(()).unwrap();
    assert_eq!(rig.simple().await, (slow, None));
}

#[tokio::test]
async fn what_was_begun_is_finished_although_the_client_has_gone() {
    let mut rig = Rig::new();
    let gate = rig.export.gate(0);
    rig.write(0, 7, PAGE).await;
    rig.calls(1).await;
    rig.wire = tokio::io::duplex(1).0;
    rig.settle().await;
    assert!(!rig.served.is_finished(), "the write is still running");
    gate.send(()).unwrap();
    rig.ended().await;
    assert_eq!(*rig.export.finished.lock().unwrap(), [0]);
    assert_eq!(rig.export.memory.contents()[..PAGE], [7; PAGE]);
}

#[tokio::test]
async fn a_goodbye_is_answered_with_everything_that_was_begun() {
    let mut rig = Rig::new();
    let gate = rig.export.gate(0);
    let cookie = rig.write(0, 7, PAGE).await;
    rig.send(CMD_DISC, 0, 0, 0).await;
    rig.write(PAGE, 8, PAGE).await;
    rig.calls(1).await;
    gate.send(()).unwrap();
    assert_eq!(rig.simple().await, (cookie, None));
    assert_eq!(rig.wire.read(&mut [0]).await.unwrap(), 0);
    assert!(matches!(rig.ended().await, Ended::Left));
    assert_eq!(rig.export.called_at(), [0], "nothing after the goodbye");
}

#[tokio::test]
async fn a_stop_answers_what_was_begun_and_begins_nothing() {
    let mut rig = Rig::new();
    let gate = rig.export.gate(0);
    let cookie = rig.write(0, 7, PAGE).await;
    rig.calls(1).await;
    rig.stop.take().unwrap().send(()).unwrap();
    rig.settle().await;
    rig.write(PAGE, 8, PAGE).await;
    gate.send(()).unwrap();
    assert_eq!(rig.simple().await, (cookie, None));
    assert!(matches!(rig.ended().await, Ended::Stopped));
    assert_eq!(rig.export.called_at(), [0]);
}

#[tokio::test]
async fn a_refused_write_is_skipped_with_its_payload_and_the_connection_lives() {
    let mut rig = Rig::new();
    for (at, len, errno) in [
        (1, PAGE, Errno::Inval),
        (0, 100_001, Errno::Inval),
        (64 << 20, 1 << 20, Errno::NoSpace),
        (0, 0, Errno::Inval),
    ] {
        let cookie = rig.write(at, 1, len).await;
        assert_eq!(rig.simple().await, (cookie, Some(errno)));
    }
    let cookie = rig.write(0, 9, PAGE).await;
    assert_eq!(rig.simple().await, (cookie, None));
    assert_eq!(rig.export.called_at(), [0]);
}

#[tokio::test]
async fn garbage_ends_the_connection_after_what_was_begun() {
    let mut rig = Rig::new();
    let cookie = rig.write(0, 9, PAGE).await;
    rig.wire.write_all(&[0xee; REQUEST_LEN]).await.unwrap();
    assert_eq!(rig.simple().await, (cookie, None));
    assert_eq!(rig.wire.read(&mut [0]).await.unwrap(), 0);
    let ended = rig.ended().await;
    assert!(matches!(
        ended,
        Ended::Garbage(BadMagic { found: 0xeeee_eeee })
    ));
}

#[tokio::test]
async fn a_payload_that_no_client_may_send_ends_the_connection() {
    let mut rig = Rig::new();
    rig.send(CMD_WRITE, 0, 0, (32 << 20) + 512).await;
    let ended = rig.ended().await;
    assert!(matches!(ended, Ended::PayloadTooLong { len: 33_554_944 }));
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_request_is_told_from_one_that_ends_between_two() {
    for (len, cut) in [(0, false), (1, true), (27, true), (28, true), (100, true)] {
        let mut rig = Rig::new();
        let mut bytes = encode_request(&Request {
            flags: 0,
            command: CMD_WRITE,
            cookie: 1,
            offset: 0,
            len: 512,
        })
        .to_vec();
        bytes.resize(540, 0);
        rig.wire.write_all(&bytes[..len]).await.unwrap();
        rig.wire.shutdown().await.unwrap();
        let ended = rig.ended().await;
        assert_eq!(matches!(ended, Ended::CutOff), cut, "{len}: {ended}");
        assert_eq!(rig.budget.available_permits(), 256 << 20);
    }
}

#[tokio::test]
async fn one_connection_holds_no_more_than_its_bytes() {
    let bytes_max = 3 * PAGE;
    let limits = ConnectionLimits {
        bytes_max,
        ..limits()
    };
    let mut rig = Rig::with(limits, 1 << 20, 256 << 20, true);
    let gates: Vec<_> = (0..5).map(|n| rig.export.gate(n * PAGE)).collect();
    for n in 0..5 {
        rig.write(n * PAGE, 1, PAGE).await;
    }
    rig.calls(3).await;
    rig.settle().await;
    assert_eq!(rig.export.called_at().len(), 3);
    assert_eq!(rig.budget.available_permits(), (256 << 20) - bytes_max);
    for (n, gate) in gates.into_iter().enumerate() {
        rig.calls((n + 3).min(5)).await;
        gate.send(()).unwrap();
        rig.simple().await;
    }
    assert_eq!(rig.budget.available_permits(), 256 << 20);
}

#[tokio::test]
async fn a_request_above_the_connections_bytes_runs_alone() {
    let limits = ConnectionLimits {
        bytes_max: PAGE,
        ..limits()
    };
    let mut rig = Rig::with(limits, 1 << 20, 256 << 20, true);
    let cookie = rig.write(0, 1, 16 * PAGE).await;
    assert_eq!(rig.simple().await, (cookie, None));
}

#[tokio::test]
async fn no_more_requests_run_than_are_allowed() {
    let limits = ConnectionLimits {
        request_count_max: 4,
        ..limits()
    };
    let mut rig = Rig::with(limits, 1 << 20, 256 << 20, true);
    let gates: Vec<_> = (0..6).map(|n| rig.export.gate(n * PAGE)).collect();
    for n in 0..6 {
        rig.write(n * PAGE, 1, PAGE).await;
    }
    rig.calls(4).await;
    rig.settle().await;
    assert_eq!(rig.export.called_at().len(), 4);
    drop(gates);
    for _ in 0..6 {
        rig.simple().await;
    }
}

#[tokio::test]
async fn when_the_servers_budget_is_used_up_the_next_request_waits_for_it() {
    let mut rig = Rig::with(limits(), 1 << 20, 2 * PAGE, true);
    let gate = rig.export.gate(0);
    rig.write(0, 1, 2 * PAGE).await;
    rig.calls(1).await;
    assert_eq!(rig.budget.available_permits(), 0);
    rig.write(2 * PAGE, 1, PAGE).await;
    let behind = rig.send(CMD_TRIM, 0, 0, PAGE).await;
    rig.settle().await;
    assert_eq!(
        rig.export.called_at().len(),
        1,
        "order is kept while it waits"
    );
    gate.send(()).unwrap();
    rig.simple().await;
    rig.simple().await;
    assert_eq!(rig.simple().await, (behind, None));
    assert_eq!(rig.budget.available_permits(), 2 * PAGE);
}

#[tokio::test]
async fn the_share_of_a_read_is_given_back_when_its_last_byte_is_sent() {
    let mut rig = Rig::with(limits(), 1_024, 1 << 20, true);
    rig.write(0, 1, 8 * PAGE).await;
    rig.simple().await;
    rig.send(CMD_READ, 0, 0, 8 * PAGE).await;
    rig.calls(2).await;
    rig.settle().await;
    assert_eq!(rig.budget.available_permits(), (1 << 20) - 8 * PAGE);
    let (_, kind, content) = rig.chunk().await;
    assert_eq!((kind, content.len()), (ChunkKind::Data, 8 + 8 * PAGE));
    rig.settle().await;
    assert_eq!(rig.budget.available_permits(), 1 << 20);
}

#[tokio::test]
async fn a_client_that_stops_inside_a_payload_is_given_up() {
    let limits = ConnectionLimits {
        stall_max: Duration::from_millis(20),
        ..limits()
    };
    let mut rig = Rig::with(limits, 1 << 20, 1 << 20, true);
    rig.send(CMD_WRITE, 0, 0, PAGE).await;
    rig.wire.write_all(&[1; 100]).await.unwrap();
    assert!(matches!(rig.ended().await, Ended::Stalled));
    assert_eq!(rig.budget.available_permits(), 1 << 20);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_replies_is_given_up() {
    let limits = ConnectionLimits {
        stall_max: Duration::from_millis(20),
        ..limits()
    };
    let mut rig = Rig::with(limits, 1_024, 1 << 20, true);
    rig.send(CMD_READ, CMD_FLAG_DF, 0, PAGE).await;
    assert!(matches!(rig.ended().await, Ended::Stalled));
    assert_eq!(rig.budget.available_permits(), 1 << 20);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_replies_is_soon_heard_no_longer() {
    let mut rig = Rig::with(limits(), 1_024, 1 << 20, true);
    let mut sent = 0_u64;
    // More than the pipe and the batch hold: at some point the server must stop taking requests.
    while tokio::time::timeout(Duration::from_millis(50), rig.send(CMD_TRIM, 0, 0, PAGE))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 10_000, "the server keeps answering nobody");
    }
    assert!(rig.export.called_at().len() < 4_000);
}

/// A server whose replies do not leave: more of them than a batch have nobody who reads them.
async fn with_replies_that_wait(rig: &mut Rig, gates: Vec<oneshot::Sender<()>>) {
    rig.settle().await;
    for gate in gates {
        gate.send(()).unwrap();
    }
    rig.settle().await;
}

#[tokio::test]
async fn a_payload_that_is_whole_waits_while_replies_do_not_leave() {
    let mut rig = Rig::with(limits(), 256, 256 << 20, true);
    let gates: Vec<_> = (0..40).map(|n| rig.export.gate(n * PAGE)).collect();
    for n in 0..40 {
        rig.write(n * PAGE, 1, PAGE).await;
    }
    rig.calls(40).await;
    let last = rig.send(CMD_WRITE, 0, 50 * PAGE, PAGE).await;
    rig.wire.write_all(&[2; PAGE - 1]).await.unwrap();
    with_replies_that_wait(&mut rig, gates).await;
    rig.wire.write_all(&[2]).await.unwrap();
    rig.settle().await;
    assert!(!rig.served.is_finished(), "the client owes nothing");
    for _ in 0..40 {
        assert_eq!(rig.simple().await.1, None);
    }
    assert_eq!(rig.simple().await, (last, None));
}

#[tokio::test]
async fn a_refused_payload_is_not_read_ahead_while_replies_do_not_leave() {
    const LEN: usize = 100 << 10;
    let mut rig = Rig::with(limits(), 256, 256 << 20, true);
    let gates: Vec<_> = (0..40).map(|n| rig.export.gate(n * PAGE)).collect();
    for n in 0..40 {
        rig.write(n * PAGE, 1, PAGE).await;
    }
    rig.calls(40).await;
    rig.send(CMD_WRITE, 0, 64 << 20, LEN).await;
    with_replies_that_wait(&mut rig, gates).await;
    let (mut read, mut write) = tokio::io::split(&mut rig.wire);
    let sent = async { write.write_all(&[3; LEN]).await };
    let replies = async {
        // Room for all that a server without a bound would read.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        let mut replies = [0; 41 * 16];
        read.read_exact(&mut replies).await.map(|_| replies)
    };
    let (sent, replies) = tokio::join!(sent, replies);
    sent.expect("all of it is taken");
    let errno = replies.expect("every reply")[40 * 16 + 4..][..4].to_vec();
    assert_eq!(errno, 28_u32.to_be_bytes(), "no space: beyond the end");
}

#[tokio::test]
async fn zeroes_are_sent_as_a_hole_unless_one_piece_was_asked_for() {
    let mut rig = Rig::new();
    let cookie = rig.send(CMD_READ, 0, 2 * PAGE, 3 * PAGE).await;
    let (answered, kind, content) = rig.chunk().await;
    assert_eq!((answered, kind), (cookie, ChunkKind::Hole));
    let hole = parse_hole(content.as_slice().try_into().unwrap()).unwrap();
    assert_eq!((hole.at.0, hole.len), (2 * PAGE as u64, 3 * PAGE as u32));

    rig.send(CMD_READ, CMD_FLAG_DF, 2 * PAGE, PAGE).await;
    let (_, kind, content) = rig.chunk().await;
    assert_eq!(kind, ChunkKind::Data);
    assert_eq!(content[..8], (2 * PAGE as u64).to_be_bytes());
    assert_eq!(content[8..], [0; PAGE]);
}

#[tokio::test]
async fn without_structured_replies_a_read_is_a_header_and_its_data() {
    let mut rig = Rig::with(limits(), 1 << 20, 1 << 20, false);
    rig.write(0, 5, PAGE).await;
    rig.simple().await;
    let cookie = rig.send(CMD_READ, 0, 0, PAGE).await;
    assert_eq!(rig.simple().await, (cookie, None));
    let mut data = [0; PAGE];
    rig.wire.read_exact(&mut data).await.unwrap();
    assert_eq!(data, [5; PAGE]);
    let cookie = rig.send(CMD_READ, 0, 1, PAGE).await;
    assert_eq!(rig.simple().await, (cookie, Some(Errno::Inval)));
}

#[tokio::test]
async fn errors_of_reads_and_status_queries_are_structured_and_others_are_not() {
    let mut rig = Rig::new();
    for command in [CMD_READ, CMD_BLOCK_STATUS] {
        let cookie = rig.send(command, 0, 1, PAGE).await;
        let (answered, kind, content) = rig.chunk().await;
        assert_eq!((answered, kind), (cookie, ChunkKind::Error));
        assert_eq!(parse_error(&content), Ok(Errno::Inval));
    }
    let cookie = rig.send(CMD_TRIM, 0, 1, PAGE).await;
    assert_eq!(rig.simple().await, (cookie, Some(Errno::Inval)));
    let cookie = rig.send(CMD_FLUSH, 0, 0, 0).await;
    assert_eq!(rig.simple().await, (cookie, Some(Errno::Io)));
}

#[tokio::test]
async fn an_export_that_reads_a_wrong_length_is_an_io_error_and_no_torn_reply() {
    let mut rig = Rig::new();
    rig.send(CMD_READ, 0, 13 * 512, 512).await;
    let (_, kind, content) = rig.chunk().await;
    assert_eq!(kind, ChunkKind::Error);
    assert_eq!(parse_error(&content), Ok(Errno::Io));
}

#[tokio::test]
async fn a_status_query_is_answered_by_extent_and_one_extent_if_one_was_asked_for() {
    let mut rig = Rig::new();
    rig.write(PAGE, 1, PAGE).await;
    rig.simple().await;
    let extent = |len, hole| Allocation {
        len,
        hole,
        zero: hole,
    };
    rig.send(CMD_BLOCK_STATUS, 0, 0, 4 * PAGE).await;
    let (_, kind, content) = rig.chunk().await;
    assert_eq!(kind, ChunkKind::Status);
    assert_eq!(
        parse_status(&content),
        Ok((
            1,
            vec![
                extent(4_096, true),
                extent(4_096, false),
                extent(8_192, true)
            ]
        ))
    );
    rig.send(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, 4 * PAGE)
        .await;
    let (_, _, content) = rig.chunk().await;
    assert_eq!(parse_status(&content), Ok((1, vec![extent(4_096, true)])));
}

#[tokio::test]
async fn forced_unit_access_reaches_the_export_and_not_supported_answers_only_fast_zeroes() {
    let mut rig = Rig::new();
    assert_eq!(rig.export.describe().zeroes, ZeroSupport::Fast);
    rig.send(CMD_TRIM, CMD_FLAG_FUA, 0, PAGE).await;
    assert_eq!(rig.simple().await.1, None);
    rig.send(CMD_WRITE_ZEROES, CMD_FLAG_FUA, 0, PAGE).await;
    assert_eq!(rig.simple().await.1, Some(Errno::Inval));
    rig.send(CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO, 0, PAGE)
        .await;
    assert_eq!(rig.simple().await.1, Some(Errno::NotSup));
    rig.send(CMD_WRITE, CMD_FLAG_FUA, 0, 512).await;
    rig.wire.write_all(&[1; 512]).await.unwrap();
    assert_eq!(rig.simple().await.1, None);
    assert_eq!(
        *rig.export.calls.lock().unwrap(),
        [
            ("trim", 0, true),
            ("zeroes", 0, true),
            ("zeroes", 0, false),
            ("write", 0, true)
        ]
    );
}

#[tokio::test]
async fn payloads_of_any_length_arrive_whole_however_the_stream_is_cut() {
    for pipe in [100, 5_000, 1 << 20] {
        let mut rig = Rig::with(limits(), pipe, 256 << 20, true);
        let lens = [512, 4_096, 65_536, 70_144, 1 << 20, 512, 4_096];
        let mut at = 0;
        for (n, len) in lens.into_iter().enumerate() {
            rig.write(at, n as u8 + 1, len).await;
            assert_eq!(rig.simple().await.1, None);
            at += len;
        }
        let contents = rig.export.memory.contents();
        let mut at = 0;
        for (n, len) in lens.into_iter().enumerate() {
            assert!(contents[at..at + len].iter().all(|b| *b == n as u8 + 1));
            at += len;
        }
    }
}
