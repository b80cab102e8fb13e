//! Layers as they are written and read back, and what is refused.

use everpoint_units::{DiskId, Lba, MachineId};

use super::marks::{BookmarkMark, RequestMark};
use super::page::{DigestSeal, EntryBytes, PageEntry, PageFrame, Version};
use super::*;
use crate::digest::{DIGEST_LEN, DigestKey, PieceDigest};
use crate::record::Consistency;
use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

fn home() -> FrameHome {
    let journal = JournalId {
        level: Level(5),
        random: [0x44; 16],
    };
    FrameHome::Journal(journal, ObjectNo(9))
}

fn header() -> LayerHeader {
    LayerHeader {
        vault: VaultId([0x11; 16]),
        machine: MachineId([0x33; 16]),
        disk: DiskId([0x66; 16]),
        id: RetentionId {
            number: ManifestNo(3),
            random: [0x77; 16],
        },
        kind: LayerKind::History,
        sectors: 0..u64::MAX,
        after: Seq(10),
        through: Seq(90),
        created_at: WallTime(1_767_225_600_000_000),
    }
}

fn entry(sectors: Range<u64>, seq: u64, bytes: Option<EntryBytes>) -> PageEntry {
    let version = Version {
        copy: 1,
        seq: Seq(seq),
    };
    PageEntry {
        sectors,
        version,
        bytes,
    }
}

fn pages() -> [Page; 2] {
    let frame = Frame {
        lz4: true,
        stored_len: 3_000,
        raw_len: 8_192,
        crc: 0x1234_5678,
        seal: FrameSeal::default(),
    };
    let bytes = |lead, raw_at| EntryBytes {
        frame: 0,
        record_sectors: 8,
        lead,
        raw_at,
        seal: DigestSeal([0xab; 16]),
    };
    let frames = vec![PageFrame {
        object: 0,
        at: 128,
        frame,
    }];
    let first = Page {
        frames: frames.clone(),
        entries: vec![
            entry(16..24, 11, Some(bytes(0, 0))),
            entry(16..20, 12, None),
            entry(20..22, 13, Some(bytes(4, 4_096))),
        ],
    };
    let second = Page {
        frames,
        entries: vec![
            entry(1_000..1_008, 15, Some(bytes(0, 0))),
            entry(2_048..u64::MAX, 14, None),
        ],
    };
    [first, second]
}

fn marks() -> Marks {
    Marks {
        times: vec![(Seq(11), WallTime(5)), (Seq(15), WallTime(9))],
        requests: vec![RequestMark {
            first: Seq(12),
            last: Seq(13),
            ends: true,
            copy: 1,
        }],
        bookmarks: vec![BookmarkMark {
            seq: Seq(16),
            at: WallTime(10),
            class: Consistency::App,
            name: "nightly".to_owned(),
        }],
    }
}

fn sample() -> LayerObject {
    let mut builder = LayerBuilder::default();
    pages().iter().for_each(|page| builder.push_page(page));
    builder.push_marks(&marks());
    let live = LiveObject {
        home: home(),
        live: 3_000,
    };
    let pack = RetentionId {
        number: ManifestNo(2),
        random: [0x88; 16],
    };
    let moved = LiveObject {
        home: FrameHome::Pack(pack),
        live: 0,
    };
    builder.finish(header(), vec![live, moved])
}

type Spoil<T> = fn(&mut T);
type Whole = (LayerDirectory, Vec<Page>, Vec<Marks>);

/// Everything of a layer, as its readers read it.
fn read(bytes: &[u8]) -> Result<Whole, DecodeError> {
    check_front(bytes.get(..FRONT_LEN).unwrap_or_default())?;
    let at = usize::try_from(sample().directory_at).expect("small");
    let tail = bytes.get(at..).unwrap_or_default();
    let (directory, _) = LayerDirectory::decode_tail(tail, bytes.len() as u64)?;
    let part = |at: u64, frame: &Frame| {
        let from = usize::try_from(at).expect("small");
        let stored = bytes[from..from + frame.stored_len as usize].to_vec();
        frame.open(&Bytes::from(stored))
    };
    let objects = directory.objects.len();
    let pages = directory.pages.iter();
    let pages = pages.map(|page| Page::decode(&part(page.at, &page.frame)?, objects));
    let pages = pages.collect::<Result<_, _>>()?;
    let marks = directory.marks.iter();
    let marks = marks.map(|marks| Marks::decode(&part(marks.at, &marks.frame)?));
    let marks = marks.collect::<Result<_, _>>()?;
    Ok((directory, pages, marks))
}

