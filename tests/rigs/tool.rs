//! Programs of others. One that is missing is a failure that names its package, never a test not run.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use xtask::tools::ALL;

use crate::rigs::child::finish;

/// No tool takes so long on the sizes that tests have.
const TOOL_TIME_MAX: Duration = Duration::from_secs(120);

/// A command of the program `name`.
///
/// # Errors
///
/// When it is not there, with the package that has it.
pub fn tool(name: &str) -> Result<Command> {
    let path = xtask::run::find(name).with_context(|| {
        let need = ALL.iter().find(|need| need.program == name);
        let package = need.map_or(name, |need| need.package);
        format!("{name} is missing: sudo apt-get install --yes {package}")
    })?;
    Ok(Command::new(path))
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
///
/// When it is missing, does not succeed, or takes too long.
pub async fn run<S: AsRef<std::ffi::OsStr>>(
    name: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<String> {
    let mut command = tool(name)?;
    command.args(args);
    finish(command, TOOL_TIME_MAX).await?.succeeded(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_named_with_its_package() {
        let error = run("no-such-program", ["--version"]).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("apt-get install --yes no-such-program"),
            "{error}"
        );
        assert!(ALL.iter().any(|need| need.program == "nbdcopy"));
    }
}
