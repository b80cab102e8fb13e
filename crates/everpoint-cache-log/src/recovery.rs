//! Opening a directory: what earlier boots left is read from the medium, judged, and made durable
//! before anything new is written.
//!
//! 1. Sync every file, forget its cached pages, and scan it ([`scan`]). A killed process leaves writes
//!    in the page cache that look durable and are not; from here on they are, or this boot ends.
//! 2. Judge boot by boot ([`verdict`]).
//! 3. Files without survivors become spares, and the directory is synced. Only then a mark is written
//!    behind the survivors of each boot and synced: the tail that was found now is the tail for ever.
//!    (The other way round, a file without survivors would stand behind a mark that it does not know.)
//!
//! A new boot never writes into an old file otherwise. Old files go when the caller has settled what
//! they hold.

pub(crate) mod scan;
pub(crate) mod verdict;

use std::collections::BTreeMap;
use std::io;

use everpoint_format::DecodeError;
use everpoint_format::cache_log::{
    BATCH_ALIGN, FILE_HEADER_LEN, FileHeader, LogFileNo, RecordBody, RecordHeader,
};
use everpoint_marks::{planted, reached};
use everpoint_units::{ByteLen, ByteOffset, JournalId};

use crate::buffer::AlignedBuffer;
use crate::config::{Layout, LogOwner};
use crate::error::{Damage, IoFault, Operation};
use crate::storage::{Entry, LogFile, Storage};
use crate::window::{BadBlocks, Window};
use crate::{FileName, LogPosition, OpenError};

use scan::FileFacts;
use verdict::{Tail, Verdict};

/// Bytes read at a time, of files that are as long. Unit: bytes.
const SCAN_WINDOW_LEN: usize = 4 << 20;

/// What one earlier boot left behind. Where damage was accepted, `first` and `last` only bound the
/// blocks, and the counts are those of the unbroken runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecoveredBoot {
    /// The journal that the boot opened when it began.
    pub journal: JournalId,
    pub block_count: u64,
    /// Payload of the blocks.
    pub block_len: ByteLen,
    /// The oldest block that survived.
    pub first: LogPosition,
    /// The newest block that survived.
    pub last: LogPosition,
}

/// A file that holds records, as the running log sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LiveFile {
    /// None where damage was accepted and the header is gone: nothing here can be read.
    pub(crate) header: Option<FileHeader>,
    /// Bytes that the file takes.
    pub(crate) len: u64,
    /// Every record that begins below this is synced.
    pub(crate) readable: u64,
    /// The newest block that is synced.
    pub(crate) last_block: Option<ByteOffset>,
    /// Damage was accepted here: a reader searches for the next record behind a gap.
    pub(crate) has_gaps: bool,
}

/// The state of a directory after recovery.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) boots: Vec<RecoveredBoot>,
    /// Damage that was accepted.
    pub(crate) damage: Vec<Damage>,
    pub(crate) live: BTreeMap<LogFileNo, LiveFile>,
    pub(crate) spares: Vec<u64>,
    pub(crate) next_file: LogFileNo,
    pub(crate) next_spare: u64,
}

/// What the opener wants of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) owner: LogOwner,
    /// Length of the files of this boot; spares of another length are removed.
    pub(crate) file_len: u64,
    pub(crate) accepts_damage: bool,
}

/// The files of one boot, oldest first.
struct Boot {
    journal: JournalId,
    files: Vec<Scanned>,
}

struct Scanned {
    header: FileHeader,
    len: u64,
    facts: FileFacts,
}

/// Recovers a directory. Nothing is written before everything was judged.
///
/// # Errors
///
/// See [`OpenError`]; after an error of a sync the process must end.
pub(crate) fn recover(storage: &dyn Storage, wanted: &Wanted) -> Result<Recovery, OpenError> {
    let mut entries = storage.list().map_err(|error| OpenError::Storage {
        operation: Operation::List,
        source: IoFault::from(error),
    })?;
    entries.sort_by_key(|entry| entry.name);
    for entry in &entries {
        if let (file, Some(refusal)) = (entry.name, entry.refusal) {
            return Err(OpenError::Refused { file, refusal });
        }
    }

    let mut recovery = Recovery::after(&entries);
    let boots = recovery.scan_all(storage, wanted, &entries)?;
    let verdicts: Vec<Verdict> = boots.iter().map(Boot::judge).collect();
    for verdict in &verdicts {
        recovery.damage.extend_from_slice(&verdict.damage);
    }
    if let Some(first) = recovery.damage.first() {
        tracing::error!(damage = recovery.damage.len(), %first, "cache log is damaged");
        if !wanted.accepts_damage {
            return Err(OpenError::Damaged(first.clone()));
        }
    }

    recovery.tidy(storage, wanted, &entries, &boots, &verdicts)?;
    for (boot, verdict) in boots.iter().zip(&verdicts) {
        if verdict.damage.is_empty() {
            repair_tail(storage, boot, verdict.tail)?;
        }
        recovery.adopt(boot, verdict);
    }
    Ok(recovery)
}

