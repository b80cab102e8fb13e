//! Hostile peers of a process server: each loses its connection for a numbered reason, which is counted;
//! an honest agent on the same server does not notice, and nothing of what they sent is kept.

mod forge;
mod raw;
#[path = "../ingest/rig.rs"]
#[allow(dead_code, reason = "the other tests of this crate use the rest of it")]
mod rig;
mod world;

use std::net::UdpSocket;
use std::time::Duration;

use everpoint_format::Change;
use everpoint_format::digest::{PIECE_LEN, PlainDigest};
use everpoint_transport::pki::Ca;
use everpoint_transport::{CloseReason, Validity};
use everpoint_units::{DiskId, MachineId, WallTime};
use everpoint_wire::{Compare, FrameKind, RefuseReason, ToAgent, ToServer};
use futures::FutureExt as _;

use forge::{Forge, forged, put};
use raw::{Ended, Raw, frame, header, hello_of, message, receive};
use rig::{SECTORS, data, now, soon};
use world::World;

const DISK: DiskId = DiskId([0x0d; 16]);
const BLOCK: u8 = 2;
const MESSAGE: u8 = 1;
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_breaks_the_framing_or_a_block_is_closed_with_a_number_and_harms_nobody() {
    let mut world = World::begin().await;
    bad_frames(&mut world).await;
    bad_hellos(&mut world).await;
    bad_blocks(&mut world).await;
    bad_order(&mut world).await;
    world.end().await;
}

async fn bad_frames(world: &mut World) {
    let heads = [
        ("a length beyond any", header(u32::MAX, MESSAGE, 0)),
        ("no length", header(0, MESSAGE, 0)),
        ("an unknown kind", header(8, 77, 0)),
        ("reserved bytes", header(8, MESSAGE, 1)),
        ("a block before hello", header(500, BLOCK, 0)),
    ];
    for (what, head) in heads {
        let breaks = async |peer: &Raw| peer.open_with(&head).await;
        world.broken(what, CloseReason::Frame, breaks).await;
    }
    let heads = [
        (
            "a block beyond any",
            header((1 << 20) + (192 << 10) + 1, BLOCK, 0),
        ),
        ("an empty block", header(0, BLOCK, 0)),
    ];
    for (what, head) in heads {
        let breaks = async |peer: &Raw| {
            let hello = peer.hello(1).await;
            let mut disk = peer.disk(DISK).await;
            disk.0.write_all(&head).await.expect("sent");
            (hello, disk)
        };
        world.broken(what, CloseReason::Frame, breaks).await;
    }
    let half = async |peer: &Raw| {
        let mut stream = peer.open_with(&header(100, MESSAGE, 0)).await;
        stream.0.finish().expect("open");
        stream
    };
    world.broken("half a frame", CloseReason::Frame, half).await;
}

async fn bad_hellos(world: &mut World) {
    let noise = frame(FrameKind::Message, &[0xff; 64]);
    let breaks = async |peer: &Raw| peer.open_with(&noise).await;
    world.broken("noise", CloseReason::Frame, breaks).await;
    let many = async |peer: &Raw| {
        let hello = hello_of(peer.machine, 100_000);
        peer.open_with(&message(ToServer::Hello(hello))).await
    };
    world
        .broken("more disks than any", CloseReason::Frame, many)
        .await;
    let other = async |peer: &Raw| {
        let hello = hello_of(rig::MACHINE, 1);
        peer.open_with(&message(ToServer::Hello(hello))).await
    };
    world
        .broken("another's name", CloseReason::Authz, other)
        .await;
}

/// A peer that said hello and opened its disk sends these blocks.
async fn sends(
    world: &mut World,
    what: &str,
    reason: CloseReason,
    make: impl Fn(MachineId) -> Vec<bytes::Bytes>,
) {
    let breaks = async |peer: &Raw| {
        let hello = peer.hello(1).await;
        let mut disk = peer.disk(DISK).await;
        for block in make(peer.machine) {
            // The connection may be gone before the last one.
            let _ = disk.0.write_all(&frame(FrameKind::Block, &block)).await;
        }
        (hello, disk)
    };
    world.broken(what, reason, breaks).await;
}

type Lie = fn(&mut [u8]);

