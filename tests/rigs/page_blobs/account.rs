//! The containers and blobs of one account, and operations on them as answers.
//!
//! Each blob has a lock of its own; the locks of the account and of its containers are held for a look-up only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::StatusCode;

use super::answer::Answer;
use super::blob::{
    Blob, Content, CopyRecord, CopyStatus, LeaseDone, LoggedWrite, Moment, PageWrite, Version,
    WriteKind,
};
use super::checksums;
use super::conditions::Conditions;
use super::dates;
use super::pages::Pages;
use super::refusal::Refusal;
use super::request::{LeaseAction, Operation, Request, Source, Traits};

mod reads;

/// Who has the lease that is held by somebody else.
const SOMEBODY_ELSE: &str = "5073e0b0-d7e1-5e00-0000-50d3b0d1e150";

/// All that is stored.
#[derive(Debug)]
pub(super) struct Account {
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Of the last moment.
    ticks: AtomicU64,
    /// Writes that were done.
    executed: AtomicU64,
    logs_writes: bool,
}

#[derive(Debug)]
struct Container {
    blobs: Mutex<BTreeMap<String, Arc<Place>>>,
    made: Moment,
}

/// Where a blob is, or was, or may be.
type Place = Mutex<Option<Blob>>;

/// What an operation needs to know besides what is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// The request's place among all.
    pub(super) arrived: u64,
    pub(super) is_late: bool,
    /// How long a copy takes.
    pub(super) copy_takes: Duration,
}

impl Account {
    pub(super) fn new(containers: &[String], logs_writes: bool) -> Self {
        let account = Self {
            containers: Mutex::default(),
            ticks: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            logs_writes,
        };
        for name in containers {
            // One that is named twice is there once.
            let _ = account.create_container(name);
        }
        account
    }

    /// Does what is asked for, with what its body brought.
    pub(super) fn execute(
        &self,
        request: &Request,
        body: &[Bytes],
        circumstances: Circumstances,
    ) -> Result<Answer, Refusal> {
        match &request.operation {
            Operation::CreateContainer => self.create_container(&request.container),
            Operation::DeleteContainer => self.delete_container(&request.container),
            Operation::ContainerProperties => self.container_properties(&request.container),
            Operation::ListBlobs(list) => self.list_blobs(&request.container, list),
            Operation::GetBlob { snapshot, range } => {
                self.get_blob(request, snapshot.as_deref(), *range)
            }
            Operation::BlobProperties { snapshot } => {
                self.blob_properties(request, snapshot.as_deref())
            }
            Operation::PageRanges(list) => self.page_ranges(request, list),
            Operation::PutPageBlob {
                len,
                sequence_number,
                traits,
            } => {
                let content = Content::Pages(Pages::new(*len));
                self.put_blob(request, content, traits, *sequence_number)
            }
            Operation::PutBlockBlob { traits, checks } => {
                checksums::check(checks, body)?;
                let content = Content::Block(body.concat().into());
                self.put_blob(request, content, traits, 0)
            }
            Operation::PutPage { extent, checks } => {
                let crc64 = checksums::check(checks, body)?;
                let write = PageWrite {
                    kind: WriteKind::Put,
                    extent: extent.clone(),
                    pieces: body,
                };
                let answer = self.write_pages(request, &write, circumstances)?;
                Ok(answer.with("x-ms-content-crc64", crc64))
            }
            Operation::ClearPage { extent } => {
                let write = PageWrite {
                    kind: WriteKind::Clear,
                    extent: extent.clone(),
                    pieces: &[],
                };
                self.write_pages(request, &write, circumstances)
            }
            Operation::PutPageFromUrl {
                extent,
                source,
                from,
            } => {
                let bytes = self.read_source(source, from)?;
                let crc64 = checksums::crc64(std::slice::from_ref(&bytes));
                let write = PageWrite {
                    kind: WriteKind::PutFromUrl,
                    extent: extent.clone(),
                    pieces: &[bytes],
                };
                let answer = self.write_pages(request, &write, circumstances)?;
                Ok(answer.with("x-ms-content-crc64", crc64))
            }
            Operation::Copy {
                source,
                url,
                traits,
            } => self.copy(request, source, url, traits, circumstances.copy_takes),
            _ => self.change(request),
        }
    }

    /// How long a blob is, if it is there. Unit: bytes.
    pub(super) fn len(&self, container: &str, blob: &str) -> Option<u64> {
        let len = self.with(container, blob, |blob, _| Ok(blob.current.content.len()));
        len.ok()
    }

    /// A blob as it is, if it is there.
    pub(super) fn look(&self, container: &str, blob: &str) -> Option<Blob> {
        self.with(container, blob, |blob, _| Ok(blob.clone())).ok()
    }

