//! Names of VHD files: a stem, the level of the owner, an ending.

use std::io;
use std::path::{Path, PathBuf};

use everpoint_units::Level;

const DIGITS: usize = 10;

/// The file of an owner.
pub(super) fn path(dir: &Path, stem: &str, level: Level) -> PathBuf {
    dir.join(format!("{stem}.{:0DIGITS$}.vhd", level.0))
}

/// A file that nothing is trusted of any more: no target's name.
pub(super) fn failed(dir: &Path, stem: &str) -> PathBuf {
    dir.join(format!("{stem}.failed"))
}

/// The file of the highest level.
pub(super) fn newest(dir: &Path, stem: &str) -> io::Result<Option<(Level, PathBuf)>> {
    let mut newest: Option<(Level, PathBuf)> = None;
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let level = name.to_str().and_then(|name| level(name, stem));
        if let Some(level) = level
            && newest.as_ref().is_none_or(|(highest, _)| *highest < level)
        {
            newest = Some((level, entry.path()));
        }
    }
    Ok(newest)
}

fn level(name: &str, stem: &str) -> Option<Level> {
    let digits = name.strip_prefix(stem)?.strip_prefix('.')?;
    let digits = digits.strip_suffix(".vhd")?;
    let is_level = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_level.then(|| digits.parse().ok().map(Level)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_lies_between_stem_and_ending() {
        assert_eq!(level("d.0000000007.vhd", "d"), Some(Level(7)));
        for other in [
            "d.7.vhd",
            "d.0000000007.vhd.part",
            "dd.0000000007.vhd",
            "d.+000000007.vhd",
            "d.vhd",
            "d.failed",
        ] {
            assert_eq!(level(other, "d"), None, "{other}");
        }
    }

    #[test]
    fn the_newest_is_of_the_highest_level() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(newest(dir.path(), "d")?, None);
        for level in [3, 12, 5] {
            std::fs::write(path(dir.path(), "d", Level(level)), "")?;
        }
        std::fs::write(path(dir.path(), "e", Level(99)), "")?;
        let found = newest(dir.path(), "d")?;
        let expected = (Level(12), path(dir.path(), "d", Level(12)));
        assert_eq!(found, Some(expected));
        Ok(())
    }
}
