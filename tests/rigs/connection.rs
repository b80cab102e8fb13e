//! A guest's connection to its disk, made anew when the agent was restarted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use everpoint_nbd::{ClientConfig, ConnectError, NbdAddress, NbdClient, Remedy, ZeroFlags};
use everpoint_units::ByteOffset;
use tokio::sync::RwLock;

use crate::rigs::wait::Patience;

/// How long an agent may be away.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub struct Connection {
    address: NbdAddress,
    client: RwLock<Arc<NbdClient>>,
}

/// What a guest asks of its disk.
#[derive(Clone, Debug)]
pub enum Request {
    Write(ByteOffset, Bytes),
    /// Zeroes from an offset on. Unit of the length: bytes.
    Zero(ByteOffset, u32),
    Discard(ByteOffset, u32),
}

/// How a request ended that was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// It is done.
    Done,
    /// The connection was lost, and there is a new one; nobody knows whether the request was done.
    Unknown,
}

impl Connection {
    /// Connects; waits for an agent that is being started.
    ///
    /// # Errors
    ///
    /// When nobody listens for a minute, or the export is not served.
    pub async fn open(address: &NbdAddress) -> Result<Self> {
        let client = connect(address).await?;
        Ok(Self {
            address: address.clone(),
            client: RwLock::new(Arc::new(client)),
        })
    }

    /// The present connection.
    pub async fn client(&self) -> Arc<NbdClient> {
        Arc::clone(&*self.client.read().await)
    }

    /// Does a request; connects anew if the connection was lost over it.
    ///
    /// # Errors
    ///
    /// What the disk answered, or that the agent did not come back.
    pub async fn send(&self, request: Request) -> Result<Sent> {
        let client = self.client().await;
        let answered = match request {
            Request::Write(at, data) => client.write(at, data, false).await,
            Request::Zero(at, len) => client.write_zeroes(at, len, ZeroFlags::default()).await,
            Request::Discard(at, len) => client.trim(at, len, false).await,
        };
        match answered {
            Ok(()) => Ok(Sent::Done),
            Err(error) if error.remedy() == Remedy::Reconnect => {
                self.renew(&client).await?;
                Ok(Sent::Unknown)
            }
            Err(error) => Err(error).context("the disk failed a request"),
        }
    }

    /// Replaces a connection that was lost, unless another request has done so already.
    async fn renew(&self, lost: &Arc<NbdClient>) -> Result<()> {
        let mut client = self.client.write().await;
        if Arc::ptr_eq(&client, lost) {
            *client = Arc::new(connect(&self.address).await?);
        }
        Ok(())
    }
}

async fn connect(address: &NbdAddress) -> Result<NbdClient> {
    let patience = Patience::new(AWAY_MAX);
    loop {
        match NbdClient::connect(address, &ClientConfig::default()).await {
            Ok(client) => return Ok(client),
            // An agent that is being started may listen before it has opened its disks.
            Err(ConnectError::UnknownExport) => {}
            Err(error) if error.remedy() == Remedy::Reconnect => {}
            Err(error) => return Err(error).with_context(|| address.to_string()),
        }
        patience.pause("an NBD connection").await?;
    }
}
