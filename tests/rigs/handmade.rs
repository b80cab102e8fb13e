//! A replica made by hand: a restored blob, with a mark in its last page that says what is in it.

use anyhow::{Context as _, Result, ensure};
use everpoint_format::replica::{Applied, Mark};
use everpoint_replica::{AzurePages, PageTarget as _, Pages};
use everpoint_units::{ByteOffset, DiskId, JournalId, MachineId, ObjectNo, Seq, WallTime};
use everpoint_vault::history::{read_header, walk};

use crate::rigs::vault_place::VaultPlace;

/// An object that ends with a request of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Stand {
    pub journal: JournalId,
    pub number: ObjectNo,
    /// The disk's last record in it, or before it.
    pub through: Seq,
}

/// Where a replica of a disk may stand: objects on its machine's path, in their order.
///
/// # Errors
///
/// When the vault cannot be read, or is damaged on the machine's path.
pub async fn stands(place: &VaultPlace, machine: MachineId, disk: DiskId) -> Result<Vec<Stand>> {
    let vault = place.open().await?;
    let header = read_header(&vault).await?;
    let mut stands = Vec::new();
    let walked = walk(&vault, header.vault, machine, |journal, number, data, _| {
        let sections = data.index.sections.iter();
        let its = sections.filter(|section| section.disk == disk);
        let mut records =
            its.flat_map(|section| section.blocks.iter().flat_map(|block| &block.records));
        if let Some(last) = records.next_back()
            && last.ends_request
        {
            stands.push(Stand {
                journal,
                number,
                through: last.seq,
            });
        }
    });
    let walked = walked.await?;
    ensure!(walked.damage.is_empty(), "{:?}", walked.damage);
    Ok(stands)
}

/// Makes a replica of a blob that was restored at the stand's `Seq`.
///
/// # Errors
///
/// When the blob takes no page.
pub async fn mark(
    place: &VaultPlace,
    (machine, disk, sectors): (MachineId, DiskId, u64),
    stand: &Stand,
    blob: &AzurePages,
) -> Result<()> {
    let vault = place.open().await?;
    let mark = Mark {
        vault: read_header(&vault).await?.vault,
        machine,
        disk,
        sectors,
        applied: Some(Applied {
            journal: stand.journal,
            number: stand.number,
            position: None,
            through: stand.through,
            is_level: true,
        }),
    };
    let found = blob.properties().await?.context("it was restored")?;
    let page: Pages = bytes::Bytes::copy_from_slice(&mark.encode(WallTime(0))).into();
    blob.put(ByteOffset(found.len.0 - 512), &page, found.fence)
        .await?;
    Ok(())
}
