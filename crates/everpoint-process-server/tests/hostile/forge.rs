//! Blocks that no agent makes: sound ones of any machine, and ones whose lies carry good checksums.

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, FrozenBlock, HEADER_LEN, PackedBlock};
use everpoint_format::record::{Consistency, Record};
use everpoint_format::{Change, DiskPosition};
use everpoint_units::{DiskId, GenerationId, MachineId, Seq};

use crate::rig::{SECTORS, data, now};

/// What every hostile payload begins with; it must lie nowhere.
pub(crate) const CANARY: &[u8; 24] = b"what-a-hostile-peer-sent";
const GENERATION: GenerationId = GenerationId([7; 16]);

/// Makes blocks of one disk, one after the other.
pub(crate) struct Forge {
    machine: MachineId,
    disk: DiskId,
    tail: DiskPosition,
    pub(crate) seq: u64,
}

impl Forge {
    pub(crate) fn new(machine: MachineId, disk: DiskId) -> Self {
        Self {
            machine,
            disk,
            tail: DiskPosition::start_of(GENERATION),
            seq: 0,
        }
    }

    /// The block with which a disk begins and is level at once.
    pub(crate) fn first(&mut self) -> FrozenBlock {
        let begin = Change::DiskBegin {
            sectors: SECTORS,
            block_size: 512,
            name: "mine".into(),
        };
        self.block(vec![
            begin,
            Change::ResyncBegin { base: None },
            Change::ResyncComplete,
        ])
    }

    /// The next block; its data is the canary and zeroes, or with `noise` what nothing shrinks.
    pub(crate) fn block(&mut self, changes: Vec<Change>) -> FrozenBlock {
        let len: u64 = changes.iter().map(Change::raw_len).sum();
        let mut raw = vec![0; usize::try_from(len).expect("small")];
        if CANARY.len() <= raw.len() {
            raw[..CANARY.len()].copy_from_slice(CANARY);
        }
        self.block_of(changes, raw)
    }

    pub(crate) fn block_of(&mut self, changes: Vec<Change>, raw: Vec<u8>) -> FrozenBlock {
        let records = changes.into_iter().map(|change| {
            self.seq += 1;
            Record {
                seq: Seq(self.seq),
                ends_request: true,
                change,
            }
        });
        let packed = PackedBlock::pack(records.collect(), Bytes::from(raw), Captured::default());
        let frozen = packed.freeze(BlockPlace {
            machine: self.machine,
            disk: self.disk,
            after: self.tail,
            complete_through: Seq(self.seq),
        });
        self.tail = frozen.position();
        frozen
    }

    /// A block of nothing but bookmarks.
    pub(crate) fn bookmarks(&mut self, count: usize) -> FrozenBlock {
        let bookmark = |number| Change::Bookmark {
            class: Consistency::Crash,
            name: format!("{number}").into(),
            at: now(),
        };
        self.block((0..count).map(bookmark).collect())
    }
}

/// One data record, its header and record changed by `lie`, and every checksum made to fit again.
pub(crate) fn forged(machine: MachineId, disk: DiskId, lie: impl FnOnce(&mut [u8])) -> Bytes {
    let block = Forge::new(machine, disk).block(vec![data(0, 1_024)]);
    let mut bytes = block.to_bytes().to_vec();
    let records_len = usize::try_from(u32_at(&bytes, 8)).expect("small");
    lie(&mut bytes);
    let records_end = HEADER_LEN + records_len;
    let records_crc = crc32fast::hash(&bytes[HEADER_LEN..records_end]);
    put(&mut bytes, 132, &records_crc.to_le_bytes());
    let mut chain = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    for part in [&bytes[..120], &bytes[128..136], &bytes[HEADER_LEN..]] {
        chain.update(part);
    }
    let chain = chain.finalize();
    put(&mut bytes, 120, &chain.to_le_bytes());
    let header_crc = crc32fast::hash(&bytes[..172]);
    put(&mut bytes, 172, &header_crc.to_le_bytes());
    bytes.into()
}

/// Writes at an offset of the byte table in `everpoint_format::change`.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(field)
}