impl Recovery {
    fn after(entries: &[Entry]) -> Self {
        let (mut newest_file, mut newest_spare) = (LogFileNo(0), 0);
        for entry in entries {
            match entry.name {
                FileName::Log(no) => newest_file = newest_file.max(no),
                FileName::Spare(no) | FileName::New(no) => newest_spare = newest_spare.max(no),
            }
        }
        Self {
            boots: Vec::new(),
            damage: Vec::new(),
            live: BTreeMap::new(),
            spares: Vec::new(),
            next_file: newest_file.next(),
            next_spare: newest_spare + 1,
        }
    }

    fn scan_all(
        &mut self,
        storage: &dyn Storage,
        wanted: &Wanted,
        entries: &[Entry],
    ) -> Result<Vec<Boot>, OpenError> {
        let longest = entries.iter().map(|entry| entry.len.0).max();
        let longest = usize::try_from(longest.unwrap_or(0)).unwrap_or(usize::MAX);
        let mut window = Window::new(SCAN_WINDOW_LEN.min(longest), BadBlocks::Zero);
        let mut boots: Vec<Boot> = Vec::new();
        for entry in entries {
            let FileName::Log(no) = entry.name else {
                continue;
            };
            let file = open_synced(storage, entry.name)?;
            let header = read_header(&*file, entry, &mut window)
                .map_err(|error| failed(entry.name, Operation::Read, error))?;
            let header = match header.and_then(|header| numbered(header, no)) {
                Ok(header) => header,
                Err(source) => {
                    self.lose_header(entry, no, source)?;
                    continue;
                }
            };
            wanted.owner.owns(entry.name, &header)?;
            let facts = scan::scan(&*file, &header, entry.len.0, &mut window)
                .map_err(|error| failed(entry.name, Operation::Read, error))?;
            let scanned = Scanned {
                header,
                len: entry.len.0,
                facts,
            };
            match boots.last_mut() {
                Some(boot) if boot.journal == header.journal => boot.files.push(scanned),
                _ => boots.push(Boot {
                    journal: header.journal,
                    files: vec![scanned],
                }),
            }
        }
        Ok(boots)
    }

    /// A header that cannot be read: damage, unless a newer build wrote it.
    fn lose_header(
        &mut self,
        entry: &Entry,
        file: LogFileNo,
        source: DecodeError,
    ) -> Result<(), OpenError> {
        if matches!(
            source,
            DecodeError::UnknownVersion { .. } | DecodeError::Invalid { .. }
        ) {
            return Err(OpenError::Unreadable {
                file: entry.name,
                source,
            });
        }
        self.damage.push(Damage::Header { file, source });
        let unreadable = LiveFile {
            header: None,
            len: entry.len.0,
            readable: Layout::FIRST,
            last_block: Some(ByteOffset(entry.len.0)),
            has_gaps: true,
        };
        self.live.insert(file, unreadable);
        Ok(())
    }

    /// Removes what was being made, keeps spares that fit, and makes spares of files without
    /// survivors. Durable when this returns.
    fn tidy(
        &mut self,
        storage: &dyn Storage,
        wanted: &Wanted,
        entries: &[Entry],
        boots: &[Boot],
        verdicts: &[Verdict],
    ) -> Result<(), OpenError> {
        for entry in entries {
            match entry.name {
                FileName::Log(_) => {}
                FileName::Spare(no) if entry.len.0 == wanted.file_len => self.spares.push(no),
                FileName::Spare(_) | FileName::New(_) => remove(storage, entry.name)?,
            }
        }
        for (boot, verdict) in boots.iter().zip(verdicts) {
            let is_empty = |file: &&Scanned| {
                verdict.empty.contains(&file.header.file_no) && verdict.damage.is_empty()
            };
            for file in boot.files.iter().filter(is_empty) {
                let name = FileName::Log(file.header.file_no);
                if file.len == wanted.file_len {
                    let spare = self.next_spare;
                    self.next_spare += 1;
                    storage
                        .rename(name, FileName::Spare(spare))
                        .map_err(|error| failed(name, Operation::Rename, error))?;
                    self.spares.push(spare);
                } else {
                    remove(storage, name)?;
                }
            }
        }
        sync_directory(storage)
    }

    /// Takes over what survived of a boot.
    fn adopt(&mut self, boot: &Boot, verdict: &Verdict) {
        let has_gaps = !verdict.damage.is_empty();
        let (mut block_count, mut block_len, mut ends) = (0, 0, None);
        for file in &boot.files {
            let no = file.header.file_no;
            if verdict.empty.contains(&no) && !has_gaps {
                continue;
            }
            let end = ByteOffset(file.header.file_len.0.min(file.len));
            let run = file.facts.run;
            // Where there are gaps, blocks may lie anywhere, and the run is not all of them.
            let blocks = if has_gaps {
                Some((ByteOffset(Layout::FIRST), end))
            } else {
                run.and_then(|run| run.blocks)
            };
            let live = LiveFile {
                header: Some(file.header),
                len: file.len,
                readable: if has_gaps { end.0 } else { file.facts.stop },
                last_block: blocks.map(|(_, last)| last),
                has_gaps,
            };
            self.live.insert(no, live);
            if let Some(run) = run {
                block_count += run.block_count;
                block_len += run.block_len;
            }
            if let Some((first, last)) = blocks {
                let (first, last) = (LogPosition::new(no, first), LogPosition::new(no, last));
                ends = Some((ends.map_or(first, |(oldest, _)| oldest), last));
            }
        }
        if let Some((first, last)) = ends {
            self.boots.push(RecoveredBoot {
                journal: boot.journal,
                block_count,
                block_len: ByteLen(block_len),
                first,
                last,
            });
        }
    }
}

