//! One blob: its content, its snapshots, its lease, and what each operation does to them.
//!
//! Nothing here knows of HTTP, nor reads a clock: an operation is done at a [`Moment`] that it is given.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::conditions::{Conditions, Seen, SequenceCondition};
use super::dates;
use super::lease::Lease;
use super::pages::Pages;
use super::refusal::Refusal;
use super::request::{
    DeleteSnapshots, LeaseAction, Metadata, SEQUENCE_NUMBER_MAX, SequenceAction, Traits,
};

/// When something is done; each is later than those before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) time: SystemTime,
    /// Unit: 100 ns since 1970, or a little more, since it is never told twice.
    pub(super) ticks: u64,
}

/// A blob with all that hangs on it.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) current: Version,
    /// The oldest first.
    pub(super) snapshots: BTreeMap<String, Version>,
    pub(super) lease: Lease,
    pub(super) writes: Vec<LoggedWrite>,
    pending: Option<PendingCopy>,
}

/// The blob itself, or one of its snapshots.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) content: Content,
    pub(super) etag: String,
    pub(super) modified: SystemTime,
    pub(super) created: SystemTime,
    pub(super) sequence_number: u64,
    pub(super) traits: Traits,
    pub(super) copy: Option<CopyRecord>,
    /// When this content took the place of another, so that there is no difference to that.
    generation: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Pages(Pages),
    Block(Bytes),
}

/// Where a blob was copied from.
#[derive(Clone, Debug)]
pub(super) struct CopyRecord {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) status: CopyStatus,
    /// Unit: bytes.
    pub(super) len: u64,
    pub(super) ended: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyStatus {
    Pending,
    Success,
    Aborted,
}

/// What a copy will put in place.
#[derive(Clone, Debug)]
struct PendingCopy {
    content: Content,
    ends: Instant,
}

/// A write of pages.
#[derive(Clone, Debug)]
pub(super) struct PageWrite<'a> {
    pub(super) kind: WriteKind,
    pub(super) extent: Range<u64>,
    /// Empty for a clear.
    pub(super) pieces: &'a [Bytes],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    Put,
    PutFromUrl,
    Clear,
}

/// A write that was done, in the order in which that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedWrite {
    /// Unit: bytes.
    pub start: u64,
    /// Unit: bytes.
    pub len: u64,
    pub kind: WriteKind,
    pub sequence: Vec<SequenceCondition>,
    /// Its place among all requests to the server, as they came.
    pub arrived: u64,
    /// Its place among all writes to the server, as they were done.
    pub executed: u64,
    /// Whether the client had been told that it was not done.
    pub is_late: bool,
}

impl Moment {
    pub(super) fn etag(&self) -> String {
        format!("\"0x8D{:X}\"", self.ticks)
    }
}

impl Content {
    /// Unit: bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Pages(pages) => pages.len(),
            Self::Block(bytes) => bytes.len() as u64,
        }
    }
}

impl CopyRecord {
    pub(super) fn is_done(&self) -> bool {
        self.status == CopyStatus::Success
    }
}

impl CopyStatus {
    /// As `x-ms-copy-status` says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Aborted => "aborted",
        }
    }
}

impl Version {
    pub(super) fn new(content: Content, traits: Traits, moment: &Moment) -> Self {
        Self {
            content,
            etag: moment.etag(),
            modified: moment.time,
            created: moment.time,
            sequence_number: 0,
            traits,
            copy: None,
            generation: moment.ticks,
        }
    }

    pub(super) fn pages(&self) -> Result<&Pages, Refusal> {
        match &self.content {
            Content::Pages(pages) => Ok(pages),
            Content::Block(_) => Err(Refusal::INVALID_BLOB_TYPE),
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            etag: &self.etag,
            modified: self.modified,
        }
    }

    fn touch(&mut self, moment: &Moment) {
        self.etag = moment.etag();
        self.modified = moment.time;
    }
}

impl Blob {
    fn new(current: Version) -> Self {
        Self {
            current,
            snapshots: BTreeMap::new(),
            lease: Lease::default(),
            writes: Vec::new(),
            pending: None,
        }
    }

    /// Puts a version in the place of whatever is there. Snapshots and the lease stay.
    pub(super) fn put(
        place: &mut Option<Self>,
        version: Version,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        match place {
            Some(_) if conditions.wants_none() => Err(Refusal::BLOB_EXISTS),
            Some(blob) => {
                blob.check_write(conditions, moment)?;
                blob.current = version;
                Ok(())
            }
            None => {
                conditions.check_absent()?;
                *place = Some(Self::new(version));
                Ok(())
            }
        }
    }

