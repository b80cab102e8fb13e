//! The README's worked example, run by a shell as it stands there.
//!
//! Only what a reader changes is changed: the image, the vault, the port, and the time to go back to. The block is
//! handed to the shell in sections, because a reader too looks at what happens before the next line.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use everpoint_nbd::NbdAddress;
use everpoint_tests::rigs::child::{finish, tail};
use everpoint_tests::rigs::connection::{Connection, Request, Sent};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::{control, tool, wait};
use everpoint_units::ByteOffset;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::Value;

const HEADING: &str = "## A disk image of your own\n";
/// What a reader puts his own in the place of.
const IMAGE: &str = "/path/to/your-disk.img";
const VAULT: &str = "/tmp/everpoint-vault";
const PORT: &str = "7443";
const TIME: &str = "2026-11-22T10:00:00Z";
/// After these lines a reader looks before he goes on.
const PAUSES: [&str; 4] = [
    "everpoint server run",
    "everpoint agent run",
    "everpoint agent status",
    "everpoint point create",
];
/// Unit: bytes.
const DISK_LEN: usize = 24 << 20;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// The shell says this when it has come so far, with a number and a status.
const REACHED: &str = "@@ reached";

/// A shell that is fed section by section. Dropping it ends it, and all that it started.
struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
    sections: usize,
    passed: bool,
}

impl Shell {
    /// A shell in `folder`, in which `cargo build --release` is done already.
    fn start(folder: &Path) -> Result<Self> {
        let log = folder.join("shell.log");
        let output = File::create(&log)?;
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc", "-s"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // So that it can be ended with everything that it started.
            .process_group(0)
            .spawn()
            .context("bash")?;
        let stdin = child.stdin.take();
        let mut shell = Self {
            child,
            stdin,
            log,
            sections: 0,
            passed: false,
        };
        // Aliases as in a shell that a reader types to; an end at the first command that fails.
        shell.feed("set -eo pipefail; shopt -s expand_aliases")?;
        shell.feed("cargo() { [[ \"$*\" == 'build --release' ]]; }")?;
        Ok(shell)
    }

    fn feed(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the shell has an input")?;
        writeln!(stdin, "{text}").with_context(|| format!("the shell is gone before {text:?}"))
    }

    /// Runs a section; every command in it has to succeed.
    async fn run(&mut self, section: &str) -> Result<()> {
        self.sections += 1;
        let mark = format!("{REACHED} {}", self.sections);
        self.feed(section)?;
        self.feed(&format!("echo '{mark}'"))?;
        let what = format!("the end of section {}", self.sections);
        wait::until(&what, STEP_TIME_MAX, async || {
            ensure!(!self.has_ended()?, "the shell ended in:\n{section}");
            let printed = fs::read_to_string(&self.log)?;
            Ok(printed.lines().any(|line| line == mark).then_some(()))
        })
        .await
    }

    /// Whether the shell has ended. It is not reaped here, so that its id stays its own.
    fn has_ended(&self) -> Result<bool> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid()?), look)?.is_some())
    }

    fn pid(&self) -> Result<Pid> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.context("a child has an id")
    }

    /// Stops what runs in the background, and wants it to end in order.
    async fn end_background(&mut self, pid_name: &str) -> Result<()> {
        self.run(&format!("kill -TERM ${pid_name}; wait ${pid_name}"))
            .await
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Not reaped yet, so the group is still its own.
        let killed = self
            .pid()
            .and_then(|pid| Ok(kill_process_group(pid, Signal::KILL)?));
        if let Err(error) = killed {
            eprintln!("the shell's processes cannot be ended: {error:#}");
        }
        if let Err(error) = self.child.wait() {
            eprintln!("the shell cannot be reaped: {error}");
        }
        if !self.passed {
            eprintln!("---- the end of what was printed ----\n{}", tail(&self.log));
        }
    }
}

/// The first shell block below the heading.
fn example(readme: &str) -> Result<&str> {
    let (_, chapter) = readme.split_once(HEADING).context("the chapter is there")?;
    let (_, block) = chapter.split_once("```sh\n").context("it has a block")?;
    let (block, _) = block.split_once("```\n").context("the block ends")?;
    Ok(block)
}

/// The block, cut after each line at which a reader looks.
fn sections(block: &str) -> Vec<String> {
    let mut sections = vec![String::new()];
    for line in block.lines() {
        let section = sections.last_mut().expect("there is always one");
        section.push_str(line);
        section.push('\n');
        if PAUSES.iter().any(|pause| line.starts_with(pause)) {
            sections.push(String::new());
        }
    }
    sections
}

/// Puts a reader's own in the place of what stands in the README.
fn replace(block: &str, what: &str, own: &str) -> Result<String> {
    ensure!(block.contains(what), "{what} does not stand in the README");
    Ok(block.replace(what, own))
}

