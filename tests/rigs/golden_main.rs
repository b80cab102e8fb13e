//! Makes the golden site anew: `cargo xtask golden`. See `tests/golden/README.md` before you do.
//!
//! A machine with two disks lives through an initial sync, writes, zeroes and discards, a restart of the server, a
//! crash of the agent while a disk changes behind its back, and a crash of the server. Then the vault is taken
//! away, the guest goes on writing, and the server is killed with what it had cached. Nothing in the files is
//! judged by restoring: every digest is that of a source.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_nbd::NbdAddress;
use everpoint_tests::rigs::connection::{Connection, Request, Sent};
use everpoint_tests::rigs::golden::{
    self, Expected, ExpectedBlocks, ExpectedDisk, ExpectedPoint, ExpectedTail, Images,
};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Server, ServerSpec, Site};
use everpoint_tests::rigs::wait;
use everpoint_units::{ByteOffset, DiskId};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

const STEP_TIME_MAX: Duration = Duration::from_secs(60);
const LOG_FILE_LEN: u64 = 4 << 20;
const LOG_QUOTA: u64 = 16 << 20;
const NAMES: [&str; 2] = ["system", "data"];
const LENS: [u64; 2] = [8 << 20, 4 << 20];
const BLOCK_SIZES: [u32; 2] = [512, 4096];
/// Unit: bytes.
const KIB: u64 = 1 << 10;

/// The site in the making.
struct Making {
    site: Site,
    server: Server,
    agent: Agent,
    disks: Vec<MadeDisk>,
    points: Vec<ExpectedPoint>,
    random: StdRng,
}

struct MadeDisk {
    id: DiskId,
    source: PathBuf,
    address: NbdAddress,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut making = Making::begin().await?;
    making.point("after the initial sync").await?;
    making.write_everything().await?;
    making.point("data, zeroes and discards").await?;
    making.restart_server().await?;
    making.write(0, 16 * KIB, 24 * KIB).await?;
    let unnamed = making.instant_without_a_name().await?;
    making.write(0, 20 * KIB, 8 * KIB).await?;
    making.write(1, 64 * KIB, 4 * KIB).await?;
    making.point("after a restart of the server").await?;
    making.points.push(unnamed);
    making.crash_agent().await?;
    making.write(1, 128 * KIB, 12 * KIB).await?;
    making.point("after a crash of the agent").await?;
    making.crash_server().await?;
    making.write(0, 300 * KIB, 10 * KIB).await?;
    making.point("after a crash of the server").await?;
    let tail = making.tail().await?;
    making.end(tail)
}

impl Making {
    async fn begin() -> Result<Self> {
        let site = Site::new("golden").await?;
        let spec = ServerSpec {
            log_quota: LOG_QUOTA,
            log_file_len: LOG_FILE_LEN,
            ..ServerSpec::new("server", site.vault())
        };
        let mut server = site.server(spec).await?;
        server.node.start().await?;
        let mut random = StdRng::seed_from_u64(2);
        let mut sources = Vec::new();
        for (name, len) in NAMES.into_iter().zip(LENS) {
            let source = site.empty_image(name, len)?;
            let mut bytes = vec![0; usize::try_from(len)?];
            let begun = content(&mut random, 48 << 10);
            bytes[1 << 20..(1 << 20) + begun.len()].copy_from_slice(&begun);
            fs::write(&source, bytes)?;
            sources.push(source);
        }
        let spec = AgentSpec::new(sources[0].clone());
        let mut agent = site.agent(spec, &[&server]).await?;
        let second = DiskId(rand::random());
        add_disk(&site, second, &sources[1])?;
        agent.node.start().await?;
        let disks = [agent.disk, second].into_iter().zip(NAMES).zip(sources);
        let disks = disks.map(|((id, name), source)| MadeDisk {
            id,
            source,
            address: NbdAddress::unix(site.socket("nbd"), name),
        });
        let making = Self {
            disks: disks.collect(),
            site,
            server,
            agent,
            points: Vec::new(),
            random,
        };
        making.until_protected().await?;
        Ok(making)
    }

    async fn until_protected(&self) -> Result<()> {
        wait::until("both disks are protected", STEP_TIME_MAX, async || {
            let status = self.agent.status().await?;
            let states = status.disks.iter().map(|disk| disk.state == "protected");
            let states: Vec<bool> = states.collect();
            Ok((states == [true; 2]).then_some(()))
        })
        .await
    }

