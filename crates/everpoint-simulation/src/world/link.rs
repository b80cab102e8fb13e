//! Connections: messages arrive whole and in order, or not at all; each side learns of the end in its own
//! time.

use bytes::Bytes;
use everpoint_transport::CloseReason;
use everpoint_units::{DiskId, Moment};
use everpoint_wire::{Compare, Hello, ToAgent};

/// Which connection, counted from the first.
pub(crate) type LinkId = usize;

/// One end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Agent,
    Server,
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Hello(Hello),
    /// The answer to the hello.
    Greeting(ToAgent),
    OpenDisk(DiskId),
    Block(DiskId, Bytes),
    Compare(DiskId, Compare),
    /// What the server says on a disk's stream.
    Said(DiskId, ToAgent),
}

/// A connection of the agent with a server.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) server: usize,
    /// Which life of the agent and of the server it belongs to.
    pub(crate) agent_life: u32,
    pub(crate) server_life: u32,
    pub(crate) open_at_agent: bool,
    pub(crate) open_at_server: bool,
    /// Nothing sent from then on arrives.
    pub(crate) broken: bool,
    /// The last arrival on its way to each side: later ones do not overtake it.
    last: [Moment; 2],
}

impl Link {
    /// A new connection.
    pub(crate) const fn new(server: usize, agent_life: u32, server_life: u32) -> Self {
        Self {
            server,
            agent_life,
            server_life,
            open_at_agent: true,
            open_at_server: true,
            broken: false,
            last: [Moment(0); 2],
        }
    }

    /// When a message that would be there at `at` arrives, behind those before it.
    pub(crate) fn arrival(&mut self, to: Side, at: Moment) -> Moment {
        let last = &mut self.last[to as usize];
        *last = at.max(Moment(last.0 + 1));
        *last
    }

    /// Whether a side still listens.
    pub(crate) const fn is_open(&self, side: Side) -> bool {
        match side {
            Side::Agent => self.open_at_agent,
            Side::Server => self.open_at_server,
        }
    }

    /// A side listens no more; false if it did not.
    pub(crate) const fn close(&mut self, side: Side) -> bool {
        let open = match side {
            Side::Agent => &mut self.open_at_agent,
            Side::Server => &mut self.open_at_server,
        };
        std::mem::replace(open, false)
    }
}

impl Side {
    /// The other one.
    #[must_use]
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Agent => Self::Server,
            Self::Server => Self::Agent,
        }
    }
}

/// Why a connection ended, as a side hears it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// The other side closed it.
    Closed(CloseReason),
    /// Nothing comes any more.
    Lost,
}
