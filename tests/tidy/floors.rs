//! The floor plan: who may use whom, and what the pure floors do not know.

use std::path::{Component, Path};

use super::Source;
use super::manifest::{Manifest, Use};
use super::tokens;

/// Every crate, by floor from the lowest. A crate uses only crates on lower floors, and no neighbour, so
/// that no circle can form and no arrow can run back up. Crates to come have their places already.
const FLOORS: [&[&str]; 7] = [
    &["everpoint-marks", "everpoint-units"],
    &["everpoint-format"],
    &[
        "everpoint-capture",
        "everpoint-journal",
        "everpoint-protection",
        "everpoint-reduction",
        "everpoint-replication",
        "everpoint-wire",
    ],
    &[
        "everpoint-cache-log",
        "everpoint-catalog",
        "everpoint-fuse",
        "everpoint-nbd",
        "everpoint-replica",
        "everpoint-transport",
        "everpoint-vault",
    ],
    &[
        "everpoint-agent",
        "everpoint-control-plane",
        "everpoint-process-server",
        "everpoint-retention",
    ],
    &[
        "everpoint-loadtest",
        "everpoint-quickstart",
        "everpoint-simulation",
    ],
    &["everpoint", "xtask"],
];

/// The highest floor whose crates decide and never act: no runtime, no file, no socket, no clock, no
/// random numbers. They run in production and in the simulation unchanged.
const PURE_FLOORS_MAX: usize = 3;
/// The floor of the roles. Their decisions lie in `*_core.rs` and `*_core/`, which are pure too.
const ROLES_FLOOR: usize = 5;

/// What a pure crate may use beside our own. Whoever adds to this has seen that it does not act.
const PURE_DEPENDENCIES: [&str; 7] = [
    "blake3",
    "bytes",
    "crc-fast",
    "crc32fast",
    "lz4_flex",
    "prost",
    "thiserror",
];

/// Plain values of crates that act: a number, a place. Cores of roles may name them.
const PURE_ITEMS: [&str; 5] = [
    "everpoint_cache_log::LogPosition",
    "everpoint_replica::Fence",
    "everpoint_replica::Remedy",
    "everpoint_replica::TARGET_LEN_MAX",
    "everpoint_transport::CloseReason",
];

/// What a pure crate does not name, and what it does instead.
const IMPURE_NAMES: [(&str, &str); 17] = [
    ("std::fs", "a shell reads and writes"),
    ("std::net", "a shell has the sockets"),
    ("std::os", "a shell has the descriptors"),
    ("std::thread", "a shell has the threads"),
    ("std::process", "a shell starts and ends programs"),
    ("std::env", "settings are arguments"),
    ("std::io::stdin", "a shell reads"),
    ("std::io::stdout", "a shell prints"),
    ("println", "a shell prints"),
    ("eprintln", "a shell prints"),
    ("Instant", "time is an argument, a Moment"),
    ("SystemTime", "time is an argument, a WallTime"),
    ("Mutex", "a core has one owner"),
    ("RwLock", "a core has one owner"),
    ("RandomState", "its order differs from run to run"),
    (
        "HashMap",
        "its order differs from run to run: a BTreeMap's does not",
    ),
    (
        "HashSet",
        "its order differs from run to run: a BTreeSet's does not",
    ),
];

/// The floor of a crate, from 1.
fn floor(name: &str) -> Option<usize> {
    let index = FLOORS.iter().position(|names| names.contains(&name));
    index.map(|index| index + 1)
}

fn is_pure(name: &str) -> bool {
    floor(name).is_some_and(|floor| floor <= PURE_FLOORS_MAX)
}

/// Whether a package may stand below code that decides.
fn is_pure_package(package: &str) -> bool {
    PURE_DEPENDENCIES.contains(&package) || is_pure(package)
}

/// Crates without a place, or in a folder of another name.
pub(crate) fn unplanned(crates: &[Manifest]) -> Vec<String> {
    let mut findings = Vec::new();
    for found in crates {
        if floor(&found.name).is_none() {
            let what = format!("`{}` has no place on the floor plan", found.name);
            findings.push(found.source.finding(1, what));
        }
        if crate_of(&found.source.path) != Some(found.name.as_str()) {
            let what = format!("`{}` lies in a folder of another name", found.name);
            findings.push(found.source.finding(1, what));
        }
    }
    findings
}

/// Arrows that do not lead down, those of tests and build scripts too.
pub(crate) fn rising(crates: &[Manifest], workspace: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    for user in crates {
        for used in &user.dependencies {
            let package = used.package(workspace);
            let (Some(from), Some(to)) = (floor(&user.name), floor(package)) else {
                continue;
            };
            if from <= to {
                let what = format!(
                    "{} (floor {from}) uses {package} (floor {to}): only lower floors",
                    user.name
                );
                findings.push(user.source.finding(used.line, what));
            }
        }
    }
    findings
}