async fn bad_blocks(world: &mut World) {
    // Offsets are those of the record that follows the header of 176 bytes, and of the header.
    let lies: [(&str, Lie); 6] = [
        ("an offset that overflows", |bytes| {
            put(bytes, 184, &u64::MAX.to_le_bytes())
        }),
        ("an offset near the end of numbers", |bytes| {
            put(bytes, 184, &(u64::MAX / 512).to_le_bytes())
        }),
        ("an extent of nothing", |bytes| {
            put(bytes, 192, &0_u32.to_le_bytes())
        }),
        ("a payload that is too long", |bytes| {
            put(bytes, 16, &((1_u32 << 20) + 512).to_le_bytes());
            put(bytes, 192, &2_049_u32.to_le_bytes());
        }),
        ("a payload of more than it claims", |bytes| {
            put(bytes, 16, &(512_u32 << 9).to_le_bytes());
            put(bytes, 192, &512_u32.to_le_bytes());
        }),
        ("a payload of less than it claims", |bytes| {
            put(bytes, 16, &(2_048_u32 << 9).to_le_bytes());
            put(bytes, 192, &2_048_u32.to_le_bytes());
        }),
    ];
    for (what, lie) in lies {
        let make = |machine| vec![forged(machine, DISK, lie)];
        sends(world, what, CloseReason::Frame, make).await;
    }
    let damaged = |machine| {
        let mut bytes = Forge::new(machine, DISK)
            .block(vec![data(0, 64)])
            .to_bytes()
            .to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        vec![bytes.into(); 3]
    };
    sends(world, "damage, three times", CloseReason::Crc, damaged).await;
    let foreign = |_| vec![Forge::new(rig::MACHINE, DISK).first().to_bytes()];
    sends(
        world,
        "another machine's block",
        CloseReason::Authz,
        foreign,
    )
    .await;
    let other = |machine| vec![Forge::new(machine, rig::DISK).first().to_bytes()];
    sends(world, "another disk's block", CloseReason::Authz, other).await;
}

