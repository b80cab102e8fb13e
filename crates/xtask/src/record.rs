//! What a run of a chore leaves behind: one JSON file with the commit, the machine, and what was counted.
//!
//! Records lie in `target/reliability/`, one a run, and are never changed. [`crate::reliability`] makes a
//! page of those that are of the present product. *The product* is what decides whether figures still
//! hold: sources, messages, fuzz targets and the lock file. A commit that changes only documents, adds
//! tests, or shows the figures in another way, has the same product, and its figures stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::{command, run, stdout_of};
use crate::workspace::Workspace;

/// What the product is made of, as patterns of git from the root of the workspace.
const PRODUCT: [&str; 13] = [
    "crates",
    "proto",
    "fuzz",
    "Cargo.toml",
    "Cargo.lock",
    ":(exclude,glob)crates/**/*.md",
    ":(exclude,glob)crates/**/tests.rs",
    ":(exclude,glob)crates/**/tests/**",
    ":(exclude,glob)crates/**/benches/**",
    ":(exclude)crates/xtask/mutants-accepted.txt",
    ":(exclude)crates/xtask/src/record.rs",
    ":(exclude)crates/xtask/src/reliability.rs",
    ":(exclude,glob)crates/xtask/src/reliability/**",
];
/// What stands where git does not answer: a tree without its history.
const UNKNOWN: &str = "unknown";

/// A run, and what it counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The chore: `simulate`, `model`, `fuzz`, `mutants`, `planted`.
    pub kind: String,
    pub version: Version,
    /// The command line that does it again.
    pub command: String,
    /// UTC, as `2026-11-27T19:20:05Z`.
    pub started: String,
    pub seconds: f64,
    pub machine: Machine,
    /// What the chore counted; each has its own.
    pub counts: Value,
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The full hash.
    pub commit: String,
    /// The product's files are not those of the commit.
    pub dirty: bool,
    /// Digest of the product's files as they are committed.
    pub product: String,
}

/// On what it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
}

/// A run that has begun.
#[derive(Debug)]
pub struct Recording {
    kind: &'static str,
    version: Version,
    command: String,
    started: String,
    begun: Instant,
}

impl Version {
    /// The version of the workspace as it is now; [`UNKNOWN`] and dirty where git does not answer.
    #[must_use]
    pub fn of(workspace: &Workspace) -> Self {
        Self::asked(workspace).unwrap_or_else(|_| Self {
            commit: UNKNOWN.to_owned(),
            dirty: true,
            product: UNKNOWN.to_owned(),
        })
    }

    /// Whether what is committed now is the product that was run there; false where git does not know that commit.
    #[must_use]
    pub fn is_product_of(&self, workspace: &Workspace, ran: &Self) -> bool {
        if ran.dirty || self.dirty {
            return false;
        }
        let mut git = command(workspace, "git");
        git.args(["diff", "--quiet", &ran.commit, &self.commit, "--"]);
        let differs = git
            .args(PRODUCT)
            .stderr(std::process::Stdio::null())
            .status();
        differs.is_ok_and(|status| status.success())
    }

    /// The commit in few letters, and whether it is more than that.
    #[must_use]
    pub fn name(&self) -> String {
        let short: String = self.commit.chars().take(12).collect();
        match self.dirty {
            true => format!("{short}, changed"),
            false => short,
        }
    }

    fn asked(workspace: &Workspace) -> Result<Self> {
        let of_product = |args: &[&str]| {
            let mut git = command(workspace, "git");
            git.args(args).arg("--").args(PRODUCT);
            stdout_of(git)
        };
        let mut head = command(workspace, "git");
        head.args(["rev-parse", "HEAD"]);
        let commit = stdout_of(head)?.trim().to_owned();
        let dirty = !of_product(&["status", "--porcelain"])?.trim().is_empty();
        let product = digest(&of_product(&["ls-files", "-s"])?);
        Ok(Self {
            commit,
            dirty,
            product,
        })
    }
}

/// The first 16 digits of the hash of git's own list of files and hashes.
fn digest(listed: &str) -> String {
    let hex = blake3::hash(listed.as_bytes()).to_hex();
    hex[..16].to_owned()
}

impl Recording {
    /// Begins a run of `kind`, which `cargo xtask` with `args` does again.
    ///
    /// # Errors
    ///
    /// When the date cannot be had.
    pub fn begin(workspace: &Workspace, kind: &'static str, args: &[String]) -> Result<Self> {
        let mut date = command(workspace, "date");
        date.args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]);
        let words = ["cargo", "xtask", kind].into_iter();
        let words = words.chain(args.iter().map(String::as_str));
        Ok(Self {
            kind,
            version: Version::of(workspace),
            command: words.collect::<Vec<_>>().join(" "),
            started: stdout_of(date)?.trim().to_owned(),
            begun: Instant::now(),
        })
    }

    /// What is run.
    #[must_use]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// Ends the run and keeps what it counted. Answers with where.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn end(self, workspace: &Workspace, counts: Value) -> Result<PathBuf> {
        let folder = folder(workspace);
        let time: String = self.started.split(['-', ':']).collect();
        let name = format!("{}-{time}-{}.json", self.kind, std::process::id());
        let record = Record {
            kind: self.kind.to_owned(),
            version: self.version,
            command: self.command,
            started: self.started,
            seconds: self.begun.elapsed().as_secs_f64(),
            machine: Machine::here(),
            counts,
        };
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(&record)? + "\n";
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write the record {}", path.display()))?;
        Ok(path)
    }
}

