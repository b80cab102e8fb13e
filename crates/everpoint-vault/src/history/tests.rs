//! Histories in memory and in a directory: what was written is walked, damage is told, seals are single.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, ChangeBlock, PackedBlock};
use everpoint_format::data::{DataBuilder, DataObject};
use everpoint_format::index::Release;
use everpoint_format::object::{ObjectChecksum, ObjectHeader};
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition};
use everpoint_journal::path::{Damage, PathEnd};
use everpoint_journal::sealing::SealOrder;
use everpoint_units::{DiskId, Extent, GenerationId, Lba, Level, Seq, ServerId, WallTime};
use futures::StreamExt as _;

use super::*;
use crate::faulty::{self, CreateFault};
use crate::{OpenOptions, RetryConfig, VaultConfig, VaultUrl};

const ID: VaultId = VaultId([9; 16]);
const MACHINE: MachineId = MachineId([1; 16]);

/// A vault in memory and one in a directory, each with what keeps it alive.
async fn vaults(test: &str, config: &VaultConfig) -> [(Vault, Option<tempfile::TempDir>); 2] {
    let directory = tempfile::tempdir().unwrap();
    let memory: VaultUrl = format!("memory://{test}").parse().unwrap();
    let file = VaultUrl::file(directory.path().join("vault")).unwrap();
    let open = |url| async move { Vault::open(&url, config, OpenOptions::CREATE).await };
    [
        (open(memory).await.unwrap(), None),
        (open(file).await.unwrap(), Some(directory)),
    ]
}

fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [u8::try_from(level).unwrap(); 16],
    }
}

fn header(journal: JournalId, number: u64, previous: ObjectChecksum) -> ObjectHeader {
    ObjectHeader {
        vault: ID,
        journal,
        number: ObjectNo(number),
        server: ServerId([3; 16]),
        assignment: 0,
        previous,
        created_at: WallTime(0),
    }
}

/// A block of `count` records that zero one sector each.
fn block(after: DiskPosition, first_seq: u64, count: u64) -> ChangeBlock {
    let records = (first_seq..first_seq + count).map(|seq| Record {
        seq: Seq(seq),
        ends_request: true,
        change: Change::Zero(
            Extent::new(Lba::new(seq).unwrap(), NonZeroU32::new(1).unwrap()).unwrap(),
        ),
    });
    let packed = PackedBlock::pack(records.collect(), Bytes::new(), Captured::default());
    let frozen = packed.freeze(BlockPlace {
        machine: MACHINE,
        disk: DiskId([2; 16]),
        after,
        complete_through: Seq(first_seq + count),
    });
    ChangeBlock::decode(frozen.to_bytes()).unwrap()
}

/// Writes a journal of data objects, one block each; `counts` says how many records.
struct Writer<'a> {
    vault: &'a Vault,
    journal: JournalId,
    previous: ObjectChecksum,
    number: u64,
    tail: DiskPosition,
    seq: u64,
}

impl<'a> Writer<'a> {
    fn new(vault: &'a Vault, level: u64) -> Self {
        Self {
            vault,
            journal: journal(level),
            previous: ObjectChecksum::default(),
            number: 0,
            tail: DiskPosition::start_of(GenerationId([4; 16])),
            seq: 1,
        }
    }

    async fn write(&mut self, record_count: u64, release: Option<Release>) -> DataObject {
        let mut builder = DataBuilder::default();
        let block = block(self.tail, self.seq, record_count);
        self.seq += record_count;
        self.tail = block.header().position();
        builder.push(&block, Vec::new());
        release
            .into_iter()
            .for_each(|release| builder.release(release));
        self.number += 1;
        let object = builder.freeze(header(self.journal, self.number, self.previous));
        self.previous = object.checksum;
        let name = journal_object(self.journal, object.header.number);
        let payload = Payload::new(object.pieces.clone());
        self.vault.create(&name, &payload).await.unwrap();
        object
    }
}

async fn write_origin(vault: &Vault, level: u64) {
    write_origin_of(vault, MACHINE, level).await;
}

async fn write_origin_of(vault: &Vault, machine: MachineId, level: u64) {
    let origin = Origin {
        vault: ID,
        machine,
        journal: journal(level),
        created_at: WallTime(0),
        made_from: None,
    };
    let name = object_name(&name::origin(machine));
    vault.create(&name, &origin.encode().into()).await.unwrap();
}

