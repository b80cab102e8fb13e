//! Manifest: what retention has made of one machine's history, numbered; the newest one counts.
//!
//! ```text
//! magic "EPMF", version 1 (2), flags (2: bit 0: the path ends here), vault (16), machine (16), number (8),
//! checksum of the manifest before (32: BLAKE3 of all its bytes; 0 for number 1),
//! created_at (8), position: level (8) and random (16) of the journal, object (8), its
//! checksum (32); every_from (8), highest_seq (8), disk_count (4), layer_count (4),
//! pack_count (4), point_count (4), hold_count (4), policy_len (4)                 192 bytes
//!   disk_count ×     disk (16), name_len (1), name, flags (1: bit 0 level, bit 1 broken, bit 2 a
//!                    request is open), block_size (4), sectors (8), position:
//!                    generation (16), block_no (8), chain (8); complete_through (8),
//!                    if broken: level (8), random (16), object (8), disk's block (8);
//!                    if open: first (8), last (8); life_count, size_count, span_count, copy_count (4 each);
//!                    life: begun (8), ended (8, or 2^64 - 1); size: seq (8), sectors (8);
//!                    span: from (8), through (8); copy: first seq (8)
//!   layer_count ×    number (8), random (16), kind (1: 1 history, 2 thinned), reserved (7), disk (16),
//!                    first sector (8), end sector (8), after (8), through (8), object_len (8),
//!                    directory_at (8), checksum (32)                               128 bytes
//!   pack_count ×     number (8), random (16), object_len (8)                        32 bytes
//!   point_count ×    seq (8), true time (8), class (1: 0 none, else as a bookmark's), name_len (1),
//!                    name                                                  18 bytes and name
//!   hold_count ×     from (8), through (8), created_at (8), kind (1: 1 pin, 2 legal hold),
//!                    owner_len (1), reason_len (1), owner, reason         27 bytes and texts
//!   policy           see manifest/policy.rs; policy_len 0: none was set
//! CRC-32 of all before (4)
//! ```
//!
//! The *position* is how far the machine's path is folded into the layers: an object of the path, or object 0 of a
//! journal that the path leads to, of which nothing is folded. From `every_from` on every end of a request that the
//! disks' spans contain is a point; below it the points that are listed, and no others.

pub mod policy;

use std::ops::Range;

use everpoint_units::{
    BlockNo, DiskId, JournalId, Lba, Level, MachineId, ManifestNo, ObjectNo, RetentionId, Seq,
    VaultId, WallTime,
};

use crate::cursor::{Put, Reader, checked, seal_crc};
use crate::layer::{LayerKind, read_id};
use crate::object::ObjectChecksum;
use crate::record::Consistency;
use crate::{DecodeError, DiskPosition};

use policy::PolicyRecord;

/// Most bytes of a manifest. A reader refuses longer ones before it allocates. Unit: bytes.
pub const MANIFEST_LEN_MAX: u64 = 64 << 20;
/// Longest owner or reason of a hold. Unit: bytes of UTF-8.
pub const HOLD_TEXT_LEN_MAX: usize = 255;

const WHAT: &str = "manifest";
const MAGIC: [u8; 4] = *b"EPMF";
const VERSION: u16 = 1;
const DISK_LEN_MIN: usize = 86;
const LAYER_LEN: usize = 128;
const PACK_LEN: usize = 32;
const POINT_LEN_MIN: usize = 18;
const HOLD_LEN_MIN: usize = 27;
const PAIR_LEN: usize = 16;
const NOT_ENDED: u64 = u64::MAX;

/// See the module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    pub vault: VaultId,
    pub machine: MachineId,
    pub number: ManifestNo,
    /// Checksum of the manifest before; zero for the first.
    pub previous: ObjectChecksum,
    pub created_at: WallTime,
    pub position: FoldedTo,
    /// The machine left this vault with the position's object: its path goes on nowhere.
    pub closed: bool,
    /// From here on every write is a point.
    pub every_from: Seq,
    /// The highest `Seq` that anything folded states.
    pub highest_seq: Seq,
    pub disks: Vec<DiskState>,
    pub layers: Vec<LayerLink>,
    pub packs: Vec<PackLink>,
    /// Below `every_from`, rising.
    pub points: Vec<KeptPoint>,
    pub holds: Vec<Hold>,
    pub policy: Option<PolicyRecord>,
}

