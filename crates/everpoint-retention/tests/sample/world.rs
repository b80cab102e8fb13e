//! Vaults with histories made by hand, and an oracle that knows what every disk looked like at every `Seq`.
//!
//! Objects are laid out from the format's own parts, step by step, as a server that reduces would: so that
//! references, which no change block can hold, are written too.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, ChangeBlock, Frame, FrameSeal, PackedBlock};
use everpoint_format::digest::{DigestKey, piece_digests};
use everpoint_format::index::{BlockEntry, Index, Place, Release, Section};
use everpoint_format::name;
use everpoint_format::object::{Footer, HEADER_LEN, ObjectChecksum, ObjectHeader, ObjectType};
use everpoint_format::origin::Origin;
use everpoint_format::record::{Consistency, Record};
use everpoint_format::vault::VaultHeader;
use everpoint_format::{Change, DiskPosition, PackScratch};
use everpoint_journal::sealing::SealOrder;
use everpoint_retention::{CompactConfig, compact};
use everpoint_units::{
    DiskId, Extent, GenerationId, JournalId, Lba, Level, MachineId, ObjectNo, Seq, ServerId,
    VaultId, WallTime,
};
use everpoint_vault::history::{create_header, read_header, seal_journal};
use everpoint_vault::{ObjectName, OpenOptions, Vault, VaultConfig, VaultUrl};

pub(crate) const ID: VaultId = VaultId([9; 16]);
pub(crate) const KEY: DigestKey = DigestKey([5; 32]);
pub(crate) const MACHINE: MachineId = MachineId([1; 16]);
/// Time of the first block; each block is a second later. Unit: microseconds since 1970 UTC.
pub(crate) const FIRST_TIME: u64 = 1_767_225_600_000_000;

/// A vault, the journal that is written, and the machine's disks.
pub(crate) struct World {
    pub(crate) vault: Vault,
    pub(crate) journal: JournalId,
    pub(crate) number: u64,
    pub(crate) seq: u64,
    pub(crate) disks: Vec<Disk>,
    /// Every object that was committed, and the last `Seq` that each disk has in it or before it.
    pub(crate) commits: Vec<(JournalId, ObjectNo, Vec<u64>)>,
    machine: MachineId,
    previous: ObjectChecksum,
    /// Blocks of the object to come: of which disk, and with what raw payload.
    waiting: Vec<(ChangeBlock, Bytes)>,
    clock: u64,
    /// Where content lies that a reference may name, in this journal.
    places: HashMap<Vec<u8>, Place>,
    reduces: bool,
    lie: Option<Lie>,
}

/// One disk: the stream of an agent, and the oracle.
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) name: String,
    tail: DiskPosition,
    generations: u8,
    records: Vec<Record>,
    raw: Vec<u8>,
    /// The last `Seq` in a block that was closed.
    closed: u64,
    pub(crate) past: Vec<(u64, Past)>,
}

pub(crate) enum Past {
    Bytes(u64, Vec<u8>),
    Zero(u64, u64),
    Size(u64),
}

/// What an index may say that is not so, though all its checksums hold.
#[derive(Clone, Copy)]
pub(crate) enum Lie {
    /// The digests are those of other content.
    Digests,
    /// References name a frame behind the end of the object.
    FarFrame,
    /// References name bytes behind the end of the frame.
    FarBytes,
}

pub(crate) async fn open_vault(url: &VaultUrl) -> Vault {
    let config = VaultConfig::default();
    let vault = Vault::open(url, &config, OpenOptions::CREATE);
    vault.await.expect("the vault opens")
}

/// A vault in memory that no other test has.
pub(crate) async fn memory_vault() -> Vault {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = NEXT.fetch_add(1, Ordering::Relaxed);
    open_vault(&format!("memory://v{name}").parse().expect("a URL")).await
}

pub(crate) async fn file_vault(directory: &std::path::Path) -> Vault {
    open_vault(&VaultUrl::file(directory).expect("absolute")).await
}

pub(crate) fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [u8::try_from(level).expect("small"); 16],
    }
}

pub(crate) fn extent(start: u64, sectors: u32) -> Extent {
    let sectors = NonZeroU32::new(sectors).expect("not empty");
    Extent::new(Lba::new(start).expect("small"), sectors).expect("small")
}

impl World {
    /// A vault with a header, and the origin of [`MACHINE`] in the journal of level 1.
    pub(crate) async fn new(vault: Vault) -> Self {
        let header = VaultHeader {
            vault: ID,
            digest_key: KEY,
            created_at: WallTime(0),
        };
        create_header(&vault, &header).await.expect("created");
        Self::of_machine(vault, MACHINE, journal(1)).await
    }

