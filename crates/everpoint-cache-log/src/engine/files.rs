//! File keeping: one step at a time, each durable before the log counts on it.

use std::io;
use std::sync::{Arc, PoisonError};

use everpoint_format::cache_log::{FileHeader, LogFileNo};
use everpoint_units::{ByteLen, ByteOffset};

use super::{Engine, Stage};
use crate::FileName;
use crate::batch::WritableFile;
use crate::buffer::AlignedBuffer;
use crate::error::{IoFault, Operation, Poisoned};
use crate::space::FileTask;

/// Zeroes written at a time. Unit: bytes.
const ZERO_LEN: usize = 1 << 20;

/// How a step ended.
enum Outcome {
    Done(Option<Arc<WritableFile>>),
    /// No space, and nothing was left behind.
    Denied,
    /// The log is being closed; the next boot tidies up.
    Abandoned,
}

impl Engine {
    /// Does the next step of file keeping; `false` if there is none.
    pub(crate) fn keep_files(&self) -> bool {
        if self.stage() != Stage::Open {
            return false;
        }
        let Some(task) = self.lock().space.plan() else {
            return false;
        };
        match self.do_task(task) {
            Ok(Outcome::Done(ready)) => {
                let mut state = self.lock();
                state.space.done(task);
                state.ready.extend(ready);
                self.ring_for_records(&state);
                self.report(&mut state);
                drop(state);
                self.meter();
                true
            }
            Ok(Outcome::Denied) => {
                tracing::warn!(?task, "the cache log's file system is full");
                let mut state = self.lock();
                state.space.denied(task);
                self.report(&mut state);
                true
            }
            Ok(Outcome::Abandoned) => false,
            Err(failure) => {
                self.poison(failure);
                false
            }
        }
    }

    /// Whether the file system has refused a file and was not asked again.
    pub(crate) fn is_space_denied(&self) -> bool {
        self.lock().space.is_denied()
    }

    /// Lets the file system be asked again.
    pub(crate) fn retry_space(&self) {
        self.lock().space.retry();
    }

    fn do_task(&self, task: FileTask) -> Result<Outcome, Poisoned> {
        match task {
            FileTask::Recycle { file, spare } => {
                self.rename(FileName::Log(file), FileName::Spare(spare))?;
                Ok(Outcome::Done(None))
            }
            FileTask::Remove { file } => self.remove(FileName::Log(file)),
            FileTask::RemoveSpare { spare } => self.remove(FileName::Spare(spare)),
            FileTask::Head { spare, file } => self.head(spare, file),
            FileTask::Create { spare } => self.create(spare),
        }
    }

    /// Makes a file whose every block was written once, so that no later write needs metadata.
    fn create(&self, spare: u64) -> Result<Outcome, Poisoned> {
        let name = FileName::New(spare);
        match self.zeroed(name) {
            Ok(true) => {}
            Ok(false) => return Ok(Outcome::Abandoned),
            // Nothing was promised on this file yet, so also a failed sync may be forgotten with it.
            Err(failure) if failure.source.is_out_of_space() => {
                return match self.storage.remove(name) {
                    Ok(()) => {
                        self.sync_directory(name)?;
                        Ok(Outcome::Denied)
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Outcome::Denied),
                    Err(error) => Err(failed(name, Operation::Remove, &error)),
                };
            }
            Err(failure) => return Err(failure),
        }
        self.rename(name, FileName::Spare(spare))?;
        Ok(Outcome::Done(None))
    }

    /// Creates a file and writes zeroes over all of it; `false` if the log is being closed.
    fn zeroed(&self, name: FileName) -> Result<bool, Poisoned> {
        let len = self.layout.file_len;
        let file = self
            .storage
            .create(name, ByteLen(len))
            .map_err(|error| failed(name, Operation::Create, &error))?;
        let piece_of = |left| usize::try_from(left).map_or(ZERO_LEN, |left| left.min(ZERO_LEN));
        let zeroes = AlignedBuffer::zeroed(piece_of(len));
        let mut at = 0;
        while at < len {
            if self.stage() != Stage::Open {
                return Ok(false);
            }
            let piece = piece_of(len - at);
            file.write(&zeroes[..piece], ByteOffset(at))
                .map_err(|error| failed(name, Operation::Write, &error))?;
            at += piece as u64;
        }
        file.sync()
            .map_err(|error| failed(name, Operation::Sync, &error))?;
        Ok(true)
    }

    /// Gives a spare a header and a number. Its old records do not match the new header.
    fn head(&self, spare: u64, file_no: LogFileNo) -> Result<Outcome, Poisoned> {
        let name = FileName::Spare(spare);
        let handle = self
            .storage
            .open(name)
            .map_err(|error| failed(name, Operation::Open, &error))?;
        let file_uuid = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            random()
        };
        let header = FileHeader {
            vault: self.owner.vault,
            server: self.owner.server,
            journal: self.owner.journal,
            file_uuid,
            file_no,
            file_len: ByteLen(self.layout.file_len),
            record_align: self.layout.align,
        };
        let encoded = header.encode();
        let mut block = AlignedBuffer::zeroed(encoded.len());
        block.copy_from_slice(&encoded);
        if let Err(error) = handle.write(&block, ByteOffset(0)) {
            let failure = failed(name, Operation::Write, &error);
            return if failure.source.is_out_of_space() {
                Ok(Outcome::Denied)
            } else {
                Err(failure)
            };
        }
        handle
            .sync()
            .map_err(|error| failed(name, Operation::Sync, &error))?;
        self.rename(name, FileName::Log(file_no))?;
        Ok(Outcome::Done(Some(Arc::new(WritableFile {
            header,
            binding: header.binding(),
            handle,
        }))))
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<(), Poisoned> {
        self.storage
            .rename(from, to)
            .map_err(|error| failed(from, Operation::Rename, &error))?;
        self.sync_directory(to)
    }

    fn remove(&self, name: FileName) -> Result<Outcome, Poisoned> {
        self.storage
            .remove(name)
            .map_err(|error| failed(name, Operation::Remove, &error))?;
        self.sync_directory(name)?;
        Ok(Outcome::Done(None))
    }

    fn sync_directory(&self, name: FileName) -> Result<(), Poisoned> {
        self.storage
            .sync_directory()
            .map_err(|error| failed(name, Operation::SyncDirectory, &error))
    }
}

fn failed(file: FileName, operation: Operation, error: &io::Error) -> Poisoned {
    Poisoned {
        file,
        operation,
        source: IoFault::from(error),
    }
}
