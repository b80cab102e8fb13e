//! Checking what retention made of a machine: the chain of its manifests, and every layer that the newest one links.

use std::collections::BTreeMap;

use everpoint_format::layer::page::Page;
use everpoint_format::manifest::{LayerLink, Manifest};
use everpoint_format::name;
use everpoint_units::{ByteLen, MachineId};
use everpoint_vault::ObjectName;
use everpoint_vault::frames::home_name;
use everpoint_vault::history::{
    HistoryError, OpenLayer, StoredManifest, list_manifests, read_manifest,
};

use super::{Checking, Finding, Severity, with_causes};
use crate::error::{ErrorKind, LoadError, kind_of_history};

/// Pages that are read at once.
const PAGES_AT_ONCE: usize = 8;

/// Where frames lie that layers name: how long each object must at least be, and a layer that says so. Unit: bytes.
pub(super) type Reaches = BTreeMap<ObjectName, (u64, String)>;

impl Checking<'_> {
    /// Checks the manifests that there are of a machine, each against the one before, and what the newest links.
    pub(super) async fn check_manifests(&mut self, machine: MachineId) -> Result<(), LoadError> {
        let mut before: Option<StoredManifest> = None;
        for number in list_manifests(self.vault, machine).await? {
            let read = read_manifest(self.vault, self.header.vault, machine, number).await;
            let stored = match read {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(error) => {
                    self.found_damage(&name::manifest(machine, number), error)?;
                    before = None;
                    continue;
                }
            };
            if let Some(before) = &before
                && before.manifest.number.next() == number
                && before.checksum != stored.manifest.previous
            {
                let what = "is not made from the manifest before it";
                let object = name::manifest(machine, number);
                let finding = Finding::of_object(Severity::Damage, &object, what);
                self.report.add(finding);
            }
            self.report.manifest_count += 1;
            before = Some(stored);
        }
        if let Some(newest) = before {
            self.check_layers(&newest.manifest).await?;
        }
        Ok(())
    }

    async fn check_layers(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        for link in &manifest.layers {
            self.report.layer_count += 1;
            let object = name::layer(manifest.machine, link.id);
            if let Err(error) = self.check_layer(manifest, link).await {
                self.found_damage(&object, error)?;
            }
            self.tell();
        }
        Ok(())
    }

    async fn check_layer(
        &mut self,
        manifest: &Manifest,
        link: &LayerLink,
    ) -> Result<(), HistoryError> {
        let (id, machine) = (self.header.vault, manifest.machine);
        let layer = OpenLayer::open(self.vault, id, machine, link).await?;
        layer.read_front(self.vault).await?;
        layer.read_marks(self.vault, &layer.directory.marks).await?;
        for places in layer.directory.pages.chunks(PAGES_AT_ONCE) {
            for page in layer.read_pages(self.vault, places).await? {
                self.note_reaches(&page, &layer, &name::layer(machine, link.id));
            }
        }
        Ok(())
    }

    /// Notes how far the frames of a page reach in their objects.
    fn note_reaches(&mut self, page: &Page, layer: &OpenLayer, name: &str) {
        for frame in &page.frames {
            let home = layer.directory.objects[frame.object as usize].home;
            let home = home_name(layer.directory.header.machine, home);
            let end = frame.at.saturating_add(u64::from(frame.frame.stored_len));
            let reach = self.reaches.entry(home).or_default();
            if reach.0 < end {
                *reach = (end, name.to_owned());
            }
        }
    }

    /// An object of this length is there.
    pub(super) fn is_there(&mut self, object: &ObjectName, len: ByteLen) {
        if let Some((end, _)) = self.reaches.get(object)
            && *end <= len.0
        {
            self.reaches.remove(object);
        }
    }

    /// What layers refer to and nobody saw is gone, or too short.
    pub(super) fn check_reaches(&mut self) {
        for (object, (_, layer)) in std::mem::take(&mut self.reaches) {
            let what = format!("refers to frames of {object} that are not there");
            let finding = Finding::of_object(Severity::Damage, &layer, what);
            self.report.add(finding);
        }
    }

    /// Notes damage; what is none is an error.
    fn found_damage(&mut self, object: &str, error: HistoryError) -> Result<(), LoadError> {
        if kind_of_history(&error) != ErrorKind::Integrity {
            return Err(error.into());
        }
        let what = with_causes(&error);
        self.report
            .add(Finding::of_object(Severity::Damage, object, what));
        Ok(())
    }
}
