//! The framing over links in memory, with a clock that only moves when everybody waits.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use everpoint_units::{MachineId, ServerId, WallTime};

use super::*;
use crate::budget::ByteBudget;
use crate::identity::Identity;
use crate::link::{Link, Pace, Peer};
use crate::memory::{End, pair};

const KIND: u8 = 7;

fn limit(kind: u8) -> Option<u32> {
    (kind == KIND).then_some(1 << 20)
}

fn end(identity: Identity, budget: usize) -> End {
    End {
        peer: Peer {
            identity,
            expires_at: WallTime(0),
            address: ([127, 0, 0, 1], 1).into(),
        },
        budget: ByteBudget::new(budget),
        pace: Pace {
            header: Duration::from_secs(2),
            body: Duration::from_secs(10),
            rate_min: 1 << 20,
            send_stall: Some(Duration::from_secs(60)),
        },
    }
}

/// A stream from one side to the other; the receiver's budget; both links, which it needs to live.
struct Stream {
    send: SendHalf,
    recv: RecvHalf,
    budget: ByteBudget,
    sender: Link,
    receiver: Link,
}

async fn stream(budget: usize) -> Stream {
    let receiving = end(Identity::Agent(MachineId([1; 16])), budget);
    let budget = receiving.budget.clone();
    let sending = end(Identity::Server(ServerId([2; 16])), 1 << 20);
    let (sender, receiver) = pair(sending, receiving);
    receiver.allow_streams(2);
    let (send, _) = sender.open_stream().await.expect("a live link");
    let (_, recv) = receiver.accept_stream().await.expect("a live link");
    Stream {
        send,
        recv,
        budget,
        sender,
        receiver,
    }
}

/// Bytes that are not a frame, past the framing of the sending half.
async fn send_raw(stream: &mut Stream, bytes: &[u8]) {
    stream.send.pending.push(Bytes::copy_from_slice(bytes));
    stream.send.flush().await.expect("room in the pipe");
}