impl Machine {
    fn here() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let name = name.and_then(|name| name.split_once(':'));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: name.map_or(UNKNOWN, |(_, name)| name.trim()).to_owned(),
        }
    }
}

/// All records, by name, which is by kind and time.
///
/// # Errors
///
/// When one cannot be read, or is none.
pub fn all(workspace: &Workspace) -> Result<Vec<Record>> {
    let folder = folder(workspace);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(read).collect()
}

fn read(path: &PathBuf) -> Result<Record> {
    let text = fs::read_to_string(path)?;
    match serde_json::from_str(&text) {
        Ok(record) => Ok(record),
        Err(error) => bail!("{} is no record ({error}): remove it", path.display()),
    }
}

impl Recording {
    /// Runs a program that counts for itself, told by `--record FILE` where to; the record is kept whether it
    /// succeeds or not.
    ///
    /// # Errors
    ///
    /// When it does not succeed, or what it counted cannot be kept.
    pub fn of_program(self, workspace: &Workspace, mut program: Command) -> Result<()> {
        self.of(workspace, |counts| {
            program.arg("--record").arg(counts);
            run(program)
        })
    }

    /// Does what writes its counts to the file that it is told, and keeps them, whatever comes of it.
    ///
    /// # Errors
    ///
    /// Those of what is done, or when what was counted cannot be kept.
    pub fn of<T>(self, workspace: &Workspace, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let folder = folder(workspace);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let counts = folder.join(format!("{}-{}.counts", self.kind, std::process::id()));
        let done = work(&counts);
        if counts.is_file() {
            let text = fs::read_to_string(&counts)?;
            fs::remove_file(&counts)?;
            let counts = serde_json::from_str(&text).context("what it counted is no JSON")?;
            let path = self.end(workspace, counts)?;
            eprintln!("recorded in {}", path.display());
        }
        done
    }
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("reliability")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recorded(workspace: &Workspace, kind: &'static str, counts: Value) -> PathBuf {
        let args = ["--seeds".to_owned(), "9".to_owned()];
        let recording = Recording::begin(workspace, kind, &args).unwrap();
        recording.end(workspace, counts).unwrap()
    }

    #[test]
    fn what_a_run_counted_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::scratch(folder.path());
        assert_eq!(all(&workspace).unwrap(), []);
        let path = recorded(&workspace, "simulate", json!({"events": 7}));
        assert!(path.starts_with(folder.path().join("target/reliability")));
        let records = all(&workspace).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].command, "cargo xtask simulate --seeds 9");
        assert_eq!(records[0].counts, json!({"events": 7}));
        assert!(0 < records[0].machine.cores);
    }

    #[test]
    fn only_what_changes_the_product_makes_it_another() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::scratch(folder.path());
        let git = |args: &[&str]| {
            let mut git = command(&workspace, "git");
            git.args(["-c", "user.name=a", "-c", "user.email=a@b"]);
            git.args(args);
            stdout_of(git).unwrap();
        };
        let commit = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
            git(&["add", name]);
            git(&["commit", "--quiet", "--message", name]);
            Version::of(&workspace)
        };
        git(&["init", "--quiet"]);
        let ran = commit("crates/everpoint-units/src/lib.rs");
        for name in [
            "README.md",
            "crates/README.md",
            "crates/xtask/src/reliability/sections.rs",
        ] {
            assert!(commit(name).is_product_of(&workspace, &ran), "{name}");
        }
        let other = commit("crates/everpoint-units/src/time.rs");
        assert!(!other.is_product_of(&workspace, &ran));
        assert!(other.is_product_of(&workspace, &other));
        let dirty = Version {
            dirty: true,
            ..other.clone()
        };
        assert!(!other.is_product_of(&workspace, &dirty));
        let unknown = Version {
            commit: "c0ffee".repeat(6) + "c0ff",
            ..other.clone()
        };
        assert!(!other.is_product_of(&workspace, &unknown));
    }

    #[test]
    fn a_tree_without_history_is_of_no_version() {
        let folder = tempfile::tempdir().unwrap();
        let version = Version::of(&Workspace::scratch(folder.path()));
        assert_eq!((version.commit.as_str(), version.dirty), (UNKNOWN, true));
    }

    #[test]
    fn the_digest_is_of_names_and_hashes() {
        let listed = "100644 0123 0\tCargo.toml\n";
        assert_eq!(digest(listed), digest(listed));
        assert_ne!(digest(listed), digest(&listed.replace("0123", "0124")));
        assert_eq!(digest(listed).len(), 16);
    }

    #[test]
    fn a_file_that_is_no_record_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::scratch(folder.path());
        let path = recorded(&workspace, "model", json!({}));
        fs::write(&path, "half a rec").unwrap();
        let error = all(&workspace).unwrap_err().to_string();
        assert!(error.contains("is no record") && error.ends_with("remove it"));
    }

    #[test]
    fn what_a_program_counts_is_kept_whether_it_succeeds_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::scratch(folder.path());
        let ran = |script: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script, "counting"]);
            let recording = Recording::begin(&workspace, "model", &[]).unwrap();
            recording.of_program(&workspace, shell)
        };
        assert!(ran("exit 1").is_err());
        assert_eq!(all(&workspace).unwrap(), []);
        assert!(ran(r#"echo '{"worlds": 3}' > "$2"; exit 3"#).is_err());
        let records = all(&workspace).unwrap();
        assert_eq!(records[0].counts, json!({"worlds": 3}));
        let left = super::folder(&workspace).read_dir().unwrap().count();
        assert_eq!(left, 1, "the record alone");
    }
}
