//! Each rule finds what it is for, and lets pass what it is not for. The files here are made up.

use super::manifest::{self, Manifest};
use super::{Source, floors, planted, rooms, tokens};

fn workspace() -> Manifest {
    let text = "[workspace.dependencies]\nbase = { package = \"everpoint-vault\", path = \"v\" }\nplain = \"1\"\n";
    Manifest::parse(Source::new("Cargo.toml", text))
}

fn manifest(name: &str, rest: &str) -> Manifest {
    let text = format!("[package]\nname = \"{name}\"\n{rest}");
    Manifest::parse(Source::new(format!("crates/{name}/Cargo.toml"), text))
}

fn rising(name: &str, rest: &str) -> Vec<String> {
    floors::rising(&[manifest(name, rest)], &workspace())
}

fn impure(text: &str) -> Vec<String> {
    floors::impure_names(&[Source::new("crates/everpoint-journal/src/path.rs", text)])
}

fn file(text: &str) -> [Source; 1] {
    [Source::new("crates/everpoint-journal/src/path.rs", text)]
}

#[test]
fn a_crate_without_a_place_is_found() {
    let misplaced = Manifest::parse(Source::new(
        "crates/everpoint-nbd/Cargo.toml",
        "[package]\nname = \"everpoint-vault\"",
    ));
    let found = floors::unplanned(&[
        manifest("everpoint-attic", ""),
        manifest("everpoint-nbd", ""),
        misplaced,
    ]);
    assert_eq!(
        found,
        [
            "crates/everpoint-attic/Cargo.toml:1: `everpoint-attic` has no place on the floor plan",
            "crates/everpoint-nbd/Cargo.toml:1: `everpoint-vault` lies in a folder of another name",
        ]
    );
}

#[test]
fn an_arrow_that_leads_up_or_aside_is_found_in_every_table() {
    for table in [
        "[dependencies]",
        "[dev-dependencies]",
        "[build-dependencies]",
        "[target.'cfg(unix)'.dependencies]",
        "[target.x86_64-unknown-linux-gnu.dev-dependencies]",
    ] {
        let down = format!("{table}\neverpoint-units.workspace = true\n");
        assert!(rising("everpoint-vault", &down).is_empty(), "{table}");
        for used in ["everpoint-agent", "everpoint-nbd", "everpoint-vault"] {
            let up = format!("{table}\nbytes = \"1\"\n{used}.workspace = true\n");
            let found = rising("everpoint-vault", &up);
            assert_eq!(found.len(), 1, "{table} {used}");
            assert!(
                found[0].starts_with("crates/everpoint-vault/Cargo.toml:5: "),
                "{found:?}"
            );
        }
    }
}

#[test]
fn an_arrow_is_found_under_whatever_name_it_goes() {
    let in_place = "[dependencies]\ninnocent = { package = \"everpoint-agent\", path = \"x\" }\n";
    assert_eq!(rising("everpoint-vault", in_place).len(), 1);
    let by_workspace = "[dependencies]\nbase.workspace = true\n";
    assert_eq!(rising("everpoint-nbd", by_workspace).len(), 1);
    assert!(rising("everpoint-agent", by_workspace).is_empty());
    let as_table = "[dependencies.everpoint-agent]\nworkspace = true\n";
    assert_eq!(rising("everpoint-vault", as_table).len(), 1);
}

#[test]
fn what_acts_is_found_below_a_pure_crate_and_not_in_its_tests() {
    let found = |name: &str, rest: &str| {
        floors::impure_dependencies(&[manifest(name, rest)], &workspace()).len()
    };
    for acts in [
        "tokio",
        "quinn",
        "rand",
        "rustix",
        "object_store",
        "never-seen-before",
    ] {
        let builds_on = format!("[dependencies]\n{acts}.workspace = true\n");
        assert_eq!(found("everpoint-journal", &builds_on), 1, "{acts}");
        let on_unix = format!("[target.'cfg(unix)'.dependencies]\n{acts}.workspace = true\n");
        assert_eq!(found("everpoint-units", &on_unix), 1, "{acts}");
        let tests = format!("[dev-dependencies]\n{acts}.workspace = true\n");
        assert_eq!(found("everpoint-journal", &tests), 0, "{acts}");
        assert_eq!(found("everpoint-vault", &builds_on), 0, "{acts}");
    }
    let pure = "[dependencies]\nbytes.workspace = true\neverpoint-units.workspace = true\n";
    assert_eq!(found("everpoint-journal", pure), 0);
}