async fn bad_order(world: &mut World) {
    let after_first = |then: fn(&mut Forge) -> Vec<bytes::Bytes>| {
        move |machine| {
            let mut forge = Forge::new(machine, DISK);
            let mut blocks = vec![forge.first().to_bytes()];
            blocks.extend(then(&mut forge));
            blocks
        }
    };
    let beyond = after_first(|forge| vec![forge.block(vec![data(SECTORS - 1, 2)]).to_bytes()]);
    sends(
        world,
        "a write past the disk's end",
        CloseReason::Range,
        beyond,
    )
    .await;
    let ahead = after_first(|forge| {
        forge.seq = u64::MAX - 2;
        vec![forge.block(vec![data(0, 1)]).to_bytes()]
    });
    sends(world, "a seq that ran away", CloseReason::Order, ahead).await;
    let back = after_first(|forge| {
        forge.seq = 0;
        vec![forge.block(vec![data(0, 1)]).to_bytes()]
    });
    sends(world, "a seq that went back", CloseReason::Order, back).await;
    let no_beginning = |machine| vec![Forge::new(machine, DISK).block(vec![data(0, 1)]).to_bytes()];
    sends(
        world,
        "a generation without its beginning",
        CloseReason::Frame,
        no_beginning,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_floods_is_closed_with_a_number_and_harms_nobody() {
    let mut world = World::begin().await;
    let storm = |machine| {
        let mut forge = Forge::new(machine, DISK);
        let mut blocks = vec![forge.first().to_bytes()];
        blocks.extend((0..4).map(|_| forge.bookmarks(4_096).to_bytes()));
        blocks
    };
    sends(
        &mut world,
        "a storm of bookmarks",
        CloseReason::Limit,
        storm,
    )
    .await;
    let refused = |machine| {
        let mut forge = Forge::new(machine, DISK);
        let first = forge.first().to_bytes();
        forge.block(vec![data(0, 1)]);
        let noise = (0..1_u32 << 18)
            .flat_map(|i| blake(i).to_le_bytes())
            .collect();
        let gap = forge.block_of(vec![data(0, 2_048)], noise).to_bytes();
        std::iter::once(first).chain(vec![gap; 80]).collect()
    };
    sends(
        &mut world,
        "what was refused, again and again",
        CloseReason::Stale,
        refused,
    )
    .await;
    let compares = async |peer: &Raw| {
        let hello = peer.hello(1).await;
        let mut disk = peer.disk(DISK).await;
        let first = Forge::new(peer.machine, DISK).first().to_bytes();
        let mut bytes = frame(FrameKind::Block, &first);
        for request in 0..500 {
            bytes.extend(message(ToServer::Compare(Compare {
                request,
                first_piece: 0,
                digests: vec![PlainDigest::of(&[0; PIECE_LEN])],
            })));
        }
        let _ = disk.0.write_all(&bytes).await;
        (hello, disk)
    };
    world
        .broken("a flood of compares", CloseReason::Limit, compares)
        .await;
    let resets = async |peer: &Raw| {
        let hello = peer.hello(1).await;
        while let Ok((mut send, mut recv)) = soon("a stream", peer.connection.open_bi()).await {
            // A connection that is gone ends the loop above.
            let _ = send.write_all(&[1]).await;
            let _ = (send.reset(0_u8.into()), recv.stop(0_u8.into()));
        }
        hello
    };
    world
        .broken("a flood of resets", CloseReason::Limit, resets)
        .await;
    unread_answers(&mut world).await;
    world.end().await;
}

/// Something that does not repeat soon.
fn blake(i: u32) -> u32 {
    let mixed = i.wrapping_mul(0x9e37_79b1);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca77)
}

/// Damage and a duplicate in turn: each damage has its answer, and none is read.
async fn unread_answers(world: &mut World) {
    let peer = world.peer_with(64).await;
    let _hello = peer.hello(1).await;
    let mut disk = peer.disk(DISK).await;
    let mut forge = Forge::new(peer.machine, DISK);
    let first = forge.first().to_bytes();
    let mut damaged = forge.block(vec![data(0, 1)]).to_bytes().to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    let round = [
        frame(FrameKind::Block, &first),
        frame(FrameKind::Block, &damaged),
    ]
    .concat();
    for _ in 0..400 {
        // The connection may be gone before the last one.
        let _ = disk.0.write_all(&round).await;
    }
    world
        .ended("answers that are never read", CloseReason::Limit, &peer)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_silent_or_slow_within_a_frame_is_closed_and_harms_nobody() {
    let mut world = World::begin().await;
    let half_open = world.peer().await;
    let nameless = world.peer().await;
    let _nameless = nameless.open_with(&header(40, MESSAGE, 0)[..3]).await;
    let diskless = world.peer().await;
    let _hello = diskless.hello(1).await;
    let _diskless = diskless.open_with(&[9]).await;
    let dripping = world.peer().await;
    let _dripping_hello = dripping.hello(1).await;
    let mut drips = dripping.disk(DISK).await;
    let drip = tokio::spawn(async move {
        for byte in header(400, BLOCK, 0) {
            if drips.0.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    // Between frames a peer may rest.
    let resting = world.peer().await;
    let _rest = resting.hello(1).await;
    for (what, peer) in [
        ("no stream", &half_open),
        ("half a header", &nameless),
        ("no disk", &diskless),
        ("a byte now and then", &dripping),
    ] {
        world.ended(what, CloseReason::Slow, peer).await;
    }
    assert!(resting.connection.close_reason().is_none());
    soon("the end of the drip", drip).await.expect("ended");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_allowed_cannot_even_be_opened_and_a_gap_is_only_answered() {
    let mut world = World::begin().await;
    let peer = world.peer().await;
    let _hello = peer.hello(1).await;
    let mut disk = peer.disk(DISK).await;
    let mut second = peer.open_with(&[MESSAGE]).await;
    assert!(
        peer.connection.open_bi().now_or_never().is_none(),
        "disks and two"
    );
    assert!(peer.connection.open_uni().now_or_never().is_none());
    assert_eq!(peer.connection.max_datagram_size(), None);
    let mut forge = Forge::new(peer.machine, DISK);
    forge.block(vec![Change::ResyncBegin { base: None }]);
    let gap = forge.block(vec![data(0, 1)]).to_bytes();
    disk.0
        .write_all(&frame(FrameKind::Block, &gap))
        .await
        .expect("sent");
    let answer = receive(&mut disk.1).await;
    assert!(matches!(
        answer,
        ToAgent::Refused {
            reason: RefuseReason::Gap,
            ..
        }
    ));
    // To break a stream off within a frame is allowed; to end it there is not.
    second.0.reset(0_u8.into()).expect("open");
    world.unharmed("a gap").await;
    assert!(peer.connection.close_reason().is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_broke_the_rules_twice_has_to_wait_and_others_have_not() {
    let mut world = World::begin().await;
    let noise = frame(FrameKind::Message, &[0xff; 64]);
    let machine = MachineId([0x66; 16]);
    for what in ["a fault", "a second one"] {
        let peer = world.link(machine, 1 << 20).await;
        let _stream = peer.open_with(&noise).await;
        world.ended(what, CloseReason::Frame, &peer).await;
    }
    let mut denied = 0;
    // The wait is a second, and connecting takes less.
    loop {
        let peer = world.link(machine, 1 << 20).await;
        let hello = message(ToServer::Hello(hello_of(machine, 1)));
        if answered(&peer, &hello).await {
            break;
        }
        assert_eq!(peer.ended().await, Ended::with(CloseReason::Limit));
        world.expect("everpoint_server_denied_total{reason=\"faults\"}");
        denied += 1;
    }
    assert!(0 < denied, "it was let in at once");

    let mut held = Vec::new();
    let crowd = MachineId([0x67; 16]);
    for _ in 0..4 {
        held.push(world.link(crowd, 1 << 20).await);
    }
    let fifth = world.link(crowd, 1 << 20).await;
    assert_eq!(fifth.ended().await, Ended::with(CloseReason::Limit));
    world.expect("everpoint_server_denied_total{reason=\"links\"}");
    world.unharmed("a crowd").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_further_than_the_handshake_and_harm_nobody() {
    let mut world = World::begin().await;
    let machine = MachineId([0x68; 16]);
    let stranger = Ca::create(Validity::from_now(now(), DAY)).expect("a CA");
    let two_days_ago = WallTime(now().0 - 2 * 86_400_000_000);
    let issued = [
        ("no certificate", None, 116),
        (
            "another CA",
            Some(
                stranger
                    .issue_agent(machine, Validity::from_now(now(), DAY))
                    .expect("issued"),
            ),
            48,
        ),
        (
            "an expired certificate",
            Some(
                world
                    .site
                    .issue(machine, Validity::from_now(two_days_ago, DAY)),
            ),
            45,
        ),
    ];
    for (what, issued, alert) in issued {
        let address = world.server.local_address();
        let connected = raw::connect(&world.site, address, (machine, issued), 1 << 20).await;
        // TLS 1.3 lets a client believe that it is in before the server has looked at its certificate.
        let ended = match connected {
            Ok(peer) => peer.ended().await,
            Err(error) => raw::ended_with(&error),
        };
        assert_eq!(ended, Ended::Alert(alert), "{what}");
        world.expect("everpoint_transport_refused_total{reason=\"tls\"}");
        world.unharmed(what).await;
    }
    garbage(&world);
    world.unharmed("garbage").await;
    world.end().await;
}

/// Whether a first message has an answer, before the connection goes.
async fn answered(peer: &Raw, first: &[u8]) -> bool {
    let Ok((mut send, mut recv)) = soon("a stream", peer.connection.open_bi()).await else {
        return false;
    };
    let mut byte = [0];
    let sent = send.write_all(first).await.is_ok();
    sent && soon("an answer", recv.read_exact(&mut byte)).await.is_ok()
}

/// Datagrams of every length and first byte, some of which look like the beginning of a handshake.
fn garbage(world: &World) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut datagram = Vec::new();
    for round in 0..4_000_u32 {
        let len = usize::try_from(blake(round) % 1_400).expect("small") + 1;
        datagram.clear();
        datagram.extend(
            (0..len).map(|i| blake(round + u32::try_from(i).expect("small")).to_le_bytes()[1]),
        );
        if round % 2 == 0 && 5 < len {
            let first = 0xc0 | datagram[0];
            datagram[..5].copy_from_slice(&[first, 0, 0, 0, 1]);
        }
        // A full socket drops it, as any network may.
        let _ = socket.send_to(&datagram, world.server.local_address());
    }
}
