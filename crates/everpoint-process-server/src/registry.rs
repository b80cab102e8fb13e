//! The machines that this server serves: each is loaded once, by one task, when first asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use everpoint_units::MachineId;

use crate::machine_task::{self, MachineHandle};
use crate::ownership::{self, NotOwned};
use crate::shared::Shared;

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    machines: Mutex<HashMap<MachineId, Arc<Slot>>>,
}

/// One machine: empty until somebody has loaded it. The lock makes others wait for the loader.
type Slot = tokio::sync::Mutex<Option<MachineHandle>>;

impl Registry {
    /// The machine's task; loads the machine from the vault when there is none yet.
    ///
    /// # Errors
    ///
    /// Why this server does not serve the machine.
    pub(crate) async fn machine(
        &self,
        shared: &Arc<Shared>,
        machine: MachineId,
    ) -> Result<MachineHandle, NotOwned> {
        let slot = self.slot(machine, shared.machines_max)?;
        let mut held = slot.lock().await;
        if let Some(handle) = held.as_ref().filter(|handle| !handle.is_closed()) {
            return Ok(handle.clone());
        }
        match ownership::load(shared, machine).await {
            Ok(loaded) => {
                if let Some(replicas) = &shared.replicas {
                    replicas.begin_all(shared, &loaded);
                }
                let handle = machine_task::spawn(Arc::clone(shared), machine, loaded);
                *held = Some(handle.clone());
                Ok(handle)
            }
            Err(why) => {
                drop(held);
                self.forget(machine, &slot);
                Err(why)
            }
        }
    }

    /// The machine's task, if it is loaded. Waits for whoever loads it.
    pub(crate) async fn loaded_one(&self, machine: MachineId) -> Option<MachineHandle> {
        let slot = {
            let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(machines.get(&machine)?)
        };
        let handle = slot.lock().await.clone();
        handle.filter(|handle| !handle.is_closed())
    }

    /// The tasks of all machines that are loaded.
    pub(crate) async fn loaded(&self) -> Vec<(MachineId, MachineHandle)> {
        let slots: Vec<_> = {
            let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
            machines
                .iter()
                .map(|(id, slot)| (*id, Arc::clone(slot)))
                .collect()
        };
        let mut loaded = Vec::new();
        for (machine, slot) in slots {
            if let Some(handle) = slot.lock().await.as_ref() {
                loaded.push((machine, handle.clone()));
            }
        }
        loaded.sort_by_key(|(machine, _)| *machine);
        loaded
    }

    fn slot(&self, machine: MachineId, machines_max: usize) -> Result<Arc<Slot>, NotOwned> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        if !machines.contains_key(&machine) && machines_max <= machines.len() {
            return Err(NotOwned::TooMany { machines_max });
        }
        Ok(Arc::clone(machines.entry(machine).or_default()))
    }

    /// A machine that was refused takes no place. But whoever waits for its slot may still load it there, and
    /// a machine has one slot: it goes with the last of them.
    fn forget(&self, machine: MachineId, slot: &Arc<Slot>) {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = |known: &Arc<Slot>| {
            // One is the map's, one is ours; nobody takes another while the map is locked.
            Arc::ptr_eq(known, slot) && Arc::strong_count(known) == 2
        };
        if machines.get(&machine).is_some_and(is_last) {
            machines.remove(&machine);
        }
    }
}

#[cfg(test)]
mod tests;
