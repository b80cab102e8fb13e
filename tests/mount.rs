//! Points that are mounted: other people's clients read them as they restore, and write to them without a trace in the
//! vault.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::child::Process;
use everpoint_tests::rigs::golden;
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::site::{AgentSpec, Home, ServerSpec, Site};
use everpoint_tests::rigs::{tool, wait};
use everpoint_units::DiskId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::Value;

/// Not whole MiB, and not whole pieces. Unit: bytes.
const DISK_LEN: u64 = (24 << 20) + 1_536;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// A vault that nobody writes to, and one of its disks.
struct World {
    site: Site,
    disk: DiskId,
    disk_len: u64,
}

/// A mount that serves.
struct Mounted {
    process: Process,
    told: Value,
    socket: PathBuf,
    log: PathBuf,
    /// What it takes for the system's temporary directory.
    temporary: PathBuf,
}

impl World {
    /// The golden vault, which an older version left behind.
    async fn golden(name: &str) -> Result<Self> {
        let site = Site::on(name, Home::Directory).await?;
        golden::copy(&golden::folder().join("vault"), &site.vault(), &|_| true)?;
        let expected = golden::expected()?;
        let disk = &expected.disks[0];
        Ok(Self {
            disk: disk.id.parse()?,
            disk_len: disk.size_bytes,
            site,
        })
    }

    /// A disk that was written to for some seconds; gives the `Seq` of the bookmark `middle`, and the newest.
    async fn lived(name: &str) -> Result<(Self, u64, u64)> {
        let site = Site::on(name, Home::Directory).await?;
        let source = site.empty_image("source.raw", DISK_LEN)?;
        let spec = ServerSpec::new("server", site.place());
        let (mut process, mut agent) = site.protect(spec, AgentSpec::new(source)).await?;
        let spec = LoadSpec {
            seed: 23,
            connections: 2,
            depth: 4,
            rate_max: Some(8 << 20),
            len_min: 512,
            len_max: 256 << 10,
            zero_one_in: 12,
            discard_one_in: 12,
            hot_len: 4 << 20,
            is_mixed: false,
        };
        let mut load = Load::start(&agent.address, spec).await?;
        load.run_for(Duration::from_millis(1_500)).await?;
        let middle = site.create_point(&agent, "middle").await?;
        load.run_for(Duration::from_millis(1_500)).await?;
        load.finish().await?;
        let newest = agent.until_settled(&process, STEP_TIME_MAX).await?;
        ensure!(agent.node.stop().await?.success() && process.node.stop().await?.success());
        let world = Self {
            disk: agent.disk,
            disk_len: DISK_LEN,
            site,
        };
        Ok((world, middle, newest))
    }

    fn command(&self, at: &str, socket: &Path) -> Command {
        let mut command = Command::new(xtask::built::program("everpoint"));
        let (disk, place) = (self.disk.to_string(), self.site.place());
        command.args(["mount", "--json", "--disk", &disk, "--at", at]);
        command
            .args(["--vault", &place.url])
            .arg("--socket")
            .arg(socket);
        command
    }

    /// Mounts a point, and waits until it says that it can be used.
    async fn mount(&self, name: &str, at: &str, words: &[&str]) -> Result<Mounted> {
        let (socket, log) = (self.site.socket(name), self.site.log(name));
        let temporary = self.site.path(&format!("{name}-temporary"));
        fs::create_dir(&temporary)?;
        let mut command = self.command(at, &socket);
        command.args(words).env("TMPDIR", &temporary);
        let mut process = Process::start(name, command, &log)?;
        let told = wait::until("a mount", STEP_TIME_MAX, async || {
            if let Some(ended) = process.poll()? {
                anyhow::bail!("{name} ended: {ended}");
            }
            let printed = fs::read_to_string(&log)?;
            let mut lines = printed
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            Ok(lines.find(|line: &Value| line["uri"].is_string()))
        });
        Ok(Mounted {
            told: told.await?,
            process,
            socket,
            log,
            temporary,
        })
    }

