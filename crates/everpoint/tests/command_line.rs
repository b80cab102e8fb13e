//! What the command line says to input that cannot be meant: which flag or key, and an exit code.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const USAGE: i32 = 2;

/// How a command ended, and what it printed.
#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn everpoint<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpoint"));
    // What the machine at hand says of a store counts for nothing here.
    for variable in ["ACCOUNT", "ACCOUNT_NAME", "CONNECTION_STRING"] {
        command.env_remove(format!("AZURE_STORAGE_{variable}"));
    }
    let output = command.args(args).output().expect("it starts");
    Ended {
        code: output.status.code().expect("it was not killed"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a line of words.
fn line(line: &str) -> Ended {
    everpoint(line.split_whitespace())
}

/// The command is refused as bad input, and the message holds all of these.
fn refuses(ended: &Ended, says: &[&str]) {
    assert_eq!(ended.code, USAGE, "{ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    for said in says {
        assert!(
            ended.stderr.contains(said),
            "{said:?} is not said: {}",
            ended.stderr
        );
    }
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

/// A server's configuration that is good but for what the test does to it.
fn server_toml(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"roles = ["process"]
[process]
state_dir = "{dir}/state"
vault = "file://{dir}/vault"
create_vault = true
listen = "127.0.0.1:0"
control_socket = "{dir}/server.sock"
[process.tls]
ca = "{dir}/pki/ca.pem"
cert = "{dir}/pki/server.pem"
key = "{dir}/pki/server.key"
[process.cache_log]
dir = "{dir}/log"
quota_bytes = 67108864
file_bytes = 4194304
"#
    )
}

fn agent_toml(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"[agent]
state_dir = "{dir}/agent"
servers = [{{ address = "127.0.0.1:7411" }}]
control_socket = "{dir}/agent.sock"
[agent.tls]
ca = "{dir}/pki/ca.pem"
cert = "{dir}/pki/agent.pem"
key = "{dir}/pki/agent.key"
[agent.nbd]
unix = "{dir}/nbd.sock"
"#
    )
}

/// A CA with a certificate for a server and one for an agent.
fn make_pki(dir: &Path) {
    let pki = dir.join("pki");
    let pki = pki.to_str().expect("text");
    for made in [
        everpoint(["pki", "init", "--dir", pki]),
        everpoint([
            "pki",
            "issue",
            "server",
            "--ca-dir",
            pki,
            "--name",
            "127.0.0.1",
        ]),
        everpoint(["pki", "issue", "agent", "--ca-dir", pki]),
    ] {
        assert_eq!(made.code, 0, "{made:?}");
    }
}

#[test]
fn a_flag_or_command_that_there_is_not_is_named() {
    refuses(&line("quickstart --sise 1GiB"), &["--sise", "--size"]);
    for later in ["unmount", "replica attach", "loadtest", "point pin"] {
        refuses(&line(later), &["unrecognized subcommand"]);
    }
    refuses(&line("quickstart --replica file:///x"), &["--replica"]);
    refuses(
        &line("restore --vault file:///v --at latest --output x"),
        &["--disk"],
    );
    refuses(&line("server status"), &["--config", "--control"]);
    refuses(
        &line("server status --config a --control b"),
        &["--config", "--control"],
    );
}

#[test]
fn a_size_that_could_mean_two_things_is_refused_with_the_right_spelling() {
    refuses(&line("quickstart --size 10G"), &["--size", "write 10GiB"]);
    refuses(&line("quickstart --size 10Gb"), &["--size", "write 10GiB"]);
    refuses(&line("quickstart --size 1.5GiB"), &["--size", "256MiB"]);
}

#[test]
fn a_value_outside_its_bounds_is_refused_with_them() {
    refuses(
        &line("quickstart --size 1MiB"),
        &["size", "1048576", "33554432"],
    );
    refuses(&line("quickstart --seconds 0"), &["--seconds", "1..=86400"]);
    let disk = "00112233-4455-6677-8899-aabbccddeeff";
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    let restore =
        format!("restore --vault file://{dir} --disk {disk} --at latest --output {dir}/x");
    refuses(
        &line(&format!("{restore} --memory 1MiB")),
        &["memory_max", "100663296"],
    );
}

#[test]
fn an_instant_id_or_vault_that_is_none_is_refused_with_what_it_should_be() {
    let disk = "00112233-4455-6677-8899-aabbccddeeff";
    let restore = |what: &str| line(&format!("restore --vault file:///v --output x {what}"));
    refuses(
        &restore(&format!("--disk {disk} --at seq:x")),
        &["--at", "seq:4711"],
    );
    refuses(
        &restore("--disk 0011 --at latest"),
        &["--disk", "32 hexadecimal digits"],
    );
    refuses(
        &restore(&format!("--disk {disk} --at latest --format qcow2")),
        &["--format", "raw, vhd"],
    );
    refuses(
        &line("disk list --vault /srv/vault"),
        &["--vault", "file:///dir"],
    );
    refuses(
        &line("disk list --vault az://container"),
        &["--vault", "AZURE_STORAGE_ACCOUNT", "`azure.account`"],
    );
    refuses(
        &line("disk list --log nonsense[ --vault file:///v"),
        &["--log"],
    );
    refuses(
        &line("point create --control x --name seq:5"),
        &["--name", "another name"],
    );
}

#[test]
fn a_vault_that_is_not_there_or_none_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}", dir.path().display());
    for command in ["disk list", "check"] {
        refuses(
            &line(&format!("{command} --vault {url}/missing")),
            &["--vault", "does not exist"],
        );
        refuses(
            &line(&format!("{command} --vault {url}")),
            &["not an everpoint vault", "help: "],
        );
    }
}