#[test]
fn a_name_that_acts_is_found_however_it_is_written() {
    for acts in [
        "use std::fs;",
        "use std::fs::File;",
        "use std::{collections::BTreeMap, fs::{self, File}};",
        "use std::{cmp, net};",
        "use ::std::env::args;",
        "fn f() { std::thread::spawn(|| ()); }",
        "fn f() { let now = Instant::now(); }",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { assert!(std::env::var(\"X\").is_ok()); }",
        "use std::collections::HashMap;",
        "use std::collections::{BTreeMap, HashSet};",
        "struct S { seen: std::collections::HashMap<u8, u8> }",
        "fn f() { println!(\"hello\"); }",
        "use std::process as p;",
        "#[cfg(not(test))] use std::fs;",
        "#[cfg(any(test, unix))] use std::fs;",
        "#[cfg(test)] mod tests {} use std::fs;",
        "#[cfg(test)] use a::{b, c}; use std::fs;",
        "struct S { #[cfg(test)] seen: u8, at: Instant }",
    ] {
        let found = impure(&format!("//! x\n{acts}\n"));
        assert!(!found.is_empty(), "{acts}");
        assert!(
            found[0].starts_with("crates/everpoint-journal/src/path.rs:2: "),
            "{found:?}"
        );
    }
}

#[test]
fn comments_texts_tests_and_other_floors_may_name_what_acts() {
    for harmless in [
        "//! std::fs is not used here",
        "/// Unlike `std::time::Instant::now()`.\nfn f() {}",
        "fn f() -> &'static str { \"std::fs and HashMap\" }",
        "#[cfg(test)] mod tests { use std::fs; fn f() { std::thread::spawn(|| ()); } }",
        "#[cfg(test)] use std::collections::{BTreeMap, HashMap};",
        "#[cfg(all(test, unix))] mod tests { use std::fs; }",
        "#[test] fn f<A, B>() { let now = Instant::now(); }",
        "#![cfg(test)] use std::fs;",
        "use crate::env; use std::time::Duration; use my::fs::net;",
    ] {
        assert_eq!(impure(harmless), Vec::<String>::new(), "{harmless}");
    }
    let acts = "use std::fs;";
    for elsewhere in [
        "crates/everpoint-vault/src/lib.rs",
        "crates/everpoint-journal/tests/contract.rs",
        "crates/everpoint-journal/src/path/tests.rs",
        "tests/order.rs",
    ] {
        let source = Source::new(elsewhere, acts);
        assert!(floors::impure_names(&[source]).is_empty(), "{elsewhere}");
    }
}

#[test]
fn a_core_of_a_role_is_as_pure_as_a_pure_crate() {
    let acts = "//! x\nuse std::fs;\nfn f() { let now = Instant::now(); }\nstruct S(std::sync::Mutex<u8>);\n";
    let found = |path: &str| floors::impure_names(&[Source::new(path, acts)]).len();
    for core in [
        "crates/everpoint-agent/src/disk_core.rs",
        "crates/everpoint-agent/src/resync_core/pieces.rs",
        "crates/everpoint-process-server/src/session/stream_core.rs",
        "crates/everpoint-process-server/src/commit_core/plan/deep.rs",
    ] {
        assert_eq!(found(core), 3, "{core}");
    }
    for elsewhere in [
        "crates/everpoint-agent/src/disk_task.rs",
        "crates/everpoint-agent/src/core.rs",
        "crates/everpoint-agent/src/disk_core/tests.rs",
        "crates/everpoint-agent/tests/disk_core.rs",
        "crates/everpoint-nbd/src/wire_core.rs",
    ] {
        assert_eq!(found(elsewhere), 0, "{elsewhere}");
    }
}

#[test]
fn a_core_that_reaches_for_what_acts_is_found() {
    let used = "[dependencies]\nbytes.workspace = true\neverpoint-units.workspace = true\n\
                tokio.workspace = true\neverpoint-transport.workspace = true\nbase.workspace = true\n";
    let agent = [manifest("everpoint-agent", used)];
    let found = |file: &str, text: &str| {
        let path = format!("crates/everpoint-agent/src/{file}");
        let text = format!("//! x\n{text}\n");
        floors::cores_that_reach_out(&[Source::new(path, text)], &agent, &workspace())
    };
    for (file, acts) in [
        ("disk_core.rs", "use tokio::sync::watch;"),
        ("disk_core.rs", "fn f() { tokio::spawn(g()); }"),
        (
            "disk_core.rs",
            "use everpoint_transport::{CloseReason, Link};",
        ),
        ("disk_core.rs", "use base::Vault;"),
        ("disk_core.rs", "use crate::machine::Machine;"),
        ("disk_core.rs", "use super::machine::Machine;"),
        ("disk_core/book.rs", "use super::super::machine::Machine;"),
        ("disk_core/book.rs", "fn f(at: crate::clock::Clock) {}"),
    ] {
        let found = found(file, acts);
        assert!(!found.is_empty(), "{file}: {acts}");
        let path = format!("crates/everpoint-agent/src/{file}:2: ");
        assert!(found[0].starts_with(&path), "{found:?}");
    }
    for (file, pure) in [
        (
            "disk_core.rs",
            "use bytes::Bytes; use everpoint_units::Seq;",
        ),
        (
            "disk_core.rs",
            "use std::time::Duration; use self::book::Book;",
        ),
        ("disk_core.rs", "use crate::resync_core::Run;"),
        ("disk_core.rs", "fn f(tokio: u8) -> u8 { tokio }"),
        (
            "disk_core.rs",
            "#[cfg(test)] mod tests { use tokio::spawn; use super::*; }",
        ),
        ("disk_core/book.rs", "use super::{Answer, Question};"),
        ("disk_core/tests.rs", "use tokio::spawn;"),
        (
            "disk_task.rs",
            "use tokio::spawn; use crate::machine::Machine;",
        ),
    ] {
        assert_eq!(found(file, pure), Vec::<String>::new(), "{file}: {pure}");
    }
}

#[test]
fn a_module_declared_for_tests_is_left_out_with_all_its_files() {
    let sources = [
        Source::new(
            "crates/c/src/lib.rs",
            "#[cfg(test)]\n#[path = \"x\"]\npub(crate) mod pair;\nmod path;",
        ),
        Source::new("crates/c/src/pair.rs", ""),
        Source::new("crates/c/src/pair/deep.rs", ""),
        Source::new("crates/c/src/path.rs", "#[cfg(test)] mod oracle;"),
        Source::new("crates/c/src/path/oracle.rs", ""),
        Source::new("crates/c/src/path/plan.rs", ""),
        Source::new("crates/c/src/path/tests.rs", ""),
    ];
    let found: Vec<String> = tokens::test_files(&sources)
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        found,
        [
            "crates/c/src/pair/deep.rs",
            "crates/c/src/pair.rs",
            "crates/c/src/path/oracle.rs",
            "crates/c/src/path/tests.rs",
        ]
    );
}

#[test]
fn a_package_that_lints_do_not_reach_is_found() {
    let kept = manifest("everpoint-nbd", "[lints]\nworkspace = true\n");
    let own = manifest("everpoint-vault", "[lints.rust]\nunsafe_code = \"allow\"\n");
    let found = manifest::without_lints(&[kept, own, manifest("xtask", "")]);
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("everpoint-vault") && found[1].contains("xtask"));
}

#[test]
fn a_version_beside_the_workspace_is_found() {
    let rest = "[dependencies]\nbytes.workspace = true\ntokio = { workspace = true, features = [\"full\"] }\n\
                [target.'cfg(unix)'.dev-dependencies]\nproptest = \"1\"\n";
    let found = manifest::own_versions(&[manifest("everpoint-nbd", rest)]);
    assert_eq!(
        found,
        ["crates/everpoint-nbd/Cargo.toml:7: `proptest` is not `workspace = true`"]
    );
}

#[test]
fn an_untyped_error_in_a_library_is_found() {
    let found = |name: &str, table: &str| {
        let rest = format!("[{table}]\nanyhow.workspace = true\n");
        manifest::untyped_errors(&[manifest(name, &rest)], &workspace()).len()
    };
    assert_eq!(found("everpoint-vault", "dependencies"), 1);
    assert_eq!(found("everpoint-vault", "dev-dependencies"), 0);
    assert_eq!(found("everpoint", "dependencies"), 0);
    assert_eq!(found("xtask", "dependencies"), 0);
}

#[test]
fn a_door_without_a_sign_is_found() {
    assert!(rooms::without_a_sign(&file("//! The path.\n")).is_empty());
    for text in [
        "",
        "\n//! The path.\n",
        "//! \n",
        "//!\n",
        "// The path.\n",
        "use std::fmt;\n//! x",
    ] {
        assert_eq!(rooms::without_a_sign(&file(text)).len(), 1, "{text:?}");
    }
}

#[test]
fn a_file_of_801_lines_is_found() {
    assert!(rooms::too_long(&file(&"x\n".repeat(800))).is_empty());
    let found = rooms::too_long(&file(&"x\n".repeat(801)));
    assert_eq!(
        found,
        ["crates/everpoint-journal/src/path.rs:801: the file has 801 lines"]
    );
}

#[test]
fn a_function_of_101_lines_is_found_wherever_it_stands() {
    let body = |lines: usize| format!("fn long() {{\n{}}}\n", "let x = 1;\n".repeat(lines - 2));
    assert!(rooms::long_functions(&file(&body(100))).is_empty());
    let found = rooms::long_functions(&file(&format!("//! x\n{}", body(101))));
    assert_eq!(
        found,
        ["crates/everpoint-journal/src/path.rs:2: `long` has 101 lines"]
    );
    let nested = format!("mod a {{ impl<T> X for Y<T> {{ {} }} }}", body(101));
    assert_eq!(rooms::long_functions(&file(&nested)).len(), 1);
    let declared = format!(
        "trait T {{ fn short(&self) -> [u8; 4];\n{}fn f() {{}} }}",
        "// x\n".repeat(200)
    );
    assert!(rooms::long_functions(&file(&declared)).is_empty());
}

#[test]
fn a_name_that_says_nothing_is_found() {
    for path in [
        "crates/everpoint-journal/src/path/mod.rs",
        "crates/everpoint-util/src/lib.rs",
        "tests/common/server.rs",
        "crates/everpoint-nbd/src/read_helpers.rs",
    ] {
        assert_eq!(
            rooms::badly_named(&[Source::new(path, "")]).len(),
            1,
            "{path}"
        );
    }
    for path in [
        "crates/everpoint-nbd/src/module.rs",
        "tests/rigs/utility_room.rs",
    ] {
        assert!(
            rooms::badly_named(&[Source::new(path, "")]).is_empty(),
            "{path}"
        );
    }
}

#[test]
fn what_is_unfinished_is_found_also_in_comments() {
    for line in [
        concat!("    to", "do!(\"later\")"),
        concat!("to", "do!(later)"),
        concat!("unimple", "mented!()"),
        concat!("// FIX", "ME: later"),
        concat!("// TO", "DO later"),
        concat!("// XX", "X"),
        concat!("#[ig", "nore = \"slow\"]"),
        concat!("#[ig", "nore]"),
    ] {
        let found = rooms::unfinished(&file(&format!("//! x\n{line}\n")));
        assert_eq!(found.len(), 1, "{line}");
        assert!(
            found[0].starts_with("crates/everpoint-journal/src/path.rs:2: "),
            "{found:?}"
        );
    }
    for line in [
        concat!("tmp.XX", "XX"),
        concat!("auto", "do!(x)"),
        concat!("MAS", "TODON"),
    ] {
        assert!(rooms::unfinished(&file(line)).is_empty(), "{line}");
    }
}

#[test]
fn a_crate_that_the_architecture_leaves_out_is_found() {
    let readme = Source::new(
        "crates/README.md",
        "| `everpoint-nbd` | serves | and everpoint-vault.",
    );
    let crates = ["everpoint-nbd", "everpoint-vault", "everpoint"].map(|name| manifest(name, ""));
    let found = floors::unnamed(&readme, &crates);
    assert_eq!(found, ["crates/README.md:1: does not name everpoint"]);
}

#[test]
fn a_bug_or_a_mark_that_is_listed_and_stands_nowhere_is_found() {
    let all = planted::unplanted(&[]).len();
    let two = file("if planted!(AckBeforeSync) { reached!(TailOvertaken); }");
    let found = planted::unplanted(&two);
    assert_eq!(found.len() + 1, all);
    assert!(found.iter().all(|found| !found.contains("AckBeforeSync")));
    assert_eq!(
        planted::unmarked(&two).len() + 1,
        planted::unmarked(&[]).len()
    );
    let listing = Source::new("crates/everpoint-marks/src/lib.rs", two[0].text.clone());
    assert_eq!(planted::unplanted(&[listing]).len(), all, "the list itself");
}