    async fn restored(&self, at: &str, output: &str) -> Result<PathBuf> {
        let place = self.site.place();
        let restored = self.site.restore(&place, self.disk, at, output).await?;
        Ok(restored.path)
    }

    /// Names and bytes of everything in the vault.
    fn objects(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let (mut found, mut left) = (BTreeMap::new(), vec![self.site.vault()]);
        while let Some(path) = left.pop() {
            if path.is_dir() {
                for entry in fs::read_dir(path)? {
                    left.push(entry?.path());
                }
            } else {
                found.insert(path.clone(), fs::read(path)?);
            }
        }
        Ok(found)
    }
}

impl Mounted {
    fn uri(&self) -> Result<&str> {
        self.told["uri"].as_str().context("it says where it is")
    }

    /// Copies all of it with a client of others.
    async fn copied(&self, site: &Site, output: &str) -> Result<PathBuf> {
        let output = site.image(output);
        let path = output.to_str().context("text")?;
        tool::run("nbdcopy", [self.uri()?, path]).await?;
        Ok(output)
    }

    /// Ends it, and sees that nothing of it stays.
    async fn end(mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        let ended = self.process.ended(STEP_TIME_MAX).await?;
        ensure!(
            ended.success(),
            "{ended}: {}",
            fs::read_to_string(&self.log)?
        );
        ensure!(!self.socket.exists(), "its socket stays");
        let left = fs::read_dir(&self.temporary)?.count();
        ensure!(left == 0, "{left} files stay");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_read_mounted_points_as_they_restore() -> Result<()> {
    let (world, middle, newest) = World::lived("mount-points").await?;
    let mut random = StdRng::seed_from_u64(5);
    // Inside requests there are no points.
    let between = loop {
        let at = format!("seq:{}", random.random_range(middle + 1..newest));
        if let Ok(image) = world.restored(&at, "probe.raw").await {
            fs::remove_file(image)?;
            break at;
        }
    };
    for (index, at) in ["middle", &between, "latest"].into_iter().enumerate() {
        let image = world.restored(at, &format!("{index}.raw")).await?;
        let mounted = world.mount(&format!("mount-{index}"), at, &[]).await?;
        let told = &mounted.told;
        ensure!(
            told["disk"] == world.disk.to_string() && told["writable"] == false,
            "{told}"
        );
        let words = ["compare", "-f", "raw", "-F", "raw"].map(Into::into);
        let images = [PathBuf::from(mounted.uri()?), image.clone()];
        tool::run("qemu-img", words.into_iter().chain(images)).await?;
        let copied = mounted
            .copied(&world.site, &format!("{index}-copied.raw"))
            .await?;
        ImageDigest::of(&image)?.expect_same(&ImageDigest::of(&copied)?, at)?;
        let info = tool::run("nbdinfo", ["--json", mounted.uri()?]).await?;
        let info: Value = serde_json::from_str(&info)?;
        let export = &info["exports"][0];
        let size = export["export-size"].as_u64();
        ensure!(
            export["is_read_only"] == true && size == Some(DISK_LEN),
            "{info}"
        );
        mounted.end([Signal::TERM, Signal::INT][index % 2]).await?;
    }
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writable_mount_takes_writes_that_never_reach_the_vault() -> Result<()> {
    let world = World::golden("mount-writable").await?;
    let before = world.objects()?;
    let image = world.restored("latest", "restored.raw").await?;
    let mounted = world.mount("mount", "latest", &["--writable"]).await?;
    ensure!(mounted.told["writable"] == true, "{}", mounted.told);
    let commands = [
        "write -P 0x5a 64k 128k",
        "write -P 0x33 100k 512",
        "write -z 1M 64k",
        "discard 2M 512k",
        "flush",
        "read -P 0x5a 101k 64k",
        "read -P 0 1M 64k",
    ];
    let words = commands.iter().flat_map(|&command| ["-c", command]);
    let words = ["-f", "raw"]
        .into_iter()
        .chain(words)
        .chain([mounted.uri()?]);
    let said = tool::run("qemu-io", words).await?;
    ensure!(!said.contains("verification failed"), "{said}");
    let mut expected = fs::read(&image)?;
    ensure!(expected.len() as u64 == world.disk_len && 3 << 20 < expected.len());
    expected[64 << 10..192 << 10].fill(0x5a);
    expected[100 << 10..(100 << 10) + 512].fill(0x33);
    expected[1 << 20..(1 << 20) + (64 << 10)].fill(0);
    expected[2 << 20..(2 << 20) + (512 << 10)].fill(0);
    // A second client, and a third, see what the first wrote.
    for output in ["copied.raw", "again.raw"] {
        let copied = mounted.copied(&world.site, output).await?;
        ensure!(
            fs::read(copied)? == expected,
            "{output} is not what was written"
        );
    }
    mounted.end(Signal::INT).await?;
    ensure!(world.objects()? == before, "the vault is not as it was");
    let again = world.restored("latest", "again-restored.raw").await?;
    ensure!(fs::read(again)? == fs::read(image)?);
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_goes_on_where_frames_are_damaged_and_names_them() -> Result<()> {
    let world = World::golden("mount-damage").await?;
    let sound = world.objects()?;
    let mounted = world
        .mount("mount", "latest", &["--memory", "64MiB"])
        .await?;
    for journal in fs::read_dir(world.site.vault().join("v1/journal"))? {
        let object = journal?.path().join(format!("{:020}", 1));
        let mut bytes = fs::read(&object)?;
        // Frames come first, and indexes behind them.
        let frames = bytes.len() / 2;
        bytes[128..frames]
            .iter_mut()
            .step_by(64)
            .for_each(|byte| *byte ^= 1);
        fs::write(&object, bytes)?;
    }
    let refused = mounted.copied(&world.site, "damaged.raw").await;
    ensure!(refused.is_err(), "damaged frames were served");
    let log = fs::read_to_string(&mounted.log)?;
    for said in [
        "\"disk\"",
        "\"extent\"",
        "v1/journal/",
        "the point cannot be read here",
    ] {
        ensure!(log.contains(said), "{said} is not said: {log}");
    }
    for (path, bytes) in sound {
        fs::write(path, bytes)?;
    }
    let copied = mounted.copied(&world.site, "copied.raw").await?;
    let image = world.restored("latest", "restored.raw").await?;
    ensure!(fs::read(copied)? == fs::read(image)?, "it does not heal");
    mounted.end(Signal::TERM).await?;
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mounted_is_said_with_its_fix() -> Result<()> {
    let world = World::golden("mount-refused").await?;
    let mounted = world.mount("mount", "latest", &[]).await?;
    let other = world.site.socket("other");
    let directory = world.site.path("is-there");
    fs::create_dir(&directory)?;
    let nowhere = directory.join("not-there");
    let nowhere = nowhere.to_str().context("text")?;
    for (socket, at, words, code, says) in [
        (
            &mounted.socket,
            "latest",
            &[][..],
            2,
            "name another --socket",
        ),
        (&directory, "latest", &[], 2, "name another --socket"),
        (&other, "no such name", &[], 2, "point list"),
        (&other, "latest", &["--memory", "1MiB"], 2, "--memory"),
        (&other, "latest", &["--keep-overlay"], 2, "--overlay"),
        (&other, "latest", &["--overlay", nowhere], 2, "--writable"),
        (
            &other,
            "latest",
            &["--writable", "--overlay", nowhere],
            2,
            "name a directory",
        ),
    ] {
        let mut command = world.command(at, socket);
        command.args(words);
        let ended = everpoint_tests::rigs::child::finish(command, STEP_TIME_MAX).await?;
        ensure!(
            ended.status.code() == Some(code),
            "{at} {words:?}: {ended:?}"
        );
        ensure!(
            ended.stdout.is_empty() && ended.stderr.contains(says),
            "{says}: {ended:?}"
        );
        ensure!(!other.exists(), "a socket stays");
    }
    mounted.end(Signal::TERM).await?;
    world.site.passed();
    Ok(())
}