fn order(from: u64, to: u64) -> SealOrder {
    SealOrder {
        vault: ID,
        journal: journal(from),
        successor: journal(to),
        server: ServerId([3; 16]),
        assignment: 0,
        now: WallTime(7),
    }
}

async fn visited(vault: &Vault) -> (Walked, Vec<(u64, u64)>) {
    let mut seen = Vec::new();
    let walked = walk(vault, ID, MACHINE, |journal, number, data, len| {
        assert!(data.header.number == number && 0 < len.0);
        seen.push((journal.level.0, number.0));
    });
    (walked.await.unwrap(), seen)
}

#[tokio::test]
async fn of_several_headers_the_first_counts() {
    for (vault, _directory) in vaults("headers", &VaultConfig::default()).await {
        let refused = read_header(&vault).await.unwrap_err();
        assert!(matches!(refused, HistoryError::NotAVault { .. }));
        assert!(
            refused.to_string().contains("is not an everpoint vault"),
            "{refused}"
        );
        assert_eq!(refused.remedy(), Remedy::Report);
        let header = |id| VaultHeader {
            vault: VaultId([id; 16]),
            digest_key: everpoint_format::digest::DigestKey([id; 32]),
            created_at: WallTime(0),
        };
        for id in [1, 2, 1] {
            assert_eq!(create_header(&vault, &header(id)).await.unwrap(), header(1));
        }
        assert_eq!(read_header(&vault).await.unwrap(), header(1));
    }
}

#[tokio::test]
async fn a_path_is_walked_through_seals_and_releases_whatever_the_length_of_the_indexes() {
    for (vault, _directory) in vaults("walk", &VaultConfig::default()).await {
        assert_eq!(visited(&vault).await.0.end, PathEnd::NoOrigin);
        write_origin(&vault, 1).await;
        let mut first = Writer::new(&vault, 1);
        // 32 bytes a record: indexes far below, around and above what is read first.
        for count in [1, 2_030, 2_031, 2_032, 2_033, 2_040, 2_050, 4_096] {
            first.write(count, None).await;
        }
        for _ in 0..40 {
            first.write(1, None).await;
        }
        seal_journal(&vault, order(1, 2)).await.unwrap();
        let mut second = Writer::new(&vault, 2);
        second.write(1, None).await;
        let release = Release {
            machine: MACHINE,
            successor: Some(journal(5)),
        };
        second.write(1, Some(release)).await;
        second.write(1, None).await;
        Writer::new(&vault, 5).write(3, None).await;

        let (walked, seen) = visited(&vault).await;
        let last = ObjectNo(1);
        let open = PathEnd::Open {
            journal: journal(5),
            last,
        };
        assert_eq!((walked.end, walked.damage), (open, vec![]));
        let in_first = (1..=48).map(|number| (1, number));
        assert_eq!(
            seen,
            in_first.chain([(2, 1), (2, 2), (5, 1)]).collect::<Vec<_>>()
        );
        assert_eq!(list_journals(&vault).await.unwrap(), [1, 2, 5].map(journal));
        assert_eq!(list_machines(&vault).await.unwrap(), [MACHINE]);
    }
}

