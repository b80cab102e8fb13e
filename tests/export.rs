//! What `everpoint replica export` prints, in the hands of strangers: a JSON schema's validator, a shell, and programs
//! that stand in for the Azure command line and write down what they are called with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::child::{Finished, finish};
use everpoint_tests::rigs::clouds;
use everpoint_tests::rigs::tool::tool;
use serde_json::{Value, json};

const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// All in it that a shell, a template or Bicep could trip over, and that a blob's name may have.
const HOSTILE_BLOB: &str =
    "az://disks/it's $(touch ran) `touch ran` ${x} [y] \"z\" %20 & ; # é.vhd";
/// What that is in a URL.
const HOSTILE_URL: &str = "https://acct.blob.core.windows.net/disks/it%27s%20%24%28touch%20ran%29%20%60touch%20ran%60\
                           %20%24%7Bx%7D%20%5By%5D%20%22z%22%20%2520%20%26%20%3B%20%23%20%C3%A9.vhd";
const GROUP: &str = "rg_(ünï).x";
const SUBSCRIPTION: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// Appends its name and words to `calls`, a line a call, and answers as Azure would. Of a word that is a file it writes down
/// the file's mode and what is in it.
const STAND_IN: &str = r#"#!/bin/sh
{ printf '%s' "${0##*/}"; for word; do if [ -f "$word" ]; then word="$(stat -c %a "$word") $(cat "$word")"; fi; printf '\t%s' "$word"; done; printf '\n'; } >>calls
case "$1 $2" in
'storage account') echo /the/account/id ;;
'disk grant-access') echo 'https://md-impexp.example/x?sig=a%2Bb&se=1' ;;
'restore --vault') exit "${RESTORE_ENDS:-0}" ;;
esac
"#;

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

async fn export(form: &str, way: &[&str], more: &[&str]) -> Result<Finished> {
    let mut command = Command::new(xtask::built::program("everpoint"));
    command
        .args(["replica", "export", "--as", form])
        .args(["--name", "web-1.data_", "--resource-group", GROUP])
        .args(["--location", "westeurope"])
        .args(way)
        .args(more);
    finish(command, STEP_TIME_MAX).await
}

const IMPORT: [&str; 6] = [
    "--way",
    "import",
    "--blob",
    HOSTILE_BLOB,
    "--account",
    "acct",
];
const UPLOAD: [&str; 4] = ["--way", "upload", "--size-bytes", "1073741824"];

/// Prints it into a file.
async fn export_to(file: &Path, form: &str, way: &[&str], more: &[&str]) -> Result<()> {
    let text = export(form, way, more).await?.succeeded("export")?;
    Ok(fs::write(file, text)?)
}

async fn check(command: &str, files: &[&Path]) -> Result<Finished> {
    let rigs = Path::new(env!("CARGO_MANIFEST_DIR")).join("rigs");
    let mut python = Command::new(clouds::python()?);
    python
        .arg(rigs.join("templates/check.py"))
        .arg(command)
        .args(files);
    finish(python, STEP_TIME_MAX).await
}

fn schema() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/managed-disk.schema.json")
}

#[tokio::test]
async fn every_template_keeps_the_published_schema() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let shapes: [&[&str]; 5] = [
        &[],
        &["--sku", "Standard_LRS", "--os", "windows"],
        &[
            "--sku",
            "Premium_LRS",
            "--os",
            "linux",
            "--hyper-v-generation",
            "V1",
        ],
        &["--os", "linux", "--hyper-v-generation", "V2"],
        &[
            "--subscription",
            SUBSCRIPTION,
            "--account-resource-group",
            "other",
        ],
    ];
    let mut files = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        for (way, args) in [("import", &IMPORT[..]), ("upload", &UPLOAD[..])] {
            let file = dir.path().join(format!("{way}-{index}.json"));
            export_to(&file, "arm", args, shape).await?;
            files.push(file);
        }
    }
    let schema = schema();
    let all: Vec<&Path> = [&schema]
        .into_iter()
        .chain(&files)
        .map(PathBuf::as_path)
        .collect();
    check("schema", &all).await?.succeeded("the schema")?;

    let imported: Value = serde_json::from_str(&fs::read_to_string(&files[0])?)?;
    let creation = &imported["resources"][0]["properties"]["creationData"];
    ensure!(creation["sourceUri"] == HOSTILE_URL, "{creation}");
    let id = format!("[resourceId('{GROUP}', 'Microsoft.Storage/storageAccounts', 'acct')]");
    ensure!(creation["storageAccountId"] == id.as_str(), "{creation}");
    Ok(())
}

