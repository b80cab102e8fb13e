//! Where a vault lies, as an operator writes it.
//!
//! `file:///dir`, `memory://name`, `az://container/prefix`, `s3://bucket/prefix`. Parsing is strict: what
//! is not understood whole is refused with the reason, never guessed at.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Longest name of a memory vault, a container or a bucket. Source: Azure "Naming containers" and S3 "bucket
/// naming rules", both 3 to 63 characters.
const BUCKET_LEN_MAX: usize = 63;

/// Where a vault lies.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct VaultUrl(Place);

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Place {
    /// Absolute, without `.`, `..` or empty parts, not the root directory; any bytes but NUL.
    File(PathBuf),
    Memory(String),
    Azure {
        container: String,
        prefix: String,
    },
    S3 {
        bucket: String,
        prefix: String,
    },
}

/// Why a text is not a vault's URL.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseVaultUrlError {
    /// No scheme that this program knows.
    #[error(
        "{url:?} is not a vault: write file:///dir, memory://name, az://container/prefix or s3://bucket/prefix"
    )]
    Scheme { url: String },
    /// `file://host/…` or `file://dir`.
    #[error("{url:?} does not name an absolute directory: write file:///dir, with three slashes")]
    NotAbsolute { url: String },
    /// The directory is `/` itself.
    #[error("{url:?} names the root directory: give the vault a directory of its own")]
    RootDirectory { url: String },
    /// An empty, `.` or `..` part of the path.
    #[error("{url:?} has an empty, '.' or '..' part in its path")]
    Part { url: String },
    /// A character that has to be percent-encoded.
    #[error("{url:?} has {character:?} in its path: write it as %{:02X}", u32::from(*character))]
    Character { url: String, character: char },
    /// A `%` that is not followed by two hexadecimal digits, or that stands for a slash or NUL.
    #[error(
        "{url:?} has a '%' that is not followed by the two hexadecimal digits of a byte other than slash and NUL"
    )]
    Percent { url: String },
    /// A memory vault's name, a container, a bucket or a prefix breaks its rule.
    #[error("{url:?} has {part:?} where 1 to 63 of a-z, 0-9 and '-' belong")]
    Name { url: String, part: String },
}

impl VaultUrl {
    /// The vault in a directory; bytes that are not UTF-8 are fine.
    ///
    /// # Errors
    ///
    /// [`ParseVaultUrlError::NotAbsolute`], [`ParseVaultUrlError::RootDirectory`], or
    /// [`ParseVaultUrlError::Part`] for `..` and for NUL.
    pub fn file(directory: impl AsRef<Path>) -> Result<Self, ParseVaultUrlError> {
        let url = || directory.as_ref().to_string_lossy().into_owned();
        let directory = directory.as_ref();
        if !directory.is_absolute() {
            return Err(ParseVaultUrlError::NotAbsolute { url: url() });
        }
        let leaves = directory
            .components()
            .any(|part| part == Component::ParentDir);
        if leaves || directory.as_os_str().as_bytes().contains(&0) {
            return Err(ParseVaultUrlError::Part { url: url() });
        }
        let directory: PathBuf = directory.components().collect();
        if directory.parent().is_none() {
            return Err(ParseVaultUrlError::RootDirectory { url: url() });
        }
        Ok(Self(Place::File(directory)))
    }

    /// The directory of a `file://` vault.
    pub fn directory(&self) -> Option<&Path> {
        match &self.0 {
            Place::File(directory) => Some(directory),
            Place::Memory(_) | Place::Azure { .. } | Place::S3 { .. } => None,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

impl FromStr for VaultUrl {
    type Err = ParseVaultUrlError;

    fn from_str(url: &str) -> Result<Self, ParseVaultUrlError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(ParseVaultUrlError::Scheme { url: url.into() });
        };
        match scheme {
            "file" => parse_file(url, rest),
            "memory" => {
                if !rest.is_empty() {
                    check_bucket(url, rest)?;
                }
                Ok(Self(Place::Memory(rest.into())))
            }
            "az" => {
                let (container, prefix) = parse_bucket(url, rest)?;
                Ok(Self(Place::Azure { container, prefix }))
            }
            "s3" => {
                let (bucket, prefix) = parse_bucket(url, rest)?;
                Ok(Self(Place::S3 { bucket, prefix }))
            }
            _ => Err(ParseVaultUrlError::Scheme { url: url.into() }),
        }
    }
}

impl TryFrom<String> for VaultUrl {
    type Error = ParseVaultUrlError;

    fn try_from(url: String) -> Result<Self, ParseVaultUrlError> {
        url.parse()
    }
}

fn parse_file(url: &str, path: &str) -> Result<VaultUrl, ParseVaultUrlError> {
    if !path.starts_with('/') {
        return Err(ParseVaultUrlError::NotAbsolute { url: url.into() });
    }
    let unescaped = path
        .chars()
        .find(|character| matches!(character, '?' | '#') || character.is_ascii_control());
    if let Some(character) = unescaped {
        return Err(ParseVaultUrlError::Character {
            url: url.into(),
            character,
        });
    }
    let Some(path) = decode_percent(path) else {
        return Err(ParseVaultUrlError::Percent { url: url.into() });
    };
    let inner = path.strip_prefix(b"/").expect("checked above");
    let inner = inner.strip_suffix(b"/").unwrap_or(inner);
    if inner.is_empty() {
        return Err(ParseVaultUrlError::RootDirectory { url: url.into() });
    }
    let is_bad = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    if inner.split(|&byte| byte == b'/').any(is_bad) {
        return Err(ParseVaultUrlError::Part { url: url.into() });
    }
    VaultUrl::file(PathBuf::from(OsString::from_vec(path)))
}

/// The bytes that `path` stands for; `None` for a broken escape, and for an escaped slash or NUL.
fn decode_percent(path: &str) -> Option<Vec<u8>> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let byte = u8::try_from(digit()? << 4 | digit()?).expect("two hexadecimal digits");
        if matches!(byte, 0 | b'/') {
            return None;
        }
        decoded.push(byte);
    }
    Some(decoded)
}

