//! `everpoint check`: everything in a vault that is not as it should be, from the vault alone.

use clap::Args;
use everpoint_retention::{CheckProgress, CheckReport, Finding, Severity, check};

use crate::failure::{Code, Failure};
use crate::output::{self, Table};
use crate::progress;
use crate::vault::VaultArg;

/// Which vault, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    vault: VaultArg,
    /// Also read every frame, and compare every checksum and digest.
    #[arg(long)]
    read_data: bool,
}

/// Does it.
///
/// # Errors
///
/// Why there is no answer, or that there is damage.
pub(crate) async fn run(args: &Check, json: bool) -> Result<(), Failure> {
    let vault = args.vault.open().await?;
    let bar = progress::things("checking journals");
    let tell = |progress: &CheckProgress| {
        bar.set_length(progress.journal_count);
        bar.set_position(progress.journals_done);
        let read = output::bytes(progress.read.0);
        bar.set_message(format!("{} objects, {read} read", progress.objects_done));
    };
    let report = check(&vault, args.read_data, &tell).await;
    bar.finish_and_clear();
    let report = report?;
    output::print(json, &report, lines)?;
    match report.damage_count {
        0 => Ok(()),
        count => Err(
            Failure::new(Code::Integrity, format!("{count} places are damaged"))
                .help("`everpoint point list` names the points that are whole"),
        ),
    }
}

fn lines(report: &CheckReport) -> String {
    let mut facts = Table::plain();
    facts.row(["journals", &report.journal_count.to_string()]);
    facts.row(["objects", &report.object_count.to_string()]);
    facts.row(["manifests", &report.manifest_count.to_string()]);
    facts.row(["map layers", &report.layer_count.to_string()]);
    if report.read_data {
        facts.row(["frames verified", &report.frame_count.to_string()]);
        facts.row(["bytes read", &output::bytes(report.read_bytes)]);
    }
    facts.row(["damage", &report.damage_count.to_string()]);
    let mut machines = Table::new(&["machine", "disks", "restorable from", "through"]);
    for machine in &report.machines {
        let first = machine
            .windows
            .first()
            .map(|window| window.from.seq.to_string());
        let last = machine
            .windows
            .last()
            .map(|window| window.through.seq.to_string());
        machines.row([
            machine.machine.to_string(),
            machine.disk_count.to_string(),
            first.unwrap_or_else(|| "-".to_owned()),
            last.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut text = format!("{}\n{}", facts.render(), machines.render());
    for finding in &report.findings {
        text.push_str(&output::escape(&line(finding)));
        text.push('\n');
    }
    if report.left_out_count != 0 {
        text.push_str(&format!("and {} more\n", report.left_out_count));
    }
    text
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Damage => "damage",
        Severity::Notice => "notice",
    };
    let place = match (&finding.object, finding.at) {
        (Some(object), Some(at)) => format!(" {object}, byte {at}"),
        (Some(object), None) => format!(" {object}"),
        (None, _) => String::new(),
    };
    let disk = finding
        .disk
        .map_or(String::new(), |disk| format!(" disk {disk}"));
    let machine = finding
        .machine
        .map_or(String::new(), |machine| format!(" machine {machine}"));
    format!("{severity}:{place}{machine}{disk}: {}", finding.what)
}
