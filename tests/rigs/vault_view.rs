//! What a vault holds of a machine, read with the product's own readers: the last block of each generation.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use everpoint_units::MachineId;
use everpoint_vault::history::{read_header, walk};
use everpoint_vault::{OpenOptions, Vault, VaultConfig, VaultUrl};

/// Number of the last block on the machine's path, by generation as hexadecimal digits. For machines of one
/// disk.
///
/// # Errors
///
/// When the vault cannot be read, or is damaged on the machine's path.
pub async fn last_blocks(vault: &Path, machine: MachineId) -> Result<BTreeMap<String, u64>> {
    let url = VaultUrl::file(vault)?;
    let vault = Vault::open(&url, &VaultConfig::default(), OpenOptions::READ).await?;
    let header = read_header(&vault).await?;
    let mut blocks = BTreeMap::new();
    let walked = walk(&vault, header.vault, machine, |_, _, data, _| {
        let sections = data.index.sections.iter();
        for section in sections.filter(|section| section.machine == machine) {
            let generation = section
                .generation
                .0
                .map(|byte| format!("{byte:02x}"))
                .concat();
            let last = blocks.entry(generation).or_insert(0);
            *last = section.end().block_no.0.max(*last);
        }
    });
    let walked = walked.await?;
    ensure!(
        walked.damage.is_empty(),
        "the path is damaged: {:?}",
        walked.damage
    );
    Ok(blocks)
}
