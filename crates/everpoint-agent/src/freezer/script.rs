//! Programs of the operator that make an application hold still, and let it go on.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::error::ScriptError;

/// Which script is run, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScriptSpec<'a> {
    pub(crate) path: &'a Path,
    /// The point that it is run for, in `EVERPOINT_POINT`.
    pub(crate) point: &'a str,
    pub(crate) within: Duration,
}

/// Kills what a script has started when it is dropped, unless that is over.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

/// Runs a script to its end. One that takes too long is killed, with all that it started in its group.
///
/// # Errors
///
/// See [`ScriptError`].
pub(crate) async fn run_script(spec: ScriptSpec<'_>) -> Result<(), ScriptError> {
    let path = || spec.path.to_path_buf();
    let mut command = Command::new(spec.path);
    command
        .env("EVERPOINT_POINT", spec.point)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    let child = command.spawn().map_err(|source| ScriptError::NotRun {
        path: path(),
        source,
    })?;
    let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut group = Group { child, leader };
    match timeout(spec.within, group.child.wait()).await {
        Ok(Ok(status)) => {
            group.leader = None;
            if status.success() {
                Ok(())
            } else {
                Err(ScriptError::Failed {
                    path: path(),
                    status,
                })
            }
        }
        Ok(Err(source)) => Err(ScriptError::NotRun {
            path: path(),
            source,
        }),
        Err(_) => Err(ScriptError::TooLong {
            path: path(),
            within: spec.within,
        }),
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // Not waited for yet, so the number is still its own.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn run(text: &str, within: Duration) -> Result<(), ScriptError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let spec = ScriptSpec {
            path: &path,
            point: "nightly",
            within,
        };
        run_script(spec).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_script_hears_of_its_point_and_its_failure_is_told_apart_from_its_silence() {
        let heard = run("test \"$EVERPOINT_POINT\" = nightly", LONG).await;
        assert!(heard.is_ok(), "{heard:?}");
        let failed = run("exit 3", LONG).await.unwrap_err();
        assert!(matches!(failed, ScriptError::Failed { .. }), "{failed}");
        let late = run("sleep 60", Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(matches!(late, ScriptError::TooLong { .. }), "{late}");
    }

    #[tokio::test]
    async fn a_script_that_is_not_there_is_not_run() {
        let spec = ScriptSpec {
            path: Path::new("/no/such/script"),
            point: "nightly",
            within: LONG,
        };
        let missing = run_script(spec).await.unwrap_err();
        assert!(matches!(missing, ScriptError::NotRun { .. }), "{missing}");
    }
}
