//! Names in Azure, each held against the rule that Azure publishes for it.
//!
//! Sources: Azure, "Naming rules and restrictions for Azure resources" (disks, resource groups, storage accounts,
//! containers), and "Naming and referencing containers, blobs, and metadata".

use std::fmt::Write as _;
use std::str::FromStr;

use crate::size::{ParseSizeError, Size};

const MIB: u64 = 1 << 20;
/// Smallest and largest disk that an upload takes. Source: Azure, "CreationData", uploadSizeBytes, which counts the
/// footer too. Unit: bytes.
const DISK_LEN_MIN: u64 = 20 * MIB;
const DISK_LEN_MAX: u64 = 32 << 40;
/// Longest part of a blob's name between slashes.
const SEGMENT_LEN_MAX: usize = 254;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct DiskName(String);
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ResourceGroup(String);
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct AccountName(String);
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Location(String);
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SubscriptionId(String);
/// Where blobs are reached, without a slash at its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Endpoint(String);

/// A blob of a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct BlobName {
    container: String,
    name: String,
}

/// The size of a disk: whole MiB. Unit: bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct DiskLen(u64);

/// Why a text is not what it should be, and what to write instead.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NameError {
    #[error("{what} has {min} to {max} characters, and this has {len}")]
    Length {
        what: &'static str,
        min: usize,
        max: usize,
        len: usize,
    },
    #[error("{what} has no {found:?} in it: write {allowed}")]
    Character {
        what: &'static str,
        found: char,
        allowed: &'static str,
    },
    #[error("{what} does not begin with {found:?}: write {allowed} first")]
    Begins {
        what: &'static str,
        found: char,
        allowed: &'static str,
    },
    #[error("{what} does not end with {found:?}: write {allowed} last")]
    Ends {
        what: &'static str,
        found: char,
        allowed: &'static str,
    },
    #[error("a container's name has no two hyphens beside each other: write one")]
    Hyphens,
    #[error(
        "it is not a blob: write az://CONTAINER/NAME, as the replica has it in the configuration"
    )]
    NotABlob,
    #[error(
        "a part of a blob's name between slashes has 1 to 254 characters and ends in no dot: rename the blob"
    )]
    Segment,
    #[error(
        "it is not an endpoint: write https:// and a host, as in https://ACCOUNT.blob.core.windows.net"
    )]
    NotAnEndpoint,
    #[error("it is not a subscription: write its id, as `az account show --query id` prints it")]
    NotASubscription,
    #[error("a disk in Azure has whole MiB: write {rounded}, and the rest is zeroes")]
    NotWholeMib { rounded: u64 },
    #[error("an upload takes disks of 20 MiB to 32 TiB")]
    DiskLen,
    #[error(transparent)]
    Size(#[from] ParseSizeError),
}

/// What a kind of name looks like.
struct Rule {
    what: &'static str,
    min: usize,
    max: usize,
    allows: fn(char) -> bool,
    allowed: &'static str,
    begins: fn(char) -> bool,
    begin: &'static str,
    ends: fn(char) -> bool,
    end: &'static str,
}

const DISK: Rule = Rule {
    what: "a disk's name",
    min: 1,
    max: 80,
    allows: |c| c.is_ascii_alphanumeric() || "_.-".contains(c),
    allowed: "letters from a to z, digits, '_', '.' and '-'",
    begins: |c| c.is_ascii_alphanumeric(),
    begin: "a letter or digit",
    ends: |c| c.is_ascii_alphanumeric() || c == '_',
    end: "a letter, digit or '_'",
};

const RESOURCE_GROUP: Rule = Rule {
    what: "a resource group's name",
    min: 1,
    max: 90,
    allows: |c| c.is_alphanumeric() || "_.-()".contains(c),
    allowed: "letters, digits, '_', '.', '-', '(' and ')'",
    begins: |_| true,
    begin: "",
    ends: |c| c != '.',
    end: "anything but a dot",
};

const ACCOUNT: Rule = Rule {
    what: "a storage account's name",
    min: 3,
    max: 24,
    allows: |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    allowed: "small letters from a to z and digits",
    begins: |_| true,
    begin: "",
    ends: |_| true,
    end: "",
};

const CONTAINER: Rule = Rule {
    what: "a container's name",
    min: 3,
    max: 63,
    allows: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    allowed: "small letters from a to z, digits and '-'",
    begins: |c| c != '-',
    begin: "a letter or digit",
    ends: |c| c != '-',
    end: "a letter or digit",
};

const BLOB: Rule = Rule {
    what: "a blob's name",
    min: 1,
    max: 1_024,
    allows: |c| !c.is_control() && c != '\\',
    allowed: "'/' between its parts, and no control characters",
    begins: |c| c != '/',
    begin: "anything but a slash",
    ends: |c| !"./".contains(c),
    end: "anything but a dot or slash",
};

