//! A disk behind another NBD server, such as a qcow2 image behind qemu-storage-daemon.
//!
//! A connection that breaks fails what was in flight (nobody knows whether it was done) and is made
//! again by the next request, at most once a second. What was written and not flushed before may be
//! gone then: that counts as a loss, and the next flush fails. An export that comes back with another
//! size is another disk and is refused.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use everpoint_nbd::{
    ClientConfig, Errno, NbdAddress, NbdClient, RequestError, ZeroFlags, ZeroSupport,
};
use everpoint_units::{ByteLen, ByteOffset, Extent};
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::peer::{Epoch, Gone, Ledger, runs};
use super::{
    DiskSource, SourceError, SourceFacts, SourceIdentity, SourceOpenError, ZeroMode, check_size,
};
use crate::config::DiskConfig;
use crate::resync_core::Run;

/// How long a failed attempt to connect stands before the next one.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Longest request without payload. Unit: bytes, whole blocks of any size.
const PLAIN_LEN_MAX: u64 = 1 << 30;

/// See the module.
pub(crate) struct NbdSource {
    address: NbdAddress,
    facts: SourceFacts,
    /// Whether the export makes zeroes, so that a discard can be passed on as zeroes.
    zeroes: ZeroSupport,
    payload_max: u64,
    has_status: bool,
    client: Mutex<Connection>,
    /// Held for a few additions, never while waiting.
    ledger: std::sync::Mutex<Ledger>,
    guest: Handle,
}

struct Connection {
    client: Option<Arc<NbdClient>>,
    tried_at: Instant,
}

/// A connection to use for one request.
struct Used {
    client: Arc<NbdClient>,
    epoch: Epoch,
}

impl NbdSource {
    pub(crate) async fn open(
        config: &DiskConfig,
        address: NbdAddress,
        guest: Handle,
    ) -> Result<Self, SourceOpenError> {
        let source_name = config.source.clone();
        let client = match connect(&guest, &address).await {
            Ok(client) => client,
            Err(source) => {
                return Err(SourceOpenError::Connect {
                    source_name,
                    source,
                });
            }
        };
        let info = client.info().clone();
        if info.read_only {
            return Err(SourceOpenError::ReadOnly { source_name });
        }
        if !client.can_flush() {
            return Err(SourceOpenError::NoFlush { source_name });
        }
        let own = if info.blocks.min() <= 512 { 512 } else { 4_096 };
        let block_size = config.block_size.unwrap_or(own);
        if block_size < info.blocks.min() {
            return Err(SourceOpenError::BlockSize {
                source_name,
                needed: info.blocks.min(),
            });
        }
        check_size(config, info.size, block_size)?;
        let payload_max = u64::from(info.blocks.payload_max());
        Ok(Self {
            address,
            facts: SourceFacts {
                size: info.size,
                block_size,
                zeroes_fast: info.zeroes == ZeroSupport::Fast,
            },
            zeroes: info.zeroes,
            payload_max: payload_max / u64::from(block_size) * u64::from(block_size),
            has_status: client.has_block_status(),
            client: Mutex::new(Connection {
                client: Some(Arc::new(client)),
                tried_at: Instant::now(),
            }),
            ledger: std::sync::Mutex::default(),
            guest,
        })
    }

    /// The connection, made anew if the last one was lost.
    async fn client(&self) -> Result<Used, SourceError> {
        let mut connection = self.client.lock().await;
        if let Some(client) = &connection.client {
            return Ok(self.used(client));
        }
        if connection.tried_at.elapsed() < RECONNECT_PAUSE {
            return Err(SourceError::NbdGone);
        }
        connection.tried_at = Instant::now();
        match connect(&self.guest, &self.address).await {
            Ok(client) if client.info().size == self.facts.size => {
                tracing::info!(address = %self.address, "connected to the NBD source again");
                let client = Arc::new(client);
                connection.client = Some(Arc::clone(&client));
                self.ledger().reconnected();
                Ok(self.used(&client))
            }
            Ok(client) => {
                let (found, wanted) = (client.info().size, self.facts.size);
                tracing::error!(address = %self.address, %found, %wanted, "the NBD source has another size");
                Err(SourceError::NbdGone)
            }
            Err(error) => {
                tracing::warn!(address = %self.address, %error, "cannot reach the NBD source");
                Err(SourceError::NbdGone)
            }
        }
    }

