//! Checking a vault: every machine's path, every journal, and on demand every byte.
//!
//! Without data this reads what every walk reads: headers, indexes, seals, origins. It finds objects that do
//! not decode or lie under another name, chains of objects and of blocks that do not hold, seals that
//! disagree, successors whose level does not rise; and of manifests and map layers all that there is, and whether what
//! they refer to is there. With data it also reads every frame and compares every
//! stored checksum and digest. What it finds is the answer; an error means that the vault gave none.

mod data;
mod journal;
mod layers;

use everpoint_format::vault::VaultHeader;
use everpoint_journal::path::PathEnd;
use everpoint_units::{ByteLen, ByteOffset, DiskId, MachineId};
use everpoint_vault::Vault;
use everpoint_vault::history::{list_journals, list_machines, read_header};
use serde::Serialize;

use everpoint_vault::frames::IntegrityError;

use crate::error::LoadError;
use crate::listing::Window;
use crate::machine::{DamageNote, LoadedMachine, load_from_journals};
use crate::plain;

use layers::Reaches;

/// Most findings that are kept; further ones are counted.
const FINDINGS_MAX: usize = 10_000;

/// What a vault is like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Whether frames were read, too.
    pub read_data: bool,
    pub machines: Vec<MachineCheck>,
    pub journal_count: u64,
    pub object_count: u64,
    pub manifest_count: u64,
    /// Map layers that the newest manifests link.
    pub layer_count: u64,
    /// Frames verified.
    pub frame_count: u64,
    /// Bytes of frames read.
    pub read_bytes: u64,
    /// At most 10,000.
    pub findings: Vec<Finding>,
    /// Findings of [`Severity::Damage`], those that were not kept included.
    pub damage_count: u64,
    /// Findings that were not kept.
    pub left_out_count: u64,
}

/// One machine of the vault.
#[derive(Clone, Debug, Serialize)]
pub struct MachineCheck {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    pub disk_count: usize,
    /// Where every request is a recovery point of the whole machine.
    pub windows: Vec<Window>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The object's name in the vault.
    pub object: Option<String>,
    /// Where in the object. Unit: bytes.
    pub at: Option<u64>,
    #[serde(serialize_with = "plain::text_if_any")]
    pub machine: Option<MachineId>,
    #[serde(serialize_with = "plain::text_if_any")]
    pub disk: Option<DiskId>,
    pub what: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something that was promised cannot be restored, or may not be.
    Damage,
    /// Strange, and no point needs it.
    Notice,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CheckProgress {
    /// Journals done, and how many there are.
    pub journals_done: u64,
    pub journal_count: u64,
    pub objects_done: u64,
    /// Bytes of frames read.
    pub read: ByteLen,
}

/// A check on its way.
struct Checking<'a> {
    vault: &'a Vault,
    header: VaultHeader,
    report: CheckReport,
    progress: &'a (dyn Fn(&CheckProgress) + Send + Sync),
    journals_done: u64,
    reaches: Reaches,
}

/// Checks the vault; with `read_data` every byte of every frame.
///
/// # Errors
///
/// See [`LoadError`]. Damage is part of the answer, that of the vault's own header excepted.
pub async fn check(
    vault: &Vault,
    read_data: bool,
    progress: &(dyn Fn(&CheckProgress) + Send + Sync),
) -> Result<CheckReport, LoadError> {
    let header = read_header(vault).await?;
    let mut checking = Checking {
        vault,
        header,
        report: CheckReport {
            read_data,
            ..CheckReport::default()
        },
        progress,
        journals_done: 0,
        reaches: Reaches::new(),
    };
    for machine in list_machines(vault).await? {
        checking.check_manifests(machine).await?;
    }
    // Behind the manifests: what those refer to is in one of these.
    let journals = list_journals(vault).await?;
    checking.report.journal_count = journals.len() as u64;
    checking.check_machines().await?;
    for journal in journals {
        checking.check_journal(journal).await?;
        checking.journals_done += 1;
        checking.tell();
    }
    checking.check_reaches();
    Ok(checking.report)
}

impl Checking<'_> {
    async fn check_machines(&mut self) -> Result<(), LoadError> {
        let folders = list_machines(self.vault).await?;
        let loaded = load_from_journals(self.vault, self.header.vault).await?;
        for machine in folders {
            let Some(loaded) = loaded.get(&machine) else {
                let what = "has a folder and no origin: nothing of it is in the vault".into();
                self.report.add(Finding {
                    machine: Some(machine),
                    ..Finding::new(Severity::Notice, what)
                });
                continue;
            };
            self.report.machines.push(MachineCheck::of(loaded));
            for note in loaded.damage() {
                self.report.add(Finding::of_machine(machine, note));
            }
            if loaded.end() == PathEnd::Broken {
                let what = "its path cannot be followed to its end".into();
                self.report.add(Finding {
                    machine: Some(machine),
                    ..Finding::new(Severity::Damage, what)
                });
            }
        }
        Ok(())
    }

    fn tell(&self) {
        (self.progress)(&CheckProgress {
            journals_done: self.journals_done,
            journal_count: self.report.journal_count,
            objects_done: self.report.object_count,
            read: ByteLen(self.report.read_bytes),
        });
    }
}

impl CheckReport {
    /// Whether everything that was looked at is as it should be.
    pub const fn is_sound(&self) -> bool {
        self.damage_count == 0
    }

    fn add(&mut self, finding: Finding) {
        self.damage_count += u64::from(finding.severity == Severity::Damage);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.left_out_count += 1;
        }
    }
}

impl MachineCheck {
    fn of(loaded: &LoadedMachine) -> Self {
        let windows = loaded.windows(None);
        Self {
            machine: loaded.machine(),
            disk_count: loaded.history().disks().len(),
            windows: windows
                .into_iter()
                .map(|span| Window::of(loaded, span))
                .collect(),
        }
    }
}

impl Finding {
    fn new(severity: Severity, what: String) -> Self {
        Self {
            severity,
            object: None,
            at: None,
            machine: None,
            disk: None,
            what,
        }
    }

    fn of_object(severity: Severity, object: &str, what: impl Into<String>) -> Self {
        Self {
            object: Some(object.to_owned()),
            ..Self::new(severity, what.into())
        }
    }

    fn of_machine(machine: MachineId, note: &DamageNote) -> Self {
        Self {
            object: note.object.clone(),
            machine: Some(machine),
            disk: note.disk,
            ..Self::new(Severity::Damage, note.what.clone())
        }
    }

    fn of_bytes(error: &IntegrityError) -> Self {
        Self {
            at: error.frame_at().map(|ByteOffset(at)| at),
            ..Self::of_object(
                Severity::Damage,
                error.object().as_str(),
                with_causes(error),
            )
        }
    }
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
