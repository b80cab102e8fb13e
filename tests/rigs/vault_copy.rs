//! What a vault holds at one instant: a copy that costs nothing, because its objects are write-once.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use everpoint_vault::STAGED_DIRECTORY;

/// Makes `copy` a copy of the vault as it is now, with hard links: objects are never written again once
/// they have their names. Staged files are no part of it.
///
/// Journals are copied in the order of the directory, while a server may go on writing; each object number
/// is linked before the directory is left, so a prefix of each journal is what the copy has.
///
/// # Errors
///
/// When the system refuses.
pub fn copy(vault: &Path, copy: &Path) -> Result<()> {
    let copying = || format!("cannot copy {} to {}", vault.display(), copy.display());
    fs::create_dir_all(copy).with_context(copying)?;
    let mut entries = fs::read_dir(vault)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(copying)?;
    // Numbers have leading zeroes: a name that is missing leaves out all later ones of its journal.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (from, to) = (entry.path(), copy.join(entry.file_name()));
        if entry.file_name() == STAGED_DIRECTORY {
            continue;
        }
        if from.is_dir() {
            self::copy(&from, &to)?;
        } else {
            fs::hard_link(&from, &to).with_context(copying)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_later_is_not_in_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (vault, taken) = (dir.path().join("vault"), dir.path().join("copy"));
        fs::create_dir_all(vault.join("v1/journal/1-a")).unwrap();
        fs::write(vault.join("v1/journal/1-a/1"), "one").unwrap();
        copy(&vault, &taken).unwrap();
        fs::write(vault.join("v1/journal/1-a/2"), "two").unwrap();
        fs::remove_file(vault.join("v1/journal/1-a/1")).unwrap();
        assert_eq!(fs::read(taken.join("v1/journal/1-a/1")).unwrap(), b"one");
        assert!(!taken.join("v1/journal/1-a/2").exists());
    }
}
