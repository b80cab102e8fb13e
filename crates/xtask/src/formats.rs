//! The page of byte tables, `proto/formats.md`: copied from where each format is described, so that it
//! cannot say anything else.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const PAGE: &str = "proto/formats.md";
const SOURCES: &str = "crates/everpoint-format/src";

/// Files of the format crate whose `//!` holds byte tables, and what they are called on the page.
const FORMATS: &[(&str, &str)] = &[
    ("change.rs", "Change block"),
    ("record.rs", "Change record"),
    ("cache_log.rs", "Cache-log file and record"),
    ("object.rs", "Journal object, seal, end"),
    ("index.rs", "Journal index"),
    ("origin.rs", "Origin"),
    ("layer.rs", "Map layer"),
    ("layer/page.rs", "Page of a map layer"),
    ("layer/marks.rs", "Marks of a map layer"),
    ("manifest.rs", "Manifest"),
    ("manifest/policy.rs", "Policy of a manifest"),
    ("vault.rs", "Vault header"),
    ("vhd.rs", "Fixed VHD footer"),
];

const HEAD: &str = "\
# Formats, version 1

All little-endian unless said otherwise. The tables are copied from the source, whose tests hold them to the golden
files in `crates/everpoint-format/testdata/`. `cargo xtask proto` writes this page. What the objects of a vault say
together, and how a disk is read from them, is in `history.md`.

CRC-32 is that of zlib and Ethernet (ISO-HDLC). LZ4 is the bare block format, without a length before it. A sector is
512 bytes. A reader refuses flags, kinds and reserved bytes that it does not know.
";

/// Writes the page.
///
/// # Errors
///
/// When a source cannot be read, has no table, or the page cannot be written.
pub fn write(workspace: &Workspace) -> Result<String> {
    fs::write(workspace.root.join(PAGE), page(workspace)?)
        .with_context(|| format!("cannot write {PAGE}"))?;
    Ok(format!("{} formats in {PAGE}", FORMATS.len()))
}

/// Compares the committed page with the sources.
///
/// # Errors
///
/// When they differ.
pub fn check(workspace: &Workspace) -> Result<String> {
    let found = fs::read_to_string(workspace.root.join(PAGE))
        .with_context(|| format!("cannot read {PAGE}"))?;
    if found != page(workspace)? {
        bail!("{PAGE} is not what {SOURCES} says\nrun: cargo xtask proto");
    }
    Ok(format!("{PAGE} is current"))
}

fn page(workspace: &Workspace) -> Result<String> {
    let mut page = String::from(HEAD);
    for (file, title) in FORMATS {
        let path = workspace.root.join(SOURCES).join(file);
        let source = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
        let tables = tables(&source);
        if tables.is_empty() {
            bail!("{SOURCES}/{file}: has no byte table in its first comment");
        }
        page.push_str(&format!(
            "\n## {title}\n\n```text\n{}```\n",
            tables.join("\n")
        ));
    }
    Ok(page)
}

/// The ```` ```text ```` blocks of a file's first comment.
fn tables(source: &str) -> Vec<String> {
    let comment = source.lines().map_while(|line| line.strip_prefix("//!"));
    let (mut tables, mut open) = (Vec::new(), None::<String>);
    for line in comment {
        let line = line.strip_prefix(' ').unwrap_or(line);
        match (&mut open, line) {
            (None, "```text") => open = Some(String::new()),
            (Some(_), "```") => tables.extend(open.take()),
            (Some(table), line) => {
                table.push_str(line);
                table.push('\n');
            }
            (None, _) => {}
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::tables;

    #[test]
    fn only_the_text_blocks_of_the_first_comment_are_tables() {
        let source = "//! A format.\n//!\n//! ```text\n//! 0  4  magic\n//!    5  more\n//! ```\n//! End.\n\nfn f() {}\n//! ```text\n//! no\n//! ```\n";
        assert_eq!(tables(source), ["0  4  magic\n   5  more\n"]);
        assert!(tables("//! Nothing here.\n").is_empty());
    }
}
