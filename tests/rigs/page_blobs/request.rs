//! Requests: which operation on which blob, with which conditions; whatever is wrong with one itself is found here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::{Method, request};

use super::conditions::Conditions;
use super::counts::OperationKind;
use super::lease::{BREAK_S_MAX, LEASE_S};
use super::pages::SECTOR_LEN;
use super::refusal::Refusal;
use head::Head;

mod head;

/// What one Put Page carries at most. Unit: bytes.
pub(super) const PUT_LEN_MAX: u64 = 4 << 20;
/// How long a page blob is at most. Unit: bytes.
pub(super) const BLOB_LEN_MAX: u64 = 8 << 40;
/// The largest sequence number.
pub(super) const SEQUENCE_NUMBER_MAX: u64 = (1 << 63) - 1;
/// How many entries a list has at most: of pages, and of blobs.
pub(super) const PAGE_LIST_MAX: usize = 10_000;
pub(super) const BLOB_LIST_MAX: usize = 5000;
/// How much of a body is kept for an operation that takes a whole block blob. Unit: bytes.
const BLOCK_BLOB_LEN_MAX: u64 = 256 << 20;

/// One request, understood.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) container: String,
    /// Empty for what is done to the container.
    pub(super) blob: String,
    pub(super) conditions: Conditions,
    pub(super) operation: Operation,
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    CreateContainer,
    DeleteContainer,
    ContainerProperties,
    ListBlobs(BlobList),
    PutPageBlob {
        len: u64,
        sequence_number: u64,
        traits: Traits,
    },
    PutBlockBlob {
        traits: Traits,
        checks: Checks,
    },
    PutPage {
        extent: Range<u64>,
        checks: Checks,
    },
    ClearPage {
        extent: Range<u64>,
    },
    PutPageFromUrl {
        extent: Range<u64>,
        source: Source,
        from: Range<u64>,
    },
    GetBlob {
        snapshot: Option<String>,
        range: Option<ByteRange>,
    },
    BlobProperties {
        snapshot: Option<String>,
    },
    PageRanges(PageList),
    SetProperties {
        len: Option<u64>,
        sequence: Option<SequenceAction>,
        content_type: Option<String>,
    },
    SetMetadata {
        metadata: Metadata,
    },
    Lease(LeaseAction),
    Snapshot {
        metadata: Metadata,
    },
    Copy {
        source: Source,
        url: String,
        traits: Traits,
    },
    AbortCopy {
        id: String,
    },
    Delete {
        snapshot: Option<String>,
        snapshots: Option<DeleteSnapshots>,
    },
}

pub(super) type Metadata = BTreeMap<String, String>;

/// What a blob is given with its content.
#[derive(Clone, Debug, Default)]
pub(super) struct Traits {
    pub(super) content_type: Option<String>,
    pub(super) metadata: Metadata,
}

/// Checksums of a body, as they are written in headers.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks {
    pub(super) md5: Option<String>,
    pub(super) crc64: Option<String>,
}

/// A blob of this account that is read for a copy.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) container: String,
    pub(super) blob: String,
    pub(super) snapshot: Option<String>,
}

/// Bytes of a blob, of a length that the client may not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRange {
    pub(super) start: u64,
    /// None: to the end.
    pub(super) end: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct PageList {
    pub(super) snapshot: Option<String>,
    pub(super) since: Option<String>,
    pub(super) range: Option<ByteRange>,
    pub(super) count_max: usize,
    /// Where to go on. Unit: bytes.
    pub(super) marker: u64,
}

