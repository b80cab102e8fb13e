//! What lies in `deploy/`: the examples read with the real types and name every key, the units keep to the
//! baseline.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use everpoint_agent::AgentConfig;
use everpoint_process_server::ProcessServerConfig;
use everpoint_retention::RetentionConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Debug, Deserialize)]
struct ServerFile {
    roles: Vec<String>,
    process: ProcessServerConfig,
    retention: RetentionConfig,
}

#[derive(Debug, Deserialize)]
struct AgentFile {
    agent: AgentConfig,
}

/// The example with every key and section that is only shown set, too.
fn with_shown_keys(text: &str) -> String {
    let is_key = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ")
            && key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(shown) if is_key(shown) || shown.starts_with("[process.") => shown,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The keys of a section, as its own type names them when it meets another.
fn keys_of<T: DeserializeOwned>(section: &str) -> BTreeSet<String> {
    let error = toml::from_str::<Wrapped<T>>(&format!("[section]\nno_such_key = 1\n{section}"));
    let error = error
        .err()
        .map(|error| error.message().to_owned())
        .unwrap_or_default();
    let (_, expected) = error
        .split_once("expected ")
        .unwrap_or_else(|| panic!("{error}"));
    let keys = expected.split('`').skip(1).step_by(2);
    keys.map(str::to_owned).collect()
}

#[derive(Debug, Deserialize)]
struct Wrapped<T> {
    #[expect(dead_code, reason = "only the error is of interest")]
    section: T,
}

/// The keys that the example has at `path`; in a list, those of its first table.
fn keys_at(text: &str, path: &[&str]) -> BTreeSet<String> {
    let mut table: toml::Value = toml::from_str(&with_shown_keys(text)).expect("it is TOML");
    for name in path {
        table = table
            .get(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .clone();
        if let Some(first) = table.as_array().and_then(|list| list.first()) {
            table = first.clone();
        }
    }
    table
        .as_table()
        .expect("a section")
        .keys()
        .cloned()
        .collect()
}

#[test]
fn the_servers_example_is_good_as_it_stands_and_with_every_key_set() {
    let text = read("server.toml");
    for text in [text.clone(), with_shown_keys(&text)] {
        let file: ServerFile = toml::from_str(&text).expect("it reads");
        assert_eq!(file.roles, ["process"]);
        assert_eq!(file.process.check(), Ok(()));
        assert!(file.retention.check().is_ok());
    }
}

#[test]
fn the_agents_example_is_good_as_it_stands_and_with_every_key_set() {
    let text = read("agent.toml");
    for text in [text.clone(), with_shown_keys(&text)] {
        let file: AgentFile = toml::from_str(&text).expect("it reads");
        assert_eq!(file.agent.check(), Ok(()));
        assert_eq!(file.agent.disks.len(), 1);
    }
}

#[test]
fn the_examples_name_every_key_that_there_is() {
    use everpoint_process_server as server;
    let text = read("server.toml");
    assert_eq!(
        keys_at(&text, &["process"]),
        keys_of::<ProcessServerConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["retention"]),
        keys_of::<RetentionConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "tls"]),
        keys_of::<server::TlsConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "cache_log"]),
        keys_of::<server::LogConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "commit"]),
        keys_of::<server::CommitConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "store"]),
        keys_of::<everpoint_vault::VaultConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "store", "retry"]),
        keys_of::<everpoint_vault::RetryConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "store", "azure"]),
        keys_of::<everpoint_vault::AzureAccess>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "store", "s3"]),
        keys_of::<everpoint_vault::S3Access>("")
    );

    assert_eq!(
        keys_at(&text, &["process", "replica"]),
        keys_of::<server::ReplicaConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["process", "replica", "prices"]),
        keys_of::<everpoint_replica::Prices>("")
    );

    use everpoint_agent as agent;
    let text = read("agent.toml");
    assert_eq!(keys_at(&text, &["agent"]), keys_of::<AgentConfig>(""));
    assert_eq!(
        keys_at(&text, &["agent", "servers"]),
        keys_of::<agent::ServerConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["agent", "tls"]),
        keys_of::<agent::TlsConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["agent", "nbd"]),
        keys_of::<agent::NbdConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["agent", "points"]),
        keys_of::<agent::PointsConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["agent", "app_points"]),
        keys_of::<agent::AppPointsConfig>("")
    );
    assert_eq!(
        keys_at(&text, &["agent", "disks"]),
        keys_of::<agent::DiskConfig>("")
    );
}

