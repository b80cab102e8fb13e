//! What stands in a request's first lines: credentials, ranges, conditions, places.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Uri};

use super::{ByteRange, Checks, Metadata, Source, Traits};
use crate::rigs::page_blobs::conditions::{Conditions, SequenceCondition, SequenceOrder};
use crate::rigs::page_blobs::dates;
use crate::rigs::page_blobs::refusal::Refusal;

/// How far a client's clock may be off.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(15 * 60);

/// Headers and query of a request.
#[derive(Debug)]
pub(super) struct Head<'a> {
    headers: &'a HeaderMap,
    query: BTreeMap<String, String>,
}

impl<'a> Head<'a> {
    pub(super) fn new(headers: &'a HeaderMap, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self {
            headers,
            query: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Whether somebody with a credential asks, and asks now. Signatures are not looked at.
    pub(super) fn authorize(&self, now: SystemTime) -> Result<(), Refusal> {
        let has_version = self.get("x-ms-version").is_some();
        if self.query.contains_key("sig") {
            let has_version = has_version || self.query.contains_key("sv");
            return has_version.then_some(()).ok_or(Refusal::MISSING_HEADER);
        }
        let credential = self
            .get("authorization")
            .ok_or(Refusal::NO_AUTHENTICATION)?;
        let is_known = ["SharedKey ", "Bearer "].iter();
        if !is_known
            .clone()
            .any(|scheme| credential.starts_with(scheme))
        {
            return Err(Refusal::AUTHENTICATION_FAILED);
        }
        let date = self.get("x-ms-date").or_else(|| self.get("date"));
        let date = dates::parse_http_date(date.ok_or(Refusal::NO_AUTHENTICATION)?);
        let date = date.ok_or(Refusal::AUTHENTICATION_FAILED)?;
        let off = now.duration_since(date);
        if CLOCK_OFF_MAX < off.unwrap_or_else(|ahead| ahead.duration()) {
            return Err(Refusal::REQUEST_DATE_OFF);
        }
        has_version.then_some(()).ok_or(Refusal::MISSING_HEADER)
    }

    /// How long the body is said to be, which every PUT says. Unit: bytes.
    pub(super) fn body_len(&self, method: &Method) -> Result<u64, Refusal> {
        match self.number("content-length")? {
            None if method == Method::PUT => Err(Refusal::NO_CONTENT_LENGTH),
            len => Ok(len.unwrap_or_default()),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let number = self.get(name).map(str::parse).transpose();
        number.map_err(|_| Refusal::INVALID_HEADER)
    }

    /// How many entries are wanted of a list, of at most `max`.
    pub(super) fn count_max(&self, max: usize) -> Result<usize, Refusal> {
        let Some(wanted) = self.query("maxresults") else {
            return Ok(max);
        };
        let wanted: i64 = wanted.parse().map_err(|_| Refusal::INVALID_QUERY)?;
        match usize::try_from(wanted) {
            Ok(wanted) if wanted != 0 => Ok(wanted.min(max)),
            _ => Err(Refusal::QUERY_OUT_OF_RANGE),
        }
    }

    /// `x-ms-range`, or else `Range`.
    pub(super) fn range(&self) -> Result<Option<ByteRange>, Refusal> {
        let range = self.get("x-ms-range").or_else(|| self.get("range"));
        range.map(byte_range).transpose()
    }

    pub(super) fn checks(&self) -> Checks {
        Checks {
            md5: self.get("content-md5").map(str::to_owned),
            crc64: self.get("x-ms-content-crc64").map(str::to_owned),
        }
    }

    pub(super) fn traits(&self) -> Traits {
        let content_type = self.get("x-ms-blob-content-type");
        Traits {
            content_type: content_type
                .or_else(|| self.get("content-type"))
                .map(str::to_owned),
            metadata: self.metadata(),
        }
    }

    pub(super) fn metadata(&self) -> Metadata {
        let headers = self.headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-ms-meta-")?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        });
        headers.collect()
    }

    /// A lease's name: a GUID, with hyphens or without.
    pub(super) fn lease_id(&self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(id) = self.get(name) else {
            return Ok(None);
        };
        let digits: Vec<char> = id.chars().filter(|letter| *letter != '-').collect();
        let is_guid = digits.len() == 32 && digits.iter().all(char::is_ascii_hexdigit);
        if !is_guid || ![32, 36].contains(&id.len()) {
            return Err(Refusal::INVALID_HEADER);
        }
        Ok(Some(id.to_ascii_lowercase()))
    }

    pub(super) fn conditions(&self) -> Result<Conditions, Refusal> {
        let date = |name: &str| {
            let date = self.get(name).map(|date| {
                let date = dates::parse_http_date(date);
                date.ok_or(Refusal::INVALID_HEADER)
            });
            date.transpose()
        };
        let orders = [
            ("x-ms-if-sequence-number-le", SequenceOrder::AtMost),
            ("x-ms-if-sequence-number-lt", SequenceOrder::Below),
            ("x-ms-if-sequence-number-eq", SequenceOrder::Equal),
        ];
        let mut sequence = Vec::new();
        for (name, order) in orders {
            let number = self.number(name)?;
            sequence.extend(number.map(|number| SequenceCondition { order, number }));
        }
        Ok(Conditions {
            if_match: self.get("if-match").map(str::to_owned),
            if_none_match: self.get("if-none-match").map(str::to_owned),
            if_modified_since: date("if-modified-since")?,
            if_unmodified_since: date("if-unmodified-since")?,
            lease: self.lease_id("x-ms-lease-id")?,
            sequence,
        })
    }
}

/// `bytes=0-511`, or `bytes=512-`.
pub(super) fn byte_range(text: &str) -> Result<ByteRange, Refusal> {
    let read = || {
        let (start, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let start: u64 = start.parse().ok()?;
        let end = match last {
            "" => None,
            last => Some(last.parse::<u64>().ok()?.checked_add(1)?),
        };
        let is_range = end.is_none_or(|end| start < end);
        is_range.then_some(ByteRange { start, end })
    };
    read().ok_or(Refusal::INVALID_HEADER)
}

/// Container and blob of a path, of which either may be empty.
pub(super) fn place(account: &str, path: &str) -> Result<(String, String), Refusal> {
    let path = decoded(path).ok_or(Refusal::INVALID_URI)?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (found, path) = path.split_once('/').unwrap_or((path, ""));
    if found != account {
        return Err(Refusal::RESOURCE_NOT_FOUND);
    }
    let (container, blob) = path.split_once('/').unwrap_or((path, ""));
    Ok((container.to_owned(), blob.to_owned()))
}

/// The blob that a URL names, whatever the host: it is one of this account, or it is not found.
pub(super) fn source(account: &str, url: &str) -> Result<Source, Refusal> {
    let uri: Uri = url.parse().map_err(|_| Refusal::INVALID_HEADER)?;
    let (container, blob) =
        place(account, uri.path()).map_err(|_| Refusal::COPY_SOURCE_NOT_FOUND)?;
    let query = uri.query().unwrap_or_default();
    let mut query = form_urlencoded::parse(query.as_bytes());
    let snapshot = query.find(|(name, _)| name == "snapshot");
    Ok(Source {
        container,
        blob,
        snapshot: snapshot.map(|(_, id)| id.into_owned()),
    })
}

fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
