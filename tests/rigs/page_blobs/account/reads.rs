//! Reads of an account: content, properties, and lists of pages and blobs.

use std::ops::Range;

use http::StatusCode;

use super::{Account, Blob, Content, Moment, Request, Version, dates, lock, numbered, written};
use crate::rigs::page_blobs::answer::{Answer, AnswerBody, declaration, element};
use crate::rigs::page_blobs::lease::LeaseState;
use crate::rigs::page_blobs::pages::Change;
use crate::rigs::page_blobs::refusal::Refusal;
use crate::rigs::page_blobs::request::{BlobList, ByteRange, PageList};

impl Account {
    pub(super) fn container_properties(&self, name: &str) -> Result<Answer, Refusal> {
        let made = self.container(name)?.made;
        Ok(Answer::new(StatusCode::OK)
            .with("etag", made.etag())
            .with("last-modified", dates::http_date(made.time))
            .with("x-ms-lease-state", "available")
            .with("x-ms-lease-status", "unlocked"))
    }

    pub(super) fn get_blob(
        &self,
        request: &Request,
        snapshot: Option<&str>,
        range: Option<ByteRange>,
    ) -> Result<Answer, Refusal> {
        self.with(&request.container, &request.blob, |blob, moment| {
            let version = blob.version(snapshot, &request.conditions, moment)?;
            let len = version.content.len();
            let extent = match range {
                Some(range) if len <= range.start => return Err(Refusal::INVALID_RANGE),
                Some(range) => range.start..range.end.unwrap_or(len).min(len),
                None => 0..len,
            };
            let status = match range {
                Some(_) => StatusCode::PARTIAL_CONTENT,
                None => StatusCode::OK,
            };
            let mut answer = described(status, blob, version, snapshot.is_some(), moment);
            if range.is_some() {
                let last = extent.end - 1;
                let range = format!("bytes {}-{last}/{len}", extent.start);
                answer.set("content-range", range);
            }
            Ok(answer.with_body(match &version.content {
                Content::Block(bytes) => {
                    let index = |at| usize::try_from(at).expect("it is in memory");
                    AnswerBody::Bytes(bytes.slice(index(extent.start)..index(extent.end)))
                }
                Content::Pages(pages) => AnswerBody::Pages {
                    pages: pages.part(&extent),
                    left: extent,
                },
            }))
        })
    }

    pub(super) fn blob_properties(
        &self,
        request: &Request,
        snapshot: Option<&str>,
    ) -> Result<Answer, Refusal> {
        self.with(&request.container, &request.blob, |blob, moment| {
            let version = blob.version(snapshot, &request.conditions, moment)?;
            let answer = described(StatusCode::OK, blob, version, snapshot.is_some(), moment);
            Ok(answer.with("content-length", version.content.len()))
        })
    }

    pub(super) fn page_ranges(
        &self,
        request: &Request,
        list: &PageList,
    ) -> Result<Answer, Refusal> {
        self.with(&request.container, &request.blob, |blob, moment| {
            let snapshot = list.snapshot.as_deref();
            let version = blob.version(snapshot, &request.conditions, moment)?;
            let pages = version.pages()?;
            let asked = list.range.unwrap_or(ByteRange {
                start: 0,
                end: None,
            });
            if list.range.is_some() && pages.len() <= asked.start {
                return Err(Refusal::INVALID_RANGE);
            }
            let end = asked.end.unwrap_or(pages.len()).min(pages.len());
            let within = asked.start.max(list.marker).min(end)..end;
            let found = match &list.since {
                Some(since) => {
                    let since = blob.since(since, snapshot)?;
                    pages.changed(since.pages()?, within)
                }
                None => {
                    let written = pages.written(within).into_iter();
                    written.map(|extent| (extent, Change::Written)).collect()
                }
            };
            let answer = written(StatusCode::OK, version)
                .with("x-ms-blob-content-length", pages.len())
                .with_xml(page_list(&found, list.count_max));
            Ok(answer)
        })
    }

