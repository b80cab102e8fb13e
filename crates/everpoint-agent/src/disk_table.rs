//! The disks of the machine: who is there, and how each is reached.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use everpoint_capture::DiskSlot;
use everpoint_units::DiskId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::disk::Disk;
use crate::disk_task::DiskCommand;

/// See the module.
#[derive(Default)]
pub(crate) struct DiskTable {
    disks: Mutex<BTreeMap<DiskId, DiskEntry>>,
}

/// A disk and its task.
pub(crate) struct DiskEntry {
    pub(crate) disk: Arc<Disk>,
    pub(crate) commands: mpsc::Sender<DiskCommand>,
    pub(crate) task: JoinHandle<()>,
}

impl DiskTable {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<DiskId, DiskEntry>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, entry: DiskEntry) {
        self.entries().insert(entry.disk.id, entry);
    }

    pub(crate) fn remove(&self, disk: DiskId) -> Option<DiskEntry> {
        self.entries().remove(&disk)
    }

    /// All disks, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Disk>> {
        let entries = self.entries();
        entries
            .values()
            .map(|entry| Arc::clone(&entry.disk))
            .collect()
    }

    /// All disks with the way to their tasks.
    pub(crate) fn commands(&self) -> Vec<(Arc<Disk>, mpsc::Sender<DiskCommand>)> {
        let entries = self.entries();
        let pair = |entry: &DiskEntry| (Arc::clone(&entry.disk), entry.commands.clone());
        entries.values().map(pair).collect()
    }

    pub(crate) fn get(&self, disk: DiskId) -> Option<Arc<Disk>> {
        self.entries()
            .get(&disk)
            .map(|entry| Arc::clone(&entry.disk))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.entries().len()).expect("at most as many as exports")
    }

    /// Tells the tasks of `slots` that their write order ended.
    pub(crate) fn ring_order_lost(&self, slots: &[DiskSlot]) {
        for entry in self.entries().values() {
            if slots.contains(&entry.disk.slot) {
                entry.disk.splitter.order_lost.notify_one();
            }
        }
    }
}
