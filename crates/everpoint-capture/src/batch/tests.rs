//! What a batch holds and when it is full.

use everpoint_format::DiskPosition;
use everpoint_format::change::{BlockPlace, ChangeBlock};
use everpoint_units::{DiskId, Extent, Lba, MachineId};

use super::*;

fn data(seq: u64, start: u64, sectors: u64) -> Record {
    let lba = |sector| Lba::new(sector).expect("small");
    let extent = Extent::between(lba(start), lba(start + sectors)).expect("not empty");
    Record {
        seq: Seq(seq),
        ends_request: true,
        change: Change::Data(extent),
    }
}

fn batch(pieces: &[(u64, Vec<u8>)]) -> Batch {
    let mut records = Vec::new();
    for (index, (start, bytes)) in pieces.iter().enumerate() {
        records.push(data(index as u64 + 1, *start, bytes.len() as u64 / 512));
    }
    Batch {
        generation: GenerationId([7; 16]),
        complete_through: Seq(99),
        first: Moment(5),
        first_at: WallTime(6),
        last_at: WallTime(8),
        records,
        pieces: pieces
            .iter()
            .map(|(_, bytes)| bytes.clone().into())
            .collect(),
        raw_len: pieces.iter().map(|(_, bytes)| bytes.len()).sum(),
    }
}

fn decoded(packed: PackedBatch) -> (ChangeBlock, Bytes) {
    let frozen = packed.block.freeze(BlockPlace {
        machine: MachineId([1; 16]),
        disk: DiskId([2; 16]),
        after: DiskPosition::start_of(packed.generation),
        complete_through: packed.complete_through,
    });
    let block = ChangeBlock::decode(frozen.to_bytes()).expect("as it was made");
    let raw = block.header().frame.open(&block.payload()).expect("sound");
    (block, raw)
}

#[test]
fn a_packed_batch_opens_to_the_bytes_of_its_writes_in_order() {
    let (first, second) = (vec![3; 1_024], vec![4; 512]);
    let packed =
        batch(&[(0, first.clone()), (100, second.clone())]).pack(-7, &mut PackScratch::default());
    let (block, raw) = decoded(packed);
    assert_eq!(raw, [first, second].concat());
    assert_eq!(block.header().complete_through, Seq(99));
    assert_eq!(
        block.header().captured,
        Captured {
            first: WallTime(6),
            last: WallTime(8),
            clock_offset_us: -7
        }
    );
}

#[test]
fn a_whole_piece_of_zeroes_becomes_a_zero_record_and_a_sector_stays() {
    let packed = batch(&[(0, vec![0; 4_096]), (8, vec![0; 512]), (16, vec![1; 4_096])]);
    let (block, raw) = decoded(packed.pack(0, &mut PackScratch::default()));
    let zero = |record: &Record| matches!(record.change, Change::Zero(_));
    let kinds: Vec<bool> = block.records().iter().map(zero).collect();
    assert_eq!(kinds, [true, false, false]);
    assert_eq!(raw.len(), 512 + 4_096);
}

#[test]
fn one_buffer_that_does_not_compress_is_not_copied() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        // xorshift64, which LZ4 finds no repetition in.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let noise: Vec<u8> = noise.take(512).flatten().collect();
    let batch = batch(&[(0, noise)]);
    let before = batch.pieces[0].as_ptr();
    let packed = batch.pack(0, &mut PackScratch::default());
    let frozen = packed.block.freeze(BlockPlace {
        machine: MachineId([1; 16]),
        disk: DiskId([2; 16]),
        after: DiskPosition::start_of(packed.generation),
        complete_through: packed.complete_through,
    });
    assert_eq!(frozen.payload.as_ptr(), before);
}

#[test]
fn a_single_byte_anywhere_is_not_zero() {
    assert!(is_zero(&[]) && is_zero(&[0; 1_000]));
    for at in [0, 63, 64, 100, 998, 999] {
        let mut bytes = [0; 1_000];
        bytes[at] = 1;
        assert!(!is_zero(&bytes), "at {at}");
    }
}
