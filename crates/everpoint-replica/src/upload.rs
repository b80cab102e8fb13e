//! Writing an image into a target, in whatever order its bytes come.
//!
//! ```text
//! write ──▶ pieces of 4 MiB ──▶ orders ──▶ requests, several in flight ──▶ done
//!           within a budget        ▲               │ the same bytes again, perhaps under a higher fence
//!                                  └───────────────┘
//! ```
//!
//! Bytes wait in pieces until a piece is full, the budget is, or no more come; so neighbours go out in one request.
//! Of one piece the requests of one moment are settled before those of the next begin, and within one they do not
//! overlap: so no two requests in flight do. What a failure means is what its [`Remedy`] says. No
//! place comes twice.

mod error;
mod patience;
mod pieces;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use tokio::task::JoinSet;

use crate::error::{PageError, Refusal, Remedy};
use crate::fence::Fence;
use crate::target::{PageTarget, Pages, expect_pages};

use patience::Patience;
use pieces::{PIECE_LEN, Pieces};

pub use error::UploadError;

/// Least memory of an upload: what a few requests need. Unit: bytes.
pub const UPLOAD_MEMORY_MIN: u64 = 4 * PIECE_LEN;

/// How an image is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UploadConfig {
    /// Memory for bytes that wait and that are in flight; at least [`UPLOAD_MEMORY_MIN`].
    pub memory_max: ByteLen,
    /// Requests in flight; at least 1. Many at a time make a managed disk's service fail (AzCopy's issues 701, 1219).
    pub request_count_max: usize,
    /// Longest that one request is repeated before the upload gives up. Unit: milliseconds.
    pub patience_ms_max: u64,
    /// Pause before the first repetition; doubled with each further one. Unit: milliseconds.
    pub delay_ms_first: u64,
    /// Longest pause, unless the service asks for a longer one. Unit: milliseconds.
    pub delay_ms_max: u64,
}

/// What a target holds where nothing was written yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ground {
    /// Zeroes: these are left out, and small gaps between bytes are filled with them.
    Zeroes,
    /// Other pages: what is written is what is given, no more and no less.
    Pages,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Uploaded {
    /// Bytes put, once more with each repetition.
    pub put: ByteLen,
    /// Bytes cleared, once more with each repetition.
    pub cleared: ByteLen,
    /// Requests sent.
    pub requests: u64,
}

/// An image while it is written. Dropping it leaves requests behind that may still be carried out.
#[derive(Debug)]
pub struct Upload {
    target: Arc<dyn PageTarget>,
    fence: Fence,
    config: UploadConfig,
    pieces: Pieces,
    /// Pieces with orders that are not done, and how many.
    busy: BTreeMap<u64, usize>,
    waiting: VecDeque<Order>,
    flying: JoinSet<Landed>,
    /// Bytes of orders. Unit: bytes.
    ordered: u64,
    done: Uploaded,
}

/// A request that has to be carried out.
#[derive(Clone, Debug)]
struct Order {
    /// The piece that it is of, if it is of one.
    piece: Option<u64>,
    at: ByteOffset,
    what: What,
    patience: Patience,
    pause: Duration,
}

#[derive(Clone, Debug)]
enum What {
    Put(Pages),
    Clear(ByteLen),
}

/// What became of a request.
#[derive(Debug)]
struct Landed {
    order: Order,
    fence: Fence,
    outcome: Result<(), PageError>,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            memory_max: ByteLen(64 << 20),
            request_count_max: 8,
            patience_ms_max: 300_000,
            delay_ms_first: 100,
            delay_ms_max: 10_000,
        }
    }
}

impl Upload {
    /// Begins to write to a target that exists and takes writes under `fence`.
    ///
    /// # Panics
    ///
    /// When the configuration's memory is below the least.
    pub fn new(
        target: Arc<dyn PageTarget>,
        fence: Fence,
        ground: Ground,
        config: UploadConfig,
    ) -> Self {
        assert!(UPLOAD_MEMORY_MIN <= config.memory_max.0);
        Self {
            target,
            fence,
            config,
            pieces: Pieces::new(ground),
            busy: BTreeMap::new(),
            waiting: VecDeque::new(),
            flying: JoinSet::new(),
            ordered: 0,
            done: Uploaded::default(),
        }
    }

