//! Reads one disk at one `Seq` from the vault, on demand: frames are fetched, verified, kept for a while.
//!
//! ```text
//! extent ─▶ runs ─▶ frames ─▶ kept? ─▶ bytes
//!                             │ no
//!                             ▼
//!                   on its way? ── no ──▶ one ranged read ─▶ CRC, unpack, seals ─▶ kept
//! ```
//!
//! - No byte leaves that was not verified, and a frame that fails is not kept: whoever asks again, reads again.
//! - Two readers of one frame wait for one fetch (single flight). Fetches run by themselves: a reader that goes away
//!   stops none.
//! - At most `fetch_count_max` fetches are in flight, at most half of them for what is read ahead.
//!
//! A cold read of an extent that lies in one frame takes one request to the vault, a hot one none: see `run_map`,
//! which needs no index any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use everpoint_format::digest::DigestKey;
use everpoint_units::{ByteLen, Extent, SECTOR_LEN};
use everpoint_vault::Vault;
use everpoint_vault::frames::{open_frame, read_frame};
use futures::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::frame_cache::FrameCache;
use super::read_ahead::ReadAhead;
use super::run_map::{FrameId, Part, RunMap};
use super::{MountConfig, PointReadError};
use crate::joined::unless_panicked;
use crate::restore::Sectors;

/// Frames that one read asks for ahead, at most. Unit: frames.
const AHEAD_COUNT_MAX: usize = 64;

/// See the module. Clones are the same reader.
#[derive(Clone, Debug)]
pub struct PointReader(Arc<Shared>);

/// What a reader has done so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReaderStats {
    /// Frames that were at hand.
    pub hit_count: u64,
    /// Frames that somebody else was fetching already.
    pub joined_count: u64,
    /// Frames fetched because somebody waited for them.
    pub fetch_count: u64,
    /// Frames fetched ahead.
    pub ahead_count: u64,
    /// Frames that could not be read, or were not what was written.
    pub failed_count: u64,
    /// Frames that had to go to make room.
    pub evicted_count: u64,
    /// What is kept now.
    pub kept: ByteLen,
}

#[derive(Debug)]
struct Shared {
    vault: Vault,
    key: DigestKey,
    map: RunMap,
    fetch_count_max: usize,
    places: Arc<Semaphore>,
    /// Of these, what is read ahead takes one first.
    places_ahead: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cache: FrameCache,
    flights: HashMap<FrameId, Flight>,
    ahead: ReadAhead,
    fetches: JoinSet<()>,
    stats: ReaderStats,
}

/// A fetched frame, or why there is none.
type Landed = Result<Bytes, Arc<PointReadError>>;
/// Holds what was fetched, once it is.
type Flight = watch::Receiver<Option<Landed>>;

/// A frame that somebody wants.
enum Wanted {
    Kept(Bytes),
    Flying(Flight),
}

impl PointReader {
    pub(super) fn new(vault: Vault, key: DigestKey, map: RunMap, config: &MountConfig) -> Self {
        let cache_max = config.cache_max();
        // More than that would drive out what was fetched ahead before it is read.
        let ahead_max = config.read_ahead_max.0.min(cache_max.0 / 4);
        let state = State {
            cache: FrameCache::new(cache_max),
            flights: HashMap::new(),
            ahead: ReadAhead::new(ahead_max / SECTOR_LEN),
            fetches: JoinSet::new(),
            stats: ReaderStats::default(),
        };
        Self(Arc::new(Shared {
            vault,
            key,
            map,
            fetch_count_max: config.fetch_count_max,
            places: Arc::new(Semaphore::new(config.fetch_count_max)),
            places_ahead: Arc::new(Semaphore::new((config.fetch_count_max / 2).max(1))),
            state: Mutex::new(state),
        }))
    }

    /// The bytes of an extent of the disk.
    ///
    /// # Errors
    ///
    /// [`PointReadError`] of the first frame that failed. Worth another try where its remedy is.
    pub async fn read(&self, extent: Extent) -> Result<Bytes, Arc<PointReadError>> {
        let sectors = extent.start().sector()..extent.end().sector();
        // What is read comes first, and then what is ahead: futures are polled in this order.
        let ahead = async { self.look_ahead(&sectors) };
        let (read, ()) = futures::join!(self.read_parts(&sectors), ahead);
        read
    }

