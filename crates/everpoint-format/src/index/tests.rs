//! Journal index and data object: golden bytes, flipped bits, short reads, hostile counts.

use everpoint_units::{ServerId, VaultId};
use proptest::prelude::*;

use super::*;
use crate::change::{BlockPlace, PackedBlock};
use crate::data::{DataBuilder, DataIndex, DataObject};
use crate::digest::{DigestKey, piece_digests};
use crate::object::{ObjectChecksum, ObjectHeader};
use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

const KEY: DigestKey = DigestKey([9; 32]);

/// Digests of every data record of a block.
fn digests_of(block: &ChangeBlock) -> Vec<PieceDigest> {
    let raw = block.header().frame.open(&block.payload()).expect("sound");
    let mut at = 0;
    let mut digests = Vec::new();
    for record in block.records() {
        if let Change::Data(extent) = record.change {
            let len = usize::try_from(extent.byte_len().0).expect("small");
            digests.extend(piece_digests(&KEY, extent, &raw[at..at + len]));
            at += len;
        }
    }
    digests
}

fn sample() -> DataObject {
    let first = crate::change::tests::sample();
    let second =
        PackedBlock::pack(Vec::new(), Bytes::new(), Captured::default()).freeze(BlockPlace {
            machine: first.header.machine,
            disk: first.header.disk,
            after: first.position(),
            complete_through: Seq(21),
        });
    let mut builder = DataBuilder::default();
    for frozen in [&first, &second] {
        let block = ChangeBlock::decode(frozen.to_bytes()).expect("sound");
        let digests = digests_of(&block);
        builder.push(&block, digests);
    }
    builder.release(Release {
        machine: MachineId([0x99; 16]),
        successor: None,
    });
    builder.release(Release {
        machine: MachineId([0x98; 16]),
        successor: Some(JournalId {
            level: Level(8),
            random: [0x21; 16],
        }),
    });
    builder.freeze(ObjectHeader {
        vault: VaultId([0x11; 16]),
        journal: JournalId {
            level: Level(3),
            random: [0x22; 16],
        },
        number: ObjectNo(2),
        server: ServerId([0x33; 16]),
        assignment: 0,
        previous: ObjectChecksum([0x44; 32]),
        created_at: WallTime(1_767_225_600_000_000),
    })
}

fn whole(object: &DataObject) -> Bytes {
    object.pieces.concat().into()
}

#[test]
fn golden_v1_reads_as_the_sample() {
    let object = sample();
    golden("journal-data.v1.bin", &whole(&object));
    let read = DataIndex::decode_whole(&whole(&object)).expect("sound");
    assert_eq!(read.index, object.index);
    assert_eq!(
        (read.header, read.checksum),
        (object.header, object.checksum)
    );
    assert_eq!(object.len, whole(&object).len() as u64);
    let section = &read.index.sections[0];
    assert_eq!((read.index.sections.len(), section.blocks.len()), (1, 2));
    assert_eq!(
        section.blocks[0].digests.len(),
        1,
        "one piece is covered whole"
    );
    assert_eq!(section.end().block_no, BlockNo(2));
}

#[test]
fn every_flipped_bit_is_refused() {
    every_flip_is_refused(&whole(&sample()), |bytes| {
        DataIndex::decode_whole(&Bytes::copy_from_slice(bytes)).is_err()
    });
}

#[test]
fn every_short_read_is_refused() {
    every_truncation_is_refused(&whole(&sample()), |bytes| {
        DataIndex::decode_whole(&Bytes::copy_from_slice(bytes)).is_err()
    });
    let index = sample().index.encode();
    every_truncation_is_refused(&index, |bytes| Index::decode(bytes).is_err());
}

#[test]
fn references_read_back_with_their_places() {
    let mut index = sample().index;
    let section = &mut index.sections[0];
    let data = section.blocks[0].records[2]
        .change
        .extent()
        .expect("a data record");
    section.places.push(Place {
        journal: JournalId {
            level: Level(2),
            random: [1; 16],
        },
        number: ObjectNo(5),
        frame_at: 128,
        frame: section.blocks[0].frame,
        raw_at: 512,
    });
    section.blocks[0].frame.raw_len = 512;
    section.blocks[0].frame.lz4 = false;
    section.blocks[0].frame.stored_len = 512;
    section.blocks[0].records[2].change = Change::Reference {
        extent: data,
        place_index: 0,
    };
    assert_eq!(Index::decode(&index.encode()), Ok(index.clone()));
    index.sections[0].places.clear();
    assert!(
        Index::decode(&index.encode()).is_err(),
        "a place is missing"
    );
}

#[test]
fn hostile_counts_are_refused_before_anything_is_allocated() {
    let good = sample().index.encode().to_vec();
    let section = 32 + 2 * RELEASE_LEN;
    for at in [
        8,
        12,
        section + 64,
        section + 68,
        section + 72,
        section + 76,
        section + 80,
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Index::decode(&bytes).is_err(), "count at {at}");
    }
}

proptest! {
    #[test]
    fn arbitrary_changes_to_an_index_never_panic(
        at in 0..400_usize,
        bytes in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut index = sample().index.encode().to_vec();
        let at = at.min(index.len() - bytes.len());
        index[at..at + bytes.len()].copy_from_slice(&bytes);
        // Without the footer's checksum a change may well decode; what decodes must encode back.
        if let Ok(read) = Index::decode(&index) {
            prop_assert_eq!(read.encode(), Bytes::from(index));
        }
    }
}