async fn until_answered(socket: &Path) -> Result<()> {
    wait::until("a control socket", STEP_TIME_MAX, async || {
        let answers = tokio::net::UnixStream::connect(socket).await.is_ok();
        Ok(answers.then_some(()))
    })
    .await
}

async fn write(address: &NbdAddress, at: u64, byte: u8) -> Result<()> {
    let connection = Connection::open(address).await?;
    let data = Bytes::from(vec![byte; 64 << 10]);
    let sent = connection.send(Request::Write(ByteOffset(at), data));
    ensure!(sent.await? == Sent::Done);
    Ok(())
}

/// The time of the newest bookmark, as `point list` shows it.
async fn bookmark_time(vault: &Path, disk: &str) -> Result<String> {
    let mut list = Command::new(xtask::built::program("everpoint"));
    list.args(["point", "list", "--json", "--disk", disk, "--vault"])
        .arg(format!("file://{}", vault.display()));
    let printed = finish(list, STEP_TIME_MAX).await?.succeeded("point list")?;
    let printed: Value = serde_json::from_str(&printed)?;
    let time = printed["bookmarks"][0]["time"].as_str();
    Ok(time.context("a bookmark has a time")?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_with_a_disk_image_of_ones_own_works_as_it_stands() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("readme-").tempdir()?;
    let built = dir.path().join("target/release");
    fs::create_dir_all(&built)?;
    let program = xtask::built::program("everpoint");
    std::os::unix::fs::symlink(&program, built.join("everpoint"))?;
    let (image, vault) = (dir.path().join("image.raw"), dir.path().join("vault"));
    let numbers = (0..=250_u8).cycle().take(DISK_LEN / 4_096);
    let bytes: Vec<u8> = numbers.flat_map(|number| [number; 4_096]).collect();
    fs::write(&image, bytes)?;

    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme)?;
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let block = replace(example(&readme)?, IMAGE, &image.display().to_string())?;
    let block = replace(&block, VAULT, &vault.display().to_string())?;
    let block = replace(&block, PORT, &port.to_string())?;
    let sections = sections(&block);
    let [server, agent, status, point, rest] = &sections[..] else {
        bail!("{} sections instead of 5: {sections:#?}", sections.len());
    };

    let demo = dir.path().join("demo");
    let mut shell = Shell::start(dir.path())?;
    shell.run(&format!("{server}\nserver_pid=$!")).await?;
    until_answered(&demo.join("server.sock")).await?;
    shell.run(&format!("{agent}\nagent_pid=$!")).await?;
    shell.run(status).await?;
    let status = control::agent_status(&demo.join("agent.sock")).await?;
    ensure!(control::only_disk(&status)?.state == "protected");

    let export = NbdAddress::unix(demo.join("nbd.sock"), "system");
    write(&export, 3 << 20, 0xa5).await?;
    shell.run(point).await?;
    let marked = dir.path().join("marked.raw");
    fs::copy(&image, &marked)?;
    write(&export, 3 << 20, 0x5a).await?;

    shell.run("echo \"$disk\" > disk-id").await?;
    let disk = fs::read_to_string(demo.join("disk-id"))?;
    let time = bookmark_time(&vault, disk.trim()).await?;
    shell.run(&replace(rest, TIME, &time)?).await?;
    shell.end_background("agent_pid").await?;
    shell.end_background("server_pid").await?;
    expect_restored(&demo, &marked).await?;
    shell.passed = true;
    Ok(())
}

/// Both images are the disk as it was at the bookmark, and others read them.
async fn expect_restored(demo: &Path, marked: &Path) -> Result<()> {
    let (raw, vhd) = (demo.join("restored.img"), demo.join("restored.vhd"));
    let source = ImageDigest::of(marked)?;
    source.expect_same(&ImageDigest::of(&raw)?, "restored.img")?;
    let info = ["info", "--output=json", "-f", "vpc"].map(Into::into);
    let info = tool::run("qemu-img", info.into_iter().chain([vhd.clone()])).await?;
    let info: Value = serde_json::from_str(&info)?;
    ensure!(
        info["format"] == "vpc" && info["virtual-size"] == DISK_LEN as u64,
        "{info}"
    );
    let compare = ["compare", "-f", "raw", "-F", "vpc"].map(PathBuf::from);
    let images = [marked.to_path_buf(), vhd];
    tool::run("qemu-img", compare.into_iter().chain(images)).await?;
    Ok(())
}

#[test]
fn a_block_is_cut_where_a_reader_looks() {
    let text = "a\neverpoint agent status --config x   # y\nb\n\\\nc\n";
    let expected = ["a\neverpoint agent status --config x   # y\n", "b\n\\\nc\n"];
    assert_eq!(sections(text), expected);
    let readme = format!("no\n```sh\nno\n```\n{HEADING}text\n```sh\nyes\n```\nno\n");
    assert_eq!(example(&readme).unwrap(), "yes\n");
    assert!(replace("a block", "not there", "own").is_err());
}
