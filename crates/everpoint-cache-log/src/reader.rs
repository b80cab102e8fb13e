//! Reading records back, while others are appended: never past what is synced.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::DecodeError;
use everpoint_format::cache_log::{FileHeader, LogFileNo, RecordBody};
use everpoint_marks::planted;
use everpoint_units::{ByteOffset, JournalId};

use crate::config::Layout;
use crate::engine::{Engine, FileView};
use crate::error::{IoFault, Operation};
use crate::recovery::scan::record_at;
use crate::storage::LogFile;
use crate::window::{BadBlocks, Window};
use crate::{FileName, LogPosition, ReadError};

/// Bytes read at a time by a reader that goes through the log. Unit: bytes.
const SWEEP_LEN: usize = 4 << 20;
/// Bytes read first for a single record. Unit: bytes.
const SINGLE_LEN: usize = 64 << 10;

/// One record, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogRecord {
    pub position: LogPosition,
    /// The journal of the boot that wrote it.
    pub journal: JournalId,
    /// The encoded change block.
    pub payload: Bytes,
}

/// Reads records in order. Blocking: drive it from a thread that may wait for the disk. Memory: one
/// window of 4 MiB.
pub struct LogReader {
    engine: Arc<Engine>,
    file_no: LogFileNo,
    at: u64,
    /// Files from this number on are not read.
    end: Option<LogFileNo>,
    open: Option<OpenFile>,
    window: Window,
}

struct OpenFile {
    no: LogFileNo,
    header: FileHeader,
    handle: Box<dyn LogFile>,
}

impl LogReader {
    pub(crate) fn new(engine: Arc<Engine>, from: LogPosition, end: Option<LogFileNo>) -> Self {
        let len = SWEEP_LEN.min(usize::try_from(engine.file_len()).unwrap_or(SWEEP_LEN));
        Self::with_window(engine, from, end, len)
    }

    fn with_window(
        engine: Arc<Engine>,
        from: LogPosition,
        end: Option<LogFileNo>,
        len: usize,
    ) -> Self {
        Self {
            engine,
            file_no: from.file_no(),
            at: from.offset().0,
            end,
            open: None,
            window: Window::new(len, BadBlocks::Fail),
        }
    }

    /// The next record; `None` when everything that is synced was read. Ask again later for more.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]. After `Damaged` and `File` the reader stays where it is.
    pub fn next_record(&mut self) -> Result<Option<LogRecord>, ReadError> {
        loop {
            let Some(view) = self.engine.view(self.file_no) else {
                return Err(ReadError::Freed {
                    position: self.position(),
                });
            };
            if view.file.readable <= self.at {
                if !self.go_on(&view) {
                    return Ok(None);
                }
                continue;
            }
            match self.read_here(&view)? {
                Step::Record(record) => return Ok(Some(record)),
                Step::Passed => {}
            }
        }
    }

    /// Steps over a mark, or over one place in a file with accepted gaps; or reads a record.
    fn read_here(&mut self, view: &FileView) -> Result<Step, ReadError> {
        let position = self.position();
        let Some(header) = view.file.header else {
            self.at = view.file.readable;
            return Ok(Step::Passed);
        };
        self.open_file(header, view.file.has_gaps)?;
        let open = self.open.as_ref().expect("opened a moment ago");
        let limit = view.file.readable;
        let read = record_at(
            &*open.handle,
            &open.header,
            self.at,
            limit,
            &mut self.window,
        );
        let record = match read {
            Ok(Ok(record)) => record,
            Ok(Err(_)) if view.file.has_gaps || planted!(TornRecordSkipped) => {
                self.at += header.record_align.step();
                return Ok(Step::Passed);
            }
            Ok(Err(source)) => return Err(self.broken(source)),
            Err(error) => return Err(failed(position, Operation::Read, &error)),
        };
        self.at = record.end.0;
        if record.header.body == RecordBody::Mark {
            return Ok(Step::Passed);
        }
        Ok(Step::Record(LogRecord {
            position,
            journal: header.journal,
            payload: Bytes::copy_from_slice(record.payload),
        }))
    }

    /// Goes over to the next file, if this one is read to its end and there is one.
    fn go_on(&mut self, view: &FileView) -> bool {
        let is_wanted = |no: &LogFileNo| self.end.is_none_or(|end| *no < end);
        match view.next.filter(is_wanted) {
            Some(next) if view.is_complete => {
                self.file_no = next;
                self.at = Layout::FIRST;
                true
            }
            _ => false,
        }
    }

    fn open_file(&mut self, header: FileHeader, has_gaps: bool) -> Result<(), ReadError> {
        let is_open = self
            .open
            .as_ref()
            .is_some_and(|open| open.no == self.file_no);
        if is_open {
            return Ok(());
        }
        let position = self.position();
        let name = FileName::Log(self.file_no);
        let handle = match self.engine.storage().open(name) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Freed { position });
            }
            Err(error) => return Err(failed(position, Operation::Open, &error)),
        };
        self.window.clear();
        self.window.set_bad_blocks(if has_gaps {
            BadBlocks::Zero
        } else {
            BadBlocks::Fail
        });
        self.open = Some(OpenFile {
            no: self.file_no,
            header,
            handle,
        });
        Ok(())
    }

    /// Bytes that are no record: the file was freed and used again meanwhile, or it is damage.
    fn broken(&mut self, source: DecodeError) -> ReadError {
        let position = self.position();
        self.window.clear();
        match self.engine.view(self.file_no) {
            Some(_) => ReadError::Damaged { position, source },
            None => ReadError::Freed { position },
        }
    }

    fn position(&self) -> LogPosition {
        LogPosition::new(self.file_no, ByteOffset(self.at))
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("at", &self.position())
            .finish_non_exhaustive()
    }
}

enum Step {
    Record(LogRecord),
    Passed,
}

/// Reads the record that begins at `position`.
pub(crate) fn read_one(engine: &Arc<Engine>, position: LogPosition) -> Result<Bytes, ReadError> {
    let mut reader = LogReader::with_window(Arc::clone(engine), position, None, SINGLE_LEN);
    match reader.next_record()? {
        Some(record) if record.position == position => Ok(record.payload),
        _ => Err(ReadError::Freed { position }),
    }
}

fn failed(position: LogPosition, operation: Operation, error: &io::Error) -> ReadError {
    ReadError::File {
        position,
        operation,
        source: IoFault::from(error),
    }
}
