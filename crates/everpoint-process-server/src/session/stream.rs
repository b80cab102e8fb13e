//! One disk's stream: opens it, checks and opens its blocks off the threads that drive QUIC, hands
//! them to the machine in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_format::DecodeError;
use everpoint_format::change::{BlockHeader, ChangeBlock, ENCODED_LEN_MAX};
use everpoint_transport::{CloseReason, Frame, Link, RecvHalf, SendHalf, Taken};
use everpoint_units::{DiskId, MachineId};
use everpoint_wire::{Compare, FrameKind, MESSAGE_LEN_MAX, ToAgent, ToServer};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{OPENING_TIMEOUT, Session};
use crate::blocking::{blocking, outcome};
use crate::machine_core::SessionId;
use crate::machine_task::{Arrival, Arrived, MachineHandle, OpenBlock, Request, outbox};
use crate::reduce;
use crate::shared::Shared;

/// Frames of one stream that are checked at a time.
const ITEMS_MAX: usize = 4;
/// Damaged blocks in a row after which the agent's memory, or its path, is not to be trusted.
const CORRUPT_MAX: u32 = 3;
/// How long the writer of answers may go on after its stream ended.
const WRITER_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Stream {
    shared: Arc<Shared>,
    link: Link,
    machine: MachineId,
    handle: MachineHandle,
    session: SessionId,
    checks: Arc<Semaphore>,
    corrupt_count: u32,
}

/// A block with what its check gave.
type Checked = Result<OpenBlock, DecodeError>;

/// What came in: a compare stays behind the blocks that were sent before it.
enum Item {
    Checked(Box<Checked>),
    Compare(Compare),
}

