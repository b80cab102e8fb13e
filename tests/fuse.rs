//! Points that are shown as files: what everybody's tools do with a file, they do with them, and no trace stays in the
//! vault.
//!
//! All of it needs root.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_fuse::{Errno, FileInfo, FixedFile, FuseConfig, Run};
use everpoint_tests::rigs::child::{Process, finish};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::mount::{LoopDevice, Mount};
use everpoint_tests::rigs::site::{AgentSpec, Home, ServerSpec, Site};
use everpoint_tests::rigs::{golden, tool, wait};
use everpoint_units::{ByteLen, DiskId, Extent};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::watch;
use xtask::image::{self, ImageSpec};

/// Unit: MiB.
const DISK_MIB: u64 = 64;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Somebody without rights.
const USER: u32 = 65_534;
/// Shows a point as a user, in a /dev of its own whose /dev/fuse has the mode $1: as the user $2, in $3, to be
/// compared with $4; the rest is the command.
const USER_SCRIPT: &str = r#"
set -e
mount -t tmpfs none /dev
mknod -m "$1" /dev/fuse c 10 229
mknod -m 666 /dev/null c 1 3
user=$2
shift 2
exec setpriv --reuid "$user" --regid "$user" --clear-groups sh -c '
directory=$1 image=$2
shift 2
"$@" &
while kill -0 $! 2>/dev/null && ! [ "$(ls "$directory")" ]; do sleep 0.05; done
cmp "$directory"/* "$image" && echo served
kill $! 2>/dev/null
wait $!
' sh "$@"
"#;

/// A vault that nobody writes to, and one of its disks.
struct World {
    site: Site,
    disk: DiskId,
}

/// A point that is shown.
struct Shown {
    process: Process,
    told: Value,
    directory: PathBuf,
    log: PathBuf,
}

impl World {
    /// The golden vault, which an older version left behind.
    async fn golden(name: &str) -> Result<Self> {
        let site = Site::on(name, Home::Directory).await?;
        golden::copy(&golden::folder().join("vault"), &site.vault(), &|_| true)?;
        let disk = golden::expected()?.disks[0].id.parse()?;
        Ok(Self { site, disk })
    }

    /// A disk with an ext4 filesystem.
    async fn filesystem(name: &str) -> Result<Self> {
        let site = Site::on(name, Home::Directory).await?;
        let mut spec = ImageSpec::new(site.image("source.raw"), DISK_MIB);
        let shares = image::Share::from_thousandths(0).zip(image::Share::from_thousandths(300));
        (spec.other, spec.fill) = shares.context("shares of one")?;
        let source = spec.out.clone();
        tokio::task::spawn_blocking(move || image::make(&spec)).await??;
        let spec = ServerSpec::new("server", site.place());
        let (mut server, mut agent) = site.protect(spec, AgentSpec::new(source)).await?;
        agent.until_settled(&server, STEP_TIME_MAX).await?;
        ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
        let disk = agent.disk;
        Ok(Self { site, disk })
    }

    /// The command, without the program.
    fn words(&self, directory: &Path, words: &[&str]) -> Result<Vec<String>> {
        let directory = directory.to_str().context("text")?;
        let (disk, url) = (self.disk.to_string(), self.site.place().url);
        let always = ["mount", "--json", "--disk", &disk, "--at", "latest"];
        let place = ["--vault", &url, "--fuse", directory];
        let all = always.iter().chain(&place).chain(words);
        Ok(all.map(ToString::to_string).collect())
    }

    fn command(&self, directory: &Path, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(xtask::built::program("everpoint"));
        command.args(self.words(directory, words)?);
        Ok(command)
    }

    /// Shows the newest point, and waits until it says that it can be used.
    async fn show(&self, name: &str, words: &[&str]) -> Result<Shown> {
        let (directory, log) = (self.site.path(name), self.site.log(name));
        fs::create_dir(&directory)?;
        let mut process = Process::start(name, self.command(&directory, words)?, &log)?;
        let told = wait::until("a mount", STEP_TIME_MAX, async || {
            if let Some(ended) = process.poll()? {
                anyhow::bail!("{name} ended: {ended}: {}", fs::read_to_string(&log)?);
            }
            let printed = fs::read_to_string(&log)?;
            let mut lines = printed
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            Ok(lines.find(|line: &Value| line["file"].is_string()))
        });
        let told = told.await?;
        Ok(Shown {
            process,
            told,
            directory,
            log,
        })
    }

    async fn restored(&self, output: &str) -> Result<PathBuf> {
        let place = self.site.place();
        let restored = self
            .site
            .restore(&place, self.disk, "latest", output)
            .await?;
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

impl Shown {
    fn file(&self) -> Result<PathBuf> {
        let file = self.told["file"].as_str().context("it says where it is")?;
        Ok(PathBuf::from(file))
    }

    /// Waits for its end, and sees that nothing of it stays.
    async fn ended(&mut self) -> Result<()> {
        let ended = self.process.ended(STEP_TIME_MAX).await?;
        let log = fs::read_to_string(&self.log)?;
        ensure!(ended.success(), "{ended}: {log}");
        ensure!(!log.contains("Not Implemented"), "{log}");
        let left = fs::read_dir(&self.directory)?.count();
        ensure!(left == 0, "{left} files stay");
        Ok(())
    }

    async fn end(mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        self.ended().await
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if matches!(self.process.poll(), Ok(None)) {
            // A test that failed: nobody is left to answer to.
            let _ = unmount(&self.directory, UnmountFlags::DETACH);
        }
    }
}

/// Runs something that waits for the file, off the threads that others need.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// The runs of a file that are no holes, as the system tells them: start and end.
fn data_of(file: &File) -> Result<Vec<(u64, u64)>> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(found),
            Err(error) => return Err(error.into()),
            Ok(start) => {
                at = seek(file, SeekFrom::Hole(start))?;
                found.push((start, at));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_is_a_file_that_everybody_reads_as_it_restores() -> Result<()> {
    let world = World::filesystem("fuse-read").await?;
    let image = world.restored("restored.raw").await?;
    let shown = world.show("shown", &[]).await?;
    let file = shown.file()?;
    let name = file.file_name().context("a file")?;
    ensure!(name.as_encoded_bytes().ends_with(b".raw"), "{name:?}");
    ensure!(file.parent() == Some(&shown.directory), "{file:?}");
    ensure!(shown.told["uri"].is_null() && shown.told["writable"] == false);
    let metadata = fs::metadata(&file)?;
    ensure!(metadata.mode() == 0o100_400 && metadata.len() == DISK_MIB << 20);
    ensure!(metadata.uid() == 0 && fs::read_dir(&shown.directory)?.count() == 1);

    let words = ["compare", "-f", "raw", "-F", "raw"].map(PathBuf::from);
    let images = [file.clone(), image.clone()];
    tool::run("qemu-img", words.into_iter().chain(images)).await?;
    let copied = world.site.image("copied.raw");
    tool::run("cp", [&file, &copied]).await?;
    ImageDigest::of(&image)?.expect_same(&ImageDigest::of(&copied)?, "cp")?;
    let (len, blocks) = (
        fs::metadata(&copied)?.len(),
        fs::metadata(&copied)?.blocks(),
    );
    ensure!(blocks * 512 < len / 2, "cp saw no holes: {blocks} sectors");

    let (opened, expected) = (File::open(&file)?, fs::read(&image)?);
    let data = apart(move || data_of(&opened)).await?;
    ensure!(!data.is_empty(), "all of it is a hole");
    let mut at = 0;
    for (start, end) in data.into_iter().chain([(len, len)]) {
        let hole = usize::try_from(at)?..usize::try_from(start)?;
        ensure!(
            expected[hole].iter().all(|&byte| byte == 0),
            "{at}: no hole"
        );
        at = end;
    }
    let statfs = rustix::fs::statfs(&file)?;
    ensure!(statfs.f_blocks * u64::try_from(statfs.f_bsize)? == len);

    let refused = OpenOptions::new().write(true).open(&file).map(drop);
    let kind = refused.map_err(|error| error.kind());
    ensure!(kind == Err(ErrorKind::ReadOnlyFilesystem), "{kind:?}");
    tool::run("e2fsck", ["-fn".as_ref(), file.as_os_str()]).await?;
    let device = LoopDevice::attach(&file).await?;
    let mount = Mount::ext4(device.path(), &world.site.path("mounted"), "ro,noload").await?;
    ensure!(1 < fs::read_dir(mount.directory())?.count());
    mount.unmount().await?;
    drop(device);
    shown.end(Signal::TERM).await?;
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writable_file_carries_a_filesystem_and_nothing_reaches_the_vault() -> Result<()> {
    let world = World::filesystem("fuse-write").await?;
    let before = world.objects()?;
    let image = world.restored("restored.raw").await?;
    let shown = world.show("shown", &["--writable"]).await?;
    let file = shown.file()?;
    ensure!(shown.told["writable"] == true && fs::metadata(&file)?.mode() == 0o100_600);
    let written: Vec<u8> = (0..=255).cycle().take((3 << 20) + 77).collect();
    for round in 0..2_u8 {
        let device = LoopDevice::attach(&file).await?;
        let mount = Mount::ext4(device.path(), &world.site.path("mounted"), "rw,discard").await?;
        let paths = ["one", "two"].map(|name| mount.directory().join(name));
        if round == 0 {
            let (paths, written) = (paths.clone(), written.clone());
            apart(move || {
                for path in &paths {
                    let mut file = File::create(path)?;
                    file.write_all(&written)?;
                    file.sync_all()?;
                }
                Ok(fs::remove_file(&paths[1])?)
            })
            .await?;
        } else {
            // Read again from the file: device and filesystem are new.
            ensure!(fs::read(&paths[0])? == written && !paths[1].exists());
        }
        mount.unmount().await?;
        drop(device);
    }
    tool::run("e2fsck", ["-fn".as_ref(), file.as_os_str()]).await?;
    ensure!(fs::read(&file)? != fs::read(&image)?, "nothing was written");
    shown.end(Signal::INT).await?;
    ensure!(world.objects()? == before, "the vault is not as it was");
    let again = world.restored("again.raw").await?;
    ImageDigest::of(&image)?.expect_same(&ImageDigest::of(&again)?, "the point")?;
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bytes_may_be_written_zeroed_and_punched_but_none_added() -> Result<()> {
    let world = World::golden("fuse-bytes").await?;
    let mut expected = fs::read(world.restored("restored.raw").await?)?;
    let shown = world.show("shown", &["--writable"]).await?;
    let file = shown.file()?;
    let len = expected.len() as u64;
    let path = file.clone();
    let found = apart(move || {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        for (at, write) in [(7, 3_usize), (511, 2), (70_000, 200_001), (1 << 20, 4_096)] {
            file.write_all_at(&vec![0x5a; write], at)?;
            expected[usize::try_from(at)?..][..write].fill(0x5a);
        }
        let keep = FallocateFlags::KEEP_SIZE;
        for (mode, at, zero) in [
            (FallocateFlags::PUNCH_HOLE | keep, 80_000, 99_999),
            (FallocateFlags::ZERO_RANGE, (1 << 20) + 5, 1_000),
            (FallocateFlags::ZERO_RANGE | keep, (2 << 20) - 1, 70_002),
        ] {
            fallocate(&file, mode, at, zero)?;
            expected[usize::try_from(at)?..][..usize::try_from(zero)?].fill(0);
        }
        file.sync_all()?;
        let refused = [
            file.set_len(len + 512).is_err(),
            file.set_len(0).is_err(),
            fallocate(&file, FallocateFlags::ZERO_RANGE, len, 512).is_err(),
            fallocate(&file, FallocateFlags::empty(), 0, 512).is_err(),
            file.write_all_at(b"behind", len).is_err(),
            fs::remove_file(&path).is_err(),
            File::create(path.with_file_name("other")).is_err(),
        ];
        ensure!(refused == [true; 7], "{refused:?}");
        file.set_len(len)?;
        let mut found = Vec::new();
        File::open(&path)?.read_to_end(&mut found)?;
        ensure!(found == expected, "it does not read as it was written");
        Ok(found)
    })
    .await?;
    // Past the kernel's memory, in requests of other lengths.
    let copied = world.site.image("copied.raw");
    let from = format!("if={}", file.display());
    let to = format!("of={}", copied.display());
    let words = [
        from.as_str(),
        to.as_str(),
        "bs=12k",
        "iflag=direct",
        "status=none",
    ];
    tool::run("dd", words).await?;
    ensure!(fs::read(copied)? == found, "read directly it is another");
    shown.end(Signal::TERM).await?;
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_unmounts_it_ends_it_and_nothing_below_is_unmounted() -> Result<()> {
    let world = World::golden("fuse-unmount").await?;
    for (name, program, word) in [
        ("first", "umount", None),
        ("second", "fusermount3", Some("-u")),
    ] {
        // An empty filesystem is mounted there already. It must stay.
        let below = Mount::memory(&world.site.path("below"), 1 << 20).await?;
        let directory = below.directory().to_path_buf();
        let log = world.site.log(name);
        let process = Process::start(name, world.command(&directory, &[])?, &log)?;
        let mut shown = Shown {
            process,
            told: Value::Null,
            directory: directory.clone(),
            log,
        };
        wait::until("the file", STEP_TIME_MAX, async || {
            ensure!(shown.process.poll()?.is_none(), "{name} ended");
            Ok((fs::read_dir(&directory)?.count() == 1).then_some(()))
        })
        .await?;
        let words = word.map(PathBuf::from).into_iter();
        tool::run(program, words.chain([directory.clone()])).await?;
        shown.ended().await?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let directory = directory.to_str().context("text")?;
        let left = mounts.lines().filter(|line| line.contains(directory));
        let left: Vec<_> = left.collect();
        ensure!(left.len() == 1 && left[0].contains("tmpfs"), "{left:?}");
        below.unmount().await?;
    }
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_also_while_somebody_has_it_open() -> Result<()> {
    let world = World::golden("fuse-busy").await?;
    let shown = world.show("shown", &[]).await?;
    let opened = File::open(shown.file()?)?;
    shown.end(Signal::TERM).await?;
    let read = apart(move || Ok(opened.read_at(&mut [0; 512], 1 << 20))).await?;
    ensure!(read.is_err(), "it is served still");
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_not_root_needs_the_device_and_fusermount3() -> Result<()> {
    let world = World::golden("fuse-user").await?;
    let image = world.restored("restored.raw").await?;
    // Where nobody else's rights keep the user from it.
    let open = tempfile::tempdir()?;
    let [directory, program, copy] =
        ["shown", "everpoint", "image.raw"].map(|name| open.path().join(name));
    fs::create_dir(&directory)?;
    std::os::unix::fs::chown(&directory, Some(USER), Some(USER))?;
    fs::copy(xtask::built::program("everpoint"), &program)?;
    fs::copy(image, &copy)?;
    let vault = open.path().join("vault");
    golden::copy(&world.site.vault(), &vault, &|_| true)?;
    let words = ["-R", "a+rX"].map(PathBuf::from).into_iter();
    tool::run("chmod", words.chain([open.path().to_path_buf()])).await?;
    let url = world.site.place().url;
    let words = world.words(&directory, &[])?.into_iter();
    let words: Vec<_> = words
        .map(|word| word.replace(&url, &format!("file://{}", vault.display())))
        .collect();
    for (mode, code, says) in [
        ("600", 4, "let this user read and write"),
        ("666", 0, "served"),
    ] {
        let mut command = tool::tool("unshare")?;
        command.args(["--mount", "sh", "-c", USER_SCRIPT, "sh", mode]);
        command.arg(USER.to_string()).arg(&directory).arg(&copy);
        command.arg(&program).args(&words);
        let ended = finish(command, STEP_TIME_MAX).await?;
        ensure!(ended.status.code() == Some(code), "{mode}: {ended:?}");
        let said = ended.stdout + &ended.stderr;
        ensure!(said.contains(says), "{mode}: {said}");
    }
    world.site.passed();
    Ok(())
}

/// A file whose first MiB comes when it is let, as from a vault far away.
struct FarAway {
    is_here: watch::Receiver<bool>,
    asked: watch::Sender<bool>,
}

impl FixedFile for FarAway {
    fn describe(&self) -> FileInfo {
        FileInfo {
            name: "far".into(),
            size: ByteLen(8 << 20),
            allocated: ByteLen(8 << 20),
            writable: true,
            modified: UNIX_EPOCH,
        }
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, Errno> {
        if extent.start().byte_offset().0 < 1 << 20 {
            self.asked.send_replace(true);
            let mut is_here = self.is_here.clone();
            is_here
                .wait_for(|here| *here)
                .await
                .map_err(|_| Errno::IO)?;
        }
        let len = usize::try_from(extent.byte_len().0).map_err(|_| Errno::INVAL)?;
        Ok(vec![7; len].into())
    }

    async fn write(&self, _extent: Extent, _data: Bytes) -> Result<(), Errno> {
        Ok(())
    }

    async fn zero(&self, _extent: Extent, _keep: bool) -> Result<(), Errno> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    async fn runs(&self, extent: Extent) -> Result<Vec<Run>, Errno> {
        Ok(vec![Run {
            len: extent.byte_len(),
            is_hole: false,
        }])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waits_keeps_no_other_request_waiting() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (let_it, is_here) = watch::channel(false);
    let (asked, mut is_asked) = watch::channel(false);
    let far = FarAway { is_here, asked };
    let mount = everpoint_fuse::mount(far, directory.path(), &FuseConfig::default())?;
    let path = mount.path();
    let waiting = {
        let path = path.clone();
        tokio::spawn(apart(move || {
            let mut first = [0; 512];
            File::open(path)?.read_exact_at(&mut first, 0)?;
            Ok(first)
        }))
    };
    is_asked.wait_for(|asked| *asked).await?;
    let others = apart(move || {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        ensure!(fs::metadata(&path)?.len() == 8 << 20);
        let mut other = [0; 4_096];
        file.read_exact_at(&mut other, 4 << 20)?;
        file.write_all_at(&[1; 4_096], 6 << 20)?;
        fallocate(&file, FallocateFlags::ZERO_RANGE, 5 << 20, 4_096)?;
        file.sync_all()?;
        ensure!(other == [7; 4_096]);
        data_of(&file)
    });
    let others = tokio::time::timeout(STEP_TIME_MAX, others).await??;
    ensure!(others == [(0, 8 << 20)] && !waiting.is_finished());
    let_it.send_replace(true);
    ensure!(waiting.await?? == [7; 512]);
    mount.end().await?;
    ensure!(fs::read_dir(directory.path())?.count() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_shown_is_said_with_its_fix() -> Result<()> {
    let world = World::golden("fuse-refused").await?;
    let full = world.site.path("full");
    fs::create_dir(&full)?;
    fs::write(full.join("file"), "")?;
    let empty = world.site.path("empty");
    fs::create_dir(&empty)?;
    let socket = world.site.socket("socket");
    let socket = socket.to_str().context("text")?;
    for (directory, words, code, says) in [
        (world.site.path("nowhere"), &[][..], 2, "mkdir -p"),
        (full.clone(), &[], 2, "name an empty directory"),
        (full.join("file"), &[], 2, "name an empty directory"),
        (empty.clone(), &["--socket", socket], 2, "--socket"),
        (empty.clone(), &["--overlay", "/tmp"], 2, "--writable"),
    ] {
        let ended = finish(world.command(&directory, words)?, STEP_TIME_MAX).await?;
        ensure!(ended.status.code() == Some(code), "{says}: {ended:?}");
        ensure!(
            ended.stdout.is_empty() && ended.stderr.contains(says),
            "{says}: {ended:?}"
        );
    }
    // A machine without the device.
    let mut command = tool::tool("unshare")?;
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(xtask::built::program("everpoint"));
    command.args(world.words(&empty, &[])?);
    let ended = finish(command, STEP_TIME_MAX).await?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(ended.stderr.contains("modprobe fuse"), "{ended:?}");
    ensure!(fs::read_dir(&empty)?.count() == 0);
    world.site.passed();
    Ok(())
}