    /// The fence that the target has now, if nobody else raised it.
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    /// What was done until now.
    pub const fn done(&self) -> Uploaded {
        self.done
    }

    /// Takes bytes for a place, both whole sectors; waits while there is no room for them.
    ///
    /// # Errors
    ///
    /// Why the target does not take what was given to it before; the upload has failed then.
    pub async fn write(&mut self, at: ByteOffset, bytes: &Bytes) -> Result<(), UploadError> {
        while let Some(landed) = self.flying.try_join_next() {
            self.handle(unless_panicked(landed)).await?;
        }
        for (at, part) in self.pieces.parts(at, bytes) {
            while self.config.memory_max.0 < self.held() + part.len() as u64 {
                self.make_room().await?;
            }
            let piece = self.pieces.insert(at, &part);
            if self.pieces.is_full(piece) && !self.busy.contains_key(&piece) {
                self.flush(piece);
            }
        }
        Ok(())
    }

    /// Has a part of the target read as zeroes. What was written there must be settled.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn clear(&mut self, at: ByteOffset, len: ByteLen) -> Result<(), UploadError> {
        expect_pages(at, len, crate::target::CLEAR_LEN_MAX);
        while self.config.request_count_max <= self.flying.len() + self.waiting.len() {
            self.settle_one().await?;
        }
        self.order(None, at, What::Clear(len));
        Ok(())
    }

    /// Waits until everything is done that was asked for.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn settle(&mut self) -> Result<(), UploadError> {
        loop {
            while let Some(piece) = self.pieces.first(|piece| !self.busy.contains_key(&piece)) {
                if self.config.request_count_max <= self.waiting.len() {
                    break;
                }
                self.flush(piece);
            }
            if self.flying.is_empty() {
                return Ok(());
            }
            self.settle_one().await?;
        }
    }

    /// Settles all, then writes the page that makes the target what it is to be.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn finish(&mut self, at: ByteOffset, last: Bytes) -> Result<Uploaded, UploadError> {
        self.settle().await?;
        self.order(None, at, What::Put(last.into()));
        self.settle().await?;
        Ok(self.done)
    }

    const fn held(&self) -> u64 {
        self.pieces.len() + self.ordered
    }

    /// Makes one step towards more room: there is one, for something is held.
    async fn make_room(&mut self) -> Result<(), UploadError> {
        let idle = self.waiting.is_empty() && self.flying.len() < self.config.request_count_max;
        let piece = self.pieces.longest(|piece| !self.busy.contains_key(&piece));
        match piece.filter(|_| idle) {
            Some(piece) => self.flush(piece),
            None => self.settle_one().await?,
        }
        Ok(())
    }

    fn flush(&mut self, piece: u64) {
        for (at, pages) in self.pieces.take(piece) {
            *self.busy.entry(piece).or_default() += 1;
            self.order(Some(piece), at, What::Put(pages));
        }
    }

    fn order(&mut self, piece: Option<u64>, at: ByteOffset, what: What) {
        self.ordered += what.moves();
        self.waiting.push_back(Order {
            piece,
            at,
            what,
            patience: Patience::new(&self.config),
            pause: Duration::ZERO,
        });
        self.start();
    }

    /// As many requests as may be in flight.
    fn start(&mut self) {
        while self.flying.len() < self.config.request_count_max {
            let Some(order) = self.waiting.pop_front() else {
                return;
            };
            self.done.requests += 1;
            match &order.what {
                What::Put(pages) => self.done.put.0 += pages.len().0,
                What::Clear(len) => self.done.cleared.0 += len.0,
            }
            let target = Arc::clone(&self.target);
            self.flying.spawn(attempt(target, order, self.fence));
        }
    }

    async fn settle_one(&mut self) -> Result<(), UploadError> {
        let landed = self.flying.join_next().await;
        let landed = landed.expect("what waits for nothing in flight is started at once");
        self.handle(unless_panicked(landed)).await
    }

    async fn handle(&mut self, landed: Landed) -> Result<(), UploadError> {
        let Landed {
            mut order,
            fence,
            outcome,
        } = landed;
        let Err(error) = outcome else {
            self.ordered -= order.what.moves();
            if let Some(piece) = order.piece {
                self.is_done(piece);
            }
            self.start();
            return Ok(());
        };
        let is_old = fence != self.fence;
        match error.remedy() {
            // Its own fence was raised meanwhile, for another request: nothing was written.
            Remedy::LookWhoLeads if is_old => order.pause = Duration::ZERO,
            Remedy::LookWhoLeads => return Err(UploadError::Taken { fence }),
            Remedy::Report => return Err(error.into()),
            Remedy::Again { after } => order.pause = order.patience.after(error, after)?,
            Remedy::RaiseFence => {
                order.pause = order.patience.after(error, None)?;
                if !is_old {
                    self.raise().await?;
                }
            }
        }
        self.waiting.push_front(order);
        self.start();
        Ok(())
    }

    fn is_done(&mut self, piece: u64) {
        let left = self.busy.get_mut(&piece).expect("its orders are counted");
        *left -= 1;
        if *left == 0 {
            self.busy.remove(&piece);
        }
    }

    /// From here on nothing takes effect that was sent before.
    async fn raise(&mut self) -> Result<(), UploadError> {
        let fence = self.fence;
        let to = fence.next().ok_or(UploadError::Taken { fence })?;
        let target = Arc::clone(&self.target);
        // To raise it twice to the same is to raise it once.
        let found = patience::ask(&self.config, || target.raise(to)).await?;
        if found != to {
            return Err(UploadError::Taken { fence: found });
        }
        self.fence = to;
        Ok(())
    }
}