#[derive(Clone, Debug)]
pub(super) struct BlobList {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// The first name.
    pub(super) marker: String,
    pub(super) count_max: usize,
    pub(super) with_snapshots: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceAction {
    Max(u64),
    Update(u64),
    Increment,
}

#[derive(Clone, Debug)]
pub(super) enum LeaseAction {
    /// None: without an end.
    Acquire {
        proposed: Option<String>,
        duration: Option<Duration>,
    },
    Renew {
        id: String,
    },
    Change {
        id: String,
        proposed: String,
    },
    Release {
        id: String,
    },
    Break {
        period: Option<Duration>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeleteSnapshots {
    Include,
    Only,
}

impl Request {
    /// Understands a request that came at `now`.
    pub(super) fn parse(
        account: &str,
        parts: &request::Parts,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let head = Head::new(&parts.headers, &parts.uri);
        head.authorize(now)?;
        let (container, blob) = head::place(account, parts.uri.path())?;
        let body_len = head.body_len(&parts.method)?;
        let operation = if blob.is_empty() {
            on_container(&parts.method, &head)?
        } else {
            on_blob(account, &parts.method, &head, body_len)?
        };
        Ok(Self {
            container,
            blob,
            conditions: head.conditions()?,
            operation,
        })
    }
}

impl Operation {
    pub(super) fn kind(&self) -> OperationKind {
        match self {
            Self::CreateContainer => OperationKind::CreateContainer,
            Self::DeleteContainer => OperationKind::DeleteContainer,
            Self::ContainerProperties => OperationKind::ContainerProperties,
            Self::ListBlobs(_) => OperationKind::ListBlobs,
            Self::PutPageBlob { .. } => OperationKind::PutPageBlob,
            Self::PutBlockBlob { .. } => OperationKind::PutBlockBlob,
            Self::PutPage { .. } => OperationKind::PutPage,
            Self::ClearPage { .. } => OperationKind::ClearPage,
            Self::PutPageFromUrl { .. } => OperationKind::PutPageFromUrl,
            Self::GetBlob { .. } => OperationKind::GetBlob,
            Self::BlobProperties { .. } => OperationKind::BlobProperties,
            Self::PageRanges(_) => OperationKind::PageRanges,
            Self::SetProperties { .. } => OperationKind::SetProperties,
            Self::SetMetadata { .. } => OperationKind::SetMetadata,
            Self::Lease(_) => OperationKind::Lease,
            Self::Snapshot { .. } => OperationKind::Snapshot,
            Self::Copy { .. } => OperationKind::Copy,
            Self::AbortCopy { .. } => OperationKind::AbortCopy,
            Self::Delete { .. } => OperationKind::Delete,
        }
    }

    /// How much of a body it can use. Unit: bytes.
    pub(super) fn body_len_max(&self) -> u64 {
        match self {
            Self::PutPage { .. } => PUT_LEN_MAX,
            Self::PutBlockBlob { .. } => BLOCK_BLOB_LEN_MAX,
            _ => 0,
        }
    }
}

fn on_container(method: &Method, head: &Head<'_>) -> Result<Operation, Refusal> {
    if head.query("restype") != Some("container") {
        return Err(Refusal::NOT_IMPLEMENTED);
    }
    match (method, head.query("comp")) {
        (&Method::PUT, None) => Ok(Operation::CreateContainer),
        (&Method::DELETE, None) => Ok(Operation::DeleteContainer),
        (&Method::GET | &Method::HEAD, None) => Ok(Operation::ContainerProperties),
        (&Method::GET, Some("list")) => Ok(Operation::ListBlobs(BlobList {
            prefix: head.query("prefix").unwrap_or_default().to_owned(),
            delimiter: head.query("delimiter").map(str::to_owned),
            marker: head.query("marker").unwrap_or_default().to_owned(),
            count_max: head.count_max(BLOB_LIST_MAX)?,
            with_snapshots: head
                .query("include")
                .is_some_and(|include| include.split(',').any(|word| word == "snapshots")),
        })),
        _ => Err(Refusal::NOT_IMPLEMENTED),
    }
}

fn on_blob(
    account: &str,
    method: &Method,
    head: &Head<'_>,
    body_len: u64,
) -> Result<Operation, Refusal> {
    let snapshot = head.query("snapshot").map(str::to_owned);
    match (method, head.query("comp")) {
        (&Method::GET, None) => Ok(Operation::GetBlob {
            snapshot,
            range: head.range()?,
        }),
        (&Method::HEAD, None) | (&Method::GET | &Method::HEAD, Some("metadata")) => {
            Ok(Operation::BlobProperties { snapshot })
        }
        (&Method::GET, Some("pagelist")) => page_list(head, snapshot),
        (&Method::DELETE, None) => delete(head, snapshot),
        (&Method::PUT, None) => put_blob(account, head, body_len),
        (&Method::PUT, Some("page")) => put_page(account, head, body_len),
        (&Method::PUT, Some("properties")) => set_properties(head),
        (&Method::PUT, Some("metadata")) => Ok(Operation::SetMetadata {
            metadata: head.metadata(),
        }),
        (&Method::PUT, Some("lease")) => lease(head).map(Operation::Lease),
        (&Method::PUT, Some("snapshot")) => Ok(Operation::Snapshot {
            metadata: head.metadata(),
        }),
        (&Method::PUT, Some("copy")) if head.get("x-ms-copy-action") == Some("abort") => {
            let id = head.query("copyid").ok_or(Refusal::INVALID_QUERY)?;
            Ok(Operation::AbortCopy { id: id.to_owned() })
        }
        _ => Err(Refusal::NOT_IMPLEMENTED),
    }
}

fn put_blob(account: &str, head: &Head<'_>, body_len: u64) -> Result<Operation, Refusal> {
    let traits = head.traits();
    match (head.get("x-ms-copy-source"), head.get("x-ms-blob-type")) {
        (Some(url), None) => Ok(Operation::Copy {
            source: head::source(account, url)?,
            url: url.to_owned(),
            traits,
        }),
        (None, Some("PageBlob")) => {
            if body_len != 0 {
                return Err(Refusal::INVALID_HEADER);
            }
            let len = head.number("x-ms-blob-content-length")?;
            let sequence_number = head.number("x-ms-blob-sequence-number")?;
            Ok(Operation::PutPageBlob {
                len: blob_len(len.ok_or(Refusal::MISSING_HEADER)?)?,
                sequence_number: sequence(sequence_number.unwrap_or_default())?,
                traits,
            })
        }
        (None, Some("BlockBlob")) if BLOCK_BLOB_LEN_MAX < body_len => Err(Refusal::BODY_TOO_LARGE),
        (None, Some("BlockBlob")) => Ok(Operation::PutBlockBlob {
            traits,
            checks: head.checks(),
        }),
        (None, None) => Err(Refusal::MISSING_HEADER),
        _ => Err(Refusal::NOT_IMPLEMENTED),
    }
}

fn put_page(account: &str, head: &Head<'_>, body_len: u64) -> Result<Operation, Refusal> {
    let extent = pages(head.range()?.ok_or(Refusal::MISSING_HEADER)?)?;
    let len = extent.end - extent.start;
    match (head.get("x-ms-page-write"), head.get("x-ms-copy-source")) {
        (Some("clear"), None) if body_len == 0 => Ok(Operation::ClearPage { extent }),
        (Some("update"), None) => {
            if PUT_LEN_MAX < len.max(body_len) {
                return Err(Refusal::BODY_TOO_LARGE);
            }
            if len != body_len {
                return Err(Refusal::INVALID_HEADER);
            }
            Ok(Operation::PutPage {
                extent,
                checks: head.checks(),
            })
        }
        (Some("update"), Some(url)) => {
            let from = head.get("x-ms-source-range");
            let from = from.ok_or(Refusal::MISSING_HEADER)?;
            let from = pages(head::byte_range(from)?)?;
            if PUT_LEN_MAX < len {
                return Err(Refusal::BODY_TOO_LARGE);
            }
            if body_len != 0 || from.end - from.start != len {
                return Err(Refusal::INVALID_HEADER);
            }
            let source = head::source(account, url)?;
            Ok(Operation::PutPageFromUrl {
                extent,
                source,
                from,
            })
        }
        (None, _) => Err(Refusal::MISSING_HEADER),
        _ => Err(Refusal::INVALID_HEADER),
    }
}

fn page_list(head: &Head<'_>, snapshot: Option<String>) -> Result<Operation, Refusal> {
    let marker = match head.query("marker") {
        None | Some("") => 0,
        Some(marker) => marker.parse().map_err(|_| Refusal::INVALID_QUERY)?,
    };
    Ok(Operation::PageRanges(PageList {
        snapshot,
        since: head.query("prevsnapshot").map(str::to_owned),
        range: head.range()?,
        count_max: head.count_max(PAGE_LIST_MAX)?,
        marker,
    }))
}

fn delete(head: &Head<'_>, snapshot: Option<String>) -> Result<Operation, Refusal> {
    let snapshots = match head.get("x-ms-delete-snapshots") {
        None => None,
        Some("include") => Some(DeleteSnapshots::Include),
        Some("only") => Some(DeleteSnapshots::Only),
        Some(_) => return Err(Refusal::INVALID_HEADER),
    };
    if snapshot.is_some() && snapshots.is_some() {
        return Err(Refusal::INVALID_QUERY);
    }
    Ok(Operation::Delete {
        snapshot,
        snapshots,
    })
}

fn set_properties(head: &Head<'_>) -> Result<Operation, Refusal> {
    let number = head.number("x-ms-blob-sequence-number")?;
    let number = number.map(sequence).transpose()?;
    let sequence = match (head.get("x-ms-sequence-number-action"), number) {
        (None, None) => None,
        (Some("max"), Some(number)) => Some(SequenceAction::Max(number)),
        (Some("update"), Some(number)) => Some(SequenceAction::Update(number)),
        (Some("increment"), None) => Some(SequenceAction::Increment),
        (None, Some(_)) | (Some("max" | "update"), None) => return Err(Refusal::MISSING_HEADER),
        (Some(_), _) => return Err(Refusal::INVALID_HEADER),
    };
    let len = head.number("x-ms-blob-content-length")?;
    Ok(Operation::SetProperties {
        len: len.map(blob_len).transpose()?,
        sequence,
        content_type: head.get("x-ms-blob-content-type").map(str::to_owned),
    })
}

fn lease(head: &Head<'_>) -> Result<LeaseAction, Refusal> {
    let id = || {
        let id = head.lease_id("x-ms-lease-id")?;
        id.ok_or(Refusal::MISSING_HEADER)
    };
    let proposed = head.lease_id("x-ms-proposed-lease-id")?;
    let action = head.get("x-ms-lease-action");
    match action.ok_or(Refusal::MISSING_HEADER)? {
        "acquire" => {
            let duration = head.get("x-ms-lease-duration");
            let duration = duration.ok_or(Refusal::MISSING_HEADER)?;
            let seconds: i64 = duration.parse().map_err(|_| Refusal::INVALID_HEADER)?;
            if seconds != -1 && !LEASE_S.contains(&seconds) {
                return Err(Refusal::INVALID_HEADER);
            }
            let seconds = u64::try_from(seconds).ok();
            let duration = seconds.map(Duration::from_secs);
            Ok(LeaseAction::Acquire { proposed, duration })
        }
        "renew" => Ok(LeaseAction::Renew { id: id()? }),
        "change" => Ok(LeaseAction::Change {
            id: id()?,
            proposed: proposed.ok_or(Refusal::MISSING_HEADER)?,
        }),
        "release" => Ok(LeaseAction::Release { id: id()? }),
        "break" => match head.number("x-ms-lease-break-period")? {
            Some(seconds) if BREAK_S_MAX < seconds => Err(Refusal::INVALID_HEADER),
            seconds => Ok(LeaseAction::Break {
                period: seconds.map(Duration::from_secs),
            }),
        },
        _ => Err(Refusal::INVALID_HEADER),
    }
}

/// An extent to be written: whole sectors, both ends told.
fn pages(range: ByteRange) -> Result<Range<u64>, Refusal> {
    let end = range.end.ok_or(Refusal::INVALID_HEADER)?;
    let is_whole = range.start.is_multiple_of(SECTOR_LEN) && end.is_multiple_of(SECTOR_LEN);
    if is_whole {
        Ok(range.start..end)
    } else {
        Err(Refusal::INVALID_PAGE_RANGE)
    }
}

fn blob_len(len: u64) -> Result<u64, Refusal> {
    if len.is_multiple_of(SECTOR_LEN) && len <= BLOB_LEN_MAX {
        Ok(len)
    } else {
        Err(Refusal::INVALID_HEADER)
    }
}

fn sequence(number: u64) -> Result<u64, Refusal> {
    if number <= SEQUENCE_NUMBER_MAX {
        Ok(number)
    } else {
        Err(Refusal::INVALID_HEADER)
    }
}
