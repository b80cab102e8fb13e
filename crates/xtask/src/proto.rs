//! The Rust code of the protobuf messages: made from `proto/` by a compiler in Rust, committed, and checked.
//!
//! `proto/<name>.proto` holds the package `everpoint.<name>.v<version>` and becomes one module,
//! `generated/<name>.rs`, which knows no other. No `protoc` is needed, and two runs give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;
use crate::workspace::Workspace;

const PROTO: &str = "proto";
const GENERATED: &str = "crates/everpoint-wire/src/generated";
const PACKAGE_PREFIX: &str = "everpoint.";

/// Text by name of file.
type Files = BTreeMap<String, String>;

/// Writes the generated code. Answers with what it did.
///
/// # Errors
///
/// When a `.proto` file is wrong, or a file cannot be read or written.
pub fn write(workspace: &Workspace) -> Result<String> {
    let Some(wanted) = generate(workspace)? else {
        return Ok(nothing_to_do());
    };
    let folder = workspace.root.join(GENERATED);
    fs::create_dir_all(&folder)?;
    let found = read_files(&folder, "rs")?;
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        fs::remove_file(folder.join(name)).with_context(|| format!("cannot remove {name}"))?;
    }
    for (name, text) in &wanted {
        if found.get(name) != Some(text) {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
    }
    Ok(format!("{} files in {GENERATED}", wanted.len()))
}

/// Compares the committed code with what `proto/` gives.
///
/// # Errors
///
/// When they differ: the message names each file and its first different line.
pub fn check(workspace: &Workspace) -> Result<String> {
    let Some(wanted) = generate(workspace)? else {
        return Ok(nothing_to_do());
    };
    let differences = differences(&wanted, &read_files(&workspace.root.join(GENERATED), "rs")?);
    if !differences.is_empty() {
        bail!(
            "{GENERATED} is not what {PROTO}/ gives:\n  {}\nrun: cargo xtask proto",
            differences.join("\n  ")
        );
    }
    Ok(format!("{} files are current", wanted.len()))
}

fn nothing_to_do() -> String {
    format!("{PROTO}/ has no .proto file")
}

fn generate(workspace: &Workspace) -> Result<Option<Files>> {
    let proto = workspace.root.join(PROTO);
    let sources: Vec<PathBuf> = read_files(&proto, "proto")?
        .into_keys()
        .map(|name| proto.join(name))
        .collect();
    if sources.is_empty() {
        return Ok(None);
    }
    compile(workspace, &proto, &sources).map(Some)
}

fn compile(workspace: &Workspace, include: &Path, sources: &[PathBuf]) -> Result<Files> {
    let mut compiler = protox::Compiler::new([include])?;
    compiler.include_source_info(true);
    compiler.open_files(sources)?;
    let descriptors = compiler.file_descriptor_set();
    let mut modules = BTreeMap::new();
    for file in &descriptors.file {
        if let Some(import) = file.dependency.first() {
            bail!(
                "{PROTO}/{}: imports {import}; each file stands alone",
                file.name()
            );
        }
        let module = module_of(file.name(), file.package())?;
        modules.insert(format!("{}.rs", file.package()), module);
    }
    let out = tempfile::tempdir()?;
    prost_build::Config::new()
        .btree_map(["."])
        .bytes(["."])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("cannot generate code")?;
    let mut files = Files::new();
    for (name, text) in read_files(out.path(), "rs")? {
        if let Some(module) = modules.get(&name) {
            let head = format!(
                "//! Messages of {PROTO}/{module}.proto, generated: `cargo xtask proto` writes this file, never a hand."
            );
            files.insert(format!("{module}.rs"), format!("{head}\n\n{text}"));
        }
    }
    format(workspace, out.path(), &files)
}

/// The module of a file, whose package says the same and a version.
fn module_of(file: &str, package: &str) -> Result<String> {
    let module = file.trim_end_matches(".proto");
    let version = package
        .strip_prefix(PACKAGE_PREFIX)
        .and_then(|rest| rest.strip_prefix(module))
        .and_then(|rest| rest.strip_prefix(".v"))
        .and_then(|version| version.parse::<u32>().ok());
    if version.is_none() {
        bail!(
            "{PROTO}/{file}: its package is `{package}`, should be {PACKAGE_PREFIX}{module}.v<version>"
        );
    }
    Ok(module.to_owned())
}

/// As rustfmt leaves it with the settings of this workspace.
fn format(workspace: &Workspace, scratch: &Path, files: &Files) -> Result<Files> {
    let folder = scratch.join("formatted");
    fs::create_dir(&folder)?;
    let mut rustfmt = run::command(workspace, "rustfmt");
    rustfmt
        .args(["--edition", "2024", "--config-path"])
        .arg(workspace.root.join("rustfmt.toml"));
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
        rustfmt.arg(folder.join(name));
    }
    run::stdout_of(rustfmt)?;
    read_files(&folder, "rs")
}

/// Files of `folder` with this extension; none when there is no such folder.
fn read_files(folder: &Path, extension: &str) -> Result<Files> {
    let mut files = Files::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(name.into_owned(), text);
        }
    }
    Ok(files)
}

