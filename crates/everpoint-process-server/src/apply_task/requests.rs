//! Carries out what the core asks of a target, and says what to do about each answer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::replica::Mark;
use everpoint_format::vhd::FOOTER_LEN;
use everpoint_replica::{Cause, Fence, PageError, PageTarget, Pages, Remedy};
use everpoint_units::{ByteLen, ByteOffset, Extent, SECTOR_LEN};

use super::lease::{Lease, Unresized};
use super::staging::Arena;
use crate::apply_core::{Effect, Looked, MarkFound, PageWork, PartFrom, WorkPart};
use crate::blocking::blocking;
use crate::clock::wall_time;
use crate::replicas::Replicas;
use crate::shared::chain;

/// What became of a request.
pub(super) enum Answer {
    Looked(Result<Looked, Failed>),
    Created(Result<(), Failed>),
    Leased(Result<(), Failed>),
    Raised(Result<Fence, Failed>),
    Mark(Result<MarkFound, Failed>),
    Done(Result<(), Failed>),
    Work(usize, Result<(), Failed>),
}

/// Why not, and what to do about it.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) remedy: Remedy,
    pub(super) text: String,
}

/// Bytes of windows, by number.
pub(super) type Arenas = BTreeMap<u64, Arc<Arena>>;

impl Failed {
    /// Of a request that changes the target.
    fn write(error: &PageError) -> Self {
        Self {
            remedy: error.remedy(),
            text: chain(error),
        }
    }

    /// Of one that changes nothing: the same again, whatever became of it.
    fn read(error: &PageError) -> Self {
        let remedy = match error.remedy() {
            Remedy::RaiseFence => Remedy::Again { after: None },
            remedy => remedy,
        };
        Self {
            remedy,
            ..Self::write(error)
        }
    }

    fn staging(error: &io::Error) -> Self {
        Self {
            remedy: Remedy::Report,
            text: format!("what was staged for a replica cannot be read: {error}"),
        }
    }
}

/// Carries out an effect that is a request to the target.
///
/// # Panics
///
/// If it is none.
pub(super) async fn ask(
    target: Arc<dyn PageTarget>,
    lease: Arc<Lease>,
    replicas: Arc<Replicas>,
    arenas: Arenas,
    effect: Effect,
) -> Answer {
    replicas.account_pace(&effect).await;
    match effect {
        Effect::Look => {
            let properties = target.properties().await;
            let looked = properties.map(|found| match found {
                None => Looked::Nothing,
                Some(is) => Looked::Target {
                    len: is.len,
                    fence: is.fence,
                },
            });
            Answer::Looked(looked.map_err(|error| Failed::read(&error)))
        }
        Effect::Create { len, fence } => {
            let created = target.create(len, fence).await;
            Answer::Created(created.map_err(|error| Failed::write(&error)))
        }
        Effect::Lease => {
            let passed = lease.pass(&*target).await;
            Answer::Leased(passed.map_err(|error| Failed::read(&error)))
        }
        Effect::Raise { to } => {
            let raised = target.raise(to).await;
            Answer::Raised(raised.map_err(|error| Failed::write(&error)))
        }
        Effect::ReadMark { at } => Answer::Mark(read_mark(&*target, at).await),
        Effect::Resize { len, fence } => {
            let resized = lease.resize(&*target, len, fence).await;
            Answer::Done(resized.map_err(|unresized| match unresized {
                Unresized::NotAsked(error) => Failed::read(&error),
                Unresized::Asked(error) => Failed::write(&error),
            }))
        }
        Effect::PutMark { at, mark, fence } => {
            let page = Bytes::copy_from_slice(&mark.encode(wall_time()));
            let put = target.put(at, &Pages::from(page), fence).await;
            Answer::Done(put.map_err(|error| Failed::write(&error)))
        }
        Effect::Wipe { len, fence } => {
            let wiped = target.clear(ByteOffset(0), len, fence).await;
            Answer::Done(wiped.map_err(|error| Failed::write(&error)))
        }
        Effect::Work { index, fence, work } => {
            let done = carry_out(&*target, &replicas, arenas, work, fence).await;
            Answer::Work(index, done)
        }
        Effect::AskWhoLeads | Effect::Follow { .. } | Effect::Forget { .. } => {
            unreachable!("not asked of the target")
        }
    }
}

