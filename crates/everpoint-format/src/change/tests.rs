//! Change block: golden bytes, every flipped bit, short reads, hostile contents, round trips.

use std::num::NonZeroU32;

use everpoint_units::{Extent, Lba};
use proptest::prelude::*;

use super::*;
use crate::record::Consistency;
use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

fn extent(start: u64, sectors: u32) -> Extent {
    let sectors = NonZeroU32::new(sectors).expect("above zero");
    Extent::new(Lba::new(start).expect("small"), sectors).expect("small")
}

fn record(seq: u64, ends_request: bool, change: Change) -> Record {
    Record {
        seq: Seq(seq),
        ends_request,
        change,
    }
}

/// One record of every kind that an agent sends.
pub(crate) fn sample() -> FrozenBlock {
    let base = DiskPosition {
        generation: GenerationId([0x77; 16]),
        block_no: BlockNo(41),
        chain: ChainValue(0x0123_4567_89ab_cdef),
    };
    let name = "system disk".into();
    let records = vec![
        record(
            5,
            true,
            Change::DiskBegin {
                sectors: 1 << 21,
                block_size: 512,
                name,
            },
        ),
        record(6, true, Change::ResyncBegin { base: Some(base) }),
        record(7, false, Change::Data(extent(3, 16))),
        record(8, true, Change::Data(extent(4_096, 1))),
        record(9, true, Change::Zero(extent(100, 2_048))),
        record(10, true, Change::Discard(extent(9_000, 8))),
        record(11, true, Change::ResyncComplete),
        record(12, true, Change::Resize { sectors: 1 << 22 }),
        record(
            13,
            true,
            Change::Bookmark {
                class: Consistency::App,
                name: "vor dem Update".into(),
                at: WallTime(1_767_225_600_000_000),
            },
        ),
        record(14, true, Change::DiskEnd),
    ];
    let raw: Vec<u8> = (0..17 * 512_u32)
        .map(|i| (i / 97).to_le_bytes()[0])
        .collect();
    let captured = Captured {
        first: WallTime(1_767_225_600_000_000),
        last: WallTime(1_767_225_600_004_000),
        clock_offset_us: -250,
    };
    PackedBlock::pack(records, raw.into(), captured).freeze(BlockPlace {
        machine: MachineId([0x11; 16]),
        disk: DiskId([0x22; 16]),
        after: DiskPosition::start_of(GenerationId([0x33; 16])),
        complete_through: Seq(20),
    })
}

fn decode(bytes: &[u8]) -> Result<ChangeBlock, DecodeError> {
    ChangeBlock::decode(Bytes::copy_from_slice(bytes))
}

#[test]
fn golden_v1_reads_as_the_sample_and_writes_back_the_same() {
    let frozen = sample();
    golden("change-block.v1.bin", &frozen.to_bytes());
    let block = ChangeBlock::decode(frozen.to_bytes()).expect("what was frozen is sound");
    assert_eq!(*block.header(), frozen.header);
    assert_eq!(block.records().len(), 10);
    assert_eq!(block.payload(), frozen.payload);
    assert!(block.header().frame.lz4, "the sample compresses");
}

#[test]
fn every_flipped_bit_is_refused() {
    every_flip_is_refused(&sample().to_bytes(), |bytes| decode(bytes).is_err());
}

#[test]
fn every_short_read_is_refused() {
    every_truncation_is_refused(&sample().to_bytes(), |bytes| decode(bytes).is_err());
}

#[test]
fn a_chain_binds_a_block_to_the_one_before() {
    let first = sample();
    let next = |after| {
        PackedBlock::pack(Vec::new(), Bytes::new(), Captured::default()).freeze(BlockPlace {
            machine: first.header.machine,
            disk: first.header.disk,
            after,
            complete_through: Seq(30),
        })
    };
    let second = next(first.position());
    assert_eq!(second.header.position_before(), first.position());
    let other = DiskPosition {
        chain: ChainValue(1),
        ..first.position()
    };
    assert_ne!(next(other).header.chain, second.header.chain);
    assert_eq!(second.header.block_no, BlockNo(2));
}

#[test]
fn a_payload_that_does_not_shrink_is_stored_as_it_is() {
    let mut raw = vec![0; 512];
    blake3::Hasher::new().finalize_xof().fill(&mut raw);
    let records = vec![record(1, true, Change::Data(extent(0, 1)))];
    let packed = PackedBlock::pack(records, raw.clone().into(), Captured::default());
    assert!(!packed.frame.lz4);
    let opened = packed.frame.open(&packed.payload).expect("stored as it is");
    assert_eq!(opened, raw);
}

