//! Bicep: the disk as a resource, and the commands to run as comments.

use std::fmt::Write as _;

use super::quote::bicep;
use super::{DISK_API, Disk, Source, account_id, az};

/// The file.
pub(super) fn text(disk: &Disk<'_>) -> String {
    let mut text = "// To be run in this order, FILE being this file:\n".to_owned();
    for step in az::deployment(disk) {
        writeln!(text, "//   {step}").expect("a string takes it");
    }
    let (name, location) = (bicep(disk.name.as_str()), bicep(disk.location.as_str()));
    let sku = bicep(disk.sku.as_azure());
    let creation = creation(disk);
    let mut more = String::new();
    if let Some(os) = disk.os {
        let os = bicep(os.as_azure());
        writeln!(more, "    osType: {os}").expect("a string takes it");
    }
    if let Some(hyper_v) = disk.hyper_v {
        let hyper_v = bicep(hyper_v.as_azure());
        writeln!(more, "    hyperVGeneration: {hyper_v}").expect("a string takes it");
    }
    let resource = format!(
        "
resource disk 'Microsoft.Compute/disks@{DISK_API}' = {{
  name: {name}
  location: {location}
  sku: {{
    name: {sku}
  }}
  properties: {{
    creationData: {{
{creation}    }}
{more}  }}
}}

output diskId string = disk.id
"
    );
    text + &resource
}

/// Where the bytes come from, a line each.
fn creation(disk: &Disk<'_>) -> String {
    match &disk.source {
        Source::Blob {
            url,
            account,
            account_group,
        } => format!(
            "      createOption: 'Import'\n      sourceUri: {}\n      storageAccountId: {}\n",
            bicep(url),
            account_id(disk, account, account_group, bicep),
        ),
        Source::Upload { len } => {
            format!("      createOption: 'Upload'\n      uploadSizeBytes: {len}\n")
        }
    }
}
