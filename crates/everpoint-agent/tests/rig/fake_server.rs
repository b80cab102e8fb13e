//! A process server that keeps everything in memory and does as it is told: acknowledges, holds back,
//! restarts, loses its cache, refuses. It takes blocks by the real sink's rules and folds them into
//! images, so that a test can compare what would be restored with what the disk held.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use everpoint_format::change::ChangeBlock;
use everpoint_replication::sink::{Refusal, Verdict};
use everpoint_transport::pki::Credentials;
use everpoint_transport::{
    ByteBudget, CloseReason, Link, Listener, RecvHalf, SendHalf, ServerTransportConfig,
};
use everpoint_units::{DiskId, JournalId, Level, Seq, VaultId, WallTime};
use everpoint_wire::{
    DiskState, FrameKind, HelloAnswer, PROTOCOL, RefusalReason, RefuseReason, ToAgent, ToServer,
    Watermarks,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

mod store;

pub(crate) use store::DiskStore;

/// See the module.
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Reads nothing from disk streams.
    pub(crate) paused: bool,
    /// Caches, but commits nothing.
    pub(crate) holds_commits: bool,
    /// Turns every machine away.
    pub(crate) not_owner: bool,
    /// Acknowledges and keeps nothing, for measurements.
    pub(crate) keeps_nothing: bool,
}

struct Shared {
    state: Mutex<State>,
    manner: watch::Sender<Manner>,
    /// Rises with everything that happens.
    events: watch::Sender<u64>,
}

struct State {
    vault: VaultId,
    epoch: Level,
    disks: BTreeMap<DiskId, DiskStore>,
    links: Vec<Link>,
    hello_count: u64,
}

impl FakeServer {
    /// Listens on loopback. Within a tokio runtime.
    pub(crate) fn start(credentials: Credentials, manner: Manner) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = ServerTransportConfig::new(any, credentials);
        let mut listener = Listener::bind(config, ByteBudget::new(256 << 20)).expect("loopback");
        let address = listener.local_address().expect("bound");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                vault: VaultId([7; 16]),
                epoch: Level(1),
                disks: BTreeMap::new(),
                links: Vec::new(),
                hello_count: 0,
            }),
            manner: watch::Sender::new(manner),
            events: watch::Sender::new(0),
        });
        let mut accepting = JoinSet::new();
        let accepted = Arc::clone(&shared);
        accepting.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Some(link) = listener.accept().await {
                sessions.spawn(session(Arc::clone(&accepted), link));
            }
        });
        Self {
            address,
            shared,
            _accepting: accepting,
        }
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Manner)) {
        self.shared.manner.send_modify(change);
        self.shared.commit();
    }

    /// Ends every link because of what the agent sends.
    pub(crate) fn accuse(&self) {
        let links = std::mem::take(&mut self.shared.state().links);
        for link in links {
            link.close(CloseReason::Order, "a seq that cannot follow");
        }
    }

    /// Ends every link and begins a new epoch, with what was cached or only with what was committed.
    pub(crate) fn restart(&self, loses_cache: bool) {
        let links = {
            let mut state = self.shared.state();
            state.epoch = Level(state.epoch.0 + 1);
            for store in state.disks.values_mut() {
                store.restart(loses_cache);
            }
            std::mem::take(&mut state.links)
        };
        for link in links {
            link.close(CloseReason::Shutdown, "the server restarts");
        }
    }

    pub(crate) fn set_vault(&self, vault: VaultId) {
        self.shared.state().vault = vault;
    }

    pub(crate) fn set_epoch(&self, epoch: Level) {
        self.shared.state().epoch = epoch;
    }

    pub(crate) fn hello_count(&self) -> u64 {
        self.shared.state().hello_count
    }

    /// Waits until `count` more hellos came, answered or not.
    pub(crate) async fn wait_hellos(&self, count: u64) {
        let wanted = self.hello_count() + count;
        self.wait(|server| wanted <= server.hello_count()).await;
    }

    /// Looks at a disk; `None` if nothing of it came.
    pub(crate) fn disk<T>(&self, disk: DiskId, look: impl FnOnce(&DiskStore) -> T) -> Option<T> {
        self.shared.state().disks.get(&disk).map(look)
    }

    /// What would be restored of a disk, newest.
    pub(crate) fn image(&self, disk: DiskId) -> Vec<u8> {
        self.disk(disk, |store| store.image.clone())
            .unwrap_or_default()
    }

    /// What would be restored of a disk at `seq`.
    pub(crate) fn image_at(&self, disk: DiskId, seq: Seq) -> Vec<u8> {
        self.disk(disk, |store| store.image_at(seq))
            .unwrap_or_default()
    }

    /// Waits until the server's state is as wanted.
    pub(crate) async fn wait(&self, is_so: impl Fn(&Self) -> bool) {
        let mut events = self.shared.events.subscribe();
        let held = events.wait_for(|_| is_so(self)).await;
        held.expect("the server lives");
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manner(&self) -> Manner {
        *self.manner.borrow()
    }

    /// Commits what is cached, unless told not to, and says that something happened.
    fn commit(&self) {
        if !self.manner().holds_commits {
            let mut state = self.state();
            state.disks.values_mut().for_each(DiskStore::commit);
        }
        self.events.send_modify(|count| *count += 1);
    }

    fn marks(&self, disk: DiskId) -> Option<Watermarks> {
        let state = self.state();
        let cuts = state.disks.values().filter(|store| !store.ended);
        let cut = cuts.map(|store| store.committed_through).min();
        let (generation, cached, committed) = state.disks.get(&disk)?.sink.marks()?;
        Some(Watermarks {
            generation,
            cached,
            committed,
            committed_cut: cut.unwrap_or(Seq::ZERO),
            epoch: state.epoch,
        })
    }
}

