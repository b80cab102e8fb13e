//! The build that carries planted bugs and counts marks, and the hunt for them in the simulated world.
//!
//! Only the workspace's own crates are built with `--cfg planted`, by a wrapper round the compiler;
//! dependencies are those of every other build. Cargo keeps both builds of a crate, but leaves the
//! finished program in one place: it is copied to `target/planted`, and so are two programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::record::Recording;
use crate::run::{cargo, command, run, stdout_of};
use crate::workspace::Workspace;

/// The name of its records.
const KIND: &str = "planted";
/// Hands the compiler what it is told, and the one word more.
const WRAPPER: &str = "#!/bin/sh\nexec \"$@\" --cfg planted\n";

/// Builds the example `name` of a crate of this workspace with everything that can be planted in it.
/// Returns where it lies.
///
/// # Errors
///
/// When it does not build, or `target/planted` cannot be written to.
pub fn build_example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.target.join("planted");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Of the whole workspace, so that its features, and with them its dependencies, are those of the tests.
    let mut build = cargo(
        workspace,
        ["build", "--release", "--workspace", "--example", name],
    );
    build.env("RUSTC_WORKSPACE_WRAPPER", wrapper(&folder)?);
    run(build)?;
    let built = workspace.target.join("release/examples").join(name);
    let program = folder.join(name);
    // A program that runs cannot be written to, but it can be replaced.
    let beside = folder.join(format!("{name}.new"));
    fs::copy(&built, &beside)
        .and_then(|_| fs::rename(&beside, &program))
        .with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(program)
}

/// The wrapper round the compiler. It is written once: cargo builds anew when it changes.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("rustc");
    if fs::read_to_string(&path).is_ok_and(|found| found == WRAPPER) {
        return Ok(path);
    }
    fs::write(&path, WRAPPER)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Runs `hunt` of `everpoint-simulation` with these arguments. It prints what it finds, and leaves a record.
///
/// # Errors
///
/// When it does not build, a bug was not found or a mark not reached.
pub fn hunt(workspace: &Workspace, args: &[String]) -> Result<()> {
    let program = build_example(workspace, "hunt")?;
    let mut hunt = command(workspace, program);
    hunt.args(args);
    Recording::begin(workspace, KIND, args)?.of_program(workspace, hunt)
}

/// The part of the test command: a build with the bugs does what one without them does until a bug is
/// chosen; bugs that are found soon are found, and marks that are reached often are reached.
///
/// # Errors
///
/// As [`hunt`], or when the two builds differ.
pub fn part(workspace: &Workspace) -> Result<String> {
    run(cargo(
        workspace,
        ["build", "--release", "--workspace", "--example", "hunt"],
    ))?;
    let without = history(workspace, &workspace.target.join("release/examples/hunt"))?;
    let program = build_example(workspace, "hunt")?;
    let with = history(workspace, &program)?;
    ensure!(without == with, "no bug is chosen, and the world differs");
    for what in [&["--brief", "--marks"][..], &["--brief"]] {
        let mut hunt = command(workspace, &program);
        hunt.args(what);
        run(hunt)?;
    }
    Ok("bugs are found, marks are reached: the brief lists".to_owned())
}

/// What the first seeds do without a bug.
fn history(workspace: &Workspace, program: &Path) -> Result<String> {
    let mut hunt = command(workspace, program);
    hunt.arg("--history");
    stdout_of(hunt)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_wrapper_hands_on_what_it_is_told_and_adds_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let wrapper = wrapper(folder.path()).unwrap();
        let said = Command::new(&wrapper).args(["echo", "a b"]).output();
        assert_eq!(said.unwrap().stdout, b"a b --cfg planted\n");
        let written = fs::metadata(&wrapper).unwrap().modified().unwrap();
        super::wrapper(folder.path()).unwrap();
        let again = fs::metadata(&wrapper).unwrap().modified().unwrap();
        assert_eq!(written, again, "it is written once");
    }
}
