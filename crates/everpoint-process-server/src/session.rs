//! One agent's connection: who it is, what it may, and its streams.
//!
//! The order of checks is that of the wire's rules: authenticate (TLS), bound (frame limits), parse,
//! authorise (the certificate's machine, that machine's disks), order (the machine's task), checksum,
//! use. Whatever breaks a rule ends this connection, with a number, and touches nothing else.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use everpoint_transport::{CloseReason, Closed, Identity, Link, RecvHalf, SendHalf};
use everpoint_units::MachineId;
use everpoint_wire::{
    FrameKind, Hello, HelloAnswer, MESSAGE_LEN_MAX, PROTOCOL, RefusalReason, ToAgent, ToServer,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::wall_time;
use crate::conduct;
use crate::machine_core::Begun;
use crate::machine_task::{MachineHandle, Request};
use crate::metrics;
use crate::ownership::NotOwned;
use crate::ownership_core::NotServed;
use crate::rate_core::Rate;
use crate::shared::{Shared, checks_at_once};

/// How long an agent may take to say hello, or to name the disk of a stream.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that an agent may open at once beyond two for each that it may have, and how soon it may open
/// one more. An agent opens one a disk, and one more where the server ended it.
const STREAMS_BURST: u32 = 64;
const STREAMS_EACH: Duration = Duration::from_millis(250);

/// How long an agent that was refused may stay.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one connection until it ends, and remembers how it ended.
pub(crate) async fn serve(shared: Arc<Shared>, link: Link) {
    let Identity::Agent(machine) = link.peer().identity else {
        link.close(CloseReason::Auth, "this port is for agents");
        return;
    };
    let address = link.peer().address;
    let entered = shared.conduct().enter(machine, shared.clock.now());
    if let Err(denied) = entered {
        tracing::debug!(%machine, %address, %denied, "a connection is not listened to");
        metrics::denied(denied);
        link.close(CloseReason::Limit, &denied.to_string());
        return;
    }
    converse(&shared, &link, machine).await;
    // Closed already, or left without a word; the first reason counts.
    link.close(CloseReason::Unspecified, "");
    let closed = link.closed().await;
    tracing::info!(%machine, %address, %closed, "an agent's connection ended");
    metrics::closed(&closed);
    let fault = match closed {
        Closed::ByUs { reason } => Some(reason).filter(|reason| conduct::is_fault(*reason)),
        _ => None,
    };
    if let Some(reason) = fault {
        metrics::violation(reason);
    }
    let now = shared.clock.now();
    shared.conduct().leave(machine, fault.is_some(), now);
}

/// Listens to an agent until its connection ends, or should.
async fn converse(shared: &Arc<Shared>, link: &Link, machine: MachineId) {
    let address = link.peer().address;
    let opened = timeout(OPENING_TIMEOUT, link.accept_stream()).await;
    let Ok(Ok((send, recv))) = opened else {
        link.close(CloseReason::Slow, "no hello");
        return;
    };
    let Some(session) = open(shared, link, machine, send, recv).await else {
        return;
    };
    tracing::info!(%machine, %address, "an agent connected");
    let mut streams = JoinSet::new();
    let mut rate = Rate::new(STREAMS_BURST + 2 * session.streams_max, STREAMS_EACH);
    loop {
        // Cancel-safe: accepting a stream and joining a task take nothing when dropped.
        tokio::select! {
            stream = link.accept_stream() => match stream {
                Ok((send, recv)) => {
                    let now = shared.clock.now();
                    if !rate.allows(1, now) {
                        link.close(CloseReason::Limit, "too many streams in too short a time");
                        break;
                    }
                    rate.count(1, now);
                    let stream = stream::Stream::new(Arc::clone(shared), link.clone(), &session);
                    streams.spawn(stream.run(send, recv));
                }
                Err(_) => break,
            },
            Some(_) = streams.join_next() => (),
        }
    }
    streams.shutdown().await;
    session.end().await;
}

/// A session that was let in.
pub(crate) struct Session {
    machine: MachineId,
    handle: MachineHandle,
    begun: Begun,
    streams_max: u32,
    checks: Arc<Semaphore>,
    /// Kept open as long as the session lasts; nothing more travels on it.
    _control: (SendHalf, RecvHalf),
}

impl Session {
    /// Tells the machine that the connection ended.
    async fn end(self) {
        let session = self.begun.session;
        self.handle.tell(Request::End { session }).await;
    }
}

async fn open(
    shared: &Arc<Shared>,
    link: &Link,
    machine: MachineId,
    mut send: SendHalf,
    mut recv: RecvHalf,
) -> Option<Session> {
    let hello = match timeout(OPENING_TIMEOUT, hello(link, &mut recv)).await {
        Ok(hello) => hello?,
        Err(_) => {
            link.close(CloseReason::Slow, "no hello");
            return None;
        }
    };
    if hello.machine != machine {
        link.close(CloseReason::Authz, "the certificate names another machine");
        return None;
    }
    let (answer, session) = match admit(shared, link, machine, &hello).await {
        Ok((answer, handle, begun)) => (answer, Some((handle, begun))),
        Err((reason, text)) => {
            tracing::info!(%machine, ?reason, text, "an agent was refused");
            (ToAgent::Refusal { reason, text }, None)
        }
    };
    let sent = send
        .send_frame(FrameKind::Message.code(), &[answer.encode()])
        .await;
    let Some((handle, begun)) = session else {
        // The refusal has to arrive before the connection goes: the agent closes it.
        let finished = send.finish().await;
        if finished.is_ok() && timeout(REFUSED_TIMEOUT, link.closed()).await.is_err() {
            link.close(CloseReason::Slow, "refused, and still here");
        }
        return None;
    };
    let streams_max = hello.disk_count.saturating_add(2);
    let session = Session {
        machine,
        handle,
        begun,
        streams_max,
        checks: Arc::new(Semaphore::new(checks_at_once())),
        _control: (send, recv),
    };
    if sent.is_err() {
        session.end().await;
        return None;
    }
    link.allow_streams(streams_max);
    Some(session)
}

async fn hello(link: &Link, recv: &mut RecvHalf) -> Option<Hello> {
    let frame = recv.recv_frame(message_limit).await.ok().flatten()?;
    match ToServer::decode(frame.body) {
        Ok(ToServer::Hello(hello)) => Some(hello),
        Ok(_) => {
            link.close(CloseReason::Frame, "the first message is not a hello");
            None
        }
        Err(error) => {
            link.close(CloseReason::Frame, &error.to_string());
            None
        }
    }
}

/// What this kind of frame may be long before a session is open: messages only.
fn message_limit(kind: u8) -> Option<u32> {
    match FrameKind::from_code(kind)? {
        FrameKind::Message => u32::try_from(MESSAGE_LEN_MAX).ok(),
        FrameKind::Block => None,
    }
}

async fn admit(
    shared: &Arc<Shared>,
    link: &Link,
    machine: MachineId,
    hello: &Hello,
) -> Result<(ToAgent, MachineHandle, Begun), (RefusalReason, String)> {
    if hello.protocol != PROTOCOL {
        let text = format!("this server speaks protocol {PROTOCOL}");
        return Err((RefusalReason::Version, text));
    }
    let vault = shared.header.vault;
    if hello.vault.is_some_and(|expected| expected != vault) {
        let text = format!("this server's vault is {vault}");
        return Err((RefusalReason::Vault, text));
    }
    let owned = shared.registry.machine(shared, machine).await;
    let handle = owned.map_err(|why| refusal(&why))?;
    let journal = shared.journal();
    if journal.level < hello.highest_epoch {
        let text = format!(
            "the agent has seen epoch {} already, and this server's is {}: the path to that one is \
             damaged; restart this server until its epoch is as high",
            hello.highest_epoch.0, journal.level.0
        );
        return Err((RefusalReason::NotOwner, text));
    }
    let link = link.clone();
    let begun = handle.ask(|reply| Request::Begin { link, reply }).await;
    let begun = begun.ok_or((RefusalReason::Busy, "the server is stopping".to_owned()))?;
    let answer = ToAgent::HelloAnswer(HelloAnswer {
        protocol: PROTOCOL,
        vault,
        journal,
        highest_seq: begun.highest_seq,
        clock: wall_time(),
        disks: begun.disks.clone(),
    });
    Ok((answer, handle, begun))
}

fn refusal(why: &NotOwned) -> (RefusalReason, String) {
    let reason = match why {
        NotOwned::NotServed(why) => match why {
            NotServed::Elsewhere { .. } => RefusalReason::NotOwner,
            NotServed::Closed => RefusalReason::Closed,
            NotServed::Damaged => RefusalReason::Damaged,
            NotServed::Unsettled => RefusalReason::Busy,
        },
        NotOwned::TooMany { .. } => RefusalReason::Limit,
        NotOwned::Vault(_) | NotOwned::Create(_) | NotOwned::TimedOut => RefusalReason::Busy,
    };
    (reason, why.to_string())
}
