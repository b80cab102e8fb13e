//! `everpoint replica export`: the text that makes a managed disk in Azure of a replica.
//!
//! | way | what happens when the text is run |
//! |---|---|
//! | `import` | Azure makes the disk of the replica's page blob, which is a fixed VHD |
//! | `upload` | an empty disk is made, and a restore from the vault writes into it |
//!
//! The text is for the Azure command line, for Azure Resource Manager, or Bicep. Every name is held against the rule
//! that Azure publishes for it, and quoted all the same. Nothing is asked of Azure here, so nothing here knows whether
//! what is named exists.

mod arm;
mod az;
mod bicep;
mod name;
mod quote;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;
use crate::output;

use name::{
    AccountName, BlobName, DiskLen, DiskName, Endpoint, Location, ResourceGroup, SubscriptionId,
};

/// The version of the disk resource that templates name. Source: Azure, "Microsoft.Compute/disks", 2024-03-02.
const DISK_API: &str = "2024-03-02";
/// What follows a disk's bytes in a fixed VHD. Unit: bytes.
const FOOTER_LEN: u64 = 512;
/// How long a disk may be written to from outside. Source: Azure, "Upload a VHD to Azure". Unit: seconds.
const ACCESS_S: u64 = 86_400;

/// Which replica, and what disk it becomes.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// What the text is for.
    #[arg(long = "as", value_enum)]
    form: Form,
    /// How the disk gets its bytes.
    #[arg(long, value_enum)]
    way: Way,
    /// The replica's page blob. Its name is written as it is, not percent-encoded.
    #[arg(
        long,
        value_name = "az://CONTAINER/NAME",
        required_if_eq("way", "import")
    )]
    blob: Option<BlobName>,
    /// The storage account of the blob.
    #[arg(long, required_if_eq("way", "import"))]
    account: Option<AccountName>,
    /// The resource group of the storage account. Default: that of the disk.
    #[arg(long, value_name = "GROUP")]
    account_resource_group: Option<ResourceGroup>,
    /// Where the account's blobs are reached. Default: https://ACCOUNT.blob.core.windows.net
    #[arg(long, value_name = "URL")]
    endpoint: Option<Endpoint>,
    /// The name of the disk.
    #[arg(long)]
    name: DiskName,
    /// The resource group that the disk is made in.
    #[arg(long, value_name = "GROUP")]
    resource_group: ResourceGroup,
    /// The region that the disk is made in; an import wants that of the storage account.
    #[arg(long)]
    location: Location,
    /// What the disk is kept on.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Sku::StandardSsd)]
    sku: Sku,
    /// The disk can be booted, and this is on it.
    #[arg(long, value_enum)]
    os: Option<Os>,
    /// The kind of machine that boots it: V1 is BIOS, V2 is UEFI.
    #[arg(long, value_enum, ignore_case = true, requires = "os")]
    hyper_v_generation: Option<HyperV>,
    /// The subscription of disk and storage account. Default: the one that is signed in to.
    #[arg(long, value_name = "ID")]
    subscription: Option<SubscriptionId>,
    /// The size of the disk, in whole MiB, without any footer; an upload has to know it.
    #[arg(long, value_name = "SIZE", required_if_eq("way", "upload"))]
    size_bytes: Option<DiskLen>,
}

/// What a text is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// A shell script that calls the Azure command line.
    Az,
    /// A template for Azure Resource Manager, in JSON.
    Arm,
    /// The same in Bicep.
    Bicep,
}

/// How a disk gets its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// Azure copies the replica's page blob. It must not be written to meanwhile.
    Import,
    /// A restore from the vault writes them. Also for disks that are too large for a page blob.
    Upload,
}