#[test]
fn what_a_stores_file_says_wrongly_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    for (text, says) in [
        (
            "[azure]\nacount = 'disks'",
            "line 2: unknown field `acount`",
        ),
        (
            "[retry]\nattempts_max = 0",
            "retry.attempts_max is 0, it must be 1 to 1000",
        ),
        (
            "[azure]\naccount = 'disks'\naccess_key_file = '/a'\nsas_file = '/b'",
            "name one credential",
        ),
        (
            "[azure]\naccount = 'disks'\nsas_file = '/no/such/file'",
            "azure.sas_file: \"/no/such/file\" cannot be read",
        ),
    ] {
        let file = write(dir.path(), "store.toml", text);
        refuses(
            &line(&format!(
                "disk list --vault az://container --store-config {file}"
            )),
            &[says],
        );
    }
}

#[test]
fn a_key_of_the_configuration_that_there_is_not_is_named_with_file_and_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = server_toml(dir.path()).replace("state_dir", "state_directory");
    let path = write(dir.path(), "server.toml", &text);
    let ended = everpoint(["server", "run", "--config", &path]);
    refuses(&ended, &[&path, "line 3", "state_directory", "state_dir"]);

    let text = agent_toml(dir.path()).replace("[agent.nbd]", "[agent.nbdd]");
    let path = write(dir.path(), "agent.toml", &text);
    refuses(
        &everpoint(["agent", "run", "--config", &path]),
        &[&path, "nbdd"],
    );
}

#[test]
fn a_setting_outside_its_bounds_is_named_with_its_rule() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = server_toml(dir.path()) + "[process.commit]\nin_flight_max = 0\n";
    let path = write(dir.path(), "server.toml", &text);
    let ended = everpoint(["server", "run", "--config", &path]);
    refuses(
        &ended,
        &[&path, "process.commit.in_flight_max", "must be 1 to 16"],
    );

    let text = agent_toml(dir.path()).replace("[agent]", "[agent]\nbackground_nice = 99");
    let path = write(dir.path(), "agent.toml", &text);
    let ended = everpoint(["agent", "run", "--config", &path]);
    refuses(&ended, &[&path, "agent.background_nice", "must be 0 to 19"]);
}

#[test]
fn a_server_without_a_role_or_its_section_is_told_what_to_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |text: &str| {
        let path = write(dir.path(), "server.toml", text);
        everpoint(["server", "run", "--config", &path])
    };
    refuses(&run("roles = []"), &["roles", "roles = [\"process\"]"]);
    refuses(&run("roles = [\"process\"]"), &["no section [process]"]);
    refuses(
        &run("roles = [\"archive\"]"),
        &["archive", "process", "retention"],
    );
    refuses(&run("roles = [\"retention\"]"), &["no section [retention]"]);
    let section = "roles = [\"retention\"]\n[retention]\nvault = \"file:///v\"\n";
    refuses(
        &run(&format!("{section}interval_s = 0")),
        &["retention.interval_s", "1 to 86400"],
    );
    let vault = section.replace("file:///v", "nowhere");
    refuses(&run(&vault), &["retention.vault", "nowhere"]);
}

#[test]
fn a_configuration_that_is_no_readable_file_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let run = |path: &Path| {
        everpoint([
            OsStr::new("server"),
            OsStr::new("run"),
            OsStr::new("--config"),
            path.as_os_str(),
        ])
    };
    refuses(
        &run(&at("missing")),
        &["--config", "missing", "No such file"],
    );
    refuses(&run(dir.path()), &["--config", "is a directory"]);
    let made = Command::new("mkfifo")
        .arg(at("pipe"))
        .status()
        .expect("mkfifo is there");
    assert!(made.success());
    refuses(&run(&at("pipe")), &["--config", "no regular file"]);
    fs::write(at("binary"), [0xff; 9]).expect("written");
    refuses(&run(&at("binary")), &["not UTF-8"]);
}

#[test]
fn a_private_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    make_pki(dir.path());
    for (role, text) in [
        ("server", server_toml(dir.path())),
        ("agent", agent_toml(dir.path())),
    ] {
        let key = dir.path().join(format!("pki/{role}.key"));
        let mode = fs::metadata(&key).expect("issued").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
        let path = write(dir.path(), "config.toml", &text);
        let ended = everpoint([role, "run", "--config", &path]);
        refuses(
            &ended,
            &[
                "others can read it",
                &format!("chmod 600 {}", key.display()),
            ],
        );
    }
}

