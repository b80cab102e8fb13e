//! What is held to its limit, and what arrives.

use std::sync::Arc;

use super::*;
use crate::stream::{FRAME_COST, RecvError, RecvHalf, SendHalf};
use crate::{CloseReason, Closed, Pace, frame};

/// A stream that the agent opened: its sending half and the server's receiving one. The first of a
/// link exists when it is asked for; the rest only once the server has allowed them.
async fn stream(rig: &Rig) -> (SendHalf, RecvHalf) {
    let (mut send, _recv) = rig.agent.open_stream().await.unwrap();
    // A stream shows itself with its first bytes.
    send.send_frame(KIND, &[Bytes::from_static(b"hello")])
        .await
        .unwrap();
    let (_send, mut recv) = rig.server.accept_stream().await.unwrap();
    let hello = recv.recv_frame(limit).await.unwrap().unwrap();
    assert_eq!(&hello.body[..], b"hello");
    (send, recv)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mib_through_four_streams_arrive_intact() {
    const FRAMES: usize = 16;
    let rig = rig().await;
    rig.server.allow_streams(4);
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..4 {
        let (mut send, _) = rig.agent.open_stream().await.unwrap();
        tasks.spawn(async move {
            for index in 0..FRAMES {
                let body = pattern(seed * FRAMES + index, 1 << 20);
                let tag = Bytes::copy_from_slice(&[u8::try_from(seed).unwrap()]);
                let pieces = [
                    tag,
                    body.slice(..500_000),
                    body.slice(500_000..(1 << 20) - 1),
                ];
                send.send_frame(KIND, &pieces).await.unwrap();
            }
            send.finish().await.unwrap();
        });
    }
    for _ in 0..4 {
        let (_, mut recv) = rig.server.accept_stream().await.unwrap();
        tasks.spawn(async move {
            let mut index = 0;
            while let Some(frame) = recv.recv_frame(limit).await.unwrap() {
                let seed = usize::from(frame.body[0]);
                let want = pattern(seed * FRAMES + index, 1 << 20);
                assert!(frame.body[1..] == want[..(1 << 20) - 1], "{seed} {index}");
                index += 1;
            }
            assert_eq!(index, FRAMES);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let stats = rig.server.stats();
    assert!(stats.bytes_received > 64 << 20, "{stats:?}");
    assert!(rig.server_budget.high_water() <= rig.server_budget.capacity());
}

#[tokio::test]
async fn a_frame_beyond_its_limit_closes_before_a_byte_is_taken() {
    let rig = rig().await;
    let (mut send, mut recv) = stream(&rig).await;
    let before = (rig.server_budget.used(), rig.server_budget.high_water());
    let body = Bytes::from(vec![0; (1 << 20) + 1]);
    let sending = tokio::spawn(async move { send.send_frame(KIND, &[body]).await });
    let error = recv.recv_frame(limit).await.unwrap_err();
    assert!(
        matches!(
            error,
            RecvError::Frame(frame::FrameError::TooLong { len: 1_048_577, .. })
        ),
        "{error:?}"
    );
    assert_eq!(
        (rig.server_budget.used(), rig.server_budget.high_water()),
        before
    );
    let seen = rig.agent.closed().await;
    assert_eq!(seen.reason(), Some(CloseReason::Frame), "{seen}");
    let own = rig.server.closed().await;
    assert_eq!(
        own,
        Closed::ByUs {
            reason: CloseReason::Frame
        }
    );
    // The sender either got everything out before or learned of it.
    let _ = sending.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_stops_within_a_frame_is_cut() {
    let ca = ca();
    let mut config = server_config(server(&ca));
    config.tuning.pace = Pace {
        header: Duration::from_millis(200),
        body: Duration::from_millis(200),
        rate_min: u32::MAX,
        send_stall: None,
    };
    let rig = rig_with(config, client_config(agent(&ca)), budget()).await;
    let (send, mut recv) = stream(&rig).await;
    let used = rig.server_budget.used();
    let mut raw = send.into_raw();
    let header = frame::FrameHeader {
        kind: KIND,
        body_len: 1_000,
    };
    raw.write(&header.encode()).await;
    raw.write(b"and no more").await;
    let error = recv.recv_frame(limit).await.unwrap_err();
    assert!(matches!(error, RecvError::Slow { .. }), "{error:?}");
    assert_eq!(rig.agent.closed().await.reason(), Some(CloseReason::Slow));
    assert_eq!(rig.server_budget.used(), used);
}

#[tokio::test]
async fn the_budget_is_full_again_when_the_links_are_gone() {
    let Rig {
        mut listener,
        connector,
        address,
        agent,
        server,
        server_budget,
    } = rig().await;
    let one_link = server_budget.used() - listener.standing();
    assert_eq!(one_link, 3 << 20, "a window of 1 MiB");
    let mut links = vec![(agent, server)];
    for _ in 0..3 {
        let more = connect_to(&mut listener, &connector, address, &named()).await;
        links.push(more.unwrap());
    }
    assert_eq!(server_budget.used(), listener.standing() + 4 * one_link);

    // A frame that somebody still works on outlives its link, and is counted as long.
    let (agent, server) = &links[0];
    let (mut send, _recv) = agent.open_stream().await.unwrap();
    send.send_frame(KIND, &[pattern(0, 100_000)]).await.unwrap();
    let (_send, mut recv) = server.accept_stream().await.unwrap();
    let frame = recv.recv_frame(limit).await.unwrap().unwrap();
    drop((recv, _send));
    for (agent, _) in &links {
        agent.close(CloseReason::Shutdown, "");
    }
    for (_, server) in &links {
        let closed = server.closed().await;
        assert_eq!(closed.reason(), Some(CloseReason::Shutdown));
    }
    drop((links, send, _recv));
    assert_eq!(
        server_budget.used(),
        listener.standing() + 100_000 + FRAME_COST
    );
    drop(frame);
    assert_eq!(server_budget.used(), listener.standing());
    listener.shutdown(CloseReason::Shutdown).await;
    assert_eq!(server_budget.used(), 0);
}

#[tokio::test]
async fn a_budget_without_room_refuses_the_link_with_limit() {
    let ca = ca();
    let mut config = server_config(server(&ca));
    config.tuning.handshake_timeout = Duration::from_millis(300);
    let (mut listener, address) = bound(config.clone(), budget());
    let room = listener.standing() + (4 << 20);
    listener.shutdown(CloseReason::Shutdown).await;
    let server_budget = ByteBudget::new(room);
    (listener, _) = (Listener::bind(config, server_budget).unwrap(), address);
    let address = listener.local_address().unwrap();
    let connector = connector(agent(&ca));
    let first = connect_to(&mut listener, &connector, address, &named()).await;
    let _first = first.unwrap();
    let second = connect_to(&mut listener, &connector, address, &named()).await;
    let Err(ConnectError::Closed { source, .. }) = second else {
        panic!("{second:?}");
    };
    assert_eq!(source.reason(), Some(CloseReason::Limit));
}

#[tokio::test]
async fn links_beyond_the_limit_are_told_that_the_server_is_busy() {
    let ca = ca();
    let mut config = server_config(server(&ca));
    config.links_max = 1;
    let rig = rig_with(config, client_config(agent(&ca)), budget()).await;
    let Rig {
        mut listener,
        connector,
        address,
        agent,
        server,
        ..
    } = rig;
    let second = connect_to(&mut listener, &connector, address, &named()).await;
    assert!(
        matches!(second, Err(ConnectError::Busy { .. })),
        "{second:?}"
    );
    drop((agent, server));
    let third = connect_to(&mut listener, &connector, address, &named()).await;
    assert!(third.is_ok(), "{third:?}");
}

#[tokio::test]
async fn nobody_there_is_a_timeout() {
    let ca = ca();
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = client_config(agent(&ca));
    config.tuning.handshake_timeout = Duration::from_millis(200);
    let connector = Connector::bind(config, budget()).unwrap();
    let address = nobody.local_addr().unwrap();
    let error = connector.connect(address, &named()).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert_eq!(error.remedy(), crate::Remedy::Retry);
}

#[tokio::test]
async fn of_several_addresses_the_first_that_answers_counts() {
    let ca = ca();
    let (mut listener, address) = listener(server(&ca));
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let away = nobody.local_addr().unwrap();
    // Of another family than the connector's socket.
    let unreachable = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port()));
    let mut config = client_config(agent(&ca));
    config.tuning.handshake_timeout = Duration::from_secs(1);
    let connector = Connector::bind(config, budget()).unwrap();
    let expected = named();
    let addresses = [unreachable, away, address];
    let (link, accepted) = tokio::join!(
        connector.connect_any(&addresses, &expected),
        listener.accept()
    );
    let (_link, accepted) = (link.unwrap().unwrap(), accepted.unwrap());
    assert_eq!(accepted.peer().identity, Identity::Agent(MACHINE));

    let none_does = connector.connect_any(&[unreachable, away], &expected).await;
    let error = none_does.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { address } if address == away));
    assert!(connector.connect_any(&[], &expected).await.is_none());
}

#[tokio::test]
async fn the_server_opens_no_stream_before_the_agent_allows_one() {
    let rig = rig().await;
    let early = tokio::time::timeout(Duration::from_millis(50), rig.server.open_stream()).await;
    assert!(early.is_err());
    rig.agent.allow_streams(1);
    assert!(rig.server.open_stream().await.is_ok());
}

#[tokio::test]
async fn streams_beyond_the_allowance_wait() {
    let rig = rig().await;
    let first = stream(&rig).await;
    let wait = Duration::from_millis(50);
    let second = tokio::time::timeout(wait, rig.agent.open_stream()).await;
    assert!(second.is_err(), "one stream was allowed");
    rig.server.allow_streams(2);
    rig.agent.open_stream().await.unwrap();
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_never_exceeds_the_socket_nor_what_was_taken_for_it() {
    let ca = ca();
    let mut config = server_config(server(&ca));
    config.tuning.receive_window_start = 64 * 1024;
    config.tuning.socket_buffer_len = 512 * 1024;
    let rig = rig_with(config, client_config(agent(&ca)), budget()).await;
    let (mut send, mut recv) = stream(&rig).await;
    let sending = tokio::spawn(async move {
        for _ in 0..64 {
            send.send_frame(KIND, &[pattern(0, 1 << 20)]).await.unwrap();
        }
        send.finish().await.unwrap();
    });
    while let Some(frame) = recv.recv_frame(limit).await.unwrap() {
        drop(frame);
        let window = usize::try_from(rig.server.stats().receive_window).unwrap();
        assert!(window <= 512 * 1024, "{window}");
        let taken = rig.server_budget.used() - rig.listener.standing();
        assert!(taken >= window * 3, "{taken} for a window of {window}");
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn a_small_socket_makes_the_first_window_small_too() {
    let ca = ca();
    let mut config = server_config(server(&ca));
    config.tuning.socket_buffer_len = 128 * 1024;
    let rig = rig_with(config, client_config(agent(&ca)), budget()).await;
    assert_eq!(rig.server.stats().receive_window, 128 * 1024);
    assert_eq!(rig.agent.stats().receive_window, 1 << 20);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_when_it_is_bound() {
    let ca = ca();
    for mtu_max in [0, MTU_MIN - 1, MTU_MAX + 1, u16::MAX] {
        let mut config = server_config(server(&ca));
        config.tuning.mtu_max = mtu_max;
        let error = Listener::bind(config, budget()).err();
        assert!(matches!(error, Some(BindError::Mtu { .. })), "{error:?}");
    }
    for (start, max) in [(0, 1 << 20), (WINDOW_MIN - 1, 1 << 20), (1 << 20, 1 << 19)] {
        let mut config = server_config(server(&ca));
        config.tuning.receive_window_start = start;
        config.tuning.receive_window_max = max;
        let error = Listener::bind(config, budget()).err();
        assert!(matches!(error, Some(BindError::Window { .. })), "{error:?}");
    }
    let small = Listener::bind(server_config(server(&ca)), ByteBudget::new(1 << 20));
    let error = small.err();
    assert!(matches!(error, Some(BindError::Budget { .. })), "{error:?}");
    let (listener, address) = listener(server(&ca));
    let mut config = server_config(server(&ca));
    config.listen = address;
    let error = Listener::bind(config, budget()).err();
    assert!(matches!(error, Some(BindError::Socket(_))), "{error:?}");
    drop(listener);
}

#[tokio::test]
async fn a_listener_that_stops_tells_its_peers() {
    let rig = rig().await;
    rig.listener.shutdown(CloseReason::Shutdown).await;
    let closed = rig.agent.closed().await;
    assert_eq!(closed.reason(), Some(CloseReason::Shutdown));
    drop(Arc::new(rig.server));
}
