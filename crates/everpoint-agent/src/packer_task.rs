//! Takes batches out of the queue as they become due, has them packed on other threads, and hands
//! each disk its own in order.
//!
//! ```text
//! queue ──take──▶ batch ──▶ pack (blocking threads, a few at once) ──▶ disk task: number, send
//! ```
//!
//! As many batches are packed at once as there are processors. While all are busy the queue fills,
//! which is what its budget is for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use everpoint_capture::{Batch, DiskSlot, PackedBatch};
use everpoint_format::PackScratch;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep_until;

use crate::machine::Machine;

/// A batch on its way: resolves when it is packed.
pub(crate) type Packing = oneshot::Receiver<PackedBatch>;

/// Who gets a disk's batches.
#[derive(Default)]
pub(crate) struct PackRoutes {
    disks: Mutex<HashMap<DiskSlot, mpsc::Sender<Packing>>>,
}

impl PackRoutes {
    pub(crate) fn add(&self, slot: DiskSlot, to: mpsc::Sender<Packing>) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.insert(slot, to);
    }

    pub(crate) fn remove(&self, slot: DiskSlot) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.remove(&slot);
    }

    fn of(&self, slot: DiskSlot) -> Option<mpsc::Sender<Packing>> {
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.get(&slot).cloned()
    }
}

/// Runs until it is aborted. Nothing is lost by that which a crash would not lose.
pub(crate) async fn run(machine: Arc<Machine>, routes: Arc<PackRoutes>) {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let places = Arc::new(Semaphore::new(processors));
    // The one that was used last is taken first: its memory is at hand.
    let scratches: Arc<Mutex<Vec<PackScratch>>> = Arc::default();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let (slot, batch) = next_batch(&machine).await;
        let Some(disk) = routes.of(slot) else {
            continue;
        };
        let (done, packing) = oneshot::channel();
        let offset = machine.clock_offset();
        let scratches = Arc::clone(&scratches);
        tokio::task::spawn_blocking(move || {
            let list = || scratches.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = list().pop().unwrap_or_default();
            let packed = batch.pack(offset, &mut scratch);
            list().push(scratch);
            drop(place);
            // A disk that was detached meanwhile needs no blocks.
            let _ = done.send(packed);
        });
        // Bounded by what is packed at once: the disk's task never waits for the network itself.
        let _ = disk.send(packing).await;
    }
}

/// Waits for the next batch that is due. Both arms are cancel-safe.
async fn next_batch(machine: &Machine) -> (DiskSlot, Batch) {
    loop {
        let stamp = machine.clock.stamp();
        let (taken, deadline, wanted, dropped) = {
            let mut order = machine.order();
            let taken = order.take_batch(stamp);
            let (deadline, wanted) = (order.deadline(), order.wanted_reservation());
            (taken, deadline, wanted, order.take_dropped())
        };
        drop(dropped);
        if wanted.is_some() {
            machine.reserve.notify_one();
        }
        if let Some(taken) = taken {
            return taken;
        }
        let rung = machine.packer.notified();
        match deadline {
            Some(deadline) => tokio::select! {
                () = rung => {}
                () = sleep_until(machine.clock.instant(deadline)) => {}
            },
            None => rung.await,
        }
    }
}
