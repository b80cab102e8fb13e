//! The workspace as cargo describes it: where it lies, and which benches and end-to-end tests it has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run;

/// The package whose tests drive the whole system; its test `tidy` only reads files and counts as a unit test.
pub const SYSTEM_TESTS: &str = "everpoint-tests";
/// The one test of [`SYSTEM_TESTS`] that needs nothing running.
pub const TIDY: &str = "tidy";

/// Cargo's description of the workspace, read once.
#[derive(Debug)]
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
    targets: Vec<Target>,
}

/// Something that cargo builds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    package: String,
    kind: String,
    name: String,
}

impl Workspace {
    /// The workspace that this program was built from.
    ///
    /// # Errors
    ///
    /// When `cargo metadata` fails or says something unexpected.
    pub fn here() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("xtask lies two folders below the workspace")?;
        let mut metadata = Command::new(run::cargo_path());
        metadata
            .current_dir(root)
            .args(["metadata", "--no-deps", "--format-version", "1"]);
        Self::from_metadata(&run::stdout_of(metadata)?)
    }

    fn from_metadata(json: &str) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_str(json).context("cargo metadata is not as expected")?;
        let targets = metadata
            .packages
            .into_iter()
            .flat_map(|package| {
                let name = package.name;
                package.targets.into_iter().map(move |target| Target {
                    package: name.clone(),
                    kind: target.kind.join("+"),
                    name: target.name,
                })
            })
            .collect();
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            targets,
        })
    }

    /// A workspace with nothing in it, for tests that write to one.
    #[cfg(test)]
    pub(crate) fn scratch(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            target: root.join("target"),
            targets: Vec::new(),
        }
    }

    /// Names of all benches, sorted.
    #[must_use]
    pub fn benches(&self) -> Vec<String> {
        self.names(|target| target.kind == "bench")
    }

    /// Names of the tests that drive the whole system, sorted.
    #[must_use]
    pub fn system_tests(&self) -> Vec<String> {
        self.names(|target| {
            target.package == SYSTEM_TESTS && target.kind == "test" && target.name != TIDY
        })
    }

    fn names(&self, wanted: impl Fn(&Target) -> bool) -> Vec<String> {
        let mut names: Vec<String> = self
            .targets
            .iter()
            .filter(|target| wanted(target))
            .map(|target| target.name.clone())
            .collect();
        names.sort();
        names
    }

    /// A program of this workspace, as `build` leaves it.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }
}

/// Those of `all` that `wanted` names; all of them when it names none.
///
/// # Errors
///
/// When a name is not among `all`; the message lists those that are.
pub fn chosen(all: Vec<String>, wanted: &[String], what: &str) -> Result<Vec<String>> {
    for name in wanted {
        if !all.contains(name) {
            bail!(
                "there is no {what} `{name}`; there are: {}",
                if all.is_empty() {
                    "none".into()
                } else {
                    all.join(", ")
                }
            );
        }
    }
    Ok(all
        .into_iter()
        .filter(|name| wanted.is_empty() || wanted.contains(name))
        .collect())
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    targets: Vec<MetadataTarget>,
}

#[derive(Deserialize)]
struct MetadataTarget {
    kind: Vec<String>,
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{
        "workspace_root": "/w", "target_directory": "/w/target",
        "packages": [
            {"name": "everpoint-tests", "targets": [
                {"kind": ["lib"], "name": "everpoint_tests"},
                {"kind": ["test"], "name": "tidy"},
                {"kind": ["test"], "name": "order"},
                {"kind": ["test"], "name": "kills"}]},
            {"name": "everpoint-vault", "targets": [{"kind": ["test"], "name": "contract"}]},
            {"name": "everpoint-benches", "targets": [{"kind": ["bench"], "name": "block"}]}
        ]}"#;

    #[test]
    fn tests_of_the_whole_system_are_those_of_one_package_without_the_tidy_one() {
        let workspace = Workspace::from_metadata(METADATA).unwrap();
        assert_eq!(workspace.system_tests(), ["kills", "order"]);
        assert_eq!(workspace.benches(), ["block"]);
    }

    #[test]
    fn a_name_that_nothing_has_is_refused_with_those_that_are_there() {
        let all = vec!["kills".to_owned(), "order".to_owned()];
        assert_eq!(chosen(all.clone(), &[], "test").unwrap(), all);
        assert_eq!(
            chosen(all.clone(), &["order".into()], "test").unwrap(),
            ["order"]
        );
        let refused = chosen(all, &["ordre".into()], "test")
            .unwrap_err()
            .to_string();
        assert_eq!(refused, "there is no test `ordre`; there are: kills, order");
    }
}