    /// Retention folds what was committed, so many changes a manifest.
    pub(crate) async fn compact(&self, change_count_max: usize) {
        let header = read_header(&self.vault).await.expect("there is one");
        let config = CompactConfig { change_count_max };
        loop {
            let now = WallTime(FIRST_TIME + self.clock);
            let made = compact(&self.vault, &header, self.machine, now, &config).await;
            let Some(made) = made.expect("the vault is sound") else {
                break;
            };
            if !made.is_more {
                break;
            }
        }
    }

    /// Another machine in the same vault, in a journal of its own.
    pub(crate) async fn of_machine(vault: Vault, machine: MachineId, journal: JournalId) -> Self {
        let origin = Origin {
            vault: ID,
            machine,
            journal,
            created_at: WallTime(0),
            made_from: None,
        };
        put(&vault, &name::origin(machine), origin.encode().into()).await;
        Self {
            vault,
            journal,
            number: 0,
            seq: 0,
            disks: Vec::new(),
            commits: Vec::new(),
            machine,
            previous: ObjectChecksum::default(),
            waiting: Vec::new(),
            clock: FIRST_TIME,
            places: HashMap::new(),
            reduces: false,
            lie: None,
        }
    }

    /// From now on content that the journal holds is referred to, not stored again.
    pub(crate) fn reduce(&mut self) {
        self.reduces = true;
    }

    /// The index of the next object says something that is not so.
    pub(crate) fn lie(&mut self, lie: Lie) {
        self.lie = Some(lie);
    }

    /// A disk that begins level, as one that was all zero when its protection began.
    pub(crate) fn add_disk(&mut self, name: &str, sectors: u64) -> usize {
        let number = u8::try_from(self.disks.len()).expect("few") + 1;
        let mut id = [number; 16];
        id[0] = self.machine.0[0];
        self.disks.push(Disk {
            id: DiskId(id),
            name: name.into(),
            tail: DiskPosition::start_of(GenerationId([number | 0x80; 16])),
            generations: 0,
            records: Vec::new(),
            raw: Vec::new(),
            closed: 0,
            past: Vec::new(),
        });
        let disk = self.disks.len() - 1;
        let seq = self.record(
            disk,
            Change::DiskBegin {
                sectors,
                block_size: 512,
                name: name.into(),
            },
        );
        self.disks[disk].past.push((seq, Past::Size(sectors)));
        self.record(disk, Change::ResyncBegin { base: None });
        self.record(disk, Change::ResyncComplete);
        disk
    }

    pub(crate) fn record(&mut self, disk: usize, change: Change) -> u64 {
        self.part(disk, change, true)
    }

    fn part(&mut self, disk: usize, change: Change, ends_request: bool) -> u64 {
        self.seq += 1;
        self.disks[disk].records.push(Record {
            seq: Seq(self.seq),
            ends_request,
            change,
        });
        self.seq
    }

    pub(crate) fn write(&mut self, disk: usize, start: u64, bytes: &[u8]) -> u64 {
        self.write_part(disk, start, bytes, true)
    }

    /// One change of a request that goes on with the next, unless it ends here.
    pub(crate) fn write_part(&mut self, disk: usize, start: u64, bytes: &[u8], ends: bool) -> u64 {
        let open = &self.disks[disk];
        if (1 << 20) < open.raw.len() + bytes.len() || open.records.len() == 4_096 {
            self.close_block(disk);
        }
        let sectors = u32::try_from(bytes.len() / 512).expect("small");
        let seq = self.part(disk, Change::Data(extent(start, sectors)), ends);
        let disk = &mut self.disks[disk];
        disk.raw.extend_from_slice(bytes);
        disk.past
            .push((seq, Past::Bytes(start * 512, bytes.to_vec())));
        seq
    }

    pub(crate) fn zero(&mut self, disk: usize, start: u64, sectors: u32, discard: bool) -> u64 {
        let extent = extent(start, sectors);
        let change = if discard {
            Change::Discard(extent)
        } else {
            Change::Zero(extent)
        };
        let seq = self.record(disk, change);
        let past = Past::Zero(start * 512, u64::from(sectors) * 512);
        self.disks[disk].past.push((seq, past));
        seq
    }

    pub(crate) fn resize(&mut self, disk: usize, sectors: u64) -> u64 {
        let seq = self.record(disk, Change::Resize { sectors });
        self.disks[disk].past.push((seq, Past::Size(sectors)));
        seq
    }