/// What a disk is kept on. Source: Azure, "DiskStorageAccountTypes".
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Sku {
    #[value(name = "Standard_LRS")]
    Standard,
    #[value(name = "StandardSSD_LRS")]
    StandardSsd,
    #[value(name = "Premium_LRS")]
    Premium,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Os {
    Linux,
    Windows,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum HyperV {
    #[value(name = "V1")]
    V1,
    #[value(name = "V2")]
    V2,
}

/// A disk to be made, and all that has to be known of it.
#[derive(Debug)]
struct Disk<'a> {
    name: &'a DiskName,
    resource_group: &'a ResourceGroup,
    location: &'a Location,
    subscription: Option<&'a SubscriptionId>,
    sku: Sku,
    os: Option<Os>,
    hyper_v: Option<HyperV>,
    source: Source<'a>,
}

/// Where a disk's bytes come from.
#[derive(Debug)]
enum Source<'a> {
    Blob {
        url: String,
        account: &'a AccountName,
        account_group: &'a ResourceGroup,
    },
    /// A restore, which also writes the footer. Unit: bytes, with it.
    Upload { len: u64 },
}

/// What is printed for programs.
#[derive(Debug, Serialize)]
struct Exported {
    #[serde(rename = "as")]
    form: Form,
    way: Way,
    text: String,
}

/// Does it.
///
/// # Errors
///
/// What is missing, or that nobody takes what is printed.
pub(crate) fn run(args: &Export, json: bool) -> Result<(), Failure> {
    let disk = args.disk()?;
    let text = match args.form {
        Form::Az => az::text(&disk),
        Form::Arm => arm::text(&disk),
        Form::Bicep => bicep::text(&disk),
    };
    let (form, way) = (args.form, args.way);
    output::print(json, &Exported { form, way, text }, |exported| {
        exported.text.clone()
    })
}

impl Export {
    fn disk(&self) -> Result<Disk<'_>, Failure> {
        let missing = |flag: &str| Failure::usage(format!("{flag} is missing"));
        let source = match self.way {
            Way::Import => {
                let blob = self.blob.as_ref().ok_or_else(|| missing("--blob"))?;
                let account = self.account.as_ref().ok_or_else(|| missing("--account"))?;
                Source::Blob {
                    url: blob.url(self.endpoint.as_ref(), account),
                    account,
                    account_group: self
                        .account_resource_group
                        .as_ref()
                        .unwrap_or(&self.resource_group),
                }
            }
            Way::Upload => {
                let len = self.size_bytes.ok_or_else(|| missing("--size-bytes"))?;
                Source::Upload {
                    len: len.bytes() + FOOTER_LEN,
                }
            }
        };
        Ok(Disk {
            name: &self.name,
            resource_group: &self.resource_group,
            location: &self.location,
            subscription: self.subscription.as_ref(),
            sku: self.sku,
            os: self.os,
            hyper_v: self.hyper_v_generation,
            source,
        })
    }
}

/// The call that gives the id of a storage account, in templates and in Bicep alike, but for how each quotes.
fn account_id(
    disk: &Disk<'_>,
    account: &AccountName,
    group: &ResourceGroup,
    quoted: fn(&str) -> String,
) -> String {
    let words = [
        disk.subscription.map(SubscriptionId::as_str),
        Some(group.as_str()),
        Some("Microsoft.Storage/storageAccounts"),
        Some(account.as_str()),
    ];
    let words: Vec<String> = words.into_iter().flatten().map(quoted).collect();
    format!("resourceId({})", words.join(", "))
}

impl Sku {
    const fn as_azure(self) -> &'static str {
        match self {
            Self::Standard => "Standard_LRS",
            Self::StandardSsd => "StandardSSD_LRS",
            Self::Premium => "Premium_LRS",
        }
    }
}

impl Os {
    const fn as_azure(self) -> &'static str {
        match self {
            Self::Linux => "Linux",
            Self::Windows => "Windows",
        }
    }
}

impl HyperV {
    const fn as_azure(self) -> &'static str {
        match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
        }
    }
}

#[cfg(test)]
mod tests;