async fn session(shared: Arc<Shared>, link: Link) {
    let Ok((send, recv)) = link.accept_stream().await else {
        return;
    };
    let mut control = Stream { send, recv };
    let Some(Incoming::Message(ToServer::Hello(hello))) = control.next().await else {
        return;
    };
    if shared.manner().not_owner {
        let refusal = ToAgent::Refusal {
            reason: RefusalReason::NotOwner,
            text: "another server owns the machine".into(),
        };
        control.say(&refusal).await;
        link.closed().await;
        return;
    }
    let (session, answer) = {
        let mut state = shared.state();
        state.hello_count += 1;
        state.links.push(link.clone());
        let highest = state.disks.values().map(|store| store.highest_seq).max();
        let answer = HelloAnswer {
            protocol: PROTOCOL,
            vault: state.vault,
            journal: JournalId {
                level: state.epoch,
                random: [3; 16],
            },
            highest_seq: highest.unwrap_or(Seq::ZERO),
            clock: WallTime(hello.clock.0 + 5_000_000),
            disks: Vec::new(),
        };
        (state.hello_count, answer)
    };
    shared.events.send_modify(|count| *count += 1);
    control.say(&ToAgent::HelloAnswer(answer)).await;
    link.allow_streams(hello.disk_count + 1);
    let mut disks = JoinSet::new();
    while let Ok((send, recv)) = link.accept_stream().await {
        let stream = Stream { send, recv };
        disks.spawn(disk_stream(Arc::clone(&shared), session, stream));
    }
}

async fn disk_stream(shared: Arc<Shared>, session: u64, mut stream: Stream) {
    let Some(Incoming::Message(ToServer::OpenDisk { disk })) = stream.next().await else {
        return;
    };
    let state = {
        let mut state = shared.state();
        let store = state
            .disks
            .entry(disk)
            .or_insert_with(|| DiskStore::new(disk));
        store.sink.handle_session();
        DiskState {
            disk,
            committed: store.sink.committed(),
            cached: store.sink.cached(),
            complete_through: Seq::ZERO,
            level: false,
        }
    };
    if !stream.say(&ToAgent::DiskState(state)).await {
        return;
    }
    let mut manner = shared.manner.subscribe();
    let mut events = shared.events.subscribe();
    let mut told = None;
    loop {
        if manner.wait_for(|manner| !manner.paused).await.is_err() {
            return;
        }
        let incoming = tokio::select! {
            incoming = stream.next() => incoming,
            _ = events.changed() => {
                let marks = shared.marks(disk);
                if marks != told {
                    told = marks;
                    if let Some(marks) = marks {
                        stream.say(&ToAgent::Watermarks(marks)).await;
                    }
                }
                continue;
            }
        };
        let answer = match incoming {
            Some(Incoming::Block(bytes)) => take(&shared, session, disk, bytes),
            Some(Incoming::Message(ToServer::Compare(compare))) => {
                let state = shared.state();
                let differs = state.disks[&disk].differing(&compare);
                Some(ToAgent::Differences {
                    request: compare.request,
                    differs,
                })
            }
            Some(Incoming::Message(_)) | None => return,
        };
        if let Some(answer) = answer
            && !stream.say(&answer).await
        {
            return;
        }
    }
}

/// Takes a block as the real server would: every answer carries the marks, and only the newest session
/// counts. What an agent that was killed had sent may still be arriving in an older one.
fn take(shared: &Shared, session: u64, disk: DiskId, bytes: Bytes) -> Option<ToAgent> {
    let keeps = !shared.manner().keeps_nothing;
    let block = ChangeBlock::decode(bytes).expect("a correct agent sends sound blocks");
    let verdict = {
        let mut state = shared.state();
        if state.hello_count != session {
            return None;
        }
        let store = state.disks.get_mut(&disk).expect("opened");
        store.take(block, keeps)
    };
    shared.commit();
    match verdict {
        Verdict::Append | Verdict::Duplicate => shared.marks(disk).map(ToAgent::Watermarks),
        Verdict::Ignore => None,
        Verdict::Refuse(refusal) => {
            let state = shared.state();
            let received = state.disks[&disk].sink.received();
            let reason = match refusal {
                Refusal::Gap => RefuseReason::Gap,
                Refusal::Stale => RefuseReason::Stale,
                Refusal::WrongBase => RefuseReason::WrongBase,
            };
            let tail = received.map(|received| received.position);
            Some(ToAgent::Refused { reason, tail })
        }
        Verdict::Violation(violation) => panic!("a correct agent at fault: {violation}"),
    }
}

enum Incoming {
    Message(ToServer),
    Block(Bytes),
}

struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

impl Stream {
    async fn next(&mut self) -> Option<Incoming> {
        let frame = self.recv.recv_frame(|_| Some(2 << 20)).await.ok()??;
        match FrameKind::from_code(frame.kind)? {
            FrameKind::Block => Some(Incoming::Block(frame.body)),
            FrameKind::Message => ToServer::decode(frame.body).ok().map(Incoming::Message),
        }
    }

    async fn say(&mut self, message: &ToAgent) -> bool {
        let kind = FrameKind::Message.code();
        self.send
            .send_frame(kind, &[message.encode()])
            .await
            .is_ok()
    }
}
