//! What a splitter decides: range locks, the order of writes, the bounded queue, closing of blocks.
//!
//! ```text
//! guest request ── RangeLock ── local write ── WriteOrder::push ── done
//!                                                   │ take_batch
//!                                                   ▼
//!                                  Batch ── pack (any thread) ── numbered and sent by the shell
//! ```
//!
//! Everything here is plain state: no lock, no clock, no disk, no socket. The shell puts one
//! short-held mutex round a disk's [`RangeLock`] and one round the machine's [`WriteOrder`], and does
//! the reading, writing and waiting.

mod batch;
mod disk_queue;
mod range_lock;
mod reservation;
mod write_order;

pub use batch::{Batch, PackedBatch, is_zero};
pub use disk_queue::Dropped;
pub use range_lock::{LockMode, LockTicket, RangeLock};
pub use reservation::{RESERVE_STEP, Reservation};
pub use write_order::{
    BookmarkError, DiskSlot, GuestChange, LossReason, NoSeqs, NotCurrent, OrderLimits, Pushed,
    QueueFigures, QueueState, ResyncRoom, Stamp, WriteOrder,
};
