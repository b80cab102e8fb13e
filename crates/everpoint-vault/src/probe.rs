//! The proof, at each start, that a store creates only what is absent.
//!
//! A store that answers "created" to a second writer would let two process servers commit into one
//! number; no rule of the journal holds on such a store. So it is asked, not believed.

use std::num::NonZeroUsize;

use bytes::Bytes;

use crate::error::{CreateError, OpenError, ProbeFinding};
use crate::name::ObjectName;
use crate::payload::Payload;
use crate::vault::Vault;

/// Creates a fresh name twice with different bytes: the second must fail, the first must be read and listed.
pub(crate) async fn probe(vault: &Vault) -> Result<(), OpenError> {
    let name = format!("v1/probe/{:032x}", rand::random::<u128>());
    let name = ObjectName::new(&name).expect("hexadecimal digits make a segment");
    let first = Bytes::from(rand::random::<[u8; 32]>().to_vec());
    let second = Bytes::from(first.iter().map(|byte| !byte).collect::<Vec<u8>>());
    vault
        .create(&name, &Payload::from(first.clone()))
        .await
        .map_err(failed)?;
    match vault.create(&name, &Payload::from(second)).await {
        Err(CreateError::Different { .. }) => {}
        Ok(_) => return Err(unsuitable(ProbeFinding::SecondCreateSucceeded)),
        Err(error) => return Err(failed(error)),
    }
    let read = vault.read(&name).await;
    let read = read.map_err(|source| OpenError::ProbeUnread { source })?;
    if read != Some(first) {
        return Err(unsuitable(ProbeFinding::OtherBytesRead));
    }
    // A vault grows one probe each start, so the listing begins right before this one: a name cut short
    // sorts before the whole.
    let before = &name.as_str()[..name.as_str().len() - 1];
    let before = ObjectName::new(before).expect("31 digits make a segment");
    let page = vault
        .list_page(&name.prefix(), Some(&before), NonZeroUsize::MIN)
        .await;
    let page = page.map_err(|source| OpenError::ProbeUnlisted { source })?;
    if page.objects.first().map(|entry| &entry.name) != Some(&name) {
        return Err(unsuitable(ProbeFinding::NotListed));
    }
    Ok(())
}

fn unsuitable(finding: ProbeFinding) -> OpenError {
    OpenError::Unsuitable { finding }
}

fn failed(source: CreateError) -> OpenError {
    match source {
        CreateError::SyncFailed { source, .. } => OpenError::SyncFailed(source),
        // The first create of a fresh name found other bytes: whatever was stored is not what was sent.
        CreateError::Different { .. } => unsuitable(ProbeFinding::OtherBytesRead),
        source => OpenError::ProbeFailed { source },
    }
}