    /// Has somebody else hold a lease without an end, whoever held one before.
    pub(super) fn lease_for_somebody_else(
        &self,
        container: &str,
        blob: &str,
    ) -> Result<(), Refusal> {
        self.with(container, blob, |blob, moment| {
            blob.lease = super::lease::Lease::default();
            let id = SOMEBODY_ELSE.to_owned();
            blob.lease.acquire(id, None, moment.instant)
        })
    }

    /// Breaks the lease of somebody else, at once.
    pub(super) fn break_lease_of_somebody_else(
        &self,
        container: &str,
        blob: &str,
    ) -> Result<(), Refusal> {
        self.with(container, blob, |blob, moment| {
            // That it is theirs is seen by renewing it.
            blob.lease.renew(SOMEBODY_ELSE, moment.instant)?;
            let at_once = Some(Duration::ZERO);
            blob.lease.end(at_once, moment.instant).map(drop)
        })
    }

    fn create_container(&self, name: &str) -> Result<Answer, Refusal> {
        let made = self.moment();
        let mut containers = lock(&self.containers);
        if containers.contains_key(name) {
            return Err(Refusal::CONTAINER_EXISTS);
        }
        let container = Container {
            blobs: Mutex::default(),
            made,
        };
        containers.insert(name.to_owned(), Arc::new(container));
        Ok(Answer::new(StatusCode::CREATED)
            .with("etag", made.etag())
            .with("last-modified", dates::http_date(made.time)))
    }

    fn delete_container(&self, name: &str) -> Result<Answer, Refusal> {
        let gone = lock(&self.containers).remove(name);
        gone.ok_or(Refusal::CONTAINER_NOT_FOUND)?;
        Ok(Answer::new(StatusCode::ACCEPTED))
    }

    fn put_blob(
        &self,
        request: &Request,
        content: Content,
        traits: &Traits,
        sequence_number: u64,
    ) -> Result<Answer, Refusal> {
        let place = self.place(&request.container, &request.blob)?;
        let mut place = lock(&place);
        let moment = self.settled(&mut place);
        let mut version = Version::new(content, traits.clone(), &moment);
        version.sequence_number = sequence_number;
        let answer = written(StatusCode::CREATED, &version);
        Blob::put(&mut place, version, &request.conditions, &moment)?;
        Ok(answer)
    }

    fn write_pages(
        &self,
        request: &Request,
        write: &PageWrite<'_>,
        circumstances: Circumstances,
    ) -> Result<Answer, Refusal> {
        self.with(&request.container, &request.blob, |blob, moment| {
            blob.write_pages(write, &request.conditions, moment)?;
            let executed = self.executed.fetch_add(1, Ordering::Relaxed);
            if self.logs_writes {
                blob.writes.push(LoggedWrite {
                    start: write.extent.start,
                    len: write.extent.end - write.extent.start,
                    kind: write.kind,
                    sequence: request.conditions.sequence.clone(),
                    arrived: circumstances.arrived,
                    executed,
                    is_late: circumstances.is_late,
                });
            }
            Ok(numbered(StatusCode::CREATED, &blob.current))
        })
    }

    fn copy(
        &self,
        request: &Request,
        source: &Source,
        url: &str,
        traits: &Traits,
        takes: Duration,
    ) -> Result<Answer, Refusal> {
        let from = self.source(source)?;
        let place = self.place(&request.container, &request.blob)?;
        let mut place = lock(&place);
        let moment = self.settled(&mut place);
        let metadata = match traits.metadata.is_empty() {
            true => from.traits.metadata,
            false => traits.metadata.clone(),
        };
        let traits = Traits {
            content_type: from.traits.content_type,
            metadata,
        };
        let len = from.content.len();
        let mut version = Version::new(from.content, traits, &moment);
        version.sequence_number = from.sequence_number;
        let (status, ended) = match takes.is_zero() {
            true => (CopyStatus::Success, Some(moment.time)),
            false => (CopyStatus::Pending, None),
        };
        let record = CopyRecord {
            id: new_id(),
            source: url.to_owned(),
            status,
            len,
            ended,
        };
        let answer = written(StatusCode::ACCEPTED, &version)
            .with("x-ms-copy-id", &record.id)
            .with("x-ms-copy-status", status.name());
        version.copy = Some(record);
        Blob::copy(&mut place, version, takes, &request.conditions, &moment)?;
        Ok(answer)
    }