/// The validator is no rubber stamp: each of these is one mistake away from what is printed.
#[tokio::test]
async fn the_schema_finds_each_mistake() -> Result<()> {
    let dir = tempfile::tempdir()?;
    type Mistake = (&'static str, &'static str, Option<Value>);
    let mistakes: [Mistake; 9] = [
        (
            "import",
            "/resources/0/properties/creationData/createOption",
            Some(json!("Imports")),
        ),
        (
            "import",
            "/resources/0/properties/creationData/storageAccountId",
            None,
        ),
        (
            "import",
            "/resources/0/properties/creationData/sourceUri",
            None,
        ),
        (
            "upload",
            "/resources/0/properties/creationData/uploadSizeBytes",
            Some(json!("1073742336")),
        ),
        (
            "upload",
            "/resources/0/properties/creationData/uploadSizeBytes",
            Some(json!(512)),
        ),
        (
            "upload",
            "/resources/0/properties/creationData/uploadSizeBytes",
            None,
        ),
        ("upload", "/resources/0/sku/name", Some(json!("Standard"))),
        ("upload", "/resources/0/location", None),
        ("upload", "/resources/0/properties/size", Some(json!(1))),
    ];
    for (way, args) in [("import", &IMPORT[..]), ("upload", &UPLOAD[..])] {
        export_to(&dir.path().join(way), "arm", args, &[]).await?;
    }
    for (way, at, value) in mistakes {
        let text = fs::read_to_string(dir.path().join(way))?;
        let mut template: Value = serde_json::from_str(&text)?;
        let (parent, key) = at.rsplit_once('/').context("a pointer")?;
        let parent = template.pointer_mut(parent).and_then(Value::as_object_mut);
        let parent = parent.with_context(|| format!("{at} has a parent"))?;
        match &value {
            Some(value) => parent.insert(key.to_owned(), value.clone()),
            None => parent.remove(key),
        };
        let file = dir.path().join("mistaken.json");
        fs::write(&file, template.to_string())?;
        let found = check("schema", &[&schema(), &file]).await?;
        ensure!(found.status.code() == Some(1), "{at} {value:?}: {found:?}");
        ensure!(found.stdout.contains("$.resources[0]"), "{at}: {found:?}");
    }
    Ok(())
}

/// What the stand-ins of `az` and `everpoint` were called with when a script was run, and how it ended.
async fn run(
    script: &Path,
    words: &[&str],
    restore_ends: i32,
) -> Result<(Finished, Vec<Vec<String>>)> {
    let dir = script.parent().context("it lies in a directory")?;
    for name in ["az", "everpoint"] {
        let path = dir.join(name);
        fs::write(&path, STAND_IN)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let calls = dir.join("calls");
    fs::write(&calls, "")?;
    let mut shell = tool("sh")?;
    let path = std::env::var("PATH")?;
    shell
        .arg(script)
        .args(words)
        .current_dir(dir)
        .env("PATH", format!("{}:{path}", dir.display()))
        .env("RESTORE_ENDS", restore_ends.to_string());
    let ended = finish(shell, STEP_TIME_MAX).await?;
    let calls = fs::read_to_string(calls)?;
    let words = |line: &str| line.split('\t').map(str::to_owned).collect();
    Ok((ended, calls.lines().map(words).collect()))
}

/// A shell finds no mistake in it, and Python's idea of a shell's words is the same.
async fn reads(script: &Path) -> Result<Vec<Vec<String>>> {
    let mut shell = tool("sh")?;
    shell.arg("-n").arg(script);
    finish(shell, STEP_TIME_MAX).await?.succeeded("sh -n")?;
    let words = check("words", &[script]).await?.succeeded("shlex")?;
    Ok(serde_json::from_str(&words)?)
}

#[tokio::test]
async fn a_script_that_imports_calls_azure_with_what_was_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("script");
    let more = [
        "--os",
        "linux",
        "--hyper-v-generation",
        "V2",
        "--subscription",
        SUBSCRIPTION,
    ];
    export_to(&script, "az", &IMPORT, &more).await?;
    let created = [
        "az",
        "disk",
        "create",
        "--name",
        "web-1.data_",
        "--resource-group",
        GROUP,
        "--location",
        "westeurope",
        "--sku",
        "StandardSSD_LRS",
        "--os-type",
        "Linux",
        "--hyper-v-generation",
        "V2",
        "--subscription",
        SUBSCRIPTION,
        "--source",
        HOSTILE_URL,
        "--source-storage-account-id",
    ];
    let with = |id| [&created[..], &[id]].concat();
    let lines = reads(&script).await?;
    ensure!(lines.contains(&owned(&with("$account"))), "{lines:?}");

    let (ended, calls) = run(&script, &[], 0).await?;
    ensure!(ended.status.success(), "{ended:?}");
    let shown = [
        "az",
        "storage",
        "account",
        "show",
        "--name",
        "acct",
        "--resource-group",
        GROUP,
        "--subscription",
        SUBSCRIPTION,
        "--query",
        "id",
        "--output",
        "tsv",
    ];
    ensure!(
        calls == [shown.to_vec(), with("/the/account/id")],
        "{calls:?}"
    );
    ensure!(!dir.path().join("ran").exists(), "a name was run");
    Ok(())
}