/// Why a stream ends.
enum End {
    /// The agent finished it, or the connection is gone.
    Over,
    /// The agent broke a rule: its connection is closed.
    Break(CloseReason, String),
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, link: Link, session: &Session) -> Self {
        Self {
            shared,
            link,
            machine: session.machine,
            handle: session.handle.clone(),
            session: session.begun.session,
            checks: Arc::clone(&session.checks),
            corrupt_count: 0,
        }
    }

    /// Serves the stream until it ends.
    pub(super) async fn run(mut self, send: SendHalf, mut recv: RecvHalf) {
        if let Err(End::Break(reason, text)) = self.serve(send, &mut recv).await {
            tracing::warn!(machine = %self.machine, ?reason, text, "a stream broke a rule");
            self.link.close(reason, &text);
        }
    }

    async fn serve(&mut self, mut send: SendHalf, recv: &mut RecvHalf) -> Result<(), End> {
        let opening = timeout(OPENING_TIMEOUT, recv.recv_frame(limit)).await;
        let late = |_| End::Break(CloseReason::Slow, "a stream names no disk".to_owned());
        let frame = opening.map_err(late)?.ok().flatten().ok_or(End::Over)?;
        let ToServer::OpenDisk { disk } = message(frame)? else {
            let text = "a stream begins with its disk".to_owned();
            return Err(End::Break(CloseReason::Frame, text));
        };
        let (outbox, writer) = outbox();
        let session = self.session;
        let opened = self.handle.ask(|reply| Request::Open {
            session,
            disk,
            outbox,
            reply,
        });
        let Some(state) = opened.await.flatten() else {
            let text = "too many disks, or an older session".to_owned();
            return Err(End::Break(CloseReason::Limit, text));
        };
        let state = ToAgent::DiskState(state).encode();
        let sent = send.send_frame(FrameKind::Message.code(), &[state]).await;
        sent.map_err(|_| End::Over)?;

        // It ends with the stream, also where that one is ended from outside.
        let mut writer = AbortOnDropHandle::new(tokio::spawn(writer.run(send)));
        let served = tokio::select! {
            served = self.receive(disk, recv) => served,
            // The machine's task let go of the stream: a newer session, or answers left unread.
            _ = &mut writer => return Err(End::Over),
        };
        if timeout(WRITER_TIMEOUT, &mut writer).await.is_err() {
            writer.abort();
        }
        served
    }

    /// Receives frames; blocks are checked concurrently, and all is handed on in order.
    async fn receive(&mut self, disk: DiskId, recv: &mut RecvHalf) -> Result<(), End> {
        let mut items: FuturesOrdered<BoxFuture<'static, Item>> = FuturesOrdered::new();
        let mut waiting: Option<(Bytes, BoxFuture<'static, Taken>)> = None;
        let mut open = true;
        while open || !items.is_empty() || waiting.is_some() {
            let takes = open && waiting.is_none() && items.len() < ITEMS_MAX;
            let opening = async {
                match &mut waiting {
                    Some((_, opened)) => opened.await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe: a frame that is under way stays in its half, a check stays
            // in the set, and a block keeps its place in the queue. Blocks wait for room in their
            // order, so that what has it can always go on.
            tokio::select! {
                Some(item) = items.next() => self.hand_on(disk, item).await?,
                opened = opening => {
                    let (body, _) = waiting.take().expect("it was waited for");
                    let checked = self.check(body, opened);
                    items.push_back(checked.map(|checked| Item::Checked(Box::new(checked))).boxed());
                }
                frame = recv.recv_frame(limit), if takes => {
                    match frame {
                        Err(error) => {
                            tracing::debug!(%disk, %error, "a stream ended");
                            return Err(End::Over);
                        }
                        Ok(None) => open = false,
                        Ok(Some(frame)) => match FrameKind::from_code(frame.kind) {
                            Some(FrameKind::Block) => {
                                waiting = Some((frame.body.clone(), self.room_for(&frame.body)));
                            }
                            _ => {
                                let item = Item::Compare(compare(frame)?);
                                items.push_back(std::future::ready(item).boxed());
                            }
                        },
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes what a block will take when it is opened, as its header says; a header that is no header
    /// opens nothing.
    fn room_for(&self, body: &Bytes) -> BoxFuture<'static, Taken> {
        let len = BlockHeader::decode(body).map_or(0, |header| header.opened_len());
        let room = self.shared.opened.take(len);
        async { room.await.expect("there is room for any block") }.boxed()
    }

    /// Checks a block and makes its digests: at once where that is quick, on another thread where it
    /// takes a while. Each agent has its turn there, whatever the others send.
    fn check(&self, body: Bytes, opened: Taken) -> BoxFuture<'static, Checked> {
        let key = self.shared.header.digest_key;
        let quick = BlockHeader::decode(&body)
            .is_ok_and(|header| header.frame.raw_len <= reduce::INLINE_LEN_MAX);
        let work = move || {
            let block = ChangeBlock::decode(body)?;
            let digests = reduce::digests(&key, &block)?;
            Ok(OpenBlock {
                block,
                digests,
                opened,
            })
        };
        if quick {
            return std::future::ready(work()).boxed();
        }
        let (own, all) = (Arc::clone(&self.checks), Arc::clone(&self.shared.checks));
        // Spawned, so that its place in the queue does not depend on who polls the set.
        let checked = tokio::spawn(async move {
            let open = "the semaphores are never closed";
            let _own = own.acquire_owned().await.expect(open);
            let _all = all.acquire_owned().await.expect(open);
            blocking(work).await
        });
        async move { outcome(checked.await).await }.boxed()
    }

    async fn hand_on(&mut self, disk: DiskId, item: Item) -> Result<(), End> {
        let checked = match item {
            Item::Compare(compare) => return self.arrived(disk, Arrival::Compare(compare)).await,
            Item::Checked(checked) => *checked,
        };
        let what = match checked {
            Ok(open) => {
                self.corrupt_count = 0;
                Arrival::Block(Box::new(open))
            }
            Err(DecodeError::Corrupt { .. }) if self.corrupt_count + 1 < CORRUPT_MAX => {
                self.corrupt_count += 1;
                Arrival::Corrupt
            }
            Err(error) => {
                let reason = match error {
                    DecodeError::Corrupt { .. } => CloseReason::Crc,
                    _ => CloseReason::Frame,
                };
                return Err(End::Break(reason, error.to_string()));
            }
        };
        self.arrived(disk, what).await
    }

    async fn arrived(&self, disk: DiskId, what: Arrival) -> Result<(), End> {
        let session = self.session;
        let arrived = Arrived {
            session,
            disk,
            what,
        };
        if self.handle.arrived(arrived).await {
            Ok(())
        } else {
            Err(End::Over)
        }
    }
}

/// The only message that follows on a disk's stream.
fn compare(frame: Frame) -> Result<Compare, End> {
    match message(frame)? {
        ToServer::Compare(compare) => Ok(compare),
        _ => {
            let text = "only compares and blocks follow on a disk's stream".to_owned();
            Err(End::Break(CloseReason::Frame, text))
        }
    }
}

/// What each kind of frame may be long.
fn limit(kind: u8) -> Option<u32> {
    let len = match FrameKind::from_code(kind)? {
        FrameKind::Message => MESSAGE_LEN_MAX,
        FrameKind::Block => ENCODED_LEN_MAX,
    };
    u32::try_from(len).ok()
}

fn message(frame: Frame) -> Result<ToServer, End> {
    if FrameKind::from_code(frame.kind) != Some(FrameKind::Message) {
        let text = "a block where a message belongs".to_owned();
        return Err(End::Break(CloseReason::Frame, text));
    }
    let broken =
        |error: everpoint_wire::WireError| End::Break(CloseReason::Frame, error.to_string());
    ToServer::decode(frame.body).map_err(broken)
}