fn parse_bucket(url: &str, rest: &str) -> Result<(String, String), ParseVaultUrlError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    check_bucket(url, bucket)?;
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() {
        prefix
            .split('/')
            .try_for_each(|part| check_bucket(url, part))?;
    }
    Ok((bucket.into(), prefix.into()))
}

fn check_bucket(url: &str, part: &str) -> Result<(), ParseVaultUrlError> {
    let is_name = part
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_name && (1..=BUCKET_LEN_MAX).contains(&part.len()) {
        Ok(())
    } else {
        Err(ParseVaultUrlError::Name {
            url: url.into(),
            part: part.into(),
        })
    }
}

impl fmt::Display for VaultUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match &self.0 {
            Place::File(directory) => {
                f.write_str("file://")?;
                return encode_percent(directory, f);
            }
            Place::Memory(name) => ("memory", name, ""),
            Place::Azure { container, prefix } => ("az", container, prefix.as_str()),
            Place::S3 { bucket, prefix } => ("s3", bucket, prefix.as_str()),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{bucket}{slash}{prefix}")
    }
}

fn encode_percent(path: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> Result<VaultUrl, ParseVaultUrlError> {
        url.parse()
    }

    #[test]
    fn each_scheme_is_understood_and_written_back() {
        for url in [
            "file:///srv/vault",
            "file:///srv/my%20vault%23",
            "memory://",
            "memory://test-1",
            "az://container",
            "az://container/pre/fix",
            "s3://bucket/prefix",
        ] {
            assert_eq!(parse(url).map(|url| url.to_string()), Ok(url.into()));
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_a_directory_too() {
        let url = parse("file:///srv/%FFault/").unwrap();
        assert_eq!(
            url.directory().unwrap().as_os_str(),
            OsStr::from_bytes(b"/srv/\xFFault")
        );
        assert_eq!(url.to_string(), "file:///srv/%FFault");
        assert_eq!(VaultUrl::file(url.directory().unwrap()), Ok(url));
    }

    #[test]
    fn what_is_not_understood_whole_is_refused() {
        let refused = |url: &str| parse(url).expect_err(url);
        assert!(matches!(
            refused("/srv/vault"),
            ParseVaultUrlError::Scheme { .. }
        ));
        assert!(matches!(
            refused("http://a/b"),
            ParseVaultUrlError::Scheme { .. }
        ));
        for url in ["file://srv/vault", "file://localhost/srv", "file://"] {
            assert!(
                matches!(refused(url), ParseVaultUrlError::NotAbsolute { .. }),
                "{url}"
            );
        }
        for url in ["file:///", "file:////"] {
            assert!(
                matches!(refused(url), ParseVaultUrlError::RootDirectory { .. }),
                "{url}"
            );
        }
        for url in [
            "file:///a/../b",
            "file:///a//b",
            "file:///a/%2e%2e/b",
            "file:///a/.",
        ] {
            assert!(
                matches!(refused(url), ParseVaultUrlError::Part { .. }),
                "{url}"
            );
        }
        for url in ["file:///a?b", "file:///a#b", "file:///a\nb"] {
            assert!(
                matches!(refused(url), ParseVaultUrlError::Character { .. }),
                "{url}"
            );
        }
        for url in [
            "file:///a%2",
            "file:///a%",
            "file:///a%zz",
            "file:///a%00",
            "file:///a%2Fb",
        ] {
            assert!(
                matches!(refused(url), ParseVaultUrlError::Percent { .. }),
                "{url}"
            );
        }
        for url in [
            "memory://A",
            "memory://a/b",
            "az://",
            "az:///p",
            "s3://b//p",
            "s3://b/../p",
        ] {
            assert!(
                matches!(refused(url), ParseVaultUrlError::Name { .. }),
                "{url}"
            );
        }
    }

    #[test]
    fn a_directory_must_be_absolute_and_stay_where_it_is() {
        assert!(matches!(
            VaultUrl::file("vault"),
            Err(ParseVaultUrlError::NotAbsolute { .. })
        ));
        assert!(matches!(
            VaultUrl::file("/"),
            Err(ParseVaultUrlError::RootDirectory { .. })
        ));
        assert!(matches!(
            VaultUrl::file("/a/../b"),
            Err(ParseVaultUrlError::Part { .. })
        ));
        assert_eq!(
            VaultUrl::file("/a/./b//").unwrap().to_string(),
            "file:///a/b"
        );
    }

    proptest! {
        #[test]
        fn any_directory_survives_the_url(parts in prop::collection::vec(
            prop::collection::vec(1_u8.., 1..20), 1..5
        )) {
            let mut path = PathBuf::from("/");
            for part in parts {
                let part: Vec<u8> = part.into_iter().filter(|&byte| byte != b'/').collect();
                if !matches!(part.as_slice(), b"" | b"." | b"..") {
                    path.push(OsStr::from_bytes(&part));
                }
            }
            if let Ok(url) = VaultUrl::file(&path) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn no_text_panics(text in "(file:///|az://|)[ -~]{0,20}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }
    }
}
