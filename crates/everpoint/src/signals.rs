//! Signals that ask a process to end: the first asks it to drain, the second ends it at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Code, Failure};

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both signals over from now on.
    ///
    /// # Errors
    ///
    /// When the operating system does not give them.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::of(Code::Failed, &error).while_doing("signals");
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Waits for either. Cancel-safe.
    pub(crate) async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Does `draining` to its end, unless another signal comes meanwhile: then the process ends at once.
    pub(crate) async fn drain<T>(mut self, draining: impl Future<Output = T>) -> T {
        tokio::select! {
            drained = draining => drained,
            signal = self.received() => {
                tracing::warn!(signal, "a second signal: ended before everything was drained");
                std::process::exit(Code::Incomplete.number().into());
            }
        }
    }
}
