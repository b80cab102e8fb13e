//! What a vault holds of a machine, read with the product's own readers: the last block of each generation, and
//! which kinds of records there are.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use everpoint_format::Change;
use everpoint_format::data::DataIndex;
use everpoint_units::MachineId;
use everpoint_vault::history::{read_header, walk};

use crate::rigs::vault_place::VaultPlace;

/// Number of the last block on the machine's path, by generation as hexadecimal digits.
///
/// # Errors
///
/// When the vault cannot be read, or is damaged on the machine's path.
pub async fn last_blocks(
    vault: impl Into<VaultPlace>,
    machine: MachineId,
) -> Result<BTreeMap<String, u64>> {
    let mut blocks = BTreeMap::new();
    each_object(vault.into(), machine, |data| {
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
    })
    .await?;
    Ok(blocks)
}

/// Names of the kinds of records on the machine's path.
///
/// # Errors
///
/// When the vault cannot be read, or is damaged on the machine's path.
pub async fn record_kinds(
    vault: impl Into<VaultPlace>,
    machine: MachineId,
) -> Result<BTreeSet<&'static str>> {
    let mut kinds = BTreeSet::new();
    each_object(vault.into(), machine, |data| {
        let blocks = data
            .index
            .sections
            .iter()
            .flat_map(|section| &section.blocks);
        let records = blocks.flat_map(|block| &block.records);
        kinds.extend(records.map(|record| kind(&record.change)));
    })
    .await?;
    Ok(kinds)
}

const fn kind(change: &Change) -> &'static str {
    match change {
        Change::Data(_) => "data",
        Change::Zero(_) => "zero",
        Change::Discard(_) => "discard",
        Change::Resize { .. } => "resize",
        Change::Reference { .. } => "reference",
        Change::Bookmark { .. } => "bookmark",
        Change::ResyncBegin { .. } => "resync begin",
        Change::ResyncComplete => "resync complete",
        Change::DiskBegin { .. } => "disk begin",
        Change::DiskEnd => "disk end",
    }
}

async fn each_object(
    place: VaultPlace,
    machine: MachineId,
    mut visit: impl FnMut(&DataIndex),
) -> Result<()> {
    let vault = place.open().await?;
    let header = read_header(&vault).await?;
    let walked = walk(&vault, header.vault, machine, |_, _, data, _| visit(data)).await?;
    ensure!(
        walked.damage.is_empty(),
        "the path is damaged: {:?}",
        walked.damage
    );
    Ok(())
}