#[tokio::test]
async fn machines_walked_together_see_what_each_sees_alone() {
    for (vault, _directory) in vaults("together", &VaultConfig::default()).await {
        let machine = |id| MachineId([id; 16]);
        // Machine 1 begins in journal 1, 2 in journal 2, 3 in none that is there; 4 has no origin.
        for (id, level) in [(1, 1), (2, 2), (3, 9)] {
            write_origin_of(&vault, machine(id), level).await;
        }
        let release = |id, to| Release {
            machine: machine(id),
            successor: Some(journal(to)),
        };
        let mut first = Writer::new(&vault, 1);
        first.write(1, None).await;
        first.write(1, Some(release(1, 3))).await;
        first.write(1, None).await;
        let mut second = Writer::new(&vault, 2);
        second.write(1, Some(release(1, 7))).await;
        second.write(1, None).await;
        seal_journal(&vault, order(2, 3)).await.unwrap();
        Writer::new(&vault, 3).write(1, None).await;

        let (own_vault, mut together) = (vault.clone(), BTreeMap::<_, Vec<_>>::new());
        let all = tokio::spawn(async move {
            let visit = |in_path: &[MachineId], journal, number, data: &DataIndex, len| {
                for machine in in_path {
                    let seen = together.entry(*machine).or_default();
                    seen.push((journal, number, data.checksum, len));
                }
            };
            let walked = walk_all(
                &own_vault,
                ID,
                [4, 2, 1, 3].map(|id| (machine(id), None)),
                visit,
            )
            .await;
            (walked.unwrap(), together)
        });
        let (walked, mut together) = all.await.unwrap();
        let mut counts = Vec::new();
        for id in 1..=4 {
            let mut seen = Vec::new();
            let alone = walk(&vault, ID, machine(id), |journal, number, data, len| {
                seen.push((journal, number, data.checksum, len));
            });
            assert_eq!(alone.await.unwrap(), walked[&machine(id)], "machine {id}");
            assert_eq!(seen, together.remove(&machine(id)).unwrap_or_default());
            counts.push(seen.len());
        }
        assert_eq!(counts, [3, 3, 0, 0]);
        assert_eq!(walked[&machine(4)].end, PathEnd::NoOrigin);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_keeps_nobody_else_from_reading() {
    let config = VaultConfig {
        blocking_threads_max: 1,
        ..VaultConfig::default()
    };
    for (vault, _directory) in vaults("pauses", &config).await {
        let mut writer = Writer::new(&vault, 1);
        for _ in 0..40 {
            writer.write(1, None).await;
        }
        let names = (1..=40).map(|number| (journal(1), ObjectNo(number)));
        let mut objects = read_objects(&vault, ID, names);
        while let Some(object) = objects.next().await {
            let (_, number, _) = object.unwrap();
            // The reads ahead of this one want the only thread as well.
            let again = read_object(&vault, ID, journal(1), number);
            let again = tokio::time::timeout(std::time::Duration::from_secs(10), again).await;
            let found = again.expect("nobody holds the thread for ever").unwrap();
            assert!(matches!(found, ObjectFound::Data(..)));
        }
    }
}

#[tokio::test]
async fn what_is_read_of_an_object_is_its_whole_index() {
    for (vault, _directory) in vaults("index", &VaultConfig::default()).await {
        let mut writer = Writer::new(&vault, 1);
        for count in [1, 2_035, 4_096] {
            let object = writer.write(count, None).await;
            let number = object.header.number;
            let found = read_object(&vault, ID, journal(1), number).await.unwrap();
            let ObjectFound::Data(data, len) = found else {
                panic!("{found:?}");
            };
            assert_eq!((data.index, len.0), (object.index, object.len));
        }
        let read = |id, level, number| read_object(&vault, id, journal(level), ObjectNo(number));
        assert!(matches!(
            read(ID, 1, 4).await.unwrap(),
            ObjectFound::Missing
        ));
        let elsewhere = read(VaultId([8; 16]), 1, 1).await.unwrap();
        assert!(matches!(
            elsewhere,
            ObjectFound::Damaged(ObjectDamage::Decode(DecodeError::Misplaced {
                field: "vault",
                ..
            }))
        ));
    }
}

#[tokio::test]
async fn every_flip_truncation_and_mix_up_is_damage_and_the_walk_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let url = VaultUrl::file(directory.path().join("vault")).unwrap();
    let config = VaultConfig::default();
    let vault = Vault::open(&url, &config, OpenOptions::CREATE);
    let vault = vault.await.unwrap();
    write_origin(&vault, 1).await;
    let mut writer = Writer::new(&vault, 1);
    for _ in 0..3 {
        writer.write(2, None).await;
    }
    let name = journal_object(journal(1), ObjectNo(2));
    let path = url.directory().unwrap().join(name.as_str());
    let sound = std::fs::read(&path).unwrap();
    let damage = vec![Damage::Object {
        journal: journal(1),
        number: ObjectNo(2),
    }];
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let (walked, seen) = visited(&vault).await;
        assert_eq!(seen, [(1, 1), (1, 3)], "byte {at}");
        assert_eq!(walked.damage, damage, "byte {at}");
    }
    let third = journal_object(journal(1), ObjectNo(3));
    std::fs::copy(url.directory().unwrap().join(third.as_str()), &path).unwrap();
    let (walked, seen) = visited(&vault).await;
    assert_eq!(seen, [(1, 1), (1, 3)], "an object under another's name");
    assert_eq!(walked.damage, damage);
    for len in 0..sound.len() {
        std::fs::write(&path, &sound[..len]).unwrap();
        assert_eq!(visited(&vault).await.0.damage, damage, "{len} bytes");
    }
}