/// How far a path is folded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FoldedTo {
    pub journal: JournalId,
    /// The last object that is folded; 0: none of this journal is, and all before it.
    pub number: ObjectNo,
    /// Its checksum; zero for 0.
    pub checksum: ObjectChecksum,
}

/// One disk as of the position.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskState {
    pub disk: DiskId,
    pub name: String,
    /// Unit: bytes.
    pub block_size: u32,
    /// Unit: sectors.
    pub sectors: u64,
    /// With which `Seq` each copy began that builds on nothing, but the first; in the order in which they began.
    pub copies: Vec<Seq>,
    pub position: DiskPosition,
    pub complete_through: Seq,
    /// The newest generation has its resync behind it.
    pub level: bool,
    pub broken: Option<BrokenAt>,
    /// First and last known change of a request that has not ended yet.
    pub open_request: Option<(Seq, Seq)>,
    /// Begun and ended; rising.
    pub lives: Vec<(Seq, Option<Seq>)>,
    /// From when on it had how many sectors; rising.
    pub sizes: Vec<(Seq, u64)>,
    /// Where every end of a request is a point of the disk: first and last; rising.
    pub spans: Vec<(Seq, Seq)>,
}

/// Where a disk's history stopped making sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BrokenAt {
    pub journal: JournalId,
    pub number: ObjectNo,
    /// What the object has of the disk instead of what follows.
    pub found: BlockNo,
}

/// A map layer that is valid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayerLink {
    pub id: RetentionId,
    pub kind: LayerKind,
    pub disk: DiskId,
    pub sectors: Range<u64>,
    pub after: Seq,
    pub through: Seq,
    /// Unit: bytes.
    pub object_len: u64,
    /// Unit: bytes from the start of the layer.
    pub directory_at: u64,
    pub checksum: ObjectChecksum,
}

/// A pack that layers may have places in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackLink {
    pub id: RetentionId,
    /// Unit: bytes.
    pub object_len: u64,
}

/// A point that a policy keeps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeptPoint {
    pub seq: Seq,
    pub at: WallTime,
    /// `None`: a write that nobody named.
    pub class: Option<Consistency>,
    /// Empty where it has none.
    pub name: String,
}

/// Points that no policy may give up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hold {
    /// Every point from here.
    pub from: Seq,
    /// Up to here. A pin is of one point.
    pub through: Seq,
    pub created_at: WallTime,
    pub kind: HoldKind,
    pub owner: String,
    pub reason: String,
}

/// Who may take a hold back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HoldKind {
    /// Whoever may make one.
    Pin,
    /// Its owner alone.
    Legal,
}

