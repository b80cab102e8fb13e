//! A template for Azure Resource Manager.

use serde_json::{Map, Value, json};

use super::quote::{expression, template};
use super::{DISK_API, Disk, Source, account_id, az};

/// The template, over several lines.
pub(super) fn text(disk: &Disk<'_>) -> String {
    let id = format!(
        "[resourceId('Microsoft.Compute/disks', {})]",
        expression(disk.name.as_str())
    );
    let template = json!({
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "metadata": { "steps": az::deployment(disk) },
        "resources": [{
            "type": "Microsoft.Compute/disks",
            "apiVersion": DISK_API,
            "name": template(disk.name.as_str()),
            "location": template(disk.location.as_str()),
            "sku": { "name": disk.sku.as_azure() },
            "properties": properties(disk),
        }],
        "outputs": { "diskId": { "type": "string", "value": id } },
    });
    format!("{template:#}\n")
}

fn properties(disk: &Disk<'_>) -> Map<String, Value> {
    let creation = match &disk.source {
        Source::Blob {
            url,
            account,
            account_group,
        } => {
            let id = account_id(disk, account, account_group, expression);
            json!({
                "createOption": "Import",
                "sourceUri": template(url),
                "storageAccountId": format!("[{id}]"),
            })
        }
        Source::Upload { len } => json!({ "createOption": "Upload", "uploadSizeBytes": len }),
    };
    let mut properties = Map::from_iter([("creationData".to_owned(), creation)]);
    if let Some(os) = disk.os {
        properties.insert("osType".into(), os.as_azure().into());
    }
    if let Some(hyper_v) = disk.hyper_v {
        properties.insert("hyperVGeneration".into(), hyper_v.as_azure().into());
    }
    properties
}