/// What pure crates build on and is not known to be pure.
pub(crate) fn impure_dependencies(crates: &[Manifest], workspace: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    for user in crates.iter().filter(|user| is_pure(&user.name)) {
        for used in &user.dependencies {
            let package = used.package(workspace);
            let known = PURE_DEPENDENCIES.contains(&package) || floor(package).is_some();
            if used.used_for == Use::Build && !known {
                let what = format!("{} must stay pure and uses {package}", user.name);
                findings.push(user.source.finding(used.line, what));
            }
        }
    }
    findings
}

/// What the shipped code of pure crates, and of the cores of roles, names and may not. Comments, texts
/// and tests do not count.
pub(crate) fn impure_names(sources: &[Source]) -> Vec<String> {
    let only_tests = tokens::test_files(sources);
    let mut findings = Vec::new();
    for source in sources {
        let pure = crate_of(&source.path).is_some_and(is_pure) && is_below_src(&source.path);
        let pure = pure || depth_in_core(&source.path).is_some();
        if !pure || only_tests.contains(&source.path) {
            continue;
        }
        for named in tokens::shipped_paths(&source.text) {
            for (impure, instead) in IMPURE_NAMES {
                if names(&named.path, impure) {
                    let what = format!("pure code names {}: {instead}", named.path);
                    findings.push(source.finding(named.line, what));
                }
            }
        }
    }
    findings
}

/// Where the cores of roles reach for what is not pure: packages that act, and files of their own crate
/// that are no cores.
pub(crate) fn cores_that_reach_out(
    sources: &[Source],
    crates: &[Manifest],
    workspace: &Manifest,
) -> Vec<String> {
    let only_tests = tokens::test_files(sources);
    let mut findings = Vec::new();
    for source in sources {
        let Some(depth) = depth_in_core(&source.path) else {
            continue;
        };
        if only_tests.contains(&source.path) {
            continue;
        }
        let name = crate_of(&source.path);
        let own = crates.iter().find(|own| Some(own.name.as_str()) == name);
        let used = own.map_or(&[][..], |own| &own.dependencies);
        let acts = used
            .iter()
            .filter(|used| !is_pure_package(used.package(workspace)));
        let acts: Vec<String> = acts.map(|used| used.alias.replace('-', "_")).collect();
        for named in tokens::shipped_paths(&source.text) {
            if leaves(&named.path, depth, &acts) {
                let what = format!("a core names {}, which may act", named.path);
                findings.push(source.finding(named.line, what));
            }
        }
    }
    findings
}

/// Whether a path leads out of the cores. `depth`: how many modules up is still inside.
fn leaves(path: &str, depth: usize, acts: &[String]) -> bool {
    let segments: Vec<&str> = path.split("::").collect();
    let into_core = segments.iter().any(|segment| segment.ends_with("_core"));
    match segments[..] {
        [] | [_] => false,
        ["crate", ..] => !into_core,
        ["super", ..] => {
            let up = segments.iter().take_while(|segment| **segment == "super");
            depth < up.count() && !into_core
        }
        [first, ..] => !PURE_ITEMS.contains(&path) && acts.iter().any(|acts| acts == first),
    }
}

/// Crates that the architecture does not speak of.
pub(crate) fn unnamed(readme: &Source, crates: &[Manifest]) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let words: Vec<&str> = readme.text.split(|c| !is_part(c)).collect();
    let unnamed = crates
        .iter()
        .filter(|found| !words.contains(&found.name.as_str()));
    unnamed
        .map(|found| readme.finding(1, format!("does not name {}", found.name)))
        .collect()
}

/// Whether the segments of `name` stand in `path`, one after the other.
fn names(path: &str, name: &str) -> bool {
    let path: Vec<&str> = path.split("::").collect();
    let name: Vec<&str> = name.split("::").collect();
    path.windows(name.len()).any(|window| window == name)
}

/// The crate that a file of the repository belongs to.
fn crate_of(path: &Path) -> Option<&str> {
    let mut components = path.components().map(Component::as_os_str);
    (components.next()? == "crates").then_some(())?;
    components.next()?.to_str()
}

/// How deep a file lies in a core of a role: 0 for `x_core.rs`, 1 for `x_core/y.rs`; `None` elsewhere.
fn depth_in_core(path: &Path) -> Option<usize> {
    crate_of(path).filter(|name| floor(name) == Some(ROLES_FLOOR))?;
    let modules = path.with_extension("");
    let modules: Vec<&str> = modules
        .iter()
        .skip(3)
        .filter_map(|part| part.to_str())
        .collect();
    let core = modules
        .iter()
        .position(|module| module.ends_with("_core"))?;
    is_below_src(path).then_some(modules.len() - 1 - core)
}

fn is_below_src(path: &Path) -> bool {
    path.components()
        .nth(2)
        .is_some_and(|part| part.as_os_str() == "src")
}
