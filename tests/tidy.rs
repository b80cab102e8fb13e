//! The house rules that a compiler does not check: floors, purity, signs on doors, room sizes, words.
//!
//! Each rule is a function from made-up or real files to findings, and a test that finds none in this
//! repository; `tidy/bites.rs` shows that each finds what it is for. A finding begins with file and line.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/bites.rs"]
mod bites;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/manifest.rs"]
mod manifest;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/tokens.rs"]
mod tokens;

use manifest::Manifest;

/// Where the project's own code lies.
const CODE: [&str; 4] = ["crates", "tests", "benches", "fuzz"];
/// What a build, a fuzzer or git leaves.
const NOT_OURS: [&str; 3] = ["target", ".git", "generated"];

/// A file with its path from the root of the repository.
#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    fn finding(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }
}

#[test]
fn every_crate_has_its_place_on_the_floor_plan() {
    none(floors::unplanned(&crates()));
}

#[test]
fn a_crate_uses_only_crates_on_lower_floors() {
    none(floors::rising(&crates(), &workspace()));
}

#[test]
fn pure_crates_depend_on_nothing_that_acts() {
    none(floors::impure_dependencies(&crates(), &workspace()));
}

#[test]
fn pure_crates_name_nothing_that_acts() {
    none(floors::impure_names(&code()));
}

#[test]
fn cores_of_roles_use_only_what_is_pure() {
    none(floors::cores_that_reach_out(
        &code(),
        &crates(),
        &workspace(),
    ));
}

#[test]
fn every_package_keeps_the_lints_of_the_workspace() {
    none(manifest::without_lints(&packages()));
}

#[test]
fn every_dependency_is_one_of_the_workspace() {
    none(manifest::own_versions(&packages()));
}

#[test]
fn only_programs_and_tests_have_errors_without_a_type() {
    none(manifest::untyped_errors(&crates(), &workspace()));
}

#[test]
fn every_file_has_a_sign_on_its_door() {
    let generated = rust_files("crates", &["target"]);
    none(rooms::without_a_sign(&[code(), generated].concat()));
}

#[test]
fn no_file_has_more_than_one_thing_to_say() {
    none(rooms::too_long(&code()));
}

#[test]
fn a_function_fits_two_screens() {
    none(rooms::long_functions(&code()));
}

#[test]
fn a_module_is_a_file_of_its_name() {
    none(rooms::badly_named(&code()));
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    none(rooms::unfinished(&code()));
}

#[test]
fn every_bug_and_every_mark_that_is_listed_stands_in_the_code() {
    none(planted::unplanted(&code()));
    none(planted::unmarked(&code()));
}

#[test]
fn the_architecture_names_every_crate() {
    let readme = root().join("crates/README.md");
    let text = fs::read_to_string(&readme).expect("crates/README.md is the architecture");
    let readme = Source::new("crates/README.md", text);
    none(floors::unnamed(&readme, &crates()));
}

fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent();
    root.expect("tests/ lies in the repository").to_path_buf()
}

fn code() -> Vec<Source> {
    let files = CODE.map(|folder| rust_files(folder, &NOT_OURS));
    files.concat()
}

fn workspace() -> Manifest {
    manifest("Cargo.toml")
}

/// The crates on the floors.
fn crates() -> Vec<Manifest> {
    let folders = fs::read_dir(root().join("crates")).expect("the workspace has crates/");
    let folders = folders.map(|entry| entry.expect("readable").path());
    let mut names: Vec<String> = folders
        .filter(|path| path.join("Cargo.toml").is_file())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "crates/ is empty");
    let manifests = names.iter().map(|name| format!("crates/{name}/Cargo.toml"));
    manifests.map(|path| manifest(&path)).collect()
}

/// The crates, and the packages beside them.
fn packages() -> Vec<Manifest> {
    let mut packages = crates();
    packages.push(manifest("tests/Cargo.toml"));
    packages.push(manifest("benches/Cargo.toml"));
    packages
}

fn manifest(path: &str) -> Manifest {
    let text = fs::read_to_string(root().join(path)).expect("every package has a manifest");
    Manifest::parse(Source::new(path, text))
}

/// Rust files below a folder of the repository, but for those in folders named `left_out`.
fn rust_files(folder: &str, left_out: &[&str]) -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    let mut unread = vec![root.join(folder)];
    while let Some(folder) = unread.pop() {
        for entry in fs::read_dir(folder).expect("the folders of CODE are there") {
            let path = entry.expect("readable").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() {
                if !left_out.iter().any(|left_out| name == *left_out) {
                    unread.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("listed a moment ago");
            let path = path.strip_prefix(&root).expect("below the root");
            Source::new(path, text)
        })
        .collect()
}