impl Manifest {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let policy = self
            .policy
            .as_ref()
            .map_or(Vec::new(), PolicyRecord::encode);
        let mut out = Vec::new();
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(u16::from(self.closed));
        out.put(&self.vault.0);
        out.put(&self.machine.0);
        out.put_u64(self.number.0);
        out.put(&self.previous.0);
        out.put_u64(self.created_at.0);
        put_journal(&mut out, self.position.journal);
        out.put_u64(self.position.number.0);
        out.put(&self.position.checksum.0);
        out.put_u64(self.every_from.0);
        out.put_u64(self.highest_seq.0);
        for count in [
            self.disks.len(),
            self.layers.len(),
            self.packs.len(),
            self.points.len(),
            self.holds.len(),
            policy.len(),
        ] {
            out.put_len(count);
        }
        self.disks.iter().for_each(|disk| disk.put(&mut out));
        self.layers.iter().for_each(|layer| layer.put(&mut out));
        for pack in &self.packs {
            out.put_u64(pack.id.number.0);
            out.put(&pack.id.random);
            out.put_u64(pack.object_len);
        }
        self.points.iter().for_each(|point| point.put(&mut out));
        self.holds.iter().for_each(|hold| hold.put(&mut out));
        out.put(&policy);
        seal_crc(&mut out);
        out
    }

    /// What the next manifest says of this one, which was stored as `bytes`.
    pub fn checksum(bytes: &[u8]) -> ObjectChecksum {
        ObjectChecksum(*blake3::hash(bytes).as_bytes())
    }

    /// Reads a manifest that fills `bytes`.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::new(WHAT, bytes).open(MAGIC, VERSION)?;
        let mut reader = Reader::new(WHAT, checked(WHAT, bytes)?);
        reader.open(MAGIC, VERSION)?;
        let flags = reader.u16()?;
        if 1 < flags {
            return Err(reader.invalid("a manifest has unknown flags"));
        }
        let (vault, machine) = (VaultId(reader.array()?), MachineId(reader.array()?));
        let number = ManifestNo(reader.u64()?);
        let previous = ObjectChecksum(reader.array()?);
        let created_at = WallTime(reader.u64()?);
        let position = FoldedTo {
            journal: read_journal(&mut reader)?,
            number: ObjectNo(reader.u64()?),
            checksum: ObjectChecksum(reader.array()?),
        };
        let (every_from, highest_seq) = (Seq(reader.u64()?), Seq(reader.u64()?));
        let disk_count = reader.count(DISK_LEN_MIN)?;
        let layer_count = reader.count(LAYER_LEN)?;
        let pack_count = reader.count(PACK_LEN)?;
        let point_count = reader.count(POINT_LEN_MIN)?;
        let hold_count = reader.count(HOLD_LEN_MIN)?;
        let policy_len = reader.count(1)?;
        let read = &mut reader;
        let disks = (0..disk_count)
            .map(|_| DiskState::read(read))
            .collect::<Result<_, _>>()?;
        let layers = (0..layer_count)
            .map(|_| LayerLink::read(read))
            .collect::<Result<_, _>>()?;
        let packs = (0..pack_count)
            .map(|_| PackLink::read(read))
            .collect::<Result<_, _>>()?;
        let points = (0..point_count)
            .map(|_| KeptPoint::read(read))
            .collect::<Result<_, _>>()?;
        let holds = (0..hold_count)
            .map(|_| Hold::read(read))
            .collect::<Result<_, _>>()?;
        let policy = reader.take(policy_len)?;
        let policy = (!policy.is_empty())
            .then(|| PolicyRecord::decode(policy))
            .transpose()?;
        reader.end()?;
        let manifest = Self {
            vault,
            machine,
            number,
            previous,
            created_at,
            position,
            closed: flags == 1,
            every_from,
            highest_seq,
            disks,
            layers,
            packs,
            points,
            holds,
            policy,
        };
        manifest.check().map_err(|rule| reader.invalid(rule))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), &'static str> {
        let nothing = ObjectChecksum::default();
        if self.number == ManifestNo::ZERO
            || (self.number == ManifestNo::ZERO.next() && self.previous != nothing)
        {
            return Err("numbers start at 1, and nothing lies before the first");
        }
        let ends = [
            self.number.0,
            self.position.number.0,
            self.highest_seq.0,
            self.every_from.0,
        ];
        if ends.contains(&u64::MAX) {
            return Err("a number is the last that there is: nothing could follow");
        }
        if !self.disks.iter().all(DiskState::is_sound) {
            return Err("a disk has impossible sizes or spans");
        }
        if self.position.number == ObjectNo::ZERO && self.position.checksum != nothing {
            return Err("no object has number 0");
        }
        if !self.disks.is_sorted_by(|a, b| a.disk < b.disk) {
            return Err("disks do not rise");
        }
        let below = self.points.iter().all(|point| point.seq < self.every_from);
        if !below || !self.points.is_sorted_by(|a, b| a.seq < b.seq) {
            return Err("points do not rise below the first that every write is");
        }
        let older = |id: &RetentionId| id.number <= self.number;
        let layers = self.layers.iter().map(|layer| &layer.id);
        if !layers
            .chain(self.packs.iter().map(|pack| &pack.id))
            .all(older)
        {
            return Err("links what was made for a later manifest");
        }
        Ok(())
    }

    /// Refuses a manifest that lies under another name than its own.
    ///
    /// # Errors
    ///
    /// `Misplaced`, naming the field that differs.
    pub fn expect_at(
        &self,
        vault: VaultId,
        machine: MachineId,
        number: ManifestNo,
    ) -> Result<(), DecodeError> {
        let field = if self.vault != vault {
            "vault"
        } else if self.machine != machine {
            "machine"
        } else if self.number != number {
            "number"
        } else {
            return Ok(());
        };
        Err(DecodeError::Misplaced { what: WHAT, field })
    }
}

