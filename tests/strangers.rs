//! Strangers' software: tools that know nothing of everpoint write to a protected disk and read what is restored.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::child::Process;
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::mount::{Fuse, LoopDevice, Mount};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Server, ServerSpec, Site};
use everpoint_tests::rigs::{tool, wait};
use rustix::process::Signal;
use serde_json::Value;
use xtask::image::{self, ImageSpec};

/// Unit: MiB.
const DISK_MIB: u64 = 256;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
const BOOKMARKS: usize = 4;
/// How often the write order must be seen to stand still before it counts as that.
const LOOKS: usize = 5;

/// A server, and an agent whose disk is level.
struct World {
    site: Site,
    server: Server,
    agent: Agent,
    source: PathBuf,
}

impl World {
    async fn begin(name: &str, source: impl AsyncFnOnce(&Site) -> Result<PathBuf>) -> Result<Self> {
        let site = Site::new(name).await?;
        let source = source(&site).await?;
        let spec = ServerSpec::new("server", site.place());
        let (server, agent) = site.protect(spec, AgentSpec::new(source.clone())).await?;
        Ok(Self {
            site,
            server,
            agent,
            source,
        })
    }

    fn uri(&self) -> String {
        self.agent.address.to_string()
    }

    /// Restores the newest point and compares it with the source.
    async fn expect_restored(&self, output: &str) -> Result<PathBuf> {
        self.agent
            .until_settled(&self.server, STEP_TIME_MAX)
            .await?;
        let (vault, disk) = (self.site.place(), self.agent.disk);
        let restored = self.site.restore(&vault, disk, "latest", output).await?;
        let source = ImageDigest::of(&self.source)?;
        source.expect_same(&ImageDigest::of(&restored.path)?, output)?;
        Ok(restored.path)
    }

    async fn end(mut self) -> Result<()> {
        ensure!(self.agent.node.stop().await?.success());
        ensure!(self.server.node.stop().await?.success());
        self.site.passed();
        Ok(())
    }
}

/// A qcow2 image that qemu-storage-daemon exports: its socket's URI, and the daemon.
async fn export_qcow2(site: &Site, image: &Path) -> Result<(PathBuf, Process)> {
    let size = format!("{DISK_MIB}M");
    let words = ["create", "-q", "-f", "qcow2"].map(std::ffi::OsStr::new);
    let args = words.into_iter().chain([image.as_os_str(), size.as_ref()]);
    tool::run("qemu-img", args).await?;
    let socket = site.socket("storage-daemon");
    let file = format!("driver=file,node-name=file,filename={}", image.display());
    let server = format!("addr.type=unix,addr.path={}", socket.display());
    let mut daemon = tool::tool("qemu-storage-daemon")?;
    daemon.args(["--blockdev", &file]);
    daemon.args([
        "--blockdev",
        "driver=qcow2,node-name=image,file=file,discard=unmap",
    ]);
    daemon.args(["--nbd-server", &server, "--export"]);
    daemon.arg("type=nbd,id=export,node-name=image,name=image,writable=on");
    let daemon = Process::start(
        "qemu-storage-daemon",
        daemon,
        &site.log("qemu-storage-daemon"),
    )?;
    let uri = format!("nbd+unix:///image?socket={}", socket.display());
    wait::until("the export of a qcow2", STEP_TIME_MAX, async || {
        Ok(tool::run("nbdinfo", ["--size", &uri]).await.ok())
    })
    .await?;
    Ok((PathBuf::from(uri), daemon))
}