const LOCATION: Rule = Rule {
    what: "a region's name",
    min: 1,
    max: 64,
    allows: |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    allowed: "it as `az account list-locations --query [].name` does, as in westeurope",
    begins: |_| true,
    begin: "",
    ends: |_| true,
    end: "",
};

impl Rule {
    fn check(&self, text: &str) -> Result<String, NameError> {
        let what = self.what;
        let len = text.chars().count();
        if let Some(found) = text.chars().find(|&c| !(self.allows)(c)) {
            let allowed = self.allowed;
            return Err(NameError::Character {
                what,
                found,
                allowed,
            });
        }
        if !(self.min..=self.max).contains(&len) {
            let (min, max) = (self.min, self.max);
            return Err(NameError::Length {
                what,
                min,
                max,
                len,
            });
        }
        let allowed = self.begin;
        if let Some(found) = text.chars().next().filter(|&c| !(self.begins)(c)) {
            return Err(NameError::Begins {
                what,
                found,
                allowed,
            });
        }
        let allowed = self.end;
        if let Some(found) = text.chars().next_back().filter(|&c| !(self.ends)(c)) {
            return Err(NameError::Ends {
                what,
                found,
                allowed,
            });
        }
        Ok(text.to_owned())
    }
}

impl FromStr for DiskName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        DISK.check(text).map(Self)
    }
}

impl FromStr for ResourceGroup {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        RESOURCE_GROUP.check(text).map(Self)
    }
}

impl FromStr for AccountName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        ACCOUNT.check(text).map(Self)
    }
}

impl FromStr for Location {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        LOCATION.check(text).map(Self)
    }
}

impl FromStr for SubscriptionId {
    type Err = NameError;

    /// A GUID, as Azure writes it.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let lens: Vec<usize> = text.split('-').map(str::len).collect();
        if lens != [8, 4, 4, 4, 12] || !text.split('-').all(is_hex) {
            return Err(NameError::NotASubscription);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl FromStr for Endpoint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("https://").unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-:/_".contains(c);
        if !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) || !rest.chars().all(is_plain) {
            return Err(NameError::NotAnEndpoint);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for BlobName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix("az://").ok_or(NameError::NotABlob)?;
        let (container, name) = rest.split_once('/').ok_or(NameError::NotABlob)?;
        let container = CONTAINER.check(container)?;
        if container.contains("--") {
            return Err(NameError::Hyphens);
        }
        let name = BLOB.check(name)?;
        let is_whole = |part: &str| {
            let len = part.chars().count();
            0 < len && len <= SEGMENT_LEN_MAX && !part.ends_with('.')
        };
        if !name.split('/').all(is_whole) {
            return Err(NameError::Segment);
        }
        Ok(Self { container, name })
    }
}

impl FromStr for DiskLen {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Size(len) = text.parse()?;
        if !(DISK_LEN_MIN..=DISK_LEN_MAX).contains(&len.0) {
            return Err(NameError::DiskLen);
        }
        if !len.0.is_multiple_of(MIB) {
            let rounded = len.0.next_multiple_of(MIB);
            return Err(NameError::NotWholeMib { rounded });
        }
        Ok(Self(len.0))
    }
}

