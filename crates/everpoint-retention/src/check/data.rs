//! Checking what a data object holds: references always, every frame's bytes on demand.

use everpoint_format::Change;
use everpoint_format::data::DataIndex;
use everpoint_format::digest::DigestKey;
use everpoint_format::index::{Index, Place};
use everpoint_journal::extent_map::{RecordPlace, Run};
use everpoint_units::{JournalId, ObjectNo};
use everpoint_vault::Vault;
use everpoint_vault::history::HistoryError;
use futures::{StreamExt as _, stream};

use super::{Checking, Finding, Severity};
use everpoint_vault::frames::{
    Batch, BatchRead, IntegrityError, batches, object_name, open_frame, read_batch, read_frame,
};

use crate::error::LoadError;
use crate::joined::unless_panicked;

/// Most reads in flight. One holds at most 12 MiB, packed and unpacked.
const READS_MAX: usize = 4;

/// What was verified of a batch.
#[derive(Default)]
struct Verified {
    frames: u64,
    read: u64,
    errors: Vec<IntegrityError>,
}

impl Checking<'_> {
    pub(super) async fn check_data(
        &mut self,
        journal: JournalId,
        number: ObjectNo,
        data: &DataIndex,
    ) -> Result<(), LoadError> {
        self.check_references(journal, number, &data.index);
        let all = match batches(journal, number, &data.index, &runs(&data.index)) {
            Ok(all) => all,
            Err(error) => {
                self.report.add(Finding::of_bytes(&error));
                return Ok(());
            }
        };
        if !self.report.read_data {
            return Ok(());
        }
        let (vault, key) = (self.vault, self.header.digest_key);
        let mut verified = stream::iter(all)
            .map(|batch| verify_batch(vault, batch, key))
            .buffered(READS_MAX);
        while let Some(verified) = verified.next().await {
            let verified = verified?;
            self.report.frame_count += verified.frames;
            self.report.read_bytes += verified.read;
            for error in &verified.errors {
                self.report.add(Finding::of_bytes(error));
            }
        }
        Ok(())
    }

    /// Rule R15: a reference never leaves its journal, whose objects are deleted only together.
    fn check_references(&mut self, journal: JournalId, number: ObjectNo, index: &Index) {
        for section in &index.sections {
            let leaves = |place: &&Place| place.journal != journal || number <= place.number;
            for place in section.places.iter().filter(leaves) {
                let what = format!(
                    "refers to {}, which is not an earlier object of its journal",
                    object_name(place.journal, place.number)
                );
                let object = object_name(journal, number);
                self.report.add(Finding {
                    machine: Some(section.machine),
                    disk: Some(section.disk),
                    ..Finding::of_object(Severity::Notice, object.as_str(), what)
                });
            }
        }
    }
}

/// Every record that gives bytes, whole.
fn runs(index: &Index) -> Vec<Run> {
    let mut runs = Vec::new();
    for (section_index, section) in (0_u32..).zip(&index.sections) {
        for (block, entry) in (0_u32..).zip(&section.blocks) {
            for (record, change) in (0_u32..).zip(&entry.records) {
                if let Change::Data(extent) | Change::Reference { extent, .. } = change.change {
                    let source = RecordPlace {
                        object: 0,
                        section: section_index,
                        block,
                        record,
                    };
                    runs.push(Run {
                        extent,
                        source,
                        skip: 0,
                    });
                }
            }
        }
    }
    runs
}

async fn verify_batch(
    vault: &Vault,
    batch: Batch,
    key: DigestKey,
) -> Result<Verified, HistoryError> {
    let mut parts = Vec::new();
    let mut verified = Verified::default();
    match read_batch(vault, &batch).await? {
        BatchRead::Whole(bytes) => parts.push((batch.at, bytes, batch.jobs)),
        BatchRead::InParts => {
            for job in batch.jobs {
                match read_frame(vault, &batch.object, &job).await? {
                    Ok(bytes) => parts.push((job.frame_at, bytes, vec![job])),
                    Err(error) => verified.errors.push(error),
                }
            }
        }
    }
    let object = batch.object;
    let outcome = tokio::task::spawn_blocking(move || {
        for (at, bytes, jobs) in parts {
            for job in jobs {
                verified.frames += 1;
                verified.read += u64::from(job.frame.stored_len);
                let opened = open_frame(&object, &job, &bytes, at, &key);
                verified.errors.extend(opened.err());
            }
        }
        verified
    });
    Ok(unless_panicked(outcome.await).await)
}