#[test]
fn what_the_examples_show_for_tunables_is_their_default() {
    let text = read("server.toml");
    let shown: ServerFile = toml::from_str(&text).expect("it reads");
    let tunable = [
        "memory_bytes_max",
        "machines_max",
        "drain_timeout_s",
        "mtu_max",
        "file_bytes",
        "interval_ms",
        "object_bytes",
        "in_flight_max",
        "accept_damage",
        "create_vault",
        "blocking_threads_max",
        "object_len_max",
        "list_page_count_max",
        "attempts_max",
        "delay_ms_first",
        "delay_ms_max",
        "attempt_ms_max",
        "deadline_ms_max",
        "slow_link_bytes_per_s",
    ];
    let is_tunable = |line: &&str| {
        tunable
            .iter()
            .any(|key| line.starts_with(&format!("{key} = ")))
    };
    let bare: Vec<&str> = text.lines().filter(|line| !is_tunable(line)).collect();
    let bare: ServerFile = toml::from_str(&bare.join("\n")).expect("it reads");
    assert_eq!(
        format!("{:?}", bare.process),
        format!("{:?}", shown.process)
    );

    let text = read("agent.toml");
    let shown: AgentFile = toml::from_str(&text).expect("it reads");
    let tunable = [
        "queue_bytes_max",
        "memory_bytes_max",
        "background_nice",
        "stop_timeout_s",
        "mtu_max",
        "guest_threads",
        "direct",
        "crash_interval_s",
        "app_interval_s",
        "deadline_ms",
        "script_timeout_s",
    ];
    let is_tunable = |line: &&str| {
        tunable
            .iter()
            .any(|key| line.starts_with(&format!("{key} = ")))
    };
    let bare: Vec<&str> = text.lines().filter(|line| !is_tunable(line)).collect();
    let bare: AgentFile = toml::from_str(&bare.join("\n")).expect("it reads");
    assert_eq!(format!("{:?}", bare.agent), format!("{:?}", shown.agent));
}

#[test]
fn the_units_keep_to_the_baseline() {
    for (unit, name) in [
        ("everpoint-server.service", "server"),
        ("everpoint-agent.service", "agent"),
    ] {
        let text = read(unit);
        for line in [
            "DynamicUser=yes",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            "PrivateDevices=yes",
            "ProtectKernelTunables=yes",
            "ProtectKernelModules=yes",
            "ProtectKernelLogs=yes",
            "ProtectControlGroups=yes",
            "ProtectClock=yes",
            "ProtectHostname=yes",
            "ProtectProc=invisible",
            "ProcSubset=pid",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
            "RestrictNamespaces=yes",
            "RestrictSUIDSGID=yes",
            "RestrictRealtime=yes",
            "LockPersonality=yes",
            "MemoryDenyWriteExecute=yes",
            "SystemCallArchitectures=native",
            "SystemCallFilter=@system-service",
            "SystemCallFilter=~@privileged @resources",
            "CapabilityBoundingSet=",
            "UMask=0077",
            "LimitCORE=0",
            &format!("LoadCredential={name}.key:/etc/everpoint/{name}.key"),
            &format!(
                "ExecStart=/usr/local/bin/everpoint {name} run --config /etc/everpoint/{name}.toml"
            ),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{unit} lacks {line}"
            );
        }
        for key in ["StateDirectory=", "MemoryMax=", "TasksMax="] {
            assert!(
                text.lines().any(|found| found.starts_with(key)),
                "{unit} lacks {key}"
            );
        }
    }
}

#[test]
fn an_agent_is_started_again_until_its_sources_are_there() {
    let text = read("everpoint-agent.service");
    for line in [
        "Restart=on-failure",
        "RestartSec=1s",
        "StartLimitIntervalSec=0",
        // Not 1, which a source that is away ends with.
        "RestartPreventExitStatus=2 3 4",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line}");
    }
}

#[test]
fn a_unit_waits_longer_than_its_program_drains() {
    let seconds = |text: &str, key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {key}"))
    };
    let (unit, config) = (read("everpoint-server.service"), read("server.toml"));
    assert!(seconds(&config, "drain_timeout_s = ") < seconds(&unit, "TimeoutStopSec="));
    let (unit, config) = (read("everpoint-agent.service"), read("agent.toml"));
    assert!(seconds(&config, "stop_timeout_s = ") < seconds(&unit, "TimeoutStopSec="));
}
