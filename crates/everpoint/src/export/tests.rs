//! Tests of what is printed, form by form. What strangers make of it is asked in `tests/export.rs` of the repository.

use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    export: Export,
}

fn parse(words: &str) -> Result<Export, clap::Error> {
    let line = Line::try_parse_from(["export"].into_iter().chain(words.split_whitespace()));
    Ok(line?.export)
}

const IMPORT: &str = "--way import --blob az://disks/web.vhd --account acct --name web-1 --resource-group rg \
                      --location westeurope";
const UPLOAD: &str =
    "--way upload --name web-1 --resource-group rg --location westeurope --size-bytes 1GiB";

fn text(form: &str, rest: &str) -> String {
    let export = parse(&format!("--as {form} {rest}")).unwrap();
    let disk = export.disk().unwrap();
    match export.form {
        Form::Az => az::text(&disk),
        Form::Arm => arm::text(&disk),
        Form::Bicep => bicep::text(&disk),
    }
}

#[test]
fn a_template_that_imports_names_blob_and_account() {
    let template: Value = serde_json::from_str(&text("arm", IMPORT)).unwrap();
    let disk = &template["resources"][0];
    assert_eq!(disk["sku"]["name"], "StandardSSD_LRS");
    let creation = &disk["properties"]["creationData"];
    assert_eq!(creation["createOption"], "Import");
    let url = "https://acct.blob.core.windows.net/disks/web.vhd";
    assert_eq!(creation["sourceUri"], url);
    let id = "[resourceId('rg', 'Microsoft.Storage/storageAccounts', 'acct')]";
    assert_eq!(creation["storageAccountId"], id);
    assert_eq!(template["metadata"]["steps"].as_array().unwrap().len(), 1);
}

#[test]
fn a_storage_account_may_lie_in_another_group_and_a_named_subscription() {
    let subscription = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let more = format!("{IMPORT} --account-resource-group vaults --subscription {subscription}");
    let id = format!(
        "resourceId('{subscription}', 'vaults', 'Microsoft.Storage/storageAccounts', 'acct')"
    );
    for form in ["arm", "bicep"] {
        let text = text(form, &more);
        assert!(text.contains(&id), "{text}");
    }
    let script = text("az", &more);
    let show = format!(
        "account=$(az storage account show --name 'acct' --resource-group 'vaults' --subscription '{subscription}' "
    );
    assert!(script.contains(&show), "{script}");
}

#[test]
fn a_group_whose_name_begins_like_a_flag_is_no_flag() {
    let more = IMPORT.replace("--resource-group rg", "--resource-group=--help");
    let script = text("az", &more);
    assert_eq!(
        script.matches(" --resource-group='--help' ").count(),
        2,
        "{script}"
    );
    assert_eq!(script.matches("--help").count(), 2, "{script}");
}

#[test]
fn an_upload_has_the_length_of_disk_and_footer() {
    let len = (1 << 30) + 512;
    let template: Value = serde_json::from_str(&text("arm", UPLOAD)).unwrap();
    let creation = &template["resources"][0]["properties"]["creationData"];
    assert_eq!(creation["createOption"], "Upload");
    assert_eq!(creation["uploadSizeBytes"], len);
    assert_eq!(template["metadata"]["steps"].as_array().unwrap().len(), 4);
    let bicep = text("bicep", UPLOAD);
    let line = format!("\n      uploadSizeBytes: {len}\n");
    assert!(bicep.contains(&line), "{bicep}");
    let script = text("az", UPLOAD);
    let flags = format!(" --for-upload true --upload-size-bytes {len}\n");
    assert!(script.contains(&flags), "{script}");
}

#[test]
fn bicep_that_imports_is_this() {
    let more = format!("{IMPORT} --os linux --hyper-v-generation v2 --sku premium_lrs");
    let expected = "\
// To be run in this order, FILE being this file:
//   az deployment group create --resource-group 'rg' --template-file FILE

resource disk 'Microsoft.Compute/disks@2024-03-02' = {
  name: 'web-1'
  location: 'westeurope'
  sku: {
    name: 'Premium_LRS'
  }
  properties: {
    creationData: {
      createOption: 'Import'
      sourceUri: 'https://acct.blob.core.windows.net/disks/web.vhd'
      storageAccountId: resourceId('rg', 'Microsoft.Storage/storageAccounts', 'acct')
    }
    osType: 'Linux'
    hyperVGeneration: 'V2'
  }
}

output diskId string = disk.id
";
    assert_eq!(text("bicep", &more), expected);
}

#[test]
fn what_a_way_needs_has_to_be_said() {
    for (left_out, flag) in [
        ("--blob az://disks/web.vhd", "--blob"),
        ("--account acct", "--account"),
        ("--way import", "--way"),
        ("--name web-1", "--name"),
    ] {
        let words = format!("--as az {IMPORT}").replace(left_out, "");
        let refused = parse(&words).unwrap_err().to_string();
        assert!(refused.contains(flag), "{refused}");
    }
    let words = format!("--as az {UPLOAD}").replace("--size-bytes 1GiB", "");
    let refused = parse(&words).unwrap_err().to_string();
    assert!(refused.contains("--size-bytes"), "{refused}");
    let generation = parse(&format!("--as az {UPLOAD} --hyper-v-generation V1")).unwrap_err();
    assert!(generation.to_string().contains("--os"), "{generation}");
}
