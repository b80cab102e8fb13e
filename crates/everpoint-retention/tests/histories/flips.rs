//! A check that reads data finds every flipped bit, whatever kind of object it lies in, and names the object.
//!
//! Nothing is exempt: no format has padding or bytes that nobody reads. What lies below `v1/probe/` is no part of a
//! history: it proves at each start that a store creates only what is absent, and nobody reads it again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use everpoint_format::name::{self, ObjectKind};
use everpoint_format::object::{FOOTER_LEN, Footer, HEADER_LEN, SEAL_LEN, Seal};
use everpoint_format::record::Consistency;
use everpoint_retention::{ErrorKind, Finding, Severity, check};
use everpoint_units::{JournalId, MachineId, ObjectNo};
use everpoint_vault::{ObjectName, Vault};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use crate::images::scratch;
use crate::world::{World, file_vault, journal, put};

/// Levels from here on are those of the machine that has an `end` on its path.
const OTHER_LEVEL: u64 = 100;
/// Sectors of each disk.
const SECTORS: u64 = 16_384;
const SEED: u64 = 7;

/// How much there is of it all.
struct Size {
    /// The vault has at least so many. Unit: bytes.
    vault_len_min: u64,
    flips: usize,
}

const BRIEF: Size = Size {
    vault_len_min: 2 << 20,
    flips: 300,
};
const SOAK: Size = Size {
    vault_len_min: 16 << 20,
    flips: 10_000,
};

impl Size {
    fn wanted() -> Self {
        let is_soak = std::env::var_os("EVERPOINT_SOAK").is_some_and(|set| set == "1");
        if is_soak { SOAK } else { BRIEF }
    }
}

/// What an object is, as far as a flip is told apart by it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    VaultHeader,
    Origin,
    Data,
    Seal,
    End,
    Manifest,
    Layer,
}

const KINDS: [Kind; 7] = [
    Kind::VaultHeader,
    Kind::Origin,
    Kind::Data,
    Kind::Seal,
    Kind::End,
    Kind::Manifest,
    Kind::Layer,
];

struct Object {
    name: String,
    path: PathBuf,
    kind: Kind,
    len: u64,
    /// Where a data object's index begins: before it lie header and frames.
    index_at: u64,
}

impl Object {
    fn of(root: &Path, path: PathBuf) -> Self {
        let name = path.strip_prefix(root).expect("it lies in the vault");
        let name = name.to_str().expect("a name").to_owned();
        let bytes = std::fs::read(&path).expect("an object");
        let kind = match name::parse(&name).expect("a name of a kind") {
            ObjectKind::VaultHeader => Kind::VaultHeader,
            ObjectKind::Origin(_) => Kind::Origin,
            ObjectKind::JournalEnd(_) => Kind::End,
            ObjectKind::JournalObject(..) if bytes.len() == SEAL_LEN => Kind::Seal,
            ObjectKind::JournalObject(..) => Kind::Data,
            ObjectKind::Manifest(..) => Kind::Manifest,
            ObjectKind::Layer(..) => Kind::Layer,
            ObjectKind::Pack(..) => unreachable!("nothing writes packs"),
        };
        let len = bytes.len() as u64;
        let index_at = if kind == Kind::Data {
            let footer = Footer::decode(&bytes[bytes.len() - FOOTER_LEN..], len);
            footer.expect("a footer").index_at
        } else {
            0
        };
        Self {
            name,
            path,
            kind,
            len,
            index_at,
        }
    }

    /// A byte of the object: of a data object one in its frames as often as one outside of them, which are few.
    fn place(&self, random: &mut StdRng) -> u64 {
        let front = HEADER_LEN as u64;
        if self.kind != Kind::Data {
            return random.random_range(0..self.len);
        }
        if front < self.index_at && random.random() {
            return random.random_range(front..self.index_at);
        }
        let outside = random.random_range(0..front + self.len - self.index_at);
        if outside < front {
            outside
        } else {
            outside - front + self.index_at
        }
    }
}