    /// Starts a copy, which has ended after `takes`.
    pub(super) fn copy(
        place: &mut Option<Self>,
        mut version: Version,
        takes: Duration,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        let mut pending = None;
        if !takes.is_zero() {
            let room = match &version.content {
                Content::Pages(pages) => Content::Pages(Pages::new(pages.len())),
                Content::Block(_) => Content::Block(Bytes::new()),
            };
            pending = Some(PendingCopy {
                content: std::mem::replace(&mut version.content, room),
                ends: moment.instant + takes,
            });
        }
        Self::put(place, version, conditions, moment)?;
        let blob = place.as_mut().expect("it was put there");
        blob.pending = pending;
        Ok(())
    }

    /// Ends a copy whose time has come.
    pub(super) fn settle(&mut self, moment: &Moment) {
        let ready = self.pending.take_if(|copy| copy.ends <= moment.instant);
        if let Some(copy) = ready {
            self.current.content = copy.content;
            self.end_copy(CopyStatus::Success, moment);
        }
    }

    pub(super) fn abort_copy(
        &mut self,
        id: &str,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        let lease = conditions.lease.as_deref();
        self.lease.admits_write(lease, moment.instant)?;
        if self.pending.is_none() {
            return Err(Refusal::NO_PENDING_COPY);
        }
        let copy = self.current.copy.as_ref();
        if copy.is_none_or(|copy| copy.id != id) {
            return Err(Refusal::COPY_ID_MISMATCH);
        }
        self.pending = None;
        self.current.content = match self.current.content {
            Content::Pages(_) => Content::Pages(Pages::new(0)),
            Content::Block(_) => Content::Block(Bytes::new()),
        };
        self.end_copy(CopyStatus::Aborted, moment);
        Ok(())
    }

    fn end_copy(&mut self, status: CopyStatus, moment: &Moment) {
        self.current.touch(moment);
        if let Some(copy) = &mut self.current.copy {
            copy.status = status;
            copy.ended = Some(moment.time);
        }
    }

    /// The blob, or a snapshot of it, for a read.
    pub(super) fn version(
        &self,
        snapshot: Option<&str>,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<&Version, Refusal> {
        if let Some(id) = snapshot {
            let version = self.snapshots.get(id).ok_or(Refusal::BLOB_NOT_FOUND)?;
            conditions.check_headers(version.seen(), false)?;
            return Ok(version);
        }
        self.check(conditions, moment, false)?;
        Ok(&self.current)
    }

    /// The version that is before another in a difference of the two.
    pub(super) fn since(&self, id: &str, of: Option<&str>) -> Result<&Version, Refusal> {
        let since = self.snapshots.get(id);
        let since = since.ok_or(Refusal::PREVIOUS_SNAPSHOT_NOT_FOUND)?;
        if of.is_some_and(|of| of < id) {
            return Err(Refusal::SNAPSHOT_CANNOT_BE_NEWER);
        }
        let version = of.map_or(Some(&self.current), |of| self.snapshots.get(of));
        match version {
            None => Err(Refusal::BLOB_NOT_FOUND),
            Some(version) if version.generation == since.generation => Ok(since),
            Some(_) => Err(Refusal::BLOB_OVERWRITTEN),
        }
    }

    pub(super) fn write_pages(
        &mut self,
        write: &PageWrite<'_>,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        if write.extent.end > self.current.pages()?.len() {
            return Err(Refusal::INVALID_PAGE_RANGE);
        }
        self.check_write(conditions, moment)?;
        if let Content::Pages(pages) = &mut self.current.content {
            match write.kind {
                WriteKind::Clear => pages.clear(write.extent.clone()),
                WriteKind::Put | WriteKind::PutFromUrl => {
                    pages.write(write.extent.start, write.pieces);
                }
            }
        }
        self.current.touch(moment);
        Ok(())
    }

    pub(super) fn set_properties(
        &mut self,
        len: Option<u64>,
        sequence: Option<SequenceAction>,
        content_type: Option<String>,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        if len.is_some() || sequence.is_some() {
            self.current.pages()?;
        }
        let old = self.current.sequence_number;
        let number = match sequence {
            None => old,
            Some(SequenceAction::Max(number)) => old.max(number),
            Some(SequenceAction::Update(number)) => number,
            Some(SequenceAction::Increment) if old == SEQUENCE_NUMBER_MAX => {
                return Err(Refusal::SEQUENCE_NUMBER_TOO_LARGE);
            }
            Some(SequenceAction::Increment) => old + 1,
        };
        self.check_write(conditions, moment)?;
        self.current.sequence_number = number;
        if let (Some(len), Content::Pages(pages)) = (len, &mut self.current.content) {
            pages.resize(len);
        }
        // A request that only resizes or counts leaves what it does not name.
        if len.is_none() && sequence.is_none() || content_type.is_some() {
            self.current.traits.content_type = content_type;
        }
        self.current.touch(moment);
        Ok(())
    }

