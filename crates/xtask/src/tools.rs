//! The programs that the tests need: installed where that is allowed, otherwise named with the command
//! that installs them.
//!
//! System packages come by apt, and only where this runs as root. cargo-deny and cargo-mutants are built
//! from source, once, into `target/tools`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;
use crate::workspace::Workspace;

/// A program that is not part of the Rust toolchain, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub program: &'static str,
    pub package: &'static str,
    /// The package that had it in an older Debian; tried where the other does not bring the program.
    pub older_package: Option<&'static str>,
}

/// The linker, and the compiler of the crates that bring C.
pub const C_COMPILER: Need = need("cc", "gcc");
/// The compiler of the fuzzer's runtime.
pub const CXX_COMPILER: Need = need("c++", "g++");
/// Makes and checks the filesystems of disk images.
pub const MKE2FS: Need = need("mke2fs", "e2fsprogs");

/// Everything that some part needs.
pub const ALL: [Need; 22] = [
    C_COMPILER,
    CXX_COMPILER,
    MKE2FS,
    need("e2fsck", "e2fsprogs"),
    need("losetup", "mount"),
    need("mount", "mount"),
    need("fsfreeze", "util-linux"),
    need("setpriv", "util-linux"),
    need("unshare", "util-linux"),
    need("qemu-img", "qemu-utils"),
    need("qemu-nbd", "qemu-utils"),
    Need {
        older_package: Some("qemu-system-common"),
        ..need("qemu-storage-daemon", "qemu-utils")
    },
    need("nbdcopy", "libnbd-bin"),
    need("nbdinfo", "libnbd-bin"),
    need("nbdfuse", "libnbd-bin"),
    need("fusermount3", "fuse3"),
    need("fio", "fio"),
    need("nbdkit", "nbdkit"),
    need("strace", "strace"),
    need("node", "nodejs"),
    need("npm", "npm"),
    need("python3", "python3-venv"),
];

/// What `deny` runs. It builds on the pinned toolchain.
pub const CARGO_DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
    version_args: &["--version"],
};
/// What `mutants` runs. It builds on the pinned toolchain.
pub const CARGO_MUTANTS: CargoTool = CargoTool {
    name: "cargo-mutants",
    version: "27.1.0",
    version_args: &["mutants", "--version"],
};

const fn need(program: &'static str, package: &'static str) -> Need {
    Need {
        program,
        package,
        older_package: None,
    }
}

/// Sees to it that every program of `needs` is there. Answers with the packages that it installed.
///
/// # Errors
///
/// When something is missing that it may not, or cannot, install. The message names the programs and the
/// command that installs them.
pub fn provide(workspace: &Workspace, needs: &[Need]) -> Result<Vec<&'static str>> {
    let missing = missing(needs, |program| run::find(program).is_some());
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    if !rustix::process::geteuid().is_root() || run::find("apt-get").is_none() {
        bail!(how_to_install(&missing));
    }
    let mut installed = packages(missing.iter().map(|need| need.package));
    install(workspace, &installed)?;
    let mut still = self::missing(&missing, |program| run::find(program).is_some());
    let older = packages(still.iter().filter_map(|need| need.older_package));
    if !older.is_empty() {
        install(workspace, &older)?;
        installed.extend(older);
        still = self::missing(&still, |program| run::find(program).is_some());
    }
    if !still.is_empty() {
        bail!(how_to_install(&still));
    }
    Ok(installed)
}

fn missing(needs: &[Need], is_there: impl Fn(&str) -> bool) -> Vec<Need> {
    let needs = needs.iter().copied();
    needs.filter(|need| !is_there(need.program)).collect()
}

fn packages(named: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let packages: BTreeSet<_> = named.collect();
    packages.into_iter().collect()
}

fn how_to_install(missing: &[Need]) -> String {
    let programs: Vec<_> = missing.iter().map(|need| need.program).collect();
    let command = packages(missing.iter().map(|need| need.package)).join(" ");
    let older = packages(missing.iter().filter_map(|need| need.older_package)).join(" ");
    let older = if older.is_empty() {
        older
    } else {
        format!(" (on an older one, with {older})")
    };
    format!(
        "missing: {}; on Debian they come with: sudo apt-get install --yes {command}{older}",
        programs.join(", ")
    )
}

fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let apt_get = |action: &str| {
        let mut apt_get = run::command(workspace, "apt-get");
        apt_get.env("DEBIAN_FRONTEND", "noninteractive").args([
            "-qq",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Dpkg::Use-Pty=0",
            action,
        ]);
        apt_get
    };
    if let Err(error) = run::run(apt_get("update")) {
        // The lists that are there may do; if not, the installation says so.
        eprintln!("warning: {error:#}");
    }
    let mut install = apt_get("install");
    install.args(["--yes", "--no-install-recommends"]);
    install.args(packages);
    run::run(install)
}

/// A tool of cargo's that is built from source.
#[derive(Debug, Clone, Copy)]
pub struct CargoTool {
    pub name: &'static str,
    version: &'static str,
    /// What asks for its version.
    version_args: &'static [&'static str],
}

/// Such a tool, and whether it was built just now.
#[derive(Debug)]
pub struct Built {
    pub program: PathBuf,
    pub is_new: bool,
}

/// The tool in the wanted version, built first if it is not there.
///
/// It is built without optimisation: that takes a fifth of the time, and what it does itself takes a second.
///
/// # Errors
///
/// When it cannot be built.
pub fn cargo_tool(workspace: &Workspace, tool: CargoTool) -> Result<Built> {
    let tools = workspace.target.join("tools");
    let program = tools.join("bin").join(tool.name);
    if is_wanted(workspace, tool, &program) {
        return Ok(Built {
            program,
            is_new: false,
        });
    }
    let build = tools.join("build");
    let mut install = run::cargo(workspace, ["install", "--quiet", "--locked", "--force"]);
    install
        .args(["--debug", "--config", "profile.dev.debug=false"])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build)
        .arg(format!("{}@={}", tool.name, tool.version));
    run::run(install)?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(Built {
        program,
        is_new: true,
    })
}

fn is_wanted(workspace: &Workspace, tool: CargoTool, program: &Path) -> bool {
    let mut version = run::command(workspace, program);
    version.args(tool.version_args);
    let wanted = format!("{} {}", tool.name, tool.version);
    program.is_file() && run::stdout_of(version).is_ok_and(|said| said.trim() == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_one_command_that_installs_it() {
        let missing = missing(&ALL, |program| {
            !["c++", "nbdcopy", "nbdinfo", "nbdfuse"].contains(&program)
        });
        assert_eq!(
            how_to_install(&missing),
            "missing: c++, nbdcopy, nbdinfo, nbdfuse; on Debian they come with: \
             sudo apt-get install --yes g++ libnbd-bin"
        );
    }

    #[test]
    fn the_package_that_an_older_debian_has_is_named_beside() {
        let missing = missing(&ALL, |program| program != "qemu-storage-daemon");
        assert!(
            how_to_install(&missing)
                .ends_with("--yes qemu-utils (on an older one, with qemu-system-common)")
        );
    }

    #[test]
    fn nothing_is_missing_where_everything_is_there() {
        assert!(missing(&ALL, |_| true).is_empty());
    }
}
