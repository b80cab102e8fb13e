//! A real process server on loopback, with a real cache log and vault, and agents made by hand.

mod rig;

use bytes::Bytes;
use everpoint_format::Change;
use everpoint_format::DiskPosition;
use everpoint_format::digest::{PIECE_LEN, PlainDigest};
use everpoint_journal::path::PathEnd;
use everpoint_process_server::{Ended, ProcessServer, StartError, Stopped};
use everpoint_transport::{CloseReason, Closed};
use everpoint_units::{BlockNo, DiskId, GenerationId, Level, MachineId, Seq, ServerId};
use everpoint_wire::control as pb;
use everpoint_wire::{CONTROL_LEN_MAX, Compare, RefusalReason, RefuseReason, ToAgent, ToServer};
use prost::Message as _;

use rig::{Agent, DISK, MACHINE, Site, data, soon, vault_objects};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_in_the_vault() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    assert_eq!(disk.state.expect("a state").cached, None);
    let first = disk.first_block();
    disk.send(&first).await;
    for number in 0..20 {
        let block = disk.block(vec![data(number * 100, 16), data(number * 100 + 50, 1)]);
        disk.send(&block).await;
    }
    disk.committed(21).await;
    let (history, walked) = site.history(MACHINE).await;
    assert_eq!(walked.damage, []);
    assert_eq!(history.latest(None), Ok(Seq(disk.seq)));
    assert_eq!(history.disks()[&DISK].position, disk.tail);
    assert_eq!(server.stop().await, Stopped::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cached_is_committed_by_the_next_boot() {
    let site = Site::new();
    let mut config = site.server_config(1);
    config.commit.interval_ms = 60_000;
    let server = site.start(config.clone()).await;
    let old_journal = server.journal();
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    let second = disk.block(vec![data(8, 64)]);
    disk.send(&second).await;
    disk.cached(2).await;
    let (history, _) = site.history(MACHINE).await;
    assert!(history.disks().is_empty(), "nothing was committed yet");
    soon("the crash", server.abort()).await;

    config.commit.interval_ms = 20;
    let server = site.start(config).await;
    assert!(old_journal.level < server.journal().level);
    let agent = Agent::connect(&site, &server).await;
    let mut again = agent.open(DISK).await;
    let state = again.state.expect("a state");
    assert_eq!(
        state.cached,
        Some(second.position()),
        "the tail was taken up"
    );
    // The stream goes on where it was.
    (again.tail, again.seq) = (disk.tail, disk.seq);
    let third = again.block(vec![data(8, 8)]);
    again.send(&third).await;
    again.committed(3).await;
    let (history, walked) = site.history(MACHINE).await;
    assert_eq!(history.disks()[&DISK].position, third.position());
    assert!(matches!(walked.end, PathEnd::Open { journal, .. } if journal == server.journal()));
}

/// What a boot may not discard because it cannot be taken up at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_cannot_be_taken_up_now_ends_the_start_and_is_there_for_the_next() {
    let site = Site::new();
    let mut config = site.server_config(1);
    config.commit.interval_ms = 60_000;
    let server = site.start(config.clone()).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    let second = disk.block(vec![data(8, 64)]);
    disk.send(&second).await;
    disk.cached(2).await;
    soon("the crash", server.abort()).await;

    let origin = everpoint_format::name::origin(MACHINE);
    let origin = site.vault_dir().join(origin);
    let aside = site.path("origin-aside");
    std::fs::rename(&origin, &aside).expect("renamed");
    // Something that can be listed and not be read.
    std::os::unix::fs::symlink(&origin, &origin).expect("a link to itself");
    let failed = soon("the start", ProcessServer::start(config.clone())).await;
    let Err(failed) = failed else {
        panic!("nobody can say whose the machine is");
    };
    assert!(
        matches!(failed, StartError::TakeUp { machine, .. } if machine == MACHINE),
        "{failed:?}"
    );
    std::fs::remove_file(&origin).expect("removed");
    std::fs::rename(&aside, &origin).expect("renamed back");

    config.commit.interval_ms = 20;
    let server = site.start(config).await;
    let agent = Agent::connect(&site, &server).await;
    let again = agent.open(DISK).await;
    let state = again.state.expect("a state");
    assert_eq!(state.cached, Some(second.position()));
    assert_eq!(server.stop().await, Stopped::Drained);
    let (history, _) = site.history(MACHINE).await;
    assert_eq!(history.disks()[&DISK].position, second.position());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_blocks_are_answered_and_gaps_are_refused() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    disk.committed(1).await;
    disk.send(&first).await;
    disk.marks(|marks| marks.committed == BlockNo(1)).await;
    let _missing = disk.block(vec![data(0, 1)]);
    let third = disk.block(vec![data(1, 1)]);
    disk.send(&third).await;
    assert_eq!(
        disk.receive().await,
        ToAgent::Refused {
            reason: RefuseReason::Gap,
            tail: Some(first.position())
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_refused_three_times_and_then_close_the_connection() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    let mut bytes = first.to_bytes().to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    for _ in 0..2 {
        disk.send_bytes(Bytes::from(bytes.clone())).await;
        assert_eq!(
            disk.receive().await,
            ToAgent::Refused {
                reason: RefuseReason::Corrupt,
                tail: None
            }
        );
    }
    disk.send_bytes(Bytes::from(bytes)).await;
    assert_eq!(closed_for(&agent).await, Some(CloseReason::Crc));
}

async fn closed_for(agent: &Agent) -> Option<CloseReason> {
    match soon("the close", agent.link.closed()).await {
        Closed::ByPeer { reason, .. } => reason,
        other => panic!("not closed by the server: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_agent_may_send_closes_its_connection_and_harms_no_other() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let honest = Agent::connect(&site, &server).await;
    let mut disk = honest.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    disk.cached(1).await;

    // A hello in the name of another machine.
    let other = MachineId([9; 16]);
    let link = site.link(other, server.local_address()).await;
    let (mut send, _recv) = link.open_stream().await.expect("a stream");
    let lie = ToServer::Hello(everpoint_wire::Hello {
        protocol: 1,
        machine: MACHINE,
        highest_epoch: Level(0),
        vault: None,
        clock: rig::now(),
        disk_count: 1,
    });
    send.send_frame(1, &[lie.encode()]).await.expect("sent");
    let closed = soon("the close", link.closed()).await;
    assert!(matches!(
        closed,
        Closed::ByPeer {
            reason: Some(CloseReason::Authz),
            ..
        }
    ));

    // Blocks of another machine on one's own stream.
    let link = site.link(other, server.local_address()).await;
    let (_control, answer) = Agent::hello(&link, other, Level(0)).await;
    assert!(matches!(answer, ToAgent::HelloAnswer(_)));
    let (mut send, _recv) = link.open_stream().await.expect("a stream");
    let open = ToServer::OpenDisk { disk: DISK }.encode();
    send.send_frame(1, &[open]).await.expect("sent");
    send.send_frame(2, &[first.to_bytes()]).await.expect("sent");
    let closed = soon("the close", link.closed()).await;
    assert!(matches!(
        closed,
        Closed::ByPeer {
            reason: Some(CloseReason::Authz),
            ..
        }
    ));

    // An extent past the disk's end, in sound blocks.
    let second = disk.block(vec![data(1 << 30, 1)]);
    disk.send(&second).await;
    assert_eq!(closed_for(&honest).await, Some(CloseReason::Range));
    let honest = Agent::connect(&site, &server).await;
    let disk = honest.open(DISK).await;
    assert_eq!(
        disk.state.expect("a state").cached,
        Some(first.position()),
        "what was taken before stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_of_a_machine_ends_the_older() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let older = Agent::connect(&site, &server).await;
    let newer = Agent::connect(&site, &server).await;
    assert_eq!(closed_for(&older).await, Some(CloseReason::Superseded));
    let mut disk = newer.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    disk.cached(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_shown_as_connected_as_long_as_its_agent_is() {
    let site = Site::new();
    let config = site.server_config(1);
    let control = config.control_socket.clone();
    let server = site.start(config).await;
    let older = Agent::connect(&site, &server).await;
    assert!(is_connected(&control).await);
    let newer = Agent::connect(&site, &server).await;
    assert_eq!(closed_for(&older).await, Some(CloseReason::Superseded));
    // The older one's end is not the newer one's.
    assert!(is_connected(&control).await);
    newer.link.close(CloseReason::Shutdown, "");
    let gone = async { while is_connected(&control).await {} };
    soon("the end of the connection", gone).await;
}

async fn is_connected(control: &std::path::Path) -> bool {
    let order = pb::ControlRequest {
        request: Some(pb::control_request::Request::Status(pb::StatusRequest {})),
    };
    let order = order.encode_to_vec();
    let called = everpoint_transport::control::call(control, &order, CONTROL_LEN_MAX);
    let answer = soon("the status", called).await.expect("answered");
    let answer = pb::ControlAnswer::decode(answer).expect("an answer").answer;
    let Some(pb::control_answer::Answer::ServerStatus(status)) = answer else {
        panic!("no status: {answer:?}");
    };
    status.machines.iter().any(|machine| machine.connected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_has_seen_a_higher_epoch_is_sent_away() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let link = site.link(MACHINE, server.local_address()).await;
    let (_control, answer) = Agent::hello(&link, MACHINE, Level(1_000)).await;
    assert!(matches!(
        answer,
        ToAgent::Refusal {
            reason: RefusalReason::NotOwner,
            ..
        }
    ));
}

/// Any object says who writes in a journal: one damaged object must not keep it out of a take-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_whose_first_object_is_damaged_is_taken_over_all_the_same() {
    let site = Site::new();
    let first_server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &first_server).await;
    let mut disk = agent.open(DISK).await;
    for position in 1..=2 {
        let block = match position {
            1 => disk.first_block(),
            _ => disk.block(vec![data(0, 8)]),
        };
        disk.send(&block).await;
        disk.committed(position).await;
    }
    let journal = first_server.journal();
    first_server.stop().await;
    site.damage_first_object(journal);

    let second_config = site.server_config(2);
    let control = second_config.control_socket.clone();
    let _second_server = site.start(second_config).await;
    let order = pb::ControlRequest {
        request: Some(pb::control_request::Request::TakeOver(pb::TakeOver {
            server: Bytes::copy_from_slice(&ServerId([1; 16]).0),
            journal: String::new(),
        })),
    };
    let order = order.encode_to_vec();
    let called = everpoint_transport::control::call(&control, &order, CONTROL_LEN_MAX);
    let answer = soon("the take-over", called).await.expect("answered");
    let answer = pb::ControlAnswer::decode(answer).expect("an answer").answer;
    let Some(pb::control_answer::Answer::TakenOver(taken)) = answer else {
        panic!("not taken over: {answer:?}");
    };
    let named: Vec<&str> = taken
        .journals
        .iter()
        .map(|one| one.journal.as_str())
        .collect();
    assert_eq!(named, [journal.to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_taken_over_is_fenced_and_its_machines_lead_to_the_other() {
    let site = Site::new();
    let first_server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &first_server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    disk.committed(1).await;

    let second_config = site.server_config(2);
    let control = second_config.control_socket.clone();
    let second_server = site.start(second_config).await;
    // Not its machine, until it takes over.
    let link = site.link(MACHINE, second_server.local_address()).await;
    let (_control, answer) = Agent::hello(&link, MACHINE, Level(0)).await;
    assert!(matches!(
        answer,
        ToAgent::Refusal {
            reason: RefusalReason::NotOwner,
            ..
        }
    ));
    let order = pb::ControlRequest {
        request: Some(pb::control_request::Request::TakeOver(pb::TakeOver {
            server: Bytes::copy_from_slice(&ServerId([1; 16]).0),
            journal: String::new(),
        })),
    };
    let order = order.encode_to_vec();
    let called = everpoint_transport::control::call(&control, &order, CONTROL_LEN_MAX);
    let answer = soon("the take-over", called).await.expect("answered");
    let answer = pb::ControlAnswer::decode(answer).expect("an answer").answer;
    let Some(pb::control_answer::Answer::TakenOver(taken)) = answer else {
        panic!("not taken over: {answer:?}");
    };
    assert_eq!(taken.journals.len(), 1);
    assert_eq!(
        taken.journals[0].successor,
        second_server.journal().to_string()
    );

    // The old server's next commit finds the seal.
    let second = disk.block(vec![data(0, 8)]);
    disk.send(&second).await;
    let ended = soon("the fence", first_server.ended()).await;
    assert!(matches!(*ended, Ended::Fenced { .. }), "{ended}");

    let agent = Agent::connect(&site, &second_server).await;
    let again = agent.open(DISK).await;
    let state = again.state.expect("a state");
    assert_eq!(state.committed, Some(first.position()));
    let (history, walked) = site.history(MACHINE).await;
    assert_eq!(history.disks()[&DISK].position, first.position());
    assert!(
        matches!(walked.end, PathEnd::Open { journal, .. } if journal == second_server.journal())
    );
}

/// A server that was resumed from a snapshot of its memory, or cloned, does not know what its other life
/// wrote: here an object behind its last one, which follows that as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_ends_where_another_life_of_the_server_wrote_in_its_journal() {
    let site = Site::new();
    let server_config = site.server_config(1);
    let control = server_config.control_socket.clone();
    let server = site.start(server_config).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    disk.committed(1).await;
    let journal = server.journal();
    site.write_as_another_life(journal).await;

    // The other's level is higher: before it is taken over, the own journal is left for a higher one.
    let other = site.start(site.server_config(2)).await;
    assert!(journal.level < other.journal().level);
    let order = pb::ControlRequest {
        request: Some(pb::control_request::Request::TakeOver(pb::TakeOver {
            server: Bytes::new(),
            journal: other.journal().to_string(),
        })),
    };
    let order = order.encode_to_vec();
    let called = everpoint_transport::control::call(&control, &order, CONTROL_LEN_MAX);
    let ended = async {
        let (answer, ended) = tokio::join!(called, server.ended());
        assert!(!answer.is_ok_and(|answer| is_taken_over(&answer)));
        ended
    };
    let ended = soon("the fence", ended).await;
    assert!(matches!(*ended, Ended::Fenced { .. }), "{ended}");
    let (_, walked) = site.history(MACHINE).await;
    assert_eq!(walked.damage, []);
}

fn is_taken_over(answer: &[u8]) -> bool {
    let answer = pb::ControlAnswer::decode(answer).expect("an answer").answer;
    matches!(answer, Some(pb::control_answer::Answer::TakenOver(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compare_names_the_pieces_that_differ_from_what_a_generation_builds_on() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    // Pieces 1 and 2 whole, piece 4 in part.
    let second = disk.block(vec![data(8, 16), data(33, 1)]);
    disk.send(&second).await;
    let fill = disk.seq - 1;
    let base = Some(disk.tail);
    disk.tail = DiskPosition::start_of(GenerationId([2; 16]));
    // What the new generation writes itself does not count: the compare is with its base.
    let third = disk.block(vec![Change::ResyncBegin { base }, data(0, 8)]);
    disk.send(&third).await;
    let zero = PlainDigest::of(&[0; PIECE_LEN]);
    let filled = PlainDigest::of(&[fill.to_le_bytes()[0]; PIECE_LEN]);
    disk.send_message(ToServer::Compare(Compare {
        request: 7,
        first_piece: 0,
        digests: vec![zero, filled, zero, zero, zero, zero],
    }))
    .await;
    let differs = loop {
        match disk.receive().await {
            ToAgent::Differences {
                request: 7,
                differs,
            } => break differs,
            ToAgent::Watermarks(_) => (),
            other => panic!("unexpected: {other:?}"),
        }
    };
    // 2 has other bytes, 4 is not known; 0 is as before the generation.
    assert_eq!(differs, [0b1_0100].as_ref());
}

/// The vault goes away: `cached` goes on beyond what memory holds, nothing is lost, and everything
/// is committed when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caching_outlasts_a_vault_that_is_away() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &server).await;
    let mut disk = agent.open(DISK).await;
    let first = disk.first_block();
    disk.send(&first).await;
    disk.committed(1).await;
    let away = site.path("vault-away");
    std::fs::rename(site.vault_dir(), &away).expect("renamed");

    let mut noise = blake3_noise();
    for number in 0..100_u64 {
        let block = noise_block(&mut disk, &mut noise, number);
        disk.send(&block).await;
    }
    // 100 MiB against a budget of 64 MiB.
    disk.cached(101).await;
    let objects = vault_objects(&away);
    std::fs::rename(&away, site.vault_dir()).expect("renamed back");
    disk.committed(101).await;
    assert!(objects < vault_objects(&site.vault_dir()));
    let (history, _) = site.history(MACHINE).await;
    assert_eq!(history.disks()[&DISK].position, disk.tail);
    let (high, capacity) = server.memory_high_water();
    assert!(high <= capacity);
    assert_eq!(server.stop().await, Stopped::Drained);
}

fn blake3_noise() -> impl FnMut() -> Vec<u8> {
    let mut seed = 0_u64;
    move || {
        seed += 1;
        let mut bytes = vec![0; 1 << 20];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for chunk in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        bytes
    }
}

/// A block of 1 MiB that no compression shrinks.
fn noise_block(
    disk: &mut rig::Disk,
    noise: &mut impl FnMut() -> Vec<u8>,
    number: u64,
) -> everpoint_format::change::FrozenBlock {
    disk.block_of(data(number * 2_048, 2_048), noise())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_has_its_origin_before_its_first_block() {
    let site = Site::new();
    let server = site.start(site.server_config(1)).await;
    let agent = Agent::connect(&site, &server).await;
    assert_eq!(agent.answer.journal, server.journal());
    let (history, walked) = site.history(MACHINE).await;
    assert!(history.disks().is_empty());
    assert!(matches!(walked.end, PathEnd::Open { journal, .. } if journal == server.journal()));
    // Nobody asked for this one.
    let (_, walked) = site.history(MachineId([8; 16])).await;
    assert_eq!(walked.end, PathEnd::NoOrigin);
    let unknown = agent.open(DiskId([7; 16])).await;
    assert_eq!(unknown.state.expect("a state").committed, None);
}