    async fn send(&self, disk: usize, request: Request) -> Result<()> {
        let connection = Connection::open(&self.disks[disk].address).await?;
        ensure!(connection.send(request).await? == Sent::Done);
        connection.client().await.flush().await?;
        Ok(())
    }

    async fn write(&mut self, disk: usize, at: u64, len: u64) -> Result<()> {
        let data = Bytes::from(content(&mut self.random, usize::try_from(len)?));
        self.send(disk, Request::Write(ByteOffset(at), data)).await
    }

    /// Records of every kind that a guest makes, each over some of those before.
    async fn write_everything(&mut self) -> Result<()> {
        for disk in 0..NAMES.len() {
            let sector = u64::from(BLOCK_SIZES[disk]);
            self.write(disk, 0, sector).await?;
            self.write(disk, 4 * KIB, 40 * KIB).await?;
            let zero = Request::Zero(ByteOffset(8 * KIB), 12 << 10);
            self.send(disk, zero).await?;
            let discard = Request::Discard(ByteOffset((1 << 20) + 16 * KIB), 16 << 10);
            self.send(disk, discard).await?;
            self.write(disk, 12 * KIB, 4 * KIB).await?;
            self.write(disk, LENS[disk] - sector, sector).await?;
        }
        Ok(())
    }

    fn images(&self) -> Result<Images> {
        let disks = self.disks.iter();
        let digests = disks.map(|disk| Ok((disk.id.to_string(), golden::digest(&disk.source)?)));
        digests.collect()
    }

    /// Takes a bookmark while nothing is in flight, and waits until it is in the vault.
    async fn point(&mut self, name: &str) -> Result<()> {
        let seq = self.site.create_point(&self.agent, name).await?;
        let (at, images) = (name.to_owned(), self.images()?);
        self.points.push(ExpectedPoint { at, seq, images });
        Ok(())
    }

    /// The newest request, which the vault has once the next bookmark is there.
    async fn instant_without_a_name(&self) -> Result<ExpectedPoint> {
        let seq = self.agent.status().await?.seq;
        let (at, images) = (format!("seq:{seq}"), self.images()?);
        Ok(ExpectedPoint { at, seq, images })
    }

    /// The server drains, ends, and opens another journal, whose name the seal of the one before has.
    async fn restart_server(&mut self) -> Result<()> {
        ensure!(self.server.node.stop().await?.success());
        self.server.node.start().await?;
        self.until_protected().await
    }

    async fn crash_server(&mut self) -> Result<()> {
        self.server.node.kill()?;
        self.server.node.start().await?;
        self.until_protected().await
    }

    /// A disk changes while its agent is gone; the resync has to find it.
    async fn crash_agent(&mut self) -> Result<()> {
        self.agent.node.kill()?;
        let changed = content(&mut self.random, 4 << 10);
        let mut bytes = fs::read(&self.disks[0].source)?;
        bytes[512 << 10..(512 << 10) + changed.len()].copy_from_slice(&changed);
        fs::write(&self.disks[0].source, bytes)?;
        self.agent.node.start().await?;
        self.until_protected().await
    }

    /// Writes that are cached while the vault is away, and the end of server and agent.
    async fn tail(&mut self) -> Result<ExpectedTail> {
        let elsewhere = self.site.path("vault-elsewhere");
        fs::rename(self.site.vault(), &elsewhere)?;
        self.write_everything().await?;
        let name = "cached and never committed";
        let words = ["point", "create", "--json", "--name", name, "--control"];
        let control = [self.agent.node.control.as_path()];
        let created = self.site.everpoint(words, &control).await?;
        let created = created.succeeded("point create")?;
        let created: serde_json::Value = serde_json::from_str(&created)?;
        let seq = created["seq"].as_u64().context("a point has a seq")?;
        wait::until("everything is cached", STEP_TIME_MAX, async || {
            let status = self.agent.status().await?;
            Ok((status.queue_bytes == 0).then_some(()))
        })
        .await?;
        // Behind it a mark says that it was synced, so that a reader has to find every block.
        let unmarked = self.log()?;
        wait::until("the log's mark", STEP_TIME_MAX, async || {
            Ok((self.log()? != unmarked).then_some(()))
        })
        .await?;
        let status = self.agent.status().await?;
        self.server.node.kill()?;
        self.agent.node.kill()?;
        fs::rename(&elsewhere, self.site.vault())?;

        let mut disks = Vec::new();
        for disk in &status.disks {
            ensure!(disk.committed_block < disk.cached_block, "{disk:?}");
            disks.push(ExpectedBlocks {
                disk: id_text(&disk.disk)?,
                generation: disk.generation.iter().map(|b| format!("{b:02x}")).collect(),
                committed_block: disk.committed_block,
                cached_block: disk.cached_block,
            });
        }
        let (at, images) = (name.to_owned(), self.images()?);
        Ok(ExpectedTail {
            log_quota: LOG_QUOTA,
            log_file_len: LOG_FILE_LEN,
            newest: ExpectedPoint { at, seq, images },
            disks,
        })
    }