async fn read_mark(target: &dyn PageTarget, at: ByteOffset) -> Result<MarkFound, Failed> {
    let page = target.read(at, ByteLen(SECTOR_LEN), None).await;
    let page = page.map_err(|error| Failed::read(&error))?;
    let Some(page) = page.first_chunk::<FOOTER_LEN>() else {
        let short = PageError::from(Cause::Answer { what: "a page" });
        return Err(Failed::read(&short));
    };
    Ok(match Mark::decode(page) {
        Ok(Some(mark)) => MarkFound::Mark(mark),
        Ok(None) if page.starts_with(b"conectix") => MarkFound::Footer,
        Ok(None) => MarkFound::Nothing,
        Err(error) => {
            tracing::warn!(%error, "a replica's mark is damaged: it is written anew");
            MarkFound::Nothing
        }
    })
}

async fn carry_out(
    target: &dyn PageTarget,
    replicas: &Replicas,
    arenas: Arenas,
    work: PageWork,
    fence: Fence,
) -> Result<(), Failed> {
    let reads = work.reads();
    let (extent, parts) = match work {
        PageWork::Clear { extent } => {
            let (at, len) = (extent.start().byte_offset(), extent.byte_len());
            let cleared = target.clear(at, len, fence).await;
            return cleared.map_err(|error| Failed::write(&error));
        }
        PageWork::Put { extent, parts } => (extent, parts),
    };
    let len = bytes_of(extent) + reads.map_or(0, bytes_of);
    let memory = replicas
        .budget
        .take(len.min(replicas.budget.capacity()))
        .await;
    let memory = memory.expect("no more than there is");
    let known = match reads {
        None => Bytes::new(),
        Some(extent) => {
            let (at, len) = (extent.start().byte_offset(), extent.byte_len());
            let known = target.read(at, len, None).await;
            known.map_err(|error| Failed::read(&error))?
        }
    };
    let assembled = blocking(move || assemble(extent, &parts, reads, &known, &arenas)).await;
    let bytes = assembled.map_err(|error| Failed::staging(&error))?;
    let pages = Pages::from(memory.charge(bytes));
    let put = target.put(extent.start().byte_offset(), &pages, fence);
    put.await.map_err(|error| Failed::write(&error))
}

/// The bytes of a put, from where its parts are.
fn assemble(
    extent: Extent,
    parts: &[WorkPart],
    reads: Option<Extent>,
    known: &Bytes,
    arenas: &Arenas,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; bytes_of(extent)];
    let mut parts = parts.iter().peekable();
    while let Some(part) = parts.next() {
        let from = offset_in(extent, part.extent);
        match part.from {
            PartFrom::Zero => (),
            PartFrom::Target => {
                let read = reads.expect("what is read in the target was planned");
                let at = offset_in(read, part.extent);
                let len = bytes_of(part.extent);
                bytes[from..from + len].copy_from_slice(&known[at..at + len]);
            }
            PartFrom::Staged { window, at } => {
                // What lies side by side in both places is read at once.
                let (mut end, mut next) = (part.extent.end(), at.0 + sectors(part.extent));
                while let Some(behind) = parts.peek()
                    && let PartFrom::Staged { window: of, at } = behind.from
                    && (of, at.0, behind.extent.start()) == (window, next, end)
                {
                    (end, next) = (behind.extent.end(), next + sectors(behind.extent));
                    parts.next();
                }
                let len = usize::try_from((next - at.0) * SECTOR_LEN).expect("within a put");
                let arena = arenas
                    .get(&window)
                    .expect("it is kept until its requests are done");
                arena.read(at.0, &mut bytes[from..from + len])?;
            }
        }
    }
    Ok(bytes)
}

fn sectors(extent: Extent) -> u64 {
    u64::from(extent.sectors().get())
}

fn bytes_of(extent: Extent) -> usize {
    usize::try_from(extent.byte_len().0).expect("at most what one put takes")
}

fn offset_in(whole: Extent, part: Extent) -> usize {
    let sectors = part.start().sector() - whole.start().sector();
    usize::try_from(sectors * SECTOR_LEN).expect("at most what one put takes")
}
