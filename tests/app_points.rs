//! Points at which applications hold still: filesystems that are frozen for them, under load and with kills inside the
//! freeze; scripts; points by the clock.
//!
//! Who watches is the writer, in this process: however anybody else ends, its writes go on by the deadline.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::child::Finished;
use everpoint_tests::rigs::mount::{Fuse, LoopDevice, Mount};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Server, ServerSpec, Site};
use everpoint_tests::rigs::writer::Writer;
use everpoint_tests::rigs::{is_soak, tool, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const DISK_LEN: u64 = 192 << 20;
const FILE_LEN: u64 = 64 << 20;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// How many points are restored and mounted.
const POINTS: usize = 10;
/// Points that may fail because the machine that tests is busy: they say so, and are made again.
const FAILURES_MAX: usize = 10;
/// For how long a point may hold writes. Unit: milliseconds.
const DEADLINE_MS: u64 = 300;
/// What a busy machine adds until a process that is woken runs.
const SLACK: Duration = Duration::from_millis(200);
/// What writing back adds where the disk is busy too.
const DISK_SLACK: Duration = Duration::from_secs(1);
/// Of the rounds, so many at least, one in this number, must have killed inside a freeze.
const FROZEN_PART: usize = 3;
/// A write that is held so long is held by a freeze, in all likelihood.
const HELD_MIN: Duration = Duration::from_millis(2);

/// Rounds of kills for each victim.
fn rounds() -> usize {
    if is_soak() { 50 } else { 5 }
}

/// A filesystem on a disk of its own, which no agent serves. The order of fields is that of taking it down.
struct Apart {
    mount: Mount,
    _device: LoopDevice,
}

impl Apart {
    async fn make(site: &Site) -> Result<Self> {
        let image = site.empty_image("apart.raw", DISK_LEN)?;
        format(&image).await?;
        let device = LoopDevice::attach(&image).await?;
        let mount = Mount::ext4(device.path(), &site.path("mounted"), "rw").await?;
        Ok(Self {
            mount,
            _device: device,
        })
    }
}

async fn format(image: &Path) -> Result<()> {
    let words = ["-q", "-F", "-t", "ext4"].map(std::ffi::OsStr::new);
    tool::run("mkfs.ext4", words.into_iter().chain([image.as_os_str()])).await?;
    Ok(())
}

fn app_points(filesystem: &Path, more: &str) -> String {
    let filesystem = filesystem.display();
    format!(
        "[agent.app_points]\nfilesystems = [\"{filesystem}\"]\ndeadline_ms = {DEADLINE_MS}\n{more}"
    )
}

async fn protect(site: &Site, source: PathBuf, more: String) -> Result<(Server, Agent)> {
    let server = ServerSpec::new("server", site.place());
    let agent = AgentSpec {
        more,
        ..AgentSpec::new(source)
    };
    site.protect(server, agent).await
}

/// Asks for a point, whatever comes of it.
async fn create(site: &Site, agent: &Agent, name: &str) -> Result<Finished> {
    let words = [
        "point",
        "create",
        "--json",
        "--app",
        "--wait",
        "60",
        "--name",
        name,
        "--control",
    ];
    site.everpoint(words, &[&agent.node.control]).await
}

async fn points(site: &Site, agent: &Agent) -> Result<Vec<Value>> {
    let disk = agent.disk.to_string();
    let words = ["point", "list", "--json", "--disk", &disk];
    let listed = site.ask_vault(&site.place(), &words, &[]).await?;
    let listed: Value = serde_json::from_str(&listed.succeeded("point list")?)?;
    Ok(listed["bookmarks"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_point_under_load_mounts_without_a_journal_to_replay() -> Result<()> {
    let site = Site::new("app-points").await?;
    let source = site.empty_image("source.raw", DISK_LEN)?;
    format(&source).await?;
    let mounted = site.path("mounted");
    let (mut server, mut agent) = protect(&site, source, app_points(&mounted, "")).await?;
    let uri = agent.address.to_string();
    let fuse = Fuse::mount(&uri, &site.path("fuse"), &site.log("nbdfuse")).await?;
    let device = LoopDevice::attach(fuse.file()).await?;
    let mount = Mount::ext4(device.path(), &mounted, "rw").await?;
    let writer = Writer::start(&mounted.join("load"), FILE_LEN, 1)?;

    let (mut held, mut failures) = (Vec::new(), 0);
    while held.len() < POINTS {
        writer.take_longest();
        let name = format!("app {}", held.len());
        let made = create(&site, &agent, &name).await?;
        let watched = writer.take_longest();
        if !made.status.success() {
            println!(
                "{name}: a write took {watched:?} at most; {}",
                made.stderr.trim()
            );
            failures += 1;
            ensure!(failures <= FAILURES_MAX, "too many points were not made");
            continue;
        }
        let told: Value = serde_json::from_str(&made.stdout)?;
        ensure!(
            told["class"] == "app" && told["committed"] == true,
            "{told}"
        );
        let held_us = told["held_us"].as_u64().context("writes were held")?;
        println!("{name}: held for {held_us} us, a write took {watched:?} at most");
        held.push(held_us);
    }
    let writes = writer.stop()?;
    mount.unmount().await?;
    drop(device);
    fuse.unmount().await?;
    held.sort_unstable();
    let longest = held.last().copied().unwrap_or_default();
    println!("{writes} writes; {POINTS} points, {failures} more not made; held {held:?} us");
    ensure!(longest <= DEADLINE_MS * 1_000, "held for {longest} us");

    for index in 0..POINTS {
        let name = format!("app {index}");
        let restored = site
            .restore(site.place(), agent.disk, &name, "restored.raw")
            .await?;
        let image = restored.path;
        let told = tool::run("dumpe2fs", ["-h".as_ref(), image.as_os_str()]).await?;
        ensure!(
            !told.contains("needs_recovery"),
            "{name} has a journal to replay"
        );
        tool::run("e2fsck", ["-f".as_ref(), "-n".as_ref(), image.as_os_str()]).await?;
        let device = LoopDevice::attach(&image).await?;
        let mount = Mount::ext4(device.path(), &site.path("examined"), "ro").await?;
        ensure!(fs::metadata(mount.directory().join("load"))?.len() == FILE_LEN);
        mount.unmount().await?;
        drop(device);
        fs::remove_file(image)?;
    }
    let newest = site
        .restore(site.place(), agent.disk, "latest-app", "newest.raw")
        .await?;
    let last = points(&site, &agent).await?;
    ensure!(
        last.iter()
            .any(|point| point["seq"] == newest.seq && point["class"] == "app")
    );
    ensure!(agent.node.stop().await?.success());
    ensure!(server.node.stop().await?.success());
    site.passed();
    Ok(())
}

/// A freezer that this test started, and asks as an agent does.
struct Freezer {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    /// Its pipes end.
    Agent,
    Freezer,
    Guard,
    /// It lives on and does nothing more.
    StoppedFreezer,
    /// Nobody: the thaw is never asked for.
    Nobody,
}

impl Freezer {
    fn start(filesystem: &Path) -> Result<Self> {
        let mut child = Command::new(xtask::built::program("everpoint"))
            .arg("freezer")
            .arg("--filesystem")
            .arg(filesystem)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take();
        let from = child.stdout.take().context("it was asked for")?;
        let mut freezer = Self {
            child,
            to,
            from: BufReader::new(from).lines(),
        };
        ensure!(freezer.hear()? == "ready");
        Ok(freezer)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let to = self.to.as_mut().context("it is open")?;
        Ok(writeln!(to, "{line}")?)
    }

    fn hear(&mut self) -> Result<String> {
        Ok(self.from.next().context("the freezer ended")??)
    }

    /// Freezes; false where the machine is too busy for it, which is said.
    fn freeze(&mut self) -> Result<bool> {
        self.say(&format!("freeze {}", DEADLINE_MS * 1_000))?;
        let said = self.hear()?;
        let is_busy = said == "late" || said.starts_with("failed busy ");
        ensure!(said == "frozen" || is_busy, "{said}");
        Ok(!is_busy)
    }

    fn guard(&self) -> Result<u32> {
        let guards = children(self.child.id())?;
        guards.first().copied().context("a freezer has a guard")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes that a process has started.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task"))? {
        // A thread may end meanwhile.
        let Ok(listed) = fs::read_to_string(task?.path().join("children")) else {
            continue;
        };
        found.extend(
            listed
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    Ok(found)
}

fn signal(id: u32, signal: Signal) -> Result<()> {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    Ok(kill_process(id.context("an id")?, signal)?)
}

/// Whether a guard is armed: only then it has the filesystem open.
fn is_armed(guard: u32, filesystem: &Path) -> Result<bool> {
    for open in fs::read_dir(format!("/proc/{guard}/fd"))? {
        // One may be closed meanwhile.
        if fs::read_link(open?.path()).is_ok_and(|path| path == filesystem) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until a write is held while this guard is armed; false when `is_over` before.
fn until_frozen(
    writer: &Writer,
    guard: u32,
    filesystem: &Path,
    is_over: impl Fn() -> bool,
) -> Result<bool> {
    while !is_over() {
        if HELD_MIN <= writer.held() && is_armed(guard, filesystem)? {
            return Ok(true);
        }
        std::thread::yield_now();
    }
    Ok(false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_inside_a_freeze_writes_go_on_by_the_deadline() -> Result<()> {
    let site = Site::new("freeze-kills").await?;
    let apart = Apart::make(&site).await?;
    let directory = fs::canonicalize(apart.mount.directory())?;
    let writer = Writer::start(&directory.join("load"), FILE_LEN, 2)?;
    let mut longest = Vec::new();
    for victim in [
        Victim::Agent,
        Victim::Freezer,
        Victim::Guard,
        Victim::StoppedFreezer,
        Victim::Nobody,
    ] {
        let (mut made, mut failures) = (0, 0);
        while made < rounds() {
            let mut freezer = Freezer::start(&directory)?;
            let guard = freezer.guard()?;
            let mut is_frozen = freezer.freeze()?;
            if is_frozen {
                writer.take_longest();
                let end = Instant::now() + Duration::from_millis(DEADLINE_MS);
                is_frozen = until_frozen(&writer, guard, &directory, || end <= Instant::now())?;
            }
            if !is_frozen {
                failures += 1;
                ensure!(failures <= FAILURES_MAX, "{victim:?}: too few freezes");
                continue;
            }
            made += 1;
            match victim {
                Victim::Agent => freezer.to = None,
                Victim::Freezer => freezer.child.kill()?,
                Victim::Guard => signal(guard, Signal::KILL)?,
                Victim::StoppedFreezer => signal(freezer.child.id(), Signal::STOP)?,
                Victim::Nobody => {}
            }
            wait::until("writes that go on", STEP_TIME_MAX, async || {
                Ok((writer.held() < HELD_MIN).then_some(()))
            })
            .await?;
            longest.push((writer.take_longest(), victim));
            if victim == Victim::Nobody {
                ensure!(
                    freezer.hear()? == "late",
                    "a thaw that nobody asked for is said"
                );
            }
        }
    }
    ensure!(0 < writer.stop()?);
    longest.sort_by_key(|(held, _)| *held);
    println!(
        "{} freezes; the longest: {:?}",
        longest.len(),
        longest.last()
    );
    let deadline = Duration::from_millis(DEADLINE_MS) + SLACK;
    for (held, victim) in &longest {
        ensure!(*held <= deadline, "{victim:?}: held for {held:?}");
        let by_deadline = matches!(victim, Victim::StoppedFreezer | Victim::Nobody);
        ensure!(
            by_deadline || *held < Duration::from_millis(DEADLINE_MS),
            "{victim:?}: {held:?}"
        );
    }
    site.passed();
    Ok(())
}

/// All of the product is killed at once while an app point is made: the agent, its server, and one of the two that freeze.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_server_and_freezer_die_together_and_writes_go_on() -> Result<()> {
    let site = Site::new("app-kills").await?;
    let apart = Apart::make(&site).await?;
    let source = site.empty_image("source.raw", 16 << 20)?;
    let directory = fs::canonicalize(apart.mount.directory())?;
    let (mut server, mut agent) = protect(&site, source, app_points(&directory, "")).await?;
    let writer = Arc::new(Writer::start(&directory.join("load"), FILE_LEN, 3)?);
    let (mut longest, mut frozen) = (Duration::ZERO, 0);
    for round in 0..rounds() {
        let freezer = children(agent.node.id()?)?;
        let freezer = *freezer.first().context("the agent has a freezer")?;
        let guard = *children(freezer)?.first().context("it has a guard")?;
        let name = format!("round {round}");
        let (agent_id, server_id) = (agent.node.id()?, server.node.id()?);
        // With both that freeze gone it is the agent that thaws.
        let victims = match round % 4 {
            0 => vec![freezer, agent_id, server_id],
            1 => vec![guard, agent_id],
            2 => vec![freezer, guard, server_id],
            _ => vec![agent_id, guard, server_id],
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let killed = victims.clone();
        let killing = tokio::task::spawn_blocking({
            let (writer, directory) = (Arc::clone(&writer), directory.clone());
            let is_over = Arc::clone(&is_over);
            move || -> Result<bool> {
                let is_over = || is_over.load(SeqCst);
                let was_frozen = until_frozen(&writer, guard, &directory, is_over)?;
                for victim in victims {
                    signal(victim, Signal::KILL)?;
                }
                Ok(was_frozen)
            }
        });
        let made = create(&site, &agent, &name).await;
        is_over.store(true, SeqCst);
        frozen += usize::from(killing.await??);
        // What the command line heard is its matter: the point may have been made before, or not at all.
        made?;
        wait::until("writes that go on", STEP_TIME_MAX, async || {
            Ok((writer.held() < HELD_MIN).then_some(()))
        })
        .await?;
        longest = longest.max(writer.take_longest());
        for (id, node) in [(server_id, &mut server.node), (agent_id, &mut agent.node)] {
            if killed.contains(&id) {
                node.wait(STEP_TIME_MAX).await?;
                node.start().await?;
            }
        }
        agent.until_state("protected", STEP_TIME_MAX).await?;
        // And it is as able as before.
        let after = format!("after {round}");
        wait::until("an app point", STEP_TIME_MAX, async || {
            let made = create(&site, &agent, &after).await?;
            Ok(made.status.success().then_some(()))
        })
        .await?;
        longest = longest.max(writer.take_longest());
    }
    let writer = Arc::into_inner(writer).context("nobody else watches any more")?;
    ensure!(0 < writer.stop()?);
    println!(
        "{} rounds, {frozen} of them killed inside a freeze; the longest write took {longest:?}",
        rounds()
    );
    ensure!(
        rounds() <= FROZEN_PART * frozen,
        "only {frozen} freezes were met"
    );
    let deadline = Duration::from_millis(DEADLINE_MS) + DISK_SLACK;
    ensure!(longest <= deadline, "a write was held for {longest:?}");
    ensure!(agent.node.stop().await?.success());
    ensure!(server.node.stop().await?.success());
    site.passed();
    Ok(())
}

fn script(site: &Site, name: &str, text: &str) -> Result<PathBuf> {
    let path = site.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_proof_there_is_no_app_point_and_that_is_said() -> Result<()> {
    let site = Site::new("no-app-point").await?;
    let source = site.empty_image("source.raw", 16 << 20)?;
    let (ready, left) = (site.path("ready"), site.path("left"));
    let pre = script(&site, "pre", &format!("test -e {}", ready.display()))?;
    let post = script(
        &site,
        "post",
        &format!("echo $EVERPOINT_POINT >> {}", left.display()),
    )?;
    let scripts = format!(
        "pre_script = {:?}\npost_script = {:?}\n",
        pre.display().to_string(),
        post.display().to_string()
    );
    let missing = site.path("missing");
    let (mut server, mut agent) = protect(&site, source, app_points(&missing, &scripts)).await?;
    let refused = create(&site, &agent, "unready").await?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(
        refused
            .stderr
            .contains("the script before it did not succeed"),
        "{refused:?}"
    );
    fs::write(&ready, "")?;
    let refused = create(&site, &agent, "nowhere").await?;
    ensure!(refused.stderr.contains("cannot be opened"), "{refused:?}");
    ensure!(refused.stderr.contains("mount it"), "{refused:?}");
    fs::create_dir(&missing)?;
    let refused = create(&site, &agent, "unmounted").await?;
    ensure!(
        refused
            .stderr
            .contains("not the root of a mounted filesystem"),
        "{refused:?}"
    );
    let unfit = Mount::memory(&missing, 1 << 20).await?;
    let refused = create(&site, &agent, "unfit").await?;
    ensure!(refused.stderr.contains("cannot be frozen"), "{refused:?}");
    unfit.unmount().await?;
    ensure!(fs::read_to_string(&left)? == "unready\nnowhere\nunmounted\nunfit\n");
    site.create_point(&agent, "crash").await?;
    let listed = points(&site, &agent).await?;
    ensure!(
        listed.len() == 1 && listed[0]["name"] == "crash",
        "{listed:?}"
    );
    ensure!(agent.node.stop().await?.success());
    ensure!(server.node.stop().await?.success());
    site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_files_would_be_frozen_does_not_start() -> Result<()> {
    let site = Site::new("frozen-agent").await?;
    let apart = Apart::make(&site).await?;
    let source = apart.mount.directory().join("source.raw");
    fs::File::create(&source)?.set_len(8 << 20)?;
    let mut server = site.server(ServerSpec::new("server", site.place())).await?;
    server.node.start().await?;
    let spec = AgentSpec {
        more: app_points(apart.mount.directory(), ""),
        ..AgentSpec::new(source)
    };
    let mut agent = site.agent(spec, &[&server]).await?;
    ensure!(agent.node.start().await.is_err(), "it starts");
    let ended = agent.node.wait(STEP_TIME_MAX).await?;
    ensure!(ended.code() == Some(2), "{ended}");
    let said = agent.node.printed()?;
    ensure!(
        said.contains("the source of a disk") && said.contains("another filesystem"),
        "{said}"
    );
    ensure!(server.node.stop().await?.success());
    site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_by_the_clock_bear_their_class_and_time() -> Result<()> {
    let site = Site::new("clock-points").await?;
    let source = site.empty_image("source.raw", 16 << 20)?;
    let pre = script(&site, "pre", "true")?;
    let more = format!(
        "[agent.points]\ncrash_interval_s = 1\napp_interval_s = 2\n[agent.app_points]\npre_script = {:?}\n",
        pre.display().to_string()
    );
    let (mut server, mut agent) = protect(&site, source, more).await?;
    let listed = wait::until("points of both classes", STEP_TIME_MAX, async || {
        let listed = points(&site, &agent).await?;
        let count = |class: &str| {
            listed
                .iter()
                .filter(|point| point["class"] == class)
                .count()
        };
        Ok((2 <= count("app") && 3 <= count("crash")).then_some(listed))
    })
    .await?;
    let mut names = Vec::new();
    for point in &listed {
        let (name, class) = (point["name"].as_str(), point["class"].as_str());
        let (name, class) = name.zip(class).context("a name and a class")?;
        let time = name
            .strip_prefix(class)
            .and_then(|rest| rest.strip_prefix('-'));
        let time = time.with_context(|| name.to_owned())?;
        let second = time.strip_suffix('Z').and_then(|time| time.get(17..));
        let second: u32 = second.context("to the second")?.parse()?;
        ensure!(class == "crash" || second.is_multiple_of(2), "{name}");
        names.push(name.to_owned());
    }
    names.sort();
    let count = names.len();
    names.dedup();
    ensure!(names.len() == count, "{listed:?}");
    ensure!(agent.node.stop().await?.success());
    ensure!(server.node.stop().await?.success());
    site.passed();
    Ok(())
}
