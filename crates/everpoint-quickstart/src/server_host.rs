//! A process server with threads of its own, so that it can be killed like a process.

use std::sync::Arc;
use std::time::Duration;

use everpoint_process_server::{Ended, ProcessServer, ProcessServerConfig, Stopped};
use tokio::runtime::{Builder, Runtime};

use crate::error::QuickstartError;

/// How long the threads of a killed server may take to end what they are in the middle of.
const THREADS_TIMEOUT: Duration = Duration::from_secs(10);

/// A running process server.
pub(crate) struct ServerHost {
    /// Before `runtime`, so that it goes first.
    server: Option<ProcessServer>,
    runtime: Option<Runtime>,
}

impl ServerHost {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// [`QuickstartError::Threads`], [`QuickstartError::Server`].
    pub(crate) async fn start(config: ProcessServerConfig) -> Result<Self, QuickstartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("process-server")
            .enable_all()
            .build()
            .map_err(QuickstartError::Threads)?;
        let started = runtime.spawn(ProcessServer::start(config));
        let mut host = Self {
            server: None,
            runtime: Some(runtime),
        };
        let started = started
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        host.server = Some(started.map_err(|error| QuickstartError::Server(Box::new(error)))?);
        Ok(host)
    }

    /// The server itself.
    pub(crate) fn server(&self) -> &ProcessServer {
        self.server
            .as_ref()
            .expect("it is there until it is stopped or killed")
    }

    /// Waits until the server ends by itself.
    pub(crate) async fn ended(&self) -> Arc<Ended> {
        self.server().ended().await
    }

    /// Drains and stops.
    pub(crate) async fn stop(&mut self) -> Stopped {
        let server = self
            .server
            .take()
            .expect("it is there until it is stopped or killed");
        let runtime = self.runtime.take().expect("as long as the server");
        let stopped = runtime.spawn(server.stop()).await;
        let stopped = stopped.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        end_threads(runtime).await;
        stopped
    }

    /// Ends it like a crash: its tasks are cut off where they stand and nothing is drained. Returns when
    /// its threads are gone, so that the next boot finds nobody.
    pub(crate) async fn kill(&mut self) {
        drop(self.server.take());
        if let Some(runtime) = self.runtime.take() {
            end_threads(runtime).await;
        }
    }
}

impl Drop for ServerHost {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn end_threads(runtime: Runtime) {
    let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(THREADS_TIMEOUT));
    ended
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
}
