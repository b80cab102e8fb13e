//! Refusals by the names that Azure gives them in the reference of its error codes.

use std::time::Duration;

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// As `x-ms-error-code` says it.
    pub code: &'static str,
    pub message: &'static str,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

macro_rules! refusals {
    ($($name:ident: $status:literal $code:ident $message:literal,)*) => {
        impl Refusal {
            $(pub const $name: Self = Self {
                status: $status,
                code: stringify!($code),
                message: $message,
                retry_after: None,
            };)*
        }
    };
}

refusals! {
    NO_AUTHENTICATION: 401 NoAuthenticationInformation "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    AUTHENTICATION_FAILED: 403 AuthenticationFailed "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.",
    REQUEST_DATE_OFF: 403 AuthenticationFailed "Server failed to authenticate the request. Request date header too old or too far ahead: it may be 15 minutes off at most.",
    NO_PERMISSION: 403 AuthorizationPermissionMismatch "This request is not authorized to perform this operation using this permission.",
    MISSING_HEADER: 400 MissingRequiredHeader "An HTTP header that's mandatory for this request is not specified.",
    INVALID_HEADER: 400 InvalidHeaderValue "The value for one of the HTTP headers is not in the correct format.",
    INVALID_QUERY: 400 InvalidQueryParameterValue "Value for one of the query parameters specified in the request URI is invalid.",
    QUERY_OUT_OF_RANGE: 400 OutOfRangeQueryParameterValue "One of the query parameters specified in the request URI is outside the permissible range.",
    INVALID_URI: 400 InvalidUri "The requested URI does not represent any resource on the server.",
    MD5_MISMATCH: 400 Md5Mismatch "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
    CRC64_MISMATCH: 400 Crc64Mismatch "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.",
    SNAPSHOT_CANNOT_BE_NEWER: 400 PreviousSnapshotCannotBeNewer "The prevsnapshot query parameter value cannot be newer than the snapshot query parameter value.",
    COPY_SOURCE_NOT_FOUND: 404 CannotVerifyCopySource "The specified copy source does not exist.",
    RESOURCE_NOT_FOUND: 404 ResourceNotFound "The specified resource does not exist.",
    CONTAINER_NOT_FOUND: 404 ContainerNotFound "The specified container does not exist.",
    BLOB_NOT_FOUND: 404 BlobNotFound "The specified blob does not exist.",
    CONTAINER_EXISTS: 409 ContainerAlreadyExists "The specified container already exists.",
    BLOB_EXISTS: 409 BlobAlreadyExists "The specified blob already exists.",
    BLOB_OVERWRITTEN: 409 BlobOverwritten "The blob has been recreated since the previous snapshot was taken.",
    BLOB_IMMUTABLE: 409 BlobImmutableDueToPolicy "This operation is not permitted as the blob is immutable due to a policy.",
    INVALID_BLOB_TYPE: 409 InvalidBlobType "The blob type is invalid for this operation.",
    SNAPSHOTS_PRESENT: 409 SnapshotsPresent "This operation is not permitted because the blob has snapshots.",
    PREVIOUS_SNAPSHOT_NOT_FOUND: 409 PreviousSnapshotNotFound "The previous snapshot is not found.",
    SEQUENCE_NUMBER_TOO_LARGE: 409 SequenceNumberIncrementTooLarge "The sequence number increment cannot be performed because it would result in overflow of the sequence number.",
    PENDING_COPY: 409 PendingCopyOperation "There is currently a pending copy operation.",
    NO_PENDING_COPY: 409 NoPendingCopyOperation "There is currently no pending copy operation.",
    COPY_ID_MISMATCH: 409 CopyIdMismatch "The specified copy ID did not match the copy ID for the pending copy operation.",
    LEASE_ALREADY_PRESENT: 409 LeaseAlreadyPresent "There is already a lease present.",
    LEASE_ID_MISMATCH_WITH_LEASE_OPERATION: 409 LeaseIdMismatchWithLeaseOperation "The lease ID specified did not match the lease ID for the blob.",
    LEASE_NOT_PRESENT_WITH_LEASE_OPERATION: 409 LeaseNotPresentWithLeaseOperation "There is currently no lease on the blob.",
    LEASE_IS_BREAKING_AND_CANNOT_BE_ACQUIRED: 409 LeaseIsBreakingAndCannotBeAcquired "The lease is breaking, and it cannot be acquired until it is broken.",
    LEASE_IS_BREAKING_AND_CANNOT_BE_CHANGED: 409 LeaseIsBreakingAndCannotBeChanged "The lease is breaking, and its ID cannot be changed.",
    LEASE_IS_BROKEN_AND_CANNOT_BE_RENEWED: 409 LeaseIsBrokenAndCannotBeRenewed "The lease has been broken, and it cannot be renewed.",
    NO_CONTENT_LENGTH: 411 MissingContentLengthHeader "The Content-Length header was not specified.",
    CONDITION_NOT_MET: 412 ConditionNotMet "The condition specified using HTTP conditional header(s) is not met.",
    SEQUENCE_CONDITION_NOT_MET: 412 SequenceNumberConditionNotMet "The sequence number condition specified was not met.",
    LEASE_ID_MISSING: 412 LeaseIdMissing "There is currently a lease on the blob and no lease ID was specified in the request.",
    LEASE_ID_MISMATCH_WITH_BLOB_OPERATION: 412 LeaseIdMismatchWithBlobOperation "The lease ID specified did not match the lease ID for the blob.",
    LEASE_NOT_PRESENT_WITH_BLOB_OPERATION: 412 LeaseNotPresentWithBlobOperation "There is currently no lease on the blob.",
    LEASE_LOST: 412 LeaseLost "A lease ID was specified, but the lease for the blob has expired.",
    BODY_TOO_LARGE: 413 RequestBodyTooLarge "The request body is too large and exceeds the maximum permissible limit.",
    INVALID_RANGE: 416 InvalidRange "The range specified is invalid for the current size of the resource.",
    INVALID_PAGE_RANGE: 416 InvalidPageRange "The page range specified is invalid.",
    TIMED_OUT: 500 OperationTimedOut "Operation could not be completed within the permitted time.",
    NOT_IMPLEMENTED: 501 NotImplemented "This stand-in for Azure does not know the operation.",
    SERVER_BUSY: 503 ServerBusy "The server is currently unable to receive requests. Please retry your request.",
}

impl Refusal {
    /// Asks the client to wait.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }

    /// A read that did not meet a condition has nothing new to tell.
    #[must_use]
    pub fn not_modified(self) -> Self {
        Self {
            status: 304,
            ..self
        }
    }
}
