//! An agent and a process server as processes, asked, drained and restored from by the command line.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
const DISK: &str = "00112233-4455-6677-8899-aabbccddeeff";
const SIZE: usize = 8 << 20;

fn everpoint(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpoint"));
    command.args(args).output().expect("it starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it, expects success, and reads the one object.
fn json(args: &[&str]) -> Value {
    let output = everpoint(&[args, &["--json"]].concat());
    assert_eq!(code(&output), 0, "{args:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("one object")
}

/// A process that runs until it is told to end, or until the test does.
struct Running {
    child: Child,
    logs: BufReader<ChildStderr>,
}

impl Running {
    fn start(words: &[&str], path: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_everpoint"))
            .args(words)
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let logs = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, logs }
    }

    /// Reads its log up to a message, and returns that line's fields. Every line must be JSON.
    fn wait_for(&mut self, message: &str) -> Value {
        let begun = Instant::now();
        let mut line = String::new();
        while begun.elapsed() < PATIENCE {
            line.clear();
            let len = self.logs.read_line(&mut line).expect("it can be read");
            assert_ne!(len, 0, "it ended before it said {message:?}");
            let said: Value = serde_json::from_str(&line).expect("logs are JSON lines");
            if said["fields"]["message"] == message {
                return said["fields"].clone();
            }
        }
        panic!("it did not say {message:?} in time");
    }

    /// Reads lines up to one that begins so.
    fn wait_for_line(&mut self, start: &str) {
        let begun = Instant::now();
        let mut line = String::new();
        while begun.elapsed() < PATIENCE && !line.starts_with(start) {
            line.clear();
            let len = self.logs.read_line(&mut line).expect("it can be read");
            assert_ne!(len, 0, "it ended before it said {start:?}");
        }
        assert!(line.starts_with(start), "it did not say {start:?} in time");
    }

    /// Sends a signal, and returns its exit code and what it printed.
    fn signal(self, signal: &str) -> (i32, String) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("kill is there");
        assert!(sent.success());
        let (code, stdout, _) = self.end();
        (code, stdout)
    }

    /// Waits until it ends by itself: its exit code, what it printed, and the rest of its log.
    fn end(mut self) -> (i32, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        // Read to the end, so that it never waits for somebody who reads.
        self.logs
            .read_to_string(&mut stderr)
            .expect("it can be read");
        let mut pipe = self.child.stdout.take().expect("piped");
        pipe.read_to_string(&mut stdout).expect("it can be read");
        let status = self.child.wait().expect("it ends");
        (status.code().expect("it was not killed"), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with certificates, a disk and both configurations.
struct Site {
    dir: tempfile::TempDir,
    machine: String,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = dir.path().join("pki");
        let pki = pki.to_str().expect("text");
        json(&["pki", "init", "--dir", pki]);
        let agent = json(&["pki", "issue", "agent", "--ca-dir", pki]);
        let machine = agent["id"].as_str().expect("text").to_owned();
        let disk: Vec<u8> = (0..SIZE)
            .map(|at| u8::try_from(at / 4_096 % 251).expect("small"))
            .collect();
        fs::write(dir.path().join("disk.raw"), disk).expect("written");
        Self { dir, machine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    fn vault(&self) -> String {
        format!("file://{}", self.text("vault"))
    }

    /// Starts a server of this name, with a certificate of its own. Returns it with its address.
    fn start_server(&self, name: &str) -> (Running, String) {
        let dir = self.dir.path().display();
        let pki = self.text("pki");
        let issue = [
            "pki",
            "issue",
            "server",
            "--ca-dir",
            &pki,
            "--name",
            "127.0.0.1",
            "--file",
        ];
        json(&[&issue[..], &[name]].concat());
        let text = format!(
            r#"roles = ["process"]
[process]
state_dir = "{dir}/{name}"
vault = "file://{dir}/vault"
create_vault = true
listen = "127.0.0.1:0"
metrics_listen = "127.0.0.1:0"
control_socket = "{dir}/{name}.sock"
[process.tls]
ca = "{dir}/pki/ca.pem"
cert = "{dir}/pki/{name}.pem"
key = "{dir}/pki/{name}.key"
[process.cache_log]
dir = "{dir}/{name}-log"
quota_bytes = 67108864
file_bytes = 4194304
[process.commit]
interval_ms = 100
"#
        );
        let config = self.path(&format!("{name}.toml"));
        fs::write(&config, text).expect("written");
        let mut server = Running::start(&["server", "run", "--json", "--config"], &config);
        let fields = server.wait_for("the process server runs");
        let address = fields["local_address"].as_str().expect("text").to_owned();
        (server, address)
    }

    fn start_agent(&self, server: &str) -> Running {
        let dir = self.dir.path().display();
        let text = format!(
            r#"[agent]
state_dir = "{dir}/agent"
servers = [{{ address = "{server}" }}]
control_socket = "{dir}/agent.sock"
[agent.tls]
ca = "{dir}/pki/ca.pem"
cert = "{dir}/pki/agent.pem"
key = "{dir}/pki/agent.key"
[agent.nbd]
unix = "{dir}/nbd.sock"
[[agent.disks]]
id = "{DISK}"
name = "data"
source = "{dir}/disk.raw"
"#
        );
        fs::write(self.path("agent.toml"), text).expect("written");
        let config = self.path("agent.toml");
        let mut agent = Running::start(&["agent", "run", "--json", "--config"], &config);
        agent.wait_for("agent started");
        agent
    }

    fn wait_protected(&self) {
        let config = self.text("agent.toml");
        let patience = PATIENCE.as_secs().to_string();
        let status = json(&["agent", "status", "--config", &config, "--wait", &patience]);
        assert_eq!(status["disks"][0]["state"], "protected");
    }
}

#[test]
fn who_waits_for_protection_is_told_when_it_does_not_come() {
    let site = Site::new();
    let socket = site.text("agent.sock");
    let wait = || everpoint(&["agent", "status", "--wait", "1", "--control", &socket]);
    let nobody = wait();
    assert_eq!(code(&nobody), 1, "{}", said(&nobody));
    // A port that nobody listens on.
    let _agent = site.start_agent("127.0.0.1:9");
    let unprotected = wait();
    assert_eq!(code(&unprotected), 5, "{}", said(&unprotected));
    let shown = String::from_utf8_lossy(&unprotected.stdout);
    assert!(shown.contains("disconnected"), "{shown}");
    assert!(said(&unprotected).contains("not every disk is protected"));
}

#[test]
fn a_disk_is_protected_marked_and_restored_by_the_command_line_alone() {
    let site = Site::new();
    let (server, address) = site.start_server("server");
    let agent = site.start_agent(&address);
    site.wait_protected();

    let created = json(&[
        "point",
        "create",
        "--config",
        &site.text("agent.toml"),
        "--name",
        "first\u{1b}",
        "--wait",
        "30",
    ]);
    assert_eq!(created["committed"], true);
    check_status(&site);
    check_attach_and_detach(&site);
    check_priorities(agent.child.id());

    let (agent_code, agent_end) = agent.signal("-TERM");
    let agent_end: Value = serde_json::from_str(&agent_end).expect("one object");
    assert_eq!(agent_code, 0);
    assert_eq!(agent_end["clean"][0], DISK);
    let (server_code, server_end) = server.signal("-INT");
    let server_end: Value = serde_json::from_str(&server_end).expect("one object");
    assert_eq!(
        (server_code, server_end["stopped"].as_str()),
        (0, Some("drained"))
    );

    check_vault(&site, created["seq"].as_u64().expect("a number"));
    check_damage(&site);
}

#[test]
fn a_disk_that_left_for_good_and_came_back_has_points_again() {
    let site = Site::new();
    let (server, address) = site.start_server("server");
    let agent = site.start_agent(&address);
    site.wait_protected();
    let control = site.text("agent.sock");
    let point = |name: &str| {
        let config = site.text("agent.toml");
        let create = ["point", "create", "--config", &config, "--wait", "30"];
        json(&[&create[..], &["--name", name]].concat())
    };
    let before = point("before");
    json(&[
        "agent",
        "detach",
        "--end",
        "--control",
        &control,
        "--disk",
        DISK,
    ]);
    let first = fs::read(site.path("disk.raw")).expect("there");
    let second = vec![7; first.len()];
    fs::write(site.path("disk.raw"), &second).expect("written");
    let source = site.text("disk.raw");
    let attach = ["agent", "attach", "--control", &control, "--disk", DISK];
    json(&[&attach[..], &["--name", "data", "--source", &source]].concat());
    site.wait_protected();
    let after = point("after");
    assert_eq!(after["committed"], true);
    assert_eq!(agent.signal("-TERM").0, 0);
    assert_eq!(server.signal("-TERM").0, 0);

    let vault = site.vault();
    let shown = json(&["disk", "show", "--vault", &vault, "--disk", DISK]);
    let disk = &shown["disks"][0];
    assert_eq!(disk["state"], "level", "{shown}");
    assert_eq!(
        shown["windows"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    let restored = site.text("restored.raw");
    let restore = [
        "restore",
        "--vault",
        &vault,
        "--disk",
        DISK,
        "--output",
        &restored,
        "--overwrite",
        "--at",
    ];
    for (at, point, content) in [("latest", &after, &second), ("before", &before, &first)] {
        let said = json(&[&restore[..], &[at]].concat());
        assert!(point["seq"].as_u64() <= said["seq"].as_u64(), "{said}");
        assert!(fs::read(&restored).expect("restored") == *content, "{at}");
    }
}

/// Both sides say how they are, as text and as JSON.
fn check_status(site: &Site) {
    let status = json(&["server", "status", "--config", &site.text("server.toml")]);
    assert_eq!(status["state"], "running");
    assert_eq!(status["machines"][0]["machine"], site.machine.as_str());
    assert_eq!(status["machines"][0]["disks"][0]["disk"], DISK);
    for words in [["server", "status"], ["agent", "status"]] {
        let socket = site.text(&format!("{}.sock", words[0]));
        let output = everpoint(&[words[0], words[1], "--control", &socket]);
        assert_eq!(code(&output), 0, "{}", said(&output));
        let table = String::from_utf8(output.stdout).expect("text");
        assert!(table.contains(DISK) && table.contains("data"), "{table}");
    }
    // The wrong socket is said so, and the help with it.
    let output = everpoint(&["agent", "status", "--control", &site.text("server.sock")]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    let output = everpoint(&[
        "server",
        "take-over",
        "--control",
        &site.text("agent.sock"),
        "--server",
        DISK,
    ]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("help: "), "{}", said(&output));
    let output = everpoint(&[
        "server",
        "take-over",
        "--control",
        &site.text("server.sock"),
        "--server",
        DISK,
    ]);
    assert_eq!(code(&output), 1);
    assert!(
        said(&output).contains("no open journal"),
        "{}",
        said(&output)
    );
}

/// Guests' threads have the process's own priority, whoever began them, and the background gives way by the default.
fn check_priorities(agent: u32) {
    let nice = |stat: &str| -> i32 {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        fields[17].parse().expect("a number")
    };
    let own = fs::read_to_string(format!("/proc/{agent}/stat")).expect("it runs");
    let own = nice(&own);
    let mut found = [0, 0];
    for thread in fs::read_dir(format!("/proc/{agent}/task")).expect("it runs") {
        let thread = thread.expect("an entry").path();
        // A thread that ended meanwhile has none.
        let Ok(stat) = fs::read_to_string(thread.join("stat")) else {
            continue;
        };
        if stat.contains("(everpoint-guest)") {
            assert_eq!(nice(&stat), own, "{stat}");
            found[0] += 1;
        } else if stat.contains("(everpoint-agent)") {
            assert_eq!(nice(&stat), (own + 5).min(19), "{stat}");
            found[1] += 1;
        }
    }
    assert!(found.iter().all(|count| 2 <= *count), "{found:?}");
}

fn check_attach_and_detach(site: &Site) {
    let source = site.text("second.raw");
    fs::write(&source, vec![0; 1 << 20]).expect("written");
    let socket = site.text("agent.sock");
    let attached = json(&[
        "agent",
        "attach",
        "--control",
        &socket,
        "--name",
        "second",
        "--source",
        &source,
    ]);
    let id = attached["disk"].as_str().expect("text");
    let status = json(&["agent", "status", "--control", &socket]);
    assert_eq!(status["disks"].as_array().expect("a list").len(), 2);
    json(&["agent", "detach", "--control", &socket, "--disk", id]);
    let output = everpoint(&["agent", "detach", "--control", &socket, "--disk", id]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("help: "), "{}", said(&output));
}

/// With both gone, the vault alone lists, restores and passes the check.
fn check_vault(site: &Site, seq: u64) {
    let vault = site.vault();
    let disks = json(&["disk", "list", "--vault", &vault]);
    assert_eq!(disks["disks"][0]["name"], "data");
    let shown = json(&["disk", "show", "--vault", &vault, "--disk", DISK]);
    assert_eq!(shown["disk"], DISK);
    let points = json(&["point", "list", "--vault", &vault, "--disk", DISK]);
    assert_eq!(points["bookmarks"][0]["seq"], seq);
    let output = everpoint(&["point", "list", "--vault", &vault, "--disk", DISK]);
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(
        table.contains("first\\u{1b}") && !table.contains('\u{1b}'),
        "{table}"
    );

    let image = site.text("restored.raw");
    let restore = [
        "restore", "--vault", &vault, "--disk", DISK, "--output", &image, "--at",
    ];
    let restored = json(&[&restore[..], &["first\u{1b}"]].concat());
    assert_eq!(restored["seq"], seq);
    assert!(fs::read(&image).expect("restored") == fs::read(site.path("disk.raw")).expect("there"));
    let output = everpoint(&[&restore[..], &["latest"]].concat());
    assert_eq!(code(&output), 2);
    assert!(said(&output).contains("--overwrite"), "{}", said(&output));
    let output = everpoint(&[&restore[..], &["never", "--overwrite"]].concat());
    assert_eq!(code(&output), 2);
    assert!(
        said(&output).contains("everpoint point list"),
        "{}",
        said(&output)
    );
    json(&[&restore[..], &["latest", "--overwrite"]].concat());

    let (source, config) = (site.text("disk.raw"), site.text("agent.toml"));
    let over = [
        "restore", "--vault", &vault, "--disk", DISK, "--at", "latest", "--output", &source,
    ];
    let over = [&over[..], &["--overwrite", "--agent-config", &config]].concat();
    let output = everpoint(&over);
    assert_eq!(code(&output), 2);
    assert!(
        said(&output).contains("a protected disk"),
        "{}",
        said(&output)
    );

    let dir = site.text("machine");
    json(&[
        "restore",
        "--vault",
        &vault,
        "--machine",
        &site.machine,
        "--at",
        "latest",
        "--output",
        &dir,
    ]);
    let report = json(&["check", "--vault", &vault, "--read-data"]);
    assert_eq!(report["damage_count"], 0);
}

/// A flipped bit in a journal object: the check and the restore say so with exit code 3, and no image
/// appears.
fn check_damage(site: &Site) {
    let journals = site.path("vault/v1/journal");
    let mut objects = Vec::new();
    for journal in fs::read_dir(journals).expect("there") {
        for object in fs::read_dir(journal.expect("read").path()).expect("there") {
            objects.push(object.expect("read").path());
        }
    }
    // The longest holds the disk's data.
    let len = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    let object = objects.into_iter().max_by_key(len).expect("there are some");
    let mut bytes = fs::read(&object).expect("read");
    bytes[5_000] ^= 1;
    fs::write(&object, bytes).expect("written");

    let vault = site.vault();
    let output = everpoint(&["check", "--vault", &vault, "--read-data", "--json"]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_ne!(report["damage_count"], 0);
    let image = site.text("damaged.raw");
    let output = everpoint(&[
        "restore", "--vault", &vault, "--disk", DISK, "--at", "latest", "--output", &image,
    ]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    assert!(!site.path("damaged.raw").exists());
}

#[test]
fn a_quickstart_prints_one_object_that_says_that_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("site");
    let dir = dir.to_str().expect("text");
    let report = json(&[
        "quickstart",
        "--dir",
        dir,
        "--size",
        "32MiB",
        "--seconds",
        "1",
        "--no-attack",
    ]);
    assert_eq!(report["lost_writes"], 0);
    assert_eq!(
        report["prefix_checks"]["tried"],
        report["prefix_checks"]["held"]
    );
    assert!(!Path::new(dir).exists(), "removed at the end");
}

#[test]
fn a_quickstart_that_is_interrupted_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("site");
    let mut quickstart = Running::start(&["quickstart", "--size", "32MiB", "--dir"], &dir);
    quickstart.wait_for_line("bookmark");
    assert!(dir.join("disk.img").exists());
    let (code, stdout) = quickstart.signal("-INT");
    assert_eq!((code, stdout.as_str()), (5, ""));
    assert!(!dir.exists());
}

#[test]
fn a_server_that_was_taken_over_ends_with_the_reason() {
    let site = Site::new();
    let (first, address) = site.start_server("first");
    let (second, _) = site.start_server("second");
    let _agent = site.start_agent(&address);
    site.wait_protected();

    let status = json(&["server", "status", "--control", &site.text("first.sock")]);
    let id = status["server"].as_str().expect("text");
    let control = site.text("second.sock");
    let taken = json(&["server", "take-over", "--control", &control, "--server", id]);
    assert_eq!(taken["journals"][0]["journal"], status["journal"]);

    // What it learns of at its next commit, which a mark brings about.
    let agent = site.text("agent.toml");
    json(&["point", "create", "--config", &agent, "--name", "too late"]);
    let (code, stdout, stderr) = first.end();
    assert_eq!((code, stdout.as_str()), (1, ""));
    let last = stderr.lines().last().expect("it said something");
    assert!(
        last.starts_with("error: the process server ended: fenced"),
        "{stderr}"
    );
    assert_eq!(second.signal("-TERM").0, 0);
}
