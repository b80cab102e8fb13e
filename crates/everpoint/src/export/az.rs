//! A shell script that calls the Azure command line: one command a line, every value quoted.
//!
//! Source: Azure command line, "az disk", and "Upload a VHD to Azure". `--for-upload` is what every version of it takes;
//! newer ones also call it `--upload-type Upload`, and have renamed `accessSas` in their answers.

use super::quote::shell;
use super::{ACCESS_S, Disk, Source};

const IMPORT_HEAD: &str = "\
#!/bin/sh
# Makes a managed disk of the page blob of a replica. Azure copies the blob as it is then: nothing may write to it
# until the disk is there, so end its replication first.
set -eu
";

const UPLOAD_HEAD: &str = "\
#!/bin/sh
# Makes an empty managed disk, and restores a disk from its vault into it.
# Call it with the vault, the disk and, if not the newest, the point: sh SCRIPT az://CONTAINER/PREFIX DISK [AT]
set -eu
vault=${1:?name the vault first, as in az://CONTAINER/PREFIX}
disk=${2:?name the disk second, as everpoint disk list does}
at=${3:-latest}
";

/// The SAS goes over by a file of its owner's alone: arguments can be read by everybody on the machine.
const SAS_FILE: &str =
    "file=$(mktemp)\ntrap 'rm -f \"$file\"' EXIT\nprintf '%s\\n' \"$sas\" > \"$file\"\n";
/// Where access to the disk is ended, and why not before.
const REVOKE_NOTE: &str = "\
# A restore that fails ends this script here: until its access is revoked, a disk with half its bytes cannot be attached.
";

/// The script.
pub(super) fn text(disk: &Disk<'_>) -> String {
    match &disk.source {
        Source::Blob {
            url,
            account,
            account_group,
        } => {
            let named = [
                ("--name", account.as_str()),
                ("--resource-group", account_group.as_str()),
            ];
            let show = command(disk, "storage account show", &named);
            let source = format!(" --source {}", shell(url));
            format!(
                "{IMPORT_HEAD}account=$({show} --query id --output tsv)\n\
                 {}{source} --source-storage-account-id \"$account\"\n",
                create(disk)
            )
        }
        Source::Upload { len } => {
            let access = [
                ("--name", disk.name.as_str()),
                ("--resource-group", disk.resource_group.as_str()),
            ];
            let grant = command(disk, "disk grant-access", &access);
            let revoke = command(disk, "disk revoke-access", &access);
            format!(
                "{UPLOAD_HEAD}{} --for-upload true --upload-size-bytes {len}\n\
                 sas=$({grant} --access-level Write --duration-in-seconds {ACCESS_S} \
                 --query 'accessSAS || accessSas' --output tsv)\n\
                 {SAS_FILE}\
                 {REVOKE_NOTE}\
                 everpoint restore --vault \"$vault\" --disk \"$disk\" --at \"$at\" --to-sas \"$file\"\n\
                 {revoke}\n",
                create(disk)
            )
        }
    }
}

/// What makes the disk, but for where its bytes come from.
fn create(disk: &Disk<'_>) -> String {
    let mut flags = vec![
        ("--name", disk.name.as_str()),
        ("--resource-group", disk.resource_group.as_str()),
        ("--location", disk.location.as_str()),
        ("--sku", disk.sku.as_azure()),
    ];
    if let Some(os) = disk.os {
        flags.push(("--os-type", os.as_azure()));
    }
    if let Some(hyper_v) = disk.hyper_v {
        flags.push(("--hyper-v-generation", hyper_v.as_azure()));
    }
    command(disk, "disk create", &flags)
}

fn command(disk: &Disk<'_>, action: &str, flags: &[(&str, &str)]) -> String {
    let mut words = format!("az {action}");
    let subscription = disk.subscription.map(|id| ("--subscription", id.as_str()));
    for (flag, value) in flags.iter().copied().chain(subscription) {
        words.push(' ');
        words.push_str(flag);
        // A group's name may begin like a flag.
        words.push(if value.starts_with('-') { '=' } else { ' ' });
        words.push_str(&shell(value));
    }
    words
}

/// The commands that make a deployment of a template, and after it, for a person to run: `FILE` is where the template
/// was put.
pub(super) fn deployment(disk: &Disk<'_>) -> Vec<String> {
    let group = [("--resource-group", disk.resource_group.as_str())];
    let deploy = command(disk, "deployment group create", &group);
    let mut steps = vec![format!("{deploy} --template-file FILE")];
    if matches!(disk.source, Source::Upload { .. }) {
        let access = [
            ("--name", disk.name.as_str()),
            ("--resource-group", disk.resource_group.as_str()),
        ];
        let grant = command(disk, "disk grant-access", &access);
        let revoke = command(disk, "disk revoke-access", &access);
        steps.push(format!(
            "{grant} --access-level Write --duration-in-seconds {ACCESS_S}"
        ));
        steps.push("everpoint restore --vault VAULT --disk DISK --at latest --to-sas FILE  # the SAS, in a file of mode 0600".into());
        steps.push(revoke);
    }
    steps
}