    /// A bookmark in the stream of every disk, all blocks closed.
    pub(crate) fn bookmark(&mut self, name: &str, class: Consistency) -> u64 {
        self.seq += 1;
        for disk in 0..self.disks.len() {
            let change = Change::Bookmark {
                class,
                name: name.into(),
                at: WallTime(self.clock),
            };
            self.disks[disk].records.push(Record {
                seq: Seq(self.seq),
                ends_request: true,
                change,
            });
            self.close_block(disk);
        }
        self.seq
    }

    /// Order of the disk is lost here; what is written until `end_resync` is no point.
    pub(crate) fn begin_resync(&mut self, disk: usize) -> u64 {
        self.close_block(disk);
        let stream = &mut self.disks[disk];
        let base = Some(stream.tail);
        stream.generations += 1;
        let generation = [stream.id.0[1] ^ (stream.generations << 3) ^ 0x40; 16];
        stream.tail = DiskPosition::start_of(GenerationId(generation));
        self.record(disk, Change::ResyncBegin { base })
    }

    pub(crate) fn end_resync(&mut self, disk: usize) -> u64 {
        self.record(disk, Change::ResyncComplete)
    }

    /// Closes the block of the disk: nothing of it at or below the machine's newest `Seq` is missing.
    pub(crate) fn close_block(&mut self, disk: usize) {
        self.clock += 1_000_000;
        let stream = &mut self.disks[disk];
        let captured = Captured {
            first: WallTime(self.clock),
            last: WallTime(self.clock),
            clock_offset_us: 0,
        };
        let raw = Bytes::from(std::mem::take(&mut stream.raw));
        let records = std::mem::take(&mut stream.records);
        stream.closed = records.last().map_or(stream.closed, |last| last.seq.0);
        let frozen = PackedBlock::pack(records, raw.clone(), captured).freeze(BlockPlace {
            machine: self.machine,
            disk: stream.id,
            after: stream.tail,
            complete_through: Seq(self.seq),
        });
        stream.tail = frozen.position();
        let block = ChangeBlock::decode(frozen.to_bytes()).expect("just frozen");
        self.waiting.push((block, raw));
    }

    /// Closes all blocks and commits them as one object.
    pub(crate) async fn commit_all(&mut self) -> ObjectName {
        for disk in 0..self.disks.len() {
            self.close_block(disk);
        }
        self.commit().await
    }

    /// Commits the blocks that were closed.
    pub(crate) async fn commit(&mut self) -> ObjectName {
        self.commit_with(Vec::new()).await
    }

    /// Commits, and leaves the journal for another of this level.
    pub(crate) async fn release_to(&mut self, level: u64) -> ObjectName {
        let release = Release {
            machine: self.machine,
            successor: Some(journal(level)),
        };
        let name = self.commit_with(vec![release]).await;
        self.go_to(level);
        name
    }

    /// Commits, and closes the machine's path for ever.
    pub(crate) async fn close_path(&mut self) -> ObjectName {
        let release = Release {
            machine: self.machine,
            successor: None,
        };
        self.commit_with(vec![release]).await
    }

    /// Seals the journal and goes on in one of this level.
    pub(crate) async fn seal_to(&mut self, level: u64) {
        let order = SealOrder {
            vault: ID,
            journal: self.journal,
            successor: journal(level),
            server: ServerId([3; 16]),
            assignment: 0,
            now: WallTime(self.clock),
        };
        seal_journal(&self.vault, order).await.expect("sealed");
        self.go_to(level);
    }

    fn go_to(&mut self, level: u64) {
        self.journal = journal(level);
        self.number = 0;
        self.previous = ObjectChecksum::default();
        self.places.clear();
    }

    async fn commit_with(&mut self, releases: Vec<Release>) -> ObjectName {
        self.number += 1;
        let header = ObjectHeader {
            vault: ID,
            journal: self.journal,
            number: ObjectNo(self.number),
            server: ServerId([3; 16]),
            assignment: 0,
            previous: self.previous,
            created_at: WallTime(self.clock),
        };
        let closed = self.disks.iter().map(|disk| disk.closed).collect();
        self.commits.push((self.journal, header.number, closed));
        let mut index = Index {
            releases,
            sections: Vec::new(),
        };
        let mut object = header.encode(ObjectType::Data);
        for (block, raw) in std::mem::take(&mut self.waiting) {
            self.lay_out(&mut index, &mut object, &block, &raw);
        }
        if let Some(lie) = self.lie.take() {
            lie.tell(&mut index);
        }
        let encoded = index.encode();
        self.previous = ObjectChecksum::of(&object[..HEADER_LEN], &encoded);
        let footer = Footer {
            index_at: object.len() as u64,
            index_len: encoded.len() as u64,
            object_len: (object.len() + encoded.len() + 112) as u64,
            checksum: self.previous,
            seal: FrameSeal::default(),
        };
        object.extend_from_slice(&encoded);
        object.extend(footer.encode());
        let name = name::journal_object(self.journal, header.number);
        put(&self.vault, &name, object.into()).await
    }

