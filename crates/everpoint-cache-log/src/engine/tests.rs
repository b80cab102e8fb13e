//! The engine on a disk that fails, step by step: crash properties, and single facts about faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everpoint_format::cache_log::LogFileNo;
use everpoint_units::{ByteLen, JournalId, Level, ServerId, VaultId};

use super::*;
use crate::OpenError;
use crate::config::DirectMode;
use crate::reader::LogReader;
use crate::recovery::{self, RecoveredBoot, Wanted};
use crate::storage::memory::{Faults, MemoryStorage};

mod crash;
mod faults;

const FILE_LEN: u64 = 64 << 10;
const QUOTA: u64 = 7 * FILE_LEN;

/// What recovery gave back: for each boot its level and its payloads.
type Survivors = BTreeMap<u64, Vec<Bytes>>;

fn config() -> CacheLogConfig {
    CacheLogConfig {
        file_len: ByteLen(FILE_LEN),
        quota: ByteLen(QUOTA),
        reserve: ByteLen(FILE_LEN),
        direct: DirectMode::Off,
        batch_len_max: ByteLen(16 << 10),
        queued_len_max: ByteLen(64 << 10),
        spare_count_max: 2,
        mark_after: Duration::from_secs(1),
        space_retry_after: Duration::from_secs(1),
        accepts_damage: false,
    }
}

fn owner(level: u64) -> LogOwner {
    LogOwner {
        vault: VaultId([1; 16]),
        server: ServerId([2; 16]),
        journal: JournalId {
            level: Level(level),
            random: [3; 16],
        },
    }
}

/// Ids that never repeat within a boot, and not between boots either.
fn random_bits(level: u64) -> RandomBits {
    let mut count = 0_u64;
    Box::new(move || {
        count += 1;
        let mut bits = [0; 16];
        bits[..8].copy_from_slice(&level.to_le_bytes());
        bits[8..].copy_from_slice(&count.to_le_bytes());
        bits
    })
}

/// Opens the log for the boot `level`, without threads.
fn open(
    storage: &MemoryStorage,
    config: &CacheLogConfig,
    level: u64,
) -> Result<(Arc<Engine>, Vec<RecoveredBoot>), OpenError> {
    let wanted = Wanted {
        owner: owner(level),
        file_len: config.file_len.0,
        accepts_damage: config.accepts_damage,
    };
    let mut recovery = recovery::recover(storage, &wanted)?;
    let boots = std::mem::take(&mut recovery.boots);
    let storage = Arc::new(storage.clone());
    let engine = Engine::new(storage, config, owner(level), recovery, random_bits(level));
    Ok((Arc::new(engine), boots))
}

/// Reads everything that a recovery gave back.
fn survivors(engine: &Arc<Engine>, boots: &[RecoveredBoot]) -> Result<Survivors, ReadFailed> {
    let mut survivors = Survivors::new();
    let (Some(first), Some(last)) = (boots.first(), boots.last()) else {
        return Ok(survivors);
    };
    let end = Some(last.last.file_no().next());
    let mut reader = LogReader::new(Arc::clone(engine), first.first, end);
    while let Some(record) = reader.next_record().map_err(|_| ReadFailed)? {
        let level = record.journal.level.0;
        survivors.entry(level).or_default().push(record.payload);
    }
    Ok(survivors)
}

/// The disk died in the middle of a read.
#[derive(Debug)]
struct ReadFailed;

/// Runs every step that there is until nothing is left to do.
fn settle_down(engine: &Engine) {
    loop {
        let kept = engine.keep_files();
        let committed = match engine.next_batch() {
            Some(batch) => engine.commit(batch).is_ok(),
            None => false,
        };
        if !kept && !committed {
            return;
        }
    }
}

fn payload(id: u64, len: usize) -> Bytes {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(len.max(8), id.to_le_bytes()[0]);
    Bytes::from(bytes)
}

fn append(engine: &Engine, id: u64, len: usize) -> Append {
    let whole = payload(id, len);
    engine.append(vec![whole.slice(..3), whole.slice(3..)])
}

fn acked(append: &mut Append) -> LogPosition {
    match append.answer() {
        Some(Ok(appended)) => appended.position(),
        other => panic!("not acknowledged: {other:?}"),
    }
}
