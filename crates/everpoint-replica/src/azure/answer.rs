//! What the service's answer means: done, fenced, busy, unknown, or something for a person.
//!
//! Source: Azure REST reference, "Status and error codes" and "Blob service error codes".

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use http::response::Parts;
use http::{HeaderMap, StatusCode};
use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Cause, PageError, Refusal};
use crate::fence::Fence;
use crate::target::{CopyState, Properties, SnapshotId};

/// How far a clock may be off. Source: Azure REST reference, "Authorize with Shared Key". Unit: minutes.
const CLOCK_MINUTES_MAX: i64 = 15;

/// What a failed request had asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// What it was conditional on.
    pub(super) fence: Option<Fence>,
    pub(super) at: ByteOffset,
    pub(super) len: ByteLen,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn new(head: Parts, body: Bytes) -> Self {
        Self {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    /// The answer of a request that was carried out.
    pub(super) fn unless_failed(self, asked: Asked) -> Result<Self, PageError> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(self.error(asked))
    }

    fn error(&self, asked: Asked) -> PageError {
        let code = self.code();
        let service = || {
            PageError::from(Cause::Service {
                status: self.status.as_u16(),
                code: code.clone(),
            })
        };
        match (self.status.as_u16(), code.as_str()) {
            (412, "SequenceNumberConditionNotMet") => PageError::Fenced {
                fence: asked.fence.unwrap_or_default(),
            },
            // The service says of itself that it did not take the request. A time-out of its own says no such thing.
            (429, _) | (503, "ServerBusy") => PageError::Busy {
                after: self.retry_after(),
            },
            (400, "Crc64Mismatch" | "Md5Mismatch") => PageError::Damaged,
            (408 | 500..=599, _) => service(),
            // A condition of a request that is not fenced: somebody else was there first.
            (409, "BlobAlreadyExists") | (412, "ConditionNotMet" | "TargetConditionNotMet") => {
                Refusal::Exists.into()
            }
            _ => self.refusal(code, asked).into(),
        }
    }

    fn refusal(&self, code: String, asked: Asked) -> Refusal {
        match (self.status.as_u16(), code.as_str()) {
            (404, "ContainerNotFound" | "ResourceNotFound") => Refusal::NoContainer,
            (404, _) => Refusal::Missing,
            (403, "AuthenticationFailed") => match self.clock_differs() {
                Some(minutes) => Refusal::Clock { minutes },
                None => Refusal::Credential { code },
            },
            (401 | 403, _) => Refusal::Credential { code },
            (
                409 | 412,
                "LeaseIdMissing"
                | "LeaseAlreadyPresent"
                | "LeaseIdMismatchWithBlobOperation"
                | "LeaseIdMismatchWithLeaseOperation"
                | "LeaseNotPresentWithBlobOperation"
                | "LeaseNotPresentWithLeaseOperation"
                | "LeaseIsBreakingAndCannotBeAcquired"
                | "LeaseLost",
            ) => Refusal::LeaseHeld,
            (409, "InvalidBlobType") => Refusal::Foreign {
                found: "blob of another type".to_owned(),
            },
            (409, code) if code.starts_with("BlobImmutable") || code.contains("LegalHold") => {
                Refusal::Immutable {
                    code: code.to_owned(),
                }
            }
            (416, _) => Refusal::TooSmall {
                at: asked.at,
                len: asked.len,
            },
            (status, _) => Refusal::Request { status, code },
        }
    }

    /// By how many minutes this machine's clock differs, where it is more than the service allows.
    fn clock_differs(&self) -> Option<i64> {
        let there = httpdate::parse_http_date(self.text("date")?).ok()?;
        let here = SystemTime::now();
        let (sign, apart) = match here.duration_since(there) {
            Ok(ahead) => (1, ahead),
            Err(behind) => (-1, behind.duration()),
        };
        let minutes = i64::try_from(apart.as_secs() / 60).ok()?;
        (CLOCK_MINUTES_MAX <= minutes).then_some(sign * minutes)
    }

    /// The service's code for what failed. An answer to a HEAD has it in its headers alone.
    fn code(&self) -> String {
        if let Some(code) = self.text("x-ms-error-code") {
            return code.to_owned();
        }
        let body = String::from_utf8_lossy(&self.body);
        let code = body
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map_or_else(String::new, |(code, _)| code.trim().to_owned())
    }

    fn retry_after(&self) -> Option<Duration> {
        self.number("retry-after").map(Duration::from_secs)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }

    /// The fence that it states.
    pub(super) fn fence(&self) -> Result<Fence, PageError> {
        let number = self.number("x-ms-blob-sequence-number");
        let fence = number.and_then(Fence::from_number);
        fence.ok_or_else(|| nonsense("the sequence number"))
    }

    pub(super) fn snapshot(&self) -> Result<SnapshotId, PageError> {
        let snapshot = self.text("x-ms-snapshot");
        let snapshot = snapshot.map(|snapshot| SnapshotId(snapshot.to_owned()));
        snapshot.ok_or_else(|| nonsense("the snapshot"))
    }

    pub(super) fn properties(&self) -> Result<Properties, PageError> {
        match self.text("x-ms-blob-type") {
            Some("PageBlob") => {}
            found => {
                let found = found.unwrap_or("blob of no type").to_owned();
                return Err(Refusal::Foreign { found }.into());
            }
        }
        let len = self.number("content-length");
        Ok(Properties {
            len: ByteLen(len.ok_or_else(|| nonsense("the length"))?),
            fence: self.fence()?,
            copy: self.copy()?,
            is_leased: self.text("x-ms-lease-state") == Some("leased"),
        })
    }

    fn copy(&self) -> Result<CopyState, PageError> {
        match self.text("x-ms-copy-status") {
            None | Some("success") => Ok(CopyState::Done),
            Some("pending") => {
                let progress = self.text("x-ms-copy-progress").unwrap_or("0/0");
                let parts = progress.split_once('/');
                let parts = parts
                    .and_then(|(copied, total)| Some((copied.parse().ok()?, total.parse().ok()?)));
                let (copied, total) = parts.ok_or_else(|| nonsense("the progress of a copy"))?;
                Ok(CopyState::Pending { copied, total })
            }
            Some(_) => Ok(CopyState::Failed),
        }
    }
}

fn nonsense(what: &'static str) -> PageError {
    Cause::Answer { what }.into()
}

/// The exchange failed. Where there was no connection, nothing was sent.
pub(super) fn no_answer(error: HttpError) -> PageError {
    let source = Box::new(error);
    match source.kind() {
        HttpErrorKind::Connect => PageError::Unreachable { source },
        _ => Cause::Connection { source }.into(),
    }
}

/// No credential could be had, so nothing was sent.
pub(super) fn no_credential(error: object_store::Error) -> PageError {
    match error {
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Refusal::Credential {
            code: "no token".to_owned(),
        }
        .into(),
        // Whoever hands out tokens may answer in a moment.
        other => PageError::Unreachable {
            source: Box::new(other),
        },
    }
}

#[cfg(test)]
mod tests;