    /// Appends a block's frame, and its entry to the section that it continues.
    fn lay_out(
        &mut self,
        index: &mut Index,
        object: &mut Vec<u8>,
        block: &ChangeBlock,
        raw: &Bytes,
    ) {
        let header = block.header();
        let follows = |section: &Section| {
            let is_newest_of_disk = section.disk == header.disk;
            is_newest_of_disk.then(|| section.continues_with(header))
        };
        let newest = index
            .sections
            .iter()
            .rposition(|section| follows(section).is_some());
        let at = newest.filter(|&at| index.sections[at].continues_with(header));
        let at = at.unwrap_or_else(|| {
            index.sections.push(Section::begin(header));
            index.sections.len() - 1
        });
        let section = &mut index.sections[at];
        let mut entry = BlockEntry::of(block, object.len() as u64, Vec::new());
        let (mut kept, mut cut, mut kept_at) = (Vec::new(), 0, Vec::new());
        for record in &mut entry.records {
            let Change::Data(extent) = record.change else {
                continue;
            };
            let len = usize::try_from(extent.byte_len().0).expect("small");
            let content = &raw[cut..cut + len];
            cut += len;
            entry.digests.extend(piece_digests(&KEY, extent, content));
            let place = self.places.get(content).filter(|_| self.reduces);
            if let Some(place) = place {
                record.change = Change::Reference {
                    extent,
                    place_index: section.places.len() as u64,
                };
                section.places.push(*place);
            } else {
                kept_at.push((content.to_vec(), kept.len()));
                kept.extend_from_slice(content);
            }
        }
        let frame = if kept.len() == raw.len() {
            (entry.frame, block.payload())
        } else {
            pack(kept)
        };
        entry.frame = frame.0;
        for (content, raw_at) in kept_at {
            let place = Place {
                journal: self.journal,
                number: ObjectNo(self.number),
                frame_at: object.len() as u64,
                frame: entry.frame,
                raw_at: u32::try_from(raw_at).expect("small"),
            };
            self.places.entry(content).or_insert(place);
        }
        object.extend_from_slice(&frame.1);
        section.blocks.push(entry);
    }
}

impl Lie {
    fn tell(self, index: &mut Index) {
        for section in &mut index.sections {
            for block in &mut section.blocks {
                if let Self::Digests = self {
                    block.digests.iter_mut().for_each(|digest| digest.0[0] ^= 1);
                }
            }
            for place in &mut section.places {
                match self {
                    Self::Digests => (),
                    Self::FarFrame => place.frame_at += 1 << 40,
                    Self::FarBytes => place.raw_at = place.frame.raw_len - 512,
                }
            }
        }
    }
}

impl Disk {
    /// What the disk looked like at `seq`.
    pub(crate) fn bytes_at(&self, seq: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (_, past) in self.past.iter().filter(|(at, _)| *at <= seq) {
            match past {
                Past::Size(sectors) => {
                    bytes.resize(usize::try_from(sectors * 512).expect("small"), 0);
                }
                Past::Bytes(at, new) => {
                    let at = usize::try_from(*at).expect("small");
                    bytes[at..at + new.len()].copy_from_slice(new);
                }
                Past::Zero(at, len) => {
                    let at = usize::try_from(*at).expect("small");
                    bytes[at..at + usize::try_from(*len).expect("small")].fill(0);
                }
            }
        }
        bytes
    }

    /// When the disk joined its machine.
    pub(crate) fn begun(&self) -> u64 {
        self.past[0].0
    }

    /// Sectors that the disk has now.
    pub(crate) fn sectors(&self) -> u64 {
        let sizes = self.past.iter().rev();
        sizes
            .filter_map(|(_, past)| match past {
                Past::Size(sectors) => Some(*sectors),
                _ => None,
            })
            .next()
            .expect("a disk has a size")
    }
}

fn pack(raw: Vec<u8>) -> (Frame, Bytes) {
    let raw_len = u32::try_from(raw.len()).expect("small");
    let (stored, lz4) = PackScratch::default().pack(&[Bytes::from(raw)]);
    let frame = Frame {
        lz4,
        stored_len: u32::try_from(stored.len()).expect("small"),
        raw_len,
        crc: crc32fast::hash(&stored),
        seal: FrameSeal::default(),
    };
    (frame, stored)
}

/// Creates an object.
pub(crate) async fn put(vault: &Vault, name: &str, bytes: Bytes) -> ObjectName {
    let name = ObjectName::new(name).expect("a name");
    vault.create(&name, &bytes.into()).await.expect("created");
    name
}
