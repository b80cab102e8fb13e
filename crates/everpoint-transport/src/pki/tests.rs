//! Certificates and their files: what is made reads back, and what is wrong is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everpoint_units::{MachineId, ServerId, WallTime};
use tempfile::TempDir;

use super::*;
use crate::identity::{Identity, Validity};

const NOW: WallTime = WallTime(1_795_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const MACHINE: MachineId = MachineId([7; 16]);

fn later(days: i64) -> WallTime {
    NOW.shifted(days * 86_400_000_000)
}

fn ca() -> Ca {
    Ca::create(Validity::from_now(NOW, CA_LIFETIME)).unwrap()
}

fn issued(ca: &Ca) -> Issued {
    let year = Validity::from_now(NOW, CERTIFICATE_LIFETIME);
    ca.issue_agent(MACHINE, year).unwrap()
}

/// A directory with a CA and the files of an agent.
struct Files {
    _directory: TempDir,
    ca: Ca,
    ca_key: PathBuf,
    paths: CredentialPaths,
}

fn files() -> Files {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let ca = ca();
    let paths = CredentialPaths {
        certificate: at("agent.pem"),
        key: at("agent.key"),
        ca: at("ca.pem"),
    };
    let ca_key = at("ca.key");
    ca.write(&paths.ca, &ca_key, Overwrite::Refuse).unwrap();
    issued(&ca)
        .write(&paths.certificate, &paths.key, Overwrite::Refuse)
        .unwrap();
    Files {
        _directory: directory,
        ca,
        ca_key,
        paths,
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The error and everything below it, as an operator reads it.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}

#[test]
fn what_is_written_reads_back_and_keys_are_their_owners_alone() {
    let files = files();
    let credentials = Credentials::load(&files.paths, NOW).unwrap();
    assert_eq!(credentials.identity(), Identity::Agent(MACHINE));
    assert_eq!(credentials.expires_at(), later(365));
    assert_eq!(mode(&files.paths.key), 0o600);
    assert_eq!(mode(&files.ca_key), 0o600);
    assert_eq!(mode(&files.paths.certificate), 0o644);
    let names = fs::read_dir(files.paths.ca.parent().unwrap()).unwrap();
    assert_eq!(names.count(), 4, "nothing is left beside the files");
}

#[test]
fn a_ca_that_was_read_back_issues_what_the_first_one_trusts() {
    let files = files();
    let again = Ca::load(&files.paths.ca, &files.ca_key, NOW).unwrap();
    assert_eq!(again.certificate_pem(), files.ca.certificate_pem());
    assert_eq!(again.expires_at(), files.ca.expires_at());
    let server = ServerId([3; 16]);
    let year = Validity::from_now(NOW, CERTIFICATE_LIFETIME);
    let issued = again.issue_server(server, &["a.test", "10.0.0.1", "::1"], year);
    let issued = issued.unwrap();
    let ca_pem = files.ca.certificate_pem();
    let credentials =
        Credentials::from_pem(&issued.certificate_pem, &issued.key_pem, ca_pem, NOW).unwrap();
    assert_eq!(credentials.identity(), Identity::Server(server));
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let files = files();
    for bad in [0o640, 0o604, 0o660, 0o644, 0o620, 0o601] {
        chmod(&files.paths.key, bad);
        let error = Credentials::load(&files.paths, NOW)
            .unwrap_err()
            .to_string();
        let remedy = format!("chmod 600 {}", files.paths.key.display());
        assert!(error.contains(&remedy), "{error}");
        assert!(error.contains(&format!("{bad:04o}")), "{error}");
    }
    for good in [0o600, 0o400] {
        chmod(&files.paths.key, good);
        assert!(Credentials::load(&files.paths, NOW).is_ok());
    }
    chmod(&files.ca_key, 0o644);
    let error = Ca::load(&files.paths.ca, &files.ca_key, NOW).unwrap_err();
    assert!(text(&error).contains("chmod 600"), "{error}");
}

#[test]
fn a_certificate_is_good_from_its_first_to_its_last_second() {
    let files = files();
    let load = |now| Credentials::load(&files.paths, now);
    let first = NOW.shifted(-3_600_000_000);
    assert!(load(first).is_ok());
    let error = text(&load(first.shifted(-1)).unwrap_err());
    assert!(error.contains("not valid before"), "{error}");
    assert!(error.contains("clock"), "{error}");

    let last = later(365);
    assert!(load(last.shifted(999_999)).is_ok());
    let error = text(&load(last.shifted(1_000_000)).unwrap_err());
    assert!(error.contains("expired at 2027-"), "{error}");
    assert!(error.contains("agent.pem"), "{error}");
}

#[test]
fn a_ca_past_its_time_is_named_and_neither_trusted_nor_used() {
    let files = files();
    let after = later(3_653);
    let error = text(&Ca::load(&files.paths.ca, &files.ca_key, after).unwrap_err());
    assert!(
        error.contains("expired") && error.contains("ca.pem"),
        "{error}"
    );
    let error = text(&Credentials::load(&files.paths, after).unwrap_err());
    assert!(
        error.contains("expired") && error.contains("ca.pem"),
        "{error}"
    );
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let files = files();
    let other = issued(&files.ca);
    fs::write(&files.paths.key, other.key_pem.expose()).unwrap();
    let error = text(&Credentials::load(&files.paths, NOW).unwrap_err());
    assert!(error.contains("not the one of the certificate"), "{error}");
    assert!(error.contains("agent.key"), "{error}");
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let files = files();
    fs::write(&files.paths.ca, ca().certificate_pem()).unwrap();
    let error = text(&Credentials::load(&files.paths, NOW).unwrap_err());
    assert!(error.contains("not issued by the given CA"), "{error}");
}

#[test]
fn a_certificate_that_is_no_ca_issues_nothing_and_is_not_trusted() {
    let files = files();
    let CredentialPaths {
        certificate, key, ..
    } = &files.paths;
    let error = text(&Ca::load(certificate, key, NOW).unwrap_err());
    assert!(error.contains("not the certificate of a CA"), "{error}");
    let trusting = CredentialPaths {
        ca: certificate.clone(),
        ..files.paths.clone()
    };
    let error = text(&Credentials::load(&trusting, NOW).unwrap_err());
    assert!(error.contains("not the certificate of a CA"), "{error}");
    let posing = CredentialPaths {
        certificate: files.paths.ca.clone(),
        key: files.ca_key.clone(),
        ca: files.paths.ca.clone(),
    };
    let error = text(&Credentials::load(&posing, NOW).unwrap_err());
    assert!(error.contains("names no agent or server"), "{error}");
}

#[test]
fn files_that_are_something_else_are_named() {
    let files = files();
    fs::write(&files.paths.certificate, "no certificate").unwrap();
    let error = text(&Credentials::load(&files.paths, NOW).unwrap_err());
    assert!(error.contains("no PEM certificate"), "{error}");

    fs::write(&files.paths.certificate, [0xff, 0xfe, 0x00]).unwrap();
    let error = text(&Credentials::load(&files.paths, NOW).unwrap_err());
    assert!(error.contains("not a PEM file"), "{error}");

    fs::write(&files.paths.certificate, vec![b'x'; 70_000]).unwrap();
    let error = text(&Credentials::load(&files.paths, NOW).unwrap_err());
    assert!(error.contains("longer than 65536 bytes"), "{error}");

    fs::remove_file(&files.paths.certificate).unwrap();
    let error = text(&Credentials::load(&files.paths, NOW).unwrap_err());
    assert!(error.contains("agent.pem could not be read"), "{error}");
}

#[test]
fn nothing_that_exists_is_overwritten_unless_told_to() {
    let files = files();
    let CredentialPaths {
        certificate, key, ..
    } = &files.paths;
    let before = fs::read(key).unwrap();
    let new = issued(&files.ca);
    let refused = new.write(certificate, key, Overwrite::Refuse);
    assert!(
        matches!(&refused, Err(WriteError::Exists { path }) if path == key),
        "{refused:?}"
    );
    // One of the two is enough, and the other is not made.
    fs::remove_file(key).unwrap();
    let refused = new.write(certificate, key, Overwrite::Refuse);
    assert!(
        matches!(&refused, Err(WriteError::Exists { path }) if path == certificate),
        "{refused:?}"
    );
    assert!(!key.exists());

    fs::write(key, before).unwrap();
    chmod(key, 0o644);
    new.write(certificate, key, Overwrite::Replace).unwrap();
    assert_eq!(fs::read_to_string(key).unwrap(), new.key_pem.expose());
    assert_eq!(mode(key), 0o600);
    assert!(Credentials::load(&files.paths, NOW).is_ok());
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_the_path() {
    let files = files();
    let missing = files.paths.ca.parent().unwrap().join("missing/agent.pem");
    let error = issued(&files.ca)
        .write(
            &missing,
            &files.paths.key.with_extension("new"),
            Overwrite::Refuse,
        )
        .unwrap_err();
    assert!(text(&error).contains("missing/agent.pem"), "{error}");
}

#[test]
fn a_server_needs_names_that_can_match() {
    let ca = ca();
    let year = Validity::from_now(NOW, CERTIFICATE_LIFETIME);
    let issue = |names: &[&str]| ca.issue_server(ServerId([1; 16]), names, year);
    assert!(matches!(issue(&[]), Err(IssueError::NoName)));
    for bad in [
        "",
        "a b",
        "https://a.test",
        "a.test:443",
        "-a.test",
        "ä.test",
    ] {
        let error = issue(&["good.test", bad]).unwrap_err();
        assert!(
            matches!(&error, IssueError::Name { name } if name == bad),
            "{error}"
        );
    }
    assert!(issue(&["a", "a.b.test", "192.0.2.1", "2001:db8::1"]).is_ok());
}

#[test]
fn no_certificate_outlives_its_ca() {
    let ca = ca();
    let late = Validity::from_now(later(3_600), CERTIFICATE_LIFETIME);
    let issued = ca.issue_agent(MACHINE, late).unwrap();
    assert_eq!(issued.expires_at, ca.expires_at());
    let never = Validity::from_now(later(4_000), CERTIFICATE_LIFETIME);
    let error = ca.issue_agent(MACHINE, never).unwrap_err();
    assert!(matches!(error, IssueError::OutsideCa { .. }), "{error}");
}

#[test]
fn a_warning_comes_thirty_days_before_the_end_and_stays() {
    let warn = |now| warn_if_expiring(later(365), now, EXPIRY_WARNING);
    assert_eq!(warn(NOW), None);
    assert_eq!(warn(later(335).shifted(-1)), None);
    let left = |now: WallTime| warn(now).map(|expiring| expiring.left);
    assert_eq!(left(later(335)), Some(30 * DAY));
    assert_eq!(left(later(364)), Some(DAY));
    assert_eq!(left(later(400)), Some(Duration::ZERO));
}

#[test]
fn keys_do_not_show_in_logs() {
    let ca = ca();
    let issued = issued(&ca);
    let secret = issued.key_pem.expose();
    let line = secret.lines().nth(1).unwrap();
    let credentials = Credentials::from_pem(
        &issued.certificate_pem,
        &issued.key_pem,
        ca.certificate_pem(),
        NOW,
    );
    let shown = format!("{issued:?} {ca:?} {:?}", credentials.unwrap());
    assert!(
        !shown.contains(line) && !shown.contains("PRIVATE"),
        "{shown}"
    );
}