impl Boot {
    fn judge(&self) -> Verdict {
        let facts = self.files.iter().map(|f| (f.header.file_no, f.facts));
        verdict::judge(&facts.collect::<Vec<_>>())
    }
}

impl LogOwner {
    fn owns(&self, file: FileName, header: &FileHeader) -> Result<(), OpenError> {
        if header.vault != self.vault {
            return Err(OpenError::ForeignVault {
                file,
                found: header.vault,
                expected: self.vault,
            });
        }
        if header.server != self.server {
            return Err(OpenError::ForeignServer {
                file,
                found: header.server,
                expected: self.server,
            });
        }
        if header.journal == self.journal {
            return Err(OpenError::JournalReused { file });
        }
        Ok(())
    }
}

/// Writes a mark behind the survivors and syncs it, unless the last of them is one.
fn repair_tail(storage: &dyn Storage, boot: &Boot, tail: Option<Tail>) -> Result<(), OpenError> {
    let Some(tail) = tail.filter(|tail| !tail.is_marked) else {
        return Ok(());
    };
    reached!(TailMarked);
    if planted!(TailNotMarked) {
        return Ok(());
    }
    let scanned = boot
        .files
        .iter()
        .find(|file| file.header.file_no == tail.file)
        .expect("the tail lies in a file of the boot");
    let mark = RecordHeader {
        record_no: tail.next,
        synced_through: scanned.facts.run.expect("the tail follows a run").last,
        file_first: tail.file_first,
        body: RecordBody::Mark,
        is_batch_end: true,
    };
    let len = tail.at.0.next_multiple_of(BATCH_ALIGN) - tail.at.0;
    let len = if len == 0 { BATCH_ALIGN } else { len };
    let mut block = AlignedBuffer::zeroed(usize::try_from(len).expect("at most 4,096"));
    let encoded = mark.encode(&scanned.header.binding(), tail.at);
    block[..encoded.len()].copy_from_slice(&encoded);

    let name = FileName::Log(tail.file);
    let file = storage
        .open(name)
        .map_err(|error| failed(name, Operation::Open, error))?;
    file.write(&block, tail.at)
        .map_err(|error| failed(name, Operation::Write, error))?;
    file.sync()
        .map_err(|error| failed(name, Operation::Sync, error))
}

/// Opens a file, makes durable what a killed process left in memory, and forgets that memory.
fn open_synced(storage: &dyn Storage, name: FileName) -> Result<Box<dyn LogFile>, OpenError> {
    let file = storage
        .open(name)
        .map_err(|error| failed(name, Operation::Open, error))?;
    if planted!(RecoveredUnsynced) {
        return Ok(file);
    }
    file.sync()
        .map_err(|error| failed(name, Operation::Sync, error))?;
    file.drop_cached()
        .map_err(|error| failed(name, Operation::Read, error))?;
    Ok(file)
}

fn read_header(
    file: &dyn LogFile,
    entry: &Entry,
    window: &mut Window,
) -> io::Result<Result<FileHeader, DecodeError>> {
    window.clear();
    let limit = (FILE_HEADER_LEN as u64).min(entry.len.0);
    if limit < FILE_HEADER_LEN as u64 {
        return Ok(FileHeader::decode(&[]));
    }
    let block = window.bytes(file, 0, FILE_HEADER_LEN, limit)?;
    Ok(FileHeader::decode(block))
}

/// A header must carry the number that is in the file's name.
fn numbered(header: FileHeader, no: LogFileNo) -> Result<FileHeader, DecodeError> {
    if header.file_no == no {
        Ok(header)
    } else {
        Err(DecodeError::Misplaced {
            what: "cache-log file header",
            field: "file_no",
        })
    }
}

fn remove(storage: &dyn Storage, name: FileName) -> Result<(), OpenError> {
    storage
        .remove(name)
        .map_err(|error| failed(name, Operation::Remove, error))
}

fn sync_directory(storage: &dyn Storage) -> Result<(), OpenError> {
    storage
        .sync_directory()
        .map_err(|error| OpenError::Storage {
            operation: Operation::SyncDirectory,
            source: IoFault::from(error),
        })
}

fn failed(file: FileName, operation: Operation, error: io::Error) -> OpenError {
    OpenError::File {
        file,
        operation,
        source: IoFault::from(error),
    }
}
