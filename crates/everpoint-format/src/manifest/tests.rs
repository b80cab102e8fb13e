//! Manifests as they are written and read back, and what is refused.

use everpoint_units::{ChainValue, GenerationId};

use super::policy::{LadderRecord, RungRecord};
use super::*;
use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [0x44; 16],
    }
}

fn disk(id: u8) -> DiskState {
    DiskState {
        disk: DiskId([id; 16]),
        name: "data".to_owned(),
        block_size: 512,
        sectors: 1 << 20,
        copies: vec![Seq(30)],
        position: DiskPosition {
            generation: GenerationId([7; 16]),
            block_no: BlockNo(12),
            chain: ChainValue(0xfeed),
        },
        complete_through: Seq(80),
        level: true,
        broken: None,
        open_request: Some((Seq(79), Seq(80))),
        lives: vec![(Seq(1), Some(Seq(20))), (Seq(30), None)],
        sizes: vec![(Seq(1), 1 << 19), (Seq(30), 1 << 20)],
        spans: vec![(Seq(5), Seq(19)), (Seq(33), Seq(80))],
    }
}

fn ladder(continuous_s: u64) -> LadderRecord {
    LadderRecord {
        continuous_s,
        app_count: 5,
        rungs: vec![RungRecord {
            slot_s: 300,
            reach_s: 172_800,
        }],
        app_rungs: vec![RungRecord {
            slot_s: 0,
            reach_s: 31_536_000,
        }],
    }
}

fn sample() -> Manifest {
    let id = |number, random| RetentionId {
        number: ManifestNo(number),
        random: [random; 16],
    };
    let broken = DiskState {
        broken: Some(BrokenAt {
            journal: journal(3),
            number: ObjectNo(4),
            found: BlockNo(9),
        }),
        level: false,
        open_request: None,
        ..disk(0x67)
    };
    let point = |seq, class, name: &str| KeptPoint {
        seq: Seq(seq),
        at: WallTime(seq * 1_000),
        class,
        name: name.to_owned(),
    };
    Manifest {
        vault: VaultId([0x11; 16]),
        machine: MachineId([0x33; 16]),
        number: ManifestNo(3),
        previous: ObjectChecksum([0x22; 32]),
        created_at: WallTime(1_767_225_600_000_000),
        position: FoldedTo {
            journal: journal(5),
            number: ObjectNo(9),
            checksum: ObjectChecksum([0x99; 32]),
        },
        closed: false,
        every_from: Seq(40),
        highest_seq: Seq(80),
        disks: vec![disk(0x66), broken],
        layers: vec![LayerLink {
            id: id(2, 0x77),
            kind: LayerKind::Thinned,
            disk: DiskId([0x66; 16]),
            sectors: 0..u64::MAX,
            after: Seq::ZERO,
            through: Seq(40),
            object_len: 5_000,
            directory_at: 4_000,
            checksum: ObjectChecksum([0x55; 32]),
        }],
        packs: vec![PackLink {
            id: id(3, 0x78),
            object_len: 9_000,
        }],
        points: vec![
            point(12, None, ""),
            point(15, Some(Consistency::App), "nightly"),
        ],
        holds: vec![
            Hold {
                from: Seq(12),
                through: Seq(12),
                created_at: WallTime(5),
                kind: HoldKind::Pin,
                owner: "ops".to_owned(),
                reason: "before the upgrade".to_owned(),
            },
            Hold {
                from: Seq(10),
                through: Seq(30),
                created_at: WallTime(6),
                kind: HoldKind::Legal,
                owner: "legal".to_owned(),
                reason: "case 17".to_owned(),
            },
        ],
        policy: Some(PolicyRecord {
            ladder: ladder(86_400),
            next: Some((ladder(3_600), WallTime(77))),
        }),
    }
}

#[test]
fn golden_v1_reads_as_the_sample_and_writes_back_the_same() {
    golden("manifest.v1.bin", &sample().encode());
    assert_eq!(Manifest::decode(&sample().encode()), Ok(sample()));
    let first = Manifest {
        number: ManifestNo(1),
        previous: ObjectChecksum::default(),
        position: FoldedTo {
            journal: journal(1),
            number: ObjectNo::ZERO,
            checksum: ObjectChecksum::default(),
        },
        closed: true,
        every_from: Seq::ZERO,
        disks: Vec::new(),
        layers: Vec::new(),
        packs: Vec::new(),
        points: Vec::new(),
        holds: Vec::new(),
        policy: None,
        ..sample()
    };
    assert_eq!(Manifest::decode(&first.encode()), Ok(first));
}

#[test]
fn every_flipped_bit_and_every_short_read_is_refused() {
    let bytes = sample().encode();
    every_flip_is_refused(&bytes, |bytes| Manifest::decode(bytes).is_err());
    every_truncation_is_refused(&bytes, |bytes| Manifest::decode(bytes).is_err());
}

#[test]
fn a_manifest_whose_fields_do_not_fit_one_another_is_refused() {
    type Spoil = fn(&mut Manifest);
    let spoilt: [(&str, Spoil); 14] = [
        ("number", |manifest| manifest.number = ManifestNo(0)),
        ("first", |manifest| manifest.number = ManifestNo(1)),
        ("position", |manifest| {
            manifest.position.number = ObjectNo::ZERO
        }),
        ("last number", |manifest| {
            manifest.position.number = ObjectNo(u64::MAX);
        }),
        ("last span", |manifest| {
            manifest.disks[0].spans[1].1 = Seq(u64::MAX);
        }),
        ("turned span", |manifest| {
            manifest.disks[0].spans[1].1 = Seq(32);
        }),
        ("size", |manifest| {
            manifest.disks[0].sizes[1].1 = u64::MAX;
        }),
        ("disks", |manifest| manifest.disks.reverse()),
        ("twice", |manifest| {
            manifest.disks[1].disk = DiskId([0x66; 16])
        }),
        ("points", |manifest| manifest.points.reverse()),
        ("above", |manifest| manifest.every_from = Seq(15)),
        ("layer of a later one", |manifest| {
            manifest.layers[0].id.number = ManifestNo(4);
        }),
        ("hold", |manifest| manifest.holds[1].from = Seq(31)),
        ("spans", |manifest| manifest.disks[0].spans.reverse()),
    ];
    for (what, spoil) in spoilt {
        let mut manifest = sample();
        spoil(&mut manifest);
        let read = Manifest::decode(&manifest.encode());
        assert!(
            matches!(read, Err(DecodeError::Invalid { .. })),
            "{what}: {read:?}"
        );
    }
}

#[test]
fn a_manifest_elsewhere_is_misplaced() {
    let manifest = sample();
    let (vault, machine) = (manifest.vault, manifest.machine);
    assert_eq!(manifest.expect_at(vault, machine, ManifestNo(3)), Ok(()));
    for (field, found) in [
        (
            "vault",
            manifest.expect_at(VaultId([0; 16]), machine, ManifestNo(3)),
        ),
        (
            "machine",
            manifest.expect_at(vault, MachineId([0; 16]), ManifestNo(3)),
        ),
        ("number", manifest.expect_at(vault, machine, ManifestNo(4))),
    ] {
        assert_eq!(found, Err(DecodeError::Misplaced { what: WHAT, field }));
    }
}