    pub(super) fn set_metadata(
        &mut self,
        metadata: Metadata,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        self.check_write(conditions, moment)?;
        self.current.traits.metadata = metadata;
        self.current.touch(moment);
        Ok(())
    }

    /// Takes a snapshot, and tells its name. A lease that is held need not be named for it.
    pub(super) fn snapshot(
        &mut self,
        metadata: Metadata,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<String, Refusal> {
        let seen = self.current.seen();
        conditions.check_headers(seen, true)?;
        let lease = conditions.lease.as_deref();
        self.lease.admits_read(lease, moment.instant)?;
        self.check_no_copy()?;
        let id = dates::snapshot_id(moment.ticks);
        let mut version = self.current.clone();
        if !metadata.is_empty() {
            version.traits.metadata = metadata;
            version.touch(moment);
        }
        self.snapshots.insert(id.clone(), version);
        Ok(id)
    }

    /// Does something to the lease, and tells its name, or how many seconds are left of it.
    pub(super) fn lease(
        &mut self,
        action: LeaseAction,
        new_id: impl FnOnce() -> String,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<LeaseDone, Refusal> {
        conditions.check_headers(self.current.seen(), true)?;
        let now = moment.instant;
        match action {
            LeaseAction::Acquire { proposed, duration } => {
                let id = proposed.unwrap_or_else(new_id);
                self.lease.acquire(id.clone(), duration, now)?;
                Ok(LeaseDone::Held(id))
            }
            LeaseAction::Renew { id } => {
                self.lease.renew(&id, now)?;
                Ok(LeaseDone::Held(id))
            }
            LeaseAction::Change { id, proposed } => {
                self.lease.change(&id, proposed.clone(), now)?;
                Ok(LeaseDone::Held(proposed))
            }
            LeaseAction::Release { id } => {
                self.lease.release(&id, now)?;
                Ok(LeaseDone::Released)
            }
            LeaseAction::Break { period } => {
                let left_s = self.lease.end(period, now)?;
                Ok(LeaseDone::Breaking { left_s })
            }
        }
    }

    /// Deletes a snapshot, all of them, or all.
    pub(super) fn delete(
        place: &mut Option<Self>,
        snapshot: Option<&str>,
        snapshots: Option<DeleteSnapshots>,
        conditions: &Conditions,
        moment: &Moment,
    ) -> Result<(), Refusal> {
        let blob = place.as_mut().ok_or(Refusal::BLOB_NOT_FOUND)?;
        if let Some(id) = snapshot {
            let gone = blob.snapshots.remove(id);
            return gone.map(drop).ok_or(Refusal::BLOB_NOT_FOUND);
        }
        match snapshots {
            Some(DeleteSnapshots::Only) => {
                blob.check(conditions, moment, false)?;
                blob.snapshots.clear();
            }
            None if !blob.snapshots.is_empty() => return Err(Refusal::SNAPSHOTS_PRESENT),
            None | Some(DeleteSnapshots::Include) => {
                blob.check_write(conditions, moment)?;
                *place = None;
            }
        }
        Ok(())
    }

    /// Whether a write may be done; if so, it is, as far as the lease is concerned.
    fn check_write(&mut self, conditions: &Conditions, moment: &Moment) -> Result<(), Refusal> {
        self.check(conditions, moment, true)?;
        self.check_no_copy()?;
        self.lease.note_write(moment.instant);
        Ok(())
    }

    fn check(
        &self,
        conditions: &Conditions,
        moment: &Moment,
        is_write: bool,
    ) -> Result<(), Refusal> {
        conditions.check(
            self.current.seen(),
            &self.lease,
            self.current.sequence_number,
            moment.instant,
            is_write,
        )
    }

    fn check_no_copy(&self) -> Result<(), Refusal> {
        match self.pending {
            Some(_) => Err(Refusal::PENDING_COPY),
            None => Ok(()),
        }
    }
}

/// What became of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaseDone {
    Held(String),
    Released,
    Breaking { left_s: u64 },
}

#[cfg(test)]
mod tests;