fn differences(wanted: &Files, found: &Files) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, text) in wanted {
        match found.get(name) {
            None => differences.push(format!("{name}: missing")),
            Some(found) if found != text => {
                let same = text.lines().zip(found.lines()).take_while(|(a, b)| a == b);
                let line = same.count() + 1;
                let (expected, is) = (text.lines().nth(line - 1), found.lines().nth(line - 1));
                let end = "(the end of the file)";
                differences.push(format!(
                    "{name}:{line}: is `{}`, should be `{}`",
                    is.unwrap_or(end).trim(),
                    expected.unwrap_or(end).trim()
                ));
            }
            Some(_) => {}
        }
    }
    let left = found.keys().filter(|name| !wanted.contains_key(*name));
    differences.extend(left.map(|name| format!("{name}: made from nothing in {PROTO}/")));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = r#"
        syntax = "proto3";
        package everpoint.control.v1;
        // Asks for the state of one disk.
        message DiskState {
          // The disk's id: 16 bytes.
          bytes disk = 1;
          map<string, uint64> watermarks = 2;
          oneof answer { string refused = 4; uint32 pages = 5; }
        }
    "#;
    const POSITION: &str = r#"
        syntax = "proto3";
        package everpoint.position.v2;
        message Position { uint64 seq = 1; }
    "#;

    /// A workspace of its own, so that a check can find differences.
    fn scratch() -> (tempfile::TempDir, Workspace) {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::scratch(folder.path());
        fs::create_dir(folder.path().join(PROTO)).unwrap();
        fs::write(
            folder.path().join("rustfmt.toml"),
            "style_edition = \"2024\"\n",
        )
        .unwrap();
        (folder, workspace)
    }

    fn put(folder: &tempfile::TempDir, name: &str, text: &str) {
        fs::write(folder.path().join(name), text).unwrap();
    }

    #[test]
    fn without_a_proto_file_there_is_nothing_to_do() {
        let (folder, workspace) = scratch();
        assert_eq!(write(&workspace).unwrap(), "proto/ has no .proto file");
        assert_eq!(check(&workspace).unwrap(), "proto/ has no .proto file");
        assert!(!folder.path().join(GENERATED).exists());
    }

    #[test]
    fn each_package_becomes_a_module_that_says_what_it_is_for() {
        let (folder, workspace) = scratch();
        put(&folder, "proto/control.proto", CONTROL);
        put(&folder, "proto/position.proto", POSITION);
        assert_eq!(
            write(&workspace).unwrap(),
            format!("2 files in {GENERATED}")
        );
        assert_eq!(check(&workspace).unwrap(), "2 files are current");
        let files = read_files(&folder.path().join(GENERATED), "rs").unwrap();
        let control = &files["control.rs"];
        assert!(control.starts_with("//! Messages of proto/control.proto, generated"));
        assert!(
            control.contains("/// The disk's id: 16 bytes."),
            "{control}"
        );
        assert!(control.contains("BTreeMap<"), "{control}");
        assert!(control.contains("prost::bytes::Bytes"), "{control}");
    }

    #[test]
    fn code_that_is_not_what_the_messages_give_is_named_by_file_and_line() {
        let (folder, workspace) = scratch();
        put(&folder, "proto/position.proto", POSITION);
        write(&workspace).unwrap();
        let generated = folder.path().join(GENERATED);
        let good = fs::read_to_string(generated.join("position.rs")).unwrap();

        fs::write(
            generated.join("position.rs"),
            good.replace("seq", "sequence"),
        )
        .unwrap();
        fs::write(generated.join("gone.rs"), "").unwrap();
        let refused = check(&workspace).unwrap_err().to_string();
        let line = good.lines().position(|line| line.contains("seq")).unwrap() + 1;
        assert!(
            refused.contains(&format!("position.rs:{line}: is `pub sequence: u64,`")),
            "{refused}"
        );
        assert!(refused.contains("gone.rs: made from nothing"), "{refused}");
        assert!(refused.contains("cargo xtask proto"), "{refused}");

        fs::remove_file(generated.join("position.rs")).unwrap();
        let refused = check(&workspace).unwrap_err().to_string();
        assert!(refused.contains("position.rs: missing"), "{refused}");

        write(&workspace).unwrap();
        assert_eq!(
            read_files(&generated, "rs").unwrap(),
            Files::from([("position.rs".into(), good)])
        );
    }

    #[test]
    fn a_package_that_is_not_named_after_its_file_is_refused() {
        for package in [
            "",
            "everpoint",
            "everpoint.control",
            "everpoint.other.v1",
            "control.v1",
        ] {
            let refused = module_of("control.proto", package).unwrap_err().to_string();
            assert!(
                refused.ends_with("should be everpoint.control.v<version>"),
                "{refused}"
            );
        }
        assert_eq!(
            module_of("control.proto", "everpoint.control.v12").unwrap(),
            "control"
        );
    }

    #[test]
    fn a_file_that_needs_another_is_refused() {
        let (folder, workspace) = scratch();
        put(&folder, "proto/position.proto", POSITION);
        let importing = CONTROL.replace("// Asks", "import \"position.proto\";\n// Asks");
        put(&folder, "proto/control.proto", &importing);
        let refused = write(&workspace).unwrap_err().to_string();
        assert!(
            refused.contains("proto/control.proto: imports position.proto"),
            "{refused}"
        );
    }
}
