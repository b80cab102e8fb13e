//! Places that must not lie on a filesystem that is frozen: what the agent needs to let it go again, and what its disks
//! are made of.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use everpoint_nbd::NbdAddress;

use super::mounts::Mounts;
use super::process::SELF;
use crate::config::AgentConfig;
use crate::error::FreezeError;

/// What agent and freezer print into.
const STANDARD_ERROR: &str = "/proc/self/fd/2";

/// A place, and what it is called in the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    name: &'static str,
    path: PathBuf,
}

impl Place {
    pub(crate) fn new(name: &'static str, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { name, path }
    }

    /// A disk's source, unless another program serves it.
    pub(crate) fn source(source: &str) -> Option<Self> {
        let elsewhere = source.parse::<NbdAddress>().is_ok();
        (!elsewhere).then(|| Self::new("the source of a disk", source))
    }

    /// Those of the agent itself.
    pub(crate) fn of(config: &AgentConfig) -> Vec<Self> {
        let parent = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut places = vec![
            Self::new("state_dir", &config.state_dir),
            Self::new("control_socket", parent(&config.control_socket)),
            Self::new("tls.key", &config.tls.key),
            Self::new("the program", SELF),
            Self::new("its log", STANDARD_ERROR),
        ];
        places.extend(
            config
                .nbd
                .unix
                .as_deref()
                .map(|path| Self::new("nbd.unix", parent(path))),
        );
        let app = &config.app_points;
        let scripts = [
            ("app_points.pre_script", &app.pre_script),
            ("app_points.post_script", &app.post_script),
        ];
        places.extend(
            scripts
                .into_iter()
                .filter_map(|(name, path)| Some(Self::new(name, path.as_ref()?))),
        );
        places.extend(
            config
                .disks
                .iter()
                .filter_map(|disk| Self::source(&disk.source)),
        );
        places
    }
}

/// Tests that no place lies on one of `filesystems`. One that is not mounted yet is judged by its path alone.
///
/// # Errors
///
/// The first that does, or that cannot be looked at.
pub(crate) fn check(filesystems: &[PathBuf], places: &[Place]) -> Result<(), FreezeError> {
    for filesystem in filesystems {
        let opened = Mounts::open(std::slice::from_ref(filesystem));
        let device = match opened {
            Ok(mounts) => mounts
                .devices()
                .ok()
                .and_then(|devices| devices.first().copied()),
            // Its disk may be one that this agent serves: it is mounted later.
            Err(_) => None,
        };
        for place in places {
            let on_it = match device {
                Some(device) => device_of(&place.path).is_some_and(|found| found == device),
                None => place.path.starts_with(filesystem),
            };
            if on_it {
                return Err(FreezeError::Place {
                    path: filesystem.clone(),
                    name: place.name,
                    place: place.path.clone(),
                });
            }
        }
    }
    Ok(())
}

/// The device of the nearest part of a path that is there.
fn device_of(path: &Path) -> Option<u64> {
    let mut parts = path.ancestors();
    let found = parts.find_map(|part| match std::fs::metadata(part) {
        Ok(found) => Some(Some(found.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(None),
    });
    found.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_frozen_filesystem_is_named() {
        // The filesystem of processes is mounted everywhere, and is no other's.
        let filesystems = [PathBuf::from("/proc")];
        let here = [Place::new("state_dir", "/proc/self/not-there")];
        let error = check(&filesystems, &here).unwrap_err().to_string();
        assert!(
            error.contains("state_dir") && error.contains("/proc"),
            "{error}"
        );
        let elsewhere = [Place::new("state_dir", std::env::temp_dir())];
        assert!(check(&filesystems, &elsewhere).is_ok());
    }

    #[test]
    fn what_will_lie_on_one_that_is_not_mounted_yet_is_named_too() {
        let dir = tempfile::tempdir().unwrap();
        let filesystems = [dir.path().join("db")];
        let below = [Place::new("state_dir", dir.path().join("db/state"))];
        assert!(check(&filesystems, &below).is_err());
        let beside = [Place::new("state_dir", dir.path().join("state"))];
        assert!(check(&filesystems, &beside).is_ok());
    }

    #[test]
    fn a_source_that_another_program_serves_is_no_place() {
        assert!(Place::source("nbd://localhost/data").is_none());
        assert!(Place::source("/srv/data.raw").is_some());
    }
}
