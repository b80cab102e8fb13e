//! Names of objects and prefixes: checked once, then trusted everywhere.
//!
//! A name is `v1/` and one to seven more segments of `a-z`, `0-9`, `-` and `.`, each beginning with a letter or
//! digit. So a name never leaves the vault (`..`), never is hidden, never needs an escape in a URL or
//! a path, and reads the same on a filesystem that ignores case.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name. Unit: bytes.
pub const NAME_LEN_MAX: usize = 512;

/// Longest segment of a name. Unit: bytes. With what a staged file's name adds it stays below the 255
/// of Linux filesystems.
pub const SEGMENT_LEN_MAX: usize = 100;

/// Most segments in a name.
const SEGMENT_COUNT_MAX: usize = 8;

/// The segment that every name begins with: the layout of the whole vault.
const LAYOUT: &str = "v1";

/// Name of one object, as `v1/journal/3-5a0c/00000000000000000001`. Cloning is cheap.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName(Arc<str>);

/// Whole segments that names begin with, as `v1/journal`; no slash at the end. Cloning is cheap.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectPrefix(Arc<str>);

/// Why a text is not a name or a prefix.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseNameError {
    /// Longer than [`NAME_LEN_MAX`].
    #[error("a name of {len} bytes is longer than {NAME_LEN_MAX}")]
    TooLong { len: usize },
    /// Too few or too many segments.
    #[error("{name:?} has {count} segments, a name has 2 to {SEGMENT_COUNT_MAX}")]
    SegmentCount { name: String, count: usize },
    /// The first segment is not `v1`.
    #[error("{name:?} does not begin with {LAYOUT}/")]
    Layout { name: String },
    /// A segment is empty, too long or has a character that names do not have.
    #[error(
        "segment {segment:?} is not 1 to {SEGMENT_LEN_MAX} of a-z, 0-9, '-', '.', beginning with a letter or digit"
    )]
    Segment { segment: String },
}

impl ObjectName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// Which rule of the module's head it breaks.
    pub fn new(text: &str) -> Result<Self, ParseNameError> {
        check(text, 2).map(Self)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All but the last segment.
    pub fn prefix(&self) -> ObjectPrefix {
        ObjectPrefix(self.split().0.into())
    }

    /// The last segment.
    pub fn leaf(&self) -> &str {
        self.split().1
    }

    pub(crate) fn split(&self) -> (&str, &str) {
        self.0
            .rsplit_once('/')
            .expect("the constructor wants two segments")
    }
}

impl ObjectPrefix {
    /// Checks a prefix; `v1` alone is one.
    ///
    /// # Errors
    ///
    /// Which rule of the module's head it breaks.
    pub fn new(text: &str) -> Result<Self, ParseNameError> {
        check(text, 1).map(Self)
    }

    /// The whole prefix, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn leaf(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, leaf)| leaf)
    }

    /// The prefix one segment longer.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn child(&self, segment: &str) -> Result<Self, ParseNameError> {
        check_segment(segment)?;
        Self::new(&format!("{self}/{segment}"))
    }

    /// The object right below this prefix.
    ///
    /// # Errors
    ///
    /// As [`ObjectName::new`].
    pub fn object(&self, leaf: &str) -> Result<ObjectName, ParseNameError> {
        check_segment(leaf)?;
        ObjectName::new(&format!("{self}/{leaf}"))
    }
}

fn check(text: &str, count_min: usize) -> Result<Arc<str>, ParseNameError> {
    if NAME_LEN_MAX < text.len() {
        return Err(ParseNameError::TooLong { len: text.len() });
    }
    let count = text.split('/').count();
    if !(count_min..=SEGMENT_COUNT_MAX).contains(&count) {
        return Err(ParseNameError::SegmentCount {
            name: text.to_owned(),
            count,
        });
    }
    if text.split('/').next() != Some(LAYOUT) {
        return Err(ParseNameError::Layout {
            name: text.to_owned(),
        });
    }
    text.split('/').try_for_each(check_segment)?;
    Ok(text.into())
}

fn check_segment(segment: &str) -> Result<(), ParseNameError> {
    let begins_well = segment
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let goes_on_well = segment.bytes().all(|byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    });
    if begins_well && goes_on_well && segment.len() <= SEGMENT_LEN_MAX {
        Ok(())
    } else {
        let segment = segment.chars().take(SEGMENT_LEN_MAX).collect();
        Err(ParseNameError::Segment { segment })
    }
}

impl FromStr for ObjectName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        Self::new(text)
    }
}

impl FromStr for ObjectPrefix {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        Self::new(text)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ObjectPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_names_of_the_design_are_names() {
        for name in [
            "v1/vault",
            "v1/key/00000000000000000001",
            "v1/journal/3-5a0c/00000000000000000001",
            "v1/journal/3-5a0c/end",
            "v1/machine/5a0c/layer/00000000000000000001-ffff",
            "v1/hold/5a0c.end",
        ] {
            assert_eq!(
                ObjectName::new(name).map(|n| n.to_string()),
                Ok(name.into())
            );
        }
        assert_eq!(
            ObjectPrefix::new("v1").map(|p| p.to_string()),
            Ok("v1".into())
        );
    }

    #[test]
    fn what_leaves_the_vault_or_hides_in_it_is_no_name() {
        for name in [
            "",
            "v1",
            "/v1/a",
            "v1/a/",
            "v1//a",
            "v1/..",
            "v1/../a",
            "v1/.a",
            "v1/-a",
            "v1/A",
            "v1/a b",
            "v1/a\0",
            "v1/a%2f",
            "v2/a",
            "a/v1",
            "v1/ä",
            "v1/a\\b",
            "v1/1/2/3/4/5/6/7/8",
        ] {
            assert!(ObjectName::new(name).is_err(), "{name:?}");
        }
        assert!(ObjectName::new(&format!("v1/{}", "a".repeat(SEGMENT_LEN_MAX))).is_ok());
        assert!(ObjectName::new(&format!("v1/{}", "a".repeat(SEGMENT_LEN_MAX + 1))).is_err());
        assert!(ObjectName::new(&"v1/a".repeat(200)).is_err());
    }

    #[test]
    fn a_child_is_one_segment() {
        let journals = ObjectPrefix::new("v1/journal").unwrap();
        assert_eq!(journals.child("1-a").unwrap().leaf(), "1-a");
        assert_eq!(journals.object("end").unwrap().prefix(), journals);
        assert!(journals.child("a/b").is_err());
        assert!(journals.object("").is_err());
    }

    proptest! {
        #[test]
        fn a_name_is_the_directory_and_the_leaf_it_splits_into(
            text in "v1(/[a-z0-9][a-z0-9.-]{0,20}){1,7}"
        ) {
            let name = ObjectName::new(&text).unwrap();
            prop_assert_eq!(name.prefix().object(name.leaf()).unwrap(), name);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(name) = ObjectName::new(&text) {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