#[tokio::test]
async fn a_script_that_uploads_ends_access_when_all_is_there_and_not_before() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("script");
    export_to(&script, "az", &UPLOAD, &[]).await?;
    reads(&script).await?;
    let named = ["--name", "web-1.data_", "--resource-group", GROUP];
    let sas = "https://md-impexp.example/x?sig=a%2Bb&se=1";
    let vault = "az://vaults/a prefix";
    for (at, ends) in [(None, 0), (Some("before the update"), 3)] {
        let words: Vec<&str> = [vault, "the-disk"].into_iter().chain(at).collect();
        let (ended, calls) = run(&script, &words, ends).await?;
        ensure!(ended.status.code() == Some(ends), "{ended:?}");
        ensure!(calls[0][..3] == ["az", "disk", "create"], "{calls:?}");
        let tail = ["--for-upload", "true", "--upload-size-bytes", "1073742336"];
        ensure!(calls[0].ends_with(&owned(&tail)), "{calls:?}");
        let granted = [
            &["az", "disk", "grant-access"][..],
            &named,
            &["--access-level", "Write"],
        ]
        .concat();
        ensure!(calls[1].starts_with(&owned(&granted)), "{calls:?}");
        let restored = [
            "everpoint",
            "restore",
            "--vault",
            vault,
            "--disk",
            "the-disk",
            "--at",
            at.unwrap_or("latest"),
            "--to-sas",
            &format!("600 {sas}"),
        ];
        ensure!(calls[2] == restored, "{calls:?}");
        let revoked = [&["az", "disk", "revoke-access"][..], &named].concat();
        let after = if ends == 0 { vec![revoked] } else { Vec::new() };
        ensure!(calls[3..] == after, "{calls:?}");
    }
    let (ended, calls) = run(&script, &[], 0).await?;
    ensure!(
        !ended.status.success() && calls.is_empty(),
        "without a vault: {calls:?}"
    );
    ensure!(ended.stderr.contains("name the vault first"), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn for_programs_the_text_comes_in_an_object() -> Result<()> {
    for form in ["az", "arm", "bicep"] {
        let plain = export(form, &UPLOAD, &[]).await?.succeeded("export")?;
        let object = export(form, &UPLOAD, &["--json"])
            .await?
            .succeeded("export")?;
        let object: Value = serde_json::from_str(&object)?;
        let expected = json!({ "as": form, "way": "upload", "text": plain });
        ensure!(object == expected, "{object}");
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_azure_would_refuse_is_refused_with_what_to_write() -> Result<()> {
    for (flags, says) in [
        (["--sku", "Premium"], "Premium_LRS"),
        (["--subscription", "production"], "az account show"),
        (
            ["--account-resource-group", "ends."],
            "anything but a dot last",
        ),
        (["--endpoint", "http://127.0.0.1"], "write https://"),
    ] {
        let refused = export("arm", &IMPORT, &flags).await?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        ensure!(refused.stderr.contains(says), "{refused:?}");
        ensure!(refused.stdout.is_empty(), "{refused:?}");
    }
    Ok(())
}
