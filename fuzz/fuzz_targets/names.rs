//! Names in a vault and ids: any text is refused, or written back as it was.
#![no_main]

use everpoint_format::name;
use everpoint_units::{DiskId, JournalId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(kind) = name::parse(text) {
        let written = match kind {
            name::ObjectKind::VaultHeader => name::VAULT_HEADER.to_owned(),
            name::ObjectKind::JournalObject(journal, number) => {
                name::journal_object(journal, number)
            }
            name::ObjectKind::JournalEnd(journal) => name::journal_end(journal),
            name::ObjectKind::Origin(machine) => name::origin(machine),
            name::ObjectKind::Manifest(machine, number) => name::manifest(machine, number),
            name::ObjectKind::Layer(machine, id) => name::layer(machine, id),
            name::ObjectKind::Pack(machine, id) => name::pack(machine, id),
        };
        assert_eq!(name::parse(&written), Some(kind));
    }
    if let Ok(journal) = text.parse::<JournalId>() {
        assert_eq!(journal.to_string().parse(), Ok(journal));
    }
    if let Ok(disk) = text.parse::<DiskId>() {
        assert_eq!(disk.to_string().parse(), Ok(disk));
    }
});