/// An ext4 image, `other` thousandths of whose files are others.
async fn image(site: &Site, name: &str, other: u16) -> Result<PathBuf> {
    let mut spec = ImageSpec::new(site.image(name), DISK_MIB);
    let shares = image::Share::from_thousandths(other).zip(image::Share::from_thousandths(500));
    (spec.other, spec.fill) = shares.context("shares of one")?;
    let path = spec.out.clone();
    tokio::task::spawn_blocking(move || image::make(&spec)).await??;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qcow2_behind_qemu_storage_daemon_is_protected_as_its_guest_sees_it() -> Result<()> {
    let qcow2 = std::cell::OnceCell::new();
    let world = World::begin("qcow2", async |site: &Site| {
        let image = site.image("source.qcow2");
        let (uri, daemon) = export_qcow2(site, &image).await?;
        let _ = qcow2.set((image, daemon));
        Ok(uri)
    })
    .await?;
    let (image, mut daemon) = qcow2.into_inner().context("the source was made")?;
    let (site, uri) = (&world.site, world.uri());
    let copied = crate::image(site, "first.raw", 0).await?;
    tool::run(
        "nbdcopy",
        ["--flush".as_ref(), copied.as_os_str(), uri.as_ref()],
    )
    .await?;
    world
        .agent
        .until_settled(&world.server, STEP_TIME_MAX)
        .await?;
    let (vault, disk) = (site.place(), world.agent.disk);
    let restored = site.restore(&vault, disk, "latest", "restored.raw").await?;
    ImageDigest::of(&copied)?
        .expect_same(&ImageDigest::of(&restored.path)?, "what nbdcopy wrote")?;
    // With everybody gone who had it open, qemu's own word: image and restored disk are the same.
    let World {
        site,
        mut server,
        mut agent,
        ..
    } = world;
    ensure!(agent.node.stop().await?.success());
    ensure!(server.node.stop().await?.success());
    daemon.signal(Signal::TERM)?;
    daemon.ended(STEP_TIME_MAX).await?;
    let words = ["compare", "-f", "qcow2", "-F", "raw"].map(std::ffi::OsStr::new);
    let both = [image.as_os_str(), restored.path.as_os_str()];
    tool::run("qemu-img", words.into_iter().chain(both)).await?;
    site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_copied_in_by_nbdcopy_and_qemu_img_come_back_raw_and_as_vhd() -> Result<()> {
    let empty = async |site: &Site| site.empty_image("source.raw", DISK_MIB << 20);
    let world = World::begin("copies", empty).await?;
    let (site, uri) = (&world.site, world.uri());
    let (first, second) = (
        image(site, "first.raw", 0).await?,
        image(site, "second.raw", 300).await?,
    );

    let told: Value = serde_json::from_str(&tool::run("nbdinfo", ["--json", &uri]).await?)?;
    let export = &told["exports"][0];
    ensure!(export["export-size"] == DISK_MIB << 20, "nbdinfo: {told}");
    ensure!(
        export["can_multi_conn"] == true && export["can_trim"] == true,
        "nbdinfo: {told}"
    );
    let told = tool::run("qemu-img", ["info", "--output=json", &uri]).await?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(
        told["virtual-size"] == DISK_MIB << 20,
        "qemu-img info: {told}"
    );

    tool::run("nbdcopy", [first.as_os_str(), uri.as_ref()]).await?;
    let restored = world.expect_restored("nbdcopy.raw").await?;
    ImageDigest::of(&first)?.expect_same(&ImageDigest::of(&restored)?, "what nbdcopy wrote")?;

    let words = ["convert", "-n", "-f", "raw", "-O", "raw"].map(std::ffi::OsStr::new);
    let args = words.into_iter().chain([second.as_os_str(), uri.as_ref()]);
    tool::run("qemu-img", args).await?;
    let restored = world.expect_restored("qemu-img.raw").await?;
    ImageDigest::of(&second)?.expect_same(&ImageDigest::of(&restored)?, "what qemu-img wrote")?;

    let (vault, disk) = (site.place(), world.agent.disk);
    let vhd = site
        .restore_as(&vault, disk, "latest", "restored.vhd", "vhd")
        .await?;
    let words = ["info", "--output=json", "-f", "vpc"].map(std::ffi::OsStr::new);
    let told = tool::run("qemu-img", words.into_iter().chain([vhd.path.as_os_str()])).await?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(
        told["virtual-size"] == DISK_MIB << 20,
        "qemu-img info of the VHD: {told}"
    );
    let words = ["compare", "-f", "vpc", "-F", "raw"].map(std::ffi::OsStr::new);
    let args = words
        .into_iter()
        .chain([vhd.path.as_os_str(), second.as_os_str()]);
    let said = tool::run("qemu-img", args).await?;
    println!(
        "2 images of {DISK_MIB} MiB in and out; the VHD: {}",
        said.trim()
    );
    world.end().await
}

/// What was synced before a bookmark, and the whole disk as it was then.
struct Bookmark {
    name: String,
    disk: ImageDigest,
    files: Vec<(PathBuf, blake3::Hash)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filesystem_in_use_comes_back_as_it_was_at_each_bookmark() -> Result<()> {
    let populated = async |site: &Site| image(site, "source.raw", 0).await;
    let world = World::begin("filesystem", populated).await?;
    let (site, uri) = (&world.site, world.uri());
    let mut fuse = Fuse::mount(&uri, &site.path("fuse"), &site.log("nbdfuse")).await?;
    let device = LoopDevice::attach(fuse.file()).await?;
    let mount = Mount::ext4(device.path(), &site.path("mounted"), "rw").await?;

    let writer = Writer::start(mount.directory());
    let mut bookmarks = Vec::new();
    for index in 0..BOOKMARKS {
        writer.until_synced(5 * (index + 1)).await?;
        // Nothing reaches the disk while nbdfuse stands still; the filesystem is in the middle of its work.
        fuse.pause()?;
        let files = writer.synced();
        until_quiet(&world.agent).await?;
        let name = format!("bookmark {index}");
        site.create_point(&world.agent, &name).await?;
        let disk = ImageDigest::of(&world.source)?;
        fuse.resume()?;
        bookmarks.push(Bookmark { name, disk, files });
    }
    writer.stop().await?;
    mount.unmount().await?;
    drop(device);
    fuse.unmount().await?;

    let mut replayed = 0;
    for bookmark in &bookmarks {
        replayed += usize::from(examine(&world, bookmark).await?);
    }
    ensure!(
        0 < replayed,
        "no journal had anything to replay: the bookmarks fell between the work"
    );
    let files = bookmarks.last().map_or(0, |bookmark| bookmark.files.len());
    println!(
        "{BOOKMARKS} bookmarks, {files} files synced before the last, {replayed} journals replayed"
    );
    world.end().await
}

/// Restores a bookmark and compares disk and files; says whether the journal had something to replay.
async fn examine(world: &World, bookmark: &Bookmark) -> Result<bool> {
    let (site, name) = (&world.site, &bookmark.name);
    let restored = site
        .restore(site.place(), world.agent.disk, name, "bookmark.raw")
        .await?;
    bookmark
        .disk
        .expect_same(&ImageDigest::of(&restored.path)?, name)?;
    let copy = site.image("copy.raw");
    fs::rename(&restored.path, &copy)?;
    let told = tool::run("dumpe2fs", ["-h".as_ref(), copy.as_os_str()]).await?;
    let needs_recovery = told.contains("needs_recovery");
    {
        let device = LoopDevice::attach(&copy).await?;
        let mount = Mount::ext4(device.path(), &site.path("examined"), "rw").await?;
        for (path, digest) in &bookmark.files {
            let bytes = fs::read(mount.directory().join(path));
            let bytes = bytes.with_context(|| format!("{name}: {}", path.display()))?;
            ensure!(
                blake3::hash(&bytes) == *digest,
                "{name}: {} is another",
                path.display()
            );
        }
        mount.unmount().await?;
    }
    tool::run("e2fsck", ["-f".as_ref(), "-n".as_ref(), copy.as_os_str()]).await?;
    fs::remove_file(copy)?;
    Ok(needs_recovery)
}

/// Waits until what was in flight has got its place: the write order stands still.
async fn until_quiet(agent: &Agent) -> Result<()> {
    let (mut seq, mut looks) = (agent.status().await?.seq, 0);
    wait::until("a quiet disk", STEP_TIME_MAX, async || {
        let now = agent.status().await?.seq;
        looks = if now == seq { looks + 1 } else { 0 };
        seq = now;
        Ok((LOOKS <= looks).then_some(()))
    })
    .await
}

/// Writes files into a filesystem, syncs most of them, and renames and removes some.
struct Writer {
    synced: Arc<Mutex<Vec<(PathBuf, blake3::Hash)>>>,
    stop: Arc<AtomicBool>,
    writing: tokio::task::JoinHandle<Result<()>>,
}

impl Writer {
    fn start(directory: &Path) -> Self {
        let (synced, stop) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let writing = tokio::task::spawn_blocking({
            let (synced, stop, directory) =
                (Arc::clone(&synced), Arc::clone(&stop), directory.to_owned());
            move || {
                let mut number = 0_u64;
                while !stop.load(Relaxed) {
                    number += 1;
                    write_files(&directory, number, &synced)?;
                }
                Ok(())
            }
        });
        Self {
            synced,
            stop,
            writing,
        }
    }

    /// Files whose sync has returned.
    fn synced(&self) -> Vec<(PathBuf, blake3::Hash)> {
        self.synced.lock().expect("a push does not panic").clone()
    }

    async fn until_synced(&self, count: usize) -> Result<()> {
        wait::until("synced files", STEP_TIME_MAX, async || {
            ensure!(!self.writing.is_finished(), "the writer ended");
            Ok((count <= self.synced().len()).then_some(()))
        })
        .await
    }

    async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        (&mut self.writing).await?
    }
}

impl Drop for Writer {
    /// A test that fails must not leave it writing: the runtime waits for it.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// One file that is synced with its name, and one that is left to the filesystem and then removed.
fn write_files(
    directory: &Path,
    number: u64,
    synced: &Mutex<Vec<(PathBuf, blake3::Hash)>>,
) -> Result<()> {
    let line = format!("file {number} of a guest that is in use\n");
    let len = 1_000 + usize::try_from(number * 7_919 % 200_000)?;
    let bytes: Vec<u8> = line.bytes().cycle().take(len).collect();
    let loose = directory.join("loose");
    fs::write(&loose, &bytes)?;
    let (staged, name) = (
        directory.join("staged"),
        PathBuf::from(format!("synced-{number}")),
    );
    let mut file = File::create(&staged)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&staged, directory.join(&name))?;
    File::open(directory)?.sync_all()?;
    synced
        .lock()
        .expect("a push does not panic")
        .push((name, blake3::hash(&bytes)));
    fs::remove_file(loose)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fio_wrote_verifies_on_the_restored_disk() -> Result<()> {
    let empty = async |site: &Site| site.empty_image("source.raw", DISK_MIB << 20);
    let world = World::begin("fio", empty).await?;
    let job = |engine: &[String], verify_only: bool| {
        let mut args: Vec<String> = [
            "--name=verified",
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--bs_unaligned=0",
            "--iodepth=16",
            "--size=96m",
            "--verify=crc32c",
            "--verify_state_save=0",
            "--randseed=4711",
            "--output-format=json",
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend_from_slice(engine);
        if verify_only {
            args.push("--verify_only=1".to_owned());
        }
        args
    };
    let nbd = [
        "--ioengine=nbd".to_owned(),
        format!("--uri={}", world.uri()),
    ];
    let told = tool::run("fio", job(&nbd, false)).await?;
    let written = fio_bytes(&told, "write")?;
    ensure!(90 << 20 <= written, "fio wrote {written}");
    ensure!(
        90 << 20 <= fio_bytes(&told, "read")?,
        "fio did not verify through NBD"
    );

    let restored = world.expect_restored("fio.raw").await?;
    let file = [
        "--ioengine=psync".to_owned(),
        format!("--filename={}", restored.display()),
    ];
    let told = tool::run("fio", job(&file, true)).await?;
    let verified = fio_bytes(&told, "read")?;
    ensure!(
        verified == written,
        "fio wrote {written} and verified {verified} bytes"
    );
    println!(
        "fio wrote {} MiB and verified them through NBD and on the restored disk",
        written >> 20
    );
    world.end().await
}

/// Bytes of one direction in fio's report, whose job ended without an error.
fn fio_bytes(told: &str, direction: &str) -> Result<u64> {
    let report = told.find('{').map_or(told, |begin| &told[begin..]);
    let report: Value = serde_json::from_str(report).with_context(|| told.to_owned())?;
    let job = &report["jobs"][0];
    ensure!(job["error"] == 0, "fio: {job}");
    job[direction]["io_bytes"]
        .as_u64()
        .context("fio's report has bytes")
}
