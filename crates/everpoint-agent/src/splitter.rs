//! The splitter: between a guest and its disk, the place where a write gets its position.
//!
//! ```text
//! request ── its turn (range lock) ── local write ── Seq and place in the queue ── turn ends ── done
//! ```
//!
//! One buffer, no copy: the guest's own bytes go to the disk and into the queue. Nothing here waits
//! for the network; when the queue is full the disk loses write order instead. A change that the
//! local disk failed is answered with the error, and since nobody knows what the extent holds now,
//! write order ends there too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use everpoint_capture::{DiskSlot, GuestChange, LockMode, LossReason, Pushed};
use everpoint_nbd::{Allocation, BlockSizes, Errno, Export, ExportInfo, ZeroFlags, ZeroSupport};
use everpoint_units::{ByteLen, ByteOffset, DiskId, Extent};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::disk_source::{DiskSource, SourceError, ZeroMode};
use crate::machine::Machine;
use crate::meters::GuestMeters;
use crate::range_gate::RangeGate;
use crate::resync_core::Run;

/// See the module.
pub(crate) struct Splitter {
    disk: DiskId,
    machine: Arc<Machine>,
    slot: DiskSlot,
    source: Arc<dyn DiskSource>,
    pub(crate) gate: RangeGate,
    /// Rung when the disk lost write order.
    pub(crate) order_lost: Notify,
    /// Losses of the source that were acted upon.
    losses: AtomicU64,
    meters: GuestMeters,
    description: String,
}

impl Splitter {
    pub(crate) fn new(
        disk: DiskId,
        machine: Arc<Machine>,
        slot: DiskSlot,
        source: Arc<dyn DiskSource>,
    ) -> Self {
        Self {
            disk,
            machine,
            slot,
            gate: RangeGate::default(),
            order_lost: Notify::new(),
            losses: AtomicU64::new(source.losses()),
            source,
            meters: GuestMeters::new(disk),
            description: format!("everpoint disk {disk}"),
        }
    }

    pub(crate) fn source(&self) -> &Arc<dyn DiskSource> {
        &self.source
    }

    /// Ends write order because the local disk is not what was recorded.
    pub(crate) fn lose_order(&self, reason: LossReason) {
        let now = self.machine.clock.now();
        if self.machine.order().lose_order(self.slot, reason, now) {
            self.note_lost(reason);
        }
    }

    /// Says that the disk has lost its order, and wakes who acts on it.
    pub(crate) fn note_lost(&self, reason: LossReason) {
        tracing::warn!(disk = %self.disk, reason = reason.word(), "write order lost");
        self.meters.order_lost(reason);
        self.order_lost.notify_one();
        self.machine.room.notify_waiters();
        // It gives back what was queued.
        self.machine.packer.notify_one();
    }

    fn record(&self, change: GuestChange) {
        if let Pushed::Lost { reason } = self.machine.push(self.slot, change) {
            self.note_lost(reason);
        }
        let losses = self.source.losses();
        if self.losses.load(Relaxed) != losses {
            self.losses.store(losses, Relaxed);
            self.lose_order(LossReason::LocalError);
        }
    }

    /// The local disk did not do what it was told.
    fn failed(&self, extent: Extent, error: &SourceError) -> Errno {
        tracing::error!(disk = %self.disk, %extent, error = %chain(error), "the local disk failed a change");
        self.lose_order(LossReason::LocalError);
        error.errno()
    }

    async fn flush_local(&self) -> Result<(), Errno> {
        self.source.flush().await.map_err(|error| {
            tracing::error!(disk = %self.disk, error = %chain(&error), "the local disk failed a flush");
            self.lose_order(LossReason::LocalError);
            error.errno()
        })
    }

    async fn zero(&self, extent: Extent, flags: ZeroFlags) -> Result<(), Errno> {
        let _turn = self.gate.acquire(extent, LockMode::Exclusive).await;
        let how = ZeroMode {
            may_discard: !flags.no_hole,
            fast_only: flags.fast_only,
        };
        match self.source.zero(extent, how).await {
            Ok(()) => {
                self.record(GuestChange::Zero(extent));
                Ok(())
            }
            // Nothing was changed: the guest writes the zeroes itself.
            Err(SourceError::NotFast) => Err(Errno::NotSup),
            Err(error) => Err(self.failed(extent, &error)),
        }
    }

    async fn discard(&self, extent: Extent) -> Result<(), Errno> {
        let _turn = self.gate.acquire(extent, LockMode::Exclusive).await;
        match self.source.discard(extent).await {
            Ok(true) => {
                self.record(GuestChange::Discard(extent));
                Ok(())
            }
            // Not passed on, so nothing has changed.
            Ok(false) => Ok(()),
            Err(error) => Err(self.failed(extent, &error)),
        }
    }
}

impl Export for Splitter {
    fn describe(&self) -> ExportInfo {
        let facts = self.source.facts();
        let fast = facts.zeroes_fast;
        ExportInfo {
            size: facts.size,
            blocks: match facts.block_size {
                512 => BlockSizes::SECTORS,
                _ => BlockSizes::PAGES,
            },
            read_only: false,
            multi_conn: true,
            trim: true,
            zeroes: if fast {
                ZeroSupport::Fast
            } else {
                ZeroSupport::Plain
            },
            description: self.description.clone(),
        }
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        let extent = extent(at, u64::from(len))?;
        let turn = self.gate.acquire(extent, LockMode::Shared).await;
        let read = match self.source.read_now(extent) {
            Some(read) => read,
            None => self.source.read(extent).await,
        };
        drop(turn);
        self.meters.read(len);
        read.map_err(|error| {
            tracing::error!(disk = %self.disk, %extent, error = %chain(&error), "the local disk failed a read");
            error.errno()
        })
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        let began = Instant::now();
        let len = data.len() as u64;
        let extent = extent(at, len)?;
        let turn = self.gate.acquire(extent, LockMode::Exclusive).await;
        let written = match self.source.write_now(extent, &data) {
            Some(written) => written,
            None => self.source.write(extent, data.clone()).await,
        };
        if let Err(error) = written {
            return Err(self.failed(extent, &error));
        }
        self.record(GuestChange::Data {
            extent,
            payload: data,
        });
        drop(turn);
        if fua {
            self.flush_local().await?;
        }
        self.meters.written(len, began.elapsed());
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.flush_local().await
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.discard(extent(at, u64::from(len))?).await?;
        self.meters.discarded(len);
        if fua {
            self.flush_local().await?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        self.zero(extent(at, u64::from(len))?, flags).await?;
        self.meters.zeroed(len);
        if flags.fua {
            self.flush_local().await?;
        }
        Ok(())
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        let extent = extent(at, u64::from(len))?;
        let runs = self.source.allocation(extent).await;
        let runs = runs.map_err(|error| error.errno())?;
        let status = |run: &Run| Allocation {
            len: u32::try_from(run.extent.byte_len().0).expect("inside a request of 32 bits"),
            hole: run.hole,
            zero: run.hole,
        };
        Ok(runs.iter().map(status).collect())
    }
}

/// The NBD server has checked that a request is whole blocks inside the disk.
fn extent(at: ByteOffset, len: u64) -> Result<Extent, Errno> {
    Extent::from_bytes(at, ByteLen(len)).ok_or(Errno::Inval)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