impl DiskState {
    /// Whether its spans are spans with something behind them, and its sizes those of disks.
    fn is_sound(&self) -> bool {
        let spans = self.spans.iter();
        let mut spans = spans.map(|(from, through)| from <= through && through.0 != u64::MAX);
        let sizes = self.sizes.iter().map(|(_, sectors)| *sectors);
        let mut sizes = sizes.chain([self.sectors]);
        let known = self.complete_through.0 != u64::MAX;
        known && spans.all(|is| is) && sizes.all(|sectors| sectors <= Lba::MAX.sector())
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.disk.0);
        put_text(out, &self.name);
        let flags = u8::from(self.level)
            | u8::from(self.broken.is_some()) << 1
            | u8::from(self.open_request.is_some()) << 2;
        out.put(&[flags]);
        out.put_u32(self.block_size);
        out.put_u64(self.sectors);
        self.position.put(out);
        out.put_u64(self.complete_through.0);
        if let Some(broken) = &self.broken {
            put_journal(out, broken.journal);
            out.put_u64(broken.number.0);
            out.put_u64(broken.found.0);
        }
        if let Some((first, last)) = self.open_request {
            out.put_u64(first.0);
            out.put_u64(last.0);
        }
        out.put_len(self.lives.len());
        out.put_len(self.sizes.len());
        out.put_len(self.spans.len());
        out.put_len(self.copies.len());
        for (begun, ended) in &self.lives {
            out.put_u64(begun.0);
            out.put_u64(ended.map_or(NOT_ENDED, |ended| ended.0));
        }
        for (seq, sectors) in &self.sizes {
            out.put_u64(seq.0);
            out.put_u64(*sectors);
        }
        for (from, through) in &self.spans {
            out.put_u64(from.0);
            out.put_u64(through.0);
        }
        for first in &self.copies {
            out.put_u64(first.0);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let disk = DiskId(reader.array()?);
        let name = read_text(reader)?;
        let flags = reader.u8()?;
        if 7 < flags {
            return Err(reader.invalid("a disk has unknown flags"));
        }
        let block_size = reader.u32()?;
        let sectors = reader.u64()?;
        let position = DiskPosition::read(reader)?;
        let complete_through = Seq(reader.u64()?);
        let broken = (flags & 2 != 0)
            .then(|| BrokenAt::read(reader))
            .transpose()?;
        let open = (flags & 4 != 0).then(|| read_pair(reader)).transpose()?;
        let life_count = reader.count(PAIR_LEN)?;
        let size_count = reader.count(PAIR_LEN)?;
        let span_count = reader.count(PAIR_LEN)?;
        let copy_count = reader.count(8)?;
        let pairs = |reader: &mut Reader<'_>, count| {
            let pairs = (0..count).map(|_| read_pair(reader));
            pairs.collect::<Result<Vec<_>, _>>()
        };
        let lives = pairs(reader, life_count)?;
        let sizes = pairs(reader, size_count)?;
        let spans = pairs(reader, span_count)?;
        let copies = (0..copy_count).map(|_| reader.u64().map(Seq));
        let copies = copies.collect::<Result<_, _>>()?;
        let rise = |pairs: &[(u64, u64)]| pairs.is_sorted_by(|a, b| a.0 < b.0);
        if !rise(&lives) || !rise(&sizes) || !rise(&spans) {
            return Err(reader.invalid("a disk's lives, sizes or spans do not rise"));
        }
        let ended = |ended: u64| (ended != NOT_ENDED).then_some(Seq(ended));
        Ok(Self {
            disk,
            name,
            block_size,
            sectors,
            copies,
            position,
            complete_through,
            level: flags & 1 != 0,
            broken,
            open_request: open.map(|(first, last)| (Seq(first), Seq(last))),
            lives: lives
                .iter()
                .map(|life| (Seq(life.0), ended(life.1)))
                .collect(),
            sizes: sizes.iter().map(|size| (Seq(size.0), size.1)).collect(),
            spans: spans
                .iter()
                .map(|span| (Seq(span.0), Seq(span.1)))
                .collect(),
        })
    }
}

