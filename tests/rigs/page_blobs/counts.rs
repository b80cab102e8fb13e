//! Counts of what was asked, and of what really went wrong.

use std::collections::BTreeMap;

/// What a server did since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    operations: BTreeMap<OperationKind, OperationCounts>,
    pub faults: FaultCounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    CreateContainer,
    DeleteContainer,
    ContainerProperties,
    ListBlobs,
    PutPageBlob,
    PutBlockBlob,
    PutPage,
    ClearPage,
    PutPageFromUrl,
    GetBlob,
    BlobProperties,
    PageRanges,
    SetProperties,
    SetMetadata,
    Lease,
    Snapshot,
    Copy,
    AbortCopy,
    Delete,
    /// What could not be understood, or is not authorized.
    Unknown,
}

/// Of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    pub requests: u64,
    /// Those that were answered with success. A late write is not, nor is a lost answer.
    pub succeeded: u64,
    /// Bodies of requests. Unit: bytes.
    pub bytes_in: u64,
    /// Bodies of answers. Unit: bytes.
    pub bytes_out: u64,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub slow: u64,
    pub throttled: u64,
    pub error_500: u64,
    pub error_500_executed: u64,
    pub error_503: u64,
    pub lost_answers: u64,
    pub lost_requests: u64,
    pub late: u64,
    /// Late writes that landed, and those that their conditions kept out.
    pub late_executed: u64,
    pub late_refused: u64,
    pub expired_credential: u64,
    pub no_permission: u64,
    pub worm: u64,
    /// Connections that were closed.
    pub unreachable: u64,
}

impl Counts {
    /// Of one kind of operation.
    pub fn of(&self, kind: OperationKind) -> OperationCounts {
        self.operations.get(&kind).copied().unwrap_or_default()
    }

    /// Of all kinds together.
    pub fn all(&self) -> OperationCounts {
        let mut all = OperationCounts::default();
        for counts in self.operations.values() {
            all.requests += counts.requests;
            all.succeeded += counts.succeeded;
            all.bytes_in += counts.bytes_in;
            all.bytes_out += counts.bytes_out;
        }
        all
    }

    pub(super) fn of_mut(&mut self, kind: OperationKind) -> &mut OperationCounts {
        self.operations.entry(kind).or_default()
    }
}

impl OperationKind {
    /// Whether it changes anything, and so needs permission to write.
    pub fn is_write(self) -> bool {
        !matches!(
            self,
            Self::ContainerProperties
                | Self::ListBlobs
                | Self::GetBlob
                | Self::BlobProperties
                | Self::PageRanges
                | Self::Unknown
        )
    }

    /// Whether it writes pages, and so may come late.
    pub fn is_page_write(self) -> bool {
        matches!(self, Self::PutPage | Self::ClearPage | Self::PutPageFromUrl)
    }

    /// Whether a policy of immutability forbids it where the blob is there.
    pub(super) fn is_forbidden_by_worm(self) -> bool {
        self.is_write() && !matches!(self, Self::Lease | Self::Snapshot | Self::CreateContainer)
    }
}