#[tokio::test]
async fn an_origin_of_another_machine_or_vault_is_refused() {
    for (vault, _directory) in vaults("origins", &VaultConfig::default()).await {
        write_origin(&vault, 1).await;
        assert!(read_origin(&vault, ID, MACHINE).await.unwrap().is_ok());
        let other = read_origin(&vault, VaultId([8; 16]), MACHINE)
            .await
            .unwrap();
        assert!(matches!(
            other,
            Err(DecodeError::Misplaced { field: "vault", .. })
        ));
        let copied = MachineId([7; 16]);
        assert_eq!(read_origin(&vault, ID, copied).await.unwrap(), Ok(None));
        let bytes = vault
            .read(&object_name(&name::origin(MACHINE)))
            .await
            .unwrap()
            .unwrap();
        vault
            .create(&object_name(&name::origin(copied)), &bytes.into())
            .await
            .unwrap();
        let other = read_origin(&vault, ID, copied).await.unwrap();
        assert!(matches!(
            other,
            Err(DecodeError::Misplaced {
                field: "machine",
                ..
            })
        ));
    }
}

#[tokio::test]
async fn a_journal_has_one_seal_whoever_asks_and_whatever_became_of_the_create() {
    let config = VaultConfig {
        retry: RetryConfig {
            attempts_max: 200,
            delay_ms_first: 1,
            delay_ms_max: 2,
            ..RetryConfig::default()
        },
        jitter_seed: Some(1),
        ..VaultConfig::default()
    };
    for (vault, _directory) in vaults("seals", &config).await {
        Writer::new(&vault, 1).write(1, None).await;
        let (faulty, faults) = faulty::wrap(&vault, &config);
        faults.at_random(3, 300);
        let orders = [order(1, 2), order(1, 3), order(1, 4)];
        let seals = orders.map(|order| seal_journal(&faulty, order));
        let [a, b, c] = seals;
        let (a, b, c) = tokio::try_join!(a, b, c).unwrap();
        assert!(a == b && b == c);
        assert_eq!((a.header.number, a.prefix_end), (ObjectNo(2), ObjectNo(1)));
        // A journal that never wrote is sealed at 1.
        let empty = seal_journal(&faulty, order(7, 8)).await.unwrap();
        assert_eq!(
            (empty.header.number, empty.prefix_end),
            (ObjectNo(1), ObjectNo(0))
        );
    }
}

#[tokio::test]
async fn a_seal_whose_create_was_ambiguous_for_a_whole_budget_is_created_once() {
    let config = VaultConfig {
        retry: RetryConfig {
            attempts_max: 1,
            ..RetryConfig::default()
        },
        ..VaultConfig::default()
    };
    for (vault, _directory) in vaults("ambiguous", &config).await {
        let (faulty, faults) = faulty::wrap(&vault, &config);
        faults.queue_creates([CreateFault::LostAnswer, CreateFault::Unavailable]);
        let seal = seal_journal(&faulty, order(1, 2)).await.unwrap();
        assert_eq!(seal.successor, journal(2));
        assert_eq!(seal_journal(&vault, order(1, 3)).await.unwrap(), seal);

        // After four of its own budgets the caller is told, and finds the seal when it asks again.
        faults.queue_creates([CreateFault::LostAnswer; 4]);
        let refused = seal_journal(&faulty, order(5, 6)).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Again);
        let seal = seal_journal(&faulty, order(5, 7)).await.unwrap();
        assert_eq!(seal.successor, journal(6));
    }
}

#[tokio::test]
async fn an_end_that_does_not_decode_seals_nothing_anew() {
    for (vault, _directory) in vaults("ends", &VaultConfig::default()).await {
        let seal = seal_journal(&vault, order(1, 2)).await.unwrap();
        assert_eq!(read_end(&vault, ID, journal(1)).await.unwrap(), None);
        let end = object_name(&name::journal_end(journal(1)));
        vault.create(&end, &seal.encode_end().into()).await.unwrap();
        assert_eq!(
            read_end(&vault, ID, journal(1)).await.unwrap(),
            Some(Ok(seal))
        );
        assert_eq!(seal_journal(&vault, order(1, 3)).await.unwrap(), seal);

        let end = object_name(&name::journal_end(journal(4)));
        vault.create(&end, &seal.encode_end().into()).await.unwrap();
        let refused = seal_journal(&vault, order(4, 5)).await.unwrap_err();
        assert!(matches!(refused, HistoryError::End { .. }), "{refused:?}");
        assert!(
            list_journal(&vault, journal(4))
                .await
                .unwrap()
                .objects
                .is_empty()
        );
    }
}