impl UploadConfig {
    /// Asks what may be asked twice, until there is an answer or the patience ends.
    ///
    /// # Errors
    ///
    /// See [`UploadError`].
    pub async fn ask<T, F>(&self, request: impl FnMut() -> F) -> Result<T, UploadError>
    where
        F: Future<Output = Result<T, PageError>>,
    {
        patience::ask(self, request).await
    }

    /// Asks what may not be done twice: repeated only where it certainly was not carried out.
    ///
    /// # Errors
    ///
    /// See [`UploadError`].
    pub async fn ask_once<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T, UploadError>
    where
        F: Future<Output = Result<T, PageError>>,
    {
        let mut patience = Patience::new(self);
        loop {
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => match error.remedy() {
                    Remedy::Again { after } => {
                        tokio::time::sleep(patience.after(error, after)?).await;
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Makes a target that must not exist. Where an answer was lost, the fence tells whether what exists now is
    /// what was made here: choose one that nobody else would.
    ///
    /// # Errors
    ///
    /// See [`UploadError`].
    pub async fn create(
        &self,
        target: &dyn PageTarget,
        len: ByteLen,
        fence: Fence,
    ) -> Result<(), UploadError> {
        let mut patience = Patience::new(self);
        let mut is_unknown = false;
        loop {
            let error = match target.create(len, fence).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if is_unknown && matches!(error, PageError::Refused(Refusal::Exists)) {
                let found = self.ask(|| target.properties()).await?;
                let is_own = found.is_some_and(|found| found.fence == fence && found.len == len);
                return if is_own { Ok(()) } else { Err(error.into()) };
            }
            let after = match error.remedy() {
                Remedy::Again { after } => after,
                Remedy::RaiseFence => {
                    is_unknown = true;
                    None
                }
                Remedy::LookWhoLeads | Remedy::Report => return Err(error.into()),
            };
            tokio::time::sleep(patience.after(error, after)?).await;
        }
    }
}

impl What {
    /// Unit: bytes.
    const fn moves(&self) -> u64 {
        match self {
            Self::Put(pages) => pages.len().0,
            Self::Clear(_) => 0,
        }
    }
}

/// One request, once.
async fn attempt(target: Arc<dyn PageTarget>, order: Order, fence: Fence) -> Landed {
    if !order.pause.is_zero() {
        tokio::time::sleep(order.pause).await;
    }
    let outcome = match &order.what {
        What::Put(pages) => target.put(order.at, pages, fence).await,
        What::Clear(len) => target.clear(order.at, *len, fence).await,
    };
    Landed {
        order,
        fence,
        outcome,
    }
}

fn unless_panicked(landed: Result<Landed, tokio::task::JoinError>) -> Landed {
    landed.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("a request that is waited for was cancelled: {error}"),
    })
}

#[cfg(test)]
mod tests;