    pub(super) fn list_blobs(&self, container: &str, list: &BlobList) -> Result<Answer, Refusal> {
        let container_name = container;
        let container = self.container(container)?;
        let first = list.prefix.as_str().max(list.marker.as_str());
        let places: Vec<_> = lock(&container.blobs)
            .range(first.to_owned()..)
            .take_while(|(name, _)| name.starts_with(&list.prefix))
            .map(|(name, place)| (name.clone(), place.clone()))
            .collect();
        let mut entries = String::new();
        let (mut count, mut next, mut last_folder) = (0, None, None);
        for (name, place) in places {
            let folder = list.delimiter.as_ref().and_then(|delimiter| {
                let rest = &name[list.prefix.len()..];
                let at = rest.find(delimiter.as_str())?;
                Some(name[..list.prefix.len() + at + delimiter.len()].to_owned())
            });
            let mut place = lock(&place);
            let moment = self.settled(&mut place);
            let Some(blob) = &*place else { continue };
            if folder.is_some() && folder == last_folder {
                continue;
            }
            if count == list.count_max {
                next = Some(name);
                break;
            }
            count += 1;
            if let Some(folder) = folder {
                entries.push_str("<BlobPrefix>");
                element(&mut entries, "Name", &folder);
                entries.push_str("</BlobPrefix>");
                last_folder = Some(folder);
                continue;
            }
            let snapshots = blob.snapshots.iter().filter(|_| list.with_snapshots);
            for (id, version) in snapshots {
                entry(&mut entries, &name, Some(id), version, blob, &moment);
            }
            entry(&mut entries, &name, None, &blob.current, blob, &moment);
        }
        let mut xml = declaration();
        xml.push_str(&format!(
            "<EnumerationResults ContainerName=\"{container_name}\">"
        ));
        element(&mut xml, "Prefix", &list.prefix);
        element(&mut xml, "MaxResults", list.count_max);
        xml.push_str("<Blobs>");
        xml.push_str(&entries);
        xml.push_str("</Blobs>");
        element(&mut xml, "NextMarker", next.unwrap_or_default());
        xml.push_str("</EnumerationResults>");
        Ok(Answer::new(StatusCode::OK).with_xml(xml))
    }
}

/// The properties of a blob or a snapshot as headers.
fn described(
    status: StatusCode,
    blob: &Blob,
    version: &Version,
    is_snapshot: bool,
    moment: &Moment,
) -> Answer {
    let content_type = version.traits.content_type.as_deref();
    let mut answer = match version.content {
        Content::Pages(_) => numbered(status, version).with("x-ms-blob-type", "PageBlob"),
        Content::Block(_) => written(status, version).with("x-ms-blob-type", "BlockBlob"),
    }
    .with("accept-ranges", "bytes")
    .with(
        "content-type",
        content_type.unwrap_or("application/octet-stream"),
    )
    .with("x-ms-creation-time", dates::http_date(version.created))
    .with("x-ms-server-encrypted", true);
    if !is_snapshot {
        let state = blob.lease.state(moment.instant);
        answer.set("x-ms-lease-state", state.name());
        answer.set("x-ms-lease-status", state.status());
        if state == LeaseState::Leased {
            let is_infinite = blob.lease.is_infinite();
            let duration = if is_infinite { "infinite" } else { "fixed" };
            answer.set("x-ms-lease-duration", duration);
        }
    }
    if let Some(copy) = &version.copy {
        answer.set("x-ms-copy-id", &copy.id);
        answer.set("x-ms-copy-source", &copy.source);
        answer.set("x-ms-copy-status", copy.status.name());
        let done = if copy.is_done() { copy.len } else { 0 };
        answer.set("x-ms-copy-progress", format!("{done}/{}", copy.len));
        if let Some(ended) = copy.ended {
            answer.set("x-ms-copy-completion-time", dates::http_date(ended));
        }
    }
    for (name, value) in &version.traits.metadata {
        answer.set_metadata(name, value);
    }
    answer
}

fn page_list(found: &[(Range<u64>, Change)], count_max: usize) -> String {
    let mut xml = declaration();
    xml.push_str("<PageList>");
    for (extent, change) in found.iter().take(count_max) {
        let name = match change {
            Change::Written => "PageRange",
            Change::Cleared => "ClearRange",
        };
        xml.push_str(&format!("<{name}>"));
        element(&mut xml, "Start", extent.start);
        element(&mut xml, "End", extent.end - 1);
        xml.push_str(&format!("</{name}>"));
    }
    if let Some((next, _)) = found.get(count_max) {
        element(&mut xml, "NextMarker", next.start);
    }
    xml.push_str("</PageList>");
    xml
}

/// A blob or a snapshot in a list.
fn entry(
    xml: &mut String,
    name: &str,
    snapshot: Option<&str>,
    version: &Version,
    blob: &Blob,
    moment: &Moment,
) {
    xml.push_str("<Blob>");
    element(xml, "Name", name);
    if let Some(snapshot) = snapshot {
        element(xml, "Snapshot", snapshot);
    }
    xml.push_str("<Properties>");
    element(xml, "Creation-Time", dates::http_date(version.created));
    element(xml, "Last-Modified", dates::http_date(version.modified));
    element(xml, "Etag", version.etag.trim_matches('"'));
    element(xml, "Content-Length", version.content.len());
    let content_type = version.traits.content_type.as_deref();
    element(xml, "Content-Type", content_type.unwrap_or_default());
    match version.content {
        Content::Pages(_) => {
            element(xml, "x-ms-blob-sequence-number", version.sequence_number);
            element(xml, "BlobType", "PageBlob");
        }
        Content::Block(_) => element(xml, "BlobType", "BlockBlob"),
    }
    if snapshot.is_none() {
        let state = blob.lease.state(moment.instant);
        element(xml, "LeaseStatus", state.status());
        element(xml, "LeaseState", state.name());
    }
    xml.push_str("</Properties></Blob>");
}