    /// Which of these sectors hold data, rising; the rest reads as zeroes.
    pub(super) fn data(&self, sectors: Sectors) -> impl Iterator<Item = Sectors> + '_ {
        self.0.map.parts(sectors).map(|part| part.sectors)
    }

    /// How many runs the disk has.
    pub fn run_count(&self) -> usize {
        self.0.map.run_count()
    }

    /// What was done up to now.
    pub fn stats(&self) -> ReaderStats {
        let state = self.0.lock();
        ReaderStats {
            evicted_count: state.cache.evicted_count(),
            kept: state.cache.taken(),
            ..state.stats
        }
    }

    /// Waits for the fetches that are in flight. Nobody reads any more.
    pub async fn close(&self) {
        let mut fetches = std::mem::take(&mut self.0.lock().fetches);
        while let Some(fetched) = fetches.join_next().await {
            unless_panicked(fetched).await;
        }
    }

    async fn read_parts(&self, sectors: &Sectors) -> Result<Bytes, Arc<PointReadError>> {
        let mut by_frame: BTreeMap<FrameId, Vec<Part>> = BTreeMap::new();
        for part in self.0.map.parts(sectors.clone()) {
            by_frame.entry(part.frame).or_default().push(part);
        }
        let mut bytes = vec![0; in_memory((sectors.end - sectors.start) * SECTOR_LEN)];
        let frames = futures::stream::iter(by_frame)
            .map(async |(id, parts)| self.frame(id).await.map(|raw| (raw, parts)));
        let mut frames = std::pin::pin!(frames.buffer_unordered(self.0.fetch_count_max));
        while let Some(frame) = frames.next().await {
            let (raw, parts) = frame?;
            for part in parts {
                let len = in_memory((part.sectors.end - part.sectors.start) * SECTOR_LEN);
                let to = in_memory((part.sectors.start - sectors.start) * SECTOR_LEN);
                let from = in_memory(part.raw_at);
                // The frame was verified: it has all that the map says.
                bytes[to..to + len].copy_from_slice(&raw[from..from + len]);
            }
        }
        Ok(bytes.into())
    }

    async fn frame(&self, id: FrameId) -> Landed {
        let mut flight = match self.0.want(id) {
            Wanted::Kept(bytes) => return Ok(bytes),
            Wanted::Flying(flight) => flight,
        };
        let landed = flight.wait_for(Option::is_some).await;
        let landed = landed.expect("a fetch ends with what it fetched, or by a panic");
        landed.clone().expect("this was waited for")
    }

    fn look_ahead(&self, sectors: &Sectors) {
        let ahead = self.0.lock().ahead.note(sectors);
        if ahead.is_empty() {
            return;
        }
        let mut ids: Vec<_> = self.0.map.parts(ahead).map(|part| part.frame).collect();
        ids.dedup();
        for id in ids.into_iter().take(AHEAD_COUNT_MAX) {
            self.0.want_ahead(id);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame if it is at hand, else the fetch that brings it, which may begin here.
    fn want(self: &Arc<Self>, id: FrameId) -> Wanted {
        let mut state = self.lock();
        if let Some(bytes) = state.cache.get(id) {
            state.stats.hit_count += 1;
            return Wanted::Kept(bytes);
        }
        if let Some(flight) = state.flights.get(&id).cloned() {
            state.stats.joined_count += 1;
            return Wanted::Flying(flight);
        }
        state.stats.fetch_count += 1;
        Wanted::Flying(self.start(&mut state, id, None))
    }

    /// Fetches a frame that nobody waits for yet.
    fn want_ahead(self: &Arc<Self>, id: FrameId) {
        let mut state = self.lock();
        if !state.cache.holds(id) && !state.flights.contains_key(&id) {
            state.stats.ahead_count += 1;
            self.start(&mut state, id, Some(Arc::clone(&self.places_ahead)));
        }
    }

    fn start(
        self: &Arc<Self>,
        state: &mut State,
        id: FrameId,
        turns: Option<Arc<Semaphore>>,
    ) -> Flight {
        while let Some(done) = state.fetches.try_join_next() {
            // One that was cancelled was so by a runtime that shuts down.
            if let Err(panic) = done.map_err(JoinError::try_into_panic)
                && let Ok(panic) = panic
            {
                std::panic::resume_unwind(panic);
            }
        }
        let (land, flight) = watch::channel(None);
        state.flights.insert(id, flight.clone());
        let shared = Arc::clone(self);
        state.fetches.spawn(async move {
            let landed = shared.fetch(id, turns).await.map_err(Arc::new);
            shared.keep(id, &landed);
            land.send_replace(Some(landed));
        });
        flight
    }

    /// Reads, unpacks and verifies a frame, when it is its turn.
    async fn fetch(
        self: &Arc<Self>,
        id: FrameId,
        turns: Option<Arc<Semaphore>>,
    ) -> Result<Bytes, PointReadError> {
        let closed = "the semaphores are never closed";
        let _turn = match turns {
            Some(turns) => Some(turns.acquire_owned().await.expect(closed)),
            None => None,
        };
        let _place = self.places.acquire().await.expect(closed);
        let (object, job) = self.map.place(id);
        let stored = read_frame(&self.vault, &object, &job).await;
        let stored = stored.map_err(|source| PointReadError::Unread {
            object: object.clone(),
            source,
        })??;
        let shared = Arc::clone(self);
        let opened = tokio::task::spawn_blocking(move || {
            let raw = open_frame(&object, &job, &stored, job.frame_at, &shared.key)?;
            shared.map.verify(id, &raw, &shared.key)?;
            Ok(raw)
        });
        unless_panicked(opened.await).await
    }

    fn keep(&self, id: FrameId, landed: &Landed) {
        let mut state = self.lock();
        state.flights.remove(&id);
        match landed {
            Ok(bytes) => state.cache.put(id, bytes.clone()),
            Err(_) => state.stats.failed_count += 1,
        }
    }
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a target has 64 bits")
}
