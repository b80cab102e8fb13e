//! Cache-log files: golden bytes, flips, cuts, and stale records.

use proptest::prelude::*;

use super::*;
use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

const ALIGN: RecordAlign = RecordAlign::Sector512;
const AT: ByteOffset = ByteOffset(8_192);

fn file() -> FileHeader {
    FileHeader {
        vault: VaultId([0x11; 16]),
        server: ServerId([0x22; 16]),
        journal: JournalId {
            level: Level(7),
            random: [0x33; 16],
        },
        file_uuid: [0x44; 16],
        file_no: LogFileNo(9),
        file_len: ByteLen(64 << 20),
        record_align: ALIGN,
    }
}

fn block(payload: &[u8], is_batch_end: bool) -> RecordHeader {
    let len = u32::try_from(payload.len()).expect("small");
    RecordHeader {
        record_no: RecordNo(43),
        synced_through: RecordNo(40),
        file_first: RecordNo(38),
        body: RecordBody::Block {
            len: NonZeroU32::new(len).expect("not empty"),
            crc: crc32fast::hash(payload),
        },
        is_batch_end,
    }
}

fn stored(header: RecordHeader, payload: &[u8]) -> Vec<u8> {
    let mut out = header.encode(&file().binding(), AT).to_vec();
    out.extend_from_slice(payload);
    let end = header.end(AT, ALIGN).0 - AT.0;
    out.resize(usize::try_from(end).expect("small"), 0);
    out
}

fn read(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    decode_record(bytes, &file().binding(), ALIGN, AT)
}

fn payload() -> Vec<u8> {
    (0..600_u32).map(|n| n.to_le_bytes()[0]).collect()
}

#[test]
fn golden_v1_file_header_reads_as_the_sample_and_writes_back_the_same() {
    golden("cache-log-file.v1.bin", &file().encode());
    assert_eq!(FileHeader::decode(&file().encode()), Ok(file()));
}

#[test]
fn golden_v1_records_read_as_the_samples_and_write_back_the_same() {
    let header = block(&payload(), false);
    let bytes = stored(header, &payload());
    golden("cache-log-record.v1.bin", &bytes);
    let record = read(&bytes).expect("whole");
    assert_eq!((record.header, record.payload), (header, &payload()[..]));
    assert_eq!(record.end, ByteOffset(AT.0 + 1_024));

    let mark = RecordHeader {
        body: RecordBody::Mark,
        is_batch_end: true,
        ..header
    };
    let bytes = stored(mark, &[]);
    golden("cache-log-mark.v1.bin", &bytes);
    let record = read(&bytes).expect("whole");
    assert_eq!((record.header, record.payload), (mark, &[][..]));
    assert_eq!(record.end, ByteOffset(AT.0 + BATCH_ALIGN));
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_file_header_is_refused() {
    let bytes = file().encode();
    every_flip_is_refused(&bytes, |bytes| FileHeader::decode(bytes).is_err());
    every_truncation_is_refused(&bytes, |bytes| FileHeader::decode(bytes).is_err());
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_record_is_refused() {
    for is_batch_end in [false, true] {
        let bytes = stored(block(&payload(), is_batch_end), &payload());
        every_flip_is_refused(&bytes, |bytes| read(bytes).is_err());
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "cut to {len} bytes unnoticed");
        }
    }
}

#[test]
fn a_record_is_refused_anywhere_but_at_its_own_place() {
    let bytes = stored(block(&payload(), false), &payload());
    let elsewhere = [
        FileHeader {
            vault: VaultId([9; 16]),
            ..file()
        },
        FileHeader {
            server: ServerId([9; 16]),
            ..file()
        },
        FileHeader {
            journal: JournalId {
                level: Level(8),
                ..file().journal
            },
            ..file()
        },
        FileHeader {
            journal: JournalId {
                random: [9; 16],
                ..file().journal
            },
            ..file()
        },
        FileHeader {
            file_uuid: [9; 16],
            ..file()
        },
        FileHeader {
            file_no: LogFileNo(10),
            ..file()
        },
    ];
    for other in elsewhere {
        let refused = decode_record(&bytes, &other.binding(), ALIGN, AT);
        assert!(
            matches!(refused, Err(DecodeError::Corrupt { .. })),
            "{other:?}"
        );
    }
    let moved = decode_record(&bytes, &file().binding(), ALIGN, ByteOffset(AT.0 + 512));
    assert!(matches!(moved, Err(DecodeError::Corrupt { .. })));
}

#[test]
fn zeroes_and_ones_are_no_record_and_no_file() {
    for byte in [0, 0xFF] {
        let bytes = [byte; FILE_HEADER_LEN];
        let found = [byte; 4];
        assert_eq!(
            read(&bytes),
            Err(DecodeError::WrongMagic {
                what: RECORD_WHAT,
                found
            })
        );
        assert_eq!(
            FileHeader::decode(&bytes),
            Err(DecodeError::WrongMagic {
                what: FILE_WHAT,
                found
            })
        );
    }
}

#[test]
fn a_sound_header_with_a_hostile_length_is_refused_before_the_payload_is_touched() {
    let too_long = u32::try_from(PAYLOAD_LEN_MAX + 1).expect("small");
    let mut fields = [0; CRC_AT];
    fields.copy_from_slice(&stored(block(&payload(), false), &payload())[..CRC_AT]);
    fields[32..36].copy_from_slice(&too_long.to_le_bytes());
    let mut bytes = fields.to_vec();
    bytes.put_u64(file().binding().crc(AT, &fields));
    assert!(matches!(read(&bytes), Err(DecodeError::Invalid { .. })));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        payload in proptest::collection::vec(any::<u8>(), 1..10_000),
        synced_through in 0_u64..1 << 60,
        ahead in 1_u64..1 << 20,
        file_first in 1_u64..1 << 60,
        is_batch_end: bool,
    ) {
        let header = RecordHeader {
            record_no: RecordNo(synced_through + ahead),
            synced_through: RecordNo(synced_through),
            file_first: RecordNo(file_first.min(synced_through + 1)),
            ..block(&payload, is_batch_end)
        };
        let bytes = stored(header, &payload);
        let record = read(&bytes).expect("whole");
        prop_assert_eq!(record.header, header);
        prop_assert_eq!(record.payload, &payload[..]);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5_000)) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(FileHeader::decode(&bytes).is_err());
    }
}
