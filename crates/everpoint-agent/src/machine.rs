//! What all parts of an agent share: who the machine is, its order of writes, and the bells that wake
//! the tasks that act on it.
//!
//! The one mutex round the [`WriteOrder`] is held for a push or a look, never across I/O or an
//! `.await`.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use everpoint_capture::{DiskSlot, GuestChange, Pushed, ResyncRoom, WriteOrder};
use everpoint_units::{Level, MachineId, Seq};
use tokio::sync::{Notify, watch};

use crate::clock::Clock;

/// See the module.
pub(crate) struct Machine {
    pub(crate) id: MachineId,
    pub(crate) clock: Clock,
    order: Mutex<WriteOrder>,
    /// Rung when a batch may be due.
    pub(crate) packer: Notify,
    /// Rung when the queue became smaller.
    pub(crate) room: Notify,
    /// Rung when a reservation is wanted.
    pub(crate) reserve: Notify,
    /// What to add to this machine's clock to get the server's. Unit: microseconds.
    pub(crate) clock_offset_us: AtomicI64,
    /// Newest `Seq` at or below which everything of the machine is committed.
    pub(crate) committed_cut: watch::Sender<Seq>,
    /// The highest epoch that a server's marks have brought.
    pub(crate) epoch: watch::Sender<Level>,
}

impl Machine {
    pub(crate) fn new(id: MachineId, order: WriteOrder) -> Self {
        Self {
            id,
            clock: Clock::start(),
            order: Mutex::new(order),
            packer: Notify::new(),
            room: Notify::new(),
            reserve: Notify::new(),
            clock_offset_us: AtomicI64::new(0),
            committed_cut: watch::Sender::new(Seq::ZERO),
            epoch: watch::Sender::new(Level::ZERO),
        }
    }

    /// The order, for a short look or change.
    pub(crate) fn order(&self) -> MutexGuard<'_, WriteOrder> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a guest's change its place; see [`WriteOrder::push`].
    pub(crate) fn push(&self, slot: DiskSlot, change: GuestChange) -> Pushed {
        let stamp = self.clock.stamp();
        let pushed = self.order().push(slot, stamp, change);
        if matches!(pushed, Pushed::Queued { wake: true, .. }) {
            self.packer.notify_one();
        }
        pushed
    }

    /// Says that the queue became smaller; `wake`: a sleeping packer should look.
    pub(crate) fn note_freed(&self, wake: bool) {
        if wake {
            self.packer.notify_one();
        }
        self.room.notify_waiters();
    }

    /// Waits until a resync may add `len` bytes to the queue. Cancel-safe.
    pub(crate) async fn resync_room(self: &Arc<Self>, len: u64) -> RoomTaken {
        loop {
            let rung = self.room.notified();
            let room = self.order().take_resync_room(len);
            if room.is_some() {
                return RoomTaken {
                    machine: Arc::clone(self),
                    room,
                };
            }
            rung.await;
        }
    }

    /// The server's word on what is committed of all disks, and for which epoch it speaks.
    pub(crate) fn note_marks(&self, cut: Seq, epoch: Level) {
        raise(&self.committed_cut, cut);
        raise(&self.epoch, epoch);
    }

    pub(crate) fn clock_offset(&self) -> i64 {
        self.clock_offset_us.load(Relaxed)
    }
}

/// Room in the queue for what a resync reads; given back when it is dropped.
pub(crate) struct RoomTaken {
    machine: Arc<Machine>,
    room: Option<ResyncRoom>,
}

impl Drop for RoomTaken {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.machine.order().give_back_resync_room(room);
            self.machine.room.notify_waiters();
        }
    }
}

/// Marks only rise; who watches is woken when they do.
fn raise<T: Copy + Ord>(mark: &watch::Sender<T>, to: T) {
    mark.send_if_modified(|known| {
        let rises = *known < to;
        *known = to.max(*known);
        rises
    });
}