#[test]
fn a_certificate_of_the_other_side_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    make_pki(dir.path());
    let text = server_toml(dir.path()).replace("pki/server.", "pki/agent.");
    let path = write(dir.path(), "server.toml", &text);
    let ended = everpoint(["server", "run", "--config", &path]);
    refuses(&ended, &["tls.cert", "everpoint pki issue server"]);
}

#[test]
fn a_ca_or_certificate_is_not_replaced_unless_told_to() {
    let dir = tempfile::tempdir().expect("a directory");
    make_pki(dir.path());
    let pki = dir.path().join("pki");
    let pki = pki.to_str().expect("text");
    let before = fs::read(dir.path().join("pki/ca.key")).expect("made");
    refuses(
        &everpoint(["pki", "init", "--dir", pki]),
        &["exists already", "--overwrite"],
    );
    refuses(
        &everpoint(["pki", "issue", "agent", "--ca-dir", pki]),
        &["exists already", "--overwrite"],
    );
    assert_eq!(
        fs::read(dir.path().join("pki/ca.key")).expect("there"),
        before
    );
    assert_eq!(
        everpoint(["pki", "init", "--dir", pki, "--overwrite"]).code,
        0
    );
    assert_ne!(
        fs::read(dir.path().join("pki/ca.key")).expect("there"),
        before
    );
}

#[test]
fn issuing_without_a_ca_or_for_a_bad_name_says_how() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().to_str().expect("text");
    let ended = everpoint(["pki", "issue", "agent", "--ca-dir", empty]);
    refuses(&ended, &["--ca-dir", "ca.pem", "everpoint pki init"]);
    make_pki(dir.path());
    let pki = dir.path().join("pki");
    let pki = pki.to_str().expect("text");
    let ended = everpoint([
        "pki",
        "issue",
        "server",
        "--ca-dir",
        pki,
        "--name",
        "not a name",
        "--file",
        "b",
    ]);
    refuses(&ended, &["--name", "not a name"]);
}

#[test]
fn with_json_one_object_is_printed_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = dir.path().to_str().expect("text");
    let made = everpoint(["--json", "--log", "trace", "pki", "init", "--dir", pki]);
    let json: Value = serde_json::from_str(&made.stdout).expect("one object");
    assert_eq!(json["kind"], "ca");
    assert!(
        json["certificate"]
            .as_str()
            .expect("text")
            .ends_with("ca.pem")
    );

    let id = "11111111-2222-3333-4444-555555555555";
    let made = everpoint([
        "pki",
        "issue",
        "agent",
        "--ca-dir",
        pki,
        "--machine",
        id,
        "--json",
    ]);
    let json: Value = serde_json::from_str(&made.stdout).expect("one object");
    assert_eq!(
        (json["kind"].as_str(), json["id"].as_str()),
        (Some("agent"), Some(id))
    );
    assert!(json["expires_at"].as_str().expect("text").ends_with('Z'));
    assert_eq!(made.stdout.lines().count(), 1);
}

#[test]
fn an_id_that_nobody_gave_is_made_and_printed() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = dir.path().to_str().expect("text");
    assert_eq!(everpoint(["pki", "init", "--dir", pki]).code, 0);
    let issue = |file: &str| {
        let made = everpoint([
            "pki", "issue", "agent", "--ca-dir", pki, "--file", file, "--json",
        ]);
        let json: Value = serde_json::from_str(&made.stdout).expect("one object");
        json["id"].as_str().expect("text").to_owned()
    };
    let (first, second) = (issue("a"), issue("b"));
    assert_eq!(first.len(), 36);
    assert_ne!(first, second);
}

#[test]
fn a_path_that_is_not_utf_8_is_a_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut pki = dir.path().as_os_str().to_owned().into_vec();
    pki.extend_from_slice(b"/\xffpki");
    let pki = OsString::from_vec(pki);
    let made = everpoint([
        OsStr::new("pki"),
        OsStr::new("init"),
        OsStr::new("--dir"),
        &pki,
    ]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(Path::new(&pki).join("ca.pem").exists());
}

#[test]
fn nobody_who_answers_on_a_control_socket_is_a_failure_not_bad_input() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("nobody");
    let socket = socket.to_str().expect("text");
    for words in [["server", "status"], ["agent", "status"]] {
        let ended = everpoint([words[0], words[1], "--control", socket]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains("nothing answers"), "{ended:?}");
    }
}

#[test]
fn what_is_printed_of_bad_input_cannot_steer_a_terminal() {
    let ended = everpoint(["server", "status", "--control", "/nowhere/\u{1b}[2J"]);
    assert_eq!(ended.code, 1);
    assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
}

#[test]
fn help_is_no_error() {
    for words in [
        "--help",
        "server --help",
        "restore --help",
        "quickstart --help",
    ] {
        let ended = line(words);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        assert!(ended.stdout.contains("--json"), "{words}");
    }
}