fn header(kind: u8, body_len: u32) -> [u8; FRAME_HEADER_LEN] {
    FrameHeader { kind, body_len }.encode()
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn frames_arrive_in_order_and_whole_and_end_with_none() {
    let mut stream = stream(1 << 20).await;
    let pieces = [&b"one"[..], b"", b" body"].map(Bytes::from_static);
    stream.send.send_frame(KIND, &pieces).await.unwrap();
    stream.send.send_frame(KIND, &pieces[..1]).await.unwrap();
    stream.send.finish().await.unwrap();

    let first = stream.recv.recv_frame(limit).await.unwrap().unwrap();
    assert_eq!((first.kind, &first.body[..]), (KIND, &b"one body"[..]));
    let second = stream.recv.recv_frame(limit).await.unwrap().unwrap();
    assert_eq!(&second.body[..], b"one");
    assert_eq!(stream.budget.used(), 11 + 2 * FRAME_COST);
    drop((first, second));
    assert_eq!(stream.budget.used(), 0);
    for _ in 0..2 {
        assert!(stream.recv.recv_frame(limit).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_beyond_its_limit_closes_the_link_before_a_byte_is_taken() {
    let mut stream = stream(1 << 30).await;
    send_raw(&mut stream, &header(KIND, (1 << 20) + 1)).await;
    let error = stream.recv.recv_frame(limit).await.unwrap_err();
    assert!(
        matches!(error, RecvError::Frame(FrameError::TooLong { .. })),
        "{error:?}"
    );
    assert_eq!(stream.budget.high_water(), 0);
    let seen = stream.sender.closed().await;
    assert_eq!(seen.reason(), Some(CloseReason::Frame));
    assert!(seen.to_string().contains("1048577"), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_bad_framing_closes_with_frame() {
    let mut reserved = header(KIND, 1);
    reserved[6] = 1;
    let cases: [&[u8]; 4] = [
        &header(KIND, 0),
        &header(KIND + 1, 1),
        &reserved,
        &[header(KIND, 100).as_slice(), b"only this"].concat(),
    ];
    for bytes in cases {
        let mut stream = stream(1 << 20).await;
        send_raw(&mut stream, bytes).await;
        stream.send.finish().await.unwrap();
        let error = stream.recv.recv_frame(limit).await.unwrap_err();
        assert!(matches!(error, RecvError::Frame(_)), "{error:?}");
        let seen = stream.sender.closed().await;
        assert_eq!(seen.reason(), Some(CloseReason::Frame));
        assert_eq!(stream.budget.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_header_and_an_end_is_bad_framing() {
    let mut stream = stream(1 << 20).await;
    send_raw(&mut stream, &header(KIND, 5)[..3]).await;
    stream.send.finish().await.unwrap();
    let error = stream.recv.recv_frame(limit).await.unwrap_err();
    assert!(
        matches!(
            error,
            RecvError::Frame(FrameError::Truncated { have: 3, want: 8 })
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_rest_between_frames_but_not_within_one() {
    let mut stream = stream(1 << 20).await;
    let rest = Duration::from_secs(3_600);
    let waits = timeout(rest, stream.recv.recv_frame(limit)).await;
    assert!(waits.is_err(), "an idle stream is nobody's fault");

    send_raw(&mut stream, &header(KIND, 5)[..3]).await;
    let began = Instant::now();
    let error = stream.recv.recv_frame(limit).await.unwrap_err();
    assert!(matches!(error, RecvError::Slow { .. }), "{error:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(
        stream.sender.closed().await.reason(),
        Some(CloseReason::Slow)
    );
}

#[tokio::test(start_paused = true)]
async fn one_byte_a_second_is_cut_when_the_whole_frame_is_due() {
    let mut stream = stream(1 << 22).await;
    send_raw(&mut stream, &header(KIND, 1 << 20)).await;
    let began = Instant::now();
    let drip = async {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            stream.send.pending.push(Bytes::from_static(b"x"));
            if stream.send.flush().await.is_err() {
                return;
            }
        }
    };
    let recv = async {
        let error = stream.recv.recv_frame(limit).await.unwrap_err();
        (error, began.elapsed())
    };
    let ((error, took), ()) = tokio::join!(recv, drip);
    assert!(matches!(error, RecvError::Slow { .. }), "{error:?}");
    // 10 s, and 1 MiB at 1 MiB/s.
    assert_eq!(took.as_secs(), 11);
    assert_eq!(stream.budget.used(), 0, "what it claimed is free again");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_budget_is_not_held_against_the_peer() {
    let mut stream = stream(2_000).await;
    let held = stream.budget.try_take(1_500).unwrap();
    send_raw(&mut stream, &header(KIND, 1_000)).await;
    let waits = timeout(Duration::from_secs(600), stream.recv.recv_frame(limit)).await;
    assert!(waits.is_err());
    drop(held);
    let rest = async {
        let later = timeout(Duration::from_secs(5), std::future::pending::<()>());
        assert!(later.await.is_err());
        send_raw_half(&mut stream.send, &[0; 1_000]).await;
    };
    let (frame, ()) = tokio::join!(stream.recv.recv_frame(limit), rest);
    assert_eq!(frame.unwrap().unwrap().body.len(), 1_000);
}

async fn send_raw_half(send: &mut SendHalf, bytes: &[u8]) {
    send.pending.push(Bytes::copy_from_slice(bytes));
    send.flush().await.expect("room in the pipe");
}

#[tokio::test(start_paused = true)]
async fn a_hold_on_the_link_stops_its_deadlines_until_it_is_dropped() {
    let mut stream = stream(1 << 20).await;
    send_raw(&mut stream, &header(KIND, 1_000)).await;
    let hold = stream.receiver.hold_deadlines();
    let waits = timeout(Duration::from_secs(600), stream.recv.recv_frame(limit)).await;
    assert!(waits.is_err());
    drop(hold);
    let began = Instant::now();
    let error = stream.recv.recv_frame(limit).await.unwrap_err();
    assert!(matches!(error, RecvError::Slow { .. }), "{error:?}");
    assert!(began.elapsed() <= Duration::from_secs(22));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_receive_goes_on_where_it_stood() {
    let mut stream = stream(1 << 20).await;
    let body: Vec<u8> = (0..=255).collect();
    let mut bytes = header(KIND, 256).to_vec();
    bytes.extend_from_slice(&body);
    for byte in &bytes[..bytes.len() - 1] {
        send_raw(&mut stream, &[*byte]).await;
        assert!(poll_once(pin!(stream.recv.recv_frame(limit))).is_pending());
    }
    send_raw(&mut stream, &bytes[bytes.len() - 1..]).await;
    let frame = stream.recv.recv_frame(limit).await.unwrap().unwrap();
    assert_eq!(&frame.body[..], &body[..]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_receive_keeps_its_place_in_the_budgets_queue() {
    let mut stream = stream(2_000).await;
    let held = stream.budget.try_take(2_000).unwrap();
    send_raw(&mut stream, &header(KIND, 1_000)).await;
    assert!(poll_once(pin!(stream.recv.recv_frame(limit))).is_pending());
    let mut later = pin!(stream.budget.take(2_000));
    assert!(poll_once(later.as_mut()).is_pending());
    drop(held);
    assert!(
        poll_once(later.as_mut()).is_pending(),
        "the frame was first"
    );
    assert_eq!(stream.budget.used(), 0, "granted, and not collected yet");
    assert!(poll_once(pin!(stream.recv.recv_frame(limit))).is_pending());
    assert_eq!(stream.budget.used(), 1_000 + FRAME_COST);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_send_goes_out_once_and_whole() {
    let mut stream = stream(1 << 22).await;
    let large = Bytes::from(vec![1; 300_000]);
    let cancelled = timeout(
        Duration::from_secs(1),
        stream.send.send_frame(KIND, std::slice::from_ref(&large)),
    );
    assert!(cancelled.await.is_err(), "the pipe is smaller than that");
    let small = [Bytes::from_static(b"next")];
    let send = async {
        stream.send.send_frame(KIND, &small).await.unwrap();
    };
    let recv = async {
        let first = stream.recv.recv_frame(limit).await.unwrap().unwrap();
        assert_eq!(first.body, large);
        let second = stream.recv.recv_frame(limit).await.unwrap().unwrap();
        assert_eq!(&second.body[..], b"next");
    };
    tokio::join!(send, recv);
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_that_is_dropped_breaks_the_stream_and_not_the_link() {
    let Stream {
        mut send,
        mut recv,
        receiver,
        sender: _sender,
        ..
    } = stream(1 << 22).await;
    let large = [Bytes::from(vec![1; 300_000])];
    assert!(poll_once(pin!(send.send_frame(KIND, &large))).is_pending());
    drop(send);
    let error = recv.recv_frame(limit).await.unwrap_err();
    assert!(matches!(error, RecvError::Broken { code: 0 }), "{error:?}");
    assert!(poll_once(pin!(receiver.closed())).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_cut() {
    let mut stream = stream(1 << 20).await;
    let large = [Bytes::from(vec![1; 300_000])];
    let began = Instant::now();
    let error = stream.send.send_frame(KIND, &large).await.unwrap_err();
    assert!(matches!(error, SendError::Stalled { .. }), "{error:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(60));
    assert_eq!(
        stream.receiver.closed().await.reason(),
        Some(CloseReason::Slow)
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_frame_is_the_senders_mistake_and_costs_nothing() {
    let mut stream = stream(1 << 20).await;
    let error = stream.send.send_frame(KIND, &[Bytes::new()]).await;
    assert!(matches!(error, Err(SendError::Length { len: 0, .. })));
    let body = [Bytes::from_static(b"x")];
    stream.send.send_frame(KIND, &body).await.unwrap();
    let frame = stream.recv.recv_frame(limit).await.unwrap().unwrap();
    assert_eq!(&frame.body[..], b"x");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_the_whole_budget_cannot_hold_is_a_fault_and_not_a_wait() {
    let mut stream = stream(1_000).await;
    send_raw(&mut stream, &header(KIND, 1_000)).await;
    let error = stream.recv.recv_frame(limit).await.unwrap_err();
    assert!(matches!(error, RecvError::Budget(_)), "{error:?}");
    assert_eq!(
        stream.sender.closed().await.reason(),
        Some(CloseReason::Internal)
    );
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_allowance_wait_for_an_old_one_to_end() {
    let Stream {
        send,
        recv,
        sender,
        receiver: _receiver,
        ..
    } = stream(1 << 20).await;
    let second = sender.open_stream().await.unwrap();
    let mut third = pin!(sender.open_stream());
    assert!(poll_once(third.as_mut()).is_pending());
    drop(second);
    assert!(third.await.is_ok());
    drop((send, recv));
}

#[tokio::test(start_paused = true)]
async fn an_end_wakes_everybody_and_names_its_reason_on_both_sides() {
    let Stream {
        send: _send,
        mut recv,
        sender,
        receiver,
        ..
    } = stream(1 << 20).await;
    let waits = tokio::spawn(async move { recv.recv_frame(limit).await });
    tokio::task::yield_now().await;
    sender.close(CloseReason::Redirect, "go to 10.0.0.2");
    sender.close(CloseReason::Internal, "too late");
    let error = waits.await.unwrap().unwrap_err();
    let RecvError::Link(closed) = error else {
        panic!("{error:?}");
    };
    assert_eq!(closed.reason(), Some(CloseReason::Redirect));
    assert!(closed.to_string().contains("go to 10.0.0.2"));
    let own = Closed::ByUs {
        reason: CloseReason::Redirect,
    };
    assert_eq!(sender.closed().await, own);
    assert_eq!(sender.open_stream().await.err(), Some(own));
    assert!(receiver.accept_stream().await.is_err());
}