impl DiskName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResourceGroup {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl AccountName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Location {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl SubscriptionId {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl BlobName {
    /// Where it is reached, percent-encoded.
    pub(super) fn url(&self, endpoint: Option<&Endpoint>, account: &AccountName) -> String {
        let mut url = match endpoint {
            Some(endpoint) => endpoint.0.clone(),
            None => format!("https://{}.blob.core.windows.net", account.as_str()),
        };
        write!(url, "/{}/", self.container).expect("a string takes it");
        for byte in self.name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                url.push(char::from(byte));
            } else {
                write!(url, "%{byte:02X}").expect("a string takes it");
            }
        }
        url
    }
}

impl DiskLen {
    /// Unit: bytes.
    pub(super) const fn bytes(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of each of these texts.
    fn said<T: FromStr<Err = NameError> + std::fmt::Debug>(texts: &[&str]) -> Vec<String> {
        let said = |text: &&str| text.parse::<T>().expect_err(text).to_string();
        texts.iter().map(said).collect()
    }

    fn all_parse<T: FromStr<Err = NameError>>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_ok(), "{text}");
        }
    }

    #[test]
    fn names_at_the_edge_of_their_rules_are_names() {
        all_parse::<DiskName>(&["d", "9", "web-1.data_", &"d".repeat(80)]);
        all_parse::<ResourceGroup>(&["(r)", "-_.x", "ünïcödé", &"r".repeat(90)]);
        all_parse::<AccountName>(&["abc", "012", &"a".repeat(24)]);
        all_parse::<Location>(&["westeurope", "eastus2"]);
        all_parse::<SubscriptionId>(&["0f8fad5b-d9cb-469f-a165-70867728950E"]);
        all_parse::<Endpoint>(&[
            "https://a.blob.core.windows.net/",
            "https://10.0.0.1:10000/dev",
        ]);
        all_parse::<BlobName>(&["az://abc/x", "az://a-1/dir/.hidden disk.vhd", "az://000/'"]);
        all_parse::<DiskLen>(&["20MiB", "32TiB", "1073741824"]);
    }

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_with_what_to_write() {
        let disk = said::<DiskName>(&["a b", "", &"d".repeat(81), ".d", "d-"]);
        let expected = [
            "a disk's name has no ' ' in it: write letters from a to z, digits, '_', '.' and '-'",
            "a disk's name has 1 to 80 characters, and this has 0",
            "a disk's name has 1 to 80 characters, and this has 81",
            "a disk's name does not begin with '.': write a letter or digit first",
            "a disk's name does not end with '-': write a letter, digit or '_' last",
        ];
        assert_eq!(disk, expected);
        let group = said::<ResourceGroup>(&["r.", "r'", "r\nx"]);
        assert!(group[0].contains("anything but a dot last"), "{group:?}");
        assert!(group[1].contains("'(' and ')'") && group[2].contains(r"'\n'"));
        let account = said::<AccountName>(&["ab", "Abc", "a-bc"]);
        assert!(account[0].contains("3 to 24"), "{account:?}");
        assert!(account[1].contains("small letters") && account[2].contains("'-'"));
        let location = said::<Location>(&["West Europe"]);
        assert!(location[0].contains("as in westeurope"), "{location:?}");
    }

    #[test]
    fn what_is_no_blob_endpoint_or_subscription_is_refused() {
        for text in ["", "disk.vhd", "az://abc", "https://a/b/c"] {
            assert_eq!(text.parse::<BlobName>(), Err(NameError::NotABlob), "{text}");
        }
        assert_eq!("az://a--b/x".parse::<BlobName>(), Err(NameError::Hyphens));
        for text in ["az://abc/a//b", "az://abc/a./b"] {
            assert_eq!(text.parse::<BlobName>(), Err(NameError::Segment), "{text}");
        }
        for text in [
            "az://ab/x",
            "az://-abc/x",
            "az://abc-/x",
            "az://$web/x",
            "az://abc/",
            "az://abc//x",
            "az://abc/x/",
            "az://abc/x.",
            "az://abc/a\\b",
            "az://abc/a\nb",
        ] {
            assert!(text.parse::<BlobName>().is_err(), "{text}");
        }
        for text in [
            "http://a.b",
            "https://",
            "https:///x",
            "https://a?b",
            "https://a'",
        ] {
            assert_eq!(
                text.parse::<Endpoint>(),
                Err(NameError::NotAnEndpoint),
                "{text}"
            );
        }
        for text in [
            "",
            "0f8fad5b",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
            "0f8fad5b-d9cb-469f-a165-7086772895 0",
        ] {
            let refused = text.parse::<SubscriptionId>();
            assert_eq!(refused, Err(NameError::NotASubscription), "{text}");
        }
    }

    #[test]
    fn a_size_is_whole_mib_and_fits_an_upload() {
        let rounded = 31 << 20;
        let odd = ((30 << 20) + 512).to_string();
        assert_eq!(
            odd.parse::<DiskLen>(),
            Err(NameError::NotWholeMib { rounded })
        );
        for text in ["0", "19MiB", "33TiB"] {
            assert_eq!(text.parse::<DiskLen>(), Err(NameError::DiskLen), "{text}");
        }
        let ambiguous = "30GB".parse::<DiskLen>().unwrap_err().to_string();
        assert!(ambiguous.contains("write 30GiB"), "{ambiguous}");
    }

    #[test]
    fn a_blob_is_reached_percent_encoded() {
        let account: AccountName = "acct".parse().unwrap();
        let blob: BlobName = "az://disks/a dir/it's $(1)%20é.vhd".parse().unwrap();
        let name = "disks/a%20dir/it%27s%20%24%281%29%2520%C3%A9.vhd";
        assert_eq!(
            blob.url(None, &account),
            format!("https://acct.blob.core.windows.net/{name}")
        );
        let endpoint: Endpoint = "https://acct.blob.example/".parse().unwrap();
        let there = blob.url(Some(&endpoint), &account);
        assert_eq!(there, format!("https://acct.blob.example/{name}"));
    }
}
