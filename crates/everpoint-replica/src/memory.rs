//! A target in memory, for tests and simulation: sparse, with fence, leases and snapshots.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset, SECTOR_LEN};

use crate::error::{PageError, Refusal};
use crate::fence::Fence;
use crate::target::{
    CLEAR_LEN_MAX, CopyState, LeaseId, PUT_LEN_MAX, PageRange, PageTarget, Pages, Properties,
    SnapshotId, expect_pages,
};

const SECTOR: usize = 512;

/// A target that is gone with the process. Clones are the same one.
#[derive(Clone, Default)]
pub struct MemoryPages {
    state: Arc<Mutex<Option<State>>>,
}

#[derive(Clone, Default)]
struct State {
    len: u64,
    fence: Fence,
    now: Image,
    snapshots: BTreeMap<u64, Image>,
    snapshot_count: u64,
    lease: Option<LeaseId>,
}

/// Sectors that were written, by their place on the disk. A snapshot shares them.
#[derive(Clone, Default)]
struct Image {
    sectors: BTreeMap<u64, Arc<[u8; SECTOR]>>,
}

impl MemoryPages {
    /// One that does not exist yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with it if it exists.
    fn with<T>(
        &self,
        act: impl FnOnce(&mut State) -> Result<T, PageError>,
    ) -> Result<T, PageError> {
        match self.lock().as_mut() {
            Some(state) => act(state),
            None => Err(Refusal::Missing.into()),
        }
    }
}

impl fmt::Debug for MemoryPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let len = state.as_ref().map(|state| state.len);
        f.debug_struct("MemoryPages")
            .field("len", &len)
            .finish_non_exhaustive()
    }
}

impl State {
    /// The sectors of a write, if it may be made.
    fn writable(
        &self,
        at: ByteOffset,
        len: ByteLen,
        fence: Fence,
    ) -> Result<std::ops::Range<u64>, PageError> {
        if fence != self.fence {
            return Err(PageError::Fenced { fence });
        }
        self.sectors_of(at, len)
    }

    fn sectors_of(&self, at: ByteOffset, len: ByteLen) -> Result<std::ops::Range<u64>, PageError> {
        let end = at.0.checked_add(len.0);
        match end.filter(|&end| end <= self.len) {
            Some(end) => Ok(at.0 / SECTOR_LEN..end / SECTOR_LEN),
            None => Err(Refusal::TooSmall { at, len }.into()),
        }
    }

    fn image(&self, snapshot: Option<&SnapshotId>) -> Result<&Image, PageError> {
        match snapshot {
            None => Ok(&self.now),
            Some(snapshot) => {
                let number = snapshot.0.parse::<u64>().ok();
                let image = number.and_then(|number| self.snapshots.get(&number));
                image.ok_or_else(|| Refusal::Missing.into())
            }
        }
    }
}

#[async_trait]
impl PageTarget for MemoryPages {
    async fn properties(&self) -> Result<Option<Properties>, PageError> {
        Ok(self.lock().as_ref().map(|state| Properties {
            len: ByteLen(state.len),
            fence: state.fence,
            copy: CopyState::Done,
            is_leased: state.lease.is_some(),
        }))
    }

    async fn create(&self, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        let mut state = self.lock();
        if state.is_some() {
            return Err(Refusal::Exists.into());
        }
        *state = Some(State {
            len: len.0,
            fence,
            ..State::default()
        });
        Ok(())
    }