impl BrokenAt {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            journal: read_journal(reader)?,
            number: ObjectNo(reader.u64()?),
            found: BlockNo(reader.u64()?),
        })
    }
}

impl LayerLink {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.id.number.0);
        out.put(&self.id.random);
        out.put(&[self.kind.code(), 0, 0, 0, 0, 0, 0, 0]);
        out.put(&self.disk.0);
        out.put_u64(self.sectors.start);
        out.put_u64(self.sectors.end);
        out.put_u64(self.after.0);
        out.put_u64(self.through.0);
        out.put_u64(self.object_len);
        out.put_u64(self.directory_at);
        out.put(&self.checksum.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = read_id(reader)?;
        let kind = LayerKind::from_code(reader.u8()?);
        let kind = kind.ok_or_else(|| reader.invalid("a layer of no known kind"))?;
        reader.reserved(7)?;
        let link = Self {
            id,
            kind,
            disk: DiskId(reader.array()?),
            sectors: reader.u64()?..reader.u64()?,
            after: Seq(reader.u64()?),
            through: Seq(reader.u64()?),
            object_len: reader.u64()?,
            directory_at: reader.u64()?,
            checksum: ObjectChecksum(reader.array()?),
        };
        if link.sectors.is_empty() || link.object_len < link.directory_at {
            return Err(reader.invalid("a layer of no sectors, or with impossible lengths"));
        }
        Ok(link)
    }
}

impl PackLink {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: read_id(reader)?,
            object_len: reader.u64()?,
        })
    }
}

impl KeptPoint {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.seq.0);
        out.put_u64(self.at.0);
        out.put(&[self.class.map_or(0, Consistency::code)]);
        put_text(out, &self.name);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (seq, at) = (Seq(reader.u64()?), WallTime(reader.u64()?));
        let class = match reader.u8()? {
            0 => None,
            code => {
                let class = Consistency::from_code(code);
                Some(class.ok_or_else(|| reader.invalid("a point of no known class"))?)
            }
        };
        let name = read_text(reader)?;
        Ok(Self {
            seq,
            at,
            class,
            name,
        })
    }
}

impl Hold {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.from.0);
        out.put_u64(self.through.0);
        out.put_u64(self.created_at.0);
        out.put(&[match self.kind {
            HoldKind::Pin => 1,
            HoldKind::Legal => 2,
        }]);
        put_text(out, &self.owner);
        put_text(out, &self.reason);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (from, through) = read_pair(reader)?;
        let created_at = WallTime(reader.u64()?);
        let kind = match reader.u8()? {
            1 => HoldKind::Pin,
            2 => HoldKind::Legal,
            _ => return Err(reader.invalid("a hold of no known kind")),
        };
        if through < from {
            return Err(reader.invalid("a hold ends before it begins"));
        }
        Ok(Self {
            from: Seq(from),
            through: Seq(through),
            created_at,
            kind,
            owner: read_text(reader)?,
            reason: read_text(reader)?,
        })
    }
}

fn put_journal(out: &mut Vec<u8>, journal: JournalId) {
    out.put_u64(journal.level.0);
    out.put(&journal.random);
}

fn read_journal(reader: &mut Reader<'_>) -> Result<JournalId, DecodeError> {
    Ok(JournalId {
        level: Level(reader.u64()?),
        random: reader.array()?,
    })
}

fn read_pair(reader: &mut Reader<'_>) -> Result<(u64, u64), DecodeError> {
    Ok((reader.u64()?, reader.u64()?))
}

/// A text behind its length. Whoever makes one bounds it to 255 bytes.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).expect("texts are at most 255 bytes");
    out.put(&[len]);
    out.put(text.as_bytes());
}

fn read_text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let len = usize::from(reader.u8()?);
    let text = std::str::from_utf8(reader.take(len)?);
    text.map(str::to_owned)
        .map_err(|_| reader.invalid("a text is not UTF-8"))
}

#[cfg(test)]
mod tests;