    /// Digests of the log's files.
    fn log(&self) -> Result<Vec<String>> {
        let files = fs::read_dir(&self.server.log_dir)?;
        files.map(|file| golden::digest(&file?.path())).collect()
    }

    /// Puts everything into its place in the repository.
    fn end(mut self, tail: ExpectedTail) -> Result<()> {
        self.points.sort_by_key(|point| point.seq);
        let journals = fs::read_dir(self.site.vault().join("v1/journal"))?;
        let expected = Expected {
            made_by: format!("everpoint {}", env!("CARGO_PKG_VERSION")),
            server: self.server.id.to_string(),
            machine: self.agent.machine.to_string(),
            disks: (0..NAMES.len())
                .map(|disk| ExpectedDisk {
                    id: self.disks[disk].id.to_string(),
                    name: NAMES[disk].to_owned(),
                    size_bytes: LENS[disk],
                    block_size: BLOCK_SIZES[disk],
                })
                .collect(),
            journal_count: journals.count() as u64,
            points: self.points,
            tail,
        };
        let folder = golden::folder();
        let parts = [
            ("vault", self.site.vault()),
            ("server", self.server.state_dir.clone()),
            ("server-log", self.server.log_dir.clone()),
        ];
        for (name, from) in parts {
            let to = folder.join(name);
            if to.exists() {
                fs::remove_dir_all(&to)?;
            }
            golden::copy(&from, &to, &is_kept)?;
            says_nothing_of_this_machine(&to, &self.site.path(""))?;
        }
        let json = serde_json::to_string_pretty(&expected)? + "\n";
        fs::write(folder.join("expected.json"), json)?;
        println!("{} points in {}", expected.points.len(), folder.display());
        self.site.passed();
        Ok(())
    }
}

/// Locks, spare files and staged files are made anew by whoever needs them.
fn is_kept(name: &str) -> bool {
    name != "lock" && name != "staged" && !name.ends_with(".spare") && !name.ends_with(".new")
}

/// The rig's agent has one disk; this adds another, and gives both their names.
fn add_disk(site: &Site, id: DiskId, source: &Path) -> Result<()> {
    let path = site.path("agent.toml");
    let [first, second] = NAMES;
    let mut text = fs::read_to_string(&path)?.replace("\"disk\"", &format!("{first:?}"));
    text += &format!(
        "[[agent.disks]]\nid = \"{id}\"\nname = {second:?}\nsource = {source:?}\nblock_size = {}\n",
        BLOCK_SIZES[1]
    );
    Ok(fs::write(&path, text)?)
}

/// Half text, which shrinks, and half noise, which does not.
fn content(random: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let (text, noise) = bytes.split_at_mut(len / 2);
    let number = random.next_u64();
    let line = format!("write {number:020}, and what a guest has to say in it.\n");
    for (byte, said) in text.iter_mut().zip(line.bytes().cycle()) {
        *byte = said;
    }
    random.fill_bytes(noise);
    bytes
}

fn id_text(id: &[u8]) -> Result<String> {
    Ok(DiskId(id.try_into().context("an id has 16 bytes")?).to_string())
}

/// The files go to everybody: no path and no host name is in them.
fn says_nothing_of_this_machine(folder: &Path, site: &Path) -> Result<()> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let words = [site.display().to_string(), host.trim().to_owned()];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            says_nothing_of_this_machine(&path, site)?;
            continue;
        }
        let bytes = fs::read(&path)?;
        for word in words.iter().filter(|word| 3 < word.len()) {
            let found = bytes.windows(word.len()).any(|at| at == word.as_bytes());
            ensure!(!found, "{} holds {word:?}", path.display());
        }
    }
    Ok(())
}