    async fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        self.with(|state| {
            state.fence = state.fence.max(to);
            Ok(state.fence)
        })
    }

    async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, pages.len(), PUT_LEN_MAX);
        self.with(|state| {
            let mut sectors = state.writable(at, pages.len(), fence)?;
            let mut sector = [0; SECTOR];
            let mut filled = 0;
            for mut piece in pages.pieces().iter().map(|piece| &piece[..]) {
                while !piece.is_empty() {
                    let taken = piece.len().min(SECTOR - filled);
                    sector[filled..filled + taken].copy_from_slice(&piece[..taken]);
                    piece = &piece[taken..];
                    filled += taken;
                    if filled == SECTOR {
                        let at = sectors.next().expect("as many as there are bytes for");
                        state.now.sectors.insert(at, Arc::new(sector));
                        filled = 0;
                    }
                }
            }
            Ok(())
        })
    }

    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, len, CLEAR_LEN_MAX);
        self.with(|state| {
            let cleared = state.writable(at, len, fence)?;
            state.now.sectors.retain(|at, _| !cleared.contains(at));
            Ok(())
        })
    }

    async fn read(
        &self,
        at: ByteOffset,
        len: ByteLen,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Bytes, PageError> {
        expect_pages(at, len, PUT_LEN_MAX);
        self.with(|state| {
            let range = state.sectors_of(at, len)?;
            let image = state.image(snapshot)?;
            let mut bytes = Vec::with_capacity(usize::try_from(len.0).expect("at most 4 MiB"));
            for sector in range {
                match image.sectors.get(&sector) {
                    Some(sector) => bytes.extend_from_slice(&sector[..]),
                    None => bytes.resize(bytes.len() + SECTOR, 0),
                }
            }
            Ok(bytes.into())
        })
    }

    async fn ranges(&self, snapshot: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError> {
        self.with(|state| {
            let written = state.image(snapshot)?.sectors.keys();
            Ok(joined(written.map(|&sector| (sector, false))))
        })
    }

    async fn changed_since(&self, snapshot: &SnapshotId) -> Result<Vec<PageRange>, PageError> {
        self.with(|state| {
            let (old, new) = (&state.image(Some(snapshot))?.sectors, &state.now.sectors);
            let same = |at: &u64, bytes: &Arc<[u8; SECTOR]>| {
                old.get(at).is_some_and(|old| Arc::ptr_eq(old, bytes))
            };
            let written = new.iter().filter(|(at, bytes)| !same(at, bytes));
            let written = written.map(|(&at, _)| (at, false));
            let cleared = old.keys().filter(|at| !new.contains_key(at));
            let mut changed: BTreeMap<u64, bool> = written.collect();
            changed.extend(cleared.map(|&at| (at, true)));
            Ok(joined(changed.into_iter()))
        })
    }

    async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError> {
        self.with(|state| {
            if state.lease != lease {
                return Err(Refusal::LeaseHeld.into());
            }
            state.len = len.0;
            let end = len.0 / SECTOR_LEN;
            state.now.sectors.retain(|&at, _| at < end);
            Ok(())
        })
    }

    async fn lease(&self, lease: LeaseId, _seconds: u32) -> Result<(), PageError> {
        self.with(|state| {
            if state.lease.is_some_and(|held| held != lease) {
                return Err(Refusal::LeaseHeld.into());
            }
            state.lease = Some(lease);
            Ok(())
        })
    }

    async fn release(&self, lease: LeaseId) -> Result<(), PageError> {
        self.with(|state| {
            if state.lease != Some(lease) {
                return Err(Refusal::LeaseHeld.into());
            }
            state.lease = None;
            Ok(())
        })
    }

    async fn snapshot(&self) -> Result<SnapshotId, PageError> {
        self.with(|state| {
            state.snapshot_count += 1;
            let kept = state.now.clone();
            state.snapshots.insert(state.snapshot_count, kept);
            Ok(SnapshotId(state.snapshot_count.to_string()))
        })
    }

    async fn forget(&self, snapshot: &SnapshotId) -> Result<(), PageError> {
        self.with(|state| {
            let number = snapshot.0.parse::<u64>().ok();
            let image = number.and_then(|number| state.snapshots.remove(&number));
            image.map(|_| ()).ok_or_else(|| Refusal::Missing.into())
        })
    }
}

/// Runs of neighbouring sectors of one kind. `sectors` rises.
fn joined(sectors: impl Iterator<Item = (u64, bool)>) -> Vec<PageRange> {
    let mut ranges: Vec<PageRange> = Vec::new();
    for (sector, is_clear) in sectors {
        let at = sector * SECTOR_LEN;
        match ranges.last_mut() {
            Some(last) if last.at.0 + last.len.0 == at && last.is_clear == is_clear => {
                last.len.0 += SECTOR_LEN;
            }
            _ => ranges.push(PageRange {
                at: ByteOffset(at),
                len: ByteLen(SECTOR_LEN),
                is_clear,
            }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        contract::check(&MemoryPages::new()).await;
    }

    #[tokio::test]
    async fn memory_keeps_the_contract_of_snapshots() {
        contract::check_snapshots(&MemoryPages::new()).await;
        contract::check_differences(&MemoryPages::new()).await;
    }
}