fn objects(root: &Path) -> Vec<Object> {
    let (mut found, mut left) = (Vec::new(), vec![root.join("v1")]);
    while let Some(path) = left.pop() {
        if path.is_file() {
            found.push(Object::of(root, path));
        } else if !path.ends_with("v1/probe") {
            let entries = std::fs::read_dir(path).expect("a directory");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Text, which packs, and noise, which does not.
fn content(random: &mut StdRng, sectors: usize) -> Vec<u8> {
    let mut bytes = vec![0; sectors * 512];
    random.fill_bytes(&mut bytes);
    if random.random() {
        for line in bytes.chunks_mut(64) {
            line[8..].fill(b'.');
        }
    }
    bytes
}

/// One object of a machine with two disks: contents that are new and that were there before, zeroes, a request of two
/// changes, a bookmark.
async fn write_object(world: &mut World, random: &mut StdRng, known: &[Vec<u8>; 2], round: u64) {
    for (disk, known) in known.iter().enumerate() {
        let sectors = random.random_range(2..300_usize);
        let at = random.random_range(0..SECTORS - 1_024);
        let new = content(random, sectors);
        world.write(disk, at, &new);
        world.write(disk, at / 8 * 8 + 304, known);
        world.zero(disk, at + 5, 24, round.is_multiple_of(2));
        world.write_part(disk, at + 512, &new[..512], false);
        world.write_part(disk, at + 513, &new[512..1_024], true);
    }
    world.bookmark(&format!("round {round}"), Consistency::Crash);
    world.commit_all().await;
}

/// A machine's history of at least so many bytes, over two seals and a release.
async fn live(world: &mut World, random: &mut StdRng, level: u64, len_min: u64) -> u64 {
    world.reduce();
    world.add_disk("a", SECTORS);
    world.add_disk("b", SECTORS);
    // No object refers into itself.
    let known = [content(random, 16), content(random, 16)];
    let (mut round, mut level, mut written) = (0, level, 0);
    while written < len_min || round < 18 {
        write_object(world, random, &known, round).await;
        let name = name::journal_object(world.journal, ObjectNo(world.number));
        let name = ObjectName::new(&name).expect("a name");
        written += world
            .vault
            .head(&name)
            .await
            .expect("an answer")
            .expect("there")
            .0;
        round += 1;
        match round {
            4 | 12 => {
                level += 1;
                world.seal_to(level).await;
            }
            8 => {
                level += 1;
                world.release_to(level).await;
            }
            6 | 14 => world.compact(usize::MAX).await,
            10 => {
                world.begin_resync(1);
                world.write(1, 0, &known[1]);
                world.end_resync(1);
                world.resize(0, SECTORS + 64);
            }
            _ => (),
        }
    }
    written
}

/// The seal that stands at this number is copied to the journal's `end`.
async fn put_end(vault: &Vault, journal: JournalId, number: u64) {
    let name = name::journal_object(journal, ObjectNo(number));
    let seal = vault.read(&ObjectName::new(&name).expect("a name")).await;
    let seal = seal.expect("an answer").expect("a seal");
    let seal = Seal::decode(&seal).expect("a seal");
    put(vault, &name::journal_end(journal), seal.encode_end().into()).await;
}

/// What a check says with data read, or what it ends in.
async fn findings(vault: &Vault) -> Result<Vec<Finding>, (ErrorKind, String)> {
    let report = check(vault, true, &|_| ()).await;
    report
        .map(|report| report.findings)
        .map_err(|error| (error.kind(), error.to_string()))
}

/// Whether the check says what it did not say of the sound vault: damage of this object.
async fn is_found(vault: &Vault, object: &Object, sound: &[Finding]) -> bool {
    match findings(vault).await {
        Ok(findings) => findings.iter().any(|finding| {
            finding.severity == Severity::Damage
                && finding.object.as_deref() == Some(&object.name)
                && !sound.contains(finding)
        }),
        Err((kind, said)) => kind == ErrorKind::Integrity && said.contains(&object.name),
    }
}

fn flip(file: &File, at: u64, bit: u32) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("inside");
    file.write_all_at(&[byte[0] ^ (1 << bit)], at)
        .expect("our own directory");
}

/// The file's system is memory where there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_reads_data_names_the_object_of_every_flipped_bit() {
    let size = Size::wanted();
    let mut random = StdRng::seed_from_u64(SEED);
    let directory = scratch();
    let root = directory.path().join("vault");
    let vault = file_vault(&root).await;
    let mut world = World::new(vault.clone()).await;
    let mut written = live(&mut world, &mut random, 1, size.vault_len_min).await;
    let other = MachineId([2; 16]);
    let mut world = World::of_machine(vault.clone(), other, journal(OTHER_LEVEL)).await;
    written += live(&mut world, &mut random, OTHER_LEVEL, 0).await;
    put_end(&vault, journal(OTHER_LEVEL), 5).await;
    assert!(size.vault_len_min <= written, "{written} bytes");

    let sound = findings(&vault).await.expect("a vault");
    assert!(
        sound.iter().all(|finding| finding.machine == Some(other)),
        "`end` is where this version stops, and nothing else is strange: {sound:?}"
    );
    let objects = objects(&root);
    let (mut missed, mut flips) = (Vec::new(), BTreeMap::<Kind, usize>::new());
    for count in 0..size.flips {
        // Each object as often as any other; and each kind now and then, also where the vault has one of it.
        let of_kind = KINDS.get(count % 50);
        let candidates: Vec<_> = objects
            .iter()
            .filter(|object| of_kind.is_none_or(|kind| object.kind == *kind))
            .collect();
        let object = candidates[random.random_range(0..candidates.len())];
        let (at, bit) = (object.place(&mut random), random.random_range(0..8));
        let file = OpenOptions::new().read(true).write(true).open(&object.path);
        let file = file.expect("an object");
        flip(&file, at, bit);
        if !is_found(&vault, object, &sound).await {
            missed.push((object.name.clone(), at, bit));
        }
        flip(&file, at, bit);
        *flips.entry(object.kind).or_default() += 1;
    }
    assert!(missed.is_empty(), "flips that no check finds: {missed:?}");
    assert!(
        KINDS.iter().all(|kind| flips.contains_key(kind)),
        "{flips:?}"
    );
    assert_eq!(findings(&vault).await.expect("a vault"), sound);
}
