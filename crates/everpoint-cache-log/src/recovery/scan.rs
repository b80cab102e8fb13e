//! What lies in one file: its unbroken run of records, and what valid records behind it say.

use std::io;

use everpoint_format::DecodeError;
use everpoint_format::cache_log::{
    FileHeader, RECORD_HEADER_LEN, Record, RecordBody, RecordHeader, RecordNo, decode_record,
};
use everpoint_marks::{planted, reached};
use everpoint_units::ByteOffset;

use crate::config::Layout;
use crate::storage::LogFile;
use crate::window::Window;

/// Facts about one file, no judgement.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct FileFacts {
    /// Number of the file's first record, if any valid record says so.
    pub(crate) first: Option<RecordNo>,
    /// The records that follow each other from the file's first place on.
    pub(crate) run: Option<Run>,
    /// Where the run stopped.
    pub(crate) stop: u64,
    /// The highest number that any valid record, in the run or behind it, calls synced.
    pub(crate) proven: RecordNo,
}

/// Records that follow each other without a gap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) last: RecordNo,
    /// Whether the last one is a mark.
    pub(crate) ends_in_mark: bool,
    /// Where the first and the last block begin; none when there are only marks.
    pub(crate) blocks: Option<(ByteOffset, ByteOffset)>,
    pub(crate) block_count: u64,
    /// Payload of the blocks. Unit: bytes.
    pub(crate) block_len: u64,
}

/// Reads a whole file, `len` bytes of it at most. Unreadable blocks count as zeroes, if the window
/// says so.
///
/// # Errors
///
/// As the system gives them.
pub(crate) fn scan(
    file: &dyn LogFile,
    header: &FileHeader,
    len: u64,
    window: &mut Window,
) -> io::Result<FileFacts> {
    let limit = header.file_len.0.min(len);
    let mut facts = FileFacts::default();
    let mut at = Layout::FIRST;
    window.clear();
    while at < limit {
        let Ok(record) = record_at(file, header, at, limit, window)? else {
            break;
        };
        if !facts.extend(&record, ByteOffset(at)) {
            break;
        }
        at = record.end.0;
    }
    facts.stop = at;
    let binding = header.binding();
    while at < limit {
        let bytes = window.bytes(file, at, RECORD_HEADER_LEN, limit)?;
        if let Ok(stray) = RecordHeader::decode(bytes, &binding, ByteOffset(at)) {
            reached!(RecordsBehindTear);
            facts.note(&stray);
        }
        if planted!(TornRecordSkipped)
            && let Ok(record) = record_at(file, header, at, limit, window)?
            && facts.extend(&record, ByteOffset(at))
        {
            facts.stop = record.end.0;
        }
        at += header.record_align.step();
    }
    Ok(facts)
}

/// Reads the record at `at`, whole and checked, or says what lies there instead.
///
/// # Errors
///
/// As the system gives them.
pub(crate) fn record_at<'a>(
    file: &dyn LogFile,
    header: &FileHeader,
    at: u64,
    limit: u64,
    window: &'a mut Window,
) -> io::Result<Result<Record<'a>, DecodeError>> {
    let (binding, align, place) = (header.binding(), header.record_align, ByteOffset(at));
    let bytes = window.bytes(file, at, RECORD_HEADER_LEN, limit)?;
    let need = match RecordHeader::decode(bytes, &binding, place) {
        Ok(header) => header.end(place, align).0 - at,
        Err(error) => return Ok(Err(error)),
    };
    let need = usize::try_from(need).expect("a record is below 2 MiB");
    let bytes = window.bytes(file, at, need, limit)?;
    Ok(decode_record(bytes, &binding, align, place))
}

impl FileFacts {
    /// Adds the record that follows the run; `false` if it does not follow it.
    fn extend(&mut self, record: &Record<'_>, at: ByteOffset) -> bool {
        let header = &record.header;
        let expected = match self.run {
            Some(run) => run.last.next(),
            None => header.file_first,
        };
        if header.record_no != expected && !planted!(TornRecordSkipped) {
            return false;
        }
        let mut run = self.run.unwrap_or(Run {
            last: RecordNo::ZERO,
            ends_in_mark: false,
            blocks: None,
            block_count: 0,
            block_len: 0,
        });
        run.last = header.record_no;
        run.ends_in_mark = header.body == RecordBody::Mark;
        if !run.ends_in_mark {
            run.blocks = Some((run.blocks.map_or(at, |(first, _)| first), at));
            run.block_count += 1;
            run.block_len += record.payload.len() as u64;
        }
        self.run = Some(run);
        self.note(header);
        true
    }

    /// Keeps what a valid record says about others.
    fn note(&mut self, header: &RecordHeader) {
        self.first = self.first.or(Some(header.file_first));
        self.proven = self.proven.max(header.synced_through);
    }
}