#[test]
fn a_frame_that_lies_about_its_length_is_refused() {
    let frozen = sample();
    for raw_len in [
        frozen.header.frame.raw_len - 1,
        frozen.header.frame.raw_len + 1,
    ] {
        let frame = Frame {
            raw_len,
            ..frozen.header.frame
        };
        assert!(frame.open(&frozen.payload).is_err(), "{raw_len}");
    }
}

/// A block whose header was changed and re-sealed: sound checksums, hostile content.
fn resealed(change: impl Fn(&mut [u8])) -> Result<ChangeBlock, DecodeError> {
    let mut bytes = sample().to_bytes().to_vec();
    change(&mut bytes);
    let records = HEADER_LEN..HEADER_LEN + sample().header.records_len as usize;
    let records_crc = crc32fast::hash(&bytes[records.clone()]);
    bytes[132..136].copy_from_slice(&records_crc.to_le_bytes());
    let chain = chain_of([
        &bytes[..CHAIN_AT],
        &bytes[CRCS_AT..KEY_AT],
        &bytes[records.clone()],
        &bytes[records.end..],
    ]);
    bytes[CHAIN_AT..CRCS_AT].copy_from_slice(&chain.0.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..172]);
    bytes[172..176].copy_from_slice(&crc.to_le_bytes());
    decode(&bytes)
}

#[test]
fn sound_checksums_do_not_save_hostile_fields() {
    assert!(resealed(|_| ()).is_ok(), "resealing alone changes nothing");
    let at = HEADER_LEN + 2 * RECORD_LEN;
    for (what, offset, bytes) in [
        (
            "raw_len above the limit",
            16,
            &(2_u32 << 20).to_le_bytes()[..],
        ),
        ("record_count above the limit", 20, &5_000_u32.to_le_bytes()),
        ("block_no 0", 72, &0_u64.to_le_bytes()),
        ("complete_through below a record", 80, &13_u64.to_le_bytes()),
        ("a chain before block 1", 112, &1_u64.to_le_bytes()),
        ("reserved bytes", 168, &1_u32.to_le_bytes()),
        ("seq 0", at, &0_u64.to_le_bytes()),
        ("seq below the one before", at, &6_u64.to_le_bytes()),
        ("an extent off every disk", at + 8, &u64::MAX.to_le_bytes()),
        ("an empty extent", at + 16, &0_u32.to_le_bytes()),
        ("more data than payload", at + 16, &17_u32.to_le_bytes()),
        ("a reference", at + 20, &[5]),
        ("an unknown kind", at + 20, &[11]),
        ("unknown flags", at + 21, &[2]),
        ("a text that a data record has not", at + 23, &[1]),
    ] {
        let refused = resealed(|block| block[offset..offset + bytes.len()].copy_from_slice(bytes));
        assert!(refused.is_err(), "{what}");
    }
}

fn change() -> impl Strategy<Value = Change> {
    let extents = (0..1_u64 << 40, 1..2_048_u32).prop_map(|(start, len)| extent(start, len));
    let small = (0..1_u64 << 40, 1..8_u32).prop_map(|(start, len)| extent(start, len));
    prop_oneof![
        4 => small.prop_map(Change::Data),
        1 => extents.clone().prop_map(Change::Zero),
        1 => extents.prop_map(Change::Discard),
        1 => ("\\PC{0,60}", any::<u64>()).prop_map(|(name, at)| Change::Bookmark {
            class: Consistency::Crash,
            name: name.into(),
            at: WallTime(at),
        }),
        1 => (1..1_u64 << 40).prop_map(|sectors| Change::Resize { sectors }),
    ]
}

proptest! {
    #[test]
    fn what_is_frozen_is_decoded(
        changes in prop::collection::vec((change(), 1..9_u64, any::<bool>()), 0..40),
        fill: u8,
    ) {
        let mut seq = 0;
        let records: Vec<_> = changes
            .into_iter()
            .map(|(change, step, ends)| {
                seq += step;
                record(seq, ends, change)
            })
            .collect();
        let len: u64 = records.iter().map(|record| record.change.raw_len()).sum();
        let raw = Bytes::from(vec![fill; usize::try_from(len).expect("small")]);
        let frozen = PackedBlock::pack(records.clone(), raw.clone(), Captured::default())
            .freeze(BlockPlace {
                machine: MachineId([1; 16]),
                disk: DiskId([2; 16]),
                after: DiskPosition::start_of(GenerationId([3; 16])),
                complete_through: Seq(seq + 1),
            });
        let block = ChangeBlock::decode(frozen.to_bytes()).expect("sound");
        prop_assert_eq!(block.records(), &records[..]);
        prop_assert_eq!(block.header().frame.open(&block.payload()), Ok(raw));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let refused = decode(&bytes).is_err();
        prop_assert!(refused);
    }
}
