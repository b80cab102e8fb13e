//! Names of objects in a vault (DESIGN, "The vault"): one function a kind, and back.

use everpoint_units::{JournalId, MachineId, ObjectNo, decimal20};

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

/// What an object's name says that it is; `None` for names of no kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectKind {
    VaultHeader,
    JournalObject(JournalId, ObjectNo),
    JournalEnd(JournalId),
    Origin(MachineId),
}

/// Reads a name back. Numbers must have 20 digits and start at 1.
pub fn parse(name: &str) -> Option<ObjectKind> {
    let segments: Vec<_> = name.split('/').collect();
    match segments[..] {
        ["v1", "vault"] => Some(ObjectKind::VaultHeader),
        ["v1", "journal", journal, "end"] => Some(ObjectKind::JournalEnd(journal.parse().ok()?)),
        ["v1", "journal", journal, number] => {
            let digits = number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit());
            let number: u64 = number.parse().ok().filter(|&n| digits && n != 0)?;
            Some(ObjectKind::JournalObject(
                journal.parse().ok()?,
                ObjectNo(number),
            ))
        }
        ["v1", "machine", machine, "origin"] => Some(ObjectKind::Origin(machine.parse().ok()?)),
        _ => None,
    }
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
        for (name, kind) in [
            (VAULT_HEADER.to_owned(), ObjectKind::VaultHeader),
            (
                journal_object(journal, ObjectNo(12)),
                ObjectKind::JournalObject(journal, ObjectNo(12)),
            ),
            (journal_end(journal), ObjectKind::JournalEnd(journal)),
            (origin(machine), ObjectKind::Origin(machine)),
        ] {
            assert_eq!(parse(&name), Some(kind), "{name}");
        }
        for other in ["", "v1", "v1/journal/x/1", "v1/vault/1", "v2/vault"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