    /// The current connection; its number changes only while it is locked, as it is here.
    fn used(&self, client: &Arc<NbdClient>) -> Used {
        let client = Arc::clone(client);
        let epoch = self.ledger().epoch();
        Used { client, epoch }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `used` is of no more use, if that is what the error says.
    async fn failed(&self, used: &Used, error: RequestError) -> SourceError {
        if matches!(error, RequestError::Disconnected(_)) {
            let mut connection = self.client.lock().await;
            let current = connection.client.as_ref();
            if current.is_some_and(|current| Arc::ptr_eq(current, &used.client)) {
                connection.client = None;
            }
        }
        SourceError::Nbd(error)
    }

    /// Cuts `extent` into requests of at most `len_max` bytes.
    fn pieces(extent: Extent, len_max: u64) -> impl Iterator<Item = (ByteOffset, u32)> {
        let (start, end) = (extent.start().byte_offset().0, extent.end().byte_offset().0);
        let step = usize::try_from(len_max).expect("at most 1 GiB");
        (start..end).step_by(step).map(move |at| {
            let len = u32::try_from((end - at).min(len_max)).expect("at most 1 GiB");
            (ByteOffset(at), len)
        })
    }

    /// Writes `extent` in pieces of at most `len_max` bytes, which `piece` has.
    async fn write_pieces(
        &self,
        extent: Extent,
        len_max: u64,
        mut piece: impl FnMut(usize) -> Bytes + Send,
    ) -> Result<(), SourceError> {
        let used = self.client().await?;
        self.ledger().begin_change();
        for (at, len) in Self::pieces(extent, len_max) {
            let piece = piece(usize::try_from(len).expect("32 bits"));
            if let Err(error) = used.client.write(at, piece, false).await {
                return Err(self.failed(&used, error).await);
            }
        }
        Ok(self.ledger().end_change(used.epoch)?)
    }

    async fn write_zeroes(&self, extent: Extent, flags: ZeroFlags) -> Result<(), SourceError> {
        let used = self.client().await?;
        self.ledger().begin_change();
        for (at, len) in Self::pieces(extent, PLAIN_LEN_MAX) {
            let Err(error) = used.client.write_zeroes(at, len, flags).await else {
                continue;
            };
            let refused = matches!(error, RequestError::Server(Errno::NotSup));
            let untouched = at == extent.start().byte_offset();
            // A peer that is fast at times may say so each time, having changed nothing.
            if flags.fast_only && refused && untouched {
                return Err(SourceError::NotFast);
            }
            return Err(self.failed(&used, error).await);
        }
        Ok(self.ledger().end_change(used.epoch)?)
    }
}

impl From<Gone> for SourceError {
    fn from(_: Gone) -> Self {
        Self::NbdGone
    }
}

async fn connect(
    guest: &Handle,
    address: &NbdAddress,
) -> Result<NbdClient, everpoint_nbd::ConnectError> {
    let address = address.clone();
    // The client's own tasks belong to the guests' threads, whoever asks first.
    let connecting = guest.spawn(async move {
        let config = ClientConfig::default();
        NbdClient::connect(&address, &config).await
    });
    connecting
        .await
        .unwrap_or(Err(everpoint_nbd::ConnectError::Closed))
}

impl DiskSource for NbdSource {
    fn facts(&self) -> &SourceFacts {
        &self.facts
    }

    fn write_now(&self, _: Extent, _: &Bytes) -> Option<Result<(), SourceError>> {
        None
    }

    fn read_now(&self, _: Extent) -> Option<Result<Bytes, SourceError>> {
        None
    }

    fn write(&self, extent: Extent, mut data: Bytes) -> BoxFuture<'_, Result<(), SourceError>> {
        let piece = move |len| data.split_to(len);
        Box::pin(self.write_pieces(extent, self.payload_max, piece))
    }

    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        Box::pin(async move {
            let used = self.client().await?;
            let mut pieces = Vec::new();
            for (at, len) in Self::pieces(extent, self.payload_max) {
                match used.client.read(at, len).await {
                    Ok(piece) => pieces.push(piece),
                    Err(error) => return Err(self.failed(&used, error).await),
                }
            }
            if pieces.len() == 1 {
                return Ok(pieces.remove(0));
            }
            let mut whole = BytesMut::new();
            pieces
                .iter()
                .for_each(|piece| whole.extend_from_slice(piece));
            Ok(whole.freeze())
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            let asked = self.ledger().ask_flush();
            let used = self.client().await?;
            let flushing = self.ledger().begin_flush(asked)?;
            if let Err(error) = used.client.flush().await {
                return Err(self.failed(&used, error).await);
            }
            self.ledger().end_flush(flushing);
            Ok(())
        })
    }

    fn zero(&self, extent: Extent, how: ZeroMode) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            if how.fast_only && self.zeroes != ZeroSupport::Fast {
                return Err(SourceError::NotFast);
            }
            if self.zeroes != ZeroSupport::None {
                let flags = ZeroFlags {
                    no_hole: !how.may_discard,
                    fast_only: how.fast_only,
                    fua: false,
                };
                return self.write_zeroes(extent, flags).await;
            }
            let len_max = self.payload_max.min(1 << 20);
            let zeroes = Bytes::from(vec![0; usize::try_from(len_max).expect("at most 1 MiB")]);
            let piece = move |len| zeroes.slice(..len);
            self.write_pieces(extent, len_max, piece).await
        })
    }

    /// A trim promises nothing about what is read afterwards; zeroes that may be holes do.
    fn discard(&self, extent: Extent) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            if self.zeroes == ZeroSupport::None {
                return Ok(false);
            }
            self.write_zeroes(extent, ZeroFlags::default()).await?;
            Ok(true)
        })
    }

    fn allocation(&self, extent: Extent) -> BoxFuture<'_, Result<Vec<Run>, SourceError>> {
        Box::pin(async move {
            let data = Run {
                extent,
                hole: false,
            };
            if !self.has_status {
                return Ok(vec![data]);
            }
            let used = self.client().await?;
            let at = extent.start().byte_offset();
            let len = ByteLen(extent.byte_len().0.min(PLAIN_LEN_MAX));
            let len = u32::try_from(len.0).expect("at most 1 GiB");
            match used.client.block_status(at, len).await {
                Ok(found) => Ok(runs(extent, self.facts.block_size, &found)),
                Err(error) => Err(self.failed(&used, error).await),
            }
        })
    }

    fn losses(&self) -> u64 {
        self.ledger().losses()
    }

    fn identity(&self) -> Result<Option<SourceIdentity>, SourceError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
