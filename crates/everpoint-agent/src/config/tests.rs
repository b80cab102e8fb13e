//! What is accepted, and how a mistake is named.

use super::*;

const MINIMAL: &str = r#"
    state_dir = "/var/lib/everpoint-agent"
    control_socket = "/run/everpoint/agent"
    servers = [{ address = "ps1.example:7411" }]
    [tls]
    ca = "ca.pem"
    cert = "agent.pem"
    key = "agent.key"
    [nbd]
    unix = "/run/everpoint/nbd"
    [[disks]]
    id = "00112233-4455-6677-8899-aabbccddeeff"
    name = "data"
    source = "/srv/data.raw"
"#;

fn minimal() -> AgentConfig {
    toml::from_str(MINIMAL).expect("a good section")
}

fn broken(change: impl FnOnce(&mut AgentConfig)) -> String {
    let mut config = minimal();
    change(&mut config);
    config.check().expect_err("out of bounds").to_string()
}

#[test]
fn a_minimal_section_reads_with_sound_defaults() {
    let config = minimal();
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.queue_bytes_max, 256 << 20);
    assert_eq!(config.servers[0].host(), Some("ps1.example"));
    assert!(config.machine.is_none() && !config.disks[0].direct);
}

#[test]
fn an_unknown_key_is_named() {
    let text = format!("quue_bytes_max = 1\n{MINIMAL}");
    let error = toml::from_str::<AgentConfig>(&text).expect_err("unknown");
    assert!(error.to_string().contains("quue_bytes_max"), "{error}");
}

#[test]
fn an_id_that_is_none_is_refused_with_what_it_should_be() {
    let text = MINIMAL.replace("00112233", "0011223");
    let error = toml::from_str::<AgentConfig>(&text).expect_err("too short");
    assert!(
        error.to_string().contains("32 hexadecimal digits"),
        "{error}"
    );
}

#[test]
fn a_setting_outside_its_bounds_is_named_with_its_rule() {
    assert_eq!(
        broken(|config| config.servers.clear()),
        "servers: must name at least one process server"
    );
    assert!(broken(|config| config.nbd.unix = None).starts_with("nbd: must have unix or tcp"));
    assert!(broken(|config| config.queue_bytes_max = 1).starts_with("queue_bytes_max: "));
    assert!(broken(|config| config.memory_bytes_max = 300 << 20).starts_with("memory_bytes_max"));
    assert!(broken(|config| config.background_nice = 20).starts_with("background_nice: "));
    assert!(broken(|config| config.resync_rate_max = Some(1)).starts_with("resync_rate_max: "));
    assert!(broken(|config| config.nbd.guest_threads = 0).starts_with("nbd.guest_threads: "));
}

#[test]
fn points_by_the_clock_need_a_way_to_be_made() {
    let key = |change: fn(&mut AgentConfig)| broken(change);
    assert!(
        key(|config| config.points.app_interval_s = 60).starts_with("points.app_interval_s: needs")
    );
    assert!(
        key(|config| config.points.crash_interval_s = 604_801)
            .starts_with("points.crash_interval_s")
    );
    assert!(
        key(|config| config.app_points.deadline_ms = 9).starts_with("app_points.deadline_ms: ")
    );
    assert!(
        key(|config| config.app_points.script_timeout_s = 0)
            .starts_with("app_points.script_timeout_s")
    );
    assert!(
        key(|config| config.app_points.filesystems.push("mnt".into()))
            .starts_with("app_points.filesystems")
    );
    assert!(
        key(|config| config.app_points.pre_script = Some("x".into()))
            .starts_with("app_points.pre_script")
    );
    let mut config = minimal();
    assert_eq!(
        (
            config.points.crash_interval_s,
            config.app_points.deadline_ms
        ),
        (0, 300)
    );
    config.points.app_interval_s = 60;
    config.app_points.filesystems.push("/mnt/db".into());
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn a_disk_is_named_by_its_place_in_the_list() {
    assert_eq!(
        broken(|config| config.disks[0].block_size = Some(1_024)),
        "disks[0].block_size: must be 512 or 4096, or left out"
    );
    let twice = broken(|config| {
        let mut second = config.disks[0].clone();
        second.name = "other".into();
        config.disks.push(second);
    });
    assert!(twice.starts_with("disks[1].id: is another disk's"));
    assert!(broken(|config| config.disks[0].name.clear()).starts_with("disks[0].name: "));
}

#[test]
fn an_address_without_host_or_port_is_refused() {
    for bad in ["ps1", "ps1:", "ps1:0", ":7411", "::1:7411", "[::1:7411"] {
        let error = broken(|config| config.servers[0].address = bad.into());
        assert!(
            error.starts_with("servers[0].address: must be HOST:PORT"),
            "{bad}"
        );
    }
    let v6 = ServerConfig {
        address: "[::1]:7411".into(),
        name: None,
    };
    assert_eq!(v6.host(), Some("::1"));
}

#[test]
fn an_attached_disk_reads_back_as_it_was_written() {
    let disk = minimal().disks[0].clone();
    let text = toml::to_string(&disk).expect("plain data");
    let back: DiskConfig = toml::from_str(&text).expect("as it was written");
    assert_eq!(
        (back.id, back.name, back.source),
        (disk.id, disk.name, disk.source)
    );
}
