//! Programs that stand in for clouds, the clouds' own clients, what checks templates for them, and what the witness of
//! the formats is written with: from the registries of npm and Python, pinned in `tests/rigs/clouds/`, installed below
//! `target/tools/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run;
use crate::workspace::Workspace;

/// Where what is pinned is written down.
const PINNED: &str = "tests/rigs/clouds";
/// The file that says, in an installation, what it was made from.
const MADE_FROM: &str = "made-from";

/// Where the installed programs lie.
#[derive(Debug, Clone)]
pub struct Clouds {
    node_modules: PathBuf,
    python: PathBuf,
}

impl Clouds {
    /// Where they lie, installed or not.
    #[must_use]
    pub fn of(workspace: &Workspace) -> Self {
        let tools = workspace.target.join("tools");
        Self {
            node_modules: tools.join("npm/node_modules"),
            python: tools.join("python"),
        }
    }

    /// The script that runs Azurite's blob service on Node.js.
    #[must_use]
    pub fn azurite(&self) -> PathBuf {
        self.node_modules.join("azurite/dist/src/blob/main.js")
    }

    /// A program of the Python environment.
    #[must_use]
    pub fn python(&self, program: &str) -> PathBuf {
        self.python.join("bin").join(program)
    }
}

/// Installs what is not there as it is pinned. Answers with what it installed.
///
/// # Errors
///
/// When a registry cannot be reached, or `npm` or `venv` fails.
pub fn provide(workspace: &Workspace) -> Result<Vec<&'static str>> {
    let clouds = Clouds::of(workspace);
    let mut installed = Vec::new();
    let npm = clouds.node_modules.parent().expect("it has a folder");
    let lock = pinned(workspace, "package-lock.json");
    if !is_made_from(npm, &lock)? {
        begin(npm)?;
        for file in ["package.json", "package-lock.json"] {
            fs::copy(pinned(workspace, file), npm.join(file))?;
        }
        let mut install = run::command(workspace, "npm");
        install.current_dir(npm).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]);
        run::run(install)?;
        fs::copy(&lock, npm.join(MADE_FROM))?;
        installed.push("azurite");
    }
    let requirements = pinned(workspace, "requirements.txt");
    if !is_made_from(&clouds.python, &requirements)? {
        begin(&clouds.python)?;
        let mut venv = run::command(workspace, "python3");
        venv.args(["-m", "venv"]).arg(&clouds.python);
        run::run(venv).context("on Debian, venv comes with: sudo apt-get install python3-venv")?;
        let mut install = run::command(workspace, clouds.python("pip"));
        install
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(&requirements);
        run::run(install)?;
        fs::copy(&requirements, clouds.python.join(MADE_FROM))?;
        installed.push("moto, the clients of Azure and S3, jsonschema, lz4, blake3");
    }
    Ok(installed)
}

fn pinned(workspace: &Workspace, file: &str) -> PathBuf {
    workspace.root.join(PINNED).join(file)
}

fn is_made_from(folder: &Path, wanted: &Path) -> Result<bool> {
    let wanted = fs::read(wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    Ok(fs::read(folder.join(MADE_FROM)).is_ok_and(|made| made == wanted))
}

/// An empty folder in the place of what is there.
fn begin(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(fs::create_dir_all(folder)?)
}
