//! Where a page blob lies, as an operator writes it: `az://container/name`.
//!
//! Parsing is strict: what is not understood whole is refused with the reason, never guessed at. A name that is
//! taken here means the same in a URL, without any escapes.

use std::fmt;
use std::str::FromStr;

/// Longest name of a container. Source: Azure, "Naming and referencing containers, blobs, and metadata".
const CONTAINER_LEN_MAX: usize = 63;
/// Longest name of a blob. Source: as above. Unit: bytes.
const NAME_LEN_MAX: usize = 1_024;
/// Most parts of a blob's name. Source: as above.
const PARTS_MAX: usize = 254;

/// A blob in a container of an account.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct BlobAddress {
    container: String,
    name: String,
}

/// Why a text is not a blob's address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseBlobAddressError {
    /// Another scheme, or none.
    #[error("{text:?} is no blob: write az://container/name")]
    Scheme { text: String },
    /// Nothing behind the container.
    #[error("{text:?} names a container and no blob in it: write az://container/name")]
    NoName { text: String },
    /// The container breaks Azure's rule.
    #[error(
        "{text:?} has {container:?} where a container belongs: 3 to 63 of a-z, 0-9 and '-', no '-' at either end or \
         beside another"
    )]
    Container { text: String, container: String },
    /// A part of the name breaks the rule.
    #[error(
        "{text:?} has {part:?} in the blob's name: between slashes stand A-Z, a-z, 0-9, '-', '_' and '.', and no '.' \
         ends a part"
    )]
    Part { text: String, part: String },
    /// The name is too long, or has too many parts.
    #[error("{text:?} is too long: a blob's name has at most 1,024 characters and 254 parts")]
    TooLong { text: String },
}

impl BlobAddress {
    /// The container.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The blob's name in the container.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for BlobAddress {
    type Err = ParseBlobAddressError;

    fn from_str(text: &str) -> Result<Self, ParseBlobAddressError> {
        let Some(rest) = text.strip_prefix("az://") else {
            return Err(ParseBlobAddressError::Scheme { text: text.into() });
        };
        let (container, name) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_container(container) {
            return Err(ParseBlobAddressError::Container {
                text: text.into(),
                container: container.into(),
            });
        }
        if name.is_empty() {
            return Err(ParseBlobAddressError::NoName { text: text.into() });
        }
        if let Some(part) = name.split('/').find(|part| !is_part(part)) {
            return Err(ParseBlobAddressError::Part {
                text: text.into(),
                part: part.into(),
            });
        }
        if NAME_LEN_MAX < name.len() || PARTS_MAX < name.split('/').count() {
            return Err(ParseBlobAddressError::TooLong { text: text.into() });
        }
        Ok(Self {
            container: container.into(),
            name: name.into(),
        })
    }
}

fn is_container(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let words_are = text
        .split('-')
        .all(|word| !word.is_empty() && word.bytes().all(is_letter));
    words_are && (3..=CONTAINER_LEN_MAX).contains(&text.len())
}

fn is_part(part: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !part.is_empty() && part.bytes().all(is_letter) && !part.ends_with('.')
}

impl fmt::Display for BlobAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "az://{}/{}", self.container, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<BlobAddress, ParseBlobAddressError> {
        text.parse()
    }

    #[test]
    fn an_address_has_a_container_and_a_name_and_is_written_back() {
        let address = parse("az://my-disks-2/vm1/Data_disk.2026.vhd").unwrap();
        assert_eq!(
            (address.container(), address.name()),
            ("my-disks-2", "vm1/Data_disk.2026.vhd")
        );
        assert_eq!(
            address.to_string(),
            "az://my-disks-2/vm1/Data_disk.2026.vhd"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for (text, said) in [
            ("", "write az://container/name"),
            ("disk.vhd", "write az://container/name"),
            ("s3://disks/a.vhd", "write az://container/name"),
            (
                "https://a.blob.core.windows.net/disks/a.vhd",
                "write az://container/name",
            ),
            ("az://disks", "names a container and no blob in it"),
            ("az://disks/", "names a container and no blob in it"),
            ("az:///a.vhd", "\"\" where a container belongs"),
            ("az://Disks/a.vhd", "\"Disks\" where a container belongs"),
            ("az://ab/a.vhd", "\"ab\" where a container belongs"),
            ("az://a--b/a.vhd", "no '-' at either end or beside another"),
            (
                "az://disks-/a.vhd",
                "no '-' at either end or beside another",
            ),
            ("az://disks/a//b", "\"\" in the blob's name"),
            ("az://disks/a/", "\"\" in the blob's name"),
            ("az://disks/../b", "\"..\" in the blob's name"),
            ("az://disks/a.", "\"a.\" in the blob's name"),
            ("az://disks/a b", "\"a b\" in the blob's name"),
            ("az://disks/a%20b", "\"a%20b\" in the blob's name"),
            ("az://disks/a?sig=x", "\"a?sig=x\" in the blob's name"),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
        }
        let long = format!("az://disks/{}", "a/".repeat(600));
        let long = long.trim_end_matches('/');
        assert!(matches!(
            parse(long),
            Err(ParseBlobAddressError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_written_back_as_it_was(text in "az://[a-z0-9-]{1,8}(/[A-Za-z0-9_.-]{0,4}){0,4}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