#[test]
fn golden_v1_reads_as_the_sample() {
    let layer = sample();
    let bytes = layer.pieces.concat();
    assert_eq!(bytes.len() as u64, layer.len);
    golden("layer.v1.bin", &bytes);
    let (directory, read_pages, read_marks) = read(&bytes).expect("its own work");
    assert_eq!(directory, layer.directory);
    assert_eq!(directory.header, header());
    assert_eq!(read_pages, pages());
    assert_eq!(read_marks, [marks()]);
    let places: Vec<_> = directory
        .pages
        .iter()
        .map(|page| (page.first, page.end))
        .collect();
    assert_eq!(places, [(16, 24), (1_000, u64::MAX)]);
}

#[test]
fn every_flipped_bit_and_every_short_read_is_refused() {
    let bytes = sample().pieces.concat();
    every_flip_is_refused(&bytes, |bytes| read(bytes).is_err());
    every_truncation_is_refused(&bytes, |bytes| read(bytes).is_err());
}

#[test]
fn a_page_whose_fields_do_not_fit_one_another_is_refused() {
    let spoilt: [(&str, Spoil<Page>); 8] = [
        ("order", |page| page.entries.reverse()),
        ("no sectors", |page| page.entries[1].sectors = 16..16),
        ("frame", |page| of(page, 0).frame = 1),
        ("record", |page| of(page, 0).lead = 1),
        ("raw", |page| of(page, 0).raw_at = 8_192),
        ("lead", |page| {
            of(page, 0).lead = 20;
            of(page, 0).record_sectors = 28;
        }),
        ("object", |page| page.frames[0].object = 2),
        ("end", |page| {
            page.entries[2].sectors = Lba::MAX.sector()..Lba::MAX.sector() + 2;
        }),
    ];
    assert!(Page::decode(&pages()[0].encode(), 2).is_ok());
    for (what, spoil) in spoilt {
        let mut page = pages()[0].clone();
        spoil(&mut page);
        assert!(Page::decode(&page.encode(), 2).is_err(), "{what}");
    }
}

fn of(page: &mut Page, entry: usize) -> &mut EntryBytes {
    let bytes = page.entries[entry].bytes.as_mut();
    bytes.expect("it has bytes")
}

#[test]
fn a_directory_that_disagrees_with_its_layer_is_refused() {
    let spoilt: [(&str, Spoil<LayerDirectory>); 5] = [
        ("order", |directory| directory.pages.reverse()),
        ("gap", |directory| directory.marks[0].at += 1),
        ("overlap", |directory| directory.pages[1].at -= 1),
        ("range", |directory| directory.header.through = Seq(9)),
        ("outside", |directory| directory.header.sectors = 0..2_000),
    ];
    for (what, spoil) in spoilt {
        let mut layer = sample();
        spoil(&mut layer.directory);
        let bytes = layer.directory.encode();
        let mut tail = bytes.clone();
        tail.put(&FOOTER_MAGIC);
        tail.put_u16(VERSION);
        tail.put_u16(0);
        tail.put_u64(layer.directory_at);
        tail.put_u64(bytes.len() as u64);
        let len = layer.directory_at + (bytes.len() + FOOTER_LEN) as u64;
        tail.put_u64(len);
        tail.put(blake3::hash(&bytes).as_bytes());
        tail.put(&[0; 44]);
        let footer_at = bytes.len();
        let crc = crc32fast::hash(&tail[footer_at..]);
        tail.put_u32(crc);
        let read = LayerDirectory::decode_tail(&tail, len);
        assert!(
            matches!(read, Err(DecodeError::Invalid { .. })),
            "{what}: {read:?}"
        );
    }
}

#[test]
fn a_seal_tells_digests_their_order_and_their_number_apart() {
    let key = DigestKey([7; 32]);
    let [a, b] = [1, 2].map(|fill| PieceDigest([fill; DIGEST_LEN]));
    let seals = [
        DigestSeal::of(&key, &[]),
        DigestSeal::of(&key, &[a]),
        DigestSeal::of(&key, &[b]),
        DigestSeal::of(&key, &[a, b]),
        DigestSeal::of(&key, &[b, a]),
    ];
    for (at, seal) in seals.iter().enumerate() {
        assert!(!seals[..at].contains(seal), "{at}");
    }
    assert_ne!(
        DigestSeal::of(&key, &[a, b]),
        DigestSeal::of(&DigestKey([8; 32]), &[a, b])
    );
}