    /// What is neither a read nor brings content.
    fn change(&self, request: &Request) -> Result<Answer, Refusal> {
        let conditions = &request.conditions;
        if let Operation::Delete {
            snapshot,
            snapshots,
        } = &request.operation
        {
            let place = self.place(&request.container, &request.blob)?;
            let mut place = lock(&place);
            let moment = self.settled(&mut place);
            let snapshot = snapshot.as_deref();
            Blob::delete(&mut place, snapshot, *snapshots, conditions, &moment)?;
            return Ok(Answer::new(StatusCode::ACCEPTED));
        }
        self.with(
            &request.container,
            &request.blob,
            |blob, moment| match request.operation.clone() {
                Operation::SetProperties {
                    len,
                    sequence,
                    content_type,
                } => {
                    blob.set_properties(len, sequence, content_type, conditions, moment)?;
                    Ok(numbered(StatusCode::OK, &blob.current))
                }
                Operation::SetMetadata { metadata } => {
                    blob.set_metadata(metadata, conditions, moment)?;
                    Ok(written(StatusCode::OK, &blob.current))
                }
                Operation::Snapshot { metadata } => {
                    let id = blob.snapshot(metadata, conditions, moment)?;
                    let answer = written(StatusCode::CREATED, &blob.current);
                    Ok(answer.with("x-ms-snapshot", id))
                }
                Operation::AbortCopy { id } => {
                    blob.abort_copy(&id, conditions, moment)?;
                    Ok(Answer::new(StatusCode::NO_CONTENT))
                }
                Operation::Lease(action) => leased(blob, action, conditions, moment),
                _ => Err(Refusal::NOT_IMPLEMENTED),
            },
        )
    }

    /// What a source has in an extent.
    fn read_source(&self, source: &Source, from: &std::ops::Range<u64>) -> Result<Bytes, Refusal> {
        let version = self.source(source)?;
        if from.end > version.content.len() {
            return Err(Refusal::INVALID_RANGE);
        }
        match &version.content {
            Content::Pages(pages) => Ok(pages.read(from.clone()).into()),
            Content::Block(bytes) => {
                let index = |at| usize::try_from(at).expect("it is in memory");
                Ok(bytes.slice(index(from.start)..index(from.end)))
            }
        }
    }

    fn source(&self, source: &Source) -> Result<Version, Refusal> {
        let none = Conditions::default();
        let version = self.with(&source.container, &source.blob, |blob, moment| {
            let version = blob.version(source.snapshot.as_deref(), &none, moment);
            version.cloned()
        });
        version.map_err(|_| Refusal::COPY_SOURCE_NOT_FOUND)
    }

    /// Does something with a blob that is there, under its lock.
    fn with<T>(
        &self,
        container: &str,
        blob: &str,
        act: impl FnOnce(&mut Blob, &Moment) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let container = self.container(container)?;
        let place = lock(&container.blobs).get(blob).cloned();
        let place = place.ok_or(Refusal::BLOB_NOT_FOUND)?;
        let mut place = lock(&place);
        let moment = self.settled(&mut place);
        act(place.as_mut().ok_or(Refusal::BLOB_NOT_FOUND)?, &moment)
    }

    /// Where a blob is or may be put.
    fn place(&self, container: &str, blob: &str) -> Result<Arc<Place>, Refusal> {
        let container = self.container(container)?;
        let mut blobs = lock(&container.blobs);
        Ok(blobs.entry(blob.to_owned()).or_default().clone())
    }

    fn container(&self, name: &str) -> Result<Arc<Container>, Refusal> {
        let found = lock(&self.containers).get(name).cloned();
        found.ok_or(Refusal::CONTAINER_NOT_FOUND)
    }

    /// Now, when a place has been locked, with what was to have happened there by now.
    fn settled(&self, place: &mut Option<Blob>) -> Moment {
        let moment = self.moment();
        if let Some(blob) = place {
            blob.settle(&moment);
        }
        moment
    }

    fn moment(&self) -> Moment {
        let time = SystemTime::now();
        let now = dates::ticks(time);
        let next = |last: u64| now.max(last + 1);
        let last = self
            .ticks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            });
        Moment {
            instant: Instant::now(),
            time,
            ticks: next(last.unwrap_or_else(|last| last)),
        }
    }
}

fn leased(
    blob: &mut Blob,
    action: LeaseAction,
    conditions: &Conditions,
    moment: &Moment,
) -> Result<Answer, Refusal> {
    let status = match action {
        LeaseAction::Acquire { .. } => StatusCode::CREATED,
        LeaseAction::Break { .. } => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    let done = blob.lease(action, new_id, conditions, moment)?;
    let answer = written(status, &blob.current);
    Ok(match done {
        LeaseDone::Held(id) => answer.with("x-ms-lease-id", id),
        LeaseDone::Released => answer,
        LeaseDone::Breaking { left_s } => answer.with("x-ms-lease-time", left_s),
    })
}

/// The answer to what may have changed a blob.
fn written(status: StatusCode, version: &Version) -> Answer {
    Answer::new(status)
        .with("etag", &version.etag)
        .with("last-modified", dates::http_date(version.modified))
}

fn numbered(status: StatusCode, version: &Version) -> Answer {
    written(status, version).with("x-ms-blob-sequence-number", version.sequence_number)
}

fn new_id() -> String {
    let digits = format!("{:032x}", rand::random::<u128>());
    let cut = [0..8, 8..12, 12..16, 16..20, 20..32];
    cut.map(|range| &digits[range]).join("-")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What panicked under it is a bug of this rig, and has been reported where it happened.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
