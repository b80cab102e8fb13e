//! Names of objects in a vault (DESIGN, "The vault"): one function a kind, and back.

use everpoint_units::{JournalId, MachineId, ManifestNo, ObjectNo, RetentionId, decimal20};

/// The vault's own header.
pub const VAULT_HEADER: &str = "v1/vault";
/// Everything that belongs to journals; one folder a journal below it.
pub const JOURNALS: &str = "v1/journal";
/// Everything that belongs to machines; one folder a machine below it.
pub const MACHINES: &str = "v1/machine";

/// Data object or seal `number` of a journal.
pub fn journal_object(journal: JournalId, number: ObjectNo) -> String {
    format!("{JOURNALS}/{journal}/{}", decimal20(number.0))
}

/// The copy of a journal's seal that is made before anything in it is deleted.
pub fn journal_end(journal: JournalId) -> String {
    format!("{JOURNALS}/{journal}/end")
}

/// The folder of a journal.
pub fn journal(journal: JournalId) -> String {
    format!("{JOURNALS}/{journal}")
}

/// Where a machine's path begins.
pub fn origin(machine: MachineId) -> String {
    format!("{MACHINES}/{machine}/origin")
}

/// The folder of a machine's manifests.
pub fn manifests(machine: MachineId) -> String {
    format!("{MACHINES}/{machine}/manifest")
}

/// One manifest of a machine.
pub fn manifest(machine: MachineId, number: ManifestNo) -> String {
    format!("{}/{}", manifests(machine), decimal20(number.0))
}

/// The folder of a machine's map layers.
pub fn layers(machine: MachineId) -> String {
    format!("{MACHINES}/{machine}/layer")
}

/// One map layer of a machine.
pub fn layer(machine: MachineId, id: RetentionId) -> String {
    format!("{}/{id}", layers(machine))
}

/// The folder of a machine's packs.
pub fn packs(machine: MachineId) -> String {
    format!("{MACHINES}/{machine}/pack")
}

/// One pack of a machine.
pub fn pack(machine: MachineId, id: RetentionId) -> String {
    format!("{}/{id}", packs(machine))
}

/// What an object's name says that it is; `None` for names of no kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectKind {
    VaultHeader,
    JournalObject(JournalId, ObjectNo),
    JournalEnd(JournalId),
    Origin(MachineId),
    Manifest(MachineId, ManifestNo),
    Layer(MachineId, RetentionId),
    Pack(MachineId, RetentionId),
}

/// Reads a name back. Numbers must have 20 digits and start at 1.
pub fn parse(name: &str) -> Option<ObjectKind> {
    let segments: Vec<_> = name.split('/').collect();
    match segments[..] {
        ["v1", "vault"] => Some(ObjectKind::VaultHeader),
        ["v1", "journal", journal, "end"] => Some(ObjectKind::JournalEnd(journal.parse().ok()?)),
        ["v1", "journal", journal, number] => {
            let (journal, number) = (journal.parse().ok()?, ObjectNo(counted(number)?));
            Some(ObjectKind::JournalObject(journal, number))
        }
        ["v1", "machine", machine, "origin"] => Some(ObjectKind::Origin(machine.parse().ok()?)),
        ["v1", "machine", machine, "manifest", number] => {
            let (machine, number) = (machine.parse().ok()?, ManifestNo(counted(number)?));
            Some(ObjectKind::Manifest(machine, number))
        }
        ["v1", "machine", machine, "layer", id] => {
            Some(ObjectKind::Layer(machine.parse().ok()?, id.parse().ok()?))
        }
        ["v1", "machine", machine, "pack", id] => {
            Some(ObjectKind::Pack(machine.parse().ok()?, id.parse().ok()?))
        }
        _ => None,
    }
}

/// A number as names write it, from 1.
fn counted(digits: &str) -> Option<u64> {
    let is_whole = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    digits
        .parse()
        .ok()
        .filter(|&number| is_whole && number != 0)
}

#[cfg(test)]
mod tests {
    use everpoint_units::Level;

    use super::*;

    #[test]
    fn every_name_reads_back() {
        let journal = JournalId {
            level: Level(7),
            random: [0xab; 16],
        };
        let machine = MachineId([3; 16]);
        let id = RetentionId {
            number: ManifestNo(9),
            random: [0xcd; 16],
        };
        for (name, kind) in [
            (VAULT_HEADER.to_owned(), ObjectKind::VaultHeader),
            (
                journal_object(journal, ObjectNo(12)),
                ObjectKind::JournalObject(journal, ObjectNo(12)),
            ),
            (journal_end(journal), ObjectKind::JournalEnd(journal)),
            (origin(machine), ObjectKind::Origin(machine)),
            (
                manifest(machine, ManifestNo(8)),
                ObjectKind::Manifest(machine, ManifestNo(8)),
            ),
            (layer(machine, id), ObjectKind::Layer(machine, id)),
            (pack(machine, id), ObjectKind::Pack(machine, id)),
        ] {
            assert_eq!(parse(&name), Some(kind), "{name}");
        }
        for other in ["", "v1", "v1/journal/x/1", "v1/vault/1", "v2/vault"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
